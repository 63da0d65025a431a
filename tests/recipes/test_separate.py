# SPDX-License-Identifier: Apache-2.0
"""Separating mixes with demucs and audio-separator: reproducible stems, and missing models named."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from corpus.karaoke import RATE, karaoke, save_demucs, sing
from hafm_hf.corpus.tracks import HAFMCorpusError
from separators import SeparatorOptions, make_separator


@pytest.fixture(scope="module")
def demucs_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny demucs model with random weights, named tiny."""
    return save_demucs(tmp_path_factory.mktemp("demucs"))


def test_demucs_separates_equal_mixes_equally_and_names_a_missing_model(demucs_models: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mix.wav", sing(3.0, 0), 22_050)
    options = SeparatorOptions("demucs", "tiny", str(demucs_models), "cpu")
    first, second = (make_separator(options).separate(tmp_path / "mix.wav") for _ in range(2))
    assert first.sampling_rate == RATE
    # 3 s made at RATE, but declared as 22,050 Hz
    assert abs(len(first.vocal) - 3 * RATE * RATE / 22_050) < 20
    np.testing.assert_array_equal(first.vocal, second.vocal)
    assert np.abs(first.vocal).max() > 0
    assert np.abs(first.vocal - first.instrumental).max() > 0
    with pytest.raises(HAFMCorpusError, match="model large can't be loaded from .*put its"):
        make_separator(SeparatorOptions("demucs", model="large", model_dir=str(demucs_models)))
    with pytest.raises(HAFMCorpusError, match="is not a folder"):
        make_separator(SeparatorOptions("demucs", model_dir=str(demucs_models / "missing")))


@pytest.fixture(scope="module")
def mdx_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of audio-separator: the lists that it downloads, and an MDX-Net that halves the mix."""
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
    options = SeparatorOptions(model_dir=str(mdx_models))
    first, second = (make_separator(options).separate(tmp_path / "mix.wav") for _ in range(2))
    np.testing.assert_array_equal(first.vocal, second.vocal)
    np.testing.assert_allclose(first.vocal + first.instrumental, mix.mean(axis=1), atol=1e-3)
    assert len(first.vocal) == len(mix)
    assert np.abs(first.vocal).max() > 0.01


def test_audio_separator_uses_the_given_device_and_names_a_missing_model(mdx_models: Path) -> None:
    separator: Any = make_separator(SeparatorOptions(model_dir=str(mdx_models), device="cpu"))
    assert separator.library.onnx_execution_provider == ["CPUExecutionProvider"]
    assert separator.library.torch_device == torch.device("cpu")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(HAFMCorpusError, match="pip install onnxruntime-gpu"):
            make_separator(SeparatorOptions(model_dir=str(mdx_models), device="cuda"))
    with pytest.raises(HAFMCorpusError, match="model other.onnx can't be loaded from .*download_model_only"):
        make_separator(SeparatorOptions("audio-separator", model="other.onnx", model_dir=str(mdx_models)))
