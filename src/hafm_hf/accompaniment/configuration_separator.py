# SPDX-License-Identifier: Apache-2.0
"""Configuration of the separator."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..lead_sheet.vocabulary import STEMS
from ..pretrained.checks import MAX_DILATIONS, MAX_SAMPLING_RATE, MAX_WIDTH, check_range


@strict
class HAFMSeparatorConfig(PreTrainedConfig):
    r"""The network that splits an instrumental into its stems, an optional part of the composite.

    Args:
        sampling_rate (`int`): Sampling rate in Hz of what the network reads: that at which the codec reads or plays.
        n_fft (`int`): Window length of the spectrogram, in samples.
        hop_length (`int`): Samples between two windows; `n_fft` is a multiple of it, at least twice as large.
        channels (`int`): Width of the convolutions.
        num_layers (`int`): Number of convolutions, with dilations of 1, 2, 4 … windows; four of them see ± 30 windows.
        dropout (`float`): Dropout probability in training.
    """

    model_type = "hafm_separator"
    role: ClassVar[str] = "the separator, which splits an instrumental into stems"

    sampling_rate: int = 24_000
    n_fft: int = 1280
    hop_length: int = 320
    channels: int = 192
    num_layers: int = 4
    dropout: float | int = 0.0

    def describe(self) -> dict[str, str]:
        """Describes rates, vocabulary and architecture in words, for `hafm info` and the model cards."""
        return {
            "rates": f"{self.sampling_rate} Hz, {self.sampling_rate / self.hop_length:g} spectra/s",
            "vocabulary": f"instrumental → {', '.join(STEMS)}",
            "architecture": f"{self.num_layers} dilated convolutions × {self.channels} over spectra, masks",
        }

    def at_rate(self, samples: int, sampling_rate: int | None = None) -> int:
        """Converts a number of samples at this configuration's rate to the number that lasts as long at another rate.

        Args:
            samples: number of samples at `self.sampling_rate`.
            sampling_rate: the other rate, in Hz; `self.sampling_rate` if None.

        Raises:
            ValueError: it would not be a whole number, or the rate is below this configuration's.
        """
        rate = sampling_rate or self.sampling_rate
        if rate < self.sampling_rate or samples * rate % self.sampling_rate:
            raise ValueError(
                f"{samples} samples at {self.sampling_rate} Hz are no whole number at {rate} Hz, or lose bandwidth; "
                "choose a separator for that rate."
            )
        return samples * rate // self.sampling_rate

    def validate_sizes(self) -> None:
        """Refuses sizes out of range."""
        check_range("sampling_rate", self.sampling_rate, MAX_SAMPLING_RATE)
        check_range("n_fft", self.n_fft, MAX_WIDTH)
        check_range("hop_length", self.hop_length, self.n_fft // 2)
        check_range("channels", self.channels, MAX_WIDTH)
        check_range("num_layers", self.num_layers, MAX_DILATIONS)
        if self.n_fft % self.hop_length:
            raise ValueError(f"n_fft is {self.n_fft}; it must be a multiple of hop_length, {self.hop_length}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1.")
