# SPDX-License-Identifier: Apache-2.0
"""From a vocal to songs, for the page and for the endpoint alike.

`make_job` reads the vocal, generates a song or the selected bars of one, and hands it to takes.py, which writes it.
"""

from __future__ import annotations

import ctypes
import math
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers

from hafm_hf import BUNDLED_MODEL, LeadSheet, audio  # importing anything of it registers the task
from hafm_hf.accompaniment.options import PUBLIC_OPTIONS, GenerationOptions, MixOptions
from hafm_hf.accompaniment.song import drawn_style
from hafm_hf.pretrained.redaction import first_line, without_secrets
from takes import Job, LiveTake, Remake, setting, write_job

try:
    import spaces
except ImportError:  # not on ZeroGPU
    spaces = None

logger = transformers.utils.logging.get_logger("hafm_space")

BUNDLED = "hafm-tiny (bundled)"
MAX_SECONDS = float(setting("MAX_SECONDS", "120"))
GPU_SECONDS = int(setting("GPU_SECONDS", "120"))
# The models of the list; the first is chosen.
OFFERED = [name.strip() for name in setting("MODELS", BUNDLED).split(",") if name.strip()]
# Of a generation. More songs than one are asked for one after another: each is a take.
OPTIONS = {name: option for name, option in PUBLIC_OPTIONS.items() if name != "num_samples"}
# How often a run checks whether it has been cancelled.
REPORT_SECONDS = 0.05
# A seed gives the same song only while nobody else draws random numbers, so songs are generated one after another.
GENERATING = threading.Lock()
# M_ARENA_MAX: for every thread that comes and goes, glibc would keep memory for another song
with suppress(AttributeError, OSError, TypeError):
    ctypes.CDLL(None).mallopt(-8, 2)


class Cancelled(Exception):
    """Raised in the middle of a stage after the Cancel button was pressed."""


@dataclass
class Request:
    """What the page or the endpoint asks for, by the names of the pipeline's options; 0 is as if it were not given.

    `vocal` is a file, `model` one of OFFERED; of the vocal the first `seconds` are used. With a `remake`, only a part
    of an earlier take is generated again.
    """

    vocal: str | None
    model: str
    options: GenerationOptions
    seconds: float = 0.0
    tempo: float = 0.0
    tail: float = 0.0
    lead_sheet: LeadSheet | None = None
    remake: Remake | None = None

    @classmethod
    def of(cls, vocal: Any, model: Any, *values: Any) -> Request:
        """A request by the values of OPTIONS, then seconds, tempo and tail, as Gradio's components send them.

        Gradio is not asked to check them: what it refuses, it refuses before we can say why; a ValueError does.
        """
        *chosen, seconds, tempo, tail = (None if value == "" else value for value in values)
        given = {name: whole(value) for name, value in zip(OPTIONS, chosen, strict=True)}
        for name, value in {"seconds": seconds, "tempo": tempo}.items():
            if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"{name} is {value!r}; it must be 0 or more.")
        path, mix = (vocal or {}).get("path"), MixOptions.of(given={"tail": tail})
        return cls(path, str(model), GenerationOptions.of(given=given), seconds or 0.0, tempo or 0.0, mix.tail)

    def parameters(self) -> dict[str, Any]:
        """What the pipeline is called with; a seed that is not given is drawn here."""
        chosen, known = asdict(self.options), self.lead_sheet or LeadSheet()
        if self.remake is not None:
            # what is kept of a take says itself who plays; its style, told again, drowns a new chord
            chosen["style"] = None if chosen["style"] == self.remake.job.style else chosen["style"]
            known = replace(known, style=None)
        parameters = {name: chosen[name] for name in OPTIONS if chosen[name] is not None}
        if self.tempo and not known.has_beats:
            known = replace(known, tempo=self.tempo)
        parameters |= {"lead_sheet": known} if known != LeadSheet() else {}
        parameters |= {"tail": self.tail} if self.tail else {}
        if self.remake is not None:
            parameters |= self.remake.parameters()
        return {"seed": secrets.randbelow(10**6), **parameters}


def whole(value: Any) -> Any:
    """A value, as an int where it is a whole number: browsers do not tell 2.0 from 2."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_vocal(path: str | None, seconds: float | None) -> tuple[audio.Samples, int]:
    """Samples (float32 [N] or [N, C]) of so many seconds, all if 0, and rate; a HAFMAudioError says why not."""
    if path is None:
        raise audio.HAFMAudioError("There is no voice yet: record one, upload a file or choose an example.")
    if not Path(path).exists():
        raise audio.HAFMAudioError("This voice has been removed from the server; record it again, or upload it again.")
    # what is in use isn't swept away; an example may lie where nothing can be written
    with suppress(OSError):
        os.utime(path)
    # a second more than allowed is read: a longer file is noticed, but never decoded as a whole
    limit = MAX_SECONDS + 1.0
    # as a Path, it is never taken for a URL: strangers must not make this server fetch things
    samples, rate = audio.read_audio(Path(path), seconds=min(seconds or limit, limit), max_seconds=limit, mono=False)
    name = audio.source_name(path)
    if len(samples) > MAX_SECONDS * rate:
        raise audio.HAFMAudioError(f"{name} is longer than {MAX_SECONDS:g} s; cut it, or set Seconds to use less.")
    if audio.is_silent(samples):
        raise audio.HAFMAudioError(f"{name} is silent; check the microphone, or sing closer to it.")
    return samples, rate


@lru_cache(maxsize=2)
def load_pipeline(model: str) -> Any:
    """The pipeline of an offered model, or hafm-tiny; the last two stay. A ValueError says why there is none."""
    if model not in (*OFFERED, BUNDLED_MODEL.name):
        raise ValueError(f"There is no model {model!r}; choose one of {', '.join(OFFERED)}.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = str(BUNDLED_MODEL) if model in (BUNDLED, BUNDLED_MODEL.name) else model
    try:
        return transformers.pipeline("vocal-accompaniment", model=source, device=device, trust_remote_code=False)
    except Exception as error:
        logger.warning(without_secrets(f"{model} cannot be loaded: {error}"))
        raise ValueError(f"The model {model!r} cannot be loaded: {first_line(error)}") from error


def on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """On ZeroGPU, lends `function` a GPU while it runs; elsewhere the function itself."""
    return function if spaces is None else spaces.GPU(duration=GPU_SECONDS)(function)


@on_gpu
def generate_song(model: str, samples: audio.Samples, rate: int, parameters: dict[str, Any]) -> Iterator[Any]:
    """Runs the pipeline; yields its reports as they come, and the song last.

    Reports are the pieces that `HAFMPipeline.stream` yields, None where there is nothing new, and [the song]. Closing
    this generator stops the pipeline at its next token.
    """
    reports: queue.SimpleQueue[Any] = queue.SimpleQueue()
    closed = threading.Event()

    def progress(*_: Any) -> None:
        if closed.is_set():
            raise Cancelled

    def work() -> None:
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
    """Reads, generates and writes: yields what is there of the song, None where that is nothing new, and last the job.

    Once it is stopped, what `live` has by then becomes the job; else there is none. ValueErrors are for the person.
    """
    began = time.monotonic()
    samples, rate = read_vocal(request.vocal, request.seconds)
    pipeline, seconds = load_pipeline(request.model), len(samples) / rate + request.tail
    parameters = request.parameters()
    styles, remake = pipeline.model.styles, request.remake
    if styles and not (remake or request.options.style or request.lead_sheet and request.lead_sheet.style):
        parameters["style"] = drawn_style(styles, parameters["seed"])
    songs: list[dict[str, Any]] = []
    with closing(generate_song(request.model, samples, rate, parameters)) as reports:
        for report in reports:
            if stopped():
                break
            if isinstance(report, list):
                songs = report
            yield live.add(report, seconds, request.vocal) if isinstance(report, dict) and live is not None else None
    if not songs and live is not None and live.pieces:
        songs = [pipeline.join(live.pieces)]
    if not songs:
        return
    songs = songs if remake is None else [remake.paste(songs[0])]
    name = re.sub(r"[^\w-]+", "_", Path(str(request.vocal)).stem)[:60] or "vocal"
    style = parameters.get("style") or (remake.job.style if remake else "")
    about = {"tail": parameters.get("tail", 0.0), "style": style, "seed": parameters["seed"]}
    yield write_job(songs[0], name=name, elapsed=time.monotonic() - began, source=str(request.vocal), **about)
