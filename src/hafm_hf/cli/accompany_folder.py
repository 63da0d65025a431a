# SPDX-License-Identifier: Apache-2.0
"""`hafm accompany FOLDER`: many vocals, on the engine that also prepares corpora (`corpus.engines`).

The batches are planned once, from the vocals alone, and stored, because rounding may depend on the batch's shape: this
way every file has the same bytes whichever worker makes it and however often the run is killed.
NAME_lead_sheet.json, NAME_beats.txt and NAME_chords.lab next to a vocal, as written by `hafm lead-sheet`, hold what is
known of its song.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .. import audio
from ..accompaniment.options import GenerationOptions, MixOptions
from ..atomic_files import write_json
from ..corpus.engines import AGAIN, run_on
from ..corpus.locks import locked
from ..corpus.plan import PLAN_FILE, check_same_options
from ..corpus.tracks import SCAN_THREADS, HAFMCorpusError, display_name, find_audio, hash_files, stamp_files
from .console import HAFMCommandError, first_line, loading, model_folder, progress_bars, report_error, say, stderr
from .info import without_weights
from .options import Outcome, Request, load_pipeline, torch_device

if TYPE_CHECKING:
    from ..lead_sheet.lead_sheet import LeadSheet

PLAN_FORMAT = 2
# a batch takes as long as its longest vocal: the others must have at least this share of its length
LEAST_SHARE = 0.75
# a batch is held in memory: longest sum of its vocals' lengths
LONGEST_BATCH_SECONDS = 3600.0
# suffixes of the lead sheet files next to a vocal
SHEET = "_lead_sheet.json"
BEATS = "_beats.txt"
CHORDS = "_chords.lab"
# the options of a generation and of a mix whose default is not None
DEFAULTS = {
    name: value for name, value in {**asdict(GenerationOptions()), **asdict(MixOptions())}.items() if value is not None
}


def accompany_folder(request: Request, batch_size: int, engine: Mapping[str, Any]) -> None:
    """Accompanies all vocals of a folder, and ends the command.

    Args:
        request: the options, with the folder as its source.
        batch_size: most vocals generated together.
        engine: `engine` ("local" or "ray"), `workers` (a number) and `address` (of a Ray cluster), as
            `corpus.engines.run_on` takes them.

    Raises:
        HAFMCorpusError, HAFMJobError: if the run cannot start or go on; finished files are kept.
        typer.Exit: always, at the end; exit code 1 if any of the vocals cannot be used.
    """
    with loading(request.model):
        bare = without_weights(model_folder(request.model))
    # refused before `accompany_all` stores the options for the next run
    request.check(bare)
    done = 0
    errors = {}
    with progress_bars(quiet=request.as_json) as bars:
        task = bars.add_task("looking for vocals", total=None)
        try:
            for outcome, total, seed in accompany_all(request, batch_size, engine):
                done += 1
                bars.update(task, description="vocals", completed=done, total=total)
                if request.as_json:
                    for line in outcome.lines(seed):
                        say(json.dumps(line))
                if outcome.error:
                    errors[outcome.vocal] = outcome.error
        except KeyboardInterrupt:
            stderr.print(f"stopped; {AGAIN}.")
            raise
    for vocal in sorted(errors):
        report_error(HAFMCommandError(errors[vocal]))
    if not request.as_json:
        left = f", {len(errors)} left out" if errors else ""
        say(f"{done - len(errors)} vocals accompanied in {request.out}{left}")
    raise typer.Exit(1 if errors else 0)


def accompany_all(
    request: Request, batch_size: int = 8, engine: Mapping[str, Any] | None = None
) -> Iterator[tuple[Outcome, int, int]]:
    """Makes the accompaniments that are missing; after an interruption, calling it again resumes the run.

    Args:
        request: the options; if no seed is given, one is drawn and stored for the next run.
        batch_size: most vocals generated together.
        engine: `engine` ("local" or "ray"), `workers` (a number) and `address` (of a Ray cluster), as
            `corpus.engines.run_on` takes them; one local process if not given.

    Yields:
        The outcome of each vocal as soon as it is known, the total number of vocals, and the seed.

    Raises:
        HAFMCorpusError, HAFMJobError: with one sentence that says what to do.
    """
    request = _resolved(request)
    with locked(Path(request.out)):
        plan = _make_plan(request, batch_size)
        seed = plan.seed
        request = replace(request, parameters={**request.parameters, "seed": seed})
        total = len(plan.names) + len(plan.errors)

        for vocal, error in plan.errors.items():
            yield Outcome(vocal, error=error), total, seed
        finished = set()
        for vocal, name in plan.names.items():
            outcome = Outcome(vocal, request.files(name))
            if outcome.exists():
                finished.add(vocal)
                yield outcome, total, seed

        jobs = []
        for batch in plan.batches:
            # whole batches, although some of their files may exist: rounding may depend on a batch's shape
            if not finished.issuperset(batch):
                jobs.append([(vocal, plan.names[vocal]) for vocal in batch])
        needs = {"threads": request.parameters["threads"], "gpus": int(request.device == "cuda")}
        resources = {"engine": "local", **(engine or {}), **needs}
        for outcomes in run_on(make=accompany_batch, options=request, jobs=jobs, **resources):
            for outcome in outcomes:
                # a batch that is made again may hold vocals that were finished before
                if outcome.vocal not in finished:
                    yield outcome, total, seed


def _resolved(request: Request) -> Request:
    """A copy of a request with absolute folders, the actual device and, unless given, one thread per worker.

    Parameters that are None are left out.

    Raises:
        HAFMCorpusError: if the output folder is inside the folder of vocals.
    """
    source = Path(request.source).resolve()
    out = Path(request.out).resolve()
    if out.is_relative_to(source):
        raise HAFMCorpusError(f"{out} is inside {source}; choose a folder outside of it.")
    parameters = {name: value for name, value in request.parameters.items() if value is not None}
    # several workers on one machine would compete for its cores
    parameters = {"threads": 1, **parameters}
    # resolved now: a worker without a GPU must not continue a run that began on one
    device = torch_device(request.device)
    return replace(request, source=str(source), out=str(out), device=device, parameters=parameters)


def _names(vocals: Iterable[str]) -> dict[str, str]:
    """Base name of each vocal's files, by the vocal: its path without the suffix.

    If two paths differ only in the suffix, it is kept in the names: "song.wav" becomes "song_wav".

    Raises:
        HAFMCorpusError: two vocals would have the same name.
    """
    stems = {vocal: os.path.splitext(vocal)[0] for vocal in vocals}
    shared = Counter(stems.values())
    names = {vocal: stem if shared[stem] == 1 else vocal.replace(".", "_") for vocal, stem in stems.items()}
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise HAFMCorpusError(f"Two vocals would be written as {twice[0]}; rename one of them.")
    return names


@dataclass(frozen=True)
class Plan:
    """What a run makes.

    Args:
        batches: lists of vocals (paths relative to the folder) that are generated together.
        errors: why a vocal cannot be used, by the vocal.
        seed: seed of the generation.
        names: base name of its files for each vocal in the batches.
    """

    batches: list[list[str]]
    errors: dict[str, str]
    seed: int
    names: dict[str, str]


def _make_plan(request: Request, batch_size: int) -> Plan:
    """Makes the plan of a run, or extends that of an earlier one, and writes it to the output folder.

    Files made from vocals or lead sheets that have changed since are deleted.

    Args:
        request: the options, as `_resolved` returns them.
        batch_size: most vocals in a batch.

    Raises:
        HAFMCorpusError: the earlier run had other options, or there are no vocals.
    """
    path = Path(request.out, PLAN_FILE)
    source = Path(request.source)
    earlier_plan: dict[str, Any] = {"format": PLAN_FORMAT}
    if path.is_file():
        earlier_plan = json.loads(path.read_text(encoding="ascii"))
    # a corpus's plan has the same format number, but shards
    if earlier_plan.get("format") != PLAN_FORMAT or "shards" in earlier_plan:
        raise HAFMCorpusError(f"{path} is not a plan of this version of hafm accompany; choose another folder.")
    options = {**DEFAULTS, **request.parameters, "device": request.device, "dtype": request.dtype}
    options |= {"format": request.file_format, "weights": model_fingerprint(request.model), "batch_size": batch_size}
    # without a given seed: that of the earlier run, or a random one
    options.setdefault("seed", earlier_plan.get("options", {}).get("seed", secrets.randbits(31)))
    check_same_options(Path(request.out), earlier_plan.get("options", options), options)

    vocals, drops, _ = find_audio(source)
    errors = {drop.track: f"{drop.track}: {drop.reason.value}; fix or remove it." for drop in drops}
    if not vocals and not errors:
        raise HAFMCorpusError(f"{request.source} contains no vocals; name a folder with audio files.")
    names = _names(vocals)
    for vocal, name in names.items():
        if problem := request.name_problem(display_name(vocal), name):
            errors[vocal] = problem
            vocals.remove(vocal)

    # the earlier run's batches, without vocals that have changed or gone
    stamps = {vocal: stamp_files(source, {"vocal": vocal, **_sheet_files(source, vocal)}) for vocal in vocals}
    earlier_stamps = earlier_plan.get("stamps", {})
    earlier_batches = earlier_plan.get("batches", [])
    planned_before = set(itertools.chain.from_iterable(earlier_batches))
    unchanged = {vocal for vocal in vocals if vocal in planned_before and earlier_stamps.get(vocal) == stamps[vocal]}
    batches = []
    for batch in earlier_batches:
        if remaining := [vocal for vocal in batch if vocal in unchanged]:
            batches.append(remaining)

    new_vocals = [vocal for vocal in vocals if vocal not in unchanged]
    lengths: dict[str, float] = {}
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        results = pool.map(functools.partial(_length_or_error, source, request.parameters.get("seconds")), new_vocals)
        for vocal, length_or_error in zip(new_vocals, results, strict=True):
            if isinstance(length_or_error, str):
                errors[vocal] = length_or_error
            else:
                lengths[vocal] = length_or_error
    for vocal in new_vocals:
        existing = [path for path in request.paths(names[vocal]) if path.exists()]
        if vocal in earlier_stamps:
            # made from a vocal that has changed since, or was away
            for outdated in existing:
                outdated.unlink()
        elif existing and vocal in lengths:
            # of another command, with other options
            errors[vocal] = f"{display_name(vocal)}: {existing[0]} exists already; move it, or choose another --out."
            del lengths[vocal]
    batches += _batched(source, lengths, batch_size)

    planned = list(itertools.chain.from_iterable(batches))
    # those of vocals that are away stay, since their songs do
    stamps = {**earlier_stamps, **{vocal: stamps[vocal] for vocal in planned}}
    write_json(path, {"format": PLAN_FORMAT, "options": options, "stamps": stamps, "batches": batches})
    return Plan(batches, errors, options["seed"], {vocal: names[vocal] for vocal in planned})


def _length_or_error(source: Path, seconds: float | None, vocal: str) -> float | str:
    """Reads a vocal and its lead sheet files before anything is generated.

    Args:
        source: the folder of vocals.
        seconds: use only this much from the start; None for all.
        vocal: path of the vocal, relative to the folder.

    Returns:
        Its length in seconds, or the sentence that says why it cannot be used.
    """
    try:
        samples, rate = audio.read_audio(source / vocal, seconds=seconds, name=display_name(vocal))
        own_lead_sheet(source, vocal)
        return len(samples) / rate
    except ValueError as error:
        return str(error)


def _batched(source: Path, lengths: Mapping[str, float], batch_size: int) -> list[list[str]]:
    """Batches vocals of similar length, the longest first.

    Args:
        source: the folder of vocals.
        lengths: in seconds, by vocal.
        batch_size: most vocals in a batch.
    """
    batches: list[list[str]] = []
    for vocal in sorted(lengths, key=lambda vocal: (-lengths[vocal], vocal)):
        batch = batches[-1] if batches else []
        fits = 0 < len(batch) < batch_size and lengths[vocal] >= LEAST_SHARE * lengths[batch[0]]
        # the whole batch is held in memory
        fits = fits and sum(lengths[member] for member in (*batch, vocal)) <= LONGEST_BATCH_SECONDS
        # a batch shares its parameters, so a vocal with a lead sheet is a batch of its own
        if fits and not _sheet_files(source, batch[0]) and not _sheet_files(source, vocal):
            batch.append(vocal)
        else:
            batches.append([vocal])
    return batches


def model_fingerprint(model: str | None) -> str:
    """SHA-256 of the configurations and weights of a model: folder or hub id, the bundled hafm-tiny if None."""
    with loading(model):
        folder = model_folder(model)
        paths = [path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")]
        files = [str(path.relative_to(folder)) for path in paths]
        return hash_files(folder, dict(zip(files, files, strict=True)))


def _sheet_files(source: Path, vocal: str) -> dict[str, str]:
    """Lead sheet files next to a vocal, as far as they exist: paths relative to the folder `source`, by suffix."""
    name = os.path.splitext(vocal)[0]
    return {suffix: name + suffix for suffix in (SHEET, BEATS, CHORDS) if (source / (name + suffix)).is_file()}


def own_lead_sheet(source: Path, vocal: str, tempo: float | None = None) -> LeadSheet | None:
    """The lead sheet in the files next to a vocal; None if there are none.

    Args:
        source: the folder.
        vocal: path of the vocal, relative to the folder.
        tempo: tempo of all songs, in BPM; a song's own beats or tempo take precedence. None: not given.

    Raises:
        ValueError: naming the file and the line.
    """
    files = {suffix: source / file for suffix, file in _sheet_files(source, vocal).items()}
    if not files:
        return None
    from ..lead_sheet.files import known_lead_sheet, read_lead_sheet

    from_file = None
    if SHEET in files:
        from_file = read_lead_sheet(files[SHEET])
    chords = None
    if CHORDS in files:
        chords = str(files[CHORDS])
    combined = known_lead_sheet(from_file, beats=files.get(BEATS), chords=chords)
    assert combined is not None
    if tempo is None or combined.has_beats:
        return combined
    return replace(combined, tempo=tempo)


# the one pipeline of this process
_pipeline = functools.lru_cache(maxsize=1)(load_pipeline)


def accompany_batch(request: Request, batch: Sequence[tuple[str, str]]) -> list[Outcome]:
    """Reads, generates and writes a batch of vocals, in a worker.

    Args:
        request: the options, as `_resolved` returns them, with the plan's seed.
        batch: (vocal, base name of its files) each.

    Returns:
        The outcome of each vocal: its files, or the error if it cannot be used.

    Raises:
        HAFMCorpusError: if the results can't be written.
    """
    source = Path(request.source)
    parameters = dict(request.parameters)
    seconds = parameters.pop("seconds", None)
    sounds = {}
    outcomes = []
    for vocal, _ in batch:
        try:
            samples, rate = audio.read_audio(source / vocal, seconds=seconds, name=vocal, mono=False)
            if sheet := own_lead_sheet(source, vocal, parameters.get("tempo")):
                # parameters hold for the whole batch, of which such a vocal is the only one (`_batched`)
                parameters |= {"lead_sheet": sheet, "tempo": None}
            sounds[vocal] = {"array": samples, "sampling_rate": rate, "path": vocal}
        except ValueError as error:
            outcomes.append(Outcome(vocal, error=str(error)))

    try:
        pipeline = _pipeline(request.model, request.device, request.dtype)
        if sounds:
            songs = pipeline(list(sounds.values()), batch_size=len(sounds), **parameters)
        else:
            songs = []
    except Exception as error:
        why = f"can't be accompanied ({type(error).__name__}: {first_line(error)})."
        return outcomes + [Outcome(vocal, error=f"{vocal} {why}") for vocal in sounds]

    names = dict(batch)
    for vocal, song in zip(sounds, songs, strict=True):
        outcomes.append(Outcome(vocal, request.files(names[vocal])))
        try:
            # files that an earlier run has finished are left as they are
            outcomes[-1].write(song, missing=True)
        except audio.HAFMAudioError as error:
            raise HAFMCorpusError(f"{str(error).rstrip('.')}; {AGAIN}.") from error
    return outcomes
