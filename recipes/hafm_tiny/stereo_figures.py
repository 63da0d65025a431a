# SPDX-License-Identifier: Apache-2.0
"""Figures of a codec that plays stereo, beside others of the same codes: levels of mid and side, and distances."""

from typing import Any

import numpy as np
import soxr
import torch
from transformers import PreTrainedModel

from hafm_hf.tokenizers.codecs import Codec, as_codec

from .figures import scale_invariant_sdr
from .song_pool import PCM_SCALE, SongPool

# centres of octaves in Hz; a level of an octave counts where it is above this one, in dB of full scale
OCTAVES = (63, 125, 250, 500, 1000, 2000, 4000, 8000, 16000)
AUDIBLE_DB = -80.0
WINDOW = 2048


def octave_levels(sound: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Power of a sound [N] in each of OCTAVES, in dB of full scale: float64 [octaves]."""
    power = np.abs(np.fft.rfft(sound)) ** 2 * 2 / len(sound) ** 2
    hertz = np.fft.rfftfreq(len(sound), 1 / sampling_rate)
    inside = [(hertz >= centre / 2**0.5) & (hertz < centre * 2**0.5) for centre in OCTAVES]
    return 10 * np.log10(np.array([power[mask].sum() for mask in inside]) + 1e-12)


def log_spectral_distance(target: np.ndarray, output: np.ndarray) -> float:
    """Log spectral distance in dB of sounds (float [C, N]): RMS over frequencies, mean over frames and channels."""
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    levels = []
    for sound in (target, output):
        spectra = torch.stft(torch.from_numpy(sound).double(), WINDOW, WINDOW // 4, window=window, return_complex=True)
        levels.append(10 * torch.log10(spectra.abs().square() + 1e-6))
    return float((levels[0] - levels[1]).square().mean(dim=1).sqrt().mean())


def played(codec: Codec, codes: torch.Tensor, size: int, sampling_rate: int) -> np.ndarray:
    """What a codec plays as left and right: float64 [2, at most `size`]; mono is on both.

    Args:
        codec: decodes the codes.
        codes (int64 [1, Q, T]): of one clip.
        size: number of samples.
        sampling_rate: of the result in Hz.
    """
    sound = codec.decode(codes)[0].double().cpu().numpy()
    if codec.format.output_sampling_rate != sampling_rate:
        sound = soxr.resample(sound.T, codec.format.output_sampling_rate, sampling_rate).T
    sound = sound[:, :size]
    if len(sound) == 1:
        sound = np.repeat(sound, 2, axis=0)
    return sound


@torch.no_grad()
def evaluate_in_stereo(
    codecs: dict[str, PreTrainedModel],
    pool: SongPool,
    depths: tuple[int, ...] = (8, 4),
    seconds: float = 5.0,
    clips: int = 40,
) -> dict[str, dict[str, Any]]:
    """Figures of codecs of the same codes on the same clips of songs in stereo.

    Args:
        codecs: by name; the first one encodes the clips.
        pool: songs with stereo.
        depths: numbers of codebooks to decode.
        seconds: length of a clip.
        clips: their number; silent ones are left out.

    Returns:
        for each codec: `si_sdr_db` of the middle in the input's bandwidth at each number of codebooks, `lsd_db` (log
        spectral distance of both channels with the most), and `mid_db` and `side_db`, decoded − true by octave. Levels
        are of all clips together; an octave that is not audible in them is None.
    """
    assert pool.stereo_rate is not None
    rng = np.random.default_rng(0)
    rate = pool.stereo_rate
    wrapped = {name: as_codec(model.eval()) for name, model in codecs.items()}
    form = next(iter(wrapped.values())).format
    # both rates have whole samples at multiples of this many samples of the mono song
    grid = form.sampling_rate // np.gcd(form.sampling_rate, rate)
    size = int(seconds * pool.sampling_rate)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in codecs}
    for _ in range(clips):
        song, start = pool.draw(rng, size)
        start -= start % grid
        assert song.stereo is not None
        mono = song.instrumental[start : start + size] / np.float32(PCM_SCALE)
        first = start * rate // pool.sampling_rate
        stereo = song.stereo[:, first : first + size * rate // pool.sampling_rate] * (song.stereo_scale / PCM_SCALE)
        if np.abs(mono).max() < 0.01:
            continue
        codes = next(iter(wrapped.values())).encode(torch.from_numpy(mono)[None, None])
        for name, codec in wrapped.items():
            rows[name].append(_figures(codec, codes, depths, mono, stereo, rate))
    return {name: _together(figures, depths) for name, figures in rows.items()}


def _figures(
    codec: Codec, codes: torch.Tensor, depths: tuple[int, ...], mono: np.ndarray, stereo: np.ndarray, rate: int
) -> dict[str, Any]:
    """Figures of one clip, for `_together`: SI-SDR by depth, "lsd", and powers by octave of mid and side.

    Args:
        codec: decodes the codes.
        codes (int64 [1, Q, T]): of the clip.
        depths: numbers of codebooks to decode.
        mono (float32 [N]): the clip at the codec's input rate.
        stereo (float [2, N']): the clip as left and right.
        rate: of `stereo` in Hz.
    """
    figures: dict[str, Any] = {}
    for depth in depths:
        sound = played(codec, codes[:, :depth], stereo.shape[1], rate)
        middle = soxr.resample(sound.mean(axis=0), rate, codec.format.sampling_rate)[: len(mono)]
        target = torch.from_numpy(mono[: len(middle)]).double()[None]
        figures[str(depth)] = float(scale_invariant_sdr(target, torch.from_numpy(middle)[None]))
    decoded = played(codec, codes[:, : max(depths)], stereo.shape[1], rate)
    figures["lsd"] = log_spectral_distance(stereo[:, : decoded.shape[1]], decoded)
    for name, sound in (("true", stereo), ("out", decoded)):
        figures[f"mid_{name}"] = 10 ** (octave_levels(sound.mean(axis=0), rate) / 10)
        figures[f"side_{name}"] = 10 ** (octave_levels((sound[0] - sound[1]) / 2, rate) / 10)
    return figures


def _together(rows: list[dict[str, Any]], depths: tuple[int, ...]) -> dict[str, Any]:
    """The figures of all clips together, as `evaluate_in_stereo` returns them.

    Args:
        rows: figures of each clip (`_figures`).
        depths: numbers of codebooks that were decoded.
    """
    figures: dict[str, Any] = {
        "si_sdr_db": {depth: round(float(np.mean([row[str(depth)] for row in rows])), 2) for depth in depths},
        "lsd_db": round(float(np.mean([row["lsd"] for row in rows])), 2),
        "clips": len(rows),
    }
    for channel in ("mid", "side"):
        true_levels = 10 * np.log10(np.mean([row[f"{channel}_true"] for row in rows], axis=0))
        output_levels = 10 * np.log10(np.mean([row[f"{channel}_out"] for row in rows], axis=0))
        differences: dict[int, float | None] = {}
        levels: dict[int, float] = {}
        for octave, true, output in zip(OCTAVES, true_levels, output_levels, strict=True):
            differences[octave] = None
            if true > AUDIBLE_DB:
                differences[octave] = round(float(output - true), 1)
            levels[octave] = round(float(true), 1)
        figures[f"{channel}_db"] = differences
        figures[f"{channel}_true_db"] = levels
    return figures
