# SPDX-License-Identifier: Apache-2.0
"""Figures of codecs that decode the same codes to stereo: levels, distances, and where notes are panned.

And levels of what a whole model generates, compared with the rendered accompaniments of the same songs.

Mid is the mean of left and right, side half their difference. Dimensions: N samples, T frames, B bands of a semitone.
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

# centres of octaves in Hz, and the level in dB above which an octave is audible (`evaluate_in_stereo`: of full scale;
# `generated_levels`: relative to the loudest octave)
OCTAVES = (63, 125, 250, 500, 1000, 2000, 4000, 8000, 16000)
AUDIBLE_DB = -80.0
# window in samples of the log spectral distance
WINDOW = 2048
# bandwidth in Hz of a codec at 24 kHz
OLD_BANDWIDTH = 12_000.0
MEL_BANDS = 128
# peak below which a clip is silent, of 1
SILENT_PEAK = 0.01
# centres in Hz of bands a semitone wide, C3 to C8; window and hop of their levels in seconds
SEMITONES = 130.8 * 2 ** (np.arange(61) / 12)
NOTE_WINDOW = 0.186
NOTE_HOP = 0.1
# stems whose notes are used where they stand alone: at least this much louder than all other stems together
PANNED_STEMS = ("chords", "pads")
ALONE_DB = 10.0
# level of a note relative to the loudest of the clip, at least, and its length in frames
AUDIBLE_NOTE_DB = -50.0
SHORTEST_NOTE = 2


def octave_levels(sound: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Power of a sound (float [N]) in each of OCTAVES, in dB of full scale: float64 [octaves]."""
    power = np.abs(np.fft.rfft(sound)) ** 2 * 2 / len(sound) ** 2
    hertz = np.fft.rfftfreq(len(sound), 1 / sampling_rate)
    inside = [(hertz >= centre / 2**0.5) & (hertz < centre * 2**0.5) for centre in OCTAVES]
    return 10 * np.log10(np.array([power[mask].sum() for mask in inside]) + 1e-12)


def log_spectral_distance(target: np.ndarray, output: np.ndarray) -> float:
    """Log spectral distance in dB: RMS over frequencies, mean over frames and channels.

    Args:
        target (float [C, N]): true sound, C channels and N samples.
        output (float [C, N]): decoded sound.
    """
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    levels = []
    for sound in (target, output):
        spectra = torch.stft(torch.from_numpy(sound).double(), WINDOW, WINDOW // 4, window=window, return_complex=True)
        levels.append(10 * torch.log10(spectra.abs().square() + 1e-6))
    return float((levels[0] - levels[1]).square().mean(dim=1).sqrt().mean())


def semitone_powers(sound: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Power of a sound (float [N]) in each of SEMITONES, every NOTE_HOP seconds: float64 [frames, SEMITONES]."""
    size = round(NOTE_WINDOW * sampling_rate)
    pieces = np.lib.stride_tricks.sliding_window_view(sound, size)[:: round(NOTE_HOP * sampling_rate)]
    power = np.abs(np.fft.rfft(pieces * np.hanning(size))) ** 2
    hertz = np.fft.rfftfreq(size, 1 / sampling_rate)
    # half a semitone to each side of the centres
    lowest = SEMITONES[:, None] / 2 ** (1 / 24)
    highest = SEMITONES[:, None] * 2 ** (1 / 24)
    inside = (hertz >= lowest) & (hertz < highest)  # [SEMITONES, frequencies]
    return power @ inside.T.astype(np.float64)


def notes_alone(stems: Mapping[str, np.ndarray], sampling_rate: int) -> list[tuple[int, int, int]]:
    """Notes of chords or pads that stand alone, so that their pan can be measured in the mix.

    In a note's frames, its semitone is louder than those beside it, and one of PANNED_STEMS is ALONE_DB louder in it
    than all other stems together.

    Args:
        stems (float [N] each): by name.
        sampling_rate: in Hz.

    Returns:
        For each note its first frame, the frame after its last, and the index of its semitone, as in
        `semitone_powers`.
    """
    powers = {name: semitone_powers(stem, sampling_rate) for name, stem in stems.items()}
    total = np.sum(list(powers.values()), axis=0)  # [T, B]
    padded = np.pad(total, ((0, 0), (1, 1)))
    is_peak = (total > padded[:, :-2]) & (total >= padded[:, 2:])
    is_audible = total > total.max() * 10 ** (AUDIBLE_NOTE_DB / 10)
    notes = []
    for name in PANNED_STEMS:
        others = total - powers[name]
        alone = is_peak & is_audible & (powers[name] > 10 ** (ALONE_DB / 10) * others)
        for band in range(alone.shape[1]):
            # frames in which it begins to be alone, and in which it no longer is, alternately
            changes = np.diff(np.concatenate([[False], alone[:, band], [False]]).astype(int))
            for start, stop in np.flatnonzero(changes).reshape(-1, 2):
                if stop - start >= SHORTEST_NOTE:
                    notes.append((start, stop, band))
    return notes


def level_differences(stereo: np.ndarray, notes: list[tuple[int, int, int]], sampling_rate: int) -> np.ndarray:
    """How much louder each note is on the left than on the right, in dB: float64 [notes].

    Args:
        stereo (float [2, N]): left and right.
        notes: as from `notes_alone`.
        sampling_rate: in Hz.
    """
    left, right = (semitone_powers(channel, sampling_rate) for channel in stereo)
    differences = []
    for start, stop, band in notes:
        ratio = (left[start:stop, band].sum() + 1e-12) / (right[start:stop, band].sum() + 1e-12)
        differences.append(10 * np.log10(ratio))
    return np.array(differences)


def played(codec: Codec, codes: torch.Tensor, size: int, sampling_rate: int) -> np.ndarray:
    """Decodes codes to left and right, float64 [2, at most `size`]; mono is copied to both.

    Args:
        codec: decodes the codes.
        codes (int64 [1, Q, T]): of one clip, Q codebooks and T frames.
        size: number of samples to keep.
        sampling_rate: rate of the result, in Hz.
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
    """Levels of generated accompaniments, relative to the rendered accompaniments of the same songs.

    Args:
        composite: generates stereo at the pool's stereo rate, given each song's vocal, chords, beats and style.
        pool: songs with stereo.
        seconds: length of the beginning of each song to use.

    Returns:
        `mid_db` and `side_db`: generated − rendered level by octave, over all songs, each normalised to the same power
        in mid; None where the rendered level is inaudible, AUDIBLE_DB relative to the loudest octave or lower.
        `songs`: their number.
    """
    rate = pool.stereo_rate
    assert rate is not None
    # power of mid and of side by octave: [2, octaves]
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
            mid = sound.mean(axis=0)
            side = (sound[0] - sound[1]) / 2
            levels = np.stack([octave_levels(channel, rate) for channel in (mid, side)])
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
    """Figures of codecs that decode the same codes, on the same clips of songs in stereo.

    Args:
        codecs: by name; the first one encodes the clips.
        pool: songs with stereo.
        depths: numbers of codebooks to decode.
        seconds: length of a clip.
        clips: number of clips to draw; silent ones are left out.

    Returns:
        For each codec `si_sdr_db`, of mid at the codec's input rate, by number of codebooks; and with the most
        codebooks:

        - `lsd_db`, `log_mel_db`: distances of log spectra and of log-mel spectrograms, means over left and right;
        - `mid_db`, `side_db`: decoded − true level by octave, None where the true one is not audible; `mid_true_db`,
          `side_true_db`: the true ones; `air_db`: decoded − true level above OLD_BANDWIDTH; all of these over all
          clips;
        - `correlation` of left and right: decoded − true;
        - `pans`: correlation of decoded and true level differences of left and right over the `notes` (their number)
          of chords or pads that stand alone; None without such notes;
        - `clips`: their number.
    """
    assert pool.stereo_rate is not None
    rng = np.random.default_rng(0)
    rate = pool.stereo_rate
    wrapped = {name: as_codec(model.eval()) for name, model in codecs.items()}
    encoder = next(iter(wrapped.values()))
    # clips start at multiples of this many mono samples, which are whole samples of the stereo, too
    grid = encoder.format.sampling_rate // np.gcd(encoder.format.sampling_rate, rate)
    size = int(seconds * pool.sampling_rate)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in codecs}
    for _ in range(clips):
        song, start = pool.draw(rng, size)
        start -= start % grid
        assert song.stereo is not None
        mono = song.instrumental[start : start + size] / np.float32(PCM_SCALE)
        first = start * rate // pool.sampling_rate
        stereo = song.stereo[:, first : first + size * rate // pool.sampling_rate] * (song.stereo_scale / PCM_SCALE)
        if np.abs(mono).max() < SILENT_PEAK:
            continue
        codes = encoder.encode(torch.from_numpy(mono)[None, None])
        notes: list[tuple[int, int, int]] = []
        if song.stems:
            stems = {name: stem[start : start + size] / PCM_SCALE for name, stem in song.stems.items()}
            notes = notes_alone(stems, pool.sampling_rate)
        for name, codec in wrapped.items():
            rows[name].append(_figures_of_clip(codec, codes, depths, mono, stereo, rate, notes))
    return {name: _combined(figures, depths) for name, figures in rows.items()}


def _figures_of_clip(
    codec: Codec,
    codes: torch.Tensor,
    depths: tuple[int, ...],
    mono: np.ndarray,
    stereo: np.ndarray,
    rate: int,
    notes: list[tuple[int, int, int]],
) -> dict[str, Any]:
    """Figures of one clip, for `_combined`.

    Args:
        codec: decodes the codes.
        codes (int64 [1, Q, T]): of the clip, Q codebooks and T frames.
        depths: numbers of codebooks to decode.
        mono (float32 [N]): the clip at the codec's input rate.
        stereo (float [2, N']): the clip as left and right.
        rate: sampling rate of `stereo` in Hz.
        notes: those that stand alone (`notes_alone`).

    Returns:
        SI-SDR in dB by number of codebooks (as a string); "lsd" and "log_mel", in dB. And of the true clip (NAME_true)
        and of the decoded one (NAME_out): "air", power above OLD_BANDWIDTH; "correlation" of left and right;
        "differences" of left and right in dB (float64 [notes]); "mid" and "side", power by octave.
    """
    figures: dict[str, Any] = {}
    for depth in depths:
        sound = played(codec, codes[:, :depth], stereo.shape[1], rate)
        mid = soxr.resample(sound.mean(axis=0), rate, codec.format.sampling_rate)[: len(mono)]
        target = torch.from_numpy(mono[: len(mid)]).double()[None]
        figures[str(depth)] = float(scale_invariant_sdr(target, torch.from_numpy(mid)[None]))
    decoded = played(codec, codes[:, : max(depths)], stereo.shape[1], rate)
    stereo = stereo[:, : decoded.shape[1]]
    figures["lsd"] = log_spectral_distance(stereo, decoded)
    true_mels = np.stack([log_mel(channel, rate, bands=MEL_BANDS) for channel in stereo])
    decoded_mels = np.stack([log_mel(channel, rate, bands=MEL_BANDS) for channel in decoded])
    figures["log_mel"] = float(np.abs(true_mels - decoded_mels).mean())
    for name, sound in (("true", stereo), ("out", decoded)):
        power = np.abs(np.fft.rfft(sound)) ** 2 / sound.shape[1] ** 2
        hertz = np.fft.rfftfreq(sound.shape[1], 1 / rate)
        figures[f"air_{name}"] = power[:, hertz > OLD_BANDWIDTH].sum()
        figures[f"correlation_{name}"] = float(np.corrcoef(sound)[0, 1])
        figures[f"differences_{name}"] = level_differences(sound, notes, rate)
        figures[f"mid_{name}"] = 10 ** (octave_levels(sound.mean(axis=0), rate) / 10)
        figures[f"side_{name}"] = 10 ** (octave_levels((sound[0] - sound[1]) / 2, rate) / 10)
    return figures


def _combined(rows: list[dict[str, Any]], depths: tuple[int, ...]) -> dict[str, Any]:
    """The figures of all clips combined, as `evaluate_in_stereo` returns them.

    Args:
        rows: figures of each clip (`_figures_of_clip`).
        depths: numbers of codebooks that were decoded.
    """
    figures: dict[str, Any] = {
        "si_sdr_db": {depth: round(float(np.mean([row[str(depth)] for row in rows])), 2) for depth in depths},
        "lsd_db": round(float(np.mean([row["lsd"] for row in rows])), 2),
        "log_mel_db": round(float(np.mean([row["log_mel"] for row in rows])), 2),
        "clips": len(rows),
    }
    true_air = np.mean([row["air_true"] for row in rows])
    output_air = np.mean([row["air_out"] for row in rows])
    figures["air_db"] = round(float(10 * np.log10((output_air + 1e-12) / (true_air + 1e-12))), 1)
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
