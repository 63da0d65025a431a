# SPDX-License-Identifier: Apache-2.0
"""Scanning a folder: every file is a track or dropped with a reason, and every track has one split."""

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpus.karaoke import RATE, karaoke, write_karaoke
from hafm_hf.corpus import tracks as planning
from hafm_hf.corpus.stems import StemOptions, StemReader
from hafm_hf.corpus.tracks import Drop, HAFMCorpusError, Reason, SplitOptions, Track, find_audio, identify_tracks

KARAOKE = StemReader(StemOptions(vocal_channel="right"))


def scan(folder: Path, splits: SplitOptions | None = None) -> tuple[list[Track], dict[str, Reason]]:
    """The tracks of a karaoke folder, and the reasons for which other files were dropped, by path."""
    paths, drops, _ = find_audio(folder)
    groupings, _ = KARAOKE.group(paths)
    tracks, unidentified = identify_tracks(folder, groupings, {}, splits or SplitOptions())
    return tracks, {drop.track: drop.reason for drop in [*drops, *unidentified]}


@pytest.fixture
def other_user() -> Iterator[Path]:
    """A folder that any user may use; afterwards, a test that root runs gets its privileges back."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)
        if os.getuid() == 0:
            os.seteuid(0)


def test_files_and_folders_without_permission_are_dropped_as_unreadable(other_user: Path) -> None:
    write_karaoke(other_user / "open", 1)
    write_karaoke(other_user / "closed", 1)
    soundfile.write(other_user / "secret.wav", karaoke(1.0, 7), RATE)
    (other_user / "secret.wav").chmod(0)
    (other_user / "closed").chmod(0)
    if os.geteuid() == 0:
        # "nobody"
        os.seteuid(65534)
    try:
        tracks, drops = scan(other_user)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        (other_user / "closed").chmod(0o700)
    assert [track.name for track in tracks] == ["open/000.wav"]
    assert drops == {"closed": Reason.UNREADABLE, "secret.wav": Reason.UNREADABLE}


def test_every_odd_entry_of_a_folder_is_named_and_the_songs_are_found(tmp_path: Path) -> None:
    write_karaoke(tmp_path / "album", 2)
    (tmp_path / "album/empty.mp3").touch()
    (tmp_path / "album/notes.txt").write_text("no audio")
    (tmp_path / "album/._000.wav").write_text("attributes of a Mac")
    (tmp_path / "album/again").symlink_to(tmp_path)
    (tmp_path / "album/self.wav").symlink_to("self.wav")
    (tmp_path / "gone.flac").symlink_to("nowhere.flac")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "copy.wav").write_bytes((tmp_path / "album/001.wav").read_bytes())
    tracks, drops = scan(tmp_path)
    assert [track.name for track in tracks] == ["album/000.wav", "album/001.wav"]
    assert drops == {
        "album/again": Reason.UNREADABLE,
        "album/self.wav": Reason.UNREADABLE,
        "album/empty.mp3": Reason.EMPTY,
        "gone.flac": Reason.UNREADABLE,
        "copy.wav": Reason.DUPLICATE,
    }
    assert find_audio(tmp_path)[2] == 2


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HAFMCorpusError, match="can't be listed"):
        find_audio(tmp_path / "missing")


def test_an_artist_and_a_track_have_one_split_and_splits_have_their_shares() -> None:
    options = SplitOptions(validation=0.2, test=0.1)
    splits = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    for number in range(3000):
        # a third of the tracks have no artist
        artist = f"Artist {number % 900}" if number % 3 else ""
        split = planning.choose_split(f"{number}.mp3", artist, f"{number:064x}", options)
        assert split == planning.choose_split("moved/renamed.mp3", artist, f"{number:064x}", options)
        splits[artist or number].add(split)
        counts[split] += 1
    assert all(len(found) == 1 for found in splits.values())
    assert 0.15 < counts["validation"] / 3000 < 0.25
    assert 0.06 < counts["test"] / 3000 < 0.14


@pytest.mark.parametrize("count", [1, 2, 6])
def test_with_two_or_more_songs_one_goes_to_validation(tmp_path: Path, count: int) -> None:
    write_karaoke(tmp_path, count)
    tracks, _ = scan(tmp_path)
    splits = [track.split for track in tracks]
    assert splits.count("validation") == (count > 1)
    assert splits.count("train") == count - (count > 1)
    # a song that is already planned is not moved, and a validation share of 0 takes none
    planned = {track.name: replace(track, split="train") for track in tracks}
    groupings, _ = KARAOKE.group(list(planned))
    assert identify_tracks(tmp_path, groupings, planned, SplitOptions())[0] == list(planned.values())
    assert {track.split for track in scan(tmp_path, SplitOptions(validation=0.0))[0]} == {"train"}


def test_an_artists_songs_go_to_validation_together_if_others_remain() -> None:
    tracks = [Track(f"{number}", {}, f"{number:064x}", "train", artist) for number, artist in enumerate("aab")]
    for known in ([], [Track("old", {}, "0", "train")]):
        moved = [each for each in planning.filled_splits(tracks, known, SplitOptions()) if each.split == "validation"]
        artists = [track.artist for track in tracks]
        assert len({track.artist for track in moved}) == 1
        assert len(moved) == artists.count(moved[0].artist)
    assert planning.filled_splits([replace(tracks[0], split="test")], [], SplitOptions())[0].split == "train"
    alone = planning.filled_splits([replace(track, artist="a") for track in tracks], [], SplitOptions())
    assert sorted(track.split for track in alone) == ["train", "train", "validation"]


def test_artists_come_from_tags_or_else_file_names(tmp_path: Path) -> None:
    for number, tag in enumerate(("Anna B", " ANNA b ")):
        with soundfile.SoundFile(tmp_path / f"{number}.flac", "w", RATE, 2) as file:
            file.artist, file.license = tag, "CC BY 4.0"
            file.write(karaoke(1.0, number))
    soundfile.write(tmp_path / "anna b_song.wav", karaoke(1.0, 2), RATE)
    tracks, _ = scan(tmp_path, SplitOptions(artist_pattern=r"^([^_]+)_"))
    assert [track.artist for track in tracks] == ["Anna B", "ANNA b", "anna b"]
    assert [track.licence for track in tracks] == ["CC BY 4.0", "CC BY 4.0", ""]


def test_the_songs_of_a_single_artist_are_in_more_than_one_split(tmp_path: Path) -> None:
    for number in range(12):
        soundfile.write(tmp_path / f"Acme_{number}.wav", karaoke(1.0, number), RATE)
    tracks, _ = scan(tmp_path, SplitOptions(validation=0.4, test=0.0, artist_pattern=r"^([^_]+)_"))
    assert 2 <= [track.split for track in tracks].count("validation") <= 9


def test_splits_by_folder_take_only_the_folders_of_the_splits(tmp_path: Path) -> None:
    write_karaoke(tmp_path / "test", 1)
    tracks, _ = scan(tmp_path, SplitOptions(by="folder"))
    assert [track.split for track in tracks] == ["test"]
    (tmp_path / "test").rename(tmp_path / "testing")
    with pytest.raises(HAFMCorpusError, match="is in no folder called train, validation, test"):
        scan(tmp_path, SplitOptions(by="folder"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"validation": 0.7, "test": 0.4}, "not within 0 and 1"),
        ({"artist_pattern": "("}, "not a regular expression"),
        ({"artist_pattern": "^a"}, "has no group"),
    ],
)
def test_invalid_split_options_are_refused(options: dict, complaint: str) -> None:
    with pytest.raises(HAFMCorpusError, match=complaint):
        SplitOptions(**options)


def test_a_track_that_changed_since_it_was_planned_is_refused(tmp_path: Path) -> None:
    write_karaoke(tmp_path, 1)
    groupings, _ = KARAOKE.group(["000.wav"])
    tracks, _ = identify_tracks(tmp_path, groupings, {}, SplitOptions())
    assert identify_tracks(tmp_path, groupings, {"000.wav": tracks[0]}, SplitOptions()) == (tracks, [])
    soundfile.write(tmp_path / "000.wav", np.zeros((100, 2)), RATE)
    with pytest.raises(HAFMCorpusError, match="000.wav has changed since the corpus was begun"):
        identify_tracks(tmp_path, groupings, {"000.wav": tracks[0]}, SplitOptions())


def test_labels_that_changed_since_a_track_was_planned_are_refused(tmp_path: Path) -> None:
    write_karaoke(tmp_path, 1)
    groupings, _ = KARAOKE.group(["000.wav"])
    tracks, _ = identify_tracks(tmp_path, groupings, {}, SplitOptions())
    (tmp_path / "labels.json").write_text('{"tempo": 96}')
    with pytest.raises(HAFMCorpusError, match="The labels of 000.wav have changed since the corpus was begun"):
        identify_tracks(tmp_path, groupings, {"000.wav": tracks[0]}, SplitOptions())


def test_new_songs_of_a_known_artist_go_where_the_others_are(tmp_path: Path) -> None:
    for number in range(12):
        artist = "Acme" if number < 6 else "Bach"
        soundfile.write(tmp_path / f"{artist}_{number}.wav", karaoke(1.0, number), RATE)
    options = SplitOptions(validation=0.01, test=0.0, artist_pattern=r"^([^_]+)_")
    planned = {track.name: replace(track, split="validation") for track in scan(tmp_path, options)[0][:1]}
    groupings, _ = KARAOKE.group(find_audio(tmp_path)[0])
    tracks, _ = identify_tracks(tmp_path, groupings, planned, options)
    (artist,) = {track.artist for track in planned.values()}
    assert {track.split for track in tracks if track.artist == artist} == {"validation"}
    assert {track.split for track in tracks if track.artist != artist} == {"train"}


def test_a_planned_track_that_became_empty_stays_planned(tmp_path: Path) -> None:
    write_karaoke(tmp_path, 1)
    groupings, _ = KARAOKE.group(["000.wav"])
    tracks, _ = identify_tracks(tmp_path, groupings, {}, SplitOptions())
    (tmp_path / "000.wav").write_bytes(b"")
    assert identify_tracks(tmp_path, groupings, {"000.wav": tracks[0]}, SplitOptions()) == (tracks, [])
    assert identify_tracks(tmp_path, groupings, {}, SplitOptions()) == ([], [Drop("000.wav", Reason.EMPTY, "000.wav")])


def test_of_two_identical_files_the_planned_one_is_kept(tmp_path: Path) -> None:
    write_karaoke(tmp_path, 1)
    tracks, _ = identify_tracks(tmp_path, KARAOKE.group(["000.wav"])[0], {}, SplitOptions())
    (tmp_path / "!first.wav").write_bytes((tmp_path / "000.wav").read_bytes())
    groupings, _ = KARAOKE.group(find_audio(tmp_path)[0])
    again, drops = identify_tracks(tmp_path, groupings, {"000.wav": tracks[0]}, SplitOptions())
    assert again == tracks
    assert drops == [Drop("!first.wav", Reason.DUPLICATE, "same bytes as 000.wav")]


def test_display_names_of_different_paths_differ() -> None:
    paths = ["a\nb", "a\\nb", "a\udcffb", "a\\xffb", "a\xffb", "a\tb", "a b"]
    assert len({planning.display_name(path) for path in paths}) == len(paths)
