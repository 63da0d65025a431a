# SPDX-License-Identifier: Apache-2.0
"""Trains the spectral codec.

It starts as an autoencoder and is quantised once that has warmed up (k-means initialisation, moving averages,
replacement of dead codes, codebook dropout; Défossez et al. 2022, arXiv 2210.13438, sections 3.2 and A.2).
Discriminators start last. Optionally, only the decoder is trained further, which leaves the codes unchanged.

Stereo is left and right; mid is their mean, and side half their difference.

Dimensions: B crops, C channels and N samples of a crop (C', N' in the decoder's output format), T frames, F
frequencies of a spectrum, Q codebooks, D width of their vectors.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch
from torch import nn

from hafm_hf.tokenizers.modeling_spectral_codec import HAFMSpectralModel, Spectrum
from hafm_hf.tokenizers.pitch_contour import mel_filters

from .clusters import kmeans, nearest
from .codec import mel_distance, relative_error, spectral_distance, view_spectra
from .discriminator import MultiScaleDiscriminator
from .song_pool import PCM_SCALE, Song, SongPool
from .state import cosine_learning_rate
from .steps import in_half

# mel bands of the level loss, and length of its window
LEVEL_BANDS = 32
LEVEL_SECONDS = 1024 / 24_000
# entries of a trainer's state that have no state_dict of their own
PLAIN = ("step", "quantized", "counts", "sums")
# first steps of the batches that are drawn before and after training, which itself never reaches them
START_STEP = 10_000_000
SETTLING_STEP = 20_000_000
# a step's seed is the run's seed times this, plus the step; no run has as many steps, so all seeds differ
STEPS_PER_SEED = 1_000_003
# norm to which gradients are clipped
LONGEST_GRADIENT = 5.0
# iterations of k-means for a codebook's initialisation
KMEANS_ITERATIONS = 8
# limits of the gains that correct the side's level: below HIGH_HZ, and from there on
SIDE_GAINS_DB = (-3.0, 6.0)
HIGH_GAINS_DB = (-3.0, 20.0)
HIGH_HZ = 8_000.0
# layers of a decoder's branches that follow their blocks
OUTPUT_LAYERS = ("last", "noise", "pan")
# log level at which noise is silent
SILENT_NOISE = -60.0
# RMS of the quietest crops that are used
LEAST_RMS = 3e-3
# range of the random level (RMS) of varied crops
LEVELS_DBFS = (-30, -14)
# lowest RMS by which a crop is divided: silence is not amplified
SILENT_RMS = 1e-4
# random equaliser: number of points of its curve, and standard deviation of their gains
EQUALISER_POINTS = 8
EQUALISER_DB = 5.0


@dataclass
class SpectralTrainingArguments:
    """How a spectral codec is trained; steps are optimiser steps.

    `crop_frames`: length of a crop in frames.
    `averaging`: decay of the moving average of the weights.
    `quantize_from`: step at which quantisation starts.
    `start_batches`: number of batches that initialise typical levels and codebooks.
    `codebook_decay`: decay of the moving averages that update the codebooks.
    `dead_code_share`: a code that is used less often than this share of the mean is replaced.
    `adversarial_from`: step at which discriminators start; 0: never. The weight of the adversarial loss rises linearly
    over the following `adversarial_ramp` steps.
    `decoder_only`: freezes encoder and codebooks, and so all codes; for a codec that is already trained. `side_only`,
    in stereo, freezes the decoder of mid as well.
    """

    steps: int = 6000
    batch_size: int = 6
    varied_rows: int = field(default=2, metadata={"help": "further rows, with other keys, mixes and EQ"})
    crop_frames: int = 96
    learning_rate: float = 1e-3
    final_learning_rate: float = 5e-5
    output_rate_factor: float = field(default=1.0, metadata={"help": "of the learning rate of the decoder's output"})
    warmup_steps: int = 100
    averaging: float = 0.998
    quantize_from: int = 500
    start_batches: int = 64
    codebook_decay: float = 0.99
    dead_code_share: float = 0.1
    waveform_weight: float = 1.0
    side_weight: float = field(default=0.05, metadata={"help": "of the side's waveform error, relative to the mid's"})
    side_level_weight: float = field(default=4.0, metadata={"help": "of the side's level, relative to the mid's"})
    pan_weight: float = field(default=0.0, metadata={"help": "of the pans' distance; for stereo only"})
    spectral_weight: float = 0.5
    stft_sizes: str = field(
        default="256,1024,4096,8192", metadata={"help": "windows of the spectral loss, in samples"}
    )
    mel_weight: float = 0.2
    level_weight: float = 0.0
    commitment_weight: float = 0.3
    adversarial_from: int = 0
    adversarial_ramp: int = 0
    adversarial_weight: float = 0.1
    matching_weight: float = 0.2
    discriminator_learning_rate: float = 3e-4
    judged_rows: int = field(default=3, metadata={"help": "rows per batch for the discriminators"})
    discriminator_share: float = field(default=0.67, metadata={"help": "share of steps that train discriminators"})
    sizes: str = field(default="256,512,1024", metadata={"help": "STFT windows of the discriminators, in samples"})
    records_share: float = field(default=0.35, metadata={"help": "share of crops from recordings, if there are any"})
    decoder_only: bool = False
    side_only: bool = False
    seed: int = 0


def level_distance(
    target: torch.Tensor, output: torch.Tensor, sampling_rate: int, size: int = 1024, side_weight: float = 1.0
) -> torch.Tensor:
    """Mean absolute difference of mel band levels, each over a whole crop, in nepers; a scalar.

    All other losses prefer silence to noise where the codes leave the waveform open; this one rewards noise at the
    right level. In stereo, it is the mean over mid, side (times `side_weight`), left and right.

    Args:
        target (float [B, C, N]): crops of C channels and N samples.
        output (float [B, C, N]): the codec's reconstruction of them.
        sampling_rate: in Hz.
        size: window of the STFT in samples (`level_window`).
        side_weight: weight of the side's level, relative to the mid's.
    """
    true = band_powers(target, sampling_rate, size)
    decoded = band_powers(output, sampling_rate, size)
    # bands 70 dB below the loudest one hardly count: the highest octave of a side is 55 dB below
    floor = 1e-7 * true.amax(dim=1, keepdim=True) + 1e-10
    # 0.5: the logarithm of a power is twice that of a magnitude
    distances = 0.5 * ((true + floor).log() - (decoded + floor).log()).abs().mean(dim=1)
    if target.shape[1] == 1:
        return distances.mean()
    # mid, side, left, right
    weights = distances.new_tensor([1, side_weight, 1, 1])
    distances_of_crops = distances.unflatten(0, (len(target), -1))  # [B, 4]
    return (distances_of_crops * weights).mean()


def band_powers(audio: torch.Tensor, sampling_rate: int, size: int = 1024) -> torch.Tensor:
    """Mean power of `LEVEL_BANDS` mel bands over whole crops.

    Args:
        audio (float [B, C, N]): B crops of N samples, mono or stereo.
        sampling_rate: in Hz.
        size: window of the STFT in samples.

    Returns:
        float [B, bands] of mono; of stereo [4 · B, bands], for each crop mid, side, left and right.
    """
    filters = torch.from_numpy(mel_filters(size, sampling_rate, LEVEL_BANDS, 0.0)).to(audio)
    return view_spectra(audio, size).abs().square().mean(-1) @ filters


def mid_and_side(audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mid and side (float [B, 1, N] each) of left and right (float [B, 2, N]): mean and half the difference."""
    left, right = audio.split(1, dim=1)
    return (left + right) / 2, (left - right) / 2


def pan_distance(target: torch.Tensor, pans: torch.Tensor, spectrum: Spectrum) -> torch.Tensor:
    """Mean squared distance of a decoder's pans from the best ones, with which mid times pan is closest to side.

    The best pan of a frequency in a frame is the least-squares factor from mid to side. Where mid is silent, it is
    arbitrary, so distances are weighted by mid's magnitude, relative to its mean at this frequency.

    Args:
        target (float [B, 2, N]): crops, left and right.
        pans (float [B, T, F]): the decoder's (`SideBranch.pans`), for each of T frames and F frequencies.
        spectrum: the decoder's STFT.
    """
    mid, side = spectrum.analyse(target).chunk(2, dim=-1)  # [B, T, F] each
    power = mid.abs().square()
    best = (side * mid.conj()).real / (power + 1e-8 * power.mean() + 1e-12)
    magnitudes = mid.abs()
    # quiet high frequencies count too, but not those that are silent throughout
    weights = magnitudes / (magnitudes.mean(dim=(0, 1)) + 1e-3 * magnitudes.mean())
    squared_errors = (pans - best.clamp(-1, 1)).square()
    return (weights * squared_errors).mean() / weights.mean()


def _draw_views(
    target: torch.Tensor, output: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduces stereo to one channel per crop, at random mid, side, left or right; mono is returned unchanged.

    Args:
        target (float [B, C, N]): crops of C channels and N samples.
        output (float [B, C, N]): the codec's reconstruction of them.
        generator: draws the channel of each crop.

    Returns:
        The same channels of target and output, float [B, 1, N] each.
    """
    if target.shape[1] == 1:
        return target, output
    rows = torch.arange(len(target))
    drawn = torch.randint(4, (len(target),), generator=generator)
    # mid, side, left and right of each crop: [B, 4, 1, N]
    target_views = torch.stack([*mid_and_side(target), *target.split(1, dim=1)], dim=1)
    output_views = torch.stack([*mid_and_side(output), *output.split(1, dim=1)], dim=1)
    return target_views[rows, drawn], output_views[rows, drawn]


def level_window(sampling_rate: int) -> int:
    """Window of the level loss in samples, a power of 2: 1,024 at 24 kHz, and about as long (43 ms) at other rates."""
    return 1 << round(math.log2(LEVEL_SECONDS * sampling_rate))


class Batch(NamedTuple):
    """A batch of B crops.

    Args:
        audio (float [B, C, N]): crops to encode, C channels and N samples in the codec's input format.
        first (int64 [B]): index in its song of each crop's first frame.
        target (float [B, C', N']): the same crops as they should be decoded, in the codec's output format.
    """

    audio: torch.Tensor
    first: torch.Tensor
    target: torch.Tensor


def _usual_levels(spectrum: Spectrum, sounds: list[torch.Tensor]) -> torch.Tensor:
    """Typical compressed magnitude of each frequency, for `Spectrum.usual`.

    Args:
        spectrum: an encoder's or decoder's.
        sounds (float [B, C, N] each): batches of crops.

    Returns:
        float [C · F]: the F frequencies of the first of C channels, then of the second.
    """
    spectra = torch.cat([spectrum.analyse(sound).flatten(0, 1) for sound in sounds])  # [all frames, C · F]
    compressed_power = spectra.abs().pow(2 * spectrum.compression).mean(0)
    # half the power is the variance of the real and of the imaginary part, which are scaled to 1
    usual = compressed_power.div(2).sqrt()
    # frequencies above a lowpass are almost silent, and must not be amplified
    return usual.clamp_min(1e-2 * float(usual.max()))


def _stereo_crop(song: Song, start: int, size: int) -> np.ndarray:
    """A crop of a song, left and right (float32 [2, at most `size`]), at the level of its mono instrumental.

    Args:
        song: the song.
        start: first sample, at the rate of the stereo.
        size: number of samples; fewer at the end of the song.

    Raises:
        ValueError: the song has no stereo.
    """
    if song.stereo is None:
        raise ValueError(f"{song.name} has no stereo.flac; render the corpus with --stereo-rate.")
    return song.stereo[:, start : start + size] * np.float32(song.stereo_scale / PCM_SCALE)


def _thirds_of_octaves(powers: np.ndarray, hertz: np.ndarray) -> np.ndarray:
    """Sums power spectra over the third of an octave around each frequency.

    Args:
        powers (float64 [spectra, F]): power at each of F frequencies.
        hertz (float64 [F]): the frequencies, in ascending order.

    Returns:
        float64 [spectra, F].
    """
    # power of all frequencies below each one, and at last of all
    cumulative = np.pad(np.cumsum(powers, axis=1), ((0, 0), (1, 0)))
    sixth = 2 ** (1 / 6)  # ratio of frequencies a sixth of an octave apart
    first = np.searchsorted(hertz, hertz / sixth)
    end = np.searchsorted(hertz, hertz * sixth, side="right")
    return cumulative[:, end] - cumulative[:, first]


def _random_curve(rng: np.random.Generator, bins: int) -> np.ndarray:
    """Factor for each of `bins` frequencies of a smooth random equaliser: float64 [bins].

    Gains are drawn at points evenly spaced in log frequency, and interpolated between them.
    """
    # offset by 20 bins, as the lowest bins would otherwise span most octaves
    octaves = np.log2(np.arange(bins) + 20.0)
    points = np.linspace(octaves[0], octaves[-1], EQUALISER_POINTS)
    gains_db = np.interp(octaves, points, rng.normal(0, EQUALISER_DB, EQUALISER_POINTS))
    return 10 ** (gains_db / 20)


class SpectralTrainer:
    """Trains step by step; everything random is determined by seed and step.

    Args:
        codec: newly initialised or trained; changed in place.
        pool: training songs at the codec's input rate.
        arguments: see `SpectralTrainingArguments`.
        records: recordings at the same rate, to draw crops from as well.

    Raises:
        ValueError: the arguments are for a decoder that plays stereo, and the codec's plays mono.
    """

    def __init__(
        self,
        codec: HAFMSpectralModel,
        pool: SongPool,
        arguments: SpectralTrainingArguments,
        records: Sequence[Song] = (),
    ) -> None:
        if codec.decoder.side is None and (arguments.side_only or arguments.pan_weight):
            raise ValueError("side_only and pan_weight need a decoder that plays stereo; add output_audio_channels 2.")
        self.codec = codec
        self.pool = pool
        self.arguments = arguments
        self.records = records
        self.average = copy.deepcopy(codec).requires_grad_(False)
        self.step = 0
        self.quantized = arguments.decoder_only
        codec.encoder.requires_grad_(not arguments.decoder_only)
        # codebooks have no gradients: each vector is a moving average of the vectors that chose it, sum / count
        self.counts = torch.ones(codec.quantizer.codebooks.shape[:2], device=codec.device)
        self.sums = codec.quantizer.codebooks.clone()
        codec.decoder.mid.requires_grad_(not arguments.side_only)
        # mid's running mean, which must not change if only the side is trained
        self.mid_mean = codec.decoder.mean[: codec.config.output_format.num_bins].clone()
        output_parameters = []
        for name, weight in codec.decoder.named_parameters():
            # names are like "mid.last.weight" and "side.pan.bias"
            layer = name.split(".")[1]
            if layer in OUTPUT_LAYERS and weight.requires_grad:
                output_parameters.append(weight)
        output_ids = {id(parameter) for parameter in output_parameters}
        others = [weight for weight in codec.parameters() if weight.requires_grad and id(weight) not in output_ids]
        # `train_step` multiplies the scheduled learning rate by a group's "factor"
        self.optimizer = torch.optim.AdamW(
            [{"params": others, "factor": 1.0}, {"params": output_parameters, "factor": arguments.output_rate_factor}],
            lr=arguments.learning_rate,
            betas=(0.8, 0.99),
            weight_decay=0.01,
        )
        windows = tuple(map(int, arguments.sizes.split(",")))
        self.discriminator = MultiScaleDiscriminator(windows).to(codec.device)
        # the discriminators' optimiser
        self.judging = torch.optim.AdamW(
            self.discriminator.parameters(), lr=arguments.discriminator_learning_rate, betas=(0.5, 0.9)
        )

    def start(self) -> None:
        """Measures the songs' typical level of each frequency, and sets it in a new codec's encoder and decoder."""
        batches = [self._draw(START_STEP + index) for index in range(self.arguments.start_batches)]
        encoder = self.codec.encoder
        decoder = self.codec.decoder
        encoder.spectrum.usual.copy_(_usual_levels(encoder.spectrum, [batch.audio for batch in batches]))
        decoder.spectrum.usual.copy_(_usual_levels(decoder.spectrum, [batch.target for batch in batches]))
        self.average.load_state_dict(self.codec.state_dict())

    def start_wider(self, trained_bins: int) -> None:
        """Like `start`, for a codec from `wider_codec.widened`: only of the frequencies that it could not play before.

        These are all of side, and those of mid above the old bandwidth.

        Args:
            trained_bins: number of frequencies that the codec played before it was widened.
        """
        batches = [self._draw(START_STEP + index) for index in range(self.arguments.start_batches)]
        spectrum = self.codec.decoder.spectrum
        channels = spectrum.format.channels
        # mid, then side: [C, F]; `current` is a view, which is changed in place
        usual = _usual_levels(spectrum, [batch.target for batch in batches]).unflatten(0, (channels, -1))
        current = spectrum.usual.unflatten(0, (channels, -1))
        current[0, trained_bins:] = usual[0, trained_bins:]
        current[1:] = usual[1:]
        self.average.load_state_dict(self.codec.state_dict())

    @property
    def compares_sounds(self) -> bool:
        """Whether a loss compares sounds; if not, only pans are learnt."""
        arguments = self.arguments
        weights = (arguments.waveform_weight, arguments.spectral_weight, arguments.mel_weight, arguments.level_weight)
        return any(weights) or bool(arguments.adversarial_from)

    def train_step(self) -> dict[str, float]:
        """Takes one step, or skips the update if a gradient is not finite.

        Returns:
            The losses, "gradient_norm" (before clipping) and "learning_rate", by name.
        """
        arguments = self.arguments
        step = self.step
        rate = cosine_learning_rate(
            step, arguments.steps, arguments.learning_rate, arguments.final_learning_rate, arguments.warmup_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        generator = torch.Generator().manual_seed(arguments.seed * STEPS_PER_SEED + step)
        if step >= arguments.quantize_from and not self.quantized:
            self._start_codebooks(generator)
        loss, report = self._loss(self._draw(step), generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.codec.parameters(), LONGEST_GRADIENT)
        if torch.isfinite(norm):
            self.optimizer.step()
            self._update_average()
        self.step += 1
        return {**report, "gradient_norm": float(norm), "learning_rate": rate}

    @torch.no_grad()
    def _update_average(self) -> None:
        """Updates the moving averages of the trained weights."""
        # a shorter average at first, so that the initial weights are soon forgotten
        decay = min(self.arguments.averaging, (1 + self.step) / (10 + self.step))
        averages = []
        values = []
        for average, value in zip(self.average.parameters(), self.codec.parameters(), strict=True):
            if value.requires_grad:
                averages.append(average)
                values.append(value)
        torch._foreach_lerp_(averages, values, 1 - decay)

    def averaged(self) -> HAFMSpectralModel:
        """A codec with the moving averages of the weights, and the current buffers (codebooks, levels, mean)."""
        for average, current in zip(self.average.buffers(), self.codec.buffers(), strict=True):
            average.copy_(current)
        self._restore_mid_mean(self.average)
        return self.average

    def _restore_mid_mean(self, codec: HAFMSpectralModel) -> None:
        """Resets the running mean of mid in a codec's decoder to its initial value if only the side is trained."""
        if self.arguments.side_only:
            codec.decoder.mean[: len(self.mid_mean)] = self.mid_mean

    @torch.no_grad()
    def settle(self, batches: int = 300) -> HAFMSpectralModel:
        """The `averaged` codec in evaluation mode, with its decoder's running mean updated on `batches` batches.

        The mean was tracked for the current weights, not for the averaged ones.
        """
        codec = self.averaged().train()
        for index in range(batches):
            batch = self._draw(SETTLING_STEP + index)
            codes = codec.quantizer.encode(codec.encoder(batch.audio))
            # in training mode, this updates the running mean
            codec.decoder(codec.quantizer.decode(codes), batch.first)
        self._restore_mid_mean(codec)
        return codec.eval()

    @torch.no_grad()
    def level_side(self, codec: HAFMSpectralModel, batches: int = 24) -> None:
        """Scales the unpanned part of a stereo decoder's side, in place, so that the whole side has its true level.

        The side is panned mid plus this part, which losses of waveforms and spectra leave too quiet. The gain of each
        frequency is measured in the third of an octave around it, and limited to SIDE_GAINS_DB, or to HIGH_GAINS_DB
        from HIGH_HZ on.

        Args:
            codec: a codec that plays stereo, in evaluation mode, as `settle` returns it.
            batches: number of batches to measure.
        """
        decoder = codec.decoder
        spectrum = decoder.spectrum
        bins = spectrum.format.num_bins
        # a copy whose side is panned mid only
        panned = copy.deepcopy(decoder)
        assert panned.side is not None
        torch.nn.init.zeros_(panned.side.last.weight)
        torch.nn.init.zeros_(panned.side.last.bias)
        panned.mean[bins:] = 0.0
        if panned.side.noise is not None:
            torch.nn.init.zeros_(panned.side.noise.weight)
            torch.nn.init.constant_(panned.side.noise.bias, SILENT_NOISE)
        # power of the side at each frequency: true, decoded, and of panned mid alone
        powers = np.zeros((3, bins))
        for index in range(batches):
            batch = self._draw(SETTLING_STEP + index)
            codes = codec.quantizer.encode(codec.encoder(batch.audio))
            latents = codec.quantizer.decode(codes)
            sounds = (batch.target, decoder(latents, batch.first), panned(latents, batch.first))
            for row, sound in enumerate(sounds):
                _, side = spectrum.analyse(sound).chunk(2, dim=-1)
                powers[row] += side.abs().square().mean(dim=(0, 1)).double().cpu().numpy()
        hertz = np.linspace(0, spectrum.format.sampling_rate / 2, bins)
        true, decoded, from_pans = _thirds_of_octaves(powers, hertz)
        true_rest = np.maximum(true - from_pans, 1e-12)
        decoded_rest = np.maximum(decoded - from_pans, 1e-3 * decoded)
        gains_db = 10 * np.log10(true_rest / decoded_rest)
        gains_db = np.where(hertz >= HIGH_HZ, gains_db.clip(*HIGH_GAINS_DB), gains_db.clip(*SIDE_GAINS_DB))
        gains = torch.from_numpy(10 ** (gains_db / 20)).to(spectrum.usual)
        # the side follows mid; `usual` scales compressed spectra, `mean` is subtracted from uncompressed ones
        spectrum.usual[bins:] *= gains**spectrum.compression
        decoder.mean[bins:] *= gains[:, None]

    def _draw(self, step: int) -> Batch:
        """The batch of a step: `batch_size` crops of instrumentals, then `varied_rows` varied ones."""
        if self.codec.config.output_format != self.codec.config.input_format:
            return self._draw_two_formats(step)
        rng = np.random.default_rng([self.arguments.seed, step])
        config = self.codec.config
        frames = self.arguments.crop_frames
        hop = config.hop_length
        audio: list[torch.Tensor] = []
        first: list[int] = []
        while len(audio) < self.arguments.batch_size:
            song, start = self._draw_crop(rng, (frames + 1) * hop)
            # at any sample: rendered notes begin at multiples of 64 samples, on which the decoder must not rely
            crop = song.instrumental[start : start + frames * hop] / np.float32(PCM_SCALE)
            if np.sqrt(np.mean(crop**2)) < LEAST_RMS:
                continue
            audio.append(torch.from_numpy(crop))
            first.append(start // hop)
        audio += [torch.from_numpy(self._varied(rng, frames * hop)) for _ in range(self.arguments.varied_rows)]
        # varied crops have no position in a song, so theirs is random
        first += [int(frame) for frame in rng.integers(1000, size=self.arguments.varied_rows)]
        device = self.codec.device
        crops = torch.stack(audio)[:, None].to(device)
        return Batch(crops, torch.tensor(first, device=device), crops)

    def _draw_two_formats(self, step: int) -> Batch:
        """The batch of a step for a codec whose output format is not its input format.

        In the varied rows, which come last, the target has a random equaliser and level, and the crop to encode is
        made of it: the mean of its channels, resampled.
        """
        rng = np.random.default_rng([self.arguments.seed, step])
        config = self.codec.config
        read = config.input_format
        played = config.output_format
        frames = self.arguments.crop_frames
        # crops start at multiples of this many input samples, which are whole output samples, too
        grid = read.sampling_rate // math.gcd(read.sampling_rate, played.sampling_rate)
        crops: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        first: list[int] = []
        rows = self.arguments.batch_size + self.arguments.varied_rows
        while len(crops) < rows:
            song, start = self._draw_crop(rng, (frames + 1) * read.hop_length)
            start -= start % grid
            crop = song.instrumental[start : start + frames * read.hop_length] / np.float32(PCM_SCALE)
            target = _stereo_crop(song, start * played.sampling_rate // read.sampling_rate, frames * played.hop_length)
            if np.sqrt(np.mean(crop**2)) < LEAST_RMS or target.shape[-1] < frames * played.hop_length:
                continue
            if len(crops) >= self.arguments.batch_size:
                target = self._varied_stereo(rng, target)
                crop = soxr.resample(target.mean(axis=0), played.sampling_rate, read.sampling_rate)
                # a resampled crop may be a sample longer or shorter
                crop = np.resize(crop, frames * read.hop_length)
            if played.channels == 1:
                target = target.mean(axis=0, keepdims=True)
            crops.append(crop)
            targets.append(target)
            first.append(start // read.hop_length)
        device = self.codec.device
        return Batch(
            torch.from_numpy(np.stack(crops).astype(np.float32))[:, None].to(device),
            torch.tensor(first, device=device),
            torch.from_numpy(np.stack(targets).astype(np.float32)).to(device),
        )

    def _varied_stereo(self, rng: np.random.Generator, target: np.ndarray) -> np.ndarray:
        """A stereo crop (float [2, N]) with a random equaliser and level: float64 [2, N]."""
        spectrum = np.fft.rfft(target) * _random_curve(rng, target.shape[-1] // 2 + 1)
        sound = np.fft.irfft(spectrum, target.shape[-1])
        level = 10 ** (rng.uniform(*LEVELS_DBFS) / 20)
        return sound * level / max(float(np.sqrt(np.mean(sound**2))), SILENT_RMS)

    def _draw_crop(self, rng: np.random.Generator, size: int) -> tuple[Song, int]:
        """Draws a song, or with probability `records_share` a recording, and a crop's start in it.

        Args:
            rng: draws both.
            size: length of the crop in samples.

        Returns:
            The song or recording, and the index of the crop's first sample.
        """
        records = [record for record in self.records if record.num_samples > size]
        if not records or rng.random() >= self.arguments.records_share:
            return self.pool.draw(rng, size)
        record = records[int(rng.integers(len(records)))]
        return record, int(rng.integers(record.num_samples - size))

    def _varied(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """A varied crop, float32 [`size`]: at a random speed, equalised, and in 40 % of crops mixed with a second one.

        The second crop is of another instrumental or of a vocal.
        """
        # up to half an octave slower or faster
        speed = 2 ** rng.uniform(-0.5, 0.5)
        # samples to read, with a margin for rounding
        needed = int(size * speed) + 2
        sound = np.zeros(size, np.float32)
        sources = 1 + int(rng.random() < 0.4)
        for source in range(sources):
            song, start = self._draw_crop(rng, needed)
            track = song.instrumental
            # only the second source may be a vocal
            if source and rng.random() < 0.6:
                track = song.vocal
            crop = track[start : start + needed].astype(np.float32)
            crop = np.interp(np.arange(size) * speed, np.arange(needed), crop).astype(np.float32)
            # both sources at the same level, less 0 to 8 dB; 100 (of 16-bit samples): silence is not amplified
            rms = max(float(np.sqrt(np.mean(crop**2))), 100.0)
            sound += crop / rms * np.float32(10 ** rng.uniform(-0.4, 0.0))
        spectrum = np.fft.rfft(sound)
        spectrum *= _random_curve(rng, len(spectrum))
        if rng.random() < 0.3:
            # simulates a lower sampling rate
            spectrum[int(len(spectrum) * rng.uniform(0.3, 0.8)) :] = 0
        sound = np.fft.irfft(spectrum, size).astype(np.float32)
        level = 10 ** (rng.uniform(*LEVELS_DBFS) / 20)
        gain = level / max(float(np.sqrt(np.mean(sound**2))), SILENT_RMS)
        return (sound * np.float32(gain)).clip(-1, 1)

    def _loss(self, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """The weighted loss of a batch, and its terms for the log.

        Also updates the codebooks and, in some steps, the discriminators, which are not trained by this loss.

        Args:
            batch: as from `_draw`.
            generator: draws the depths for codebook dropout, and what the adversarial loss needs.
        """
        arguments = self.arguments
        report: dict[str, float] = {}
        with in_half(self.codec.device), torch.set_grad_enabled(not arguments.decoder_only):
            latents = self.codec.encoder(batch.audio).float()
        decoded = self._decoder_input(latents, generator)

        loss = latents.new_zeros(())
        if self.quantized and not arguments.decoder_only:
            commitment = (latents - decoded.detach()).square().mean()
            report["commitment"] = float(commitment.detach())
            loss = arguments.commitment_weight * commitment

        with in_half(self.codec.device):
            hidden = self.codec.decoder.hidden(decoded)
        hidden = hidden.float()
        target = batch.target
        # no sound is needed to train the pans alone
        output = target
        if self.compares_sounds:
            output = self.codec.decoder.sound(hidden, batch.first)
        sampling_rate = self.codec.config.output_format.sampling_rate
        windows = tuple(map(int, arguments.stft_sizes.split(",")))
        terms = {
            "waveform": lambda: self._waveform_error(target, output),
            "spectral": lambda: spectral_distance(target, output, windows),
            "mel": lambda: mel_distance(target, output, sampling_rate),
            "level": lambda: level_distance(
                target, output, sampling_rate, level_window(sampling_rate), arguments.side_level_weight
            ),
            "pan": lambda: pan_distance(target, self._pans(hidden), self.codec.decoder.spectrum),
        }
        # terms of weight 0 are not computed
        for name, term in terms.items():
            if weight := getattr(arguments, f"{name}_weight"):
                value = term()
                report[name] = float(value.detach())
                loss = loss + weight * value
        if arguments.adversarial_from and self.step >= arguments.adversarial_from:
            rows = torch.randperm(len(target), generator=generator)[: arguments.judged_rows].to(target.device)
            loss = loss + self._adversarial_loss(target[rows], output[rows], generator, report)
        return loss, report

    def _pans(self, hidden: torch.Tensor) -> torch.Tensor:
        """The pans of a stereo decoder for each of T frames and F frequencies, float [B, T, F].

        Args:
            hidden (float [B, T, 2 · width]): the decoder's hidden states, those of mid, then those of side.
        """
        side = self.codec.decoder.side
        assert side is not None
        _, side_states = hidden.chunk(2, dim=-1)
        return side.pans(side_states)

    def _waveform_error(self, target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """`relative_error` of mono; of stereo, that of mid plus `side_weight` times that of side.

        Args:
            target (float [B, C, N]): crops.
            output (float [B, C, N]): the codec's reconstruction of them.
        """
        if target.shape[1] == 1:
            return relative_error(target, output)
        mid, side = mid_and_side(target)
        output_mid, output_side = mid_and_side(output)
        # each relative to its own power: the side is often 20 dB below mid
        return relative_error(mid, output_mid) + self.arguments.side_weight * relative_error(side, output_side)

    def _decoder_input(self, latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The decoder's input for latents (float [B, D, T]; D wide, T frames), of the same shape.

        Before quantisation starts, the latents themselves; afterwards quantised ones, with straight-through gradients.
        Also updates the codebooks, unless only the decoder is trained.
        """
        if not self.quantized:
            return latents
        depth = self._draw_depth(len(latents), generator).to(latents.device)
        if self.arguments.decoder_only:
            return self._decode_to_depth(self.codec.quantizer.encode(latents), depth)
        quantized = self._learn_codes(latents.detach(), depth, generator)
        return latents + (quantized - latents).detach()

    def _decode_to_depth(self, codes: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """Decodes the first codebooks of each crop's codes.

        Args:
            codes (int64 [B, Q, T]): of Q codebooks and T frames.
            depth (int64 [B]): how many of the codebooks to decode.

        Returns:
            Latent vectors, float [B, D, T].
        """
        latents = []
        for row, num_codebooks in enumerate(depth):
            latents.append(self.codec.quantizer.decode(codes[row : row + 1, : int(num_codebooks)]))
        return torch.cat(latents)

    def _draw_depth(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """How many codebooks each of `rows` crops uses, from the first, for codebook dropout: int64 [rows].

        60 % of the crops use all codebooks, 20 % half of them, the others a random number.
        """
        total = len(self.codec.quantizer.codebooks)
        choice = torch.rand(rows, generator=generator)
        depth = torch.randint(1, total + 1, (rows,), generator=generator)
        depth[choice < 0.8] = (total + 1) // 2
        depth[choice < 0.6] = total
        return depth

    def _adversarial_loss(
        self, target: torch.Tensor, output: torch.Tensor, generator: torch.Generator, report: dict[str, float]
    ) -> torch.Tensor:
        """The codec's weighted adversarial and feature-matching loss; updates the discriminators first in some steps.

        In stereo, the discriminators judge one of mid, side, left and right of each crop.

        Args:
            target (float [B, C, N]): crops of C channels and N samples.
            output (float [B, C, N]): the codec's reconstruction of them.
            generator: draws which channel is judged, and whether the discriminators are updated.
            report: the terms of the loss are added to it, for the log.
        """
        discriminator = self.discriminator
        arguments = self.arguments
        target, output = _draw_views(target, output, generator)
        if float(torch.rand(1, generator=generator)) < arguments.discriminator_share:
            with in_half(self.codec.device):
                discriminator_loss = discriminator.loss(target, output)
            self.judging.zero_grad(set_to_none=True)
            discriminator_loss.float().backward()
            self.judging.step()
            report["discriminator"] = float(discriminator_loss.detach())
        # the codec's loss must not train the discriminators
        discriminator.requires_grad_(False)
        with in_half(self.codec.device):
            hinge, matching = discriminator.judge(target, output)
        discriminator.requires_grad_(True)
        report |= {"adversarial": float(hinge.detach()), "matching": float(matching.detach())}
        loss = arguments.adversarial_weight * hinge + arguments.matching_weight * matching
        steps_since = self.step + 1 - arguments.adversarial_from
        ramp = min(1.0, steps_since / max(1, arguments.adversarial_ramp))
        return loss.float() * ramp

    @torch.no_grad()
    def _start_codebooks(self, generator: torch.Generator) -> None:
        """Starts quantisation: initialises each codebook with k-means on the residual of the previous ones."""
        latents = []
        for index in range(self.arguments.start_batches):
            batch = self._draw(START_STEP + index)
            latents.append(self.codec.encoder(batch.audio).transpose(1, 2).flatten(0, 1))
        residual = torch.cat(latents)  # [frames of all batches, D]
        for codebook in self.codec.quantizer.codebooks:
            codebook.copy_(kmeans(residual, len(codebook), KMEANS_ITERATIONS, generator))
            residual = residual - codebook[nearest(residual, codebook)]
        self.counts.fill_(1.0)
        self.sums.copy_(self.codec.quantizer.codebooks)
        self.quantized = True

    @torch.no_grad()
    def _learn_codes(self, latents: torch.Tensor, depth: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Quantises latents, and moves the codebooks towards them.

        Args:
            latents (float [B, D, T]): the encoder's output, D wide, T frames.
            depth (int64 [B]): how many codebooks each crop uses, from the first.
            generator: draws replacements of unused codes.

        Returns:
            The quantised latents, float [B, D, T].
        """
        vectors = latents.transpose(1, 2).flatten(0, 1)  # [B · T, D]
        residual = vectors.clone()
        depth_of_vector = depth.repeat_interleave(latents.shape[-1])
        for index, codebook in enumerate(self.codec.quantizer.codebooks):
            # of the vectors that use this codebook
            rows = (depth_of_vector > index).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            inputs = residual[rows]
            codes = nearest(inputs, codebook)
            # before the codebook moves
            residual[rows] -= codebook[codes]
            self._update_codebook(index, inputs, codes, generator)
        return (vectors - residual).unflatten(0, (len(latents), -1)).transpose(1, 2)

    def _update_codebook(
        self, index: int, vectors: torch.Tensor, codes: torch.Tensor, generator: torch.Generator
    ) -> None:
        """Moves a codebook towards the vectors that chose its codes, and replaces unused codes by random vectors.

        Args:
            index: index of the codebook.
            vectors (float [M, D]): what the previous codebooks left of M latent vectors.
            codes (int64 [M]): the code that is nearest to each.
            generator: draws the replacements.
        """
        codebook = self.codec.quantizer.codebooks[index]
        counts = self.counts[index]
        sums = self.sums[index]
        decay = self.arguments.codebook_decay
        counts.mul_(decay).add_(torch.bincount(codes, minlength=len(codebook)), alpha=1 - decay)
        sums.mul_(decay).add_(torch.zeros_like(codebook).index_add_(0, codes, vectors), alpha=1 - decay)
        codebook.copy_(sums / counts.clamp_min(1e-6)[:, None])
        is_dead = counts < self.arguments.dead_code_share * counts.mean()
        # no more than there are vectors to replace them
        dead = is_dead.nonzero().squeeze(1)[: len(vectors)]
        if len(dead):
            drawn = vectors[torch.randperm(len(vectors), generator=generator)[: len(dead)]]
            counts[dead] = 0.5 * counts.mean()
            codebook[dead] = drawn
            sums[dead] = drawn * counts[dead][:, None]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume at the next step."""
        names = ("codec", "average", "optimizer", "discriminator", "judging")
        state = {name: getattr(self, name).state_dict() for name in names}
        return state | {name: getattr(self, name) for name in PLAIN}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict()`."""
        for name in ("codec", "average", "optimizer", "discriminator", "judging"):
            getattr(self, name).load_state_dict(state[name])
        for name in PLAIN:
            setattr(self, name, state[name])
