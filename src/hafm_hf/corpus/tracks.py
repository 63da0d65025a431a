# SPDX-License-Identifier: Apache-2.0
"""Finds the songs in a folder: lists audio files and identifies tracks by their content.

This is the first step of preparing a corpus. Nothing is decoded here, so a folder of 100 K songs is scanned in one
pass over its bytes; what can't be used as a track becomes a `Drop` with a reason. Paths are relative to the folder,
with forward slashes on every system and with bytes that are not UTF-8 as Python's surrogate escapes; users and Parquet
see the `display_name`.
"""

import csv
import enum
import hashlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..audio import AUDIO_SUFFIXES, HAFMAudioError, is_sound_file, opened

SPLITS = ("train", "validation", "test")
METADATA_FILE = "metadata.csv"
LABELS_FILE = "labels.json"
# threads that hash files
SCAN_THREADS = 8


class HAFMCorpusError(ValueError):
    """A corpus that can't be prepared; the message is one sentence that names the value and the way out."""


class Reason(enum.StrEnum):
    """Why a file, a track or a segment is not in the corpus; the values appear in the manifest."""

    UNREADABLE = "cannot be read"
    EMPTY = "empty file"
    DUPLICATE = "duplicate content"
    NO_STEMS = "no stems"
    INCOMPLETE = "incomplete stems"
    CHANGED = "changed while preparing"
    NOT_DECODABLE = "not decodable"
    DAMAGED = "damaged"
    NOT_FINITE = "NaN or infinite samples"
    BAD_LABELS = "invalid labels"
    LENGTHS_DIFFER = "stems of different lengths"
    TOO_LONG = "too long"
    TOO_SHORT = "too short"
    SILENT_VOCAL = "silent vocal"
    QUIET_INSTRUMENTAL = "quiet instrumental"
    LOUD_VOCAL = "vocal too loud"


@dataclass(frozen=True)
class Drop:
    """A dropped track or segment.

    Args:
        track: display name.
        reason: why it was dropped.
        detail: the reason in numbers or words, such as a measured value.
        start: of a segment, in seconds; None for a whole track.
    """

    track: str
    reason: Reason
    detail: str = ""
    start: float | None = None


class TrackError(Exception):
    """A track can't be used; it is reported as a `Drop` with this reason and detail."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Grouping:
    """The files of one track: `name` (display name) and the path of each role, such as vocal or instrumental."""

    name: str
    files: dict[str, str]


@dataclass(frozen=True)
class Track:
    """One song of the corpus.

    Attributes:
        name (str): display name, unique in the corpus.
        files (dict): path of each role, relative to the audio folder.
        content_hash (str): SHA-256 over the bytes of its files.
        split (str): train, validation or test.
        artist, licence (str): empty if unknown.
        stamps (list): size in bytes and modification time in ns of each file, to recognise unchanged files.
        style (str): style of the accompaniment; empty if unknown (see `read_styles`).
        labels_hash (str): SHA-256 of the labels.json beside its files; empty if there is none.
    """

    name: str
    files: dict[str, str]
    content_hash: str
    split: str
    artist: str = ""
    licence: str = ""
    stamps: list[list[int]] = field(default_factory=list)
    style: str = ""
    labels_hash: str = ""


@dataclass(frozen=True)
class SplitOptions:
    """How tracks are split: `by` "hash", into shares `validation` and `test`, or by the "folder" they are in.

    `artist_pattern` is a regular expression whose first group is the artist in the names of tracks without a tag.
    """

    by: str = "hash"
    validation: float = 0.05
    test: float = 0.05
    artist_pattern: str = ""

    def __post_init__(self) -> None:
        """Raises HAFMCorpusError for shares out of range and an unusable pattern."""
        if min(self.validation, self.test) < 0 or self.validation + self.test > 1:
            raise HAFMCorpusError(
                f"Shares of {self.validation:g} for validation and {self.test:g} for test are not within 0 and 1."
            )
        try:
            groups = re.compile(self.artist_pattern).groups
        except re.error as error:
            raise HAFMCorpusError(f"{self.artist_pattern!r} is not a regular expression: {error}.") from error
        if self.artist_pattern and not groups:
            raise HAFMCorpusError(f"{self.artist_pattern!r} has no group (…) that is the artist.")


def display_name(path: str) -> str:
    """A path as printable text, unique for each path: backslashes, unprintable characters and bytes are escaped."""
    text = path.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def find_audio(root: Path) -> tuple[list[str], list[Drop], int]:
    """Audio files under a folder, in a fixed order; follows links to files but not to folders.

    A file is taken for audio by its suffix, or else by its first bytes, so that no sound is left out for its name.

    Returns:
        Paths relative to `root`, entries that can't be used, and the number of files that are not audio.

    Raises:
        HAFMCorpusError: `root` can't be listed.
    """
    paths: list[str] = []
    drops: list[Drop] = []
    # files that are not audio
    num_others = 0

    def unreadable(error: OSError) -> None:
        """Adds a folder that can't be listed to `drops`; raises HAFMCorpusError if it is the root."""
        if error.filename == os.fspath(root):
            raise HAFMCorpusError(f"{root} can't be listed: {error.strerror}.") from error
        drops.append(Drop(display_name(_relative(error.filename, root)), Reason.UNREADABLE, error.strerror or ""))

    for folder, folders, files in os.walk(root, onerror=unreadable):
        for name in folders:
            if os.path.islink(path := os.path.join(folder, name)):
                drops.append(Drop(display_name(_relative(path, root)), Reason.UNREADABLE, "a link to a folder"))
        for name in files:
            file = os.path.join(folder, name)
            path = _relative(file, root)
            is_regular = os.path.isfile(file)
            has_audio_suffix = name.lower().endswith(AUDIO_SUFFIXES)
            # macOS keeps the attributes of a file called NAME in ._NAME
            if name.startswith("._"):
                num_others += 1
            elif is_regular and (has_audio_suffix or is_sound_file(file)):
                paths.append(path)
            elif not has_audio_suffix:
                num_others += 1
            elif os.path.islink(file):
                drops.append(Drop(display_name(path), Reason.UNREADABLE, "a broken link"))
    return sorted(paths, key=os.fsencode), sorted(drops, key=lambda drop: drop.track), num_others


def _relative(path: str, root: Path) -> str:
    """`path` relative to `root`, with forward slashes, so that names of tracks are the same on every system."""
    return os.path.relpath(path, root).replace(os.sep, "/")


def hash_files(root: Path, files: dict[str, str]) -> str:
    """SHA-256, in hexadecimal, over the hashes of a track's files, in the order of their roles.

    Args:
        root: audio folder.
        files: path in it of each role.

    Raises:
        TrackError: a file can't be read, or is empty.
    """
    hash_of_hashes = hashlib.sha256()
    for role in sorted(files):
        try:
            with open(os.path.join(root, files[role]), "rb") as file:
                digest = hashlib.file_digest(file, "sha256")
                size = file.tell()
        except OSError as error:
            raise TrackError(Reason.UNREADABLE, f"{display_name(files[role])}: {error.strerror}") from error
        if size == 0:
            raise TrackError(Reason.EMPTY, display_name(files[role]))
        hash_of_hashes.update(digest.digest())
    return hash_of_hashes.hexdigest()


def hash_labels(root: Path, files: dict[str, str]) -> str:
    """SHA-256, in hexadecimal, of the labels.json beside a track's files; empty if it can't be read.

    `files` are paths in `root` by role.
    """
    folder = Path(root, files[min(files)]).parent
    try:
        return hashlib.sha256((folder / LABELS_FILE).read_bytes()).hexdigest()
    except OSError:
        return ""


def stamp_files(root: Path, files: dict[str, str]) -> list[list[int]]:
    """Size in bytes and modification time in ns of each of a track's files, in the order of their roles.

    `files` are paths in `root` by role. The list is empty if one is missing.
    """
    try:
        statuses = [os.stat(os.path.join(root, files[role])) for role in sorted(files)]
    except OSError:
        return []
    return [[status.st_size, status.st_mtime_ns] for status in statuses]


def read_tags(path: Path) -> dict[str, str]:
    """The tags "artist" and "license" (or else "copyright") of an audio file, without spaces around them.

    Returns:
        "artist" and "license", each empty if it is missing; an empty dict if the file can't be read.
    """
    try:
        with opened(path, path.name) as sound:
            file_tags = sound.tags()
    except HAFMAudioError:
        return {}
    tags = {key: file_tags.get(key, "").strip() for key in ("artist", "license", "copyright")}
    return {"artist": tags["artist"], "license": tags["license"] or tags["copyright"]}


def read_styles(root: Path, source: str, tracks: Sequence[Track]) -> list[Track]:
    """Adds the styles given by `source` to tracks that have none.

    Args:
        root: audio folder.
        source: "folder", for the name of the folder that a song (its file, or its folder of stems) is in, or a column
            of ROOT/metadata.csv, whose column file_name has file paths or track names; empty for no styles.
        tracks: the tracks.

    Raises:
        HAFMCorpusError: there is no such file or column, or no track has a style.
    """
    if not source:
        return list(tracks)
    # style by file path or track name
    listed: dict[str, str] = {}
    if source != "folder":
        try:
            with open(root / METADATA_FILE, encoding="utf-8-sig", newline="") as file:
                listed = {row["file_name"]: (row[source] or "").strip() for row in csv.DictReader(file)}
        except (OSError, ValueError, csv.Error) as error:
            raise HAFMCorpusError(f"{root / METADATA_FILE} can't be read; --style-from {source} needs it.") from error
        except KeyError as error:
            raise HAFMCorpusError(f"{root / METADATA_FILE} needs the columns file_name and {source}.") from error

    def style(track: Track) -> str:
        """The style of a track; empty if `source` gives none."""
        if source == "folder":
            folder = track.name.rpartition("/")[0]
            parent = folder.rpartition("/")[2]
            # train, validation and test are not styles
            return "" if parent in SPLITS else parent
        for key in (track.name, *track.files.values()):
            if key in listed:
                return listed[key]
        return ""

    styled = []
    for track in tracks:
        if not track.style:
            track = replace(track, style=display_name(style(track)))
        styled.append(track)
    if tracks and not any(track.style for track in styled):
        raise HAFMCorpusError(f"{source} gives no song a style; it should name one for {tracks[0].name}, for example.")
    return styled


def choose_split(track: str, artist: str, content_hash: str, options: SplitOptions) -> str:
    """The split ("train", "validation" or "test") of a track.

    It follows from the hash of the artist if known, else of the content; or from the track's top-level folder.

    Args:
        track: display name, a path.
        artist: empty if it is unknown or does not count.
        content_hash: of the track's files.
        options: how tracks are split.

    Raises:
        HAFMCorpusError: the track is in no top-level folder called as a split, but tracks are split by folder.
    """
    if options.by == "folder":
        top_folder = track.split("/", 1)[0]
        if top_folder not in SPLITS:
            raise HAFMCorpusError(
                f"{track} is in no folder called {', '.join(SPLITS)}; sort the tracks into these or split by hash."
            )
        return top_folder
    share = hash_share(artist, content_hash)
    if share < options.test:
        return "test"
    if share < options.test + options.validation:
        return "validation"
    return "train"


def hash_share(artist: str, content_hash: str) -> float:
    """Hashes a track to a number between 0 and 1: by its artist if known, else by its content."""
    if artist:
        key = f"artist/{artist.casefold()}"
    else:
        key = f"track/{content_hash}"
    # 64 bits of the hash
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def filled_splits(tracks: Sequence[Track], known: Sequence[Track], options: SplitOptions) -> list[Track]:
    """Moves new tracks to other splits if hashing leaves a small corpus without training or validation tracks.

    A single song is for training; of two or more, at least one is for validation, along with its artist's other songs
    unless there is no other artist. Nothing is moved when splitting by folder, or into a split whose share is 0.

    Args:
        tracks: the new tracks.
        known: tracks planned before, which keep their splits.
        options: how tracks are split.

    Returns:
        The new tracks, in the same order.
    """
    if options.by == "folder" or not tracks:
        return list(tracks)
    # the order of shares: first those for test, then for validation, then for training
    ordered = sorted(tracks, key=lambda track: (hash_share(track.artist, track.content_hash), track.content_hash))
    splits = [track.split for track in (*tracks, *known)]
    # new split by content hash
    moved: dict[str, str] = {}
    if "train" not in splits and options.validation + options.test < 1:
        moved[ordered.pop().content_hash] = "train"
    num_training = splits.count("train") + len(moved)
    # the tracks that a larger share of validation would take first: of training if it can spare one, else of test
    if num_training > 1:
        donors = [track for track in ordered if track.split == "train"]
    else:
        donors = [track for track in reversed(ordered) if track.split == "test"]
    if donors and options.validation and "validation" not in splits:
        artist = donors[0].artist.casefold()
        of_artist = [track for track in donors if track.artist.casefold() == artist]
        # only one track if the artist is unknown, or no other would be left in training
        if not artist or len(of_artist) >= num_training:
            of_artist = donors[:1]
        moved |= {track.content_hash: "validation" for track in of_artist}
    return [replace(track, split=moved.get(track.content_hash, track.split)) for track in tracks]


def identify_tracks(
    root: Path, groupings: Sequence[Grouping], known: dict[str, Track], splits: SplitOptions
) -> tuple[list[Track], list[Drop]]:
    """Finds content hash, tags and split of each track; of tracks with the same content, keeps the first.

    Args:
        root: audio folder.
        groupings: from `StemReader.group`.
        known (dict): tracks of an earlier run, by name; files of unchanged size and time are not read again.
        splits: how tracks are split.

    Returns:
        The tracks, known ones first; and those that can't be read or have the content of another one.

    Raises:
        HAFMCorpusError: the content or the labels of a known track have changed.
    """

    def identify(grouping: Grouping) -> Track | Drop:
        """The track of a grouping: the known one, or a new one without a split yet; a `Drop` if it can't be read."""
        known_track = known.get(grouping.name)
        stamps = stamp_files(root, grouping.files)
        labels = hash_labels(root, grouping.files)
        if known_track is not None and known_track.labels_hash != labels:
            raise HAFMCorpusError(
                f"The labels of {grouping.name} have changed since the corpus was begun; prepare another one."
            )
        if known_track is not None and known_track.stamps == stamps and known_track.files == grouping.files:
            return known_track
        try:
            content = hash_files(root, grouping.files)
        except TrackError as error:
            # a planned track is reported by its shard, and must not be reported twice
            return known_track or Drop(grouping.name, error.reason, error.detail)
        if known_track is not None and known_track.content_hash != content:
            raise HAFMCorpusError(f"{grouping.name} has changed since the corpus was begun; prepare another one.")
        # tags of one file, that of the first role in the alphabet
        first_role = min(grouping.files)
        tags = read_tags(root / grouping.files[first_role])
        artist = tags.get("artist", "")
        if not artist and splits.artist_pattern:
            if matched := re.search(splits.artist_pattern, grouping.name):
                artist = matched.group(1) or ""
        licence = display_name(tags.get("license", ""))
        return Track(
            grouping.name, grouping.files, content, "", display_name(artist), licence, stamps, labels_hash=labels
        )

    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        identified = list(pool.map(identify, groupings))

    # of tracks with the same content, the first is kept
    drops = [drop for drop in identified if isinstance(drop, Drop)]
    tracks = []
    name_by_content = {track.content_hash: track.name for track in known.values()}
    for track in identified:
        if isinstance(track, Drop):
            continue
        first_name = name_by_content.setdefault(track.content_hash, track.name)
        if first_name == track.name:
            tracks.append(track)
        else:
            drops.append(Drop(track.name, Reason.DUPLICATE, f"same bytes as {first_name}"))

    known_tracks = []
    new_tracks = []
    # artists count only if there are several: the songs of a single one would all be in one split
    several_artists = len({track.artist.casefold() for track in (*tracks, *known.values())}) > 1
    splits_of_artist: dict[str, set[str]] = {}
    for track in known.values():
        splits_of_artist.setdefault(track.artist.casefold(), set()).add(track.split)
    for track in tracks:
        if track.name in known:
            known_tracks.append(track)
        else:
            artist = track.artist if several_artists else ""
            split = choose_split(track.name, artist, track.content_hash, splits)
            with_others = splits_of_artist.get(artist.casefold(), set())
            if artist and splits.by != "folder" and len(with_others) == 1:
                # with the artist's other songs, also if these were moved by `filled_splits`
                (split,) = with_others
            new_tracks.append(replace(track, split=split))
    return known_tracks + filled_splits(new_tracks, list(known.values()), splits), drops
