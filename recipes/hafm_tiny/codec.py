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

# of 16-bit samples: a clip that is no louder is silent
LEAST_PEAK = 300


def relative_error(target: torch.Tensor, output: torch.Tensor, floor: float = 0.25) -> torch.Tensor:
    """Mean over rows of ‖x − y‖² / (‖x‖² + floor · mean power of the batch), times 1 + floor.

    Without the floor, quiet rows, whose error can be many times their power, dominate the gradient once the codec is
    quantised: its norm rose fortyfold in a trial. With the factor, silence gives 1 for rows of equal power.

    Args:
        target (float [B, C, N]): x.
        output (float [B, C, N]): y.
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
        target (float [B, C, N]): audio.
        output (like it): what the codec makes of it.
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
    """STFT of mono float [B, 1, N], complex [B, F, T]; of stereo, of mid, side, left and right: [4 · B, F, T].

    The window is `size` samples long, the hop a quarter of it.
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
        target (float [B, C, N]): audio.
        output (like it): what the codec makes of it.
        sampling_rate: in Hz.
        sizes: windows in samples; each has a mel band for every 32 of them.
    """
    total = target.new_zeros(())
    for size in sizes:
        filters = torch.from_numpy(mel_filters(size, sampling_rate, size // 32, 0.0)).to(target)
        true = torch.einsum("fm,bft->bmt", filters, view_spectra(target, size).abs().pow(2))
        decoded = torch.einsum("fm,bft->bmt", filters, view_spectra(output, size).abs().pow(2))
        # 60 dB below the clip's loudest band
        floor = 1e-6 * true.amax(dim=(1, 2), keepdim=True) + 1e-8
        # 0.5: the logarithm of a power is twice that of a magnitude
        total = total + 0.5 * ((true + floor).log() - (decoded + floor).log()).abs().mean()
    return total / len(sizes)


@torch.no_grad()
def mean_of_channels(codec: Codec, sound: torch.Tensor, size: int) -> torch.Tensor:
    """The mean of the channels of what a codec plays, at the rate that it reads.

    Args:
        codec: of which `sound` is the output.
        sound (float [B, C, N]): at the rate of its output.
        size: number of samples to keep, at the rate that it reads.

    Returns:
        float [B, size], on the CPU.
    """
    mono = sound.mean(1).cpu()
    form = codec.format
    if form.output_sampling_rate != form.sampling_rate:
        resampled = soxr.resample(mono.numpy().T, form.output_sampling_rate, form.sampling_rate).T
        mono = torch.from_numpy(np.ascontiguousarray(resampled))
    return mono[:, :size]


@torch.no_grad()
def evaluate_codec(
    codec: PreTrainedModel, pool: SongPool, depths: tuple[int, ...] = (8, 4, 2), seconds: float = 5.0, clips: int = 40
) -> dict[str, Any]:
    """Evaluates how well a codec reconstructs instrumental clips; the codec ends in training mode.

    Args:
        codec: a spectral codec.
        pool: songs at the codec's rate.
        depths: numbers of codebooks to decode.
        seconds: length of a clip.
        clips: their number, at most.

    Returns:
        means over clips: `si_sdr_db` at each number of codebooks, `si_sdr_db_unquantized`, `log_mel_db` (mean distance
        of log-mel spectrograms with the most codebooks, dB), and `styles`: the same for each style and, if the pool
        has stems, for the sum of separately coded stems (STYLE/stems); and the `perplexity` of every codebook.
    """
    pool.require(seconds)
    rng = np.random.default_rng(0)
    num_samples = int(seconds * pool.sampling_rate)
    codec.eval()
    form = codec_format(codec.config)
    counts = torch.zeros(form.num_codebooks, form.codebook_size)
    # of each clip, by style
    figures: dict[str, list[dict[str, float]]] = {}
    # at most as many clips as the songs contain, or a small pool would be drawn repeatedly
    clips_in_all = math.ceil(sum(song.num_samples for song in pool.songs) / num_samples)
    for _ in range(min(clips, clips_in_all)):
        song, start = pool.draw(rng, num_samples)
        if np.abs(song.instrumental[start : start + num_samples]).max() < LEAST_PEAK:
            continue
        style = str(song.labels.get("style", ""))
        bands = {style: [song.instrumental]}
        if song.stems:
            bands[f"{style}/stems"] = list(song.stems.values())
        for name, band in bands.items():
            parts = np.stack([sound[start : start + num_samples] for sound in band]) / np.float32(PCM_SCALE)
            clip_figures = _scores_of_coding(codec, parts, depths, counts if name == style else None)
            figures.setdefault(name, []).append(clip_figures)
    codec.train()
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
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
    """Scores the sum of sounds, each coded separately.

    Args:
        codec: the model.
        parts (float32 [P, N]): an instrumental alone, or its stems.
        depths: numbers of codebooks to decode.
        counts (float32 [Q, codebook size]): the codes are added to it; None: they are not counted.

    Returns:
        SI-SDR in dB by the number of codebooks ("0": latents that are not quantised), and "log_mel" in dB.
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
    # by the number of codebooks
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
