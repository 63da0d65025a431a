# SPDX-License-Identifier: Apache-2.0
"""The separator: stems that add up to the instrumental, streamed or whole."""

from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError

from accompaniment.test_accompaniment import voice
from hafm_hf import HAFMForVocalAccompaniment, HAFMSeparatorConfig
from hafm_hf.accompaniment.modeling_separator import SeparatorStream
from tiny_models import tiny_band, tiny_separator
from vocals import CODEC_RATE


def noise(samples: int, channels: int = 1) -> torch.Tensor:
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
    model, band = tiny_separator(), noise(48_000)
    changed = band.clone()
    changed[:, 24_000] += 1.0
    with torch.no_grad():
        differs = (model(band) - model(changed)).abs().amax(1)[0] > 1e-7
    (affected,) = differs.nonzero(as_tuple=True)
    assert 24_000 - model.context <= int(affected.min()) < 24_000 < int(affected.max()) <= 24_000 + model.context
    # most of the context is used, so streaming is not delayed for nothing
    assert int(affected.max() - affected.min()) > model.context


@pytest.mark.parametrize("channels", [1, 2])
def test_streamed_separation_equals_separation_of_the_whole(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, band = tiny_separator(), noise(60_123, channels)
    with torch.no_grad():
        whole = model(band).transpose(0, 1)
    stream, ends = SeparatorStream(model), [100, 9_000, 9_001, 40_000, 60_123]
    pieces = [
        stream.separate(band[:, start:end], last=end == ends[-1])
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=-1), whole, atol=1e-5, rtol=0)
    # final samples are returned at once
    assert [piece.shape[-1] > 0 for piece in pieces] == [False, True, False, True, True]
    monkeypatch.setattr("hafm_hf.accompaniment.modeling_separator.STRETCH_SECONDS", 1)
    torch.testing.assert_close(model.separate(band), whole, atol=1e-5, rtol=0)


def test_a_saved_checkpoint_includes_its_separator(tmp_path: Path) -> None:
    model = tiny_band(plain=True, separator=tiny_separator())
    model.save_pretrained(tmp_path)
    again = HAFMForVocalAccompaniment.from_pretrained(tmp_path)
    outputs = [each.generate(voice(0.4), CODEC_RATE, seed=1, stems=True) for each in (again, model)]
    assert "separator" in again.parameter_counts()
    found, expected = (output["stems"][0]["drums"] for output in outputs)
    torch.testing.assert_close(found, expected)
    part = transformers.AutoModel.from_pretrained(tmp_path, subfolder="separator")
    assert isinstance(part.config, HAFMSeparatorConfig)


def test_a_mismatched_rate_and_invalid_sizes_are_refused() -> None:
    with pytest.raises(StrictDataclassClassValidationError, match="separator sampling rate is 16000"):
        tiny_band(plain=True, separator=tiny_separator(sampling_rate=16_000))
    for wrong, said in (
        ({"hop_length": 999}, "hop_length is 999; it must lie between 1 and 640"),
        ({"n_fft": 1281}, "must be a multiple of hop_length"),
        ({"dropout": 1.0}, "below 1"),
        ({"num_layers": 99}, "num_layers is 99"),
    ):
        with pytest.raises(StrictDataclassClassValidationError, match=said):
            HAFMSeparatorConfig(**wrong)
