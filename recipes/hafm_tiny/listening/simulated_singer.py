# SPDX-License-Identifier: Apache-2.0
"""A simulated singer: a symbolic melody → the pitch contour that would be measured from somebody singing it.

It replaces recordings in training listeners. It slides into notes, scoops, sings vibrato and falls off notes; misses,
replaces, ornaments and joins notes; breathes; is out of tune, late and early; its tempo drifts; and its pitch tracker
loses pitches and makes octave errors. Parameter ranges are those of real singers (recipes/evaluate_listening.py
compares them). Most are drawn twice: the singer's habit once per performance, then each note around it.

Dimensions: N notes, T frames at 50 Hz, K beats.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hafm_hf.lead_sheet.chords import PITCH_CLASSES
from hafm_hf.tokenizers.pitch_contour import CONTOUR_RATE, FLOOR_DB, PitchContour, normalised

from ..targets import transposed_chords
from .tunes import Tune

Array = NDArray[np.float64]
# slowest and fastest tempo in BPM, and the one that is used if no drawn tempo is singable
TEMPI = (50.0, 200.0)
FALLBACK_TEMPO = 90.0
# maximum notes per second
MOST_NOTES = 7.0
# beats between two points of the tempo drift, and typical standard deviation of the log tempo at these
DRIFT_BEATS = 8.0
DRIFT = 0.015
# least share of a part of a song in which somebody sings, and number of parts that are tried
LEAST_SUNG = 0.3
TRIES = 8
# shorter crops are not joined from several parts of a song
LEAST_JOINED_SECONDS = 12


@dataclass(frozen=True)
class Performance:
    """A crop of T frames as a listener's input, with its targets.

    Attributes:
        contour (PitchContour): the singer's pitch contour.
        beats (float64 [T]): number of beats, with fractions, since the song's first beat.
        chords (int64 [T]): triad, 0 to 24 (`triad_class`).
        tempo (float): tempo in BPM.
        metre (int): beats per bar.
        downbeat (int): index of a beat that starts a bar.
    """

    contour: PitchContour
    beats: Array
    chords: NDArray[np.int64]
    tempo: float
    metre: int
    downbeat: int


@dataclass
class Sung:
    """Notes as sung: float64 [N] each, a value for each of N notes.

    Attributes:
        onset, end: in seconds.
        pitch: in semitones (MIDI).
        before: pitch from which the voice slides into the note, in semitones (MIDI).
        glide: time constant of this slide, in seconds.
        scoop, fall: depths of a scoop at the start and of a fall at the end, in semitones.
        vibrato, vibrato_rate: depth in semitones, and rate in Hz.
        consonant: length of the consonant before the vowel, in seconds.
        accent: level in dB, relative to other notes.
        strength, aspirate: strength of the onset in the lower and in the upper bands, relative to a usual one.
    """

    onset: Array
    end: Array
    pitch: Array
    before: Array
    glide: Array
    scoop: Array
    fall: Array
    vibrato: Array
    vibrato_rate: Array
    consonant: Array
    accent: Array
    strength: Array
    aspirate: Array


class SimulatedSinger:
    """Sings tunes.

    Args:
        rng: source of all randomness.
        own_tempo: share of songs that are sung near their original tempo, if it is known.
        joined: share of the longer crops that are concatenated from several parts of a song.
    """

    def __init__(self, rng: np.random.Generator, own_tempo: float = 0.4, joined: float = 0.25) -> None:
        self.rng = rng
        self.own_tempo = own_tempo
        self.joined = joined

    def sing(self, tune: Tune, seconds: float) -> Performance:
        """Simulates a performance of a tune in a random key, at a random tempo.

        Args:
            tune: what to sing.
            seconds: length of the crop; a shorter tune is sung as a whole.
        """
        rng = self.rng
        semitones = int(rng.integers(PITCH_CLASSES)) - 6  # transposition, −6 to 5
        tempo = self._tempo(tune)
        clock_beats, clock_seconds = self._clock(tune, tempo)
        sung = self._sung(tune, (clock_beats, clock_seconds), semitones)
        times = self._frame_times(sung, clock_seconds, min(seconds, clock_seconds[-1]))
        contour = self._contour(sung, times)
        beats = np.interp(times, clock_seconds, clock_beats)
        chords = transposed_chords(chords_at(tune, beats), semitones)
        return Performance(contour, beats, chords, tempo, tune.metre, tune.downbeat)

    def _tempo(self, tune: Tune) -> float:
        """A random tempo in BPM at which the tune's notes can be sung, near its own or any other."""
        for _ in range(20):
            if tune.tempo is not None and self.rng.random() < self.own_tempo:
                tempo = tune.tempo * 2 ** self.rng.normal(0.0, 0.2)
            else:
                tempo = self.rng.uniform(*TEMPI)
            notes_per_second = len(tune.notes) / max(float(tune.notes[:, 1].sum()), 1.0) * tempo / 60
            if TEMPI[0] <= tempo <= TEMPI[1] and notes_per_second < MOST_NOTES:
                return float(tempo)
        return FALLBACK_TEMPO

    def _clock(self, tune: Tune, tempo: float) -> tuple[Array, Array]:
        """When each beat of a tune is, at a tempo (in BPM) that drifts.

        Returns:
            Indices of the beats, and their times in seconds: float64 [K] each, K beats.
        """
        count = int(np.ceil(tune.beats)) + 2
        points = self.rng.normal(0.0, DRIFT * self.rng.uniform(0, 2), int(count / DRIFT_BEATS) + 2)
        # added to the logarithm of each beat's length
        drift = np.interp(np.arange(count), np.arange(len(points)) * DRIFT_BEATS, points)
        seconds = np.concatenate([[0.0], np.cumsum(60 / tempo * np.exp(drift))])
        return np.arange(count + 1, dtype=np.float64), seconds

    def _sung(self, tune: Tune, clock: tuple[Array, Array], semitones: int) -> Sung:
        """The notes of a tune as they are sung: late or early, out of tune, slurred.

        Scalars are drawn once and are habits of the singer; arrays have a value for each note.

        Args:
            tune: the tune.
            clock: indices and times of its beats (`_clock`).
            semitones: transposition.
        """
        rng = self.rng
        notes = self._with_wrong_notes(tune.notes)
        count = len(notes)
        # as written, in seconds
        starts = np.interp(notes[:, 0], *clock)
        ends = np.interp(notes[:, 0] + notes[:, 1], *clock)
        has_consonant = rng.random(count) < rng.uniform(0.2, 0.7)
        consonant = np.where(has_consonant, rng.uniform(0.02, 0.14, count), 0.0)
        consonant = np.minimum(consonant, 0.4 * (ends - starts))
        # vowels, not consonants, are on the beat, but for a constant and a random error
        late = rng.uniform(-0.05, 0.06) + rng.normal(0.0, rng.uniform(0.008, 0.045), count) - consonant
        # in the order of the notes, 0.1 ms apart at least
        onset = np.maximum.accumulate(starts + late) + 1e-4 * np.arange(count)
        # fraction of a note's length that is sung
        held = rng.uniform(0.75, 1.05) + rng.normal(0.0, 0.1, count)
        end = onset + np.maximum((ends - starts) * held, 0.06)
        following = np.append(onset[1:], np.inf)
        # sung up to the next note
        legato = (following - end < 0.25) & (rng.random(count) < rng.uniform(0.3, 0.95))
        end = np.where(legato, following, np.minimum(end, following))
        # the last note, which nothing follows, lasts 4 s at most
        end[-1] = min(end[-1], onset[-1] + 4)
        # errors in semitones: of each note, of the whole song, and slowly changing
        note_error = rng.normal(0.0, rng.uniform(0.1, 0.5), count)
        tuning = np.clip(rng.normal(0.0, 0.2), -0.5, 0.5)
        drift = np.cumsum(rng.normal(0.0, 0.01, count))
        pitch = notes[:, 2] + semitones + note_error + tuning + drift - drift.mean()
        # a note slides from the pitch of the one before only if it follows within 0.15 s
        close = np.append(False, onset[1:] - end[:-1] < 0.15)
        before = np.where(close, np.append(pitch[:1], pitch[:-1]), pitch)
        # notes without a syllable of their own: no consonant, and a weak onset
        melisma = close & (rng.random(count) < 0.12)
        return Sung(
            onset,
            end,
            pitch,
            before,
            glide=rng.uniform(0.02, 0.11, count),
            scoop=np.where(rng.random(count) < rng.uniform(0.1, 0.6), rng.uniform(0.3, 2.5, count), 0.0),
            fall=np.where(rng.random(count) < rng.uniform(0.0, 0.3), rng.uniform(0.5, 4.0, count), 0.0),
            vibrato=np.where(rng.random(count) < rng.uniform(0.0, 0.8), rng.uniform(0.05, 0.6, count), 0.0),
            vibrato_rate=rng.uniform(4.5, 6.8, count),
            consonant=np.where(melisma, 0.0, consonant),
            accent=rng.normal(0.0, 3.0, count),
            strength=np.where(melisma, 0.2, 1.0) * np.exp(rng.normal(0.0, 0.5, count)),
            aspirate=np.where(melisma, 0.1, 1.0) * np.exp(rng.normal(-0.4, 0.8, count)),
        )

    def _with_wrong_notes(self, notes: Array) -> Array:
        """A tune's notes, some of them missed, wrong, joined or ornamented.

        Args:
            notes (float64 [N, 3]): onset and length in beats, and MIDI pitch, by onset.

        Returns:
            The notes in the same form, usually of another number.
        """
        rng = self.rng
        # shares of notes: left out, at a wrong pitch, joined to the one before, ornamented
        missed, wrong, joined, ornamented = rng.uniform(0, [0.08, 0.15, 0.1, 0.1])
        notes = notes[rng.random(len(notes)) >= missed].copy()
        is_wrong = rng.random(len(notes)) < wrong
        notes[is_wrong, 2] += rng.choice([-3, -2, -1, 1, 2, 3, 4, 5, -5], is_wrong.sum())
        # a note that follows within 0.2 beats may be joined: the one before is held for both
        is_chosen = rng.random(len(notes) - 1) < joined
        follows = notes[1:, 0] - notes[:-1, :2].sum(1) < 0.2
        is_joined = is_chosen & follows  # of all notes but the first
        notes[:-1][is_joined, 1] += notes[1:][is_joined, 1]
        notes = notes[~np.append(False, is_joined)]
        # an ornamented note is split in halves, the first one a semitone or two off
        is_split = (rng.random(len(notes)) < ornamented) & (notes[:, 1] > 0.4)
        second = notes[is_split].copy()
        second[:, 0] += second[:, 1] / 2
        second[:, 1] /= 2
        notes[is_split, 2] += rng.choice([-2, -1, 1, 2], is_split.sum())
        notes[is_split, 1] /= 2
        notes = np.concatenate([notes, second])
        return notes[np.argsort(notes[:, 0], kind="stable")]

    def _frame_times(self, sung: Sung, clock_seconds: Array, seconds: float) -> Array:
        """Chooses a crop: one part of the song with enough singing, or 2 to 5 parts joined.

        Args:
            sung: the song's notes.
            clock_seconds (float64 [K]): times of the song's beats in seconds.
            seconds: length of the crop.

        Returns:
            Times in the song of the middles of the crop's frames, in seconds: float64 [T].
        """
        rng = self.rng
        song_seconds = clock_seconds[-1]
        parts = 1
        if rng.random() < self.joined and seconds > LEAST_JOINED_SECONDS:
            parts = int(rng.integers(2, 6))
        # random lengths with the sum `seconds`
        lengths = rng.dirichlet(np.full(parts, 6.0)) * seconds
        times = []
        for length in lengths:
            # the first place that is drawn with enough singing, or the last one
            for _ in range(TRIES):
                start = rng.uniform(0, max(song_seconds - length, 1e-3))
                sung_seconds = np.minimum(sung.end, start + length) - np.maximum(sung.onset, start)
                if np.maximum(sung_seconds, 0).sum() > LEAST_SUNG * length:
                    break
            times.append(start + (np.arange(round(length * CONTOUR_RATE)) + 0.5) / CONTOUR_RATE)
        return np.concatenate(times)

    def _contour(self, sung: Sung, times: Array) -> PitchContour:
        """The pitch contour that would be measured from sung notes.

        Scalars are drawn once per performance: of the singer, the room and the recording.

        Args:
            sung: the notes.
            times (float64 [T]): time of each frame in seconds.
        """
        rng = self.rng
        count = len(times)
        # of each frame: index of the latest note, seconds since its onset and until its end, and since its vowel
        note = np.clip(np.searchsorted(sung.onset, times, side="right") - 1, 0, None)
        age = times - sung.onset[note]
        remaining = sung.end[note] - times
        inside = (age >= 0) & (remaining > 0)
        vowel = age - sung.consonant[note]
        pitch = self._pitch(sung, note, np.maximum(age, 0), np.maximum(remaining, 0))
        has_consonant = sung.consonant[note] > 0
        # after a consonant, the tracker needs up to 50 ms of the vowel
        voiced = inside & (vowel >= rng.uniform(0.0, 0.05) * has_consonant) & self._tracked(count)
        # level in dB: accent and decay, less in consonants, and at the end and the onset of a note
        level = sung.accent[note] - rng.uniform(0, 5) * np.maximum(age, 0)
        level -= 14 * np.clip(1 - vowel / 0.05, 0, 1.3) * has_consonant
        level -= 10 * np.clip(1 - remaining / 0.06, 0, 1) + 4 * np.clip(1 - age / 0.05, 0, 1)
        # after a note, the room decays to the background noise
        seconds_after = np.where(inside, 0.0, np.maximum(-remaining, 0.0))
        floor = rng.uniform(-48, -30)
        level = np.where(inside, level, np.maximum(-12 - rng.uniform(60, 200) * seconds_after, floor))
        level = level + rng.normal(0.0, rng.uniform(0.5, 2.0), count)
        # relative to the loud frames, as it is measured
        level = np.maximum(level - np.quantile(level, 0.95), FLOOR_DB)
        # onset strength in the lower bands, at the vowel, and in the upper ones, at the consonant and the vowel: bumps
        # of about 30 ms
        near = inside | (age < 0.1)
        low = sung.strength[note] * np.exp(-((vowel / 0.025) ** 2)) * near
        high = sung.aspirate[note] * (np.exp(-((age / 0.025) ** 2)) + 0.6 * np.exp(-((vowel / 0.03) ** 2))) * near
        flux = np.stack([low, high], axis=1)
        flux += self._false_onsets(count, rng.uniform(0.03, 0.15))
        return PitchContour(
            np.where(voiced, pitch, np.nan).astype(np.float32), level.astype(np.float32), normalised(flux)
        )

    def _pitch(self, sung: Sung, note: NDArray[np.int64], age: Array, remaining: Array) -> Array:
        """Pitch of each frame in semitones (MIDI), whether it is sung or not: float64 [T].

        Args:
            sung: the notes.
            note (int64 [T]): index of the latest note of each frame.
            age (float64 [T]): seconds since that note's onset, at least 0.
            remaining (float64 [T]): seconds until its end, at least 0.
        """
        rng = self.rng
        count = len(note)
        # a slide from the note before, a scoop at the start and a fall in the last 0.12 s
        pitch = sung.pitch[note] + (sung.before - sung.pitch)[note] * np.exp(-age / sung.glide[note])
        pitch -= sung.scoop[note] * np.exp(-age / 0.06) + sung.fall[note] * np.clip(1 - remaining / 0.12, 0, 1)
        # vibrato sets in from 0.2 to 0.4 s after the onset
        depth = sung.vibrato[note] * np.clip((age - 0.2) / 0.2, 0, 1)
        pitch += depth * np.sin(2 * np.pi * sung.vibrato_rate[note] * age)
        # unsteadiness, drawn every 8 frames
        points = rng.normal(0.0, rng.uniform(0.05, 0.35), count // 8 + 2)
        pitch += np.interp(np.arange(count) / 8, np.arange(len(points)), points)
        # tracking errors: octave errors of whole notes, arbitrary errors of single frames
        octave = rng.choice([0, -12, 12], len(sung.onset), p=[0.985, 0.01, 0.005])
        pitch += octave[note]
        wild = rng.random(count) < rng.uniform(0, 0.003)
        pitch[wild] += rng.uniform(-12, 12, wild.sum())
        return pitch

    def _tracked(self, count: int) -> NDArray[np.bool_]:
        """In which of `count` frames the pitch tracker does not lose the voice: bool [frames].

        It is lost at random, for 2 to 6 frames each time.
        """
        is_lost_from = self.rng.random(count) < self.rng.uniform(0.0, 0.02)
        span = np.ones(int(self.rng.integers(2, 7)))
        is_lost = np.convolve(is_lost_from, span)[:count] > 0.5
        return ~is_lost

    def _false_onsets(self, count: int, amount: float) -> Array:
        """Onset strengths without a note, to be added in the lower and the upper bands: float64 [count, 2].

        Args:
            count: number of frames.
            amount: standard deviation of the weak ones, which are everywhere; some others are as strong as a note's.
        """
        rng = self.rng
        bumps = (rng.random((count, 2)) < 0.012) * np.exp(rng.normal(-0.8, 0.6, (count, 2)))
        return np.abs(rng.normal(0.0, amount, (count, 2))) + bumps


class FaithfulSinger(SimulatedSinger):
    """A singer with human intonation, slides and timing, but without wrong or missing notes."""

    def _with_wrong_notes(self, notes: Array) -> Array:
        """The notes as they are."""
        return notes


class ExactSinger(FaithfulSinger):
    """A singer without any errors, and with a perfect pitch tracker."""

    def _sung(self, tune: Tune, clock: tuple[Array, Array], semitones: int) -> Sung:
        """The notes of a tune as they are written: in time and in tune, without slides or consonants."""
        notes = tune.notes
        none = np.zeros(len(tune.notes))  # 0 for each note
        starts = np.interp(notes[:, 0], *clock)
        ends = np.interp(notes[:, 0] + notes[:, 1], *clock)
        pitch = notes[:, 2] + semitones
        slides = {"glide": none + 0.01, "scoop": none, "fall": none, "vibrato": none, "vibrato_rate": none + 5}
        sounds = {"consonant": none, "accent": none, "strength": none + 1, "aspirate": none + 0.1}
        return Sung(starts, ends, pitch, pitch, **slides, **sounds)

    def _pitch(self, sung: Sung, note: NDArray[np.int64], age: Array, remaining: Array) -> Array:
        """Pitch of each frame in semitones (MIDI), that of its latest note: float64 [T]."""
        return sung.pitch[note]

    def _tracked(self, count: int) -> NDArray[np.bool_]:
        """All of `count` frames: bool [frames]."""
        return np.ones(count, bool)


def chords_at(tune: Tune, beats: Array) -> NDArray[np.int64]:
    """The triad of a tune at each position: int64 [T], 0 where there is no chord.

    Args:
        tune: with chords.
        beats (float64 [T]): positions, in beats since the tune's first beat.
    """
    latest = np.clip(np.searchsorted(tune.chords[:, 0], beats, side="right") - 1, 0, None)
    inside = (beats >= tune.chords[latest, 0]) & (beats < tune.chords[latest, 1])
    return np.where(inside, tune.chords[latest, 2], 0).astype(np.int64)
