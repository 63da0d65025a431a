# SPDX-License-Identifier: Apache-2.0
"""The feature extractor: any rate and layout in, one padded batch at the rate of the semantic tokenizer out."""

import numpy as np
import pytest
import torch

from hafm_hf.audio import HAFMAudioError
from hafm_hf.audio.feature_extraction_hafm import HAFMFeatureExtractor


def noise(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """float32 [seconds * rate], uniform between −0.5 and 0.5."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


def test_batch_is_padded_on_the_right_and_the_mask_says_where() -> None:
    vocals = [noise(1.0, 16_000, 1), noise(1.7, 16_000, 2), noise(1.3, 16_000, 3)]
    features = HAFMFeatureExtractor()(vocals, sampling_rate=16_000)
    lengths = [16_000, 27_200, 20_800]
    assert features["input_values"].shape == features["padding_mask"].shape == (3, 27_200)
    assert features["padding_mask"].sum(dim=1).tolist() == lengths
    for row, (vocal, length) in enumerate(zip(vocals, lengths, strict=True)):
        alone = HAFMFeatureExtractor()(vocal, sampling_rate=16_000)["input_values"][0]
        assert torch.equal(features["input_values"][row, :length], alone)
        assert not any(features[name][row, length:].any() for name in ("input_values", "padding_mask"))


def test_output_is_at_the_extractors_rate() -> None:
    extractor = HAFMFeatureExtractor(sampling_rate=32_000)
    assert extractor(noise(1.0, 32_000), 32_000)["input_values"].shape == (1, 32_000)
    assert extractor(noise(1.0, 8_000), sampling_rate=8_000)["input_values"].shape == (1, 32_000)


def test_lengths_outside_the_limits_and_other_paddings_are_refused() -> None:
    extractor = HAFMFeatureExtractor(min_seconds=0.5, max_seconds=2.0)
    with pytest.raises(HAFMAudioError, match=r"0.3 s long; HAFM needs at least 0.5 s"):
        extractor(noise(0.3, 24_000), 24_000)
    with pytest.raises(HAFMAudioError, match=r"the vocal number 2 is longer than 2 s"):
        extractor([noise(1.0, 24_000), noise(2.1, 24_000)], 24_000)
    assert extractor(noise(0.5, 24_000), 24_000, padding="longest")["input_values"].shape == (1, 8_000)
    with pytest.raises(HAFMAudioError, match="padding is 'max_length'; vocals can only be padded to the longest"):
        extractor(noise(0.5, 24_000), 24_000, padding="max_length")
    with pytest.raises(HAFMAudioError, match="padding_side is 'left'; vocals are padded on the right"):
        HAFMFeatureExtractor(padding_side="left")
