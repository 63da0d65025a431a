# SPDX-License-Identifier: Apache-2.0
"""Styles: a band that is the same in every song, follows the song's form, and repeats bars exactly."""

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import resample_poly

pytest.importorskip("pretty_midi", reason="pretty_midi is not installed")
pytest.importorskip("mir_eval", reason="mir_eval is not installed")

from hafm_tiny.songs.arranger import Grid, arrange
from hafm_tiny.songs.band import FRAME_RATE, bars
from hafm_tiny.songs.form import Section, sections, with_form
from hafm_tiny.songs.lead_sheet_songs import lead_sheet_songs, write_song
from hafm_tiny.songs.line_ups import draw_hands, draw_line_up
from hafm_tiny.songs.midi_song import Chord, Note, Song, change, excerpt, in_threes, read_song
from hafm_tiny.songs.mixer import mixed, mixed_in_stereo
from hafm_tiny.songs.song_corpus import song_weights
from hafm_tiny.songs.styled import StyledSong, play, style_song
from hafm_tiny.songs.styles import DRUMS, STEMS, STYLES, Player, Sound, Style

RATE = 24000
STEREO_RATE = 44100
# frequency in Hz up to which the mono path's filters pass everything
SHARED = 11_000
# length of four beats in seconds: 240 codec frames, slow enough for sixteenths
BAR = 3.2
# eleven bars
FORM = (
    Section("intro", "normal", 0, 2),
    Section("verse", "sparse", 2, 6),
    Section("chorus", "full", 6, 10),
    Section("ending", "full", 10, 11),
)
styles = pytest.mark.parametrize("style", STYLES.values(), ids=list(STYLES))


@pytest.fixture(scope="module")
def song(songs: Path) -> Song:
    """16 bars of four beats at 100 BPM, in C major."""
    return read_song(songs / "001")


@pytest.fixture()
def one_chord(song: Song, style: Style) -> Song:
    """Eleven bars in a style's metre on one chord, without other tracks."""
    beats = 11 * style.metre
    duration = 11 * bar_seconds(style)
    return dataclasses.replace(
        song, tracks={}, chords=(Chord(0.0, duration, "A:min"),), duration=duration,
        beats=tuple(i * BAR / 4 for i in range(beats)),
        downbeats=tuple(i * BAR / 4 for i in range(0, beats, style.metre)),
    )  # fmt: skip


def bar_seconds(style: Style) -> float:
    """Length of a bar in a style's metre, in seconds."""
    return BAR * style.metre / 4


def fonts(soundfont: Path, style: Style) -> dict[str, Path]:
    """The same file for all SoundFonts of a style, by the style's names for them."""
    return {player.soundfont: soundfont for player in style.players.values()}


def of_bar(stem: np.ndarray, bar: int, style: Style) -> np.ndarray:
    """The samples of a bar (index from 0) of a stem at RATE."""
    size = round(bar_seconds(style) * RATE)
    return stem[bar * size : (bar + 1) * size]


def level(audio: np.ndarray) -> float:
    """Level of audio in dBFS RMS."""
    return float(10 * np.log10(np.mean(audio**2)))


def below(audio: np.ndarray, sampling_rate: int, hertz: float) -> np.ndarray:
    """Removes all frequencies above one from audio (float [..., samples])."""
    spectrum = np.fft.rfft(audio)
    spectrum[..., np.fft.rfftfreq(audio.shape[-1], 1 / sampling_rate) > hertz] = 0
    return np.fft.irfft(spectrum, audio.shape[-1])


def in_both(song: Song, style: Style, soundfont: Path) -> StyledSong:
    """The first 10 s of a song, rendered in mono and in stereo."""
    short = excerpt(song, 0.0, 10.0)
    generator = np.random.default_rng(1)
    return style_song(short, style, fonts(soundfont, style), RATE, generator, stereo_rate=STEREO_RATE)


def one_player(sound: Sound) -> Style:
    """A style with a player that has the given sound, and one with the default sound for each of the other stems."""
    player = Player("chords", "chords", 0, "fluid", {}, sound)
    others = {stem: Player(stem, "chords", 0, "fluid", {}) for stem in STEMS if stem != "chords"}
    return Style("test", {"player": player} | others, {}, room_seconds=0.3)


def panned(sound: Sound, generator: np.random.Generator) -> np.ndarray:
    """The stereo mix of a player of noise, different on the left and right, without room: float64 [2, N]."""
    quiet = dataclasses.replace(sound, room_db=-200.0)
    style = one_player(quiet)
    dry = {name: np.zeros((2, 9600), np.float32) for name in style.players}
    dry["player"] = 0.1 * generator.standard_normal((2, 9600)).astype(np.float32)
    return mixed_in_stereo(dry, style, 2 * RATE, RATE, STEREO_RATE)["chords"]


@styles
def test_a_style_has_the_same_band_in_every_song(style: Style, songs: Path) -> None:
    programs = []
    for number, name in enumerate(("001", "004")):
        song = read_song(songs / name)
        generator = np.random.default_rng(number)
        form = sections(song, generator)
        parts, _ = arrange(with_form(song, form), form, style, generator)
        programs.append({name: part.program for name, part in parts.items()})
    assert programs[0] == programs[1] == {name: player.program for name, player in style.players.items()}
    assert {player.stem for player in style.players.values()} == set(STEMS)


@styles
def test_notes_start_on_half_frames_and_fit_the_chords(style: Style, song: Song) -> None:
    played = with_form(song, FORM)
    parts, _ = arrange(played, FORM, style, np.random.default_rng(0))
    for name, part in parts.items():
        starts = np.array([note.start for note in part.notes]) * 2 * FRAME_RATE
        np.testing.assert_allclose(starts, np.round(starts), atol=1e-6, err_msg=name)
        if style.players[name].role not in ("bass", "chords"):
            continue
        assert part.notes
        for note in part.notes:
            assert 0 < note.velocity <= 127
            assert note.end > note.start
            at = note.start + 0.05
            chord = next(c for c in reversed(played.chords) if c.start <= at)
            assert note.pitch % 12 in chord.pitch_classes, (name, note, chord)


@styles
def test_repeated_bars_sound_alike_and_full_sections_are_louder_than_sparse_ones(
    style: Style, one_chord: Song, soundfont: Path
) -> None:
    parts, _ = arrange(one_chord, FORM, style, np.random.default_rng(3))
    stems = play(parts, style, fonts(soundfont, style), one_chord.duration, RATE)
    mix = np.sum(list(stems.values()), axis=0)
    for name, stem in stems.items():
        # the second and third bar of the chorus: the bars before them are equal, and neither has a fill
        first = of_bar(stem, 7, style)
        second = of_bar(stem, 8, style)
        assert level(first) > -60, name
        assert level(second - first) < level(first) - 20, name
    # two bars each of verse and chorus
    sparse = np.concatenate([of_bar(mix, bar, style) for bar in (3, 4)])
    full = np.concatenate([of_bar(mix, bar, style) for bar in (7, 8)])
    assert level(full) > level(sparse) + 3
    assert np.abs(mix).max() < 1.0


@styles
def test_a_fill_leads_into_the_next_section_and_the_ending_is_one_chord(style: Style, one_chord: Song) -> None:
    parts, _ = arrange(one_chord, FORM, style, np.random.default_rng(0))
    # by bar: the drums' notes, as seconds since the start of the bar and MIDI pitch
    hits: dict[int, set[tuple[float, int]]] = {bar: set() for bar in range(11)}
    for note in parts["kit"].notes:
        bar = int((note.start + 1e-6) / bar_seconds(style))
        hits[bar].add((round(note.start - bar_seconds(style) * bar, 2), note.pitch))
    # the fill is in the chorus's last bar, 9
    assert hits[7] == hits[8]
    assert hits[8] != hits[9]
    assert {pitch for _, pitch in hits[9]} >= {DRUMS[drum] for drum in style.fill}
    for name, part in parts.items():
        last = 10 * bar_seconds(style)
        late = [note.start for note in part.notes if note.start >= last - 1e-6]
        # strummed strings are delayed by half frames
        assert all(start < last + 0.05 for start in late), name
        # only the line, which needs a second voice, may rest in the ending
        assert late or not part.notes or style.players[name].role == "line"


def test_energies_follow_the_melody_and_nobody_sings_in_the_intro(song: Song) -> None:
    slow = change(song, stretch=1.25)
    # an octave higher from 18 to 30 s, around bar 6
    high = tuple(dataclasses.replace(n, pitch=n.pitch + (12 if 18 <= n.start < 30 else 0)) for n in slow.melody)
    lifted = dataclasses.replace(slow, melody=high)
    energies = []  # of the section with bar 6
    for seed in range(20):
        form = sections(lifted, np.random.default_rng(seed))
        assert [section.first for section in form[1:]] == [section.end for section in form[:-1]]
        assert form[0].name == "intro"
        assert form[-1] == dataclasses.replace(form[-1], name="ending", end=16)
        energies.append(next(section for section in form if section.first <= 6 < section.end).energy)
        formed = with_form(lifted, form)
        assert min(note.start for note in formed.melody) > bars(slow)[form[0].end][0] - 0.11
        assert formed.chords[-1].end == slow.duration
    # out of 20: energies are drawn at random, but tend to follow the melody
    assert energies.count("full") >= 15


@styles
def test_line_ups_change_instruments_and_timing_but_no_notes(style: Style, one_chord: Song, soundfont: Path) -> None:
    bands = set()
    for seed in range(60):
        band = draw_line_up(style, fonts(soundfont, style), np.random.default_rng(seed))
        bands.add(tuple(player.program for player in band.players.values()))
        assert band.players.keys() == style.players.keys()
        for name, player in style.players.items():
            assert band.players[name].role == player.role, name
            assert band.players[name].patterns == player.patterns, name
    assert len(bands) > 50
    written, _ = arrange(one_chord, FORM, style, np.random.default_rng(0))
    hands = draw_hands(style, np.random.default_rng(1))
    for name, part in written.items():
        played = list(hands[name].play(part.notes, np.random.default_rng(2)))
        delays = np.array([b.start - a.start for a, b in zip(part.notes, played, strict=True)])  # in seconds
        assert np.abs(delays).max(initial=0.0) < 0.05, name
        assert len(delays) < 2 or delays.std() > 0.002, name
        assert [note.pitch for note in played] == [note.pitch for note in part.notes]


def test_the_lead_sheet_is_complete_and_stems_are_as_long_as_the_song(song: Song, soundfont: Path) -> None:
    style = STYLES["folk"]
    short = excerpt(song, 0.0, 12.0)
    styled = style_song(short, style, fonts(soundfont, style), RATE, np.random.default_rng(1))
    sheet = styled.lead_sheet
    assert set(styled.stems) == set(STEMS)
    assert {stem.size for stem in styled.stems.values()} == {12 * RATE}
    assert sheet["style"] == "folk"
    assert sheet["metre"] == 4
    assert sheet["key"] == styled.song.key
    spans = sheet["sections"]
    assert isinstance(spans, list)
    assert spans[0][0] == 0.0
    assert spans[-1][1] == 12.0
    assert all(left[1] == right[0] for left, right in zip(spans[:-1], spans[1:], strict=True))
    assert set(sheet["downbeats"]) <= set(sheet["beats"])  # type: ignore[call-overload]


@styles
def test_rendering_stereo_leaves_every_bit_of_the_mono_stems(style: Style, song: Song, soundfont: Path) -> None:
    short = excerpt(song, 0.0, 10.0)
    mono = style_song(short, style, fonts(soundfont, style), RATE, np.random.default_rng(1))
    both = in_both(song, style, soundfont)
    assert {name: stem.tobytes() for name, stem in mono.stems.items()} == {
        name: stem.tobytes() for name, stem in both.stems.items()
    }
    assert not mono.stereo


@styles
def test_the_mean_of_left_and_right_is_the_mono_band(style: Style, song: Song, soundfont: Path) -> None:
    both = in_both(song, style, soundfont)
    # 24 kHz to 44.1 kHz
    mono = resample_poly(np.sum(list(both.stems.values()), axis=0), 147, 80)
    middle = np.sum(list(both.stereo.values()), axis=0).mean(axis=0)
    assert middle.size == 10 * STEREO_RATE
    difference = below(middle - mono[: middle.size], STEREO_RATE, SHARED)
    assert level(difference) <= level(below(mono, STEREO_RATE, SHARED)) - 25


@styles
def test_stereo_has_sound_above_the_mono_bandwidth_and_a_bass_without_side(
    style: Style, song: Song, soundfont: Path
) -> None:
    stereo = in_both(song, style, soundfont).stereo
    band = np.sum(list(stereo.values()), axis=0).mean(axis=0)
    assert level(band - below(band, STEREO_RATE, 12_500)) > level(band) - 45
    left, right = stereo["bass"]
    assert level(left - right) < level(left + right) - 30


def test_pans_are_linear_and_width_scales_the_difference_of_the_channels() -> None:
    plain = panned(Sound(), np.random.default_rng(0))
    right = panned(Sound(pan=0.5), np.random.default_rng(0))
    np.testing.assert_allclose(right.mean(axis=0), plain.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(right[1] - plain[1], 0.5 * plain.mean(axis=0), atol=1e-9)
    narrow = panned(Sound(width=0.0), np.random.default_rng(0))
    np.testing.assert_allclose(narrow[0], narrow[1], atol=1e-9)


def test_saturation_follows_the_mean_of_the_channels() -> None:
    plain = panned(Sound(), np.random.default_rng(0))
    loud = panned(Sound(ceiling=0.05), np.random.default_rng(0))
    middle = plain.mean(axis=0)
    np.testing.assert_allclose(loud.mean(axis=0), 0.05 * np.tanh(middle / 0.05), atol=1e-9)
    # both channels get the same gain, so that an instrument keeps its position
    np.testing.assert_allclose(loud[0] * middle, plain[0] * loud.mean(axis=0), atol=1e-9)


waltzes = pytest.mark.parametrize("style", [STYLES["waltz"]], ids=["waltz"])
SHEET = {
    "title": "tune", "source": "test", "metre": "3/4",
    "notes": [[beat, 1.0, 60 + beat % 12] for beat in range(24)],
    "chords": [[3.0 * bar, 3.0, label] for bar, label in enumerate(("C:maj", "F:maj", "G:maj", "C:maj") * 2)],
}  # fmt: skip


@waltzes
def test_a_waltz_has_bass_and_kick_on_every_downbeat(style: Style, one_chord: Song) -> None:
    form = (Section("verse", "normal", 0, 10), Section("ending", "normal", 10, 11))
    parts, variants = arrange(one_chord, form, style, np.random.default_rng(2))
    assert variants["double_bass"]["normal"] in (0, 1)
    # times in beats
    beats = np.array([note.start for note in parts["double_bass"].notes]) / (BAR / 4)
    downbeats = np.arange(11) * 3
    assert set(downbeats) <= set(np.round(beats, 3))
    kicks = [note.start / (BAR / 4) for note in parts["kit"].notes if note.pitch == DRUMS["kick"]]
    assert set(downbeats) <= set(np.round(kicks, 3))


def test_the_lead_sheet_of_a_song_in_three_has_a_metre_of_three(song: Song, soundfont: Path) -> None:
    style = STYLES["waltz"]
    waltz = dataclasses.replace(excerpt(song, 0.0, 18.0), downbeats=tuple(1.8 * bar for bar in range(10)))
    sheet = style_song(waltz, style, fonts(soundfont, style), RATE, np.random.default_rng(0)).lead_sheet
    assert sheet["metre"] == 3


def test_swung_steps_are_late_and_straight_ones_are_not(song: Song) -> None:
    # in beats: first straight steps, then swung ones
    assert [Grid(4, 4, 0.5).beat(step) for step in range(4)] == [0.0, 0.25, 0.5, 0.75]
    assert [Grid(4, 4, 0.6).beat(step) for step in range(4)] == pytest.approx([0.0, 0.3, 0.5, 0.8])
    style = STYLES["soul"]
    assert style.swing > 0.5
    form = (Section("verse", "full", 0, 10), Section("ending", "full", 10, 11))
    slow = change(song, stretch=1.25)
    parts, _ = arrange(with_form(slow, form), form, style, np.random.default_rng(0))
    cymbals = (DRUMS["hat"], DRUMS["ride"])
    # position in a pair of steps, of which a beat of 0.75 s has four: the second is not at 1, but later
    positions = [note.start / 0.75 * 4 % 2 for note in parts["kit"].notes if note.pitch in cymbals]
    assert any(1.1 < position < 1.35 for position in positions)
    assert not any(0.9 < position < 1.05 for position in positions)


def test_a_kick_ducks_a_player_by_its_depth_and_only_for_a_moment() -> None:
    style = one_player(Sound(ducking_db=9.0, room_db=-200.0))
    dry = {name: np.zeros((2, 48_000), np.float32) for name in style.players}
    dry["player"][:] = 0.1
    free = mixed(dry, style, 2 * RATE, RATE)["chords"]
    ducked = mixed(dry, style, 2 * RATE, RATE, kicks=[0.5])["chords"]
    # the gain in dB, without the filters' edges
    decibels = 20 * np.log10(ducked[1_000:-1_000] / free[1_000:-1_000])
    assert decibels.min() == pytest.approx(-9.0, abs=0.6)
    # until shortly before the kick, and half a second after it
    np.testing.assert_allclose(decibels[: RATE // 2 - 1_100], 0.0, atol=1e-6)
    assert decibels[-1] > -0.3


def test_the_electronic_kick_is_on_every_beat_and_ducks_the_bass() -> None:
    style = STYLES["electronic"]
    assert style.players["bass"].sound.ducking_db > 0
    for grooves in style.players["kit"].patterns.values():
        kicks = [groove["kick"] for groove in grooves if not isinstance(groove, str)]
        # four steps a beat
        assert all(kick[::4] == "XXXX" for kick in kicks), kicks


def test_songs_in_three_become_waltzes_and_others_never_do(song: Song) -> None:
    beat = 0.5  # seconds
    waltz = dataclasses.replace(
        song, beats=tuple(beat * i for i in range(96)), downbeats=tuple(3 * beat * i for i in range(32))
    )
    assert song_weights(waltz, list(STYLES))["waltz"] == 1.0
    assert song_weights(song, list(STYLES))["waltz"] == 0.0


def test_fast_songs_are_never_ballads_and_slow_ones_never_electronic(song: Song) -> None:
    # from 100 BPM to 130 and 60 BPM
    fast = change(song, stretch=100 / 130)
    slow = change(song, stretch=100 / 60)
    assert song_weights(fast, list(STYLES))["ballad"] == 0.0
    assert song_weights(fast, list(STYLES))["electronic"] > 0.1
    assert song_weights(slow, list(STYLES))["ballad"] > 0.1
    assert song_weights(slow, list(STYLES))["electronic"] == 0.0


def test_bars_of_six_beats_become_two_of_three_and_other_songs_stay(song: Song) -> None:
    six = dataclasses.replace(
        song, beats=tuple(0.5 * i for i in range(24)), downbeats=tuple(3.0 * i for i in range(4))
    )
    assert in_threes(six).downbeats == tuple(1.5 * i for i in range(8))
    assert in_threes(song) is song


def test_lead_sheets_in_three_become_songs_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "sheets.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(sheet) + "\n" for sheet in (SHEET, SHEET | {"metre": "4/4"}))
    # the sheet in 4/4 is left out
    (song,) = lead_sheet_songs(path, "3/4", (100.0, 101.0))
    write_song(song, tmp_path / "sheet_0001")
    read = read_song(tmp_path / "sheet_0001")
    assert 100 <= read.tempo <= 101
    assert len(read.beats) == 3 * len(read.downbeats)
    assert [chord.label for chord in read.chords[:4]] == ["C:maj", "F:maj", "G:maj", "C:maj"]
    assert read.duration >= 95
    first = read.melody[:24]
    assert [note.pitch for note in first] == [60 + beat % 12 for beat in range(24)]
    np.testing.assert_allclose([note.start for note in first], read.beats[:24], atol=2e-3)


def test_lead_sheets_of_another_metre_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metre is '5/4'; choose from 3/4, 4/4"):
        next(lead_sheet_songs(tmp_path / "none", "5/4"))


def test_the_public_domain_waltzes_are_read(shared_data: Path) -> None:
    songs = list(lead_sheet_songs(shared_data / "lead_sheets.jsonl.gz"))
    assert len(songs) == 80
    assert all(isinstance(song.melody[0], Note) and song.duration > 95 for song in songs)
