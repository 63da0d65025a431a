"""From a vocal to songs: what the Space does for its page and for its endpoint, without either.

The path: read the vocal, generate songs, write the files of a job, mix them again whenever the balance changes.
"""

from __future__ import annotations

import atexit
import io
import os
import queue
import re
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyloudnorm
import soundfile
import torch
import transformers

from hafm_hf import BUNDLED_MODEL, LeadSheet, audio  # importing anything of it registers the task
from hafm_hf.accompaniment.options import PUBLIC_OPTIONS, GenerationOptions, Option
from hafm_hf.hub.redaction import without_secrets
from hafm_hf.stage_table import STAGES

try:
    import spaces
except ImportError:  # not on ZeroGPU
    spaces = None

logger = transformers.utils.logging.get_logger("hafm_space")


def setting(name: str, default: str) -> str:
    """The environment variable HAFM_SPACE_NAME."""
    return os.environ.get(f"HAFM_SPACE_{name}", default)


BUNDLED = "hafm-tiny (bundled)"
MAX_SECONDS = float(setting("MAX_SECONDS", "120"))
KEEP_SECONDS = float(setting("KEEP_SECONDS", "3600"))
GPU_SECONDS = int(setting("GPU_SECONDS", "120"))
# What the list offers beside hub ids; the first is chosen. Only these may be folders of this machine.
OFFERED = [name.strip() for name in setting("MODELS", BUNDLED).split(",") if name.strip()]
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
FORMATS = ("wav", "flac")
# The options of generation that a person has, by what they are called here
CHOICES = {"variations" if name == "num_samples" else name: option for name, option in PUBLIC_OPTIONS.items()}
# How often a run looks whether it is still wanted.
REPORT_SECONDS = 0.05
# Gradio encodes sound that is heard meanwhile with it.
CAN_STREAM = shutil.which("ffmpeg") is not None
# Everything that this process writes lies below, uploads too; what is older than KEEP_SECONDS is removed.
JOBS = Path(tempfile.mkdtemp(prefix="hafm_space_"))
os.environ["GRADIO_TEMP_DIR"] = str(JOBS / "gradio")
atexit.register(shutil.rmtree, JOBS, ignore_errors=True)
# A seed makes a song only while nobody else draws random numbers, so songs are made one after another.
GENERATING = threading.Lock()


Levels = dict[str, tuple[float, float]]


class Cancelled(Exception):
    """The person has changed their mind; raised in the middle of a stage."""


@dataclass
class Request:
    """What the page or the endpoint asks for; 0 is the whole vocal for `length` (s), and for `tempo` (beats a minute)
    the one that is estimated."""

    vocal: str | None
    model: str
    options: GenerationOptions
    length: float = 0.0
    tempo: float = 0.0

    @classmethod
    def of(cls, vocal: str | None, model: str, *values: Any) -> Request:
        """A request by the values of CHOICES, then length and tempo.

        Raises:
            ValueError: an option out of range.
        """
        *chosen, length, tempo = values
        given = {
            option.name: None if _is_empty(option, value) else option.kind(value)
            for option, value in zip(CHOICES.values(), chosen, strict=True)
        }
        return cls(vocal, model, GenerationOptions.of(given=given), length, tempo)

    def parameters(self) -> dict[str, Any]:
        """What the pipeline is called with; a seed that is not given is drawn here."""
        parameters = {name: value for name, value in asdict(self.options).items() if value is not None}
        if self.tempo:
            parameters["lead_sheet"] = LeadSheet(tempo=self.tempo)
        return {"seed": secrets.randbits(31), **parameters}


def _is_empty(option: Option, value: Any) -> bool:
    """Whether an input leaves an option to the model: an empty number comes as 0, an empty seed is −1."""
    return value is None or (option.optional and (value < 0 if option.name == "seed" else not value))


@dataclass
class Job:
    """The songs made of one vocal: files in `folder`, which disappears when the job expires."""

    folder: Path
    name: str
    variations: int
    seed: int
    seconds: float

    def path(self, part: str, suffix: str, variation: int | None = None) -> Path:
        """Name of a file, as it will be called on the person's own machine."""
        number = f"_{variation}" if variation and self.variations > 1 else ""
        return self.folder / f"{self.name}{number}_{part}.{suffix}"

    def read(self, part: str, variation: int | None = None) -> tuple[audio.Samples, int]:
        """The vocal or an instrumental: float32 [N] and its rate in Hz.

        Raises:
            HAFMAudioError: when the job has expired.
        """
        path = self.path(part, "wav", variation)
        if not path.exists():
            raise audio.HAFMAudioError("These songs have been removed from the server; generate them again.")
        return audio.read_audio(path, min_seconds=0.0)


@dataclass
class Stages:
    """How far each stage is, and since when: what the bars show."""

    names: list[str]
    done: dict[str, tuple[int, int]] = field(default_factory=dict)
    began: dict[str, tuple[float, int]] = field(default_factory=dict)

    def update(self, stage: str, done: int, total: int) -> None:
        """Notes that `done` of `total` tokens of a stage exist."""
        self.began.setdefault(stage, (time.monotonic(), done))
        self.done[stage] = (done, total)

    def remaining(self, stage: str) -> float | None:
        """Seconds until a stage is done if it goes on at its mean speed; None before there is one."""
        if stage not in self.done:
            return None
        (done, total), (since, first) = self.done[stage], self.began[stage]
        return (time.monotonic() - since) / (done - first) * (total - done) if done > first else None


class LiveMix:
    """The mix while it comes into being, piece by piece.

    What is to come is not known, so a piece that would clip turns down itself and all that follows.

    Args:
        band_db (dB): level of the instrumental in the mix.
    """

    def __init__(self, band_db: float) -> None:
        self.band_db, self.gain = band_db, 1.0

    def add(self, piece: dict[str, Any]) -> bytes:
        """The next piece ("audio" and "vocals", float32 [n] at "sampling_rate") as the bytes of a WAV file."""
        mix = self.gain * (
            piece["vocals"] + audio.decibels_to_gain(self.band_db) * audio.with_channels(piece["audio"], 1)
        )
        limited = audio.limit_peak(mix)
        self.gain *= audio.decibels_to_gain(min(audio.CEILING_DBFS - audio.peak_dbfs(mix), 0.0))
        buffer = io.BytesIO()
        soundfile.write(buffer, limited, piece["sampling_rate"], format="WAV", subtype="PCM_16")
        return buffer.getvalue()


def read_vocal(path: str | None, length: float | None) -> tuple[audio.Samples, int]:
    """Reads a recording, or says in one sentence why it cannot be used.

    Args:
        path: file; None when there is none.
        length: use only this many seconds from the start; all if None or 0.

    Returns:
        samples (float32 [N]) and their rate in Hz.

    Raises:
        HAFMAudioError: no file, not audio, too short, too long, silent.
    """
    if path is None:
        raise audio.HAFMAudioError("There is no voice yet; record one, upload a file or choose the example.")
    # A second more than allowed is read, so that a longer file is noticed but never decoded as a whole.
    limit = MAX_SECONDS + 1.0
    wanted = min(length or limit, limit)
    # a Path is never taken for a URL: strangers don't make this server fetch things
    samples, rate = audio.read_audio(Path(path), seconds=wanted, max_seconds=limit)
    name = audio.source_name(path)
    if len(samples) > MAX_SECONDS * rate:
        raise audio.HAFMAudioError(
            f"{name} is longer than {MAX_SECONDS:g} s; cut it, or set Length to use only its start."
        )
    if audio.is_silent(samples):
        raise audio.HAFMAudioError(f"{name} is silent; check the microphone, or sing closer to it.")
    return samples, rate


@lru_cache(maxsize=2)
def load_pipeline(model: str) -> Any:
    """The pipeline of an offered model, hafm-tiny or a hub id; the two last used stay in memory.

    Raises:
        ValueError: none of them, or it cannot be loaded.
    """
    known = (*OFFERED, BUNDLED_MODEL.name)
    if model not in known and (not HUB_ID.fullmatch(model) or Path(model).exists()):
        raise ValueError(f"{model!r} is no model; choose one of the list or type a hub id such as org/name.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = str(BUNDLED_MODEL) if model in (BUNDLED, BUNDLED_MODEL.name) else model
    try:
        return transformers.pipeline("vocal-accompaniment", model=source, device=device, trust_remote_code=False)
    except Exception as error:
        logger.warning(without_secrets(f"{model} cannot be loaded: {error}"))
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"The model {model!r} cannot be loaded: {reason}") from error


def on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """On ZeroGPU, lends `function` a GPU while it runs; elsewhere the function itself."""
    return function if spaces is None else spaces.GPU(duration=GPU_SECONDS)(function)


@on_gpu
def generate_songs(model: str, samples: audio.Samples, rate: int, parameters: dict[str, Any]) -> Iterator[list[Any]]:
    """Runs the pipeline; yields every REPORT_SECONDS what has been reported since, the songs last of all.

    Reports are (stage, done, total), and of a single song each piece as `HAFMPipeline.stream` yields it. Closing this
    generator stops the pipeline at its next token.
    """
    reports: queue.SimpleQueue[Any] = queue.SimpleQueue()
    closed = threading.Event()

    def progress(*report: Any) -> None:
        if closed.is_set():
            raise Cancelled
        reports.put(report)

    def work() -> None:
        try:
            with GENERATING:
                sound = {"array": samples, "sampling_rate": rate}
                pipeline = load_pipeline(model)
                if parameters["num_samples"] > 1:
                    songs = pipeline(sound, progress=progress, **parameters)
                else:
                    asked = {name: value for name, value in parameters.items() if name != "num_samples"}
                    pieces = []
                    for piece in pipeline.stream(sound, progress=progress, **asked):
                        pieces.append(piece)
                        reports.put(piece)
                    songs = [pipeline.join(pieces)]
            reports.put(songs)
        except Cancelled:
            logger.info("cancelled")
        except Exception as error:
            reports.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        found: list[Any] = []
        while not (found and isinstance(found[-1], list)):
            found = reported(reports)
            if found and isinstance(found[-1], Exception):
                raise found[-1]
            yield found
    finally:
        closed.set()


def reported(reports: queue.SimpleQueue[Any]) -> list[Any]:
    """All that was reported within REPORT_SECONDS, or until there is a result (neither counts nor a piece)."""
    deadline = time.monotonic() + REPORT_SECONDS
    found: list[Any] = []
    while (left := deadline - time.monotonic()) > 0 and (not found or isinstance(found[-1], tuple | dict)):
        try:
            found.append(reports.get(timeout=left))
        except queue.Empty:
            break
    return found


def make_job(request: Request, live: LiveMix | None = None) -> Generator[Stages | bytes | Job, None, None]:
    """Reads, generates and writes: yields how far it is, the next piece of the mix as a WAV, and at last the job.

    Args:
        request: what is wanted.
        live: what mixes the pieces of a single song; none are heard without it.

    Raises:
        ValueError: a request that cannot be fulfilled; the message is for the person.
    """
    began = time.monotonic()
    stages = Stages([stage for stage in STAGES if not (request.options.skip_fine and stage == "fine")])
    samples, rate = read_vocal(request.vocal, request.length)
    yield stages
    there = load_pipeline(request.model).model.stages
    stages.names = [stage for stage in stages.names if stage in there]
    parameters = request.parameters()
    songs: list[dict[str, Any]] = []
    with closing(generate_songs(request.model, samples, rate, parameters)) as reports:
        for found in reports:
            # of each stage the last report, so that none is left short of its end
            latest = {report[0]: report[1:] for report in found if isinstance(report, tuple)}
            for stage, counts in latest.items():
                stages.update(stage, *counts)
            songs = next((report for report in found if isinstance(report, list)), songs)
            yield stages
            if live is not None:
                yield from (live.add(piece) for piece in found if isinstance(piece, dict))
    name = re.sub(r"[^\w-]+", "_", Path(str(request.vocal)).stem)[:60] or "vocal"
    yield write_job(songs, name, parameters["seed"], time.monotonic() - began)


def sweep(folder: Path, age: float) -> None:
    """Removes files below a folder that have been there, untouched, for `age` seconds, and folders left empty."""
    oldest = time.time() - age
    for place, _, names in os.walk(folder, topdown=False):
        for path in [*(Path(place, name) for name in names), Path(place)]:
            with suppress(OSError):  # gone already, or not empty
                if path.stat().st_ctime > oldest or path == folder:
                    continue
                path.unlink() if path.is_file() else path.rmdir()


def keep_sweeping() -> None:
    """Starts the thread that sweeps JOBS as long as the process lives.

    Gradio's own `delete_cache` (6.31) left 449 files behind after 500 requests; by its code, it ends for good when a
    file is added while it counts.
    """

    def run() -> None:
        while True:
            time.sleep(min(max(KEEP_SECONDS / 4, 1.0), 60.0))
            sweep(JOBS, KEEP_SECONDS)

    threading.Thread(target=run, name="sweep", daemon=True).start()


def write_job(songs: list[dict[str, Any]], name: str, seed: int, seconds: float) -> Job:
    """Writes vocal, instrumentals and the zip of these stems, which `sweep` removes in time."""
    job = Job(Path(tempfile.mkdtemp(dir=JOBS)), name, len(songs), seed, seconds)
    rate = songs[0]["sampling_rate"]
    stems = [audio.write_audio(job.path("vocal", "wav"), songs[0]["vocals"], rate)]
    for number, song in enumerate(songs, start=1):
        for suffix in FORMATS:
            path = audio.write_audio(job.path("instrumental", suffix, number), song["audio"], rate)
            stems += [path] if suffix == "wav" else []
    with zipfile.ZipFile(job.path("stems", "zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        for path in stems:
            archive.write(path, path.name)
    return job


def mix_job(job: Job, variation: int, band_db: float) -> tuple[Path, Levels]:
    """Mixes stems that exist already: writes the mix as WAV and FLAC, and measures it.

    Args:
        band_db (dB): level of the instrumental in the mix.

    Returns:
        the WAV's path, and the levels of voice, instrumental and mix.

    Raises:
        HAFMAudioError: when the job has expired.
    """
    vocal, rate = job.read("vocal")
    instrumental, _ = job.read("instrumental", variation)
    mix = audio.mix_audio(vocal, instrumental, instrumental_gain_db=band_db)
    for suffix in FORMATS:
        audio.write_audio(job.path("mix", suffix, variation), mix, rate)
    levels = {"Voice": vocal, "Instrumental": instrumental, "Mix": mix}
    return job.path("mix", "wav", variation), measure(levels, rate)


def measure(sounds: dict[str, audio.Samples], rate: int) -> Levels:
    """Integrated loudness (ITU-R BS.1770, LUFS) and peak (dBFS) of sounds of at least 0.4 s; -inf for silence."""
    meter = pyloudnorm.Meter(rate)
    return {
        name: (float(meter.integrated_loudness(samples)), audio.peak_dbfs(samples)) for name, samples in sounds.items()
    }
