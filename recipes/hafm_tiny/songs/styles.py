# SPDX-License-Identifier: Apache-2.0
"""Styles as data: players, their SoundFonts, their patterns at each energy, and the mix.

A pattern is a string of steps for one or several bars, of four beats unless the style's metre is another; steps are
sixteenths in slow songs and eighths in fast ones, unless the style says how many a beat has (see `arranger`). `.` is a
rest, `_` holds. Drums: X x o by loudness. Bass: R root, 5 fifth, 8 octave; r is softer. Chords: C the whole chord, L
with the root in the left hand, H all but the lowest note, B the lowest note, 1 to 6 single notes from the lowest
upwards, D and U strummed down and up; lower case is softer. Pads play chords.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hafm_hf.lead_sheet.style_choice import StyleRange
from hafm_hf.lead_sheet.vocabulary import STEMS as STEMS

# General MIDI drum map
DRUMS = {
    "kick": 36, "stick": 37, "snare": 38, "clap": 39, "low_tom": 41, "hat": 42, "pedal": 44, "mid_tom": 45,
    "open": 46, "high_tom": 48, "crash": 49, "ride": 51, "tambourine": 54, "shaker": 82, "cabasa": 69,
}  # fmt: skip
# patterns by drum
Groove = Mapping[str, str]
# points (Hz, dB) of an equaliser, interpolated linearly over log frequency
Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Sound:
    """Mixer settings of one player.

    Attributes:
        gain_db: gain in dB.
        room_db: level of the reverberation relative to the dry sound, in dB.
        drive_db: amplification before an overdriven amplifier's distortion, in dB; 0: no amplifier.
        ceiling: amplitude at which peaks saturate, as on tape; 0: no saturation.
        curve: equaliser; empty: none.
        ducking_db: by how many dB each kick of the drums attenuates the player for a moment (side-chain compression).
        pan: only in stereo, from −1 (left) to 1 (right).
        width: only in stereo, factor of the instrument's own difference between left and right; 0: mono.
    """

    gain_db: float = 0.0
    room_db: float = -20.0
    drive_db: float = 0.0
    ceiling: float = 0.0
    curve: Curve = ()
    ducking_db: float = 0.0
    pan: float = 0.0
    width: float = 1.0


@dataclass(frozen=True)
class Player:
    """One player of a band.

    Attributes:
        stem: stem that contains the player, one of STEMS.
        role: drums, bass, chords or line.
        program: General MIDI program; for drums, the number of the kit.
        soundfont: a part of the SoundFont's file name.
        patterns: by energy, variants of which a song draws one; at missing energies, the player is silent. A line has
            no variants: it plays the song's second voice at the energies listed.
        sound: mixer settings.
        low: lowest pitch (MIDI).
        voicing: how chords are spread: close, open, power or guitar (see `arranger.voicing`).
        velocity: MIDI velocity of a normal note.
        ring: whether the notes of chords sound until the chord changes or the bar ends.
        length: otherwise, share of its steps that a note lasts.
    """

    stem: str
    role: str
    program: int
    soundfont: str
    patterns: Mapping[str, tuple[str, ...] | tuple[Groove, ...]]
    sound: Sound = field(default_factory=Sound)
    low: int = 55
    voicing: str = "close"
    velocity: int = 84
    ring: bool = False
    length: float = 0.95


@dataclass(frozen=True)
class Style:
    """A band, and the room in which it plays.

    Attributes:
        name: name of the style.
        players: the players by name.
        fill: drum patterns that end a section, all of the same length.
        room_seconds: reverberation time.
        room_width: level of the reverberation in the difference of left and right, relative to their mean; a factor.
        metre: beats in a bar of the patterns.
        steps_a_beat: pattern steps per beat; None: sixteenths in slow songs, eighths in fast ones.
        swing: where in a pair of steps the second one begins; 0.5: steps are even.
        suits: songs for which a corpus draws the style.
    """

    name: str
    players: Mapping[str, Player]
    fill: Groove
    room_seconds: float
    room_width: float = 0.8
    metre: int = 4
    steps_a_beat: int | None = None
    swing: float = 0.5
    suits: StyleRange = field(default_factory=StyleRange)


BALLAD = Style(
    name="ballad",
    players={
        "kit": Player(
            "drums", "drums", 40, "fluid",
            {
                "sparse": (
                    {"kick": "x...............", "stick": "........o.......", "ride": "o...o...o...o..."},
                    {"pedal": "....x.......x...", "shaker": "xoxoxoxoxoxoxoxo"},
                ),
                "normal": (
                    {"kick": "x.....x.x.......", "stick": "....x.......x...", "hat": "xoxoxoxoxoxoxoxo"},
                    {"kick": "x.........x.....", "stick": "....x.......x...", "hat": "x.xox.xox.xox.xo"},
                ),
                "full": (
                    {"kick": "X.....x.X.x.....", "snare": "....X.......X...", "hat": "XoxoXoxoXoxoXoxo",
                     "tambourine": "....x.......x..."},
                    {"kick": "X......xX.....x.", "snare": "....X.......X...", "ride": "x.xox.xox.xox.xo"},
                ),
            },
            Sound(gain_db=3.5, room_db=-18.5, ceiling=0.45, width=2.0), velocity=92,
        ),
        "bass": Player(
            "bass", "bass", 33, "fluid",
            {
                "sparse": ("R_______R_______",),
                "normal": ("R_____r_R_____5_", "R_______r_R___5_"),
                "full": ("R_____R_R___5_8_", "R___..R_R___R_5_"),
            },
            Sound(gain_db=1.5, room_db=-32.5, width=0.0), low=28, velocity=96,
        ),
        "piano": Player(
            "chords", "chords", 0, "musescore",
            {
                "sparse": ("B_2_3_4_3_2_3_2_", "L_______c_______", "B_3_2_3_B_3_2_3_"),
                "normal": ("L_H_c_H_B_H_c_H_", "L_2_3_4_L_2_3_4_"),
                "full": ("L_c_C_c_L_c_C_c_", "L_.cC_c_L_.cC_cc"),
            },
            Sound(gain_db=4.0, room_db=-9.0, pan=0.25, width=0.8), low=58, velocity=86, ring=True,
        ),
        "strings": Player(
            "pads", "chords", 49, "fluid",
            {"normal": ("C_______________",), "full": ("C_______C_______",)},
            Sound(gain_db=-0.5, room_db=-14.5, pan=-0.3), low=60, voicing="open", velocity=78,
        ),
        "cello": Player(
            "pads", "line", 42, "fluid", {"sparse": (), "normal": (), "full": ()},
            Sound(gain_db=-6.5, room_db=-11.5, pan=-0.5), low=64, velocity=84,
        ),
    },
    fill={"snare": "..o.x.xx", "high_tom": "....x...", "low_tom": "......x."},
    room_seconds=1.12,
    suits=StyleRange(tempo=(50.0, 86.0), density=(1.0, 3.0)),
)  # fmt: skip

FOLK = Style(
    name="folk",
    players={
        "kit": Player(
            "drums", "drums", 16, "musescore",
            {
                "sparse": (
                    {"kick": "o.......o.......", "shaker": "XoxoXoxoXoxoXoxo"},
                    {"kick": "o...............", "cabasa": "x.xox.xox.xox.xo"},
                ),
                "normal": (
                    {"kick": "x.......x.......", "shaker": "xooxxooxxooxxoox", "tambourine": "....x.......x..."},
                    {"kick": "x.....x.x.......", "shaker": "x.o.x.o.x.o.x.o.", "stick": "....x.......x..."},
                ),
                "full": (
                    {"kick": "X.....x.X.....x.", "snare": "....x..o.o..x...", "cabasa": "xoxoxoxoxoxoxoxo",
                     "tambourine": "..o.x.o...o.x.o."},
                    {"kick": "X...x...X...x...", "snare": "..o.x.o...o.x.oo", "tambourine": "....X.......X..."},
                ),
            },
            Sound(gain_db=9.5, room_db=-17.0, ceiling=0.45, curve=((3000, 0), (6000, -5), (12000, -6)), width=2.0),
            velocity=92,
        ),
        "double_bass": Player(
            "bass", "bass", 32, "musescore",
            {
                "sparse": ("R_______5_______",),
                "normal": ("R_______5_______", "R_____r_5_______"),
                "full": ("R___r___5___5___", "R_____R_5_____5_"),
            },
            Sound(gain_db=1.0, room_db=-31.0, width=0.0), low=28, velocity=100,
        ),
        "guitar": Player(
            "chords", "chords", 26, "musescore",
            {
                "sparse": ("B_4_3_5_C_4_3_5_", "B_3_4_5_C_5_4_3_"),
                "normal": ("B_4_3_5_2_4_3_5_", "D___d_u_.ud_d_u_"),
                "full": ("D_d_d_dudud_d_du", "D_duDudu.udud_du"),
            },
            Sound(gain_db=0.5, room_db=-15.5, pan=0.5), low=40, voicing="guitar", velocity=90, ring=True,
        ),
        "dulcimer": Player(
            "pads", "chords", 15, "fluid",
            {"normal": ("2_4_3_4_2_4_3_4_",), "full": ("4_3_5_3_4_3_5_3_",)},
            Sound(gain_db=-2.5, room_db=-20.0, pan=-0.5, width=0.8), low=52, voicing="guitar", velocity=84, ring=True,
        ),
        "strings": Player(
            "pads", "chords", 49, "fluid",
            {"sparse": ("C_______________",), "normal": ("C_______________",), "full": ("C_______C_______",)},
            Sound(gain_db=-0.5, room_db=-20.5, pan=-0.3), low=58, velocity=84,
        ),
        "fiddle": Player(
            "pads", "line", 110, "fluid", {"sparse": (), "normal": (), "full": ()},
            Sound(gain_db=-9.5, room_db=-16.5, pan=-0.5), low=62, velocity=84,
        ),
    },
    fill={"snare": "o.ox.oxx", "tambourine": "....x...", "kick": "x......."},
    room_seconds=0.84,
    suits=StyleRange(tempo=(62.0, 122.0), density=(1.5, 3.6)),
)  # fmt: skip

POP = Style(
    name="pop",
    players={
        "kit": Player(
            "drums", "drums", 8, "musescore",
            {
                "sparse": (
                    {"kick": "x.......x.......", "hat": "o.o.x.o.o.o.x.o.", "clap": "............x..."},
                    {"kick": "x...x...x...x...", "shaker": "xoxoxoxoxoxoxoxo"},
                ),
                "normal": (
                    {"kick": "X..x..x...x.....", "snare": "....X.......X...", "hat": "xoxoxoxoxoxoxoxo"},
                    {"kick": "X......x..x.....", "snare": "....X.......X..o", "hat": "x.oox.oox.oox.oo"},
                ),
                "full": (
                    {"kick": "X..x..X...X..x..", "snare": "....X..o.o..X...", "clap": "....X.......X...",
                     "hat": "xoxoxo.oxoxoxo.o", "open": "......x.......x."},
                    {"kick": "X...X...X...X...", "snare": "....X.......X.o.", "clap": "....X.......X...",
                     "hat": "xo.oxo.oxo.oxo.o", "open": "..x...x...x...x."},
                ),
            },
            Sound(gain_db=1.0, room_db=-24.0, ceiling=0.4, width=2.0), velocity=96,
        ),
        "bass": Player(
            "bass", "bass", 33, "fluid",
            {
                "sparse": ("R_______________", "R_______r_______"),
                "normal": ("R__R__R_..R_R_5_", "R__r____R__r__8_"),
                "full": ("R_8_R_8_R_8_R_8_", "R__R_.R_8_R__R8_"),
            },
            Sound(gain_db=3.0, room_db=-38.5, width=0.0), low=28, velocity=98, length=0.85,
        ),
        "electric_piano": Player(
            "chords", "chords", 5, "fluid",
            {
                "sparse": ("C_______c_______", "1_2_3_2_1_2_3_2_"),
                "normal": ("C_____c_..C_____", "C__c__c_..c_C___"),
                "full": ("C__C__C_..C_C___", "C_____C_C_____C_"),
            },
            Sound(gain_db=-3.0, room_db=-13.0, pan=0.4), low=55, velocity=90, length=0.9,
        ),
        "clavinet": Player(
            "chords", "chords", 7, "musescore",
            {"normal": ("..h...h...h...hh", "1_3_2_3_1_3_2_3_"), "full": ("h.hhh.hhh.hhh.hh", "1.3.2.3.4.3.2.3.")},
            Sound(gain_db=5.5, room_db=-15.5, pan=0.55), low=57, velocity=92, length=0.5,
        ),
        "pad": Player(
            "pads", "chords", 89, "fluid",
            {"sparse": ("C_______________",), "normal": ("C_______________",), "full": ("C_______________",)},
            Sound(gain_db=-1.5, room_db=-15.5, pan=-0.3), low=55, voicing="open", velocity=74,
        ),
        "synthesiser": Player(
            "pads", "line", 80, "fluid", {"sparse": (), "normal": (), "full": ()},
            Sound(gain_db=-2.5, room_db=-11.0, pan=-0.5), low=67, velocity=88,
        ),
    },
    fill={"snare": "x.xxx.XX", "high_tom": "..x.....", "low_tom": "......x."},
    room_seconds=0.45,
    suits=StyleRange(tempo=(70.0, 134.0), density=(1.8, 5.0)),
)  # fmt: skip

ROCK = Style(
    name="rock",
    players={
        "kit": Player(
            "drums", "drums", 8, "musescore",
            {
                "sparse": (
                    {"kick": "X.......X.......", "hat": "XxXxXxXxXxXxXxXx"},
                    {"kick": "X.....x.X.......", "stick": "....X.......X...", "hat": "X.xxX.xxX.xxX.xx"},
                ),
                "normal": (
                    {"kick": "X.....x.X.x.....", "snare": "....X.......X...", "hat": "XxXxXxXxXxXxXxXx"},
                    {"kick": "X.x..x..X.x.....", "snare": "....X.......X...", "hat": "X.XxX.XxX.XxX.Xx"},
                ),
                "full": (
                    {"kick": "X.x...x.X.x.....", "snare": "....X.......X...", "hat": "XxXxXxXxXxXxXxXx",
                     "crash": "x..............."},
                    {"kick": "X..x..x.X..x....", "snare": "....X..o....X.o.", "ride": "X.XxX.XxX.XxX.Xx",
                     "open": "..x...x...x...x."},
                ),
            },
            Sound(gain_db=2.5, room_db=-20.0, ceiling=0.45, width=2.0), velocity=104,
        ),
        "bass": Player(
            "bass", "bass", 34, "musescore",
            {
                "sparse": ("R_______R_______", "R___r___R___r___"),
                "normal": ("R_r_R_r_R_r_R_r_", "R_r_r_R_R_r_r_5_"),
                "full": ("R_R_R_R_R_R_R_R_", "R_RRR_RRR_RRR_RR"),
            },
            Sound(gain_db=2.5, room_db=-32.0, drive_db=6.0, width=0.0), low=28, velocity=106, length=0.9,
        ),
        "guitar": Player(
            "chords", "chords", 29, "musescore",
            {
                "sparse": ("C_______________", "C_______C_______"),
                "normal": ("C_c_c_C_c_c_C_c_", "C_..C_c_C_..C_c_"),
                "full": ("C_cCC_cCC_cCC_cC", "C_C_C_CCC_C_C_CC"),
            },
            Sound(gain_db=-2.5, room_db=-18.5, curve=((1000, 0), (2500, -5), (5000, -5)), pan=0.5), low=40,
            voicing="power", velocity=100, length=0.8,
        ),
        "organ": Player(
            "pads", "chords", 16, "musescore",
            {"normal": ("C_______________",), "full": ("C_______C_______",)},
            Sound(gain_db=1.0, room_db=-19.0, pan=-0.5), low=57, velocity=84,
        ),
        "lead": Player(
            "pads", "line", 28, "fluid", {"normal": (), "full": ()},
            Sound(gain_db=-7.5, room_db=-9.5, drive_db=26.0, pan=-0.4), low=60, velocity=98,
        ),
    },
    fill={"snare": "X.xxX.xx", "high_tom": "..x.....", "mid_tom": "....x.x.", "low_tom": "......xX"},
    room_seconds=1.2,
    suits=StyleRange(tempo=(72.0, 165.0), density=(1.6, 5.0)),
)  # fmt: skip

WALTZ = Style(
    name="waltz",
    players={
        "kit": Player(
            "drums", "drums", 40, "fluid",
            {
                "sparse": (
                    {"kick": "o.....", "ride": "..o.o."},
                    {"kick": "x.....", "pedal": "..x.x.", "shaker": "xoxoxo"},
                ),
                "normal": (
                    {"kick": "x.....", "snare": "..o.o.", "hat": "x.x.x."},
                    {"kick": "x.....x...o.", "stick": "..x.x...x.x.", "ride": "x.xox.x.xox."},
                ),
                "full": (
                    {"kick": "X...x.", "snare": "..x.xo", "ride": "X.xoxo", "tambourine": "..x.x."},
                    {"kick": "X...x.", "snare": "..X.x.", "hat": "Xoxoxo", "open": "....x."},
                ),
            },
            Sound(gain_db=4.5, room_db=-18.0, ceiling=0.45, width=2.0), velocity=94,
        ),
        "double_bass": Player(
            "bass", "bass", 32, "musescore",
            {
                "sparse": ("R_____", "R_____5_____"),
                "normal": ("R___..5___..", "R_____5___r_"),
                "full": ("R___5_", "R_r_5_"),
            },
            Sound(gain_db=1.5, room_db=-30.0, width=0.0), low=28, velocity=100,
        ),
        "piano": Player(
            "chords", "chords", 0, "musescore",
            {
                "sparse": ("B_2_3_B_3_2_", "L_____c_____"),
                "normal": ("L_c_c_", "B_H_h_"),
                "full": ("L_C_C_", "L_CcC_"),
            },
            Sound(gain_db=4.0, room_db=-11.0, pan=0.3, width=0.8), low=57, velocity=88, length=0.9,
        ),
        "accordion": Player(
            "pads", "chords", 21, "fluid",
            {"normal": ("C_____C_____", "..c_c_..c_c_"), "full": ("C___c_", "..C_C_")},
            Sound(gain_db=-6.5, room_db=-16.0, pan=-0.5), low=57, velocity=80,
        ),
        "strings": Player(
            "pads", "chords", 48, "fluid",
            {"sparse": ("C_____",), "normal": ("C_____",), "full": ("C_____",)},
            Sound(gain_db=-1.5, room_db=-14.5, pan=-0.3), low=60, voicing="open", velocity=78,
        ),
        "clarinet": Player(
            "pads", "line", 71, "fluid", {"sparse": (), "normal": (), "full": ()},
            Sound(gain_db=-6.0, room_db=-13.0, pan=-0.5), low=64, velocity=84,
        ),
    },
    fill={"snare": "..oxxX", "high_tom": "..x...", "low_tom": "....x."},
    room_seconds=1.0,
    room_width=0.9,
    metre=3,
    steps_a_beat=2,
    suits=StyleRange((3,), tempo=(72.0, 200.0), density=(0.8, 3.4)),
)  # fmt: skip

SOUL = Style(
    name="soul",
    players={
        "kit": Player(
            "drums", "drums", 8, "musescore",
            {
                "sparse": (
                    {"kick": "x.......x.x.....", "stick": "....x.......x...", "hat": "x.o.x.o.x.o.x.o."},
                    {"kick": "x..x....x.......", "stick": "....x.......x...", "shaker": "xooxxooxxooxxoox"},
                ),
                "normal": (
                    {"kick": "X..x..x...x.....", "snare": "....X..o.o..X...", "hat": "xoxoxoxoxoxoxoxo"},
                    {"kick": "X.....xx..x..x..", "snare": "....X..o....X..o", "hat": "x.xox.xox.xox.xo"},
                ),
                "full": (
                    {"kick": "X..x..xX..x..x..", "snare": "....X..o.o..X..o", "hat": "XoxoXoxoXoxoXoxo",
                     "tambourine": "....x.......x..."},
                    {"kick": "X..X..x...Xx....", "snare": "....X..o.oo.X.oo", "ride": "X.xoX.xoX.xoX.xo",
                     "tambourine": "..x...x...x...x."},
                ),
            },
            Sound(gain_db=2.0, room_db=-22.0, ceiling=0.42, width=2.0), velocity=96,
        ),
        "bass": Player(
            "bass", "bass", 33, "fluid",
            {
                "sparse": ("R_______..R_5_r_", "R_____r_5_______"),
                "normal": ("R__r..R_..R_5_8_", "R_..R.5_R_..8_5r"),
                "full": ("R_rR..R_.rR_5_8r", "R.R_.r5_R.R_.8_5"),
            },
            Sound(gain_db=2.5, room_db=-36.0, width=0.0), low=28, velocity=98, length=0.85,
        ),
        "electric_piano": Player(
            "chords", "chords", 4, "fluid",
            {
                "sparse": ("C_______c_____c_", "C_____c_________"),
                "normal": ("C__c__C_..c_C___", "..C_c__c..C_c__c"),
                "full": ("C__cC_.c.C.cC_.c", "C_.cC__cC_.cC_Cc"),
            },
            Sound(gain_db=-1.0, room_db=-14.0, pan=0.4), low=55, velocity=92, length=0.9,
        ),
        "horns": Player(
            "pads", "chords", 61, "musescore",
            {"normal": ("..........C_..c.", "C___............"), "full": ("C_.C......C_.C..", "..C_..C_....C_C.")},
            Sound(gain_db=-1.5, room_db=-14.0, pan=-0.5), low=58, velocity=92, length=0.8,
        ),
        "organ": Player(
            "pads", "chords", 16, "musescore",
            {"sparse": ("C_______________",), "normal": ("C_______________",), "full": ("C_______C_______",)},
            Sound(gain_db=0.5, room_db=-17.0, pan=-0.4), low=57, velocity=78,
        ),
        "saxophone": Player(
            "pads", "line", 65, "fluid", {"sparse": (), "normal": (), "full": ()},
            Sound(gain_db=-7.0, room_db=-12.0, pan=-0.5), low=60, velocity=86,
        ),
    },
    fill={"snare": "x.oxx.xX", "high_tom": "..x.....", "low_tom": ".....x.x"},
    room_seconds=0.6,
    steps_a_beat=4,
    swing=0.6,
    suits=StyleRange(tempo=(60.0, 106.0), density=(1.6, 4.0)),
)  # fmt: skip

ELECTRONIC = Style(
    name="electronic",
    players={
        "kit": Player(
            "drums", "drums", 25, "fluid",
            {
                "sparse": (
                    {"kick": "X...X...X...X...", "hat": "..x...x...x...x."},
                    {"kick": "X...X...X...X...", "shaker": "xoxoxoxoxoxoxoxo"},
                ),
                "normal": (
                    {"kick": "X...X...X...X...", "clap": "....X.......X...", "hat": "x.xox.xox.xox.xo"},
                    {"kick": "X...X...X...X.x.", "clap": "....X.......X...", "open": "..x...x...x...x."},
                ),
                "full": (
                    {"kick": "X...X...X...X...", "clap": "....X..o....X...", "hat": "xoxoxoxoxoxoxoxo",
                     "open": "..X...X...X...X."},
                    {"kick": "X...X...X..xX...", "snare": "....X.......X..o", "clap": "....X.......X...",
                     "hat": "XoxoXoxoXoxoXoxo", "open": "..x...x...x...x."},
                ),
            },
            Sound(gain_db=-3.0, room_db=-26.0, ceiling=0.42, width=2.0), velocity=100,
        ),
        "bass": Player(
            "bass", "bass", 38, "fluid",
            {
                "sparse": ("R_______________", "..R_..R_..R_..R_"),
                "normal": ("..RR..RR..RR..RR", "R_.R.R8_R_.R.R8_"),
                "full": (".RRR.RRR.RRR.R8R", "R.RR.RR8R.RR.R88"),
            },
            Sound(gain_db=4.0, room_db=-40.0, width=0.0, ducking_db=6.0), low=28, velocity=100, length=0.8,
        ),
        "stabs": Player(
            "chords", "chords", 90, "musescore",
            {
                "sparse": ("1_3_2_4_1_3_2_4_", "C_______________"),
                "normal": ("C..C..C...C..C..", "..C...C...C..C.C"),
                "full": ("C..C..C.C..C..C.", "1343243413432434"),
            },
            Sound(gain_db=2.0, room_db=-15.0, pan=0.4, ducking_db=5.0), low=58, velocity=92, length=0.7,
        ),
        "pad": Player(
            "pads", "chords", 95, "fluid",
            {"sparse": ("C_______________",), "normal": ("C_______________",), "full": ("C_______________",)},
            Sound(gain_db=-1.0, room_db=-15.0, pan=-0.3, ducking_db=9.0), low=55, voicing="open", velocity=82,
        ),
        "square": Player(
            "pads", "line", 80, "fluid", {"normal": (), "full": ()},
            Sound(gain_db=-5.0, room_db=-12.0, pan=-0.5, ducking_db=4.0), low=67, velocity=86,
        ),
    },
    fill={"snare": "o.o.xxxX", "clap": "....x.x."},
    room_seconds=0.7,
    room_width=1.0,
    steps_a_beat=4,
    suits=StyleRange(tempo=(104.0, 142.0), density=(1.6, 5.0)),
)  # fmt: skip

STYLES = {style.name: style for style in (BALLAD, FOLK, POP, ROCK, WALTZ, SOUL, ELECTRONIC)}
