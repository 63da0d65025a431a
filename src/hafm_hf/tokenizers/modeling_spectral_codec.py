# SPDX-License-Identifier: Apache-2.0
"""A music codec in the STFT domain: all networks run at the frame rate, and an inverse STFT synthesises the samples.

Transposed convolutions leave tonal artifacts at fixed frequencies set by their strides (Pons et al. 2021, arXiv
2010.14356). Here no layer runs at the sampling rate; the blocks are ConvNeXt's, as in Vocos (Siuzdak 2023, arXiv
2306.00814). Such a decoder would still fill in what the codes leave open with a constant spectrum, heard as a comb at
the frame rate; so its mean over time is subtracted, noise has a layer of its own, and high phases are jittered.
The decoder may return another format than the encoder reads: at another rate, frequencies are as far apart as at the
encoder's, so that the spectra begin alike. Audio of two channels is left and right; its spectra are those of mid, the
mean of both, and side, half their difference. The side of an instrument that is panned to the left or right is a
fraction of its mid, so the side's branch gives each frequency a pan. Compressed spectra have their magnitudes raised
to a power of at most 1.
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
# frequencies in Hz from which phases are jittered, and from which they are jittered fully
JITTER_FROM = 2000.0
JITTER_FULL = 4000.0
# log amplitude of the noise relative to each frequency's typical magnitude: at initialisation, and at most
FIRST_NOISE_LEVEL = -4.0
LOUDEST_NOISE = 3.0
# magnitudes below this count as this, to avoid dividing by 0
SMALLEST = 1e-7


class SpectralBlock(nn.Module):
    """A ConvNeXt block (Liu et al. 2022, arXiv 2201.03545) over frames: [B, T, D] → [B, T, D].

    Args:
        width: D, the dimensions of a frame.
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
    """STFT and inverse STFT, and compression of magnitudes.

    Windows are centred on the hop of their frame, so that T frames correspond to T · hop samples. The buffer `usual`
    ([C · F]) is the typical compressed magnitude of each of the F frequencies in each of the C channels.

    Args:
        sound_format: rate, channels, hop and window of the audio.
        compression: power to which magnitudes are raised.
    """

    usual: torch.Tensor

    def __init__(self, sound_format: SpectralFormat, compression: float) -> None:
        super().__init__()
        self.format = sound_format
        self.compression = compression
        self.register_buffer("usual", torch.ones(sound_format.channels * sound_format.num_bins))

    def analyse(self, audio: torch.Tensor) -> torch.Tensor:
        """Spectra of audio, of mid and side if it is stereo.

        Args:
            audio (float [B, C, N]): N samples of C channels.

        Returns:
            complex [B, T, C · F]: T = ⌈N / hop⌉ frames; the F frequencies of the first channel, then of the second.
        """
        hop = self.format.hop_length
        size = self.format.window_length
        # samples of the window on each side of a frame's own hop
        margin = (size - hop) // 2
        audio = _sum_and_difference(_at_least_float32(audio)) / self.format.channels
        to_whole_hops = -audio.shape[-1] % hop
        padded = F.pad(audio, (margin, margin + to_whole_hops))
        window = torch.hann_window(size, dtype=audio.dtype, device=audio.device)
        return torch.fft.rfft(padded.unfold(-1, size, hop) * window).transpose(1, 2).flatten(2)

    def synthesise(self, spectra: torch.Tensor) -> torch.Tensor:
        """Audio [B, C, T · hop] of complex spectra [B, T, C · F], as from `analyse`, by overlap-add."""
        hop = self.format.hop_length
        size = self.format.window_length
        channels = self.format.channels
        frames = spectra.shape[1]
        # samples of the window on each side of a frame's own hop
        margin = (size - hop) // 2
        pieces = torch.fft.irfft(spectra.unflatten(2, (channels, -1)), size).transpose(1, 2)  # [B, C, T, size]
        window = torch.hann_window(size, dtype=pieces.dtype, device=pieces.device)
        inside = slice(margin, margin + frames * hop)
        sound = _overlap_added(pieces * window, hop)[..., inside]
        # squared: the window is applied in analysis and here
        weight = _overlap_added(window.square().expand(frames, size), hop)[..., inside]
        # left and right are the sum and the difference of mid and side
        return _sum_and_difference(sound / weight)

    def compress(self, spectra: torch.Tensor) -> torch.Tensor:
        """Raises magnitudes to the power `compression`, and divides them by the typical ones; phases stay.

        Args:
            spectra: complex [B, T, C · F].

        Returns:
            float [B, T, 2 · C · F] of about unit variance: all real parts, then all imaginary parts.
        """
        magnitudes = spectra.abs().clamp_min(SMALLEST)
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
    """Adds pieces up where they overlap.

    Args:
        pieces: [..., T, size], T pieces of `size` samples.
        hop: samples from the start of a piece to the start of the next.

    Returns:
        [..., at least (T − 1) · hop + size].
    """
    # the first `hop` samples of all pieces, the next ones, and so on: [..., T, hop] each
    hops = F.pad(pieces, (0, -pieces.shape[-1] % hop)).unflatten(-1, (-1, hop)).unbind(-2)
    frames = pieces.shape[-2]
    total = pieces.new_zeros(*pieces.shape[:-2], frames + len(hops) - 1, hop)
    for offset, part in enumerate(hops):
        total[..., offset : offset + frames, :] += part
    return total.flatten(-2)


def _sum_and_difference(audio: torch.Tensor) -> torch.Tensor:
    """The sum of two channels, and the first less the second: [B, 2, N] → [B, 2, N]; mono, [B, 1, N], as it is."""
    if audio.shape[1] == 1:
        return audio
    return torch.stack([audio[:, 0] + audio[:, 1], audio[:, 0] - audio[:, 1]], dim=1)


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Half precision as float32, because complex spectra need it; other dtypes as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class SpectralEncoder(nn.Module):
    """Audio → latent vectors, one per frame.

    Args:
        config: gives the input's format and the sizes of the encoder.
    """

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
        """Latent vectors float [B, codebook_dim, frames] of audio float [B, channels, samples]."""
        spectra = self.spectrum.compress(self.spectrum.analyse(audio))
        hidden = self.first(spectra.to(self.first.weight.dtype))
        for block in self.blocks:
            hidden = block(hidden)
        return self.last(self.norm(hidden)).transpose(1, 2)


class ResidualQuantizer(nn.Module):
    """Residual vector quantisation: each codebook encodes what the codebooks before it have left.

    The vectors of the codes are the buffer `codebooks`, float [codebooks, codes, codebook_dim].

    Args:
        config: gives these three sizes.
    """

    codebooks: torch.Tensor

    def __init__(self, config: HAFMSpectralConfig) -> None:
        super().__init__()
        shape = (config.num_codebooks, config.codebook_size, config.codebook_dim)
        self.register_buffer("codebooks", torch.randn(shape))

    def encode(self, latents: torch.Tensor, num_codebooks: int | None = None) -> torch.Tensor:
        """Codes of latent vectors.

        Args:
            latents: float [B, D, T], T vectors of D dimensions.
            num_codebooks: Q, how many codebooks to use, from the first; all if None.

        Returns:
            int64 [B, Q, T].
        """
        residual = latents.transpose(1, 2)  # [B, T, D]
        codes = []
        for codebook in self.codebooks[:num_codebooks]:
            # the squared norm of the residual is the same for all codes and is left out
            nearest = (codebook.square().sum(1) - 2 * residual @ codebook.t()).argmin(-1)
            residual = residual - F.embedding(nearest, codebook)
            codes.append(nearest)
        return torch.stack(codes, dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Latent vectors [B, D, T], D dimensions, of codes int64 [B, Q, T], T frames of the first Q codebooks.

        Generation takes them from `Codec.embed`, which all codecs have; this is for the codec as a model by itself.
        """
        # there may be fewer codes than codebooks
        books = zip(codes.unbind(1), self.codebooks, strict=False)
        vectors = [F.embedding(codes_of_book, book) for codes_of_book, book in books]
        return torch.stack(vectors).sum(0).transpose(1, 2)


class SpectralBranch(nn.Module):
    """Latent vectors → the compressed spectrum of mid (or of a mono sound) or of side, and levels of its noise.

    Args:
        config: gives all sizes but the number of blocks.
        num_blocks: number of ConvNeXt blocks.
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
            latents: float [B, D, T], T vectors of D dimensions.
            added (float [B, T, width]): added to the input of the blocks; None adds nothing.
        """
        hidden = self.first(latents).transpose(1, 2)
        if added is not None:
            hidden = hidden + added
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)

    def noise_levels(self, hidden: torch.Tensor) -> torch.Tensor:
        """Log level of the noise in each band, less FIRST_NOISE_LEVEL: [B, T, bands].

        Args:
            hidden (float [B, T, width]): from `hidden`.
        """
        assert self.noise is not None
        levels: torch.Tensor = self.noise(hidden)
        return levels


class SideBranch(SpectralBranch):
    """The branch of side: it also reads the hidden states of mid (projected by `mid_states`), and estimates pans.

    Args:
        config: gives all sizes.
    """

    def __init__(self, config: HAFMSpectralConfig) -> None:
        super().__init__(config, config.side_layers)
        self.mid_states = nn.Linear(config.decoder_width, config.decoder_width)
        self.pan = nn.Linear(config.decoder_width, config.output_format.num_bins)

    def pans(self, hidden: torch.Tensor) -> torch.Tensor:
        """Pan of each of the F frequencies, from -1 (right) to 1 (left): [B, T, F].

        It is the fraction of mid that is added to side: left becomes mid times 1 + pan, right mid times 1 − pan.

        Args:
            hidden (float [B, T, width]): from `hidden`.
        """
        return _at_least_float32(self.pan(hidden)).tanh()


class SpectralDecoder(nn.Module):
    """Latent vectors → audio: a spectrum whose mean over time is zero, plus noise with a level per band.

    So a constant spectrum cannot be learnt. Outside training the mean is a running one: the buffer `mean`
    ([C · F, 2], real and imaginary part for each channel and frequency). In stereo, side has a branch of its own,
    which reads the hidden states of mid but does not train them: what a decoder learns for side does not change mid.

    Args:
        config: gives the output's format and the sizes of the decoder.
    """

    mean: torch.Tensor

    def __init__(self, config: HAFMSpectralConfig) -> None:
        super().__init__()
        output = config.output_format
        self.spectrum = Spectrum(output, config.compression)
        self.config = config
        # for mono, the branch of the sound itself
        self.mid = SpectralBranch(config, config.decoder_layers)
        self.side = SideBranch(config) if output.channels == 2 else None
        self.register_buffer("mean", torch.zeros(output.channels * output.num_bins, 2))

    @property
    def branches(self) -> list[SpectralBranch]:
        """The branch of mid, then in stereo the branch of side."""
        if self.side is None:
            return [self.mid]
        return [self.mid, self.side]

    def forward(self, latents: torch.Tensor, first_frame: int | torch.Tensor = 0) -> torch.Tensor:
        """Audio float [B, C, T · hop], C channels, of latent vectors.

        Args:
            latents: float [B, D, T], T vectors of D dimensions.
            first_frame: index of the first frame in the song, which selects the noise; an int, or int64 [B].
        """
        return self.sound(self.hidden(latents), first_frame)

    def hidden(self, latents: torch.Tensor) -> torch.Tensor:
        """Hidden states of latent vectors [B, D, T]: [B, T, C · width], those of mid, then in stereo those of side."""
        mid_states = self.mid.hidden(latents)
        if self.side is None:
            return mid_states
        side_states = self.side.hidden(latents, self.side.mid_states(mid_states.detach()))
        return torch.cat([mid_states, side_states], dim=-1)

    def sound(self, hidden: torch.Tensor, first_frame: int | torch.Tensor = 0) -> torch.Tensor:
        """Audio of hidden states; a frame depends on `HAFMSpectralConfig.window_reach` frames to each side of it.

        Args:
            hidden (float [B, T, C · width]): from `hidden`.
            first_frame: index of the first frame in the song, which selects the noise; an int, or int64 [B].

        Returns:
            float [B, C, T · hop], C channels.
        """
        config = self.config
        states_of_branches = hidden.chunk(config.output_format.channels, dim=-1)
        branches = list(zip(self.branches, states_of_branches, strict=True))
        # for each channel, real and imaginary parts of its F frequencies: [B, T, 2, F] each
        compressed = [branch.last(states).unflatten(-1, (2, -1)) for branch, states in branches]
        # all real parts, then all imaginary parts, as `expand` takes them: [B, T, 2 · C · F]
        joined = torch.cat(compressed, dim=-1).flatten(-2)
        spectra = self._centred(self.spectrum.expand(joined))
        rows = self._noise_rows(spectra, first_frame)
        if config.phase_jitter:
            output = config.output_format
            jitter = _jitter_table(output, config.phase_jitter).to(spectra.device)
            # the same for mid and side, or an instrument panned to one side would be heard on the other
            spectra = (spectra.unflatten(-1, (output.channels, -1)) * jitter[rows].unsqueeze(-2)).flatten(-2)
        if config.num_noise_bands:
            levels = torch.cat([branch.noise_levels(states) for branch, states in branches], dim=-1)
            noise = _noise_table(spectra.shape[-1]).to(spectra.device)[rows]
            spectra = spectra + noise * self._noise_amplitudes(levels)
        if self.side is not None:
            mid, side = spectra.chunk(2, dim=-1)
            pans = self.side.pans(states_of_branches[1])
            spectra = torch.cat([mid, side + pans * mid], dim=-1)
        return self.spectrum.synthesise(spectra)

    def _centred(self, spectra: torch.Tensor) -> torch.Tensor:
        """Spectra (complex [B, T, C · F]) less their mean over time.

        In training that is the mean of the batch, with which the running mean is updated in place; else the running
        mean.
        """
        if not self.training:
            return spectra - torch.view_as_complex(_at_least_float32(self.mean))
        mean = spectra.mean(dim=(0, 1))
        self.mean.lerp_(torch.view_as_real(mean.detach()), MEAN_MOMENTUM)
        return spectra - mean

    def _noise_rows(self, spectra: torch.Tensor, first_frame: int | torch.Tensor) -> torch.Tensor:
        """Indices into the tables of noise and jitter, whose rows are chosen by a frame's position in the song.

        So a song sounds the same whether it is decoded piece by piece or at once.

        Args:
            spectra: [B, T, C · F].
            first_frame: index of their first frame in the song; an int, or int64 [B].

        Returns:
            int64 [1 or B, T].
        """
        first = torch.as_tensor(first_frame, device=spectra.device).reshape(-1, 1)
        return (first + torch.arange(spectra.shape[1], device=spectra.device)) % NOISE_PERIOD

    def _noise_amplitudes(self, levels: torch.Tensor) -> torch.Tensor:
        """Amplitudes of the noise at each frequency, from its levels in bands.

        Args:
            levels (float [B, T, C · bands]): log levels in the bands of each of the C channels, from `noise_levels`;
                relative to the typical magnitude of a frequency.

        Returns:
            float [B, T, C · F], F frequencies.
        """
        config = self.config
        output = self.config.output_format
        weights = _band_weights(
            config.num_noise_bands, output.num_bins, output.sampling_rate / 2, config.noise_bands,
            config.sampling_rate / 2,
        ).to(levels)  # fmt: skip
        levels = (levels + FIRST_NOISE_LEVEL).clamp(max=LOUDEST_NOISE).unflatten(2, (output.channels, -1))
        # `usual` holds compressed magnitudes
        return (levels @ weights).exp().flatten(2) * self.spectrum.usual ** (1 / config.compression)


@functools.lru_cache(maxsize=4)
def _noise_table(bins: int) -> torch.Tensor:
    """White noise complex64 [NOISE_PERIOD, bins], unit variance in real and imaginary parts; the same in each call."""
    # the cache may be filled under inference_mode, but later calls may record gradients
    with torch.inference_mode(False):
        size = (NOISE_PERIOD, bins, 2)
        generator = torch.Generator().manual_seed(0)
        return torch.view_as_complex(torch.randn(size, generator=generator, dtype=torch.float32, device="cpu"))


@functools.lru_cache(maxsize=4)
def _jitter_table(output: SpectralFormat, rms: float) -> torch.Tensor:
    """Factors that rotate the phases of high frequencies at random; the same in each call.

    Generated codes hardly determine these phases; without jitter they are heard as a comb.

    Args:
        output: format of the decoder's output.
        rms: root mean square of the angles in radians, from JITTER_FULL on.

    Returns:
        complex64 [NOISE_PERIOD, frequencies].
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
        bands: number of noise bands.
        bins: number of frequencies, evenly spaced from 0 Hz.
        highest: frequency of the last bin in Hz.
        bands_below, edge: how many of the bands lie from 0 to `edge` Hz, both included.
    """
    # the cache may be filled under inference_mode, but later calls may record gradients
    with torch.inference_mode(False):
        # band 0 is centred on 0 Hz, band `bands_below` − 1 on `edge`
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
        """Initialises one module, such that an untrained decoder's output has about the typical level."""
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
            # here, since transformers does not call this for modules without weights of their own
            for branch in module.branches:
                # std 0.5 in the real and imaginary parts: about the typical level once `expand` has raised magnitudes
                initialization.normal_(branch.last.weight, std=0.5 * branch.last.in_features**-0.5)
                if branch.noise is not None:
                    initialization.zeros_(branch.noise.weight)
            if module.side is not None:
                initialization.zeros_(module.side.pan.weight)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Encodes audio (float [B, channels, samples]) with all codebooks, and decodes it to the output's format."""
        return self.decoder(self.quantizer.decode(self.quantizer.encode(self.encoder(audio))))
