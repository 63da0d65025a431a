# SPDX-License-Identifier: Apache-2.0
"""Random line-ups: a style's players get other instruments for each song, and human timing and velocities.

A player can get any General MIDI program of the same kind from any SoundFont; levels are not matched.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from .midi_song import Note
from .styles import Player, Style


@dataclass(frozen=True)
class Family:
    """Instruments that play chords alike.

    Attributes:
        programs: their General MIDI programs.
        voicing: how they spread a chord (see `arranger.voicing`).
        low: lowest pitch (MIDI).
        amplified: whether they can be played through an overdriven amplifier.
    """

    programs: tuple[int, ...]
    voicing: str = "close"
    low: int = 55
    amplified: bool = True


# pianos, electric pianos, acoustic and electric guitars, organs
CHORDS = (
    Family((0, 1, 2, 3), amplified=False),
    Family((4, 5, 7, 11)),
    Family((24, 25, 15, 46), "guitar", 40, amplified=False),
    Family((26, 27, 28, 29, 30), "guitar", 40),
    Family((16, 17, 18, 21)),
)
# programs of drum kits: acoustic, soft, electronic
KITS = ((0, 8, 16), (32, 40, 48), (24, 25))
BASSES = (32, 33, 34, 35, 36, 37, 38, 39)
# programs of the other players: those of held chords, of picked or short ones, of overdriven lines and of other lines
PADS = (16, 18, 19, 21, 48, 49, 50, 51, 52, 61, 62, 88, 89, 90, 95)
PICKED = (4, 11, 12, 15, 24, 25, 26, 27, 45, 46, 104, 105, 107, 108)
DRIVEN = (4, 16, 26, 27, 28, 80)
LINES = (9, 11, 22, 40, 42, 56, 60, 65, 66, 68, 71, 73, 74, 75, 80)
# per song: range of the standard deviation of onsets and largest constant offset, in seconds; range of the standard
# deviation of velocities
UNSTEADY_SECONDS = (0.004, 0.014)
PUSH_SECONDS = 0.008
UNEVEN = (4.0, 10.0)
# a chord player with notes shorter than this share of their steps plays picked instruments
SHORT = 0.8
# per song: standard deviation of players' levels in dB, range of the change of room level in dB, factors of the
# reverberation time
LEVEL_DB = 2.5
ROOM_DB = (-6.0, 8.0)
ROOM_LENGTHS = (0.5, 0.8, 1.2, 2.0)


@dataclass(frozen=True)
class Hands:
    """How exactly a player plays.

    Attributes:
        push: offset of all onsets in seconds; positive: late.
        unsteady: standard deviation of the onsets in seconds.
        uneven: standard deviation of the MIDI velocities.
    """

    push: float
    unsteady: float
    uneven: float

    def play(self, notes: Iterable[Note], generator: np.random.Generator) -> Iterator[Note]:
        """Applies timing and velocity deviations to notes; simultaneous notes stay together."""
        moves: dict[float, float] = {}  # by rounded start of notes: seconds by which they are late
        for note in notes:
            # to 0.1 ms, within which notes count as simultaneous
            instant = round(note.start, 4)
            if instant not in moves:
                moves[instant] = self.push + self.unsteady * float(np.clip(generator.standard_normal(), -2.5, 2.5))
            # no note starts before 0 s
            move = max(moves[instant], -note.start)
            velocity = int(np.clip(note.velocity + self.uneven * generator.standard_normal(), 20, 127))
            yield dataclasses.replace(note, start=note.start + move, end=note.end + move, velocity=velocity)


def draw_hands(style: Style, generator: np.random.Generator) -> dict[str, Hands]:
    """Draws the `Hands` of every player of a style, by name; bass and drums have the same offset."""
    unsteady = generator.uniform(*UNSTEADY_SECONDS)
    uneven = generator.uniform(*UNEVEN)
    pushes = {role: generator.uniform(-PUSH_SECONDS, PUSH_SECONDS) for role in ("drums", "chords", "line")}
    pushes["bass"] = pushes["drums"]
    return {name: Hands(pushes[player.role], unsteady, uneven) for name, player in style.players.items()}


def draw_line_up(style: Style, soundfonts: Collection[str], generator: np.random.Generator) -> Style:
    """A style with other instruments and a slightly different mix.

    Args:
        style: the original style.
        soundfonts: names of the available SoundFonts.
        generator: draws instrument families, instruments and SoundFonts, levels and the room.
    """
    family = CHORDS[int(generator.integers(len(CHORDS)))]
    kits = KITS[int(generator.integers(len(KITS)))]
    # only the first chord player gets an instrument of the family, and is adapted to it
    leader = next(name for name, player in style.players.items() if player.stem == "chords")
    players = {}
    for name, player in style.players.items():
        if name == leader:
            adapted = _adapted(player, family)
            programs = family.programs
        else:
            adapted = player
            programs = _programs(player, kits)
        program = int(generator.choice(programs))
        soundfont = str(generator.choice(sorted(soundfonts)))
        sound = adapted.sound
        gain_db = sound.gain_db + LEVEL_DB * generator.standard_normal()
        room_db = sound.room_db + generator.uniform(*ROOM_DB)
        sound = replace(sound, gain_db=gain_db, room_db=room_db)
        players[name] = replace(adapted, program=program, soundfont=soundfont, sound=sound)
    seconds = style.room_seconds * float(generator.choice(ROOM_LENGTHS))
    return replace(style, players=players, room_seconds=seconds)


def _adapted(player: Player, family: Family) -> Player:
    """Adapts a chord player to a family of instruments.

    A player with an amplifier stays unchanged if the family can use it. All others take the family's voicing and range
    and play without an amplifier.
    """
    if player.sound.drive_db and family.amplified:
        return player
    sound = player.sound
    if sound.drive_db:
        sound = replace(sound, drive_db=0.0, curve=())
    return replace(player, voicing=family.voicing, low=family.low, sound=sound)


def _programs(player: Player, kits: tuple[int, ...]) -> tuple[int, ...]:
    """General MIDI programs for a player other than the first chord player, by its role; `kits` are the drums'."""
    if player.role in ("drums", "bass"):
        return kits if player.role == "drums" else BASSES
    if player.role == "line":
        return DRIVEN if player.sound.drive_db else LINES
    return PICKED if player.ring or player.length < SHORT else PADS
