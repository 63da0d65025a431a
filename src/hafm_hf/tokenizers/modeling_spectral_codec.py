# SPDX-License-Identifier: Apache-2.0
"""A music codec in the STFT domain: all networks run at the frame rate, and an inverse STFT synthesises the samples.

Transposed convolutions leave tonal artifacts at fixed frequencies set by their strides (Pons et al. 2021, arXiv
2010.14356). Here no layer runs at the sampling rate; the blocks are ConvNeXt's, as in Vocos (Siuzdak 2023, arXiv
2306.00814). Such a decoder would still fill in what the codes leave open with a constant spectrum, heard as a comb at
the frame rate; so its mean over time is subtracted, noise has a layer of its own, and high phases are jittered.
The decoder may play another format than the encoder reads: at another rate, frequencies are as far apart as at the
encoder's, so that the spectra begin alike. Audio of two channels is left and right; its spectra are those of mid, the
mean of both, and side, half their difference. An instrument stands at one side if its side is a share of its mid, so
the side's branch gives each frequency a pan.
Dimensions: B batch, C channels, N samples, Q codebooks, T frames, D width, F frequencies.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, initialization

from ..pretrained.saving import HAFMModelMixin
from .configuration_codec import HAFMSpectralConfig, SpectralFormat

# weight of a batch's mean in the running mean of the decoder's output
MEAN_MOMENTUM = 0.01
# frames after which the noise repeats: long enough that its spectral lines are too close together to be resolved
NOISE_PERIOD = 1021
# Hz from which phases are jittered, and from which they are jittered fully
JITTER_FROM = 2000.0
JITTER_FULL = 4000.0
# log amplitude of the noise relative to each frequency's typical magnitude: at initialisation, and at most
FIRST_NOISE_LEVEL = -4.0
LOUDEST_NOISE = 3.0
SMALLEST = 1e-7


class SpectralBlock(nn.Module):
    """A ConvNeXt block (Liu et al. 2022, arXiv 2201.03545) over frames: [B, T, D] → [B, T, D].

    Args:
        width: D.
        config: gives kernel size and expansion.
        num_blocks: number of blocks in the network. Each residual branch is scaled by a learnt factor per channel,
            which `HAFMSpectralModel._init_weights` sets to 1 / num_blocks.
    """

    def __init__(self, width: int, config: HAFMSpectralConfig, num_blocks: int) -> None:
        super().__init__()
        size = config.kernel_size
        self.convolution = nn.Conv1d(width, width, size, padding=size // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, config.expansion * width)
        self.down = nn.Linear(config.expansion * width, width)
        # `HAFMSpectralModel._init_weights` sets the scale to 1 / num_blocks
        self.num_blocks = num_blocks
        self.scale = nn.Parameter(torch.empty(width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Adds the local context to each frame: float [B, T, D] → [B, T, D]."""
        mixed = self.norm(self.convolution(hidden.transpose(1, 2)).transpose(1, 2))
        return torch.addcmul(hidden, self.scale, self.down(F.gelu(self.up(mixed))))


class Spectrum(nn.Module):
    """STFT and inverse STFT, with the typical compressed magnitude of each frequency (the buffer `usual` [C · F]).

    Frames are centred on their own hop, so that T frames correspond to T · hop samples.

    Args:
        sound_format: rate, channels, hop and window.
        compression: power to which magnitudes are raised.
    """

    usual: torch.Tensor

    def __init__(self, sound_format: SpectralFormat, compression: float) -> None:
        super().__init__()
        self.format = sound_format
        self.compression = compression
        self.register_buffer("usual", torch.ones(sound_format.channels * sound_format.num_bins))

    def analyse(self, audio: torch.Tensor) -> torch.Tensor:
        """Complex spectra [B, T, C · F] of audio (float [B, C, N]), of mid and side if it is stereo; T = ⌈N / hop⌉."""
        hop = self.format.hop_length
        size = self.format.window_length
        # of the window on both sides of a frame's own hop
        margin = (size - hop) // 2
        audio = _mid_and_side(_at_least_float32(audio)) / self.format.channels
        padded = F.pad(audio, (margin, margin + -audio.shape[-1] % hop))
        window = torch.hann_window(size, dtype=audio.dtype, device=audio.device)
        return torch.fft.rfft(padded.unfold(-1, size, hop) * window).transpose(1, 2).flatten(2)

    def synthesise(self, spectra: torch.Tensor) -> torch.Tensor:
        """Audio [B, C, T · hop] of complex spectra [B, T, C · F] (`analyse`), by overlap-add."""
        hop = self.format.hop_length
        size = self.format.window_length
        channels = self.format.channels
        frames = spectra.shape[1]
        # of the window on both sides of a frame's own hop
        margin = (size - hop) // 2
        pieces = torch.fft.irfft(spectra.unflatten(2, (channels, -1)), size).transpose(1, 2)  # [B, C, T, size]
        window = torch.hann_window(size, dtype=pieces.dtype, device=pieces.device)
        inside = slice(margin, margin + frames * hop)
        sound = _overlap_added(pieces * window, hop)[..., inside]
        # windowed twice, in analysis and here
        weight = _overlap_added(window.square().expand(frames, size), hop)[..., inside]
        # left and right are the sum and the difference of mid and side
        return _mid_and_side(sound / weight)

    def compress(self, spectra: torch.Tensor) -> torch.Tensor:
        """Compresses magnitudes: complex [B, T, C · F] → float [B, T, 2 · C · F] of about unit variance."""
        magnitudes = spectra.abs().clamp_min(SMALLEST)
        # phases stay; relative to each frequency's typical compressed magnitude
        factors = magnitudes ** (self.compression - 1) / self.usual
        compressed = spectra * factors
        return torch.cat([compressed.real, compressed.imag], dim=-1)

    def expand(self, compressed: torch.Tensor) -> torch.Tensor:
        """Inverse of `compress`: float [B, T, 2 · C · F] → complex [B, T, C · F]."""
        real, imaginary = _at_least_float32(compressed).chunk(2, dim=-1)
        real = real * self.usual
        imaginary = imaginary * self.usual
        magnitudes = (real.square() + imaginary.square() + SMALLEST**2).sqrt()
        factors = magnitudes ** (1 / self.compression - 1)
        return torch.complex(real * factors, imaginary * factors)


def _overlap_added(pieces: torch.Tensor, hop: int) -> torch.Tensor:
    """The sum of pieces [..., T, size] that begin `hop` samples apart: [..., at least (T − 1) · hop + size]."""
    # of each piece the first hop, the second, and so on: [..., T, hop] each
    hops = F.pad(pieces, (0, -pieces.shape[-1] % hop)).unflatten(-1, (-1, hop)).unbind(-2)
    frames = pieces.shape[-2]
    total = pieces.new_zeros(*pieces.shape[:-2], frames + len(hops) - 1, hop)
    for number, part in enumerate(hops):
        total[..., number : number + frames, :] += part
    return total.flatten(-2)


def _mid_and_side(audio: torch.Tensor) -> torch.Tensor:
    """Sum and difference of left and right [B, 2, N]; mono [B, 1, N] as it is."""
    if audio.shape[1] == 1:
        return audio
    return torch.stack([audio[:, 0] + audio[:, 1], audio[:, 0] - audio[:, 1]], dim=1)


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Half precision as float32, because complex spectra need it; other dtypes as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class SpectralEncoder(nn.Module):
    """Audio → latent vectors, at the frame rate."""

    def __init__(self, config: HAFMSpectralConfig) -> None:
        super().__init__()
        self.spectrum = Spectrum(config.input_format, config.compression)
        width = config.encoder_width
        layers = config.encoder_layers
        self.first = nn.Linear(2 * config.audio_channels * config.num_bins, width)
        self.blocks = nn.ModuleList(SpectralBlock(width, config, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, config.codebook_dim)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Latent vectors float [B, D, T] of audio [B, C, N]."""
        spectra = self.spectrum.compress(self.spectrum.analyse(audio))
        hidden = self.first(spectra.to(self.first.weight.dtype))
        for block in self.blocks:
            hidden = block(hidden)
        return self.last(self.norm(hidden)).transpose(1, 2)


class ResidualQuantizer(nn.Module):
    """Residual vector quantisation: each codebook encodes the residual of those before (`codebooks` [Q, codes, D])."""

    codebooks: torch.Tensor

    def __init__(self, config: HAFMSpectralConfig) -> None:
        super().__init__()
        shape = (config.num_codebooks, config.codebook_size, config.codebook_dim)
        self.register_buffer("codebooks", torch.randn(shape))

    def encode(self, latents: torch.Tensor, num_codebooks: int | None = None) -> torch.Tensor:
        """Codes int64 [B, Q, T] of latent vectors [B, D, T], in the first `num_codebooks` codebooks; all if None."""
        residual = latents.transpose(1, 2)  # [B, T, D]
        codes = []
        for codebook in self.codebooks[:num_codebooks]:
            # the squared norm of the residual is the same for all codes and is left out
            nearest = (codebook.square().sum(1) - 2 * residual @ codebook.t()).argmin(-1)
            residual = residual - F.embedding(nearest, codebook)
            codes.append(nearest)
        return torch.stack(codes, dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Latent vectors [B, D, T] of codes int64 [B, Q, T] of the first Q codebooks.

        Generation takes them from `Codec.embed`, which all codecs have; this is for the codec as a model by itself.
        """
        books = zip(codes.unbind(1), self.codebooks, strict=False)
        vectors = [F.embedding(codes_of_book, book) for codes_of_book, book in books]
        return torch.stack(vectors).sum(0).transpose(1, 2)


class SpectralBranch(nn.Module):
    """Latent vectors → the compressed spectrum of mid (of mono: of the sound) or of side, and its noise.

    Args:
        config: gives the other sizes.
        num_blocks: number of its blocks.
    """

    def __init__(self, config: HAFMSpectralConfig, num_blocks: int) -> None:
        super().__init__()
        width = config.decoder_width
        size = config.kernel_size
        self.first = nn.Conv1d(config.codebook_dim, width, size, padding=size // 2)
        self.blocks = nn.ModuleList(SpectralBlock(width, config, num_blocks) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, 2 * config.output_format.num_bins)
        self.noise = nn.Linear(width, config.num_noise_bands) if config.num_noise_bands else None

    def hidden(self, latents: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """Output of the blocks, normalised: [B, T, width].

        Args:
            latents: float [B, D, T].
            added (float [B, T, width]): what the blocks read beside the latent vectors.
        """
        hidden = self.first(latents).transpose(1, 2)
        if added is not None:
            hidden = hidden + added
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)

    def noise_levels(self, hidden: torch.Tensor) -> torch.Tensor:
        """Log level of the noise in each band, less FIRST_NOISE_LEVEL, for hidden states: [B, T, bands]."""
        assert self.noise is not None
        levels: torch.Tensor = self.noise(hidden)
        return levels


class SideBranch(SpectralBranch):
    """The side's branch, which reads the mid's hidden states (`mid_states`) and has pans."""

    def __init__(self, config: HAFMSpectralConfig) -> None:
        super().__init__(config, config.side_layers)
        self.mid_states = nn.Linear(config.decoder_width, config.decoder_width)
        self.pan = nn.Linear(config.decoder_width, config.output_format.num_bins)

    def pans(self, hidden: torch.Tensor) -> torch.Tensor:
        """Where each frequency stands, from -1 (right) to 1 (left), for hidden states: [B, T, F].

        It is the share of the mid that is added to the side: left is the mid times 1 + pan, right times 1 − pan.
        """
        return _at_least_float32(self.pan(hidden)).tanh()


class SpectralDecoder(nn.Module):
    """Latent vectors → audio: a spectrum whose mean over time is zero, plus noise with a level per band.

    Outside training the mean is a running one (the buffer `mean` [C · F, 2]); a constant spectrum cannot be learnt. In
    stereo, side has a branch of its own, which reads the mid's hidden states but does not train them: what a decoder
    learns for the side does not change the mid.
    """

    mean: torch.Tensor

    def __init__(self, config: HAFMSpectralConfig) -> None:
        super().__init__()
        output = config.output_format
        self.spectrum = Spectrum(output, config.compression)
        self.config = config
        # of mono, the sound itself
        self.mid = SpectralBranch(config, config.decoder_layers)
        self.side = SideBranch(config) if output.channels == 2 else None
        self.register_buffer("mean", torch.zeros(output.channels * output.num_bins, 2))

    @property
    def branches(self) -> list[SpectralBranch]:
        """Of mid, and in stereo of side."""
        if self.side is None:
            return [self.mid]
        return [self.mid, self.side]

    def forward(self, latents: torch.Tensor, first_frame: int | torch.Tensor = 0) -> torch.Tensor:
        """Audio [B, C, T · hop] of latent vectors [B, D, T].

        Args:
            latents: float [B, D, T].
            first_frame: index of the first frame in the song, which selects the noise; an int, or int64 [B].
        """
        return self.sound(self.hidden(latents), first_frame)

    def hidden(self, latents: torch.Tensor) -> torch.Tensor:
        """Hidden states of mid, then of side, for latent vectors [B, D, T]: [B, T, C · width]."""
        mid_states = self.mid.hidden(latents)
        if self.side is None:
            return mid_states
        side_states = self.side.hidden(latents, self.side.mid_states(mid_states.detach()))
        return torch.cat([mid_states, side_states], dim=-1)

    def sound(self, hidden: torch.Tensor, first_frame: int | torch.Tensor = 0) -> torch.Tensor:
        """Audio of hidden states; a sample depends on those of `HAFMSpectralConfig.window_reach` frames to each side.

        Args:
            hidden (float [B, T, C · width]): from `hidden`.
            first_frame: index of the first frame in the song, which selects the noise; an int, or int64 [B].

        Returns:
            float [B, C, T · hop].
        """
        config = self.config
        states_of_branches = hidden.chunk(config.output_format.channels, dim=-1)
        branches = list(zip(self.branches, states_of_branches, strict=True))
        # real and imaginary parts of each channel, [B, T, 2, F] each
        compressed = [branch.last(states).unflatten(-1, (2, -1)) for branch, states in branches]
        spectra = self._centred(self.spectrum.expand(torch.cat(compressed, dim=-1).flatten(-2)))
        rows = self._noise_rows(spectra, first_frame)
        if config.phase_jitter:
            output = config.output_format
            jitter = _jitter_table(output, config.phase_jitter).to(spectra.device)
            # the same for mid and side, or an instrument at one side would be heard at the other
            spectra = (spectra.unflatten(-1, (output.channels, -1)) * jitter[rows].unsqueeze(-2)).flatten(-2)
        if config.num_noise_bands:
            levels = torch.cat([branch.noise_levels(states) for branch, states in branches], dim=-1)
            noise = _noise_table(spectra.shape[-1]).to(spectra.device)[rows]
            spectra = spectra + noise * self._noise_amplitudes(levels)
        if self.side is not None:
            mid, side = spectra.chunk(2, dim=-1)
            spectra = torch.cat([mid, side + self.side.pans(states_of_branches[1]) * mid], dim=-1)
        return self.spectrum.synthesise(spectra)

    def _centred(self, spectra: torch.Tensor) -> torch.Tensor:
        """Spectra (complex [B, T, C · F]) less their mean over time: in training the batch's, else the running mean.

        In training the running mean is updated, in place.
        """
        if not self.training:
            return spectra - torch.view_as_complex(_at_least_float32(self.mean))
        mean = spectra.mean(dim=(0, 1))
        self.mean.lerp_(torch.view_as_real(mean.detach()), MEAN_MOMENTUM)
        return spectra - mean

    def _noise_rows(self, spectra: torch.Tensor, first_frame: int | torch.Tensor) -> torch.Tensor:
        """Rows of the tables of noise and jitter for `spectra` [B, T, C · F]: int64 [1 or B, T].

        They are those of the frames' positions in the song, so a song decoded piece by piece sounds as if decoded at
        once. `first_frame` (an int, or int64 [B]) is the index of the first frame in the song.
        """
        first = torch.as_tensor(first_frame, device=spectra.device).reshape(-1, 1)
        return (first + torch.arange(spectra.shape[1], device=spectra.device)) % NOISE_PERIOD

    def _noise_amplitudes(self, levels: torch.Tensor) -> torch.Tensor:
        """Noise amplitudes [B, T, C · F] from the noise layer's log levels [B, T, C · bands].

        They are relative to the typical magnitude of each frequency.
        """
        config = self.config
        output = self.config.output_format
        weights = _band_weights(
            config.num_noise_bands, output.num_bins, output.sampling_rate / 2, config.noise_bands,
            config.sampling_rate / 2,
        ).to(levels)  # fmt: skip
        levels = (levels + FIRST_NOISE_LEVEL).clamp(max=LOUDEST_NOISE).unflatten(2, (output.channels, -1))
        # `usual` is of compressed magnitudes
        return (levels @ weights).exp().flatten(2) * self.spectrum.usual ** (1 / config.compression)


@functools.lru_cache(maxsize=4)
def _noise_table(bins: int) -> torch.Tensor:
    """White noise complex64 [NOISE_PERIOD, bins], unit variance in the real and imaginary parts, always the same."""
    # the cache may be filled under inference_mode, but later calls may record gradients
    with torch.inference_mode(False):
        size = (NOISE_PERIOD, bins, 2)
        generator = torch.Generator().manual_seed(0)
        return torch.view_as_complex(torch.randn(size, generator=generator, dtype=torch.float32, device="cpu"))


@functools.lru_cache(maxsize=4)
def _jitter_table(output: SpectralFormat, rms: float) -> torch.Tensor:
    """Factors complex64 [NOISE_PERIOD, F] that turn the phases of high frequencies at random, always the same.

    Generated codes hardly determine these phases; unjittered, they sound as a comb.

    Args:
        output: format of the decoder's output.
        rms: of the angles in radians, from JITTER_FULL on.
    """
    # the cache may be filled under inference_mode, but later calls may record gradients
    with torch.inference_mode(False):
        bins = output.num_bins
        frequencies = torch.linspace(0, output.sampling_rate / 2, bins, dtype=torch.float32, device="cpu")
        share = ((frequencies - JITTER_FROM) / (JITTER_FULL - JITTER_FROM)).clamp(0, 1)
        angles = rms * share * _noise_table(output.channels * bins).real[:, :bins]
        return torch.polar(torch.ones_like(angles), angles)


@functools.lru_cache(maxsize=4)
def _band_weights(bands: int, bins: int, highest: float, bands_below: int, edge: float) -> torch.Tensor:
    """Interpolation weights from noise bands to frequencies, float [bands, bins]: triangles evenly spaced in mel.

    Args:
        bands, bins: sizes of the result.
        highest: frequency of the last bin in Hz.
        bands_below, edge: how many of the bands lie between 0 and `edge` Hz.
    """
    # the cache may be filled under inference_mode, but later calls may record gradients
    with torch.inference_mode(False):
        # band 0 lies at 0 Hz, band `bands_below` − 1 at `edge`
        mels = (1 + torch.linspace(0, highest, bins, dtype=torch.float32, device="cpu") / 700).log()
        mel_of_edge = (1 + torch.tensor(edge) / 700).log()
        band_of_bin = mels / mel_of_edge * (bands_below - 1)  # fractional, [bins]
        return (1 - (band_of_bin - torch.arange(bands, device="cpu")[:, None]).abs()).clamp_min(0)


class HAFMSpectralModel(HAFMModelMixin, PreTrainedModel):
    """The spectral codec: an encoder, a residual quantiser and a decoder.

    Args:
        config: see `HAFMSpectralConfig`.
    """

    config_class = HAFMSpectralConfig
    base_model_prefix = "spectral"
    main_input_name = "audio"

    def __init__(self, config: HAFMSpectralConfig) -> None:
        super().__init__(config)
        self.encoder = SpectralEncoder(config)
        self.quantizer = ResidualQuantizer(config)
        self.decoder = SpectralDecoder(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        """Initialises one module; an untrained decoder's output has about the typical level."""
        super()._init_weights(module)
        if isinstance(module, nn.Linear | nn.Conv1d):
            initialization.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            initialization.zeros_(module.bias)
        elif isinstance(module, SpectralBlock):
            initialization.constant_(module.scale, 1 / module.num_blocks)
        elif isinstance(module, Spectrum):
            initialization.ones_(module.usual)
        elif isinstance(module, ResidualQuantizer):
            initialization.normal_(module.codebooks)
        elif isinstance(module, SpectralDecoder):
            initialization.zeros_(module.mean)
            # here, since transformers passes over modules that have no weights but their children's
            for branch in module.branches:
                # std 0.5 in the real and imaginary parts: about the typical level once `expand` has raised magnitudes
                initialization.normal_(branch.last.weight, std=0.5 * branch.last.in_features**-0.5)
                if branch.noise is not None:
                    initialization.zeros_(branch.noise.weight)
            if module.side is not None:
                initialization.zeros_(module.side.pan.weight)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Encodes audio float [B, C, N] with all codebooks and decodes it, in the format of the output."""
        return self.decoder(self.quantizer.decode(self.quantizer.encode(self.encoder(audio))))
