# SPDX-License-Identifier: Apache-2.0
"""The separator: stems that add up to the instrumental, streamed or whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError

from accompaniment.test_accompaniment import voice
from hafm_hf import BUNDLED_MODEL, HAFMForVocalAccompaniment, HAFMSeparatorConfig, HAFMSeparatorModel, audio
from hafm_hf.accompaniment.modeling_separator import SeparatorStream
from hafm_hf.pretrained.loading import load_strictly
from tiny_models import tiny_band, tiny_separator
from vocals import CODEC_RATE

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def noise(samples: int, channels: int = 1) -> torch.Tensor:
    """White noise, float32 [channels, samples]."""
    return 0.1 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(samples))


@pytest.mark.parametrize("samples", [1, 319, 700, 24_001])
def test_stems_differ_and_add_up_to_the_band_at_any_length(samples: int) -> None:
    band = noise(samples)
    with torch.no_grad():
        stems = tiny_separator()(band)
    assert stems.shape == (1, 4, samples)
    torch.testing.assert_close(stems.sum(1), band, atol=1e-6, rtol=0)
    assert samples < 320 or not torch.allclose(stems[:, 0], stems[:, 1], atol=1e-4)


def test_masks_depend_on_no_more_than_the_context_on_each_side() -> None:
    model = tiny_separator()
    band = noise(48_000)
    changed = band.clone()
    changed[:, 24_000] += 1.0
    with torch.no_grad():
        differs = (model(band) - model(changed)).abs().amax(1)[0] > 1e-7
    (affected,) = differs.nonzero(as_tuple=True)
    assert 24_000 - model.context <= int(affected.min()) < 24_000 < int(affected.max()) <= 24_000 + model.context
    # most of the context is used, so streaming is not delayed for nothing
    assert int(affected.max() - affected.min()) > model.context


@pytest.mark.parametrize(("channels", "rate"), [(1, 24_000), (2, 24_000), (2, 44_100)])
def test_streamed_separation_equals_separation_of_the_whole(
    channels: int, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_separator()
    band = noise(60_123, channels)
    with torch.no_grad():
        whole = model(band[None], rate)[0]
    stream = SeparatorStream(model, rate)
    ends = [100, 9_000, 9_001, 40_000, 60_123]  # samples
    pieces = [
        stream.separate(band[:, start:end], last=end == ends[-1])
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=-1), whole, atol=1e-5, rtol=0)
    # final samples are returned at once
    assert [piece.shape[-1] > 0 for piece in pieces] == [False, True, False, True, True]
    monkeypatch.setattr("hafm_hf.accompaniment.modeling_separator.PIECE_SECONDS", 1)
    torch.testing.assert_close(model.separate(band, rate), whole, atol=1e-5, rtol=0)


def test_stereo_stems_at_another_rate_add_up_to_the_band() -> None:
    band = noise(50_001, 2)
    stems = tiny_separator().separate(band, 44_100)
    assert stems.shape == (4, 2, 50_001)
    torch.testing.assert_close(stems.sum(0), band, atol=1e-6, rtol=0)


def test_a_stem_keeps_its_place_between_left_and_right() -> None:
    left = noise(30_000)
    left_stems, right_stems = tiny_separator().separate(torch.cat([left, 0.25 * left])).unbind(1)
    torch.testing.assert_close(right_stems, 0.25 * left_stems, atol=1e-6, rtol=0)


def test_the_bundled_separator_splits_a_band_at_44_khz_as_it_does_at_24() -> None:
    model = load_strictly(HAFMSeparatorModel, BUNDLED_MODEL / "separator", dtype=torch.float32).eval()
    band, rate = audio.read_audio(EXAMPLES / "vocal_accompanied_folk.ogg", seconds=10.0)
    narrow = audio.resample(band, rate, CODEC_RATE)
    wide = audio.resample(narrow, CODEC_RATE, 44_100)
    expected = model.separate(torch.from_numpy(narrow)[None])[:, 0].numpy()
    stems = model.separate(torch.from_numpy(wide)[None], 44_100)[:, 0].numpy()
    for stem, wanted in zip(stems, expected, strict=True):
        error = audio.resample(stem, 44_100, CODEC_RATE)[: len(wanted)] - wanted
        assert np.square(error).mean() < 0.01 * np.square(wanted).mean()


def test_above_the_bandwidth_of_the_network_a_stem_has_its_highest_mask() -> None:
    model = tiny_separator()
    with torch.no_grad():
        # everything in the upper half of what it reads is drums
        biases_of_drums = model.head.bias.unflatten(0, (4, -1))[0]
        biases_of_drums[320:] = 100.0
    # 15 kHz, above the 12 kHz that the network reads
    tone = torch.sin(2 * torch.pi * 15_000 * torch.arange(44_100, dtype=torch.float64) / 44_100)[None].float()
    stem = model.separate(tone, 44_100)[0]
    # windows at both ends hold silence as well
    torch.testing.assert_close(stem[:, 4_000:-4_000], tone[:, 4_000:-4_000], atol=1e-3, rtol=0)


def test_a_saved_checkpoint_includes_its_separator(tmp_path: Path) -> None:
    model = tiny_band(plain=True, separator=tiny_separator())
    model.save_pretrained(tmp_path)
    again = HAFMForVocalAccompaniment.from_pretrained(tmp_path)
    outputs = [each.generate(voice(0.4), CODEC_RATE, seed=1, stems=True) for each in (again, model)]
    assert "separator" in again.parameter_counts()
    drums, expected = (output["stems"][0]["drums"] for output in outputs)
    torch.testing.assert_close(drums, expected)
    part = transformers.AutoModel.from_pretrained(tmp_path, subfolder="separator")
    assert isinstance(part.config, HAFMSeparatorConfig)


def test_a_mismatched_rate_and_invalid_sizes_are_refused() -> None:
    with pytest.raises(StrictDataclassClassValidationError, match="separator sampling rate is 16000"):
        tiny_band(plain=True, separator=tiny_separator(sampling_rate=16_000))
    with pytest.raises(ValueError, match="3200 samples at 24000 Hz are no whole number at 44000 Hz"):
        SeparatorStream(tiny_separator(), 44_000)
    for wrong, said in (
        ({"hop_length": 999}, "hop_length is 999; it must lie between 1 and 640"),
        ({"n_fft": 1281}, "must be a multiple of hop_length"),
        ({"dropout": 1.0}, "below 1"),
        ({"num_layers": 99}, "num_layers is 99"),
    ):
        with pytest.raises(StrictDataclassClassValidationError, match=said):
            HAFMSeparatorConfig(**wrong)
