# SPDX-License-Identifier: Apache-2.0
"""Requests of the page, its links and the endpoint, and the songs generated for them.

`make_job` reads the vocal, generates a song or selected bars of one, and passes it to takes.py, which writes it.
"""

import ctypes
import math
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
import transformers

from hafm_hf import BUNDLED_MODEL, LeadSheet, audio  # importing hafm_hf registers the task
from hafm_hf.accompaniment.options import GenerationOptions, MixOptions, options_by_name
from hafm_hf.pretrained.redaction import first_line, without_secrets
from takes import Job, LiveTake, Remake, setting, write_job

try:
    import spaces
except ImportError:  # not on ZeroGPU
    spaces = None

logger = transformers.utils.logging.get_logger("hafm_space")

BUNDLED = "hafm-tiny (bundled)"
MAX_SECONDS = float(setting("MAX_SECONDS", "240"))
GPU_SECONDS = int(setting("GPU_SECONDS", "120"))
# The models that the page offers; the first is the default.
OFFERED = [name.strip() for name in setting("MODELS", BUNDLED).split(",") if name.strip()]
# A lock for each model that can be loaded.
LOADING = {model: threading.Lock() for model in (*OFFERED, BUNDLED_MODEL.name)}
# Options of a generation. A request makes one song, which becomes a take.
OPTIONS = {
    name: option
    for name, option in options_by_name(GenerationOptions).items()
    if not option.internal and name != "num_samples"
}
# Options of the mix that make a song longer than the voice; 0 by default.
ENDS = {name: options_by_name(MixOptions)[name] for name in ("intro_bars", "outro_bars", "tail")}
# The types of a request's values.
KINDS: dict[str, type] = {"model": str, **{name: option.kind for name, option in OPTIONS.items()}}
KINDS |= {"seconds": float, "tempo": float, **{name: option.kind for name, option in ENDS.items()}}
# Their defaults, which links leave out; the default for stems depends on the model, and no style is chosen.
USUAL: dict[str, Any] = {"model": OFFERED[0], **{name: option.default for name, option in OPTIONS.items()}}
USUAL |= {"style": None, "stems": None, "seconds": 0, "tempo": 0, **dict.fromkeys(ENDS, 0)}
MOST_WHOLE = 2**53  # JavaScript cannot represent larger integers exactly
# Interval at which a run checks whether it has been cancelled.
REPORT_SECONDS = 0.05
# Most characters of a voice's name in the names of a take's files.
LONGEST_NAME = 60
# Concurrent runs would share torch's random state and break reproducibility, so songs are generated one at a time.
GENERATING = threading.Lock()
# M_ARENA_MAX = 2: otherwise glibc keeps an arena, with memory for another song, for every thread that has ended
with suppress(AttributeError, OSError, TypeError):
    ctypes.CDLL(None).mallopt(-8, 2)


class Cancelled(Exception):
    """Raised in the middle of a stage when the run has been stopped."""


@dataclass
class Request:
    """A request from the page or the endpoint, with the pipeline's names for options.

    Args:
        vocal: the file; None if there is none yet.
        model: one of OFFERED.
        options: of the generation.
        seconds: how much of the vocal is used; 0: all.
        tempo: in beats a minute; 0: unknown.
        ends: what the band plays before and after the voice (bars; `tail`: s), by the names of ENDS, without zeros.
        lead_sheet: what is known of the voice.
        remake: replaces part of an earlier take; None: a new one.
    """

    vocal: str | None
    model: str
    options: GenerationOptions
    seconds: float = 0.0
    tempo: float = 0.0
    ends: Mapping[str, float] = field(default_factory=dict)
    lead_sheet: LeadSheet | None = None
    remake: Remake | None = None

    @classmethod
    def of(cls, vocal: Any, *values: Any) -> "Request":
        """Makes a request from values as Gradio's components send them.

        Gradio does not check them, because it would refuse without saying why.

        Args:
            vocal: {"path": file, …}, or None.
            values: in the order of KINDS; "" and None count as not given.

        Raises:
            ValueError: says which value is wrong.
        """
        given: dict[str, Any] = {}
        for (name, kind), value in zip(KINDS.items(), values, strict=True):
            if value == "":
                value = None
            # browsers do not distinguish 2.0 from 2
            if kind is int and isinstance(value, float) and value.is_integer():
                value = int(value)
            given[name] = value
        # the rest are options of the generation
        model, seconds, tempo = (given.pop(name) for name in ("model", "seconds", "tempo"))
        for name, value in {"seconds": seconds, "tempo": tempo}.items():
            if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"{name} is {value!r}; it must be 0 or more.")
        all_ends = {name: given.pop(name) for name in ENDS}
        ends = {name: value for name, value in all_ends.items() if value}
        MixOptions.of(given=ends)  # raises for values out of range
        options = GenerationOptions.of(given=given)
        path = (vocal or {}).get("path")
        # `load_pipeline` refuses a model that is missing or not offered; seconds and tempo are 0 if they are not given
        return cls(path, str(model), options, seconds or 0.0, tempo or 0.0, ends)

    def parameters(self) -> dict[str, Any]:
        """The arguments of the pipeline besides the vocal; if there is no seed, one is drawn here."""
        chosen = asdict(self.options)
        known = self.lead_sheet or LeadSheet()
        if self.remake is not None:
            # the kept part of a take determines the style; naming it as well makes the model ignore a new chord
            if chosen["style"] == self.remake.job.style:
                chosen["style"] = None
            known = replace(known, style=None).moved(self.remake.job.intro)
        if self.tempo and not known.has_beats:
            known = replace(known, tempo=self.tempo)
        parameters: dict[str, Any] = {"seed": secrets.randbelow(10**6)}
        parameters |= {name: chosen[name] for name in OPTIONS if chosen[name] is not None}
        if known != LeadSheet():
            parameters["lead_sheet"] = known
        if self.remake is not None:
            return {**parameters, **self.remake.parameters()}
        return {**parameters, **self.ends}


def read_link(query: str) -> dict[str, Any]:
    """The page's inputs by name, from a link of static/page.js; unknown names are ignored.

    Raises:
        ValueError: a value is out of range or of another type.
    """
    try:
        sent = dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True, max_num_fields=50))
        found = {name: _value(name, sent[name].strip(), kind) for name, kind in KINDS.items() if name in sent}
        values = {**USUAL, **found}  # in the order of KINDS, like USUAL
        Request.of(None, *values.values()).parameters()  # raises for values out of range
        if "model" in found and found["model"] not in OFFERED:
            raise ValueError("model is not one that this page offers.")
    except ValueError as error:
        raise ValueError(f"The settings of this link are not used: {error}") from error
    return found


def _value(name: str, text: str, kind: type) -> Any:
    """Converts the text of a link's parameter to a value of type `kind`; a ValueError with its name if it can't be."""
    if kind is str:
        return text
    if kind is bool:
        if text not in ("0", "1"):
            raise ValueError(f"{name} is {text!r}; it must be 1 or 0.")
        return text == "1"
    try:
        number = kind(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}; it must be a number.") from None
    if not abs(number) < MOST_WHOLE:  # written so that NaN fails
        raise ValueError(f"{name} is {text!r}; it must be a finite number below 2^53.")
    return number


def read_vocal(path: str | None, seconds: float | None) -> tuple[audio.Samples, int]:
    """Reads the samples of a voice, and raises the level of one that is too quiet.

    Args:
        path: of the file; None if there is none, which is an error.
        seconds: how much of it is read; 0 or None: all.

    Returns:
        float32 [N] or [N, 2], and their rate in Hz.

    Raises:
        HAFMAudioError: it is unusable, for instance silent or longer than MAX_SECONDS.
    """
    recording = read_recording(path, seconds)
    return audio.turned_up(recording.samples, recording.sampling_rate), recording.sampling_rate


def read_recording(path: str | None, seconds: float | None) -> audio.Recording:
    """Reads a voice like `read_vocal`, but leaves it as loud as it is; it comes with "remarks" for the singer."""
    if path is None:
        raise audio.HAFMAudioError("There is no voice yet: record one, upload a file or choose an example.")
    if not Path(path).exists():
        raise audio.HAFMAudioError("This voice has been removed from the server; record it again, or upload it again.")
    # files in use must not be swept away; an example may be on a read-only file system
    with suppress(OSError):
        os.utime(path)
    # reads a second more than allowed: enough to notice a longer file without decoding all of it
    limit = MAX_SECONDS + 1.0
    # a Path is never taken for a URL: clients must not make this server fetch things
    recording = audio.read_recording(Path(path), seconds=min(seconds or limit, limit), max_seconds=limit, keep=2)
    samples, rate = recording.samples, recording.sampling_rate
    name = audio.source_name(path)
    if len(samples) > MAX_SECONDS * rate:
        raise audio.HAFMAudioError(f"{name} is longer than {MAX_SECONDS:g} s; cut it, or set Seconds to use less.")
    if audio.is_silent(samples):
        raise audio.HAFMAudioError(f"{name} is silent; check the microphone, or sing closer to it.")
    return recording


def load_pipeline(model: str) -> Any:
    """Loads the pipeline of an offered model or hafm-tiny; the two that were used last are kept.

    Raises:
        ValueError: the model is not offered, or cannot be loaded.
    """
    if model not in LOADING:
        raise ValueError(f"There is no model {model!r}; choose one of {', '.join(OFFERED)}.")
    # two first users must not load it twice; those of other models do not wait
    with LOADING[model]:
        return _loaded_pipeline(model)


@lru_cache(maxsize=2)
def _loaded_pipeline(model: str) -> Any:
    """See `load_pipeline`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = str(BUNDLED_MODEL) if model in (BUNDLED, BUNDLED_MODEL.name) else model
    try:
        return transformers.pipeline("vocal-accompaniment", model=source, device=device, trust_remote_code=False)
    except Exception as error:
        logger.warning(without_secrets(f"{model} cannot be loaded: {error}"))
        raise ValueError(f"The model {model!r} cannot be loaded: {first_line(error)}") from error


def on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """On ZeroGPU, allocates a GPU while `function` runs; elsewhere returns the function unchanged."""
    if spaces is None:
        return function
    return spaces.GPU(duration=GPU_SECONDS)(function)


@on_gpu
def generate_song(model: str, samples: audio.Samples, rate: int, parameters: dict[str, Any]) -> Iterator[Any]:
    """Runs the pipeline in a thread. Closing this generator stops the pipeline at its next token.

    Args:
        model: one of OFFERED.
        samples (float32 [N] or [N, 2]): the vocal.
        rate: in Hz.
        parameters: of the pipeline. With "keep", the song comes whole, without chunks.

    Yields:
        The chunks of `HAFMPipeline.stream`, None while there is nothing new, and finally [song].
    """
    reports: queue.SimpleQueue[Any] = queue.SimpleQueue()
    closed = threading.Event()

    def progress(*_: Any) -> None:
        """Ends the pipeline, which calls it for every token, after the generator has been closed."""
        if closed.is_set():
            raise Cancelled

    def work() -> None:
        """Puts chunks into `reports`, and then [song]; or the error."""
        try:
            with GENERATING:
                sound = {"array": samples, "sampling_rate": rate}
                pipeline = load_pipeline(model)
                if "keep" in parameters:
                    reports.put([pipeline(sound, progress=progress, **parameters)])
                    return
                pieces = []
                for piece in pipeline.stream(sound, progress=progress, **parameters):
                    pieces.append(piece)
                    reports.put(piece)
                reports.put([pipeline.join(pieces)])
        except Cancelled:
            logger.info("cancelled")
        except Exception as error:
            reports.put(error)

    threading.Thread(target=work, daemon=True).start()
    report = None
    try:
        # the only list is [song], the last report
        while not isinstance(report, list):
            report = None
            with suppress(queue.Empty):
                report = reports.get(timeout=REPORT_SECONDS)
            if isinstance(report, Exception):
                raise report
            yield report
    finally:
        closed.set()


def make_job(
    request: Request, live: LiveTake | None = None, stopped: Callable[[], bool] = lambda: False
) -> Generator[dict[str, Any] | Job | None, None, None]:
    """Reads the vocal of a request, generates its song, and writes that.

    Args:
        request: the request.
        live: gets the chunks as they come; None if nobody plays them before the end.
        stopped: says whether to stop. What `live` has by then becomes the job, if it reaches the voice.

    Yields:
        The song so far (`LiveTake.add`), None while there is nothing new, and finally the job, if there is one.

    Raises:
        ValueError: with a message for the user.
    """
    began = time.monotonic()
    pipeline = load_pipeline(request.model)
    remake = request.remake
    if remake is None:
        samples, rate = read_vocal(request.vocal, request.seconds)
    else:
        samples, rate = remake.job.read("vocal")
    parameters = request.parameters()
    songs: list[dict[str, Any]] = []  # one, when it is finished
    if live is not None:
        live.seed = parameters["seed"]
    with closing(generate_song(request.model, samples, rate, parameters)) as reports:
        for part in reports:
            if stopped():
                break
            if isinstance(part, list):
                songs = part
            if live is not None and isinstance(part, dict):
                yield live.add(part, request.vocal, samples, rate)
            else:
                yield None
    complete = bool(songs)
    if not songs and live is not None and live.chunks and live.seconds > live.chunks[0]["vocal_start"]:
        songs = [pipeline.join(live.chunks)]
    if not songs:
        return
    song = songs[0]
    style = song["lead_sheet"].style
    if remake is None:
        added = len(song["vocals"]) / song["sampling_rate"] - len(samples) / rate
    else:
        song = remake.paste(song)
        # the kept part determined it
        style = style or remake.job.style
        added = remake.job.added
    folder = None
    excess = 0.0
    if live is not None:
        # the pieces that have been played are the take's
        folder = live.folder
        excess = live.finish(song)
    yield write_job(
        song,
        folder,
        name=re.sub(r"[^\w-]+", "_", Path(str(request.vocal)).stem)[:LONGEST_NAME] or "vocal",
        seed=parameters["seed"],
        elapsed=time.monotonic() - began,
        source=str(request.vocal),
        added=added,
        # a style that changes within the song is not a single name
        style=style if isinstance(style, str) else "",
        excess=excess,
        stopped=not complete,
        remade=remake is not None,
    )
