# SPDX-License-Identifier: Apache-2.0
"""The retrieval baseline: an instrumental of the training split in the singer's key and tempo.

The paper's baseline (section "Evaluation") retrieves the nearest instrumental by key and tempo; here librosa's phase
vocoder also shifts and stretches it to the singer's key and tempo.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..audio import Samples, resample
from ..audio.librosa_loading import load_librosa
from ..lead_sheet.chords import PITCH_CLASSES
from .datasets import Clip, Part, spread
from .features import ANALYSIS_RATE, Features, extract
from .harmony import fit_of_keys
from .statistics import HAFMEvaluationError
from .timing import tempo_of

# maximum number of instrumentals in the bank, and seconds of each: enough to cover keys and tempi
BANK_SIZE = 1000
BANK_SECONDS = 40.0
# in samples at 16 kHz
STRETCH_WINDOW = 1024
# in BPM
DEFAULT_TEMPO = 100.0
# shifting by a semitone costs as much as changing the tempo by this many octaves (doublings)
SEMITONE_COST = 0.05
# rates this close to 1 are not worth a stretch
LEAST_STRETCH = 1e-3


@dataclass(frozen=True)
class BankItem:
    """An instrumental that can be retrieved: its audio, song, key (0–11 major, 12–23 minor), tempo in BPM, and the
    times of its beats in seconds."""

    part: Part
    song: str
    key: int
    tempo: float
    beats: tuple[float, ...]


def build_bank(clips: Sequence[Clip], evaluated: Sequence[Clip]) -> list[BankItem]:
    """Measures the first 40 s of up to 1000 instrumentals, evenly spread over a training split.

    Args:
        clips: clips of the training split.
        evaluated: the evaluated clips, which must not be in the bank.

    Raises:
        HAFMEvaluationError: the bank contains an evaluated song or file, or nothing but silent instrumentals.
    """
    songs = {clip.song for clip in evaluated} & {clip.song for clip in clips}
    files = _reference_files(evaluated) & _reference_files(clips)
    if files or songs:
        shared = sorted(songs) or sorted(map(str, files))
        raise HAFMEvaluationError(
            f"The retrieval bank holds {len(shared)} songs of the test ({shared[0]} …); name a training split."
        )
    usable = [clip for clip in clips if clip.reference is not None]
    items = [_measure(clip) for clip in spread(usable, BANK_SIZE)]
    bank = [item for item in items if item is not None]
    if not bank:
        raise HAFMEvaluationError("All instrumentals of the retrieval bank are silent; name a training split.")
    return bank


def _reference_files(clips: Sequence[Clip]) -> set[Path]:
    """The files of the clips' references."""
    return {clip.reference.path.resolve() for clip in clips if clip.reference is not None}


def _measure(clip: Clip) -> BankItem | None:
    """Measures the first 40 s of the instrumental of a clip for the bank; None if it is silent."""
    assert clip.reference is not None
    part = replace(clip.reference, seconds=BANK_SECONDS)
    samples, rate = part.read()
    features = extract(resample(samples, rate, ANALYSIS_RATE))
    if not features.chroma.any():
        return None
    key = int(np.argmax(fit_of_keys(features)))
    beats = tuple(features.beats.tolist())
    return BankItem(part, clip.song, key, estimate_tempo(features), beats)


def estimate_tempo(features: Features) -> float:
    """Tempo in BPM from the median beat interval; 100 if there are fewer than three beats."""
    if len(features.beats) <= 2:
        return DEFAULT_TEMPO
    return tempo_of(features.beats)


def semitones_between(source: int, target: int) -> int:
    """Semitones (−5 … 6) by which to shift music in key `source` to key `target`.

    Keys are 0 to 11 for C major to B major, 12 to 23 for the minor ones; a minor key counts as its relative major.
    """
    shift = (_major_tonic(target) - _major_tonic(source)) % PITCH_CLASSES
    if shift > PITCH_CLASSES // 2:
        shift -= PITCH_CLASSES
    return shift


def _major_tonic(key: int) -> int:
    """Tonic (0 to 11) of a major key (0 to 11), or of the relative major of a minor one (12 to 23)."""
    if key >= PITCH_CLASSES:
        # the relative major is three semitones higher
        return (key + 3) % PITCH_CLASSES
    return key


def stretch_between(source: float, target: float) -> float:
    """Playback rate (0.71 … 1.41; above 1 is faster) that turns tempo `source` into `target`, both in BPM.

    A power of two times `target` is as good, so the rate never needs to leave half an octave around 1.
    """
    octaves = math.log2(target / source)
    return 2.0 ** (octaves - round(octaves))


def retrieve(bank: Sequence[BankItem], voice: Features) -> tuple[BankItem, int, float]:
    """Finds the item closest to the voice's key and tempo.

    Returns:
        The item, the semitones to shift it by and the rate to play it at (above 1 is faster) to match the voice.
    """
    key = int(np.argmax(fit_of_keys(voice)))
    tempo = estimate_tempo(voice)

    def cost(item: BankItem) -> tuple[float, str]:
        """How far an item must be shifted and stretched, in octaves of tempo; then its audio, to break ties."""
        shift = semitones_between(item.key, key)
        rate = stretch_between(item.tempo, tempo)
        octaves = abs(shift) * SEMITONE_COST + abs(math.log2(rate))
        # rounded, so that ties are found despite floating-point errors
        return round(octaves, 9), str(item.part)

    item = min(bank, key=cost)
    return item, semitones_between(item.key, key), stretch_between(item.tempo, tempo)


def retrieved(bank: Sequence[BankItem], voice: Features, length: int) -> Samples:
    """The nearest instrumental, brought to the voice's key and tempo, with one of its beats on the voice's first beat.

    For that, its beginning is cut off, or if all its beats are too early, silence is put before it.

    Args:
        bank: instrumentals of the training split.
        voice: features of the vocal.
        length: number of samples to return, at 16 kHz.

    Returns:
        float32 [length] at 16 kHz.
    """
    librosa = load_librosa()
    item, shift, rate = retrieve(bank, voice)
    samples, source_rate = item.part.read()
    sound = resample(samples, source_rate, ANALYSIS_RATE)
    # samples to cut off before stretching; negative to prepend silence
    start = round(_seconds_to_cut(item, voice, rate) * ANALYSIS_RATE)
    # samples before stretching, with a second to spare
    needed = math.ceil(length * rate) + ANALYSIS_RATE
    silence = max(-start, 0)
    sound = fill(sound[max(start, 0) :], needed)
    sound = np.pad(sound, (silence, 0))[:needed]
    if abs(rate - 1.0) > LEAST_STRETCH:
        # time stretching smears transients over a window, and librosa's default is 128 ms at this rate
        sound = librosa.effects.time_stretch(sound, rate=rate, n_fft=STRETCH_WINDOW)
    if shift:
        sound = librosa.effects.pitch_shift(sound, sr=ANALYSIS_RATE, n_steps=shift)
    return fill(np.asarray(sound, np.float32), length)


def _seconds_to_cut(item: BankItem, voice: Features, rate: float) -> float:
    """Seconds to cut from an item's start so that one of its beats falls on the voice's first beat.

    They are counted in the item before it is played at `rate`. Negative: as much silence must come before the item;
    0: the item or the voice has no beats.
    """
    if not item.beats or not len(voice.beats):
        return 0.0
    # time in the item that is played at the voice's first beat if nothing is cut
    entry = float(voice.beats[0]) * rate
    aligned_beat = next((beat for beat in item.beats if beat >= entry), item.beats[0])
    return aligned_beat - entry


def random_retrieved(bank: Sequence[BankItem], name: str, length: int) -> Samples:
    """An instrumental of the bank, drawn by a hash of the clip's `name` and left in its own key and tempo.

    Returns:
        float32 [length] at 16 kHz.
    """
    digest = hashlib.sha256(f"random retrieval/{name}".encode()).digest()
    item = bank[int.from_bytes(digest[:8], "big") % len(bank)]
    samples, rate = item.part.read()
    return fill(resample(samples, rate, ANALYSIS_RATE), length)


def fill(samples: Samples, length: int) -> Samples:
    """Cuts float32 [N] to `length` samples, or repeats it up to that length; zeros if it is empty."""
    if len(samples):
        return np.resize(samples, length)
    return np.zeros(length, np.float32)
