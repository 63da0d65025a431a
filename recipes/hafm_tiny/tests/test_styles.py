# SPDX-License-Identifier: Apache-2.0
"""Styles: a band that is the same in every song, follows the song's form, and repeats bars exactly."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pretty_midi", reason="pretty_midi is not installed")
pytest.importorskip("mir_eval", reason="mir_eval is not installed")

from hafm_tiny.songs.arranger import arrange
from hafm_tiny.songs.band import FRAME_RATE, bars
from hafm_tiny.songs.form import Section, sections, with_form
from hafm_tiny.songs.line_ups import draw_hands, draw_line_up
from hafm_tiny.songs.midi_song import Chord, Song, change, excerpt, read_song
from hafm_tiny.songs.styled import play, style_song
from hafm_tiny.songs.styles import DRUMS, STEMS, STYLES, Style

RATE = 24000
# 240 codec frames, slow enough for sixteenths
BAR = 3.2
FORM = (
    Section("intro", "normal", 0, 2),
    Section("verse", "sparse", 2, 6),
    Section("chorus", "full", 6, 10),
    Section("ending", "full", 10, 11),
)
styles = pytest.mark.parametrize("style", STYLES.values(), ids=list(STYLES))


@pytest.fixture(scope="module")
def song(songs: Path) -> Song:
    return read_song(songs / "001")


@pytest.fixture(scope="module")
def one_chord(song: Song) -> Song:
    """Eleven bars of BAR seconds on one chord, without other tracks."""
    duration = 11 * BAR
    return dataclasses.replace(
        song, tracks={}, chords=(Chord(0.0, duration, "A:min"),), duration=duration,
        beats=tuple(i * BAR / 4 for i in range(44)), downbeats=tuple(i * BAR for i in range(11)),
    )  # fmt: skip


def fonts(soundfont: Path, style: Style) -> dict[str, Path]:
    return {player.soundfont: soundfont for player in style.players.values()}


def of_bar(stem: np.ndarray, bar: int) -> np.ndarray:
    size = round(BAR * RATE)
    return stem[bar * size : (bar + 1) * size]


def level(audio: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(audio**2)))


@styles
def test_a_style_has_the_same_band_in_every_song(style: Style, songs: Path) -> None:
    programs = []
    for number, name in enumerate(("001", "004")):
        song, generator = read_song(songs / name), np.random.default_rng(number)
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
            assert 0 < note.velocity <= 127 and note.end > note.start
            at = note.start + 0.05
            chord = next(c for c in reversed(played.chords) if c.start <= at)
            assert note.pitch % 12 in chord.pitch_classes, (name, note, chord)


@styles
def test_repeated_bars_sound_alike_and_energies_differ_in_level(
    style: Style, one_chord: Song, soundfont: Path
) -> None:
    parts, _ = arrange(one_chord, FORM, style, np.random.default_rng(3))
    stems = play(parts, style, fonts(soundfont, style), one_chord.duration, RATE)
    mix = np.sum(list(stems.values()), axis=0)
    for name, stem in stems.items():
        # the second and third bar of the chorus: the bars before them are equal, and neither has a fill
        first, second = of_bar(stem, 7), of_bar(stem, 8)
        assert level(first) > -60, name
        assert level(second - first) < level(first) - 20, name
    sparse, full = (np.concatenate([of_bar(mix, bar) for bar in range(*span)]) for span in ((3, 5), (7, 9)))
    assert level(full) > level(sparse) + 3 and np.abs(mix).max() < 1.0


@styles
def test_a_fill_leads_into_the_next_section_and_the_ending_is_one_chord(style: Style, one_chord: Song) -> None:
    parts, _ = arrange(one_chord, FORM, style, np.random.default_rng(0))
    places: dict[int, set[tuple[float, int]]] = {bar: set() for bar in range(11)}
    for note in parts["kit"].notes:
        bar = int((note.start + 1e-6) / BAR)
        places[bar].add((round(note.start - BAR * bar, 2), note.pitch))
    assert places[7] == places[8] != places[9]
    assert {pitch for _, pitch in places[9]} >= {DRUMS[drum] for drum in style.fill}
    for name, part in parts.items():
        late = [note.start for note in part.notes if note.start >= 10 * BAR - 1e-6]
        # strummed strings are delayed by half frames
        assert all(start < 10 * BAR + 0.05 for start in late), name
        assert late or not part.notes or style.players[name].role == "line"


def test_energies_follow_the_melody_and_nobody_sings_in_the_intro(song: Song) -> None:
    slow = change(song, stretch=1.25)
    high = tuple(dataclasses.replace(n, pitch=n.pitch + (12 if 18 <= n.start < 30 else 0)) for n in slow.melody)
    lifted = dataclasses.replace(slow, melody=high)
    lifted_sections = []
    for seed in range(20):
        form = sections(lifted, np.random.default_rng(seed))
        assert [section.first for section in form[1:]] == [section.end for section in form[:-1]]
        assert form[0].name == "intro" and form[-1] == dataclasses.replace(form[-1], name="ending", end=16)
        lifted_sections.append(next(section for section in form if section.first <= 6 < section.end).energy)
        formed = with_form(lifted, form)
        assert min(note.start for note in formed.melody) > bars(slow)[form[0].end][0] - 0.11
        assert formed.chords[-1].end == slow.duration
    # drawn at random, but guided by the melody
    assert lifted_sections.count("full") >= 15


@styles
def test_line_ups_change_instruments_and_timing_but_no_notes(style: Style, one_chord: Song, soundfont: Path) -> None:
    bands = set()
    for seed in range(60):
        band = draw_line_up(style, fonts(soundfont, style), np.random.default_rng(seed))
        bands.add(tuple(player.program for player in band.players.values()))
        assert {n: (p.role, p.patterns) for n, p in band.players.items()} == {
            n: (p.role, p.patterns) for n, p in style.players.items()
        }
    assert len(bands) > 50
    written, _ = arrange(one_chord, FORM, style, np.random.default_rng(0))
    hands = draw_hands(style, np.random.default_rng(1))
    for name, part in written.items():
        played = list(hands[name].play(part.notes, np.random.default_rng(2)))
        late = np.array([b.start - a.start for a, b in zip(part.notes, played, strict=True)])
        assert np.abs(late).max(initial=0.0) < 0.05 and (len(late) < 2 or late.std() > 0.002), name
        assert [note.pitch for note in played] == [note.pitch for note in part.notes]


def test_the_lead_sheet_is_complete_and_stems_are_as_long_as_the_song(song: Song, soundfont: Path) -> None:
    style = STYLES["folk"]
    short = excerpt(song, 0.0, 12.0)
    found = style_song(short, style, fonts(soundfont, style), RATE, np.random.default_rng(1))
    sheet = found.lead_sheet
    assert set(found.stems) == set(STEMS) and {stem.size for stem in found.stems.values()} == {12 * RATE}
    assert sheet["style"] == "folk" and sheet["metre"] == 4 and sheet["key"] == found.song.key
    spans = sheet["sections"]
    assert isinstance(spans, list) and spans[0][0] == 0.0 and spans[-1][1] == 12.0
    assert all(left[1] == right[0] for left, right in zip(spans[:-1], spans[1:], strict=True))
    assert set(sheet["downbeats"]) <= set(sheet["beats"])  # type: ignore[call-overload]
