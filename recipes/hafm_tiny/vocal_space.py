# SPDX-License-Identifier: Apache-2.0
"""A projection for vocal clusters that preserves what an accompaniment depends on: note, onset, position in the beat.

K-means spends its clusters where features vary most, and loses onsets. Here, the songs' labels define what matters:
the space is spanned by linear discriminants (Fisher 1936) of the sung note, of its onset and of whether anything is
sung, and a rhythm network (`rhythm`) is trained on the songs' beats to estimate the position in the beat. It reads
descriptors of the voice, as HuBERT's features, learnt from a few voices, generalise worse to other voices' beats. Only
vocal tokens change; instrumental tokens stay the same.

A frame is in one of BEAT_PARTS equal parts of a beat, or outside all beats (IGNORED).
Dimensions: T frames, D width of HuBERT, P width of the projection.
"""

import copy
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging

from feature_clusters import Reservoir, fit_clusters
from hafm_hf.tokenizers.beat_tracker import BEAT_PARTS
from hafm_hf.tokenizers.configuration_semantic_tokenizer import HAFMSemanticTokenizerConfig
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from hafm_hf.tokenizers.pitch_contour import VocalAnalyser

from .human_takes import human_take
from .rhythm import SCORED_SECONDS, RhythmArguments, RhythmTrainer, rhythm_scores
from .song_pool import PCM_SCALE, Song
from .targets import beat_parts, note_targets

logger = logging.get_logger(__name__)

Array = NDArray[np.float32]
# regularisation of the within-class covariance (share of its mean diagonal); fewest frames of a class that is used
SHRINKAGE = 1e-2
SMALLEST_CLASS = 50


@dataclass
class VocalSpaceArguments(RhythmArguments):
    """How the space is made and its rhythm network trained.

    Attributes:
        note_dimensions: number of discriminants of the sung note.
        onset_weight, rhythm_weight: factors of the onset's and the beat's dimensions; the note's have unit variance.
        beat_line: whether the tokenizer tracks beats through the whole vocal, rather than frame by frame.
    """

    note_dimensions: int = 24
    onset_weight: float = 1.2
    rhythm_weight: float = 2.0
    beat_line: bool = True


@dataclass(frozen=True)
class RhythmicFrames:
    """A vocal's T frames for training the rhythm network.

    Attributes:
        descriptors (float32 [T, 10]): of the vocal as rendered (`VocalAnalyser.describe`).
        beat (int64 [T]): part of the beat of each frame, IGNORED outside all beats.
        takes (float32 [T, 10] each): descriptors of simulated human takes of the same vocal.
    """

    descriptors: Array
    beat: NDArray[np.int64]
    takes: tuple[Array, ...] = ()


@dataclass(frozen=True)
class SungFrames:
    """A vocal's T frames, with labels.

    Attributes:
        features (float16 [T, D]): HuBERT's, D wide.
        note (int64 [T]): class of the sung note, 0 for none (`note_targets`).
        onset (bool [T]): whether a note begins.
        rhythm: descriptors and beats of the same frames.
    """

    features: NDArray[np.float16]
    note: NDArray[np.int64]
    onset: NDArray[np.bool_]
    rhythm: RhythmicFrames


def vocal_features(tokenizer: HAFMSemanticTokenizerModel, song: Song, seed: int) -> NDArray[np.float16]:
    """HuBERT's features of a song's vocal, with noise as at generation: float16 [T, D], T frames.

    Args:
        tokenizer: extracts them.
        song: at the tokenizer's sampling rate.
        seed: of the noise.
    """
    waveform = torch.from_numpy(song.vocal / np.float32(PCM_SCALE)).to(tokenizer.device)
    return tokenizer.extract_features(waveform, noise=True, seed=seed).cpu().numpy().astype(np.float16)


def sung_frames(
    features: NDArray[np.float16], song: Song, config: HAFMSemanticTokenizerConfig, takes: int = 0
) -> SungFrames:
    """Combines the features of a song's vocal with its labels and rhythm.

    Args:
        features (float16 [T, D]): of the vocal's T frames (`vocal_features`).
        song: at the tokenizer's sampling rate.
        config: the tokenizer's.
        takes: number of simulated human takes.
    """
    # middles of the frames, in seconds
    times = (np.arange(len(features)) + 0.5) / config.frame_rate
    notes = note_targets(song.labels, times, 0)
    is_onset = notes["onset"] == 1  # the first part of a note
    return SungFrames(features, notes["pitch"], is_onset, rhythmic_frames(song, config, takes))


def rhythmic_frames(song: Song, config: HAFMSemanticTokenizerConfig, takes: int = 0) -> RhythmicFrames:
    """Descriptors and beats of a song's vocal, and descriptors of simulated human takes.

    Args:
        song: at the tokenizer's sampling rate; its name is the seed of the takes.
        config: the tokenizer's.
        takes: number of takes.
    """
    vocal = (song.vocal / PCM_SCALE).astype(np.float32)
    rate = config.frame_rate
    frames = -(-len(vocal) * rate // config.sampling_rate)
    analyser = VocalAnalyser(config.sampling_rate, rate)
    measured = analyser.measure(vocal, frames)
    rng = np.random.default_rng(zlib.crc32(song.name.encode()))
    human_takes = (human_take(measured, song.labels["notes"], rng) for _ in range(takes))
    described_takes = tuple(analyser.describe(*take) for take in human_takes)
    beat = beat_parts(song.labels, (np.arange(frames) + 0.5) / rate, BEAT_PARTS)
    return RhythmicFrames(analyser.describe(*measured), beat, described_takes)


def discriminants(features: Array, classes: NDArray[np.int64], dimensions: int) -> Array:
    """Linear discriminants: directions that maximise the variance between classes relative to that within them.

    Args:
        features (float32 [M, D]): D features of M frames.
        classes (int64 [M]): class of each frame; classes with fewer than SMALLEST_CLASS frames are left out.
        dimensions: number of directions.

    Returns:
        float32 [D, dimensions], strongest first, scaled so that the projection of `features` on each has unit
        variance.

    Raises:
        ValueError: fewer than two classes have enough frames.
    """
    mean = features.mean(0)
    width = features.shape[1]
    within = np.zeros((width, width))
    between = np.zeros((width, width))
    values, counts = np.unique(classes, return_counts=True)
    large = values[counts >= SMALLEST_CLASS]
    if len(large) < 2:
        raise ValueError(f"{len(large)} classes have {SMALLEST_CLASS} frames; render more songs.")
    for value in large:
        members = features[classes == value]
        centre = members.mean(0)
        within += (members - centre).T @ (members - centre)
        between += len(members) * np.outer(centre - mean, centre - mean)
    within /= len(features)
    within += SHRINKAGE * np.trace(within) / width * np.eye(width)
    # in the whitened space, the strongest directions between classes are eigenvectors
    whitening = np.linalg.inv(np.linalg.cholesky(within))
    # eigenvalues are in ascending order
    _, vectors = np.linalg.eigh(whitening @ between @ whitening.T)
    strongest = vectors[:, ::-1][:, :dimensions]
    directions = whitening.T @ strongest
    return (directions / (features @ directions).std(0)).astype(np.float32)


def vocal_projection(songs: Sequence[SungFrames], arguments: VocalSpaceArguments) -> Array:
    """The projection of features to the vocal space: float32 [D, P], from HuBERT's width D to P dimensions.

    Its columns are linear discriminants: of the sung note, and of its onset, both among the frames with a note; and of
    whether there is a note, among all frames.

    Args:
        songs: frames with features and labels.
        arguments: give the number of the note's discriminants, and the weight of the onset's.
    """
    features = np.concatenate([song.features for song in songs]).astype(np.float32)
    note = np.concatenate([song.note for song in songs])
    onset = np.concatenate([song.onset for song in songs]).astype(np.int64)
    sung = note > 0
    columns = (
        discriminants(features[sung], note[sung], arguments.note_dimensions),
        arguments.onset_weight * discriminants(features[sung], onset[sung], 1),
        discriminants(features, sung.astype(np.int64), 1),
    )
    return np.concatenate(columns, axis=1).astype(np.float32)


def fit_vocal_space(
    tokenizer: HAFMSemanticTokenizerModel,
    training: Sequence[SungFrames],
    validation: Sequence[SungFrames],
    arguments: VocalSpaceArguments,
    frames: int,
) -> tuple[HAFMSemanticTokenizerModel, dict[str, float]]:
    """A tokenizer with a new projection, rhythm network and centroids for vocals; everything else is unchanged.

    Args:
        tokenizer: a tokenizer with separate centroids, which extracted the songs' features.
        training, validation: frames of the songs.
        arguments: see `VocalSpaceArguments`.
        frames: number of frames of the training songs to cluster.

    Returns:
        The new tokenizer, on the CPU, and figures of clusters and beats (`_fit_vocal_centroids`, `_train_rhythm`).

    Raises:
        ValueError: the tokenizer's centroids are not separate, or there are no songs.
    """
    if not tokenizer.config.separate_centroids or not training or not validation:
        raise ValueError("This needs a tokenizer with separate centroids, and songs for training and validation.")
    fitted = _with_vocal_space(tokenizer, vocal_projection(training, arguments), arguments)
    training_rhythm = [song.rhythm for song in training]
    validation_rhythm = [song.rhythm for song in validation]
    figures = _train_rhythm(fitted, training_rhythm, validation_rhythm, arguments)
    figures |= _fit_vocal_centroids(fitted, training, frames, arguments.seed)
    return fitted, figures


def fit_rhythm(
    tokenizer: HAFMSemanticTokenizerModel,
    training: Sequence[RhythmicFrames],
    validation: Sequence[RhythmicFrames],
    arguments: VocalSpaceArguments,
) -> tuple[HAFMSemanticTokenizerModel, dict[str, float]]:
    """A tokenizer with a newly trained rhythm network; projection and centroids stay, so stages remain usable.

    Training continues from the tokenizer's own rhythm network if it has the same size.

    Args:
        tokenizer: a tokenizer with a vocal space; unchanged.
        training, validation: frames of the songs.
        arguments: size and training of the network.

    Returns:
        The new tokenizer, on the CPU, and figures of beats (`_train_rhythm`).

    Raises:
        ValueError: the tokenizer has no rhythm network, or there are no songs.
    """
    if not tokenizer.config.rhythm_channels or not training or not validation:
        raise ValueError("This needs a tokenizer with a rhythm network, and songs for training and validation.")
    fitted = _untrained_copy(tokenizer, arguments)
    config = tokenizer.config
    kept = tokenizer.state_dict()
    # the weights of a network of another size do not fit
    if (config.rhythm_channels, config.rhythm_layers) != (arguments.channels, arguments.layers):
        kept = {name: values for name, values in kept.items() if not name.startswith("rhythm.")}
    fitted.load_state_dict(kept, strict=False)
    return fitted, _train_rhythm(fitted, training, validation, arguments)


def _untrained_copy(
    tokenizer: HAFMSemanticTokenizerModel, arguments: VocalSpaceArguments, **fields: Any
) -> HAFMSemanticTokenizerModel:
    """A tokenizer with random weights and the same configuration, but for a few fields.

    Args:
        tokenizer: gives the configuration.
        arguments: give the size of the rhythm network, and the seed.
        fields: further fields of the configuration, with their new values.
    """
    config = copy.deepcopy(tokenizer.config)
    fields |= {"rhythm_channels": arguments.channels, "rhythm_layers": arguments.layers}
    for name, value in fields.items():
        setattr(config, name, value)
    torch.manual_seed(arguments.seed)
    return HAFMSemanticTokenizerModel(config).float().eval()


def _train_rhythm(
    tokenizer: HAFMSemanticTokenizerModel,
    training: Sequence[RhythmicFrames],
    validation: Sequence[RhythmicFrames],
    arguments: VocalSpaceArguments,
) -> dict[str, float]:
    """Trains the tokenizer's rhythm network in place, on rendered vocals and their human takes.

    Returns:
        The loss in training ("beat_nats_in_training"), and `rhythm_scores` of the rendered validation vocals.
    """
    rate = tokenizer.config.frame_rate
    # all takes of a song share its beats
    vocals = []
    for song in training:
        vocals += [(descriptors, song.beat) for descriptors in (song.descriptors, *song.takes)]
    held_out = [(song.descriptors, song.beat) for song in validation]
    nats = RhythmTrainer(tokenizer.rhythm, vocals, arguments, rate).train()
    scores = rhythm_scores(tokenizer.rhythm, held_out, round(SCORED_SECONDS * rate))
    return {"beat_nats_in_training": nats} | scores


def _with_vocal_space(
    tokenizer: HAFMSemanticTokenizerModel, projection: Array, arguments: VocalSpaceArguments
) -> HAFMSemanticTokenizerModel:
    """A copy of a tokenizer with a projection for vocals, an untrained rhythm network, and vocal centroids of 0.

    Args:
        tokenizer: a tokenizer with separate centroids.
        projection (float32 [D, P]): from HuBERT's width D to P dimensions.
        arguments: see `VocalSpaceArguments`.
    """
    size = projection.shape[1]
    fitted = _untrained_copy(tokenizer, arguments, vocal_projection_size=size, beat_line=arguments.beat_line)
    fitted.hubert.load_state_dict(tokenizer.hubert.state_dict())
    # the vocals' centroids come first; the instrumentals' stay
    fitted.centroids.copy_(tokenizer.centroids)
    fitted.centroids[0] = 0.0
    fitted.vocal_projection.copy_(torch.from_numpy(projection))
    fitted.rhythm_scale.fill_(arguments.rhythm_weight)
    return fitted


def _fit_vocal_centroids(
    tokenizer: HAFMSemanticTokenizerModel, songs: Sequence[SungFrames], frames: int, seed: int
) -> dict[str, float]:
    """Clusters frames of songs in the vocal space, and sets the vocal centroids.

    Args:
        tokenizer: with a vocal space; changed in place.
        songs: training songs.
        frames: number of frames to cluster, drawn from all songs.
        seed: seed of the draw and of k-means.

    Returns:
        The figures of `fit_clusters`, with "vocal_" before their names.
    """
    reservoir = Reservoir(frames, seed)
    for song in songs:
        descriptors = torch.from_numpy(song.rhythm.descriptors)
        reservoir.add(tokenizer.vocal_space(torch.from_numpy(song.features).float(), descriptors).numpy())
    centroids, figures = fit_clusters(reservoir.rows, tokenizer.config.num_clusters, seed)
    # centroids are as wide as HuBERT; the rest of the vocals' stays 0
    tokenizer.centroids[0, :, : centroids.shape[1]] = torch.from_numpy(centroids)
    return {f"vocal_{name}": float(value) for name, value in figures.items()}
