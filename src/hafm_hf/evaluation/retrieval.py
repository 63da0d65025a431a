# SPDX-License-Identifier: Apache-2.0
"""The baseline that needs no model: an instrumental of the training split in the singer's key and tempo.

The paper's retrieval baseline (section "Evaluation"): nearest by key and tempo; here it is also brought to the very
key and tempo by librosa's phase vocoder.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..audio import Samples, resample
from ..audio.librosa_loading import load_librosa
from .datasets import Clip, Part, spread
from .features import ANALYSIS_RATE, Features, extract
from .harmony import fit_of_keys
from .statistics import HAFMEvaluationError
from .timing import tempo_of

# instrumentals of the bank at most, and how much of each: enough keys and tempi for a near one
BANK_SIZE, BANK_SECONDS = 1000, 40.0
STRETCH_WINDOW = 1024
DEFAULT_TEMPO = 100.0
# one semitone of shifting costs as much as this many octaves of stretching
SEMITONE_COST = 0.05


@dataclass(frozen=True)
class BankItem:
    """An instrumental that can be retrieved: where it lies, its song, its key (0–11 major, 12–23 minor), tempo in
    beats a minute, and seconds of its beats."""

    part: Part
    song: str
    key: int
    tempo: float
    beats: tuple[float, ...]


def build_bank(clips: Sequence[Clip], evaluated: Sequence[Clip]) -> list[BankItem]:
    """Measures the first 40 s of up to 1000 instrumentals of a training split, evenly spread over it.

    Args:
        clips: of the training split.
        evaluated: the clips of the test, which must not be among them.

    Raises:
        HAFMEvaluationError: a song or a file of the test is among them, or nothing is.
    """
    songs = {clip.song for clip in evaluated} & {clip.song for clip in clips}
    sets = (evaluated, clips)
    tested, trained = ({clip.reference.path.resolve() for clip in each if clip.reference} for each in sets)
    files = tested & trained
    if files or songs:
        shared = sorted(songs) or sorted(map(str, files))
        raise HAFMEvaluationError(
            f"The retrieval bank holds {len(shared)} songs of the test ({shared[0]} …); name a training split."
        )
    usable = [clip for clip in clips if clip.reference is not None]
    bank = [item for item in (_measure(clip) for clip in spread(usable, BANK_SIZE)) if item is not None]
    if not bank:
        raise HAFMEvaluationError("All instrumentals of the retrieval bank are silent; name a training split.")
    return bank


def _measure(clip: Clip) -> BankItem | None:
    assert clip.reference is not None
    part = replace(clip.reference, seconds=BANK_SECONDS)
    samples, rate = part.read()
    features = extract(resample(samples, rate, ANALYSIS_RATE))
    if not features.chroma.any():
        return None
    beats = tuple(features.beats.tolist())
    return BankItem(part, clip.song, int(np.argmax(fit_of_keys(features))), estimate_tempo(features), beats)


def estimate_tempo(features: Features) -> float:
    """Beats a minute by the median distance of the beats; 100 where there are fewer than three."""
    return tempo_of(features.beats) if len(features.beats) > 2 else DEFAULT_TEMPO


def semitones_between(source: int, target: int) -> int:
    """Semitones (−5 … 6) that bring the key `source` to `target`; a minor key is met by its relative major."""
    tonic_source, tonic_target = ((key % 12 + 3 * (key >= 12)) % 12 for key in (source, target))
    shift = (tonic_target - tonic_source) % 12
    return shift - 12 if shift > 6 else shift


def stretch_between(source: float, target: float) -> float:
    """Rate (0.71 … 1.41) that brings the tempo `source` to `target`, a half or a double of it."""
    octaves = math.log2(target / source)
    return 2.0 ** (octaves - round(octaves))


def retrieve(bank: Sequence[BankItem], voice: Features) -> tuple[BankItem, int, float]:
    """The bank's item that needs the least change to be in the voice's key and tempo, that shift and that rate."""
    key, tempo = int(np.argmax(fit_of_keys(voice))), estimate_tempo(voice)

    def cost(item: BankItem) -> tuple[float, str]:
        shift, rate = semitones_between(item.key, key), stretch_between(item.tempo, tempo)
        return round(abs(shift) * SEMITONE_COST + abs(math.log2(rate)), 9), str(item.part)

    item = min(bank, key=cost)
    return item, semitones_between(item.key, key), stretch_between(item.tempo, tempo)


def retrieved(bank: Sequence[BankItem], voice: Features, length: int) -> Samples:
    """The nearest instrumental in the voice's key and tempo, with one of its beats on the voice's first.

    Its beginning is left out up to the first beat that can lie there. Where none can, because the voice enters later
    than its last beat, it begins after a silence.

    Args:
        bank: of the training split.
        voice: features of the vocal.
        length: samples wanted, at 16 kHz.

    Returns:
        float32 [length] at 16 kHz.
    """
    librosa = load_librosa()
    item, shift, rate = retrieve(bank, voice)
    samples, source_rate = item.part.read()
    sound = resample(samples, source_rate, ANALYSIS_RATE)
    start = round(_lead(item, voice, rate) * ANALYSIS_RATE)
    needed = math.ceil(length * rate) + ANALYSIS_RATE
    sound = np.pad(fill(sound[max(start, 0) :], needed), (max(-start, 0), 0))[:needed]
    if abs(rate - 1.0) > 1e-3:
        # a stroke is found again within a window, of which librosa's own are 128 ms at this rate
        sound = librosa.effects.time_stretch(sound, rate=rate, n_fft=STRETCH_WINDOW)
    if shift:
        sound = librosa.effects.pitch_shift(sound, sr=ANALYSIS_RATE, n_steps=shift)
    return fill(np.asarray(sound, np.float32), length)


def _lead(item: BankItem, voice: Features, rate: float) -> float:
    """Seconds of the item to leave out, or less than 0 for a silence before it, so that a beat meets the voice's."""
    if not item.beats or not len(voice.beats):
        return 0.0
    entry = float(voice.beats[0]) * rate
    return next((beat for beat in item.beats if beat >= entry), item.beats[0]) - entry


def random_retrieved(bank: Sequence[BankItem], name: str, length: int) -> Samples:
    """An instrumental of the bank drawn by the clip's name, as it is: float32 [length] at 16 kHz."""
    digest = hashlib.sha256(f"random retrieval/{name}".encode()).digest()
    samples, rate = bank[int.from_bytes(digest[:8], "big") % len(bank)].part.read()
    return fill(resample(samples, rate, ANALYSIS_RATE), length)


def fill(samples: Samples, length: int) -> Samples:
    """float32 [N] cut to `length`, or repeated until it is as long."""
    return np.resize(samples, length) if len(samples) else np.zeros(length, np.float32)
