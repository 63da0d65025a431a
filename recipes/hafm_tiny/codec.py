# SPDX-License-Identifier: Apache-2.0
"""Losses for training a codec on songs, and an evaluation of its reconstructions.

Dimensions: B clips, C channels, N samples, F frequencies, T frames.
"""

import math
from typing import Any

import numpy as np
import soxr
import torch
from transformers import PreTrainedModel

from hafm_hf.tokenizers.codecs import Codec, as_codec
from hafm_hf.tokenizers.configuration_codec import codec_format
from hafm_hf.tokenizers.pitch_contour import mel_filters

from .figures import log_mel, scale_invariant_sdr
from .song_pool import PCM_SCALE, SongPool

# peak, in 16-bit samples, below which a clip is silent
LEAST_PEAK = 300


def relative_error(target: torch.Tensor, output: torch.Tensor, floor: float = 0.25) -> torch.Tensor:
    """Mean over clips of |x − y|² / (|x|² + floor · mean power of the batch), times 1 + floor.

    Without the floor, quiet clips, whose error can be many times their power, dominate the gradient once the codec is
    quantised: its norm rose fortyfold in a trial. With the factor, silent output gives 1 for clips of equal power.

    Args:
        target (float [B, C, N]): x, B clips of C channels and N samples.
        output (float [B, C, N]): y, the codec's reconstruction of them.
        floor: share of the batch's mean power.

    Returns:
        A scalar.
    """
    error = (target - output).pow(2).mean(dim=(1, 2))
    power = target.pow(2).mean(dim=(1, 2))
    return (1 + floor) * (error / (power + floor * power.mean() + 1e-6)).mean()


def spectral_distance(
    target: torch.Tensor, output: torch.Tensor, sizes: tuple[int, ...] = (256, 1024, 4096)
) -> torch.Tensor:
    """STFT distance: relative L1 of magnitudes plus L1 of log magnitudes, mean over `sizes`; a scalar.

    Of stereo, it compares mid, side, left and right. At 24 kHz, the longest window resolves semitones above 400 Hz.

    Args:
        target (float [B, C, N]): B clips of C channels and N samples.
        output (float [B, C, N]): the codec's reconstruction of them.
        sizes: windows in samples; those longer than the audio are skipped.
    """
    total = target.new_zeros(())
    sizes = tuple(size for size in sizes if size <= target.shape[-1])
    for size in sizes:
        true = view_spectra(target, size).abs()
        decoded = view_spectra(output, size).abs()
        # the floor is relative to the clip's peak: noise 60 dB below it is not worth any bits
        floor = 1e-3 * true.amax(dim=(1, 2), keepdim=True) + 1e-5
        linear = (true - decoded).abs().mean() / (true.mean() + 1e-5)
        logarithmic = (torch.log(true + floor) - torch.log(decoded + floor)).abs().mean()
        total = total + linear + logarithmic
    return total / len(sizes)


def view_spectra(audio: torch.Tensor, size: int) -> torch.Tensor:
    """STFT of mono, or of mid, side, left and right of stereo; the hop is a quarter of the window.

    Args:
        audio (float [B, C, N]): B clips of C channels and N samples.
        size: window in samples.

    Returns:
        complex [B, F, T], F frequencies and T frames; of stereo [4 · B, F, T], the four spectra of a clip together.
    """
    window = torch.hann_window(size, device=audio.device)
    spectra = torch.stft(audio.flatten(0, 1), size, size // 4, window=window, return_complex=True)
    if audio.shape[1] == 1:
        return spectra
    left, right = spectra.unflatten(0, audio.shape[:2]).unbind(1)
    return torch.stack([(left + right) / 2, (left - right) / 2, left, right], dim=1).flatten(0, 1)


def mel_distance(
    target: torch.Tensor, output: torch.Tensor, sampling_rate: int, sizes: tuple[int, ...] = (256, 512, 1024, 2048)
) -> torch.Tensor:
    """L1 of log-mel energies, mean over scales (Défossez et al. 2022, section 3.4); a scalar.

    Of stereo, it compares mid, side, left and right. A mel band sums many bins, so that the level of noise counts
    rather than its exact waveform.

    Args:
        target (float [B, C, N]): B clips of C channels and N samples.
        output (float [B, C, N]): the codec's reconstruction of them.
        sampling_rate: in Hz.
        sizes: windows of the scales in samples; each scale has size / 32 mel bands.
    """
    total = target.new_zeros(())
    for size in sizes:
        filters = torch.from_numpy(mel_filters(size, sampling_rate, size // 32, 0.0)).to(target)
        true = torch.einsum("fm,bft->bmt", filters, view_spectra(target, size).abs().pow(2))
        decoded = torch.einsum("fm,bft->bmt", filters, view_spectra(output, size).abs().pow(2))
        # 60 dB below the clip's loudest band: what is quieter hardly counts
        floor = 1e-6 * true.amax(dim=(1, 2), keepdim=True) + 1e-8
        # 0.5: the logarithm of a power is twice that of a magnitude
        total = total + 0.5 * ((true + floor).log() - (decoded + floor).log()).abs().mean()
    return total / len(sizes)


@torch.no_grad()
def mean_of_channels(codec: Codec, sound: torch.Tensor, size: int) -> torch.Tensor:
    """A codec's output as mono, at the sampling rate of its input.

    Args:
        codec: the codec.
        sound (float [B, C, N]): its output, C channels and N samples at its output rate.
        size: number of samples to keep, at its input rate.

    Returns:
        float [B, size], on the CPU.
    """
    mono = sound.mean(1).cpu()
    rates = codec.format
    if rates.output_sampling_rate != rates.sampling_rate:
        resampled = soxr.resample(mono.numpy().T, rates.output_sampling_rate, rates.sampling_rate).T
        mono = torch.from_numpy(np.ascontiguousarray(resampled))
    return mono[:, :size]


@torch.no_grad()
def evaluate_codec(
    codec: PreTrainedModel, pool: SongPool, depths: tuple[int, ...] = (8, 4, 2), seconds: float = 5.0, clips: int = 40
) -> dict[str, Any]:
    """Evaluates how well a codec reconstructs instrumental clips; the codec ends in training mode.

    Args:
        codec: a spectral codec.
        pool: songs at the codec's input rate.
        depths: numbers of codebooks to decode.
        seconds: length of a clip.
        clips: largest number of clips.

    Returns:
        Means over clips: `si_sdr_db` at each number of codebooks, `si_sdr_db_unquantized`, `log_mel_db` (mean distance
        of log-mel spectrograms with the most codebooks, dB), and `styles`: the same for each style and, if the pool
        has stems, for the sum of separately coded stems (STYLE/stems); and the `perplexity` of every codebook.
    """
    pool.require(seconds)
    rng = np.random.default_rng(0)
    num_samples = int(seconds * pool.sampling_rate)
    codec.eval()
    form = codec_format(codec.config)
    counts = torch.zeros(form.num_codebooks, form.codebook_size)
    # of each clip, by style; with stems also by STYLE/stems
    figures: dict[str, list[dict[str, float]]] = {}
    # no more clips than the songs hold without overlap
    clips_in_all = math.ceil(sum(song.num_samples for song in pool.songs) / num_samples)
    for _ in range(min(clips, clips_in_all)):
        song, start = pool.draw(rng, num_samples)
        if np.abs(song.instrumental[start : start + num_samples]).max() < LEAST_PEAK:
            continue
        style = str(song.labels.get("style", ""))
        # sounds to code separately
        sounds_by_name = {style: [song.instrumental]}
        if song.stems:
            sounds_by_name[f"{style}/stems"] = list(song.stems.values())
        for name, sounds in sounds_by_name.items():
            parts = np.stack([sound[start : start + num_samples] for sound in sounds]) / np.float32(PCM_SCALE)
            clip_figures = _scores_of_coding(codec, parts, depths, counts if name == style else None)
            figures.setdefault(name, []).append(clip_figures)
    codec.train()
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    # of the codes of each codebook, in nats
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum(1)
    without_stems = []
    for name, figures_of_style in figures.items():
        if not name.endswith("/stems"):
            without_stems += figures_of_style
    return {
        **_mean_figures(without_stems, depths),
        "styles": {name: _mean_figures(rows, depths) for name, rows in sorted(figures.items())},
        "perplexity": [round(value, 1) for value in entropy.exp().tolist()],
    }


def _scores_of_coding(
    codec: Any, parts: np.ndarray, depths: tuple[int, ...], counts: torch.Tensor | None
) -> dict[str, float]:
    """Codes sounds separately, and scores the sum of their reconstructions.

    Args:
        codec: a spectral codec.
        parts (float32 [P, N]): P sounds of N samples: an instrumental alone, or its stems.
        depths: numbers of codebooks to decode.
        counts (float32 [Q, codebook size]): occurrences of each code of Q codebooks, to which those of these sounds
            are added; None: they are not counted.

    Returns:
        SI-SDR in dB by the number of codebooks as a string ("0": unquantised latents), and "log_mel", the mean
        distance of log-mel spectrograms in dB with the most codebooks.
    """
    device = next(codec.parameters()).device
    size = parts.shape[1]
    target = parts.sum(axis=0)
    audio = torch.from_numpy(parts).to(device)[:, None]
    wrapped = as_codec(codec)
    codes = wrapped.encode(audio)  # [P, Q, T]
    if counts is not None:
        for index, codes_of_book in enumerate(codes.unbind(1)):
            counts[index] += torch.bincount(codes_of_book.flatten().cpu(), minlength=counts.shape[1])
    # by the number of codebooks; 0: without quantisation
    outputs = {depth: wrapped.decode(codes[:, :depth]) for depth in depths}
    outputs[0] = codec.decoder(codec.encoder(audio))
    sums = {
        depth: mean_of_channels(wrapped, output, size).sum(dim=0, keepdim=True) for depth, output in outputs.items()
    }
    reference = torch.from_numpy(target)[None]
    figures = {str(depth): scale_invariant_sdr(reference, output).item() for depth, output in sums.items()}
    true_mel = log_mel(target, codec.config.sampling_rate)
    mel = log_mel(sums[max(depths)][0].numpy(), codec.config.sampling_rate)
    return figures | {"log_mel": float(np.abs(true_mel - mel).mean())}


def _mean_figures(rows: list[dict[str, float]], depths: tuple[int, ...]) -> dict[str, Any]:
    """The means of the figures of clips, as `evaluate_codec` returns them; None where there are no clips.

    Args:
        rows: figures of each clip (`_scores_of_coding`).
        depths: numbers of codebooks that were decoded.
    """
    means = {}
    if rows:
        means = {name: round(float(np.mean([row[name] for row in rows])), 2) for name in rows[0]}
    return {
        "si_sdr_db": {depth: means.get(str(depth)) for depth in depths},
        "si_sdr_db_unquantized": means.get("0"),
        "log_mel_db": means.get("log_mel"),
        "clips": len(rows),
    }
