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

# so that frames are whole synthesiser blocks, and overdrive does not alias
OVERSAMPLING = 2


@dataclass(frozen=True)
class StyledSong:
    """A rendered song: `song` with the melody and chords of its form, stems (float64 [N]) and the lead sheet.

    `stereo` has the same stems as left and right, float64 [2, N'], at a rate of its own, if they were asked for.
    """

    song: Song
    stems: dict[str, np.ndarray]
    lead_sheet: dict[str, object]
    stereo: dict[str, np.ndarray] = field(default_factory=dict)


def lead_sheet(song: Song, form: tuple[Section, ...], style: str) -> dict[str, object]:
    """The complete lead sheet of a song, as in labels.json: seconds, Harte's chords, sections (start, end, energy).

    Args:
        song: whose bars are laid out in `form` (`with_form`).
        form: its sections.
        style: name of the style.
    """
    # of each bar, its beats in s and the next downbeat; the last one may end after the song, so `_end` limits it
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
            [float(all_bars[section.first][0]), _end(song, all_bars[section.end - 1]), section.energy]
            for section in form
        ],
        "section_names": [section.name for section in form],
        "style": style,
    }  # fmt: skip


def _end(song: Song, bar: np.ndarray) -> float:
    """The end of a bar in seconds, at most that of the song."""
    return float(min(bar[-1], song.duration))


def play(
    parts: Mapping[str, Part], style: Style, soundfonts: Mapping[str, Path], seconds: float, sampling_rate: int
) -> dict[str, np.ndarray]:
    """Synthesises and mixes parts to mono stems.

    Args:
        parts: notes by player.
        style: the players' instruments and mix.
        soundfonts: SoundFont files by the names used in the style.
        seconds: length.
        sampling_rate: of the stems in Hz.

    Returns:
        float64 [seconds * sampling_rate] by stem.
    """
    rate = OVERSAMPLING * sampling_rate
    dry = synthesised(parts, style, soundfonts, seconds, rate)
    return mixed(dry, style, rate, sampling_rate, kicks(parts, style))


def kicks(parts: Mapping[str, Part], style: Style) -> list[float]:
    """Times in seconds of all kicks of the drums."""
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
        seconds: length.
        sampling_rate: in Hz.

    Returns:
        Dry sounds by player: float32 [2, seconds * sampling_rate], left and right.
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
        The song in its form, the stems, and the lead sheet, to which the players and pattern variants drawn are added.
    """
    form = sections(song, generator)
    formed = with_form(song, form)
    drawn: dict[str, object] = {}  # labels of what is drawn
    hands = None
    if line_up_generator is not None:
        style = draw_line_up(style, soundfonts, line_up_generator)
        drawn["players"] = {name: [player.soundfont, player.program] for name, player in style.players.items()}
        hands = draw_hands(style, line_up_generator)
    parts, drawn["variants"] = arrange(formed, form, style, generator, hands)
    rate = OVERSAMPLING * sampling_rate
    # mono and stereo share the synthesiser's run: its blocks are whole frames at this rate, and at no audible one
    dry = synthesised(parts, style, soundfonts, song.duration, rate)
    ducks = kicks(parts, style)
    stems = mixed(dry, style, rate, sampling_rate, ducks)
    if stereo_rate:
        stereo = mixed_in_stereo(dry, style, rate, sampling_rate, stereo_rate, ducks)
    else:
        stereo = {}
    return StyledSong(formed, stems, lead_sheet(formed, form, style.name) | drawn, stereo)
