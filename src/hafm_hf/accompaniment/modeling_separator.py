# SPDX-License-Identifier: Apache-2.0
"""Splits an instrumental into its stems: drums, bass, chords and pads (pads, strings, countermelodies).

An optional part of the composite, applied after the codec. Dilated convolutions predict masks on the spectrogram, as
Open-Unmix does (Stöter et al. 2019); they see a bounded `context` to each side, so that a song can be split in
segments. The masks of a bin add up to one, so the stems sum to the instrumental.
An instrumental may have another format than the network reads: with windows as long in seconds, its bins are as far
apart. The network reads the mean of its channels up to the network's bandwidth, all channels share its masks, and bins
above take the mask of the highest ones below.

Dimensions: B batch, N samples, S stems, T windows of the spectrogram, F bins, C channels.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..lead_sheet.vocabulary import STEMS
from ..pretrained.saving import HAFMModelMixin
from ..stopping import CheckStop, stoppable
from ..tokenizers.beat_tracker import KERNEL, HAFMDilatedLayer
from ..tokenizers.codecs import Piecewise
from .configuration_separator import HAFMSeparatorConfig

NUM_STEMS = len(STEMS)
# added to magnitudes before the logarithm: anything below counts as silence
QUIET = 1e-2
# width in Hz of the band at the top of the network's bandwidth whose mean mask holds for all frequencies above
TOP_BAND = 1500.0
# pieces into which a long instrumental is split
PIECE_SECONDS = 5


class HAFMSeparatorModel(HAFMModelMixin, PreTrainedModel):
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
        # windows that the dilated layers see on one side, and windows that overlap a sample
        windows = KERNEL // 2 * (2**self.config.num_layers - 1) + self.config.n_fft // self.config.hop_length
        return windows * self.config.hop_length

    def spectrogram(self, samples: torch.Tensor, sampling_rate: int | None = None) -> torch.Tensor:
        """Short-time Fourier transform, with silence around the signal.

        Args:
            samples (float [batch, …, N]): N samples at `sampling_rate` in each row; at least two dimensions.
            sampling_rate: in Hz; `config.sampling_rate` if None. Windows are equally long in seconds at any rate.

        Returns:
            complex64 [batch, …, frequency bins, windows].
        """
        rows = samples.reshape(-1, samples.shape[-1]).float()
        arguments = self._stft_arguments(samples.device, sampling_rate)
        spectra = torch.stft(rows, **arguments, pad_mode="constant", return_complex=True)
        return spectra.unflatten(0, samples.shape[:-1])

    def _stft_arguments(self, device: torch.device, sampling_rate: int | None = None) -> dict[str, Any]:
        """Keyword arguments of `torch.stft` and `torch.istft`.

        Args:
            device: of the samples.
            sampling_rate: of the samples, in Hz; `config.sampling_rate` if None.

        Returns:
            "n_fft" and "hop_length" in samples, and "window", float32 [n_fft].
        """
        n_fft = self.config.at_rate(self.config.n_fft, sampling_rate)
        hop_length = self.config.at_rate(self.config.hop_length, sampling_rate)
        return {"n_fft": n_fft, "hop_length": hop_length, "window": torch.hann_window(n_fft, device=device)}

    def masks(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Share of each frequency bin that belongs to each stem.

        Args:
            magnitudes (float [batch, bins, windows]): magnitudes of a spectrogram at the network's sampling rate.

        Returns:
            float [batch, stems, bins, windows], summing to 1 over the stems.
        """
        hidden = self.input(torch.log(magnitudes + QUIET).transpose(1, 2).to(self.head.weight.dtype))
        for layer in self.layers:
            hidden = layer(hidden)
        logits = self.head(self.norm(hidden)).unflatten(-1, (NUM_STEMS, -1))  # [batch, windows, stems, bins]
        return logits.float().softmax(2).permute(0, 2, 3, 1)

    def forward(self, input_values: torch.Tensor, sampling_rate: int | None = None, **kwargs: Any) -> torch.Tensor:
        """Splits instrumentals into their stems, which sum to them.

        Args:
            input_values: float [B, N], or [B, C, N] with C channels; a batch of B instrumentals of N samples.
            sampling_rate: in Hz, at least `config.sampling_rate`, which it is by default.

        Returns:
            float32 [B, S, N], or [B, S, C, N], of S stems.
        """
        # F frequency bins, T windows
        spectrogram = self.spectrogram(input_values, sampling_rate)  # [B, F, T] or [B, C, F, T]
        if input_values.ndim == 2:
            masks = self._wide_masks(spectrogram.abs())  # [B, S, F, T]
        else:
            # all channels share the masks of their mean
            masks = self._wide_masks(spectrogram.mean(1).abs())[:, :, None]  # [B, S, 1, F, T]
        stems = spectrogram[:, None] * masks
        arguments = self._stft_arguments(stems.device, sampling_rate)
        samples = torch.istft(stems.flatten(0, -3), **arguments, length=input_values.shape[-1])
        return samples.unflatten(0, stems.shape[:-2])

    def _wide_masks(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """The masks for an instrumental at the network's sampling rate or a higher one.

        The network reads the lowest bins, as many as it has; the bins above take the mean mask of its highest ones.

        Args:
            magnitudes (float [batch, bins, windows]): of the instrumental's spectrogram.

        Returns:
            float [batch, stems, bins, windows].
        """
        # number of bins that the network reads
        bins = self.config.n_fft // 2 + 1
        # magnitudes are proportional to the window's length in samples, which is larger at a higher rate
        scale = (bins - 1) / (magnitudes.shape[1] - 1)
        masks = self.masks(magnitudes[:, :bins] * scale)
        top_bins = round(TOP_BAND * self.config.n_fft / self.config.sampling_rate)
        top = masks[:, :, -top_bins:].mean(2, keepdim=True)
        return torch.cat([masks, top.expand(-1, -1, magnitudes.shape[1] - bins, -1)], dim=2)

    @torch.no_grad()
    def separate(
        self, instrumental: torch.Tensor, sampling_rate: int | None = None, check_stop: CheckStop | None = None
    ) -> torch.Tensor:
        """Splits a whole instrumental into its stems, in bounded memory.

        Args:
            instrumental (float32 [channels, N]): of any length.
            sampling_rate: in Hz; `config.sampling_rate` if None.
            check_stop: called before each piece of PIECE_SECONDS; an exception that it raises ends the separation.

        Returns:
            float32 [stems, channels, N] on the CPU.
        """
        stream = SeparatorStream(self, sampling_rate)
        pieces = instrumental.split(PIECE_SECONDS * (sampling_rate or self.config.sampling_rate), dim=-1)
        stems = []
        for number, piece in enumerate(stoppable(pieces, check_stop), start=1):
            is_last = number == len(pieces)
            stems.append(stream.separate(piece, is_last))
        return torch.cat(stems, dim=-1)


class SeparatorStream:
    """Splits an instrumental piece by piece; up to rounding, the stems equal those of the whole.

    Samples whose future context is still missing are held back until more samples follow or the song ends.

    Args:
        model: the separator.
        sampling_rate: of the instrumental in Hz; `config.sampling_rate` by default.
    """

    def __init__(self, model: HAFMSeparatorModel, sampling_rate: int | None = None) -> None:
        # samples that the separator must see before and after those whose stems are final
        context = model.config.at_rate(model.context, sampling_rate)
        self.hop_length = model.config.at_rate(model.config.hop_length, sampling_rate)
        self._separate = Piecewise(
            lambda samples, _: model(samples[None].to(model.device), sampling_rate)[0].cpu(), context, context
        )
        # samples after the last whole hop ([channels, n]), held back so that windows stay aligned with the song's
        self._rest: torch.Tensor | None = None

    def separate(self, instrumental: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Takes the next samples and returns the stems that are final now.

        Args:
            instrumental (float [channels, N]): the next samples, N > 0.
            last: whether the song ends with them.

        Returns:
            The next n samples of each stem, float32 [stems, channels, n] on the CPU; n may be 0.
        """
        if self._rest is not None:
            instrumental = torch.cat([self._rest, instrumental], dim=-1)
        # number of samples to pass on: whole hops; at the end of the song, all
        stop = instrumental.shape[-1]
        if not last:
            stop -= instrumental.shape[-1] % self.hop_length
        self._rest = instrumental[:, stop:]
        stems = self._separate(instrumental[:, :stop], last)
        if stems is None:
            return instrumental.new_zeros(NUM_STEMS, len(instrumental), 0).cpu()
        return stems
