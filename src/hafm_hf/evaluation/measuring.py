# SPDX-License-Identifier: Apache-2.0
"""Measures one clip with all its candidates: the unit of work of a worker process or a Ray task.

Measurements depend on the audio only, so they are cached on disk under its hash: a killed run resumes and gives the
same numbers. Dimensions: N samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_files import replacing
from ..audio import HAFMAudioError, Samples, pad_end, resample, without_offset
from ..computing import torch_threads
from .datasets import Clip, Part
from .embedders import Embedder, EmbedderOptions, Embeddings, make_embedder
from .features import ANALYSIS_RATE, FEATURES_VERSION, Features, extract
from .fools import FOOLS, NEEDS_REFERENCE
from .retrieval import BankItem, random_retrieved, retrieved
from .statistics import HAFMEvaluationError

# names of the candidates that are not a system's
REFERENCE = "reference"
SHUFFLED = "shuffled reference"
RETRIEVAL = "retrieval"
RANDOM = "random retrieval"
# a candidate may be this much shorter than its vocal
LONGEST_GAP_SECONDS = 0.5


@dataclass(frozen=True)
class ClipJob:
    """One clip with the accompaniments rendered for it.

    Args:
        clip: vocal and reference.
        outputs: rendered accompaniments by the name of the candidate (a system, or a system and a seed).
        shuffled: the reference accompaniment of another song; None if some clips have no reference.
    """

    clip: Clip
    outputs: dict[str, Part]
    shuffled: Part | None = None


@dataclass(frozen=True)
class Candidate:
    """Measurements of one accompaniment.

    Args:
        features: its features.
        embeddings (float32 [embeddings, width]): its embeddings, by embedder.
        mixes (float32 [embeddings, width]): embeddings, by embedder, of the voice mixed with the accompaniment at the
            level of the reference; empty without a reference.
    """

    features: Features
    embeddings: dict[str, Embeddings]
    mixes: dict[str, Embeddings] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """Measurements of a clip: its name and song, its voice, its reference if any, and its candidates by name."""

    name: str
    song: str
    voice: Features
    reference: Features | None
    candidates: dict[str, Candidate]


@dataclass(frozen=True)
class MeasuringOptions:
    """How clips are measured.

    Args:
        embedders: embedders to compute embeddings with.
        baselines: whether to measure fools and retrieval as well; the reference is always measured.
        bank: instrumentals for the retrieval baselines; without any, these are skipped.
        cache: folder for caching measurements; None disables the cache.
    """

    embedders: tuple[EmbedderOptions, ...] = (EmbedderOptions(),)
    baselines: bool = True
    bank: tuple[BankItem, ...] = ()
    cache: Path | None = None


class Measurer:
    """Measures jobs; embedders are loaded once and reused.

    Args:
        options: what to measure, and where to cache it.
    """

    def __init__(self, options: MeasuringOptions) -> None:
        self.options = options

    @cached_property
    def embedders(self) -> dict[str, Embedder]:
        """Embedders by name, loaded on first use."""
        embedders = [make_embedder(options) for options in self.options.embedders]
        return {embedder.name: embedder for embedder in embedders}

    def measure(self, job: ClipJob) -> Measurement:
        """Reads a clip and measures its voice, its reference and all its candidates (see `_candidates`).

        Raises:
            HAFMAudioError: an audio file is missing or damaged, or has samples that are not finite.
            HAFMEvaluationError: an accompaniment is more than 0.5 s shorter than its vocal.
        """
        clip = job.clip
        vocal, rate = clip.vocal.read()
        voice_sound = Sound(without_offset(vocal), rate)
        voice = replace(self.features(voice_sound, voice=True), lead_sheet=clip.lead_sheet())
        reference = None
        reference_features = None
        if clip.reference is not None:
            reference = Sound(*clip.reference.read())
            reference_features = self.features(reference)
        candidates = {}
        for system, sound in self._candidates(job, voice_sound, voice, reference):
            embeddings = {name: self._embedding(sound, embedder) for name, embedder in self.embedders.items()}
            mixes = {}
            if reference is not None:
                mix = mixed(voice_sound, sound, reference)
                mixes = {name: self._embedding(mix, embedder) for name, embedder in self.embedders.items()}
            candidates[system] = Candidate(self.features(sound), embeddings, mixes)
        return Measurement(clip.name, clip.song, voice, reference_features, candidates)

    def _candidates(
        self, job: ClipJob, vocal: Sound, voice: Features, reference: Sound | None
    ) -> Iterator[tuple[str, Sound]]:
        """Yields the name and sound of each accompaniment to measure, so that one at a time is in memory.

        They are the systems' outputs, then the clip's reference and another song's, if there are any, then retrieval
        and fools, if baselines are to be measured.

        Args:
            job: the clip and its outputs.
            vocal, reference: the clip's sounds; `reference` is None if there is none.
            voice: features of the vocal.

        Raises:
            HAFMEvaluationError: an output is more than 0.5 s shorter than the vocal.
        """
        seconds = len(vocal.samples) / vocal.rate
        for system, part in job.outputs.items():
            yield system, as_long_as(Sound(*part.read()), seconds, f"The {system} accompaniment of {job.clip.name}")
        if reference is not None:
            yield REFERENCE, reference
            if job.shuffled is not None:
                yield SHUFFLED, Sound(*job.shuffled.read())
        if not self.options.baselines:
            return
        length = len(vocal.analysed)
        if self.options.bank:
            yield RETRIEVAL, Sound(retrieved(self.options.bank, voice, length), ANALYSIS_RATE)
            yield RANDOM, Sound(random_retrieved(self.options.bank, job.clip.name, length), ANALYSIS_RATE)
        reference_samples = None
        if reference is not None:
            reference_samples = reference.analysed
        for name, fool in FOOLS.items():
            if name not in NEEDS_REFERENCE or reference is not None:
                yield name, Sound(fool(vocal.analysed, voice, reference_samples), ANALYSIS_RATE)

    def features(self, sound: Sound, voice: bool = False) -> Features:
        """Features of a sound, cached on disk; with `voice` (the sound is a vocal), its pitch is measured as well."""
        name = f"features/{sound.key}-{int(voice)}-{FEATURES_VERSION}"
        return Features.of(self._cached(name, lambda: extract(sound.analysed, voice=voice).measured()))

    def _embedding(self, sound: Sound, embedder: Embedder) -> Embeddings:
        """Embeddings (float32 [embeddings, width]) of a sound, resampled to the embedder's rate; cached on disk."""
        name = f"embeddings/{embedder.identity}/{sound.key}"
        arrays = self._cached(name, lambda: {"embeddings": embedder.embed(sound.at(embedder.sampling_rate))})
        return arrays["embeddings"]

    def _cached(self, name: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The arrays that `make` returns, by name, cached in `name`.npz; if that exists, `make` is not called."""
        if self.options.cache is None:
            return make()
        path = self.options.cache / f"{name}.npz"
        if not path.exists():
            arrays = make()
            with replacing(path) as file:
                np.savez(file, **arrays)
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)


class Sound:
    """Mono samples (float32 [N] at `rate` Hz), with their hash and resampled versions."""

    def __init__(self, samples: Samples, rate: int) -> None:
        self.samples = samples
        self.rate = rate

    @cached_property
    def key(self) -> str:
        """Hash of the samples and their rate, 32 hexadecimal digits."""
        return hashlib.sha256(f"{self.rate}/".encode() + self.samples.tobytes()).hexdigest()[:32]

    @cached_property
    def analysed(self) -> Samples:
        """The samples at the analysis rate, 16 kHz."""
        return self.at(ANALYSIS_RATE)

    def at(self, rate: int) -> Samples:
        """The samples at another rate in Hz."""
        return resample(self.samples, self.rate, rate)


def as_long_as(sound: Sound, seconds: float, name: str) -> Sound:
    """The sound cut to `seconds`, or padded with up to half a second of silence.

    Args:
        sound: an accompaniment.
        seconds: length of its vocal.
        name: of the accompaniment, for the message.

    Raises:
        HAFMEvaluationError: it would need more than half a second of padding.
    """
    length = round(seconds * sound.rate)
    missing = length - len(sound.samples)
    if missing > LONGEST_GAP_SECONDS * sound.rate:
        raise HAFMEvaluationError(
            f"{name} is {len(sound.samples) / sound.rate:.2f} s long and its vocal {seconds:.2f} s; render all of it."
        )
    return Sound(pad_end(sound.samples[:length], length), sound.rate)


def mixed(vocal: Sound, accompaniment: Sound, reference: Sound) -> Sound:
    """The voice mixed with an accompaniment scaled to the loudness of the reference, at the reference's rate.

    It is as long as the shorter of voice and accompaniment.
    """
    rate = reference.rate
    voice = vocal.at(rate)
    band = accompaniment.at(rate)
    length = min(len(voice), len(band))
    level = rms(band)
    # a silent accompaniment adds nothing
    gain = 0.0
    if level > 0.0:
        gain = rms(reference.samples) / level
    return Sound(voice[:length] + np.float32(gain) * band[:length], rate)


def rms(samples: Samples) -> float:
    """Root of the mean square of float32 [N]; 0 if it is empty."""
    if not len(samples):
        return 0.0
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def measure(options: MeasuringOptions, job: ClipJob) -> Measurement:
    """Measures one job; embedders are loaded once per process.

    Raises:
        HAFMEvaluationError: the clip's audio cannot be used, or its labels are invalid.
    """
    # one thread everywhere, as in a worker process: the number of threads changes the last digits of sums
    with torch_threads(1):
        try:
            return _measurer(options).measure(job)
        except HAFMAudioError as error:
            raise HAFMEvaluationError(f"The clip {job.clip.name} cannot be measured: {error}") from error


# keeps the measurer of the latest options
_measurer = lru_cache(maxsize=1)(Measurer)
