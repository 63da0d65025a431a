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
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in sounds.items():
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")


def paths(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def read(folder: Path, track: str, **options: Any) -> Stems:
    reader = StemReader(StemOptions(**options))
    grouping = next(each for each in reader.group(paths(folder))[0] if each.name == track)
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


def test_the_stems_of_a_band_are_summed_without_the_vocal(tmp_path: Path) -> None:
    voice, drums, bass, other = (sing(1.0, seed) for seed in range(4))
    write(tmp_path / "song", vocals=voice, drums=drums, bass=bass, other=other, mixture=voice + drums + bass + other)
    stems = read(tmp_path, "song")
    np.testing.assert_allclose(stems.vocal, voice, atol=1e-6)
    np.testing.assert_allclose(stems.instrumental, drums + bass + other, atol=1e-6)


@pytest.mark.parametrize(("channel", "vocal"), [("left", 0), ("right", 1)])
def test_karaoke_files_give_the_named_channel_as_vocal(tmp_path: Path, channel: str, vocal: int) -> None:
    samples = karaoke(1.0, 0)
    write(tmp_path, song=samples, **{"another - karaoke": samples})
    for name in ("song.wav", "another - karaoke.wav"):
        stems = read(tmp_path, name, vocal_channel=channel)
        np.testing.assert_array_equal(stems.vocal, samples[:, vocal])
        np.testing.assert_array_equal(stems.instrumental, samples[:, 1 - vocal])


def test_stems_are_resampled_to_one_rate_and_unequal_lengths_are_refused(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 220 * np.arange(2 * RATE) / RATE)
    write(tmp_path, song_vocals=tone)
    soundfile.write(tmp_path / "song_accompaniment.wav", np.sin(2 * np.pi * 220 * np.arange(88_200) / 44_100), 44_100)
    stems = read(tmp_path, "song")
    assert stems.sampling_rate == RATE and len(stems.vocal) == len(stems.instrumental) == 2 * RATE
    assert np.abs(stems.vocal - stems.instrumental)[1000:-1000].max() < 1e-3
    write(tmp_path, song_vocals=np.tile(tone, 2))
    with pytest.raises(TrackError, match="vocal 4.00 s, instrumental 2.00 s"):
        read(tmp_path, "song")
