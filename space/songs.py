# SPDX-License-Identifier: Apache-2.0
"""From a vocal to songs, for the page and for the endpoint alike.

`make_job` reads the vocal, generates songs or the selected bars of one, and hands them to takes.py, which writes them.
"""

from __future__ import annotations

import math
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers

from hafm_hf import BUNDLED_MODEL, LeadSheet, audio  # importing anything of it registers the task
from hafm_hf.accompaniment.options import PUBLIC_OPTIONS, GenerationOptions, MixOptions
from hafm_hf.pretrained.redaction import without_secrets
from takes import Job, LiveTake, Remake, setting, write_job

try:
    import spaces
except ImportError:  # not on ZeroGPU
    spaces = None

logger = transformers.utils.logging.get_logger("hafm_space")


BUNDLED = "hafm-tiny (bundled)"
MAX_SECONDS = float(setting("MAX_SECONDS", "120"))
GPU_SECONDS = int(setting("GPU_SECONDS", "120"))
# The models of the list; the first is chosen. Hub ids can be typed, but no other folder of this machine.
OFFERED = [name.strip() for name in setting("MODELS", BUNDLED).split(",") if name.strip()]
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# How often a run checks whether it has been cancelled.
REPORT_SECONDS = 0.05
# A seed gives the same song only while nobody else draws random numbers, so songs are generated one after another.
GENERATING = threading.Lock()


class Cancelled(Exception):
    """Raised in the middle of a stage after the Cancel button was pressed."""


@dataclass
class Request:
    """What the page or the endpoint asks for.

    Args:
        vocal: file of the voice.
        model: one of OFFERED, or a hub id.
        options: of generation.
        seconds: how much of the vocal is used, from its start; all if 0.
        tempo (beats per minute): estimated, or that of the lead sheet, if 0.
        tail (s): how long the band goes on after the voice, fading out.
        lead_sheet: what is known of the song.
        remake: the part of an earlier take to generate again, if only a part is wanted.
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
        """A request by the values of PUBLIC_OPTIONS, then seconds, tempo and tail, as Gradio's components send them.

        Gradio is not asked to check them: what it refuses, it refuses before we can say why.

        Raises:
            ValueError: an option of another type or out of range.
        """
        *chosen, seconds, tempo, tail = (None if value == "" else value for value in values)
        given = {name: whole(value) for name, value in zip(PUBLIC_OPTIONS, chosen, strict=True)}
        path = vocal.get("path") if isinstance(vocal, dict) else vocal
        for name, value in {"seconds": seconds, "tempo": tempo}.items():
            if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"{name} is {value!r}; it must be 0 or more.")
        mix = MixOptions.of(given={"tail": tail})
        return cls(path, str(model), GenerationOptions.of(given=given), seconds or 0.0, tempo or 0.0, mix.tail)

    def parameters(self) -> dict[str, Any]:
        """What the pipeline is called with; a seed that is not given is drawn here."""
        parameters = {name: value for name, value in asdict(self.options).items() if value is not None}
        known = self.lead_sheet or LeadSheet()
        if self.tempo and not known.has_beats:
            known = replace(known, tempo=self.tempo)
        if known != LeadSheet():
            parameters["lead_sheet"] = known
        if self.tail:
            parameters["tail"] = self.tail
        if self.remake is not None:
            parameters |= self.remake.parameters()
        return {"seed": secrets.randbits(31), **parameters}


def whole(value: Any) -> Any:
    """A value, as an int where it is a whole number: browsers do not tell 2.0 from 2."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_vocal(path: str | None, seconds: float | None) -> tuple[audio.Samples, int]:
    """Reads a recording, or says in one sentence why it cannot be used.

    Args:
        path: file; None when there is none.
        seconds: use only this much from the start; all if None or 0.

    Returns:
        samples (float32 [N] or [N, C]) and their rate in Hz.

    Raises:
        HAFMAudioError: no file, not audio, too short, too long, silent.
    """
    if path is None:
        raise audio.HAFMAudioError("There is no voice yet: record one, upload a file or choose an example.")
    if not Path(path).exists():
        raise audio.HAFMAudioError("This voice has been removed from the server; record it again, or upload it again.")
    # a second more than allowed is read: a longer file is noticed, but never decoded as a whole
    limit = MAX_SECONDS + 1.0
    wanted = min(seconds or limit, limit)
    # as a Path, it is never taken for a URL: strangers must not make this server fetch things
    samples, rate = audio.read_audio(Path(path), seconds=wanted, max_seconds=limit, mono=False)
    name = audio.source_name(path)
    if len(samples) > MAX_SECONDS * rate:
        raise audio.HAFMAudioError(
            f"{name} is longer than {MAX_SECONDS:g} s; cut it, or set Seconds to use only its start."
        )
    if audio.is_silent(samples):
        raise audio.HAFMAudioError(f"{name} is silent; check the microphone, or sing closer to it.")
    return samples, rate


@lru_cache(maxsize=2)
def load_pipeline(model: str) -> Any:
    """The pipeline of an offered model, hafm-tiny or a hub id; the last two stay in memory.

    Raises:
        ValueError: none of them, or it cannot be loaded.
    """
    known = (*OFFERED, BUNDLED_MODEL.name)
    if model not in known and (not HUB_ID.fullmatch(model) or Path(model).exists()):
        raise ValueError(f"There is no model {model!r}; choose one from the list, or type a hub id such as org/name.")
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
def generate_songs(model: str, samples: audio.Samples, rate: int, parameters: dict[str, Any]) -> Iterator[Any]:
    """Runs the pipeline; yields its reports as they come, and the songs last.

    Reports are (stage, done, total), for a single song each piece that `HAFMPipeline.stream` yields, and None where
    there is nothing new. Closing this generator stops the pipeline at its next token.
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
                if parameters["num_samples"] > 1 or "keep" in parameters:
                    made = pipeline(sound, progress=progress, **parameters)
                    songs = made if isinstance(made, list) else [made]
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
    report = None
    try:
        while not isinstance(report, list):
            try:
                report = reports.get(timeout=REPORT_SECONDS)
            except queue.Empty:
                report = None
            if isinstance(report, Exception):
                raise report
            yield report
    finally:
        closed.set()


def make_job(
    request: Request, live: LiveTake | None = None, stopped: Callable[[], bool] = lambda: False
) -> Generator[float | dict[str, Any] | Job, None, None]:
    """Reads, generates and writes: yields its share from 0 to 1, what is there of a single song, and last the job.

    Args:
        request: what is wanted.
        live: takes the pieces of a single song; without it, none are yielded.
        stopped: whether to end. What `live` has by then becomes the job; without it, there is none.

    Raises:
        ValueError: a request that cannot be fulfilled; the message is for the person.
    """
    began = time.monotonic()
    yield 0.0
    samples, rate = read_vocal(request.vocal, request.seconds)
    pipeline, seconds = load_pipeline(request.model), len(samples) / rate + request.tail
    there = [name for name in pipeline.model.stages if not (request.options.skip_fine and name == "fine")]
    done = dict.fromkeys(there, 0.0)
    parameters = request.parameters()
    songs: list[dict[str, Any]] = []
    with closing(generate_songs(request.model, samples, rate, parameters)) as reports:
        for report in reports:
            if stopped():
                break
            if isinstance(report, tuple):
                stage, count, total = report
                done[stage] = count / max(total, 1)
            elif isinstance(report, list):
                songs = report
            elif isinstance(report, dict) and live is not None:
                yield live.add(report, seconds)
            yield sum(done.values()) / len(done)
    if not songs and live is not None and live.pieces:
        songs = [pipeline.join(live.pieces)]
    if not songs:
        return
    if request.remake is not None:
        songs = [request.remake.paste(songs[0])]
    name = re.sub(r"[^\w-]+", "_", Path(str(request.vocal)).stem)[:60] or "vocal"
    about = {"tail": parameters.get("tail", 0.0), "style": request.options.style or ""}
    yield write_job(songs, name, parameters["seed"], time.monotonic() - began, str(request.vocal), **about)
