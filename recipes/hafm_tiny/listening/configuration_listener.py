# SPDX-License-Identifier: Apache-2.0
"""Configuration of the listener: the sizes of its towers, and the cells in which they read the pitch line."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hafm_hf.pretrained.checks import MAX_DILATIONS, MAX_WIDTH, check_range

# frames of the longest cells: two seconds
MAX_CELL = 100


@strict
class HAFMListenerConfig(PreTrainedConfig):
    """Configuration of `HAFMListenerModel`.

    Args:
        harmony_channels, harmony_layers: width and depth of the tower that hears chords and key.
        time_channels, time_layers: of the one that hears beats, bars and tempo.
        harmony_frames, time_frames: frames of the pitch line, at 50 Hz, in a cell that they read.
        slowest_tempo, fastest_tempo: beats a minute.
        tempo_bins: tempi that are told apart.
        dropout: in training.
    """

    model_type = "hafm_listener"
    role: ClassVar[str] = "the listener, which estimates the beats, bars, chords and key of a vocal"

    harmony_channels: int = 64
    harmony_layers: int = 6
    time_channels: int = 64
    time_layers: int = 8
    harmony_frames: int = 20
    time_frames: int = 2
    slowest_tempo: float = 48.0
    fastest_tempo: float = 208.0
    tempo_bins: int = 96
    dropout: float | int = 0.1

    def describe(self) -> dict[str, str]:
        """Rates, vocabulary and architecture in words, for `hafm info` and the model cards."""
        towers = ((self.harmony_layers, self.harmony_channels), (self.time_layers, self.time_channels))
        return {
            "rates": f"{50 / self.harmony_frames:g} chords/s, {50 / self.time_frames:g} parts of beats/s",
            "vocabulary": f"pitch line → 25 chords, 24 keys, beats, bars, {self.tempo_bins} tempi",
            "architecture": " and ".join(f"{layers} dilated convolutions × {width}" for layers, width in towers),
        }

    def validate_sizes(self) -> None:
        """Refuses sizes out of range."""
        for name in ("harmony", "time"):
            check_range(f"{name}_channels", getattr(self, f"{name}_channels"), MAX_WIDTH)
            check_range(f"{name}_layers", getattr(self, f"{name}_layers"), MAX_DILATIONS)
            check_range(f"{name}_frames", getattr(self, f"{name}_frames"), MAX_CELL)
        check_range("tempo_bins", self.tempo_bins, MAX_WIDTH)
        if not 0 < self.slowest_tempo < self.fastest_tempo:
            raise ValueError(f"Tempi from {self.slowest_tempo:g} to {self.fastest_tempo:g} do not rise above 0.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1.")
