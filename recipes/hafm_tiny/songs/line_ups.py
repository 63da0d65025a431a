# SPDX-License-Identifier: Apache-2.0
"""Line-ups as data: a style's players exchange their instruments from song to song, and play as people do.

A player can change to any General MIDI program of his kind, from every SoundFont that there is, as loud as it is.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from .midi_song import Note
from .styles import Player, Style


@dataclass(frozen=True)
class Family:
    """Instruments that are played alike: programs, voicing, lowest pitch (MIDI), and whether amplifiers suit them."""

    programs: tuple[int, ...]
    voicing: str = "close"
    low: int = 55
    amplified: bool = True


# piano, electric piano, acoustic and electric guitar, organ
CHORDS = (
    Family((0, 1, 2, 3), amplified=False),
    Family((4, 5, 7, 11)),
    Family((24, 25, 15, 46), "guitar", 40, amplified=False),
    Family((26, 27, 28, 29, 30), "guitar", 40),
    Family((16, 17, 18, 21)),
)
# acoustic, soft, electronic
KITS = ((0, 8, 16), (32, 40, 48), (24, 25))
BASSES = (32, 33, 34, 35, 36, 37, 38, 39)
# of the other players, by how they play: held chords, picked or short ones, lines
PADS = (16, 18, 19, 21, 48, 49, 50, 51, 52, 61, 62, 88, 89, 90, 95)
PICKED = (4, 11, 12, 15, 24, 25, 26, 27, 45, 46, 104, 105, 107, 108)
DRIVEN = (4, 16, 26, 27, 28, 80)
LINES = (9, 11, 22, 40, 42, 56, 60, 65, 66, 68, 71, 73, 74, 75, 80)
# of a song: seconds around the beat and beside it, and velocities around the written ones
UNSTEADY_SECONDS, PUSH_SECONDS, UNEVEN = (0.004, 0.014), 0.008, (4.0, 10.0)
# a player of chords whose notes fill less of their steps picks them
SHORT = 0.8
# of a song's mix: dB that players' levels scatter by, dB added to what they send to the room, the room's length
LEVEL_DB, ROOM_DB, ROOM_LENGTHS = 2.5, (-6.0, 8.0), (0.5, 0.8, 1.2, 2.0)


@dataclass(frozen=True)
class Hands:
    """How a player plays: seconds that he is late by, those and the velocities that his notes scatter by."""

    push: float
    unsteady: float
    uneven: float

    def play(self, notes: Iterable[Note], generator: np.random.Generator) -> Iterator[Note]:
        """Notes as they come from these hands; those that are written together stay together."""
        moves: dict[float, float] = {}
        for note in notes:
            # written together, to a tenth of a millisecond
            instant = round(note.start, 4)
            if instant not in moves:
                moves[instant] = self.push + self.unsteady * float(np.clip(generator.standard_normal(), -2.5, 2.5))
            move = max(moves[instant], -note.start)
            velocity = int(np.clip(note.velocity + self.uneven * generator.standard_normal(), 20, 127))
            yield dataclasses.replace(note, start=note.start + move, end=note.end + move, velocity=velocity)


def draw_hands(style: Style, generator: np.random.Generator) -> dict[str, Hands]:
    """Hands for every player of a style; a bass lies where the kit does."""
    unsteady, uneven = generator.uniform(*UNSTEADY_SECONDS), generator.uniform(*UNEVEN)
    pushes = {role: generator.uniform(-PUSH_SECONDS, PUSH_SECONDS) for role in ("drums", "chords", "line")}
    pushes["bass"] = pushes["drums"]
    return {name: Hands(pushes[player.role], unsteady, uneven) for name, player in style.players.items()}


def draw_line_up(style: Style, soundfonts: Collection[str], generator: np.random.Generator) -> Style:
    """A style with other instruments for its players, mixed a little differently.

    Args:
        style: as it is written.
        soundfonts: names of those that there are.
        generator: draws kinds of chords and kit, instruments and SoundFonts, levels and the room.
    """
    family, kits = CHORDS[int(generator.integers(len(CHORDS)))], KITS[int(generator.integers(len(KITS)))]
    leader = next(name for name, player in style.players.items() if player.stem == "chords")
    players = {}
    for name, player in style.players.items():
        new = _at_home_in(player, family) if name == leader else player
        programs = family.programs if name == leader else _programs(player, kits)
        new = replace(
            new, program=int(generator.choice(programs)), soundfont=str(generator.choice(sorted(soundfonts)))
        )
        sound = new.sound
        level, room = sound.gain_db + LEVEL_DB * generator.standard_normal(), generator.uniform(*ROOM_DB)
        players[name] = replace(new, sound=replace(sound, gain_db=level, room_db=sound.room_db + room))
    seconds = style.room_seconds * float(generator.choice(ROOM_LENGTHS))
    return replace(style, players=players, room_seconds=seconds)


def _at_home_in(player: Player, family: Family) -> Player:
    """A player of chords with an instrument of a family: behind his amplifier as before, or as that family plays."""
    if player.sound.drive_db and family.amplified:
        return player
    sound = replace(player.sound, drive_db=0.0, curve=()) if player.sound.drive_db else player.sound
    return replace(player, voicing=family.voicing, low=family.low, sound=sound)


def _programs(player: Player, kits: tuple[int, ...]) -> tuple[int, ...]:
    """What a player who does not lead the chords may play."""
    if player.role in ("drums", "bass"):
        return kits if player.role == "drums" else BASSES
    if player.role == "line":
        return DRIVEN if player.sound.drive_db else LINES
    return PICKED if player.ring or player.length < SHORT else PADS
