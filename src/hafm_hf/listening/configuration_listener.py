# SPDX-License-Identifier: Apache-2.0
"""Configuration of the listener: the sizes of its towers, and of the cells into which they cut the pitch contour."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..pretrained.checks import MAX_DILATIONS, MAX_WIDTH, check_range

# longest cells, in frames: two seconds
MAX_CELL = 100


@strict
class HAFMListenerConfig(PreTrainedConfig):
    """Configuration of `HAFMListenerModel`.

    Args:
        harmony_channels (`int`): Channels per pitch class of the harmony tower, which estimates chords.
        harmony_layers (`int`): Its number of convolutions, with dilations of 1, 2, 4 … cells.
        time_channels, time_layers (`int`): Channels and layers of the time tower, which estimates the tempo.
        harmony_frames, time_frames (`int`): Frames of the pitch contour, at 50 Hz, per cell of each tower.
        slowest_tempo, fastest_tempo (`float`): Range of tempi in beats a minute.
        tempo_bins (`int`): Number of tempo classes.
        dropout (`float`): Dropout in training.
        ear_size (`int`): Width of the composite's `ear`, whose features both towers read as well; 0 without one.
    """

    model_type = "hafm_listener"
    role: ClassVar[str] = "the listener, which estimates the chords and tempo of a vocal"

    harmony_channels: int = 12
    harmony_layers: int = 7
    time_channels: int = 64
    time_layers: int = 8
    harmony_frames: int = 20
    time_frames: int = 2
    slowest_tempo: float = 48.0
    fastest_tempo: float = 208.0
    tempo_bins: int = 96
    dropout: float | int = 0.05
    ear_size: int = 0

    def describe(self) -> dict[str, str]:
        """Rates, vocabulary and architecture in words, for `hafm info` and the model cards."""
        harmony = f"{self.harmony_layers} × 12 × {self.harmony_channels}"
        time = f"{self.time_layers} × {self.time_channels}"
        return {
            # the pitch contour has 50 frames a second
            "rates": f"{50 / self.harmony_frames:g} chords/s, one tempo",
            "vocabulary": f"pitch contour → 25 chords, {self.tempo_bins} tempi",
            "architecture": f"{harmony} and {time} dilated convolutions",
        }

    def validate_sizes(self) -> None:
        """Raises ValueError for sizes of the configuration that are out of range."""
        for tower in ("harmony", "time"):
            check_range(f"{tower}_channels", getattr(self, f"{tower}_channels"), MAX_WIDTH)
            check_range(f"{tower}_layers", getattr(self, f"{tower}_layers"), MAX_DILATIONS)
            check_range(f"{tower}_frames", getattr(self, f"{tower}_frames"), MAX_CELL)
        check_range("tempo_bins", self.tempo_bins, MAX_WIDTH)
        check_range("ear_size", self.ear_size, MAX_WIDTH, least=0)
        if self.harmony_frames % 2:
            raise ValueError(f"harmony_frames is {self.harmony_frames}; it must be even.")
        if not 0 < self.slowest_tempo < self.fastest_tempo:
            raise ValueError(f"slowest_tempo {self.slowest_tempo:g} must be above 0 and below {self.fastest_tempo:g}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1.")
