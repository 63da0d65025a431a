# SPDX-License-Identifier: Apache-2.0
"""Which files are stems of which song, by their names.

A name says what a file holds (`vocals`) and of which song; separators, shops and browsers put the two in any order:
SONG/vocals.wav, SONG_vocals.wav, 1_SONG_(Vocals)_MODEL.wav, SONG_vocals_MODEL.wav, "Vocals - SONG.wav", "SONG
[music].mp3", "vocals (1).wav". A name that can be read in several ways is read in the one that has a partner.
Paths are relative and have forward slashes.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# file names of stems by role; MUSDB18's drums, bass and other add up to the instrumental
VOCAL_NAMES = ("vocals", "vocal", "voice", "acapella", "acappella")
INSTRUMENTAL_NAMES = (
    "accompaniment", "instrumental", "instrumentals", "instrum", "inst", "no_vocals", "karaoke", "backing"
)  # fmt: skip
BAND_NAMES = ("drums", "bass", "other")
ROLES = {**dict.fromkeys(VOCAL_NAMES, "vocal"), **dict.fromkeys(INSTRUMENTAL_NAMES, "instrumental")}
ROLES |= {name: name for name in BAND_NAMES}
# a vocal separated from the mix, in addition to the isolated one, is used in evaluation only
ROLES |= dict.fromkeys(("vocal_separated", "vocals_separated"), "separated")
# words that mean a stem only in brackets
BRACKETED = {"music": "instrumental"}
ALL_ROLES = ROLES | BRACKETED
# words that are also part of titles: at the start or in the middle of a name they mean a stem only if it has a partner
TITLE_WORDS = {"voice", "karaoke", "backing", *BAND_NAMES}


def _any_of(names: Sequence[str]) -> str:
    """A pattern that matches any of the names; for "_" in a name it also matches a space or "-"."""
    # longest first: no_vocals ends in vocals
    return "|".join(re.escape(name).replace("_", "[ _-]") for name in sorted(names, key=len, reverse=True))


_ROLE = rf"(?P<role>{_any_of([*ROLES])})"
# NAME (1); SONG_vocals or vocals; SONG_(Vocals)_MODEL; "Vocals - SONG"; vocals between other words
_COPY = re.compile(r"(?P<name>.*?)[ _]*(?P<copy>\(\d{1,3}\))")
_END = re.compile(rf"(?:(?P<track>.+?)[ _.-])??{_ROLE}", re.IGNORECASE)
_BRACKETS = re.compile(rf"(?P<track>.*)[(\[{{] *(?P<role>{_any_of([*ALL_ROLES])}) *[)\]}}](?P<rest>.*)", re.I)
_START = re.compile(rf"{_ROLE}[ _.-]+(?P<track>.+)", re.IGNORECASE)
_FIELD = re.compile(rf"(?<=[ _.-]){_ROLE}(?=[ _.-])", re.IGNORECASE)


@dataclass(frozen=True)
class StemName:
    """One reading of a file's name.

    Args:
        track: the name of the song; empty for files that are named by their role alone.
        role: vocal, instrumental, drums, bass, other or separated.
        rest: what follows the role, such as the name of a separator; empty without any.
        copy: the "(1)" that browsers append to names that exist; empty without one.
        certain: whether the name means a stem even if no other stem of the song is found.
    """

    track: str
    role: str
    rest: str = ""
    copy: str = ""
    certain: bool = True


def stem_names(path: str) -> list[StemName]:
    """All readings of a file's name, the most likely first; empty if it is not named like a stem."""
    name = posixpath.splitext(posixpath.basename(path))[0]
    copy = ""
    if numbered := _COPY.fullmatch(name):
        name = numbered["name"]
        copy = numbered["copy"]
    # without repetitions, in order
    return list(dict.fromkeys(_readings(name, copy)))


def _readings(name: str, copy: str) -> Iterator[StemName]:
    """Yields all readings of a file's name, the most likely first, and some of them repeatedly.

    Args:
        name: without extension and copy number.
        copy: the copy number, such as "(1)"; empty without one.
    """
    # SONG_vocals, vocals
    if match := _END.fullmatch(name):
        yield StemName(match["track"] or "", _role(match["role"]), copy=copy)
    # 1_SONG_(Vocals)_MODEL; "(Vocals) SONG", in which what follows is the song
    if match := _BRACKETS.fullmatch(name):
        track = match["track"].rstrip(" _.-")
        rest = match["rest"].strip(" _.-")
        if not track:
            track = rest
            rest = ""
        yield StemName(track, _role(match["role"]), rest, copy)
    # "Vocals - SONG"
    if match := _START.fullmatch(name):
        certain = match["role"].lower() not in TITLE_WORDS
        yield StemName(match["track"], _role(match["role"]), copy=copy, certain=certain)
    # SONG_vocals_MODEL; the last word for a stem first, as earlier ones are more likely part of the title
    for match in reversed(list(_FIELD.finditer(name))):
        certain = match["role"].lower() not in TITLE_WORDS
        track = name[: match.start() - 1]
        rest = name[match.end() + 1 :]
        yield StemName(track, _role(match["role"]), rest.strip(" _.-"), copy, certain)


def _role(word: str) -> str:
    """The role ("vocal", "drums" …) that a matched word means, such as "No Vocals", in any case."""
    return ALL_ROLES[re.sub(r"[ -]", "_", word.lower())]


@dataclass
class Song:
    """The stems of one song: its name (a relative path without the role) and the file of each role."""

    name: str
    files: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether there are a vocal and an instrumental, or a vocal and drums, bass and other."""
        return "vocal" in self.files and ("instrumental" in self.files or set(BAND_NAMES) <= set(self.files))


@dataclass
class StemSongs:
    """Files by song.

    Args:
        songs: songs with a vocal and an instrumental (or its stems).
        incomplete: songs that lack one of the two.
        repeated: files that are left out as another file of the song has the same role: (file, that other file).
        others: files that are not named like a stem.
    """

    songs: list[Song] = field(default_factory=list)
    incomplete: list[Song] = field(default_factory=list)
    repeated: list[tuple[str, str]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def group_stems(paths: Sequence[str]) -> StemSongs:
    """Groups files into songs by their names; of two files with the same role, the first is used."""
    # all readings of each name, the most likely first
    names = {path: stem_names(path) for path in paths}
    stem_songs = StemSongs()

    # complete songs: first by each name's likeliest reading (rank 0), then what is left by the next ones; at each
    # rank, first from files of the same copy number, then from files of any
    left = list(paths)
    most_readings = max((len(readings) for readings in names.values()), default=0)
    for rank in range(most_readings):
        for by_copy in (True, False):
            readings = {path: names[path][rank] for path in left if len(names[path]) > rank}
            for song, repeated in _grouped(readings, by_copy):
                # across copy numbers, only if no role is taken twice
                if song.complete and (by_copy or not repeated):
                    stem_songs.songs.append(song)
                    stem_songs.repeated += repeated
            used = {path for path, _ in stem_songs.repeated}
            for song in stem_songs.songs:
                used.update(song.files.values())
            left = [path for path in left if path not in used]

    # without a partner, only names that are certain mean a stem
    certain = {path: names[path][0] for path in left if names[path] and names[path][0].certain}
    for song, repeated in _grouped(certain, by_copy=True):
        stem_songs.incomplete.append(song)
        stem_songs.repeated += repeated
    stem_songs.others = [path for path in left if path not in certain]

    # of songs with the same name, the later ones are named by their first file
    names_taken: set[str] = set()
    for song in (*stem_songs.songs, *stem_songs.incomplete):
        if song.name in names_taken:
            song.name = posixpath.splitext(next(iter(song.files.values())))[0]
        names_taken.add(song.name)
    return stem_songs


def outside_stem_folders(stem_songs: StemSongs, paths: Sequence[str] | None = None) -> list[str]:
    """Files that are in no folder of stems: those in such a folder, as the mixture, need not be reported as left out.

    Args:
        stem_songs: all files by song.
        paths: the files to choose from; those that are not named like stems if None.
    """
    if paths is None:
        paths = stem_songs.others
    folders = {song.name for song in stem_songs.songs}
    return [path for path in paths if posixpath.dirname(path) not in folders]


def songs_of(path: str) -> list[tuple[str, str]]:
    """Name of the song and role of a file, for each reading of its name."""
    folder = posixpath.dirname(path)
    return [(_song_name(folder, reading), reading.role) for reading in stem_names(path)]


def _grouped(readings: dict[str, StemName], by_copy: bool) -> list[tuple[Song, list[tuple[str, str]]]]:
    """Groups files into songs by one reading of each name.

    Args:
        readings: the reading of each file's name, by path.
        by_copy: whether files with different copy numbers, such as "(1)", are of different songs.

    Returns:
        Each song, and its files whose role another file has already: (file, that other file).
    """
    songs: dict[tuple[str, ...], Song] = {}
    repeated: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for path, reading in readings.items():
        folder = posixpath.dirname(path)
        key = (folder, reading.track, reading.rest, reading.copy if by_copy else "")
        song = songs.setdefault(key, Song(_song_name(folder, reading)))
        if reading.role in song.files:
            repeated[key].append((path, song.files[reading.role]))
        else:
            song.files[reading.role] = path
    return [(song, repeated[key]) for key, song in songs.items()]


def _song_name(folder: str, reading: StemName) -> str:
    """The name of a song: FOLDER/TITLE_REST COPY, without the parts that are empty.

    REST (such as a separator's name) and COPY distinguish versions of a song.
    """
    name = folder
    track_and_rest = "_".join(filter(None, (reading.track, reading.rest)))
    if track_and_rest:
        name = posixpath.join(folder, track_and_rest)
    return " ".join(filter(None, (name, reading.copy)))
