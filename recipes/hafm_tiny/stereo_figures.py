# SPDX-License-Identifier: Apache-2.0
"""Figures of a codec that plays stereo, beside others of the same codes: levels, distances, and where notes stand.

And levels of what a whole model generates, beside the rendered bands of the same songs.

Dimensions: N samples, T frames, B bands of a semitone.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import soxr
import torch
from transformers import PreTrainedModel

from hafm_hf import HAFMForVocalAccompaniment, LeadSheet
from hafm_hf.tokenizers.codecs import Codec, as_codec

from .figures import log_mel, scale_invariant_sdr
from .song_pool import PCM_SCALE, SongPool

# centres of octaves in Hz; a level of an octave counts where it is above this one, in dB of full scale
OCTAVES = (63, 125, 250, 500, 1000, 2000, 4000, 8000, 16000)
AUDIBLE_DB = -80.0
WINDOW = 2048
# Hz above which a codec at 24 kHz plays nothing
OLD_BANDWIDTH = 12_000.0
MEL_BANDS = 128
# bands a semitone wide in which notes stand alone, from C3 on, and frames in seconds
SEMITONES = 130.8 * 2 ** (np.arange(61) / 12)
NOTE_WINDOW = 0.186
NOTE_HOP = 0.1
# stems whose notes count, the least level above all others together, and above the loudest of the clip
PANNED_STEMS = ("chords", "pads")
ALONE_DB = 10.0
AUDIBLE_NOTE_DB = -50.0
SHORTEST_NOTE = 2  # frames


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


def semitone_powers(sound: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Power of a sound [N] in each of SEMITONES, every NOTE_HOP seconds: float64 [T, B]."""
    size = round(NOTE_WINDOW * sampling_rate)
    pieces = np.lib.stride_tricks.sliding_window_view(sound, size)[:: round(NOTE_HOP * sampling_rate)]
    power = np.abs(np.fft.rfft(pieces * np.hanning(size))) ** 2
    hertz = np.fft.rfftfreq(size, 1 / sampling_rate)
    inside = (hertz >= SEMITONES[:, None] / 2 ** (1 / 24)) & (hertz < SEMITONES[:, None] * 2 ** (1 / 24))
    return power @ inside.T.astype(np.float64)


def notes_alone(stems: Mapping[str, np.ndarray], sampling_rate: int) -> list[tuple[int, int, int]]:
    """Notes of chords or pads that stand alone: first frame, frame after the last, and band of each.

    In a note's frames, its band is louder than the bands beside it, and one of PANNED_STEMS is ALONE_DB louder in it
    than all other stems together.

    Args:
        stems ([N] each): by name.
        sampling_rate: in Hz.
    """
    powers = {name: semitone_powers(stem, sampling_rate) for name, stem in stems.items()}
    total = np.sum(list(powers.values()), axis=0)
    padded = np.pad(total, ((0, 0), (1, 1)))
    is_peak = (total > padded[:, :-2]) & (total >= padded[:, 2:])
    is_audible = total > total.max() * 10 ** (AUDIBLE_NOTE_DB / 10)
    notes = []
    for name in PANNED_STEMS:
        alone = is_peak & is_audible & (powers[name] > 10 ** (ALONE_DB / 10) * (total - powers[name]))
        for band in range(alone.shape[1]):
            # where it begins to be alone, and where that ends
            edges = np.flatnonzero(np.diff(np.concatenate([[False], alone[:, band], [False]]).astype(int)))
            notes += [(start, stop, band) for start, stop in edges.reshape(-1, 2) if stop - start >= SHORTEST_NOTE]
    return notes


def level_differences(stereo: np.ndarray, notes: list[tuple[int, int, int]], sampling_rate: int) -> np.ndarray:
    """How much louder each note is on the left than on the right of a sound (float [2, N]), in dB: float64 [notes]."""
    left, right = (semitone_powers(channel, sampling_rate) for channel in stereo)
    differences = []
    for start, stop, band in notes:
        ratio = (left[start:stop, band].sum() + 1e-12) / (right[start:stop, band].sum() + 1e-12)
        differences.append(10 * np.log10(ratio))
    return np.array(differences)


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
def generated_levels(composite: HAFMForVocalAccompaniment, pool: SongPool, seconds: float) -> dict[str, Any]:
    """Levels of what a model plays for the voices of songs, given their chords, beats and style, and of their bands.

    Args:
        composite: plays stereo at the pool's stereo rate.
        pool: songs with stereo.
        seconds: from the beginning of each song.

    Returns:
        `mid_db` and `side_db`: generated − rendered by octave, of all songs together, each as loud as the others in
        the mid; None where less than AUDIBLE_DB below the mid is rendered. `songs`: their number.
    """
    rate = pool.stereo_rate
    assert rate is not None
    # power by octave of mid and of side
    powers = {"generated": np.zeros((2, len(OCTAVES))), "rendered": np.zeros((2, len(OCTAVES)))}
    for song in pool.songs:
        assert song.stereo is not None
        vocal = song.vocal[: round(seconds * pool.sampling_rate)].astype(np.float32) / np.float32(PCM_SCALE)
        length = len(vocal) / pool.sampling_rate
        beats = [beat for beat in song.labels["beats"] if beat < length]
        chords = [(start, min(stop, length), label) for start, stop, label in song.labels["chords"] if start < length]
        sheet = LeadSheet(beats=beats, chords=chords, style=song.labels["style"])
        (generated,) = composite.generate(vocal, pool.sampling_rate, lead_sheet=sheet, seed=1).audio
        rendered = song.stereo[:, : generated.shape[1]] / PCM_SCALE
        for name, sound in (("generated", generated.double().cpu().numpy()), ("rendered", rendered)):
            middle = sound.mean(axis=0)
            side = (sound[0] - sound[1]) / 2
            levels = np.stack([octave_levels(channel, rate) for channel in (middle, side)])
            power = 10 ** (levels / 10)
            powers[name] += power / power[0].sum()
    figures: dict[str, Any] = {"songs": len(pool.songs)}
    generated_db = 10 * np.log10(powers["generated"] + 1e-12)
    rendered_db = 10 * np.log10(powers["rendered"] + 1e-12)
    audible_db = rendered_db.max() + AUDIBLE_DB
    for row, channel in enumerate(("mid", "side")):
        by_octave: dict[int, float | None] = {}
        for octave, generated_level, rendered_level in zip(OCTAVES, generated_db[row], rendered_db[row], strict=True):
            by_octave[octave] = None
            if rendered_level > audible_db:
                by_octave[octave] = round(float(generated_level - rendered_level), 1)
        figures[f"{channel}_db"] = by_octave
    return figures


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
        for each codec: `si_sdr_db` of the middle in the input's bandwidth at each number of codebooks; with the most
        codebooks `lsd_db` and `log_mel_db` (distances of both channels; 128 mel bands); `mid_db` and `side_db`,
        decoded − true by octave, and `air_db`, that above OLD_BANDWIDTH; `correlation` of left and right, decoded −
        true; and `pans`, the correlation, over `notes`, of decoded and true level differences of left and right where
        chords or pads stand alone (None without stems). Levels are of all clips together; an octave that is not
        audible in them is None.
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
        notes: list[tuple[int, int, int]] = []
        if song.stems:
            stems = {name: stem[start : start + size] / PCM_SCALE for name, stem in song.stems.items()}
            notes = notes_alone(stems, pool.sampling_rate)
        for name, codec in wrapped.items():
            rows[name].append(_figures(codec, codes, depths, mono, stereo, rate, notes))
    return {name: _together(figures, depths) for name, figures in rows.items()}


def _figures(
    codec: Codec,
    codes: torch.Tensor,
    depths: tuple[int, ...],
    mono: np.ndarray,
    stereo: np.ndarray,
    rate: int,
    notes: list[tuple[int, int, int]],
) -> dict[str, Any]:
    """Figures of one clip, for `_together`: SI-SDR by depth, distances, and what is true and decoded of the stereo.

    Args:
        codec: decodes the codes.
        codes (int64 [1, Q, T]): of the clip.
        depths: numbers of codebooks to decode.
        mono (float32 [N]): the clip at the codec's input rate.
        stereo (float [2, N']): the clip as left and right.
        rate: of `stereo` in Hz.
        notes: those that stand alone (`notes_alone`).
    """
    figures: dict[str, Any] = {}
    for depth in depths:
        sound = played(codec, codes[:, :depth], stereo.shape[1], rate)
        middle = soxr.resample(sound.mean(axis=0), rate, codec.format.sampling_rate)[: len(mono)]
        target = torch.from_numpy(mono[: len(middle)]).double()[None]
        figures[str(depth)] = float(scale_invariant_sdr(target, torch.from_numpy(middle)[None]))
    decoded = played(codec, codes[:, : max(depths)], stereo.shape[1], rate)
    stereo = stereo[:, : decoded.shape[1]]
    figures["lsd"] = log_spectral_distance(stereo, decoded)
    true_mels = np.stack([log_mel(channel, rate, bands=MEL_BANDS) for channel in stereo])
    decoded_mels = np.stack([log_mel(channel, rate, bands=MEL_BANDS) for channel in decoded])
    figures["log_mel"] = float(np.abs(true_mels - decoded_mels).mean())
    for name, sound in (("true", stereo), ("out", decoded)):
        power = np.abs(np.fft.rfft(sound)) ** 2 / sound.shape[1] ** 2
        figures[f"air_{name}"] = power[:, np.fft.rfftfreq(sound.shape[1], 1 / rate) > OLD_BANDWIDTH].sum()
        figures[f"correlation_{name}"] = float(np.corrcoef(sound)[0, 1])
        figures[f"differences_{name}"] = level_differences(sound, notes, rate)
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
        "log_mel_db": round(float(np.mean([row["log_mel"] for row in rows])), 2),
        "clips": len(rows),
    }
    means = {name: np.mean([row[name] for row in rows]) for name in ("air_true", "air_out")}
    figures["air_db"] = round(float(10 * np.log10((means["air_out"] + 1e-12) / (means["air_true"] + 1e-12))), 1)
    correlations = [row["correlation_out"] - row["correlation_true"] for row in rows]
    figures["correlation"] = round(float(np.mean(correlations)), 3)
    true_differences = np.concatenate([row["differences_true"] for row in rows])
    differences = np.concatenate([row["differences_out"] for row in rows])
    figures["notes"] = len(differences)
    figures["pans"] = None
    if len(differences) > 1 and differences.std() > 0:
        figures["pans"] = round(float(np.corrcoef(true_differences, differences)[0, 1]), 3)
    for channel in ("mid", "side"):
        true_levels = 10 * np.log10(np.mean([row[f"{channel}_true"] for row in rows], axis=0))
        output_levels = 10 * np.log10(np.mean([row[f"{channel}_out"] for row in rows], axis=0))
        by_octave: dict[int, float | None] = {}
        levels: dict[int, float] = {}
        for octave, true, output in zip(OCTAVES, true_levels, output_levels, strict=True):
            by_octave[octave] = None
            if true > AUDIBLE_DB:
                by_octave[octave] = round(float(output - true), 1)
            levels[octave] = round(float(true), 1)
        figures[f"{channel}_db"] = by_octave
        figures[f"{channel}_true_db"] = levels
    return figures
