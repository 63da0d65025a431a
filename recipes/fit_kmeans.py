# SPDX-License-Identifier: Apache-2.0
"""Fit the k-means of a semantic tokenizer to one HuBERT layer, with shared or separate clusters for vocals and bands.

    python recipes/fit_kmeans.py SONGS TOKENIZER --hubert RUN/hubert --layer 5 --split-by folder
    python recipes/fit_kmeans.py STEMS TOKENIZER --hubert facebook/hubert-large-ll60k --artist-pattern "^([^/]*)/"

MiniBatchKMeans (k-means++) is fitted to a sample of frames of random songs of the training split. TOKENIZER can be
loaded with HAFMSemanticTokenizerModel.from_pretrained; figures.json is beside the weights. Give the same split options
as for `hafm prepare`, including --artist-pattern, or songs held out there are used here. A killed run resumes.
"""

import copy
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn
from tqdm import tqdm
from transformers import HubertConfig, HubertModel

from feature_clusters import Reservoir, SamplingOptions, fit_clusters, sample_features
from hafm_hf.cli.prepare import ArtistPattern, SplitBy, Test, Validation, VocalChannel
from hafm_hf.corpus.filtering import FilterOptions
from hafm_hf.corpus.stems import StemOptions, StemReader
from hafm_hf.corpus.tokenizing import torch_device
from hafm_hf.corpus.tracks import SplitOptions
from hafm_hf.tokenizers.configuration_semantic_tokenizer import HAFMSemanticTokenizerConfig
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel, cut_hubert_config
from running import run_recipe

SAMPLE_FILE = "sample.npz"
# weights that HuBERT checkpoints have in addition to the network: heads for pre-training and speech recognition, and
# the embedding of masked frames
KNOWN_EXTRA_KEYS = re.compile(
    r"^(hubert\.)?(lm_head|final_proj|label_embs_concat|quantizer|project_q|project_hid|masked_spec_embed)\b"
)


def main(
    audio: Annotated[Path, typer.Argument(help="Folder of songs, as for hafm prepare.")],
    tokenizer: Annotated[Path, typer.Argument(help="Folder for the semantic tokenizer.")],
    hubert: Annotated[str, typer.Option(help="Hub id or folder of a HuBERT.")],
    split_by: SplitBy = "hash",
    validation: Validation = 0.05,
    test: Test = 0.05,
    artist_pattern: ArtistPattern = "",
    vocal_channel: VocalChannel = None,
    layer: Annotated[int, typer.Option(help="Hidden state to cluster.")] = 9,
    clusters: Annotated[int, typer.Option(min=2)] = 500,
    frames: Annotated[
        int, typer.Option(min=1, help="Sample size; 1,024 float32 values per frame in the paper.")
    ] = 200_000,
    max_tracks: Annotated[int, typer.Option(min=0, help="0 for all.")] = 1000,
    segment_seconds: Annotated[float, typer.Option(min=1.0)] = 12.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    separate: Annotated[bool, typer.Option(help="Fit separate clusters for vocals and for instrumentals.")] = False,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    half: Annotated[bool, typer.Option("--half", help="Save the weights in float16.")] = False,
    seed: int = 0,
) -> None:
    """Fits centroids to songs in AUDIO and saves the tokenizer."""
    if (tokenizer / "figures.json").is_file():
        typer.echo(f"{tokenizer} is finished, and corpora and stages depend on it; name another folder for a new one.")
        return
    torch.set_num_threads(threads)
    model = tokenizer_from_hubert(hubert, layer=layer, num_clusters=clusters, separate_centroids=separate)
    model.to(torch_device(device))
    tokenizer.mkdir(parents=True, exist_ok=True)
    # the sample so far, from which a killed run resumes; deleted at the end
    sample_file = tokenizer / SAMPLE_FILE
    # vocals and instrumentals share one reservoir unless they get separate clusters
    reservoirs = [Reservoir(frames, seed) for _ in range(2 if separate else 1)]
    with tqdm(desc="songs", unit="song") as bar:

        def progress(done: int, total: int) -> None:
            """Shows how many of the songs have been sampled."""
            bar.total = total
            bar.update(done - bar.n)

        tracks = sample_features(
            model,
            audio,
            StemReader(StemOptions(vocal_channel or "")),
            reservoirs[0],
            reservoirs[-1],
            SamplingOptions(max_tracks, segment_seconds, seed=seed),
            SplitOptions(split_by, validation, test, artist_pattern),
            FilterOptions(),
            progress,
            sample_file,
        )
    fitted = [fit_clusters(reservoir.rows, clusters, seed) for reservoir in reservoirs]
    # [k, D], or [2, k, D] for vocals and instrumentals
    model.centroids.copy_(torch.stack([torch.from_numpy(centroids) for centroids, _ in fitted]).squeeze(0))
    prefixes = ("vocal_", "instrumental_") if separate else ("",)
    figures: dict[str, Any] = {}
    for prefix, (_, quality), reservoir in zip(prefixes, fitted, reservoirs, strict=True):
        figures |= {f"{prefix}{key}": value for key, value in quality.items()}
        figures[f"{prefix}frames_seen"] = reservoir.seen
    figures["tracks"] = tracks
    if half:
        model.half()
    model.save_pretrained(tokenizer)
    (tokenizer / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    sample_file.unlink(missing_ok=True)
    typer.echo(json.dumps(figures))


def tokenizer_from_hubert(
    name_or_path: str | os.PathLike[str], layer: int = 9, **kwargs: Any
) -> HAFMSemanticTokenizerModel:
    """A tokenizer from the first `layer` layers of a HuBERT, without centroids; later layers are never allocated.

    HuBERT-Large was published as a pickle, which transformers loads with `weights_only=True`, so that no code in it
    runs; saving the tokenizer writes safetensors.

    Args:
        name_or_path: hub id such as `facebook/hubert-large-ll60k`, or a folder.
        layer: hidden state to cluster (paper: 9).
        kwargs: fields of HAFMSemanticTokenizerConfig; all others (`revision`, `token` …) go to `from_pretrained`.

    Raises:
        ValueError: the checkpoint doesn't have the layer, or weights are missing or unknown.
    """
    fields = {name: kwargs.pop(name) for name in list(kwargs) if name in HAFMSemanticTokenizerConfig.__annotations__}
    whole_config = HubertConfig.from_pretrained(name_or_path, **kwargs)
    hubert, info = HubertModel.from_pretrained(
        name_or_path,
        config=cut_hubert_config(whole_config, layer),
        output_loading_info=True,
        dtype=torch.float32,
        **kwargs,
    )
    check_loading(str(name_or_path), info, layer)
    # HuBERTs with group norm were trained on waveforms that were not normalised
    fields.setdefault("do_normalize", whole_config.feat_extract_norm == "layer")
    config = HAFMSemanticTokenizerConfig(hubert_config=copy.deepcopy(hubert.config), layer=layer, **fields)
    model = HAFMSemanticTokenizerModel(config)
    if hubert.config.do_stable_layer_norm:
        # HuBERT normalises only after its last layer; HAFMSemanticTokenizerModel has no such norm either
        hubert.encoder.layer_norm = nn.Identity()
    model.hubert = hubert
    return model.eval()


def check_loading(name: str, info: dict[str, Any], layer: int) -> None:
    """Rejects a checkpoint that lacks weights of the truncated network or has unknown ones.

    Args:
        name: of the checkpoint, for the message.
        info: transformers' `loading_info`.
        layer: number of layers that are kept; the checkpoint may have more.

    Raises:
        ValueError: naming the keys.
    """
    layer_key = re.compile(r"^(hubert\.)?encoder\.layers\.(\d+)\.")

    def is_not_needed(key: str) -> bool:
        """Whether a key is of a later layer, or of a part that HuBERT checkpoints have in addition to the network."""
        in_layer = layer_key.match(key)
        return bool(KNOWN_EXTRA_KEYS.match(key) or (in_layer and int(in_layer.group(2)) >= layer))

    problems = [f"missing {key}" for key in info["missing_keys"]]
    problems += [f"unexpected {key}" for key in info["unexpected_keys"] if not is_not_needed(key)]
    problems += [f"of another shape {key}" for key in info["mismatched_keys"]]
    if problems:
        raise ValueError(f"{name} is not a HuBERT of its own configuration; weights: {', '.join(sorted(problems))}.")


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
