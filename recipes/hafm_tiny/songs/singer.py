# SPDX-License-Identifier: Apache-2.0
"""A singing synthesiser: concatenates recorded syllables, with the melody's pitch imposed by the WORLD vocoder.

A voice is a folder of recorded syllables with `units.tsv` (file, syllable, and in ms: the end of the part that is
never stretched, the start of the vowel, an overlap that is not used here). Every syllable is analysed once into
WORLD's parameters (Morise et al., 2016). For a song, frames of all syllables are selected by index, given the melody's
pitch, and synthesised phrase by phrase.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, sosfilt

from .midi_song import Note

# all in seconds: WORLD's frame; how much of a recorded syllable is analysed; longest consonant
FRAME_SECONDS = 0.005
LONGEST_UNIT = 1.1
LONGEST_CONSONANT = 0.22
# in seconds: crossfade between syllables of a phrase; release of a syllable before a rest; shortest pause between
# phrases; rest that is synthesised on both sides of a phrase; shortest note, and least time between two onsets
CROSSFADE = 0.04
RELEASE = 0.06
SAME_PHRASE = 0.12
REST_MARGIN = 0.04
SHORTEST_NOTE = 0.05
# smallest power, so that it has a logarithm
SILENCE = 1e-12
# largest interval within a melisma, in semitones; a syllable with a shorter vowel is left out
MELISMA_INTERVAL = 5
SHORTEST_VOWEL_FRAMES = 4


@dataclasses.dataclass(frozen=True)
class Voice:
    """The analysed syllables of one voice, with the frames (of FRAME_SECONDS) of all syllables in one bank.

    Attributes:
        name: name of the voice.
        sampling_rate: in Hz.
        log_spectra (float64 [frames, frequency bins]): log power, with all vowels at the same level.
        aperiodicity (float64 [frames, frequency bins]): share of noise, from 0 to 1.
        voiced (bool [frames]): whether a frame has a pitch.
        units (int [syllables, 4]): frames of the bank at which a syllable's consonant, its vowel and the stretchable
            part of the vowel begin, and the end.
        pitch: median pitch of the recordings (MIDI).
    """

    name: str
    sampling_rate: int
    log_spectra: np.ndarray
    aperiodicity: np.ndarray
    voiced: np.ndarray
    units: np.ndarray
    pitch: float


@dataclasses.dataclass(frozen=True)
class Manner:
    """How a take is sung; the defaults have no expression and no errors.

    Attributes:
        detune: offset of all pitches, in cents.
        note_error: standard deviation of the notes' pitches, in cents.
        drift: standard deviation of a slow drift of the pitch, in cents.
        vibrato_depth: in cents.
        vibrato_rate: in Hz.
        vibrato_delay: time from the start of a note to its vibrato, in seconds.
        portamento: time of the glide between two notes, in seconds.
        scoop: largest depth from which the first note of a phrase rises to its pitch, in cents.
        onset_jitter: standard deviation of the onsets, in seconds.
        lag: offset of all onsets, in seconds; positive: late.
        melisma: share of the notes that continue the syllable of the note before, where that is possible.
        dynamics_db: standard deviation of the syllables' levels, in dB.
        breathiness: how much noisier the voice is than its recordings; 0: equally.
        breath_db: level of breaths between phrases relative to singing, in dB; −∞: no breaths.
        formant: factor of the formants' frequencies.
    """

    detune: float = 0.0
    note_error: float = 0.0
    drift: float = 0.0
    vibrato_depth: float = 0.0
    vibrato_rate: float = 5.5
    vibrato_delay: float = 0.25
    portamento: float = 0.05
    scoop: float = 0.0
    onset_jitter: float = 0.0
    lag: float = 0.0
    melisma: float = 0.0
    dynamics_db: float = 0.0
    breathiness: float = 0.0
    breath_db: float = -np.inf
    formant: float = 1.0


def random_manner(generator: np.random.Generator, formant: float = 1.0) -> Manner:
    """Draw a manner within the range of amateur and trained singers: mostly in tune, some takes up to 50 cents off.

    Half of the takes have vibrato, half of them scoops, and 70 % breaths.

    Args:
        generator: draws everything but the formants.
        formant: factor of the formants' frequencies.
    """
    off_pitch = generator.random() < 0.2
    return Manner(
        detune=float(generator.uniform(-50, 50) if off_pitch else np.clip(generator.normal(0, 8), -25, 25)),
        note_error=float(generator.uniform(3, 14)),
        drift=float(generator.uniform(3, 12)),
        vibrato_depth=float(generator.choice([0.0, 1.0]) * generator.uniform(10, 60)),
        vibrato_rate=float(generator.uniform(4.6, 6.6)),
        vibrato_delay=float(generator.uniform(0.12, 0.4)),
        portamento=float(generator.uniform(0.04, 0.14)),
        scoop=float(generator.choice([0.0, 1.0]) * generator.uniform(40, 200)),
        onset_jitter=float(generator.uniform(0.004, 0.02)),
        lag=float(generator.normal(0.005, 0.01)),
        melisma=float(generator.uniform(0, 0.3)),
        dynamics_db=float(generator.uniform(1, 4)),
        breathiness=float(generator.uniform(0, 0.35)),
        breath_db=float(generator.uniform(-38, -24)) if generator.random() < 0.7 else -np.inf,
        formant=formant,
    )


def _frames(seconds: float) -> int:
    """A time in seconds as a number of WORLD's frames."""
    return round(seconds / FRAME_SECONDS)


def _analyse(audio: np.ndarray, sampling_rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """WORLD's parameters of a recording (float64 [samples]).

    Returns:
        Pitch in Hz (float64 [frames]; 0: unvoiced), power spectra and aperiodicity (float64 [frames, frequency bins]).
    """
    import pyworld  # needs a C++ compiler to install: only for analysing and singing, not for a recipe's --help

    f0, times = pyworld.harvest(audio, sampling_rate, frame_period=1000 * FRAME_SECONDS)
    spectra = pyworld.cheaptrick(audio, f0, times, sampling_rate)
    return f0, spectra, pyworld.d4c(audio, f0, times, sampling_rate)


def _unit_bounds(loudness: np.ndarray, vowel: int, fixed: int) -> list[int]:
    """Finds the parts of a recorded syllable, in frames of 5 ms.

    Args:
        loudness (float [frames]): in dB.
        vowel: frame in which the vowel begins, according to units.tsv.
        fixed: frame before which a syllable must not be stretched, according to units.tsv.

    Returns:
        First frame of the consonant, of the vowel and of the stretchable part, and the end.
    """
    # leaves room for a vowel of 30 frames
    vowel = min(vowel, loudness.size - 30)
    vowel_level = np.median(loudness[vowel + 10 : vowel + 60])
    # the consonant starts with the first sound less than 45 dB below the vowel
    loud_before = np.flatnonzero(loudness[:vowel] > vowel_level - 45)
    first_sound = int(loud_before[0]) if loud_before.size else vowel
    start = max(first_sound, vowel - _frames(LONGEST_CONSONANT))
    # the vowel ends where its level has fallen by 9 dB, or else just before the recording ends
    after = vowel + 10
    quiet_after = np.flatnonzero(loudness[after:] < vowel_level - 9)
    end = after + int(quiet_after[0]) if quiet_after.size else loudness.size - 4
    end = max(end, vowel + 20)
    # at least 12 frames are left to stretch
    stretch = max(vowel + 8, min(fixed, end - 12))
    return [start, vowel, stretch, end]


def load_voice(folder: Path, syllables: int | None = None) -> Voice:
    """Analyse the syllables of a voice.

    Args:
        folder: contains `units.tsv` and the audio files listed in it, all with the same sampling rate.
        syllables: number of syllables to use, evenly spread over the list; None: all.

    Raises:
        FileNotFoundError: there is no `units.tsv`.
    """
    table = folder / "units.tsv"
    if not table.is_file():
        raise FileNotFoundError(f"{table} is missing; a voice is a folder of syllables listed in units.tsv.")
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
    if syllables is not None:
        used = np.unique(np.linspace(0, len(rows) - 1, syllables).astype(int))
        rows = [rows[i] for i in used]
    spectra = []
    aperiodicity = []
    pitches = []
    units = []
    first = 0  # the syllable's first frame in the bank
    for file, _, fixed_ms, vowel_ms, *_ in rows:
        audio, sampling_rate = soundfile.read(folder / file, dtype="float64")
        f0, spectrum, noise = _analyse(audio[: int(LONGEST_UNIT * sampling_rate)], sampling_rate)
        loudness = 10 * np.log10(spectrum.mean(axis=1) + SILENCE)
        bounds = _unit_bounds(loudness, _frames(float(vowel_ms) / 1000), _frames(float(fixed_ms) / 1000))
        _, _, stretch, end = bounds
        # all vowels at the same level, so that loudness does not depend on the recording
        spectra.append(spectrum / np.mean(spectrum[stretch:end]))
        aperiodicity.append(noise)
        pitches.append(f0)
        units.append([first + bound for bound in bounds])
        first += len(f0)
    bank_f0 = np.concatenate(pitches)
    is_voiced = bank_f0 > 0
    return Voice(
        name=folder.name,
        sampling_rate=sampling_rate,
        log_spectra=np.log(np.concatenate(spectra) + SILENCE),
        aperiodicity=np.concatenate(aperiodicity),
        voiced=is_voiced,
        units=np.array(units),
        pitch=float(69 + 12 * np.log2(np.median(bank_f0[is_voiced]) / 440)),
    )


def sung_notes(notes: Sequence[Note], manner: Manner, generator: np.random.Generator) -> tuple[Note, ...]:
    """Applies the manner's onset jitter and lag to notes.

    Args:
        notes: sorted and monophonic, at least one.
        manner: jitter and lag.
        generator: draws the jitter, which is at most two standard deviations.

    Returns:
        The notes, still monophonic, none shorter than 50 ms.
    """
    starts: list[float] = []
    for note in notes:
        start = note.start + manner.lag + float(np.clip(generator.normal(0, 1), -2, 2)) * manner.onset_jitter
        earliest = starts[-1] + SHORTEST_NOTE if starts else 0.0
        starts.append(max(start, earliest))
    next_starts = [*starts[1:], np.inf]
    return tuple(
        dataclasses.replace(note, start=start, end=max(start + SHORTEST_NOTE, min(note.end, next_start)))
        for note, start, next_start in zip(notes, starts, next_starts, strict=True)
    )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Which frames of a voice's bank to sing, for each of T frames of a song.

    Attributes:
        frame (int [T]): index of the bank's frame; −1: silence.
        previous (int [T]): index of the bank's frame of the syllable before, to crossfade from; −1: none.
        mix (float [T]): share of `frame` in the crossfade, from 0 to 1.
        gain_db (float [T]): level to add, in dB.
    """

    frame: np.ndarray
    previous: np.ndarray
    mix: np.ndarray
    gain_db: np.ndarray


def _syllables(notes: Sequence[Note], manner: Manner, generator: np.random.Generator) -> list[tuple[float, float]]:
    """Start and end (s) of each syllable, which has one note or, in a melisma, several consecutive notes.

    A note can continue the syllable before it if the pause and the interval between them are small; of such notes,
    `generator` draws the share `manner.melisma`.
    """
    spans: list[tuple[float, float]] = []
    last_pitch = 0
    for note in notes:
        follows = bool(spans) and note.start - spans[-1][1] < SAME_PHRASE / 2
        is_close = follows and abs(note.pitch - last_pitch) <= MELISMA_INTERVAL
        if is_close and generator.random() < manner.melisma:
            spans[-1] = (spans[-1][0], note.end)
        else:
            spans.append((note.start, note.end))
        last_pitch = note.pitch
    return spans


def _unit_frames(unit: np.ndarray, before: int, length: int) -> np.ndarray:
    """The frames of the bank that sing a syllable.

    For a note that is too long for it, its stretchable part is read back and forth at half speed.

    Args:
        unit (int [4]): frames of the bank at which the syllable's consonant, its vowel and the stretchable part begin,
            and the end.
        before: number of frames of the consonant to use.
        length: number of frames from the start of the vowel on.

    Returns:
        int [before + length]: indices of frames.
    """
    _, vowel, stretch, end = (int(bound) for bound in unit)
    head = np.arange(vowel - before, stretch)
    needed = before + length - head.size
    if needed <= 0:
        return head[: before + length]
    span = end - 1 - stretch
    # at full speed if reading the stretchable part once is enough
    speed = 1.0 if needed <= span else 0.5
    position = (np.arange(needed) * speed) % (2 * span)  # forth up to `span`, then back
    offset = np.where(position > span, 2 * span - position, position)
    return np.concatenate([head, stretch + offset.astype(int)])


def _plan(voice: Voice, notes: Sequence[Note], total: int, manner: Manner, generator: np.random.Generator) -> _Plan:
    """Chooses the frames of the voice's bank that sing notes: for each syllable, those of a random recorded one.

    Args:
        voice: the bank.
        notes: sorted and monophonic.
        total: number of frames of the song.
        manner: melismas and dynamics.
        generator: draws units, melismas and levels.
    """
    frame = np.full(total, -1)
    previous = np.full(total, -1)
    mix = np.ones(total)
    gain = np.full(total, -120.0)
    spans = _syllables(notes, manner, generator)
    fade = _frames(CROSSFADE)
    release = _frames(RELEASE)
    # end and onset of the syllable before, in frames
    last_end = -1
    last_start = 0
    for i, (start, end) in enumerate(spans):
        unit = voice.units[int(generator.integers(len(voice.units)))]
        onset = _frames(start)  # of the vowel
        is_joined = onset - last_end < _frames(SAME_PHRASE)
        # within a phrase, a consonant takes at most half of the note before
        room_before = (onset - last_start) // 2 if is_joined else onset - max(last_end, 0) - release
        consonant = int(np.clip(min(unit[1] - unit[0], room_before), 0, onset))
        # whether the phrase goes on after this syllable
        is_followed = i + 1 < len(spans) and spans[i + 1][0] - end < SAME_PHRASE
        end_frame = _frames(spans[i + 1][0]) if is_followed else _frames(end) + release
        stop = min(end_frame, total)
        if stop - onset < SHORTEST_VOWEL_FRAMES:
            continue
        source = _unit_frames(unit, consonant, stop - onset)
        first = onset - consonant
        # within a phrase, crossfade from the syllable before
        n_fade = min(fade, source.size) if is_joined else 0
        previous[first : first + n_fade] = frame[first : first + n_fade]
        mix[first : first + n_fade] = (np.arange(n_fade) + 1) / (n_fade + 1)
        mix[first + n_fade : stop] = 1.0
        frame[first:stop] = source
        gain[first:stop] = float(np.clip(generator.normal(0, manner.dynamics_db), -8, 6))
        if not is_followed:
            # fades out by 40 dB before a rest
            tail = min(release + 6, stop - onset)
            gain[stop - tail : stop] -= np.linspace(0, 1, tail) ** 2 * 40
        last_start = onset
        last_end = stop if is_followed else _frames(end)
    return _Plan(frame, previous, mix, gain)


def _pitch_curve(notes: Sequence[Note], total: int, manner: Manner, generator: np.random.Generator) -> np.ndarray:
    """The pitch to sing: smoothed steps from note to note, with scoops, vibrato, errors and drift.

    Args:
        notes: what is sung, at least one.
        total: number of frames of the song.
        manner: expression and errors.
        generator: draws them.

    Returns:
        float64 [total], in MIDI units (semitones); rests have the pitch of the note before them.
    """
    steps = np.zeros(total)
    ornaments = np.zeros(total)
    # frames at which the pitch steps: a note's pitch lasts until the next note
    edges = [0, *(_frames(note.start) for note in notes[1:]), total]
    for i, note in enumerate(notes):
        # / 100: from cents to semitones
        steps[edges[i] : edges[i + 1]] = note.pitch + generator.normal(0, manner.note_error) / 100
        start = _frames(note.start)
        length = _frames(note.end - note.start)
        after_rest = i == 0 or note.start - notes[i - 1].end > SAME_PHRASE
        if after_rest and manner.scoop and length > 16:
            # rises to the pitch within 16 frames (80 ms)
            depth = manner.scoop / 100 * generator.random()
            ornaments[start : start + 16] -= depth * np.linspace(1, 0, 16)[: total - start]
        times = np.arange(max(0, min(length, total - start))) * FRAME_SECONDS
        swell = np.clip((times - manner.vibrato_delay) / 0.3, 0, 1) * generator.uniform(0.5, 1.0)
        rate = manner.vibrato_rate * generator.uniform(0.95, 1.05)
        vibrato = manner.vibrato_depth / 100 * swell * np.sin(2 * np.pi * rate * times)
        ornaments[start : start + times.size] += vibrato
    # slow noise (smoothed over 0.1 s), scaled to the manner's deviation
    drift = gaussian_filter1d(generator.standard_normal(total), 0.1 / FRAME_SECONDS)
    drift *= manner.drift / 100 / max(float(drift.std()), 1e-9)
    # like singers, reach the middle of the glide slightly before the note starts
    early = _frames(0.3 * manner.portamento)
    smooth = gaussian_filter1d(steps, manner.portamento / 4 / FRAME_SECONDS, mode="nearest")
    smooth = np.concatenate([smooth[early:], np.repeat(smooth[-1:], early)])
    return smooth + gaussian_filter1d(ornaments, 2.0) + drift + manner.detune / 100


def _warp(frames: np.ndarray, factor: float) -> np.ndarray:
    """Stretches spectra along frequency, which scales their formants.

    Args:
        frames (float [frames, frequency bins]): a value of each bin.
        factor: above 1 moves formants up; below 1 moves them down and repeats the highest bin.

    Returns:
        float [frames, frequency bins], interpolated linearly.
    """
    if factor == 1.0:
        return frames
    # for each new bin, the fractional index of the old bin that it is read from
    position = np.minimum(np.arange(frames.shape[1]) / factor, frames.shape[1] - 1)
    low = np.minimum(position.astype(int), frames.shape[1] - 2)
    weight = position - low
    warped = np.empty_like(frames)
    # in blocks that fit into the CPU cache: five times as fast
    for first in range(0, len(frames), 256):
        block = frames[first : first + 256]
        below = np.take(block, low, axis=1)
        above = np.take(block, low + 1, axis=1)
        warped[first : first + 256] = below + weight * (above - below)
    return warped


def _breaths(
    notes: Sequence[Note], size: int, rate: int, level_db: float, generator: np.random.Generator
) -> np.ndarray:
    """Breath noise before phrases that follow a rest: float64 [size].

    Args:
        notes: what is sung.
        size: number of samples.
        rate: sampling rate in Hz.
        level_db: level of a breath, relative to singing with an RMS of 1; −∞: no breaths.
        generator: draws which rests have one, and the noise.
    """
    breaths = np.zeros(size)
    if level_db == -np.inf:
        return breaths
    band = butter(2, [900, min(7000, 0.45 * rate)], "bandpass", fs=rate, output="sos")
    for before, note in zip([None, *notes[:-1]], notes, strict=True):
        pause = note.start - (before.end if before else 0.0)
        # no breath in short pauses, nor in 30 % of the others
        if pause < 0.45 or generator.random() < 0.3:
            continue
        length = min(pause - 0.1, generator.uniform(0.2, 0.45))
        # ends 70 ms before the note
        first = int((note.start - 0.07 - length) * rate)
        noise = sosfilt(band, generator.standard_normal(int(length * rate)))
        noise *= np.sin(np.linspace(0, np.pi, noise.size)) ** 1.5
        end = min(size, first + noise.size)
        breaths[first:end] += 10 ** (level_db / 20) * noise[: end - first] / max(float(noise.std()), 1e-9)
    return breaths


def _phrases(sounding: np.ndarray) -> list[tuple[int, int]]:
    """Finds the phrases to synthesise; longer rests, where WORLD is slowest (500 pulses/s), are skipped.

    Args:
        sounding (bool [frames]): frames in which the voice sounds.

    Returns:
        First frame and end of each phrase, with a margin of rest on both sides.
    """
    frames = np.flatnonzero(sounding)
    if frames.size == 0:
        return []
    margin = _frames(REST_MARGIN)
    breaks = np.flatnonzero(np.diff(frames) > 3 * margin)
    firsts = frames[np.append(0, breaks + 1)]
    lasts = frames[np.append(breaks, frames.size - 1)]
    return [
        (max(0, int(first) - margin), min(sounding.size, int(last) + 1 + margin))
        for first, last in zip(firsts, lasts, strict=True)
    ]


def sing(voice: Voice, notes: Sequence[Note], seconds: float, manner: Manner, seed: int) -> np.ndarray:
    """Sing notes with a voice.

    Args:
        voice: the analysed syllables.
        notes: sorted and monophonic, in seconds and MIDI pitch (see `sung_notes` for human timing).
        seconds: length of the result.
        manner: expression and errors.
        seed: seed of everything random.

    Returns:
        float64 [seconds · voice.sampling_rate]: dry singing at about −20 dBFS RMS; zeros if there are no notes.
    """
    import pyworld

    size = round(seconds * voice.sampling_rate)
    if not notes:
        return np.zeros(size)
    generator = np.random.default_rng(seed)
    total = _frames(seconds) + 1
    plan = _plan(voice, notes, total, manner, generator)
    pitch = _pitch_curve(notes, total, manner, generator)
    sounding = plan.frame >= 0
    index = np.maximum(plan.frame, 0)

    # WORLD's parameters of each frame
    spectra = voice.log_spectra[index]  # [frames, frequency bins]
    crossfaded = np.flatnonzero((plan.mix < 1) & (plan.previous >= 0))
    previous_spectra = voice.log_spectra[plan.previous[crossfaded]]
    mix = plan.mix[crossfaded, None]
    spectra[crossfaded] = previous_spectra + mix * (spectra[crossfaded] - previous_spectra)
    gain = gaussian_filter1d(plan.gain_db, 1.5) / 10 * np.log(10)  # from dB to log power
    spectra = np.exp(_warp(spectra, manner.formant) + np.where(sounding, gain, np.log(SILENCE))[:, None])
    # a root of values below 1 raises them: more breath
    aperiodicity = _warp(voice.aperiodicity[index], manner.formant) ** (1 / (1 + manner.breathiness))
    f0 = np.where(sounding & voice.voiced[index], 440 * 2 ** ((pitch - 69) / 12), 0.0)  # 0 Hz: unvoiced

    audio = np.zeros(size)
    for first, last in _phrases(sounding):
        phrase = pyworld.synthesize(
            f0[first:last], spectra[first:last], aperiodicity[first:last], voice.sampling_rate, 1000 * FRAME_SECONDS
        )
        at = round(first * FRAME_SECONDS * voice.sampling_rate)
        audio[at : at + phrase.size] = phrase[: size - at]

    # to an RMS of 1 while the voice sounds, and then to 0.1, which is −20 dBFS
    active = np.repeat(sounding, round(FRAME_SECONDS * voice.sampling_rate))[:size]
    audio /= max(float(np.sqrt(np.mean(audio[active] ** 2))), SILENCE)
    return 0.1 * (audio + _breaths(notes, size, voice.sampling_rate, manner.breath_db, generator))
