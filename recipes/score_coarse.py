# SPDX-License-Identifier: Apache-2.0
"""Judge coarse stages by what they play from the true semantic tokens of held-out songs.

    python recipes/score_coarse.py SONGS TOKENS RUN_FLAT/coarse RUN_DELAY/coarse --out SCORES

SONGS is what build_song_corpus.py rendered and TOKENS what `hafm prepare` made of it. For each stage: nats a frame of
the codec with the song's own conditioning and what another song's costs more, in crops as long as the stage's windows;
then its accompaniments of whole clips, decoded from its codebooks alone, scored against the true ones, matched minus
shuffled. OUT gets the sounds, for measures of timbre, and scores.json.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from accelerate import Accelerator
from hafm_hf import audio
from hafm_hf.evaluation.datasets import Clip, Part, load_corpus_split
from hafm_hf.evaluation.features import ANALYSIS_RATE, Features, extract
from hafm_hf.evaluation.scores import score_pair
from hafm_hf.modeling.modeling_hafm import HAFMCoarseForCausalLM
from hafm_hf.modeling.sampling import RandomStream
from hafm_hf.modeling.windows import DecodingOptions, SongRow, StageRun, independent_windows
from hafm_hf.pretrained.loading import BUNDLED_MODEL
from hafm_hf.tokenizers.codecs import Codec, load_codec
from hafm_hf.training.arguments import DataArguments
from hafm_hf.training.data import TokenCrops, load_token_corpus
from hafm_hf.training.objective import clustered_mean, other_tracks
from hafm_hf.training.validation import validate_stage

SHOWN = ("pitch_class_share", "chord_changes_shared", "onset_agreement", "onsets_shared", "beat_agreement")


def play(stage: HAFMCoarseForCausalLM, codec: Codec, crops: Sequence[torch.Tensor], seed: int) -> list[np.ndarray]:
    """What a stage plays for conditioning streams (int64 [K, T_c] each, all of one length): float32 [N] each."""
    config = stage.config
    unit = math.gcd(config.conditioning_frame_rate, config.frame_rate)
    units = crops[0].shape[1] * unit // config.conditioning_frame_rate
    rows = [SongRow(units, RandomStream(seed, 1, number)) for number in range(len(crops))]
    run = StageRun(stage, rows, 1 / unit, DecodingOptions("fast"), independent_windows(stage))
    run.run(list(crops))
    return [codec.decode(run.codes(row)[None])[0].mean(0).numpy() for row in range(len(crops))]


def in_sound(played: Sequence[Features], voices: Sequence[Features], songs: Sequence[Features], tracks: list[str],
             seed: int) -> dict[str, Any]:  # fmt: skip
    """Scores of accompaniments, matched minus those with another song's voice and accompaniment: mean and error."""
    others = other_tracks(tracks)
    found = [
        {name: own[name] - other[name] for name in SHOWN}
        for own, other in (
            (score_pair(voices[n], songs[n], each), score_pair(voices[others[n]], songs[others[n]], each))
            for n, each in enumerate(played)
        )
    ]
    estimates: dict[str, dict[str, Any]] = {}
    for name in SHOWN:
        # where less than a second is sung there is no share of its pitch classes
        scored = [(row[name], track) for row, track in zip(found, tracks, strict=True) if math.isfinite(row[name])]
        estimate = clustered_mean(torch.tensor([each for each, _ in scored]), [track for _, track in scored])
        estimates[name] = {"mean": estimate.mean, "error": estimate.error, "clips": len(scored)}
    return estimates


def in_nats(stage: HAFMCoarseForCausalLM, tokens: Path, split: str, crops: int) -> dict[str, float]:
    """Nats a frame in crops as long as the stage's windows, and what another song's conditioning costs more."""
    seconds = float(stage.config.window_seconds)
    corpus = TokenCrops(*load_token_corpus(str(tokens), split), stage.config, seconds)
    data = DataArguments(corpus=str(tokens), crop_seconds=seconds, validation_crops=crops, validation_batch=4)
    metrics: Any = validate_stage(stage, corpus, data, Accelerator(cpu=True))
    codebooks = stage.config.num_codebooks
    keys = ("matched", "paired_difference", "paired_difference_error")
    return {"window_seconds": seconds, **{key: codebooks * metrics[key] for key in keys}}


def features(part: Part | None, start: float, seconds: float, voice: bool = False) -> Features:
    """Of a stretch of a recording, with its pitch where it is a voice."""
    assert part is not None
    return extract(audio.resample(*replace(part, start=start, seconds=seconds).read(), ANALYSIS_RATE), voice=voice)


def main(
    songs: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="What build_song_corpus.py wrote.")],
    tokens: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The token corpus of it.")],
    stages: Annotated[list[Path], typer.Argument(help="Folders of coarse stages.")],
    out: Annotated[Path, typer.Option(help="For the sounds and scores.json.")],
    codec: Annotated[Path, typer.Option(help="That the tokens are of.")] = BUNDLED_MODEL / "codec",
    split: str = "validation",
    clips: Annotated[int, typer.Option(min=2)] = 24,
    seconds: Annotated[float, typer.Option(min=2.0, help="Of a clip.")] = 10.0,
    crops: Annotated[int, typer.Option(min=2, help="Whose nats are counted.")] = 96,
    seed: int = 0,
) -> None:
    """Judges STAGES on the split of a corpus."""
    decoder = load_codec(codec)
    corpus, info = load_token_corpus(str(tokens), split)
    by_track: dict[str, Clip] = {
        clip.name.partition("@")[0].rsplit("__")[-1]: clip for clip in load_corpus_split(tokens, split, songs / split)
    }
    report: dict[str, Any] = {}
    for folder in stages:
        stage = HAFMCoarseForCausalLM.from_pretrained(folder).eval()
        cut = TokenCrops(corpus, info, stage.config, seconds)
        chosen = cut.fixed_crops(clips)
        tracks = cut.tracks(chosen)
        sounds = play(stage, decoder, [cut.read(crop)["conditioning_ids"] for crop in chosen], seed)
        rate, played, voices, references = decoder.format.sampling_rate, [], [], []
        for crop, track, sound in zip(chosen, tracks, sounds, strict=True):
            clip = by_track[Path(track).name]
            start = float(crop.start * info.grid)
            voices.append(features(clip.vocal, start, seconds, voice=True))
            references.append(features(clip.reference, start, seconds))
            played.append(extract(audio.resample(sound, rate, ANALYSIS_RATE)))
            audio.write_audio(out / folder.parent.name / f"{Path(track).name}@{start:g}.wav", sound, rate)
        name = folder.parent.name
        report[name] = {
            "pattern": stage.config.codebook_pattern,
            **in_nats(stage, tokens, split, crops),
            "in sound": in_sound(played, voices, references, tracks, seed),
        }
        typer.echo(json.dumps({name: report[name]}))
        (out / "scores.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
