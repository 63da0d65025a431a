# SPDX-License-Identifier: Apache-2.0
"""From a folder of songs to a token corpus: read, align, filter, tokenise, and write Parquet shards with a card.

`prepare` can be killed at any time and resumed: it plans once, makes the missing shards, and writes the manifest.
`hafm prepare` is its command.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..atomic_files import replacing, write_json
from ..listening.transcription import find_beat_tracker
from ..pretrained.loading import BUNDLED_MODEL
from ..pretrained.model_card import IDENTIFIER, CardFacts
from .dataset_card import dataset_card
from .engines import run_on
from .lead_sheets import ESTIMATE
from .locks import locked
from .manifest import MANIFEST_FILE, make_manifest, read_report
from .plan import Plan, extend_plan, load_plan, save_plan
from .shards import ShardOptions, make_shard, shard_maker
from .tokenizing import torch_device
from .tracks import Drop, HAFMCorpusError, SplitOptions, display_name, find_audio, identify_tracks, read_styles

# options that may differ between two runs into one corpus: they don't affect its contents
NOT_CONTENT = ("audio", "corpus", "keep_audio")


@dataclass(frozen=True)
class PrepareOptions:
    """Options of `prepare`.

    Attributes:
        shards (ShardOptions): options that determine the contents of a shard.
        splits (SplitOptions): how tracks are divided into splits.
        tracks_per_shard (int): the unit of work; a killed run loses at most one shard per worker.
        engine, workers, address: as for `engines.run_on`; they don't affect the corpus.
    """

    shards: ShardOptions
    splits: SplitOptions = field(default_factory=SplitOptions)
    tracks_per_shard: int = 16
    engine: str = "local"
    workers: int = 1
    address: str = ""


def prepare(options: PrepareOptions, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Prepares a corpus, or resumes preparing it.

    Args:
        options: see `PrepareOptions`.
        progress: called with the number of finished shards and of all shards.

    Returns:
        the manifest, as in manifest.json.

    Raises:
        HAFMCorpusError: one sentence that says what to do; finished shards are kept.
    """
    options = _resolved(options)
    audio = Path(options.shards.audio)
    corpus = Path(options.shards.corpus)
    for output in filter(None, (str(corpus), options.shards.keep_audio)):
        if Path(output).is_relative_to(audio):
            raise HAFMCorpusError(f"{output} is inside {audio}; choose a folder outside of it.")
    if not audio.is_dir():
        # before models are loaded
        raise HAFMCorpusError(f"{audio} is not a folder; name one that holds songs.")
    try:
        with locked(corpus):
            plan, drops, others = make_plan(options)
            _make_missing(plan, options, progress)
            return _finish(plan, options, drops, others)
    except OSError as error:
        raise HAFMCorpusError(
            f"Preparing {corpus} failed ({error}); finished shards are kept: fix the cause and repeat the command."
        ) from error


def _resolved(options: PrepareOptions) -> PrepareOptions:
    """Options with absolute folders, and with the defaults of source, beat tracker and device filled in.

    They are looked up here once, since workers on other machines might find something else.
    """
    shards = options.shards
    audio = Path(shards.audio).resolve()
    keep_audio = shards.keep_audio
    if keep_audio:
        keep_audio = str(Path(keep_audio).resolve())
    beats = shards.beats
    if not beats and shards.lead_sheet == ESTIMATE:
        beats = find_beat_tracker()
    shards = dataclasses.replace(
        shards,
        audio=str(audio),
        corpus=str(Path(shards.corpus).resolve()),
        keep_audio=keep_audio,
        source=shards.source or display_name(audio.name),
        beats=beats,
        # workers with and without a GPU must not share a corpus
        tokenizer=dataclasses.replace(shards.tokenizer, device=torch_device(shards.tokenizer.device)),
    )
    return dataclasses.replace(options, shards=shards)


def content_options(options: PrepareOptions) -> dict[str, Any]:
    """Everything that determines the bytes of a corpus, by name, as values that JSON can hold.

    These are options, fingerprints of the models' weights, and the type of the device.
    """
    tokenizers = shard_maker(options.shards).tokenizers
    content = {key: value for key, value in dataclasses.asdict(options.shards).items() if key not in NOT_CONTENT}
    # the fingerprints identify the weights, wherever they are stored, and replace the models' names
    content["tokenizer"] |= tokenizers.fingerprint
    del content["tokenizer"]["model"]
    # the folder may change, but either all tracks keep their stems or none
    content["keep_audio"] = bool(options.shards.keep_audio)
    return {**content, "splits": dataclasses.asdict(options.splits), "tracks_per_shard": options.tracks_per_shard}


def make_plan(options: PrepareOptions) -> tuple[Plan, list[Drop], int]:
    """Scans the audio folder and extends the plan of the corpus, which is saved.

    Returns:
        The plan, the files and tracks that can't be used, and the number of files that are not audio.

    Raises:
        HAFMCorpusError: there are no tracks, or the plan does not fit the options.
    """
    audio = Path(options.shards.audio)
    corpus = Path(options.shards.corpus)
    plan = load_plan(corpus, content_options(options))
    paths, drops, others = find_audio(audio)
    groupings, ungrouped = shard_maker(options.shards).reader.group(paths)
    if not groupings and not plan.tracks:
        unusable = f"{len(drops)} that can't be used"
        if drops:
            unusable += f", such as {drops[0].track}: {drops[0].detail}"
        raise HAFMCorpusError(
            f"{audio} holds no tracks with stems ({len(paths)} audio files, {unusable}); "
            "name the right folder, a vocal channel, or separate mixes first (recipes/separate.py)."
        )
    tracks, unidentified = identify_tracks(audio, groupings, plan.tracks, options.splits)
    tracks = read_styles(audio, options.shards.style_from, tracks)
    extend_plan(plan, tracks, options.tracks_per_shard)
    save_plan(corpus, plan)
    return plan, [*drops, *ungrouped, *unidentified], others


def _make_missing(plan: Plan, options: PrepareOptions, progress: Callable[[int, int], None] | None) -> None:
    """Makes the shards of the plan that have no report; `progress` gets the numbers of finished and of all shards."""
    # a job is a shard's file name and its tracks
    corpus = Path(options.shards.corpus)
    jobs = [(name, tuple(plan.tracks[track] for track in tracks)) for name, tracks in plan.shards.items()]
    missing = [(name, tracks) for name, tracks in jobs if read_report(corpus, name) is None]
    done = len(jobs) - len(missing)
    if progress:
        progress(done, len(jobs))
    shards = options.shards
    results = run_on(
        options.engine, make_shard, shards, missing, options.workers, options.address,
        threads=shards.threads, gpus=int(shards.tokenizer.device == "cuda"),
    )  # fmt: skip
    for _ in results:
        done += 1
        if progress:
            progress(done, len(jobs))


def _finish(plan: Plan, options: PrepareOptions, drops: list[Drop], others: int) -> dict[str, Any]:
    """Writes the manifest and, if there are rows, the dataset card; returns the manifest.

    Args:
        plan: of the corpus.
        options: of `prepare`.
        drops: files and tracks that can't be used, as found by `make_plan`.
        others: number of files that are not audio.
    """
    corpus = Path(options.shards.corpus)
    all_reports = [read_report(corpus, name) for name in plan.shards]
    reports = [report for report in all_reports if report is not None]
    info = shard_maker(options.shards).tokenizers.info
    manifest = make_manifest(plan, reports, drops, others, dataclasses.asdict(info))
    write_json(corpus / MANIFEST_FILE, manifest)
    if any(report.rows for report in reports):
        with replacing(corpus / "README.md") as file:
            file.write(str(dataset_card(corpus, _facts(options))).encode())
    return manifest


def _facts(options: PrepareOptions) -> CardFacts:
    """Facts for the dataset card that follow from the options: licence, source and models."""
    tokenizer = options.shards.tokenizer
    named = {tokenizer.semantic_tokenizer, tokenizer.codec, tokenizer.model} - {""}
    names = named or {BUNDLED_MODEL.name}
    models = []
    for name in names:
        if Path(name).is_dir():
            # of local folders only the name is published
            name = Path(name).name
        models.append(name)
    licence = options.shards.licence
    # a card's metadata only takes the hub's licence identifiers; rows keep any name
    identifier = None
    terms = []
    if IDENTIFIER.fullmatch(licence):
        identifier = licence
    elif licence:
        identifier = "other"
        terms = [f"The tracks are under {licence}."]
    return CardFacts(identifier, [options.shards.source], sorted(models), attribution=terms)
