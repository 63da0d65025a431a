# SPDX-License-Identifier: Apache-2.0
"""`hafm evaluate`: scores a model or rendered accompaniments on vocals with references, and writes a report."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from .. import audio
from ..accompaniment.options import GenerationOptions
from .console import print_table, require_packages, say, stderr
from .options import (
    AsJson,
    DeviceName,
    Engine,
    GuidanceScale,
    ModelName,
    SkipFine,
    Workers,
    advanced,
    basic,
    engine_arguments,
    torch_device,
)

# digits of a hash that name a cache
CACHE_DIGITS = 12


@dataclass
class EvaluationSet:
    """The evaluation set: exactly one of `protocol`, `pairs` and `karaoke`, and how it is cut into clips.

    Args:
        protocol: name of a protocol ("musdb18") and the folder of its data set.
        separation: how a protocol separates vocals; None: by its default.
        pairs, karaoke: folder of vocals with references, or of stereo karaoke files.
        clip_seconds: length of clips; None: the protocol's, or whole songs.
        hop_seconds: time between the starts of clips; None: `clip_seconds`.
        limit: number of clips; None: all.
    """

    protocol: tuple[str, Path] | None = None
    separation: str | None = None
    pairs: Path | None = None
    karaoke: Path | None = None
    clip_seconds: float | None = None
    hop_seconds: float | None = None
    limit: int | None = None


@dataclass
class References:
    """Embedders and baselines to evaluate with.

    Args:
        retrieval_bank: folder of pairs from which the retrieval baselines choose; None: no bank.
        embedder: names of embedders; None: the default of the evaluation set.
        vggish_weights: file or URL of VGGish's weights, if it is used.
        no_baselines: whether to leave out the baselines.
    """

    retrieval_bank: Path | None
    embedder: list[str] | None
    vggish_weights: str | None
    no_baselines: bool

    def asked(self, embedder: str) -> dict[str, Any]:
        """The fields `bank` and `measuring` of `evaluation.run.Evaluation`: retrieval bank, embedders and baselines.

        Args:
            embedder: name of the embedder to use if none is named.

        Raises:
            typer.BadParameter: if the weights do not exist, or options contradict each other.
        """
        from ..evaluation.datasets import load_pairs
        from ..evaluation.embedders import EmbedderOptions
        from ..evaluation.measuring import MeasuringOptions

        weights = self.vggish_weights
        if weights and not (audio.is_url(weights) or Path(weights).is_file()):
            raise typer.BadParameter(f"--vggish-weights: there is no file {weights}.")
        embedders = tuple(EmbedderOptions(kind, weights=weights) for kind in self.embedder or [embedder])
        if self.retrieval_bank and self.no_baselines:
            raise typer.BadParameter("--retrieval-bank is for the baselines that --no-baselines leaves out.")
        return {
            "bank": () if self.retrieval_bank is None else tuple(load_pairs(self.retrieval_bank)),
            "measuring": MeasuringOptions(embedders, baselines=not self.no_baselines),
        }


def evaluate(
    out: Annotated[Path, basic(help="Folder for the report, the generated songs and the cache.")],
    protocol: Annotated[
        tuple[str, Path] | None,
        basic(metavar="musdb18 FOLDER", help="The paper's protocol: MUSDB18 or MUSDB18-HQ, clips of 10 s, VGGish."),
    ] = None,
    separation: Annotated[
        str | None,
        advanced(help="For --protocol: demucs, none, or a command that writes the vocals of {mix} to {folder}."),
    ] = None,
    pairs: Annotated[
        Path | None, basic(help="Folder of NAME/vocal.wav and instrumental.wav.", file_okay=False)
    ] = None,
    karaoke: Annotated[
        Path | None, basic(help="Folder of stereo files: accompaniment left, voice right.", file_okay=False)
    ] = None,
    clip_seconds: Annotated[float | None, basic(min=1.0, help="Cut songs into clips of this length.")] = None,
    hop_seconds: Annotated[
        float | None, advanced(min=0.1, help="Time between clip starts; --clip-seconds if not given.")
    ] = None,
    limit: Annotated[int | None, basic(min=2, help="Number of clips, evenly spread over the set.")] = None,
    retrieval_bank: Annotated[
        Path | None, basic(help="Folder of pairs of a training split, for the retrieval baselines.")
    ] = None,
    embedder: Annotated[
        list[str] | None, advanced(help="tokenizer, vggish (for --protocol), or a transformers model; repeatable.")
    ] = None,
    vggish_weights: Annotated[str | None, advanced(help="File or URL of VGGish weights.")] = None,
    no_baselines: Annotated[
        bool, basic("--no-baselines", help="Leave out retrieval, silence and the other baselines.")
    ] = False,
    engine: Engine = "local",
    workers: Workers = 1,
    model: ModelName = None,
    no_model: Annotated[
        bool, basic("--no-model", help="Evaluate no model: only --outputs, the reference and the baselines.")
    ] = False,
    outputs: Annotated[
        list[str] | None, basic(help="NAME=FOLDER of rendered accompaniments; repeat a NAME for another seed.")
    ] = None,
    seeds: Annotated[int, basic(min=1, help="Number of generation seeds, counted from --seed.")] = 1,
    seed: Annotated[int, basic(help="First generation seed, and seed of the statistics.")] = 0,
    given: Annotated[
        list[str] | None,
        basic(help="Part of each pair's labels.json for the model: beats, chords, key, energy, style; repeatable."),
    ] = None,
    device: DeviceName = "auto",
    as_json: AsJson = False,
    guidance_scale: GuidanceScale = None,
    skip_fine: SkipFine = False,
) -> None:
    """Measures how well accompaniments follow the singer and how close they are to real ones, next to baselines."""
    from ..evaluation import run
    from ..evaluation.generating import RenderingOptions
    from ..evaluation.protocol import ScoringOptions

    require_packages("librosa", "scipy", "mir_eval")
    folders = named_folders(outputs or [])
    clips = EvaluationSet(protocol, separation, pairs, karaoke, clip_seconds, hop_seconds, limit)
    references = References(retrieval_bank, embedder, vggish_weights, no_baselines)
    generation_options = GenerationOptions(guidance_scale=guidance_scale, skip_fine=skip_fine)
    seed_numbers = tuple(range(seed, seed + seeds))
    if no_model and (model is not None or given or seeds > 1 or generation_options != GenerationOptions()):
        raise typer.BadParameter("--no-model and options that only a model takes contradict each other.")
    generation = RenderingOptions(model, seed_numbers, torch_device(device), generation_options, tuple(given or ()))
    evaluation = run.Evaluation(
        **clip_set(clips, out), **references.asked("vggish" if clips.protocol else "tokenizer"),
        **engine_arguments(engine, workers),
        out=out, outputs=folders,
        generation=None if no_model else generation, scoring=ScoringOptions(seed=seed),
    )  # fmt: skip
    bar = partial(track, description="measuring", console=stderr, transient=True)
    report = run.evaluate(evaluation, progress=lambda jobs, measured: bar(measured, total=len(jobs)))
    show(report, out, as_json)


def show(report: dict[str, Any], out: Path, as_json: bool) -> None:
    """Prints a report as JSON, or its scores as tables and the paths of its files in `out`."""
    from ..evaluation.report import fad_rows, score_rows
    from ..evaluation.run import CLIPS_FILE

    if as_json:
        say(json.dumps(report))
        return
    heading, *rows = score_rows(report)
    # words can wrap in a narrow terminal, names_like_these cannot
    heading = [name.replace("_", " ") for name in heading]
    print_table("matched minus shuffled pairs; * above zero", heading, rows)
    if rows := fad_rows(report):
        print_table("distance to real accompaniments", rows[0], rows[1:])
        say(report.get("published", {}).get("note", ""))
    for name in ("report.json", "report.html", CLIPS_FILE):
        say(f"wrote {out / name}")


def clip_set(flags: EvaluationSet, out: Path) -> dict[str, Any]:
    """The fields `clips` and `data` of `evaluation.run.Evaluation`: the clips, and their description for the report.

    Args:
        flags: the options that name the set and say how to cut it.
        out: folder for the files that a protocol unpacks and separates.

    Raises:
        typer.BadParameter: if not exactly one set is named.
        HAFMEvaluationError: if the set does not have the form that its option requires.
    """
    from ..evaluation import datasets, musdb18

    protocol, protocol_folder = flags.protocol or ("", None)
    folders = [folder for folder in (flags.pairs, flags.karaoke, protocol_folder) if folder is not None]
    one_set = "name one set of vocals: --pairs, --karaoke or --protocol musdb18 FOLDER."
    if len(folders) != 1:
        raise typer.BadParameter(one_set)
    if protocol not in ("", "musdb18"):
        raise typer.BadParameter(one_set)
    if flags.separation and not protocol:
        raise typer.BadParameter("--separation is only for --protocol; other sets are already separated.")

    separation = flags.separation or "audio-separator"
    seconds = flags.clip_seconds
    folder = folders[0]
    data = {"set": folder.name}
    if protocol:
        # a cache of its own for each separator and folder, so that none is mistaken for another
        digest = hashlib.sha256(f"{separation} {folder.resolve()}".encode()).hexdigest()
        clips = musdb18.load_musdb18(folder, out / digest[:CACHE_DIGITS], separation)
        seconds = seconds or musdb18.CLIP_SECONDS
        data |= {"protocol": protocol, "separation": separation}
    elif flags.karaoke:
        clips = datasets.load_karaoke(folder)
    else:
        clips = datasets.load_pairs(folder)

    sung = datasets.sung_clips(datasets.cut_clips(clips, seconds, flags.hop_seconds))
    about = {"clip seconds": seconds, "hop seconds": flags.hop_seconds, "sung clips in all": len(sung)}
    return {"clips": tuple(datasets.spread(sung, flags.limit)), "data": data | about}


def named_folders(outputs: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Parses values of --outputs, NAME=FOLDER each, into folders by name; a repeated name has several folders.

    Raises:
        typer.BadParameter: if an option does not have that form.
    """
    by_system: dict[str, tuple[Path, ...]] = {}
    for option in outputs:
        name, equals, folder = option.partition("=")
        if not equals or not name or not folder:
            raise typer.BadParameter(f"--outputs {option!r} is not NAME=FOLDER.")
        by_system[name] = (*by_system.get(name, ()), Path(folder))
    return by_system
