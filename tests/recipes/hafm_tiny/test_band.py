"""The band plays what the song says: its chords, its beats, and nothing late."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pretty_midi", reason="pretty_midi is not installed")
pytest.importorskip("mir_eval", reason="mir_eval is not installed")

from hafm_tiny.songs.band import (
    BASS_PATTERNS,
    KICK,
    PATTERNS,
    SNARE,
    Arrangement,
    Part,
    bass_notes,
    drum_notes,
    parts,
    random_arrangement,
    render,
)
from hafm_tiny.songs.midi_song import Note, Song, excerpt, read_song

RATE = 24000
BAND = Arrangement(4, 71, 48, 33, "beats", 0, "rock", (0.0, -3.0, -6.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def song(songs: Path) -> Song:
    return excerpt(read_song(songs / "001"), 0.0, 9.6)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_drums_fall_on_subdivisions_of_the_beats(song: Song, pattern: str) -> None:
    steps, _ = PATTERNS[pattern]
    starts = np.array([n.start for n in drum_notes(song, pattern, np.random.default_rng(0))])
    assert starts.size and starts.max() < song.duration
    position = starts / 0.6 * steps
    assert np.abs(position - np.round(position)).max() < 1e-6


def test_drums_follow_bars_of_three_beats(song: Song) -> None:
    waltz = dataclasses.replace(song, downbeats=song.beats[::3])
    kicks = [n.start for n in drum_notes(waltz, "rock", np.random.default_rng(0)) if n.pitch == KICK]
    snares = [n.start for n in drum_notes(waltz, "rock", np.random.default_rng(0)) if n.pitch == SNARE]
    assert set(np.round(waltz.downbeats, 6)) <= set(np.round(kicks, 6))
    assert all(min(abs(s - d - 0.6) for d in waltz.downbeats) < 1e-6 for s in snares)


@pytest.mark.parametrize("pattern", sorted(BASS_PATTERNS))
def test_bass_plays_a_tone_of_the_chord_and_its_root_on_the_downbeat(song: Song, pattern: str) -> None:
    for note in bass_notes(song, pattern):
        chord = next(c for c in song.chords if c.start - 1e-6 <= note.start < c.end - 1e-6)
        assert note.pitch % 12 in chord.pitch_classes
        assert note.end <= chord.end + 1e-6
        if min(abs(note.start - d) for d in song.downbeats) < 1e-6:
            assert note.pitch % 12 == chord.bass


def test_same_seed_draws_the_same_band_and_others_differ() -> None:
    bands = [random_arrangement(np.random.default_rng(seed)) for seed in (1, 1, 2, 3)]
    assert bands[0] == bands[1]
    assert len(set(bands)) == 3


def test_hits_sound_within_5_ms_of_their_time(soundfont: Path) -> None:
    hits = [Note(at, at + 0.1, SNARE, 110) for at in (0.5, 1.0, 1.7)]
    audio = render({"drums": Part(0, tuple(hits), 0.0)}, 2.5, soundfont, RATE)
    assert audio.size == 2.5 * RATE
    for hit in hits:
        window = np.abs(audio[int((hit.start - 0.1) * RATE) : int((hit.start + 0.1) * RATE)])
        onset = np.argmax(window > 0.2 * window.max()) / RATE - 0.1
        assert abs(onset) < 0.005


def test_rendered_chords_have_their_pitch_classes(song: Song, soundfont: Path) -> None:
    tuned = dataclasses.replace(BAND, lead=None, kit=None)
    audio = render(parts(song, tuned, np.random.default_rng(0)), song.duration, soundfont, RATE)
    for chord in song.chords:
        part = audio[int((chord.start + 0.1) * RATE) : int(chord.end * RATE)]
        frequency = np.fft.rfftfreq(part.size, 1 / RATE)
        power = np.abs(np.fft.rfft(part * np.hanning(part.size)))
        heard = (frequency > 60) & (frequency < 1500)
        classes = np.round(69 + 12 * np.log2(frequency[heard] / 440)).astype(int) % 12
        chroma = np.bincount(classes, power[heard], minlength=12)
        assert set(np.argsort(chroma)[-3:]) == set(chord.pitch_classes), chord.label


def test_stems_add_up_to_the_mix(song: Song, soundfont: Path) -> None:
    played = parts(song, BAND, np.random.default_rng(0))
    assert set(played) == {"comping", "lead", "pad", "bass", "drums"}
    mix = render(played, 4.0, soundfont, RATE)
    stems = sum(render({name: part}, 4.0, soundfont, RATE) for name, part in played.items())
    assert np.sqrt(np.mean((mix - stems) ** 2)) < 0.03 * np.sqrt(np.mean(mix**2))


def test_missing_fluidsynth_is_an_error_that_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="apt install fluidsynth"):
        render({}, 1.0, tmp_path / "none.sf2", RATE)


@pytest.mark.usefixtures("soundfont")
def test_file_that_is_no_soundfont_is_an_error_that_names_it(tmp_path: Path) -> None:
    broken = tmp_path / "broken.sf2"
    broken.write_bytes(b"not a SoundFont")
    with pytest.raises(ValueError, match=r"broken\.sf2 is not a SoundFont"):
        render({"comping": Part(0, (Note(0, 1, 60),), 0.0)}, 1.0, broken, RATE)
