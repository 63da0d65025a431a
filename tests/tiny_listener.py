# SPDX-License-Identifier: Apache-2.0
"""A listener that is small enough for tests."""

from typing import Any

import torch

from hafm_tiny.listening.configuration_listener import HAFMListenerConfig
from hafm_tiny.listening.modeling_listener import HAFMListenerModel


def tiny_listener(seed: int = 0, **options: Any) -> HAFMListenerModel:
    """Two towers of two and three layers with random weights."""
    torch.manual_seed(seed)
    sizes = {"harmony_channels": 9, "harmony_layers": 2, "time_channels": 7, "time_layers": 3, "tempo_bins": 11}
    return HAFMListenerModel(HAFMListenerConfig(**{**sizes, **options})).eval()
