"""A band for a song: who plays what is drawn at random, the notes come from the song, FluidSynth makes the sound.

PIANO and BRIDGE keep their notes and get other instruments; a bass follows the roots of the chords, drums follow beats
and downbeats, a pad may hold the chords. So the band is in time and in key with the melody by construction.
"""

import dataclasses
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pretty_midi
import soundfile
import soxr

from .midi_song import Chord, Note, Song

# General MIDI programs by the part that they can play.
COMPING = (0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 11, 16, 17, 18, 24, 24, 25, 25, 26, 27, 27, 28, 46, 48, 88)
LEADS = (0, 4, 9, 11, 12, 21, 22, 24, 26, 27, 29, 40, 46, 48, 56, 60, 61, 65, 66, 68, 71, 73, 75, 80, 81)
PADS = (16, 48, 49, 50, 51, 52, 88, 89, 90, 91, 94, 95)
BASSES = (32, 33, 33, 34, 35, 36, 38, 39)
KITS = (0, 0, 8, 16, 25, 32, 40)
KICK, STICK, SNARE, CLAP, CRASH, RIDE, TAMBOURINE = 36, 37, 38, 39, 49, 51, 54
CLOSED_HAT, PEDAL_HAT, OPEN_HAT = 42, 44, 46
FILL = (SNARE, 48, 45, 41)
DRUM_NOTE = 0.1
# Drum patterns: steps to a beat, then for each drum the steps of a bar of four beats on which it sounds.
PATTERNS: dict[str, tuple[int, dict[int, tuple[int, ...]]]] = {
    "rock": (2, {KICK: (0, 4), SNARE: (2, 6), CLOSED_HAT: tuple(range(8))}),
    "rock_push": (2, {KICK: (0, 3, 4), SNARE: (2, 6), CLOSED_HAT: tuple(range(8))}),
    "pop16": (4, {KICK: (0, 7, 10), SNARE: (4, 12), CLOSED_HAT: tuple(range(16))}),
    "dance": (4, {KICK: (0, 4, 8, 12), CLAP: (4, 12), OPEN_HAT: (2, 6, 10, 14)}),
    "ballad": (2, {KICK: (0, 5), STICK: (4,), CLOSED_HAT: (0, 2, 4, 6)}),
    "half_time": (4, {KICK: (0, 6), SNARE: (8,), CLOSED_HAT: (0, 2, 4, 6, 8, 10, 12, 14)}),
    "shuffle": (3, {KICK: (0, 6), SNARE: (3, 9), RIDE: (0, 2, 3, 5, 6, 8, 9, 11)}),
    "brushes": (2, {KICK: (0, 4), PEDAL_HAT: (2, 6), RIDE: (0, 2, 3, 4, 6, 7)}),
    "shaker": (4, {KICK: (0, 8), TAMBOURINE: (0, 2, 4, 6, 8, 10, 12, 14), STICK: (4, 12)}),
    "four_soft": (1, {KICK: (0, 2), STICK: (1, 3), CLOSED_HAT: (0, 1, 2, 3)}),
}
# Bass patterns: (beat of the bar, length in beats, semitones above the root).
BASS_PATTERNS: dict[str, tuple[tuple[float, float, int], ...]] = {
    "long": ((0, 2, 0), (2, 2, 0)),
    "beats": ((0, 1, 0), (1, 1, 0), (2, 1, 0), (3, 1, 0)),
    "eighths": tuple((i / 2, 0.5, 0) for i in range(8)),
    "fifth": ((0, 1.5, 0), (1.5, 0.5, 0), (2, 1, 7), (3, 1, 0)),
    "octave": tuple((i / 2, 0.45, 12 * (i % 2)) for i in range(8)),
    "push": ((0, 1.5, 0), (1.5, 1, 0), (2.5, 1.5, 0)),
}
BASS_LOW = 28
# a little above the corpus's rate, so that FluidSynth's interpolation folds back less; soxr does the rest
SYNTHESIS_RATE = 32000
# FluidSynth starts a note with the first block of 64 samples after its instant: half a block early, it is the same
# block for every note that is meant to start with one
HALF_BLOCK = 32
# so that frames of 75 Hz are whole ticks at MIDI's default tempo of two beats a second
TICKS_A_BEAT = 1500
VOLUME_CONTROLLER = 7


@dataclasses.dataclass(frozen=True)
class Part:
    """What one player plays: a General MIDI program, notes, and a gain in dB."""

    program: int
    notes: tuple[Note, ...]
    gain_db: float


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """Who plays: a General MIDI program or a pattern a part, None where the part is silent; loudness a part in dB."""

    comping: int
    lead: int | None
    pad: int | None
    bass: int | None
    bass_pattern: str
    kit: int | None
    drum_pattern: str
    gains_db: tuple[float, float, float, float, float]

    @property
    def style(self) -> str:
        """A word for the groove, for labels: the drum pattern, or `no_drums`."""
        return self.drum_pattern if self.kit is not None else "no_drums"


def random_arrangement(generator: np.random.Generator) -> Arrangement:
    """Draw a band: comping always, bass and drums mostly, a lead often, a pad at times."""

    def maybe(probability: float, programs: Sequence[int]) -> int | None:
        program = int(generator.choice(programs))
        return program if generator.random() < probability else None

    centres = (0.0, -2.0, -7.0, -1.0, 0.0)
    return Arrangement(
        comping=int(generator.choice(COMPING)),
        lead=maybe(0.75, LEADS),
        pad=maybe(0.35, PADS),
        bass=maybe(0.9, BASSES),
        bass_pattern=str(generator.choice(list(BASS_PATTERNS))),
        kit=maybe(0.85, KITS),
        drum_pattern=str(generator.choice(list(PATTERNS))),
        gains_db=tuple(float(centre + generator.normal(0, 2)) for centre in centres),  # type: ignore[arg-type]
    )


def bars(song: Song) -> list[np.ndarray]:
    """Seconds of the beats of each bar, float64 [beats + 1], the next downbeat last; the last bar ends in tempo."""
    beats = np.array(song.beats)
    starts = [at for at in song.downbeats if at < song.duration]
    ends = [*starts[1:], song.duration + 10]
    found = []
    for start, end in zip(starts, ends, strict=True):
        inside = beats[(beats >= start - 1e-6) & (beats < end - 1e-6)]
        step = float(np.median(np.diff(beats)))
        found.append(np.append(inside, end if end <= song.duration else inside[-1] + step))
    return found


def time_of(bar: np.ndarray, beat: float) -> float:
    """Seconds of a beat (fractions allowed) in a bar of `bars`, whose beats are not evenly spaced."""
    return float(np.interp(beat, np.arange(bar.size), bar))


def chord_at(song: Song, seconds: float) -> Chord | None:
    """The chord that sounds just after an instant in seconds, None where there is none."""
    for chord in reversed(song.chords):
        if chord.start <= seconds + 0.05:
            return chord if chord.bass is not None else None
    return None


def drum_notes(song: Song, pattern: str, generator: np.random.Generator | None = None) -> list[Note]:
    """Drums over a song: the pattern in every bar, cut or repeated for bars that are not of four beats.

    With a generator some fills and crashes are drawn, and the loudness of every hit; without one, hits are even.
    """
    steps, drums = PATTERNS[pattern]
    notes: list[Note] = []
    for number, bar in enumerate(bars(song)):
        beats = bar.size - 1
        fill = generator is not None and number % 8 == 7 and generator.random() < 0.5
        if generator is not None and number % 8 == 0 and generator.random() < 0.5:
            notes.append(Note(bar[0], bar[0] + 1.0, CRASH, 85))
        for drum, hits in drums.items():
            for step in (hit + 4 * steps * again for again in range(-(-beats // 4)) for hit in hits):
                if step >= beats * steps or (fill and step >= (beats - 1) * steps):
                    continue
                velocity: float = (100 if drum in (KICK, SNARE, CLAP) else 72) - (0 if step % steps == 0 else 14)
                start = time_of(bar, step / steps)
                velocity += 0 if generator is None else generator.normal(0, 5)
                notes.append(Note(start, start + DRUM_NOTE, drum, int(velocity)))
        if fill:
            for i in range(4):
                start = time_of(bar, beats - 1 + i / 4)
                notes.append(Note(start, start + DRUM_NOTE, FILL[i], 88 + 4 * i))
    return [note for note in notes if note.start < song.duration]


def bass_notes(song: Song, pattern: str) -> list[Note]:
    """A bass on the lowest note of each chord, following the pattern; silent where there is no chord."""
    notes: list[Note] = []
    for bar in bars(song):
        beats = bar.size - 1
        for beat, length, interval in BASS_PATTERNS[pattern]:
            if beat >= beats:
                continue
            start, end = time_of(bar, beat), time_of(bar, min(beat + length, beats))
            chord = chord_at(song, start)
            if chord is None or (root := chord.bass) is None:
                continue
            # a fifth is only right over chords that have one
            interval = 0 if (root + interval) % 12 not in {root, *chord.pitch_classes} else interval
            pitch = BASS_LOW + (root - BASS_LOW) % 12 + interval
            notes.append(Note(start, max(start + 0.08, min(end, chord.end)), pitch, 92 if beat == 0 else 82))
    return [note for note in notes if note.start < song.duration]


def pad_notes(song: Song) -> list[Note]:
    """Every chord held, close position around middle C."""
    return [
        Note(chord.start, chord.end, 55 + (pitch_class - 55) % 12, 64)
        for chord in song.chords
        for pitch_class in chord.pitch_classes
    ]


def parts(song: Song, arrangement: Arrangement, generator: np.random.Generator) -> dict[str, Part]:
    """The band's parts by stem name (comping, lead, pad, bass, drums), without those that are silent."""
    played = {
        "comping": (arrangement.comping, list(song.tracks.get("PIANO", ()))),
        "lead": (arrangement.lead, list(song.tracks.get("BRIDGE", ()))),
        "pad": (arrangement.pad, pad_notes(song)),
        "bass": (arrangement.bass, bass_notes(song, arrangement.bass_pattern)),
        "drums": (arrangement.kit, drum_notes(song, arrangement.drum_pattern, generator)),
    }
    return {
        name: Part(program, _human(notes, generator), gain)
        for (name, (program, notes)), gain in zip(played.items(), arrangement.gains_db, strict=True)
        if program is not None
    }


def _human(notes: list[Note], generator: np.random.Generator) -> tuple[Note, ...]:
    """Notes with small errors of timing (4 ms, at most 10) and loudness."""
    shifts = np.clip(generator.normal(0, 0.004, len(notes)), -0.01, 0.01)
    accents = generator.normal(0, 4, len(notes))
    return tuple(
        dataclasses.replace(
            note,
            start=max(0.0, note.start + float(shift)),
            end=note.end + float(shift),
            velocity=int(np.clip(note.velocity + accent, 12, 127)),
        )
        for note, shift, accent in zip(notes, shifts, accents, strict=True)
    )


def _midi(played: dict[str, Part], early: float) -> pretty_midi.PrettyMIDI:
    midi = pretty_midi.PrettyMIDI(resolution=TICKS_A_BEAT)
    for name, part in played.items():
        instrument = pretty_midi.Instrument(program=part.program, is_drum=name == "drums", name=name)
        # General MIDI: 40 dB for a factor of ten; 100 is the usual setting
        volume = int(np.clip(100 * 10 ** (part.gain_db / 40), 1, 127))
        instrument.control_changes.append(pretty_midi.ControlChange(VOLUME_CONTROLLER, volume, 0.0))
        instrument.notes = [
            pretty_midi.Note(n.velocity, n.pitch, max(0.0, n.start - early), n.end - early) for n in part.notes
        ]
        midi.instruments.append(instrument)
    return midi


def render(
    played: dict[str, Part],
    seconds: float,
    soundfont: Path,
    sampling_rate: int,
    synthesis_rate: int = SYNTHESIS_RATE,
) -> np.ndarray:
    """Render parts with FluidSynth, dry and mono.

    Args:
        played: parts as `parts` gives them.
        seconds: length of the result; what still sounds then is cut.
        soundfont: an .sf2 or .sf3 file.
        sampling_rate: of the result, in Hz.
        synthesis_rate: at which FluidSynth works; the same as `sampling_rate` gives notes that start on a multiple of
            64 samples the same samples every time.

    Returns:
        float64 [seconds * sampling_rate]

    Raises:
        ValueError: when the SoundFont is none.
        RuntimeError: when fluidsynth is not installed or fails.
    """
    if shutil.which("fluidsynth") is None:
        raise RuntimeError("fluidsynth is not on the PATH; install it (Debian: apt install fluidsynth).")
    # fluidsynth itself would only warn, and play a SoundFont of its own choice
    with soundfont.open("rb") as file:
        header = file.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"sfbk":
        raise ValueError(f"{soundfont} is not a SoundFont; give an .sf2 or .sf3 file.")
    size = round(seconds * sampling_rate)
    with tempfile.TemporaryDirectory() as folder:
        midi, wav = Path(folder, "band.mid"), Path(folder, "band.wav")
        _midi(played, HALF_BLOCK / synthesis_rate).write(str(midi))
        settings = ["synth.dynamic-sample-loading=1", "synth.cpu-cores=1", "synth.polyphony=256"]
        options = [word for setting in settings for word in ("-o", setting)]
        command = ["fluidsynth", "-n", "-i", "-q", "-R", "0", "-C", "0", "-g", "0.5", *options]
        command += ["-r", str(synthesis_rate), "-T", "wav", "-O", "float", "-F", str(wav), str(soundfont), str(midi)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not wav.is_file():
            raise RuntimeError(f"fluidsynth failed on {soundfont.name}: {done.stderr.strip()[-300:]}")
        stereo, _ = soundfile.read(wav, dtype="float64", always_2d=True)
    mono = stereo.mean(axis=1)
    if synthesis_rate != sampling_rate:
        mono = soxr.resample(mono, synthesis_rate, sampling_rate)
    return np.pad(mono, (0, max(0, size - mono.size)))[:size]
