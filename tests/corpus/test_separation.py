# SPDX-License-Identifier: Apache-2.0
"""Where vocal and instrumental come from: layouts of stems, and models that take mixes apart."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from corpus.karaoke import RATE, karaoke, save_demucs, sing
from hafm_hf.corpus.separation import StemsSeparator, make_separator
from hafm_hf.corpus.stems import SeparatorOptions, Stems
from hafm_hf.corpus.tracks import HAFMCorpusError, Reason, TrackError


def write(folder: Path, **sounds: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in sounds.items():
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")


def paths(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def separate(folder: Path, track: str, **options: Any) -> Stems:
    separator = make_separator(SeparatorOptions(**options))
    grouping = next(each for each in separator.group(paths(folder))[0] if each.name == track)
    return separator.separate({role: folder / path for role, path in grouping.files.items()})


def test_layouts_of_stems_are_told_apart_and_what_is_incomplete_is_named(tmp_path: Path) -> None:
    silence = np.zeros(10)
    write(tmp_path / "train/Song A", mixture=silence, vocals=silence, drums=silence, bass=silence, other=silence)
    write(tmp_path / "train/Song B", vocal=silence, instrumental=silence, comping=silence)
    write(tmp_path / "pairs", x_vocals=silence, x_accompaniment=silence, y_vocals=silence, z_drums=silence)
    write(tmp_path / "mixes", mix=silence)
    groupings, drops = StemsSeparator(SeparatorOptions()).group(paths(tmp_path))
    assert {grouping.name: sorted(grouping.files) for grouping in groupings} == {
        "train/Song A": ["bass", "drums", "other", "vocal"],
        "train/Song B": ["instrumental", "vocal"],
        "pairs/x": ["instrumental", "vocal"],
    }
    assert {drop.track: drop.reason for drop in drops} == {
        "pairs/y": Reason.INCOMPLETE,
        "pairs/z": Reason.INCOMPLETE,
        "mixes/mix.wav": Reason.NO_STEMS,
    }


def test_no_vocals_is_the_instrumental_beside_vocals() -> None:
    found = [
        "two/no_vocals.wav",
        "two/vocals.wav",
        "song_no_vocals.wav",
        "song_vocals.wav",
        "b-Instrumental.wav",
        "b-Voice.wav",
    ]
    groupings, drops = StemsSeparator(SeparatorOptions()).group(found)
    assert not drops
    assert {grouping.name: grouping.files for grouping in groupings} == {
        "two": {"vocal": "two/vocals.wav", "instrumental": "two/no_vocals.wav"},
        "song": {"vocal": "song_vocals.wav", "instrumental": "song_no_vocals.wav"},
        "b": {"vocal": "b-Voice.wav", "instrumental": "b-Instrumental.wav"},
    }


def test_the_parts_of_a_band_add_up_and_start_with_the_vocal(tmp_path: Path) -> None:
    voice, drums, bass, other = (sing(1.0, seed) for seed in range(4))
    write(tmp_path / "song", vocals=voice, drums=drums, bass=bass, other=other, mixture=voice + drums + bass + other)
    stems = separate(tmp_path, "song")
    np.testing.assert_allclose(stems.vocal, voice, atol=1e-6)
    np.testing.assert_allclose(stems.instrumental, drums + bass + other, atol=1e-6)


@pytest.mark.parametrize(("channel", "vocal"), [("left", 0), ("right", 1)])
def test_karaoke_files_give_the_named_channel_as_vocal(tmp_path: Path, channel: str, vocal: int) -> None:
    samples = karaoke(1.0, 0)
    write(tmp_path, song=samples)
    stems = separate(tmp_path, "song.wav", vocal_channel=channel)
    np.testing.assert_array_equal(stems.vocal, samples[:, vocal])
    np.testing.assert_array_equal(stems.instrumental, samples[:, 1 - vocal])


def test_a_mono_file_is_no_karaoke(tmp_path: Path) -> None:
    write(tmp_path, song=sing(1.0, 0))
    with pytest.raises(TrackError, match="1 channels, karaoke has 2"):
        separate(tmp_path, "song.wav", vocal_channel="left")


def test_stems_of_two_rates_come_to_one_and_very_different_lengths_are_refused(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 220 * np.arange(2 * RATE) / RATE)
    write(tmp_path, song_vocals=tone)
    soundfile.write(tmp_path / "song_accompaniment.wav", np.sin(2 * np.pi * 220 * np.arange(88_200) / 44_100), 44_100)
    stems = separate(tmp_path, "song")
    assert stems.sampling_rate == RATE and len(stems.vocal) == len(stems.instrumental) == 2 * RATE
    assert np.abs(stems.vocal - stems.instrumental)[1000:-1000].max() < 1e-3
    write(tmp_path, song_vocals=np.tile(tone, 2))
    with pytest.raises(TrackError, match="vocal 4.00 s, instrumental 2.00 s"):
        separate(tmp_path, "song")


@pytest.fixture(scope="module")
def demucs_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a demucs model of a few thousand random weights, named tiny."""
    return save_demucs(tmp_path_factory.mktemp("demucs"))


def test_demucs_separates_the_same_mix_to_the_same_stems(demucs_models: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mix.wav", sing(3.0, 0), 22_050)
    options: dict[str, Any] = {"name": "demucs", "model": "tiny", "model_dir": str(demucs_models), "device": "cpu"}
    first, second = (separate(tmp_path, "mix.wav", **options) for _ in range(2))
    assert first.sampling_rate == RATE and abs(len(first.vocal) - 3 * RATE * RATE / 22_050) < 20
    np.testing.assert_array_equal(first.vocal, second.vocal)
    assert np.abs(first.vocal).max() > 0 and np.abs(first.vocal - first.instrumental).max() > 0


def test_a_demucs_model_that_is_not_there_is_named(demucs_models: Path) -> None:
    with pytest.raises(HAFMCorpusError, match="model large can't be loaded from .*put its"):
        make_separator(SeparatorOptions("demucs", model="large", model_dir=str(demucs_models)))
    with pytest.raises(HAFMCorpusError, match="is no folder"):
        make_separator(SeparatorOptions("demucs", model_dir=str(demucs_models / "missing")))


@pytest.fixture(scope="module")
def mdx_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as audio-separator keeps its models: the lists that it downloads, and an MDX-Net that halves a mix."""
    for module in ("audio_separator", "onnxruntime", "onnx", "onnx2torch"):
        pytest.importorskip(module)
    import onnx

    frequencies, frames, name = 2048, 256, "kuielab_b_vocals.onnx"
    shape = ["batch", 4, frequencies, frames]
    ends = [onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, shape) for end in ("input", "output")]
    half = onnx.helper.make_tensor("half", onnx.TensorProto.FLOAT, [1], [0.5])
    multiply = onnx.helper.make_node("Mul", ["input", "half"], ["output"])
    graph = onnx.helper.make_graph([multiply], "halves", ends[:1], ends[1:], [half])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    model.ir_version = 8
    folder = tmp_path_factory.mktemp("mdx")
    onnx.save(model, folder / name)
    key = hashlib.md5((folder / name).read_bytes()).hexdigest()
    settings = {"compensate": 1.0, "mdx_dim_f_set": frequencies, "mdx_dim_t_set": 8, "mdx_n_fft_scale_set": 6144}
    kinds = ("vr", "vr_vip", "mdx", "mdx_vip", "mdx23", "mdx23c", "mdx23c_vip", "demucs", "roformer")
    lists: dict[str, Any] = {
        f"{kind.replace('_vip', '')}_download{'_vip' if kind.endswith('_vip') else ''}_list": {} for kind in kinds
    }
    lists["mdx_download_list"] = {"MDX-Net Model: kuielab_b_vocals": name}
    (folder / "download_checks.json").write_text(json.dumps(lists))
    (folder / "vr_model_data.json").write_text("{}")
    (folder / "mdx_model_data.json").write_text(json.dumps({key: {**settings, "primary_stem": "Vocals"}}))
    return folder


def test_audio_separator_splits_a_mix_into_stems_that_add_up_to_it(mdx_models: Path, tmp_path: Path) -> None:
    mix = karaoke(3.0, 0)
    soundfile.write(tmp_path / "mix.wav", mix, 44_100)
    first, second = (
        separate(tmp_path, "mix.wav", name="audio-separator", model_dir=str(mdx_models)) for _ in range(2)
    )
    np.testing.assert_array_equal(first.vocal, second.vocal)
    np.testing.assert_allclose(first.vocal + first.instrumental, mix.mean(axis=1), atol=1e-3)
    assert len(first.vocal) == len(mix) and np.abs(first.vocal).max() > 0.01


def test_audio_separator_runs_where_it_is_told(mdx_models: Path) -> None:
    options: dict[str, Any] = {"name": "audio-separator", "model_dir": str(mdx_models)}
    separator: Any = make_separator(SeparatorOptions(**options, device="cpu"))
    assert separator.library.onnx_execution_provider == ["CPUExecutionProvider"]
    assert separator.library.torch_device == torch.device("cpu")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(HAFMCorpusError, match="pip install onnxruntime-gpu"):
            make_separator(SeparatorOptions(**options, device="cuda"))


def test_an_mdx_model_that_is_not_there_is_named(mdx_models: Path) -> None:
    with pytest.raises(HAFMCorpusError, match="model other.onnx can't be loaded from .*download_model_only"):
        make_separator(SeparatorOptions("audio-separator", model="other.onnx", model_dir=str(mdx_models)))
