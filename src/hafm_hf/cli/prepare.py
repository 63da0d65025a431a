# SPDX-License-Identifier: Apache-2.0
"""`hafm prepare`: from a folder of songs to a token corpus, with a table of what became of every track."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .console import HAFMCommandError, progress_bars, stdout
from .request import Device, DType, EngineFlags, grouped

if TYPE_CHECKING:
    from ..corpus.prepare import PrepareOptions
    from ..corpus.stems import SeparatorOptions

AudioFolder = Annotated[Path, typer.Argument(help="Folder of songs.", metavar="AUDIO_DIR")]
CorpusFolder = Annotated[Path, typer.Argument(help="Folder for the corpus.", metavar="CORPUS_DIR")]
SeparatorName = Annotated[str, typer.Option(help="stems (separated already), audio-separator or demucs.")]
VocalChannel = Annotated[str, typer.Option(help="left or right: where karaoke files have the voice.")]


@dataclass
class SeparatorFlags:
    """How vocals and accompaniments are told apart, and which files are too long for it."""

    separator: SeparatorName = "stems"
    vocal_channel: VocalChannel = ""
    separator_model: Annotated[str, typer.Option(help="Of audio-separator or demucs.")] = ""
    separator_model_dir: Annotated[str, typer.Option(help="Folder of the separator's model files.")] = ""
    max_minutes: Annotated[float, typer.Option(min=0.1, help="Longer files are dropped.")] = 30.0
    stems: Annotated[
        bool, typer.Option("--stems", help="Rows for drums, bass, chords and colour, too, where songs have them.")
    ] = False

    def options(self, device: str) -> SeparatorOptions:
        """What they say to a separator on `device`."""
        from ..corpus.stems import SeparatorOptions

        named = self.separator, self.vocal_channel, self.separator_model, self.separator_model_dir
        return SeparatorOptions(*named, device, self.max_minutes * 60, stems=self.stems)


@dataclass
class TokenizerFlags:
    """What makes the tokens."""

    semantic_tokenizer: Annotated[str, typer.Option(help="Folder or hub id, instead of the model's.")] = ""
    codec: Annotated[str, typer.Option(help="Folder or hub id of an EnCodec, instead of the model's.")] = ""
    model: Annotated[str, typer.Option(help="Composite whose tokenizers are used; hafm-tiny if not given.")] = ""
    num_codebooks: Annotated[
        int | None, typer.Option(min=1, help="Of the codec, at most; if not given, as many as the paper's.")
    ] = None
    device: Annotated[Device, typer.Option(help="Where the models run.")] = Device.auto
    dtype: Annotated[DType, typer.Option(help="Precision of the tokenizers; auto is float32.")] = DType.auto
    batch_size: Annotated[int, typer.Option(min=1, help="Segments in a batch.")] = 4


@dataclass
class FilterFlags:
    """Which segments are kept."""

    min_instrumental_db: Annotated[float, typer.Option(help="Drop quieter instrumentals, dB RMS.")] = -25.0
    max_vocal_excess_db: Annotated[float, typer.Option(help="Drop vocals louder than the band by more.")] = 5.0
    min_vocal_db: Annotated[float, typer.Option(help="Drop quieter vocals, dB RMS.")] = -50.0


@dataclass
class SplitFlags:
    """How tracks are divided."""

    split_by: Annotated[str, typer.Option(help="hash, or folder: train, validation, test at the top.")] = "hash"
    validation: Annotated[float, typer.Option(min=0, max=1, help="Share of tracks, by hash.")] = 0.05
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of tracks, by hash.")] = 0.05
    artist_pattern: Annotated[str, typer.Option(help="Regular expression; its first group is the artist.")] = ""


@grouped
def prepare(
    audio: AudioFolder,
    corpus: CorpusFolder,
    separator: SeparatorFlags,
    tokenizer: TokenizerFlags,
    kept: FilterFlags,
    splits: SplitFlags,
    engine: EngineFlags,
    segment_seconds: Annotated[float, typer.Option(min=0.04, help="Longest segment: one row.")] = 30.0,
    min_seconds: Annotated[float, typer.Option(min=0.04, help="Shorter tracks are dropped.")] = 3.0,
    source: Annotated[str, typer.Option(help="Name of the collection; the folder's if not given.")] = "",
    licence: Annotated[str, typer.Option(help="Of tracks whose files state none.")] = "",
    facts: Annotated[str, typer.Option(help="YAML or JSON for the dataset card.")] = "",
    lead_sheet: Annotated[str, typer.Option(help="labels (of labels.json), estimate (of the band), none.")] = "labels",
    style_from: Annotated[str, typer.Option(help="folder, or a column of AUDIO_DIR/metadata.csv.")] = "",
    keep_audio: Annotated[
        str,
        typer.Option(help="Also save the stems of kept tracks here; train/ is a bank for hafm evaluate."),
    ] = "",
    tracks_per_shard: Annotated[int, typer.Option(min=1, help="The unit of work.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="The manifest's figures as JSON on stdout.")] = False,
) -> None:
    """Separates, filters and tokenises songs into Parquet shards; run the same command again to resume."""
    from ..corpus.filtering import FilterOptions
    from ..corpus.prepare import PrepareOptions, ShardOptions
    from ..corpus.tokenizing import DEFAULT_CODEBOOKS, TokenizerOptions
    from ..corpus.tracks import SplitOptions

    if tokenizer.device is Device.mps:
        raise typer.BadParameter("mps isn't supported here; choose auto, cpu or cuda.")
    device, dtype = tokenizer.device.value, tokenizer.dtype.value
    with corpus_errors():
        options = PrepareOptions(
            ShardOptions(
                audio=str(audio), corpus=str(corpus),
                separator=separator.options(device),
                filter=FilterOptions(**asdict(kept)),
                tokenizer=TokenizerOptions(
                    tokenizer.semantic_tokenizer, tokenizer.codec, tokenizer.model,
                    tokenizer.num_codebooks or DEFAULT_CODEBOOKS, device, "float32" if dtype == "auto" else dtype,
                    tokenizer.batch_size,
                ),
                segment_seconds=segment_seconds, min_seconds=min_seconds, source=source, licence=licence,
                lead_sheet=lead_sheet, style_from=style_from, keep_audio=keep_audio,
            ),
            SplitOptions(*astuple(splits)), tracks_per_shard, **asdict(engine), facts=facts,
        )  # fmt: skip
    run(options, as_json)


def run(options: PrepareOptions, as_json: bool) -> None:
    """Prepares with a bar on stderr, and prints what became of the tracks."""
    import transformers

    from ..corpus.prepare import prepare as prepare_corpus

    # one bar is enough
    transformers.utils.logging.disable_progress_bar()
    with corpus_errors(), _progress(quiet=as_json) as progress:
        manifest = prepare_corpus(options, progress)
    if as_json:
        typer.echo(json.dumps({key: value for key, value in manifest.items() if key != "dropped"}))
        return
    # a table cut to 80 columns in a log is of no use to anybody
    console = Console(highlight=False, width=None if stdout.is_terminal else 120)
    for table in summary_tables(manifest):
        console.print(table)
    folder = options.shards.corpus
    fidelity = manifest["si_sdr_db"]
    if fidelity["rows"]:
        stdout.print(
            f"decoded again: {fidelity['median']:.1f} dB SI-SDR, median of {fidelity['rows']} rows, one a shard"
        )
    stdout.print(f"wrote {folder} (manifest.json lists every drop, README.md is its card)", markup=False)


def summary_tables(manifest: dict[str, Any]) -> Iterator[Table]:
    """What was kept and dropped, and the splits."""
    table = Table(title="tracks and segments", title_justify="left")
    for heading in ("", "tracks", "segments", "hours"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    tracks, segments, hours = manifest["tracks"], manifest["segments"], manifest["hours"]
    for name in ("found", "kept"):
        table.add_row(name, str(tracks[name]), str(segments[name]), f"{hours[name]:.2f}")
    for reason in sorted({*tracks["dropped"], *segments["dropped"]}):
        counts = (str(kind["dropped"].get(reason, 0)) for kind in (tracks, segments))
        table.add_row(f"dropped: {escape(reason)}", *counts, "")
    yield table
    table = Table(title="splits", title_justify="left")
    for heading in ("split", "tracks", "rows", "hours", "shards"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, split in manifest["splits"].items():
        table.add_row(name, str(split["tracks"]), str(split["rows"]), f"{split['hours']:.2f}", str(split["shards"]))
    yield table


@contextmanager
def corpus_errors() -> Iterator[None]:
    """Errors of the corpus as errors of the command."""
    from ..corpus.engines import HAFMJobError
    from ..corpus.tracks import HAFMCorpusError

    try:
        yield
    except (HAFMCorpusError, HAFMJobError) as error:
        raise HAFMCommandError(str(error)) from error


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int, Any], None]]:
    """A callback for `prepare` that keeps one bar on stderr."""
    with progress_bars(quiet) as bars:
        task = bars.add_task("looking for songs", total=None)

        def advance(done: int, total: int, _: Any) -> None:
            bars.update(task, description="shards", completed=done, total=total)

        yield advance
