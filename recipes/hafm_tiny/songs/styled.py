# SPDX-License-Identifier: Apache-2.0
"""Plays a song in a style: form, arrangement, synthesis and mix; and its complete lead sheet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .arranger import arrange
from .band import Part, bars
from .form import Section, sections, with_form
from .line_ups import draw_hands, draw_line_up
from .midi_song import Song
from .mixer import mixed, mixed_in_stereo
from .styles import DRUMS, Style
from .synthesiser import synthesiser

# factor of the synthesiser's sampling rate, so that codec frames are whole synthesiser blocks, and overdrive does not
# alias
OVERSAMPLING = 2


@dataclass(frozen=True)
class StyledSong:
    """A rendered song.

    Attributes:
        song: the song with the melody and chords of its form.
        stems (float64 [N] each): the mono stems by name.
        lead_sheet: see `lead_sheet`; also the players and pattern variants drawn.
        stereo (float64 [2, N'] each): the same stems as left and right, at a rate of their own; empty if not rendered.
    """

    song: Song
    stems: dict[str, np.ndarray]
    lead_sheet: dict[str, object]
    stereo: dict[str, np.ndarray] = field(default_factory=dict)


def lead_sheet(song: Song, form: tuple[Section, ...], style: str) -> dict[str, object]:
    """The complete lead sheet of a song, as in labels.json.

    Args:
        song: the song, to which `form` has been applied (`with_form`).
        form: its sections.
        style: name of the style.

    Returns:
        Fields by name; times are in seconds, chords (start, end, label in Harte's notation), and sections (start, end,
        energy).
    """
    all_bars = bars(song)
    beats = sorted({float(beat) for bar in all_bars for beat in bar[:-1]})
    return {
        "tempo": song.tempo,
        "beats": beats,
        "downbeats": [float(bar[0]) for bar in all_bars],
        "metre": int(np.median([bar.size - 1 for bar in all_bars])),
        "chords": [[chord.start, chord.end, chord.label] for chord in song.chords],
        "key": song.key,
        "sections": [
            [float(all_bars[section.first][0]), _bar_end(song, all_bars[section.end - 1]), section.energy]
            for section in form
        ],
        "section_names": [section.name for section in form],
        "style": style,
    }  # fmt: skip


def _bar_end(song: Song, bar: np.ndarray) -> float:
    """The end of a bar (from `bars`) in seconds; the last bar ends with the song at the latest."""
    return float(min(bar[-1], song.duration))


def play(
    parts: Mapping[str, Part], style: Style, soundfonts: Mapping[str, Path], seconds: float, sampling_rate: int
) -> dict[str, np.ndarray]:
    """Synthesises and mixes parts to mono stems.

    Args:
        parts: notes by player.
        style: the players' instruments and mix.
        soundfonts: SoundFont files by the names used in the style.
        seconds: length of the stems.
        sampling_rate: of the stems in Hz.

    Returns:
        By stem, float64 [seconds · sampling_rate].
    """
    rate = OVERSAMPLING * sampling_rate
    dry = synthesised(parts, style, soundfonts, seconds, rate)
    return mixed(dry, style, rate, sampling_rate, kicks(parts, style))


def kicks(parts: Mapping[str, Part], style: Style) -> list[float]:
    """Times in seconds of all kicks in the parts (by player) of a style's drums, sorted."""
    drums = [part for name, part in parts.items() if style.players[name].role == "drums"]
    return sorted({note.start for part in drums for note in part.notes if note.pitch == DRUMS["kick"]})


def synthesised(
    parts: Mapping[str, Part], style: Style, soundfonts: Mapping[str, Path], seconds: float, sampling_rate: int
) -> dict[str, np.ndarray]:
    """Synthesises parts without mixing them.

    Args:
        parts: notes by player.
        style: the players' instruments.
        soundfonts: SoundFont files by the names used in the style.
        seconds: length of the audio.
        sampling_rate: in Hz.

    Returns:
        Dry audio by player: float32 [left and right, seconds · sampling_rate].
    """
    dry = {}
    for name, part in parts.items():
        player = style.players[name]
        dry[name] = synthesiser(sampling_rate).play(
            part.notes, part.program, soundfonts[player.soundfont], seconds, player.role == "drums"
        )
    return dry


def style_song(
    song: Song,
    style: Style,
    soundfonts: Mapping[str, Path],
    sampling_rate: int,
    generator: np.random.Generator,
    line_up_generator: np.random.Generator | None = None,
    stereo_rate: int | None = None,
) -> StyledSong:
    """Arrange and render a song.

    Args:
        song: an excerpt that starts at a bar line.
        style: the style, with its players.
        soundfonts: SoundFont files by the names used in the style.
        sampling_rate: rate of the stems in Hz.
        generator: draws energies and pattern variants.
        line_up_generator: draws a line-up and human timing for this song; without one, the style's own players play.
        stereo_rate: rate in Hz of stereo stems of the same notes, above `sampling_rate`; None for mono only.

    Returns:
        The song in its form, the stems, and the lead sheet with the players and pattern variants drawn.
    """
    form = sections(song, generator)
    formed = with_form(song, form)
    drawn: dict[str, object] = {}  # labels for what is drawn at random
    hands = None
    if line_up_generator is not None:
        style = draw_line_up(style, soundfonts, line_up_generator)
        drawn["players"] = {name: [player.soundfont, player.program] for name, player in style.players.items()}
        hands = draw_hands(style, line_up_generator)
    parts, drawn["variants"] = arrange(formed, form, style, generator, hands)
    rate = OVERSAMPLING * sampling_rate
    # also for stereo: at its rate, such as 44.1 kHz, codec frames would not be whole synthesiser blocks
    dry = synthesised(parts, style, soundfonts, song.duration, rate)
    ducks = kicks(parts, style)
    stems = mixed(dry, style, rate, sampling_rate, ducks)
    if stereo_rate:
        stereo = mixed_in_stereo(dry, style, rate, sampling_rate, stereo_rate, ducks)
    else:
        stereo = {}
    return StyledSong(formed, stems, lead_sheet(formed, form, style.name) | drawn, stereo)
