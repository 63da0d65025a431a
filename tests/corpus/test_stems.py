# SPDX-License-Identifier: Apache-2.0
"""Where vocal and instrumental come from: layouts of stems."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from corpus.karaoke import RATE, karaoke, sing
from hafm_hf.corpus.stems import StemOptions, StemReader, Stems
from hafm_hf.corpus.tracks import Reason, TrackError


def write(folder: Path, **sounds: np.ndarray) -> None:
    """Writes sounds (float [N] or [N, channels] at RATE Hz) as NAME.wav."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in sounds.items():
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")


def paths(folder: Path) -> list[str]:
    """The paths of all files in a folder and below it, relative to it and sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def read(folder: Path, track: str, **options: Any) -> Stems:
    """The stems of the track of that name in a folder; `options` are those of `StemOptions`."""
    reader = StemReader(StemOptions(**options))
    groupings, _ = reader.group(paths(folder))
    grouping = next(grouping for grouping in groupings if grouping.name == track)
    return reader.read({role: folder / path for role, path in grouping.files.items()})


def test_stem_layouts_are_recognised_and_incomplete_ones_named(tmp_path: Path) -> None:
    silence = np.zeros(10)
    write(tmp_path / "train/Song A", mixture=silence, vocals=silence, drums=silence, bass=silence, other=silence)
    write(tmp_path / "train/Song B", vocal=silence, instrumental=silence, comping=silence)
    write(tmp_path / "pairs", x_vocals=silence, x_accompaniment=silence, y_vocals=silence, z_drums=silence)
    write(tmp_path / "mixes", mix=silence)
    groupings, drops = StemReader(StemOptions()).group(paths(tmp_path))
    assert {grouping.name: sorted(grouping.files) for grouping in groupings} == {
        "train/Song A": ["bass", "drums", "other", "vocal"],
        "train/Song B": ["instrumental", "vocal"],
        "pairs/x": ["instrumental", "vocal"],
    }
    wrong = {"pairs/y": Reason.INCOMPLETE, "pairs/z": Reason.INCOMPLETE, "mixes/mix.wav": Reason.NO_STEMS}
    assert {drop.track: drop.reason for drop in drops} == wrong


def test_no_vocals_next_to_vocals_is_the_instrumental() -> None:
    found = ["two/no_vocals.wav", "two/vocals.wav", "song_no_vocals.wav", "song_vocals.wav"]
    found += ["b-Instrumental.wav", "b-Voice.wav"]
    groupings, drops = StemReader(StemOptions()).group(found)
    assert not drops
    assert {grouping.name: grouping.files for grouping in groupings} == {
        "two": {"vocal": "two/vocals.wav", "instrumental": "two/no_vocals.wav"},
        "song": {"vocal": "song_vocals.wav", "instrumental": "song_no_vocals.wav"},
        "b": {"vocal": "b-Voice.wav", "instrumental": "b-Instrumental.wav"},
    }


# two stems as separators, shops and browsers name them, one the vocal, and the name of their track
NAMED = {
    "UVR": ("1_s_(Vocals).wav", "1_s_(Instrumental).wav", "1_s"),
    "UVR with its model": ("1_s_(Vocals)_MDX-Karaoke.wav", "1_s_(Instrumental)_MDX-Karaoke.wav", "1_s_MDX-Karaoke"),
    "UVR, no vocals": ("a/2_s_(Vocals).flac", "a/2_s_(No Vocals).flac", "a/2_s"),
    "audio-separator": ("s_(Vocals)_bs_ep_317.wav", "s_(Instrumental)_bs_ep_317.wav", "s_bs_ep_317"),
    "a separated instrumental": ("s (Inst)_(Vocals).wav", "s (Inst)_(Instrumental).wav", "s (Inst)"),
    "vocalremover.org": ("My Song [vocals].mp3", "My Song [music].mp3", "My Song"),
    "LALAL.AI": ("s_vocals_split_by_lalalai.mp3", "s_no_vocals_split_by_lalalai.mp3", "s_split_by_lalalai"),
    "Moises": ("s-vocals-Em-120bpm.wav", "s-instrumental-Em-120bpm.wav", "s_Em-120bpm"),
    "MVSEP": ("s_vocals_mdx23.wav", "s_instrum_mdx23.wav", "s_mdx23"),
    "the role first": ("Vocals - My Song.wav", "Instrumental - My Song.wav", "My Song"),
    "a role as title": ("Vocals - Other.wav", "Instrumental - Other.wav", "Other"),
    "a role in the title": ("Karaoke Bar_vocals_mdx.wav", "Karaoke Bar_accompaniment_mdx.wav", "Karaoke Bar_mdx"),
    "numbers": ("voice_07.wav", "backing_07.wav", "07"),
    "words": ("My Song no vocals.wav", "My Song vocals.wav", "My Song"),
    "downloaded twice": ("one/vocals (1).wav", "one/instrumental (1).wav", "one (1)"),
    "one downloaded twice": ("one/vocals (2).wav", "one/instrumental.wav", "one"),
}


@pytest.mark.parametrize("case", NAMED)
def test_stems_are_paired_as_separators_name_them(case: str) -> None:
    first, second, name = NAMED[case]
    groupings, drops = StemReader(StemOptions()).group(sorted([first, second]))
    assert not drops
    assert [grouping.name for grouping in groupings] == [name]
    if "no vocals" in first:
        instrumental = first
        vocal = second
    else:
        vocal = first
        instrumental = second
    assert groupings[0].files == {"vocal": vocal, "instrumental": instrumental}


def test_stems_of_other_songs_models_and_copies_are_not_mixed() -> None:
    names = ["s_(Vocals)_a.wav", "s_(Instrumental)_a.wav", "s_(Vocals)_b.wav", "s_(Instrumental)_b.wav"]
    names += ["vocals.wav", "vocals (1).wav", "instrumental.wav", "instrumental (1).wav"]
    groupings, _ = StemReader(StemOptions()).group(sorted(names))
    assert {grouping.name: list(grouping.files.values()) for grouping in groupings} == {
        "s_a": ["s_(Vocals)_a.wav", "s_(Instrumental)_a.wav"],
        "s_b": ["s_(Vocals)_b.wav", "s_(Instrumental)_b.wav"],
        ".": ["vocals.wav", "instrumental.wav"],
        "(1)": ["vocals (1).wav", "instrumental (1).wav"],
    }
    assert all(
        grouping.files["instrumental"]
        == grouping.files["vocal"].replace("Vocals", "Instrumental").replace("vocals", "instrumental")
        for grouping in groupings
    )


def test_the_four_stems_of_a_separator_are_a_band() -> None:
    names = [f"1_song_({stem})_htdemucs.wav" for stem in ("Vocals", "Drums", "Bass", "Other")]
    (grouping,), drops = StemReader(StemOptions()).group(sorted(names))
    assert sorted(grouping.files) == ["bass", "drums", "other", "vocal"]
    assert not drops


@pytest.mark.parametrize(
    ("names", "track", "detail"),
    [
        (["a_(Vocals)_x.wav", "a_(Instrumental)_y.wav"], "a_x", "vocal without an instrumental"),
        (["1_a_(Instrumental).wav"], "1_a", "instrumental without a vocal"),
        (["Vocals - a.wav", "Instrumental - b.wav"], "b", "instrumental without a vocal"),
        (["voice memo.wav"], "voice memo.wav", "name a vocal channel, or separate mixes first"),
        (["a_vocals.au", "a_vocals.wav", "a_inst.wav"], "a_vocals.wav", "a_vocals.au has the same role in this song"),
    ],
)  # fmt: skip
def test_stems_that_are_left_out_are_listed_with_the_reason(names: list[str], track: str, detail: str) -> None:
    _, drops = StemReader(StemOptions()).group(sorted(names))
    assert {drop.track: drop.detail for drop in drops}[track] == detail


def test_with_a_vocal_channel_unpaired_files_are_karaoke() -> None:
    names = ["1_a_(Instrumental).wav", "1_a_(Vocals).wav", "Karaoke - b.wav", "c_(Vocals).wav", "voice memo.wav"]
    groupings, drops = StemReader(StemOptions(vocal_channel="right")).group(names)
    assert {grouping.name for grouping in groupings} == {"1_a", *names[2:]}
    assert not drops


def test_the_stems_of_a_band_are_summed_without_the_vocal(tmp_path: Path) -> None:
    voice, drums, bass, other = (sing(seconds=1.0, seed=seed) for seed in range(4))
    write(tmp_path / "song", vocals=voice, drums=drums, bass=bass, other=other, mixture=voice + drums + bass + other)
    stems = read(tmp_path, "song")
    np.testing.assert_allclose(stems.vocal, voice, atol=1e-6)
    np.testing.assert_allclose(stems.instrumental, drums + bass + other, atol=1e-6)


@pytest.mark.parametrize(("channel", "vocal_index"), [("left", 0), ("right", 1)])
def test_karaoke_files_give_the_named_channel_as_vocal(tmp_path: Path, channel: str, vocal_index: int) -> None:
    samples = karaoke(seconds=1.0, seed=0)
    write(tmp_path, song=samples, **{"another - karaoke": samples})
    for name in ("song.wav", "another - karaoke.wav"):
        stems = read(tmp_path, name, vocal_channel=channel)
        np.testing.assert_array_equal(stems.vocal, samples[:, vocal_index])
        np.testing.assert_array_equal(stems.instrumental, samples[:, 1 - vocal_index])


@pytest.mark.parametrize("offset", [0.3, -0.2, 0.05])
def test_a_constant_offset_is_removed_from_the_vocal_only(tmp_path: Path, offset: float) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 220 * np.arange(2 * RATE) / RATE)
    write(tmp_path, song_vocals=tone + offset, song_accompaniment=tone + offset)
    stems = read(tmp_path, "song")
    assert np.abs(stems.vocal - tone).max() < 1e-3
    assert np.abs(stems.instrumental - tone - offset).max() < 1e-3


def test_stems_are_resampled_to_one_rate_and_unequal_lengths_are_refused(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 220 * np.arange(2 * RATE) / RATE)
    write(tmp_path, song_vocals=tone)
    tone_at_44_khz = np.sin(2 * np.pi * 220 * np.arange(2 * 44_100) / 44_100)
    soundfile.write(tmp_path / "song_accompaniment.wav", tone_at_44_khz, 44_100)
    stems = read(tmp_path, "song")
    assert stems.sampling_rate == RATE
    assert len(stems.vocal) == len(stems.instrumental) == 2 * RATE
    assert np.abs(stems.vocal - stems.instrumental)[1000:-1000].max() < 1e-3
    write(tmp_path, song_vocals=np.tile(tone, 2))
    with pytest.raises(TrackError, match="vocal 4.00 s, instrumental 2.00 s"):
        read(tmp_path, "song")
