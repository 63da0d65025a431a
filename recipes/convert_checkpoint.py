# SPDX-License-Identifier: Apache-2.0
"""Converts the checkpoints that HAFM's authors published to a complete model of this package, in one command.

    python recipes/convert_checkpoint.py zhuqijian/HAFM hafm-base --pairs SONGS
    python recipes/convert_checkpoint.py FOLDER hafm-base --pairs SONGS --hubert HUBERT --codec ENCODEC
    python recipes/convert_checkpoint.py zhuqijian/HAFM hafm-base --assume-paper

SONGS holds at least two real songs with their vocals and accompaniments apart, as for `hafm prepare`; by how likely
the stages find their tokens, it settles what the files leave open. `--assume-paper` skips that. The files are read
without running any code in them. `--mapping` says which tensor is which weight, where the script cannot find out
(`original_hafm/mapping.py` shows the format).

Built from published facts, tested on checkpoints of the same layout, never run on the published files themselves.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
import yaml

from hafm_hf import HAFMForVocalAccompaniment
from hafm_hf.accompaniment.parts import stage_parts
from hafm_hf.corpus.tokenizing import TokenizerOptions, Tokenizers
from hafm_hf.pretrained.model_card import CardFacts
from original_hafm.download import Files, published_files
from original_hafm.evidence import CROP_SECONDS, Candidate, Search, Verdict, crops_of, described, read_pairs, tokenized
from original_hafm.kmeans import read_kmeans
from original_hafm.layout import PAPER, TABLES, TARGETS
from original_hafm.mapping import assembled, map_keys, stage_config
from original_hafm.reading import Checkpoint, read_checkpoint
from original_hafm.tokenizer import LAYERS, ChosenTokenizer, choose_tokenizer, proposed_hubert, tokenizer_of
from original_hafm.writing import STAGES, STATE, write_card, write_model
from running import run_recipe

CODEC = "facebook/encodec_24khz"


def main(
    original: Annotated[str, typer.Argument(help="Hub id or folder with ar_semantic, ar_coarse, ar_fine, k-means.")],
    out: Annotated[Path, typer.Argument(help="Folder for the model.", file_okay=False)],
    pairs: Annotated[Path | None, typer.Option(help="Folder of real songs, as for hafm prepare.")] = None,
    assume_paper: Annotated[bool, typer.Option(help="Take the paper's layout without evidence.")] = False,
    hubert: Annotated[list[str] | None, typer.Option(help="Hub id or folder of a HuBERT; repeatable.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Its hidden state to try; repeatable.")] = None,
    codec: Annotated[str, typer.Option(help="Hub id or folder of EnCodec at 24 kHz.")] = CODEC,
    mapping: Annotated[Path | None, typer.Option(help="YAML file that maps our weights to theirs.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of the hub's repository.")] = None,
    push_to_hub: Annotated[str | None, typer.Option(help="Hub id to upload the model to.")] = None,
) -> None:
    """Converts the checkpoints ORIGINAL to the model OUT, uploads it if asked to, and prints what to do next."""
    try:
        convert(original, out, pairs, assume_paper, hubert or [], layer or [], codec, mapping, revision)
    except ValueError as error:
        # `run_recipe` reports the first line only; the others hold tables for whoever writes a mapping or an issue
        sentence, _, details = str(error).partition("\n")
        if details:
            typer.echo(details, err=True)
        raise ValueError(sentence) from error
    if push_to_hub:
        commit = HAFMForVocalAccompaniment.from_pretrained(out).push_to_hub(push_to_hub)
        typer.echo(f"uploaded to {commit.repo_url}")
    model = push_to_hub or out
    typer.echo(
        f"Next:\n  hafm info {model}\n  hafm accompany vocal.wav --model {model} --out songs\n"
        f"  hafm evaluate --protocol musdb18 MUSDB18 --model {model} --out report"
    )


def convert(
    original: str,
    out: Path,
    pairs: Path | None,
    assume_paper: bool,
    huberts: list[str],
    layers: list[int],
    codec: str,
    mapping: Path | None,
    revision: str | None,
) -> Verdict:
    """Converts checkpoints and writes a model with its card; prints each step.

    Args:
        original: hub id or folder of the checkpoints.
        out: folder for the model.
        pairs: folder of real songs, as for `hafm prepare`; None only with `assume_paper`.
        assume_paper: whether to take the paper's layout without evidence.
        huberts: hub ids or folders of HuBERTs to try; empty: the one that the k-means suggests.
        layers: hidden states to try; empty: `LAYERS`.
        codec: hub id or folder of EnCodec at 24 kHz.
        mapping: YAML file that maps our weights to theirs (`original_hafm/mapping.py`).
        revision: of the hub's repository.

    Returns:
        The chosen layout with its evidence; the paper's without any if that was assumed.

    Raises:
        ValueError: the files are not what they should be, or nothing fits; the lines after the first are details for
            a report.
        OSError: a HuBERT or codec cannot be loaded.
    """
    if (pairs is None) != assume_paper:
        raise ValueError(
            "Give either --pairs FOLDER, a few real songs whose voice and band are apart, or --assume-paper."
        )
    stated_mappings: dict[str, Any] = {}  # by stage
    if mapping is not None:
        stated_mappings = yaml.safe_load(mapping.read_text(encoding="utf-8")) or {}
    files = published_files(original, revision)
    typer.echo(_about(files))

    kmeans = read_kmeans(files.kmeans)
    huberts = huberts or [proposed_hubert(kmeans)]
    layers = layers or list(LAYERS)
    segments = [] if pairs is None else read_pairs(pairs)
    if assume_paper:
        model = tokenizer_of(kmeans, huberts[0], layers[0])
        tokenizer = ChosenTokenizer(model, huberts[0], [], decided=False)
    else:
        tokenizer = choose_tokenizer(kmeans, huberts, layers, segments, typer.echo)
    typer.echo(f"semantic tokenizer: {tokenizer.description}")

    checkpoints = {}
    stages = {}
    for name, path in files.stages.items():
        checkpoints[name] = read_checkpoint(path)
        stages[name] = candidate(name, checkpoints[name], stated_mappings.get(name))
        remarks = " ".join(checkpoints[name].remarks)
        typer.echo(f"{name}: {stages[name].model.num_parameters():,} parameters. {remarks}".rstrip())

    if assume_paper:
        verdict = Verdict(PAPER)
        for stage in stages.values():
            stage.lay_out(PAPER)
    else:
        verdict = settle(stages, tokenizer, codec, segments)
        typer.echo(described(verdict))
        report = _report(files, checkpoints, tokenizer, verdict)
        if verdict.faults:
            raise ValueError(
                f"Nothing fits: {'; '.join(verdict.faults)}. Either the tokens are not those that it was trained on "
                "(another HuBERT, k-means or codec), or its layout is none of those that are tried; please report "
                f"what follows.\n{report}"
            )

    write_model(out, tokenizer.model, codec, {name: stage.model for name, stage in stages.items()})
    sources = {STAGES: original, "HuBERT": tokenizer.hubert, "codec": codec}
    write_card(out, sources, card_facts(files, checkpoints, tokenizer, verdict, assume_paper))
    typer.echo(f"wrote {out}")
    return verdict


def candidate(name: str, checkpoint: Checkpoint, stated: dict[str, Any] | None = None) -> Candidate:
    """A stage for the search for a layout (`evidence.Search`): the original's weights, by our names.

    Args:
        name: semantic, coarse or fine.
        checkpoint: the stage's.
        stated: the stage's part of a mapping file.

    Raises:
        ValueError: a tensor is left over, or a weight is not filled.
    """
    mapping = map_keys(name, checkpoint.tensors, stated)
    shapes = {key: tuple(value.shape) for key, value in checkpoint.tensors.items()}
    model = stage_parts()[name].model_class(stage_config(name, mapping, shapes)).eval()
    moments = checkpoint.second_moments
    # whether the last row of each table, the mask or BOS, was trained: if not, AdamW's second moments of it are 0
    trained = {}
    for tables in (TABLES, TARGETS):
        keys = mapping.keys[tables]
        if all(key in moments for key in keys):
            trained[tables] = [bool(moments[key][-1].any()) for key in keys]
    return Candidate(model, assembled(name, mapping, checkpoint.tensors), trained, mapping.guessed)


def settle(stages: dict[str, Candidate], tokenizer: ChosenTokenizer, codec: str, segments: list[Any]) -> Verdict:
    """Chooses the layout on the tokens of real pairs.

    Args:
        stages: by name; their models get the weights and configuration of the layout chosen.
        tokenizer: the semantic tokenizer.
        codec: hub id or folder of EnCodec at 24 kHz.
        segments: of real pairs (`read_pairs`).

    Returns:
        The layout with its evidence, and what speaks against the checkpoints.
    """
    with TemporaryDirectory() as folder:
        # `Tokenizers` loads from a folder
        tokenizer.model.save_pretrained(folder)
        songs = tokenized(segments, Tokenizers(TokenizerOptions(semantic_tokenizer=folder, codec=codec)))
    crops = {name: crops_of(name, songs, stage.model, CROP_SECONDS[name]) for name, stage in stages.items()}
    verdict = Search(stages, crops, typer.echo).run()
    for stage in stages.values():
        stage.lay_out(verdict.layout)
    return verdict


def card_facts(
    files: Files, checkpoints: dict[str, Checkpoint], tokenizer: ChosenTokenizer, verdict: Verdict, assume_paper: bool
) -> CardFacts:
    """What the card says about the weights, the choices of the checkpoint's layout, and what is not known.

    Args:
        files: the original files.
        checkpoints: by stage, for their numbers of training steps.
        tokenizer: the semantic tokenizer chosen.
        verdict: the layout with its evidence, which is only stated if the layout was not assumed.
        assume_paper: whether the paper's layout was taken without evidence.
    """
    steps = {name: checkpoint.step for name, checkpoint in checkpoints.items() if checkpoint.step}
    training: dict[str, Any] = {f"{name.capitalize()} stage": f"{step:,} steps" for name, step in steps.items()}
    training["Converted from"] = f"{files.source}; {_about(files)}"
    training["Semantic tokenizer"] = tokenizer.description
    if not tokenizer.decided:
        training["Semantic tokenizer"] += " (*undetermined*)"
    sections = {"State": f"{STATE} Nobody has listened to it here."}
    if assume_paper:
        sections["Choices"] = "All as in the paper, without evidence (`--assume-paper`)."
    else:
        measured = "\n".join(f"- {name}: {words}" for name, words in verdict.yardsticks.items())
        distances = "\n".join(f"- {line}" for line in tokenizer.evidence)
        sections["Choices"] = f"Made on real pairs.\n\n{described(verdict)}\n\n{measured}\n\n{distances}"
    return CardFacts(
        training=training,
        sections=sections,
        limits=["It reads the voice only: style, lead sheet and stems cannot be requested."],
    )


def _about(files: Files) -> str:
    """Says whether the files are those of the known revision."""
    if not files.differing:
        return "the files are those of the known revision"
    return f"not those of the known revision: {', '.join(files.differing)}"


def _report(files: Files, checkpoints: dict[str, Checkpoint], tokenizer: ChosenTokenizer, verdict: Verdict) -> str:
    """One block to paste into an issue: hashes of the files, shapes of their tensors, and the evidence found."""
    lines = ["```", f"source: {files.source}", *(f"{digest}  {name}" for name, digest in files.sums.items())]
    for name, checkpoint in checkpoints.items():
        lines.append(f"{name}: {len(checkpoint.tensors)} tensors, step {checkpoint.step}")
        lines += [f"  {key} {tuple(value.shape)}" for key, value in checkpoint.tensors.items()]
    lines += [f"tokenizer: {tokenizer.description}", *tokenizer.evidence]
    lines += [f"{name}: {words}" for name, words in verdict.yardsticks.items()]
    return "\n".join([*lines, described(verdict), f"torch {torch.__version__}", "```"])


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
