# SPDX-License-Identifier: Apache-2.0
"""Splits an instrumental into its stems: drums, bass, chords and pads (pads, strings, countermelodies).

An optional part of the composite, applied after the codec. Dilated convolutions predict masks on the spectrogram, as
Open-Unmix does (Stöter et al. 2019); they see a bounded `context` to each side, so that a song can be split in
segments. The masks of a bin add up to one, so the stems sum to the instrumental.

Dimensions: B batch, N samples, S stems, T windows of the spectrogram, F bins, C channels.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..lead_sheet.vocabulary import STEMS
from ..pretrained.saving import HAFMHubMixin
from ..tokenizers.beat_line import KERNEL, HAFMDilatedLayer
from ..tokenizers.codecs import Stretches
from ..tokenizers.stopping import CheckStop, checked
from .configuration_separator import HAFMSeparatorConfig

NUM_STEMS = len(STEMS)
# added to magnitudes before the logarithm: anything below counts as silence
QUIET = 1e-2
# segment length in which a long instrumental is split
STRETCH_SECONDS = 30


class HAFMSeparatorModel(HAFMHubMixin, PreTrainedModel):
    """Samples of an instrumental → samples of its stems, which sum to it."""

    config_class = HAFMSeparatorConfig
    config: HAFMSeparatorConfig
    main_input_name = "input_values"
    input_modalities = ("audio",)
    base_model_prefix = "separator"

    def __init__(self, config: HAFMSeparatorConfig) -> None:
        super().__init__(config)
        bins = config.n_fft // 2 + 1
        self.input = nn.Linear(bins, config.channels)
        self.layers = nn.ModuleList(
            [HAFMDilatedLayer(config.channels, 2**number, config.dropout) for number in range(config.num_layers)]
        )
        self.norm = nn.LayerNorm(config.channels)
        self.head = nn.Linear(config.channels, NUM_STEMS * bins)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises layers as torch does by default."""
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.LayerNorm)):
            module.reset_parameters()

    @property
    def context(self) -> int:
        """Receptive field: samples to each side that an output sample depends on, a multiple of the hop length."""
        windows = KERNEL // 2 * (2**self.config.num_layers - 1) + self.config.n_fft // self.config.hop_length
        return windows * self.config.hop_length

    def spectrogram(self, samples: torch.Tensor) -> torch.Tensor:
        """float [..., N] → complex64 [..., F, T]; the signal is padded with silence."""
        rows = samples.reshape(-1, samples.shape[-1]).float()
        return torch.stft(rows, **self._windows(samples.device), pad_mode="constant", return_complex=True).unflatten(
            0, samples.shape[:-1]
        )

    def _windows(self, device: torch.device) -> dict[str, Any]:
        window = torch.hann_window(self.config.n_fft, device=device)
        return {"n_fft": self.config.n_fft, "hop_length": self.config.hop_length, "window": window}

    def masks(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Share of each bin that belongs to each stem: float [B, F, T] → float [B, S, F, T], summing to 1 over S."""
        hidden = self.input(torch.log(magnitudes + QUIET).transpose(1, 2).to(self.head.weight.dtype))
        for layer in self.layers:
            hidden = layer(hidden)
        logits = self.head(self.norm(hidden)).unflatten(-1, (NUM_STEMS, -1))
        return logits.float().softmax(2).permute(0, 2, 3, 1)

    def forward(self, input_values: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """An instrumental (float [B, N] at `config.sampling_rate`) → its stems, float32 [B, S, N]."""
        spectrogram = self.spectrogram(input_values)
        parts = spectrogram[:, None] * self.masks(spectrogram.abs())
        how = self._windows(parts.device)
        samples = torch.istft(parts.flatten(0, 1), **how, length=input_values.shape[-1])
        return samples.unflatten(0, parts.shape[:2])

    @torch.no_grad()
    def separate(self, band: torch.Tensor, check_stop: CheckStop | None = None) -> torch.Tensor:
        """A whole instrumental (float32 [C, N], any length) in bounded memory → float32 [S, C, N] on the CPU.

        `check_stop` is called before each piece; an exception that it raises ends the separation.
        """
        stream = SeparatorStream(self)
        pieces = band.split(STRETCH_SECONDS * self.config.sampling_rate, dim=-1)
        stems = [
            stream.separate(piece, last=number == len(pieces))
            for number, piece in enumerate(checked(pieces, check_stop), start=1)
        ]
        return torch.cat(stems, dim=-1)


class SeparatorStream:
    """Splits an instrumental segment by segment; up to rounding, the stems equal those of the whole.

    Samples whose future context is still missing are held back until more samples follow or the song ends.

    Args:
        model: the separator.
    """

    def __init__(self, model: HAFMSeparatorModel) -> None:
        self.model, context = model, model.context
        self._stretches = Stretches(lambda x, _: model(x.to(model.device)).transpose(0, 1).cpu(), context, context)
        # samples after the last whole hop, held back to keep windows aligned with those of the whole song
        self._rest: torch.Tensor | None = None

    def separate(self, band: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Takes the next samples and returns the stems that are final now: float32 [S, C, n] on the CPU.

        Args:
            band (float [C, N]): the next samples, N > 0.
            last: whether the song ends with them.
        """
        band = band if self._rest is None else torch.cat([self._rest, band], dim=-1)
        whole = band.shape[-1] - (0 if last else band.shape[-1] % self.model.config.hop_length)
        self._rest = band[:, whole:]
        found = self._stretches(band[:, :whole], last)
        return band.new_zeros(NUM_STEMS, len(band), 0).cpu() if found is None else found
