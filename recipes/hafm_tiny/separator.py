# SPDX-License-Identifier: Apache-2.0
"""Trains the separator on rendered accompaniments, whose stems are known, both original and decoded from the codec.

A model's output comes from its codec, so in half of the training crops the mixture is coded, too; the target stems are
not. Only magnitudes are compared, since no mask can undo what a codec does to phases.

Dimensions: B batch, N samples, S stems, F frequencies, T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hafm_hf.accompaniment.modeling_separator import HAFMSeparatorModel
from hafm_hf.lead_sheet.vocabulary import STEMS
from hafm_hf.tokenizers.codecs import Codec

from .codec import mean_of_channels
from .figures import scale_invariant_sdr
from .song_pool import PCM_SCALE, Song, SongPool
from .steps import StepArguments, in_half, take_steps

# maximum random gain in dB: of each stem in an uncoded crop, and of any crop as a whole
STEM_GAIN = 6.0
GAIN = 4.0
# probability of silencing a stem in an uncoded crop
SILENT = 0.05
# length in seconds of the excerpts used for scoring
SCORED_SECONDS = 10.0
# stems with a lower RMS are silent and not scored
LEAST_LEVEL = 1e-3


@dataclass
class SeparatorArguments(StepArguments):
    """How a separator is trained, in addition to its steps.

    Attributes:
        channels, layers (int, *optional*): size of a new network; 192 and 5 by default.
        crop_seconds (float), batch_size (int): length and number of crops per step.
        coded_share (float): share of crops that are coded and decoded.
        max_hours (float): hours of songs to load.
    """

    steps: int = 10_000
    channels: int | None = None
    layers: int | None = None
    crop_seconds: float = 3.0
    batch_size: int = 8
    coded_share: float = 0.5
    max_hours: float = 5.0


@torch.no_grad()
def coded(codec: Codec, sounds: np.ndarray) -> np.ndarray:
    """Encodes and decodes mono sounds.

    Args:
        codec: encodes and decodes them, mono or stereo.
        sounds (float32 [B, N]): B sounds of N samples at the codec's input rate.

    Returns:
        float32 [B, N], mono at the same rate.
    """
    samples = torch.from_numpy(sounds)[:, None].expand(-1, codec.format.channels, -1)
    return mean_of_channels(codec, codec.decode(codec.encode(samples)), sounds.shape[1]).numpy()


class SeparatorTrainer:
    """Trains a separator on the stems of songs.

    Args:
        model: the separator, changed in place.
        pool: songs with stems, at the separator's rate.
        codec: codec for the coded crops.
        arguments: see `SeparatorArguments`.

    Raises:
        ValueError: no song is long enough, or one lacks a stem.
    """

    def __init__(self, model: HAFMSeparatorModel, pool: SongPool, codec: Codec, arguments: SeparatorArguments) -> None:
        pool.require(arguments.crop_seconds)
        self.model = model
        self.pool = pool
        self.arguments = arguments
        # each song's coded mixture, in half precision, because it is hours of audio
        self.coded = {song.name: coded(codec, band_of(song)[None])[0].astype(np.float16) for song in pool.songs}
        self.rng = np.random.default_rng(arguments.seed)

    def train(self) -> float:
        """Takes all steps, and sets the model to the moving average of its weights over them.

        Returns:
            The mean loss of the last tenth of the steps.
        """
        return take_steps(self.model, self._loss, self.arguments)

    def _loss(self) -> torch.Tensor:
        """L1 distance of estimated and true stem magnitudes of random crops, relative to the mixture's magnitudes."""
        crops = [self._crop() for _ in range(self.arguments.batch_size)]
        device = self.model.head.weight.device
        mixtures, stems = zip(*crops, strict=True)
        magnitudes = self.model.spectrogram(torch.from_numpy(np.stack(mixtures)).to(device)).abs()  # [B, F, T]
        true = self.model.spectrogram(torch.from_numpy(np.stack(stems)).to(device)).abs()  # [B, S, F, T]
        with in_half(device):
            masks = self.model.masks(magnitudes)  # [B, S, F, T]
        estimated = masks * magnitudes[:, None]
        return (estimated - true).abs().sum(1).mean() / magnitudes.mean()

    def _crop(self) -> tuple[np.ndarray, np.ndarray]:
        """A random crop of a mixture and its stems, float32 [N] and [S, N]; N samples, S stems.

        In a share `coded_share` of crops, the mixture is a coded one; in others, the stems get random gains and are
        mixed anew.
        """
        rng = self.rng
        count = round(self.arguments.crop_seconds * self.pool.sampling_rate)
        song, start = self.pool.draw(rng, count)
        stems = stems_of(song)[:, start : start + count]
        if rng.random() < self.arguments.coded_share:
            band = self.coded[song.name][start : start + count].astype(np.float32)
        else:
            gains = 10 ** (rng.uniform(-STEM_GAIN, STEM_GAIN, len(stems)) / 20)
            gains *= rng.random(len(stems)) >= SILENT
            stems = stems * gains[:, None].astype(np.float32)
            band = stems.sum(0)
        gain = np.float32(10 ** (rng.uniform(-GAIN, GAIN) / 20))
        return band * gain, stems * gain


def band_of(song: Song) -> np.ndarray:
    """The instrumental of a song in floats: float32 [samples]."""
    return song.instrumental.astype(np.float32) / PCM_SCALE


def stems_of(song: Song) -> np.ndarray:
    """The stems of a song in floats, in the order of STEMS: float32 [stems, samples]."""
    return np.stack([song.stems[name].astype(np.float32) / PCM_SCALE for name in STEMS])


@torch.no_grad()
def separator_scores(model: HAFMSeparatorModel, songs: Sequence[Song], codec: Codec) -> dict[str, float]:
    """Scores a separator on `SCORED_SECONDS` from the middle of each song; shorter songs are left out.

    Args:
        model: the separator, on the CPU.
        songs: with stems, at the separator's rate.
        codec: codes mixtures and stems.

    Returns:
        SI-SDR in dB, means over the songs in which the stem STEM is not silent: `STEM_si_sdr` of the separated stem,
        `STEM_band_si_sdr` of the unseparated mixture, as a baseline, and `STEM_coded_si_sdr` of the stem separated
        from the coded mixture, compared with the coded stem.

    Raises:
        ValueError: no song is long enough, or all stems are silent.
    """
    scores: dict[str, list[float]] = {}
    count = round(SCORED_SECONDS * model.config.sampling_rate)
    for song in songs:
        start = (song.num_samples - count) // 2
        if start < 0:
            continue
        # the mixture, then the stems
        sounds = np.vstack([band_of(song)[None], stems_of(song)])[:, start : start + count]
        band, *stems = torch.from_numpy(sounds)
        coded_band, *coded_stems = torch.from_numpy(coded(codec, sounds))
        separated = model.separate(band[None])[:, 0]  # [S, N]
        separated_coded = model.separate(coded_band[None])[:, 0]
        for index, name in enumerate(STEMS):
            if float(stems[index].square().mean().sqrt()) < LEAST_LEVEL:
                continue
            # target and output
            pairs = {
                "si_sdr": (stems[index], separated[index]),
                "band_si_sdr": (stems[index], band),
                "coded_si_sdr": (coded_stems[index], separated_coded[index]),
            }
            for score, (target, output) in pairs.items():
                scores.setdefault(f"{name}_{score}", []).append(float(scale_invariant_sdr(target, output)))
    if not scores:
        raise ValueError(f"No validation song is at least {SCORED_SECONDS:g} s long and has a stem that plays.")
    return {name: float(np.mean(values)) for name, values in scores.items()}
