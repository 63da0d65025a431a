# SPDX-License-Identifier: Apache-2.0
"""K-means of a semantic tokenizer: samples features of many songs in bounded memory, fits and evaluates centroids.

Paper, "Tokens": 500 clusters of one HuBERT layer, shared by vocals (with the noise added at generation) and
instrumentals; separate clusters are possible, too. Dimensions: T_v or M frames, D width of the features, N samples.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hafm_hf.atomic_files import replacing
from hafm_hf.corpus.filtering import FilterOptions, reason_to_drop
from hafm_hf.corpus.shards import cut
from hafm_hf.corpus.stems import StemReader
from hafm_hf.corpus.tokenizing import fit_rate
from hafm_hf.corpus.tokens import excerpt_bounds
from hafm_hf.corpus.tracks import HAFMCorpusError, SplitOptions, Track, TrackError, find_audio, identify_tracks
from hafm_hf.pretrained.loading import fingerprint
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel

Features = NDArray[np.float32]
HELD_OUT_SHARE = 0.1
SHORTEST_SECONDS = 1.0
# interval between saves of the sample, which takes 800 MB at the paper's size
SAVE_SECONDS = 600.0


class Reservoir:
    """A uniform sample of a stream of rows of any length, in constant memory (Vitter's algorithm R).

    Args:
        capacity (int): number of rows to keep.
        seed (int): seed of the sampling.
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        if capacity < 1:
            raise HAFMCorpusError(f"A sample needs at least 1 frame, not {capacity}.")
        self.capacity = capacity
        self.seen = 0
        self._generator = np.random.default_rng(seed)
        self._rows: Features | None = None

    def add(self, rows: Features) -> None:
        """Takes the next rows of the stream, float32 [M, D], of which the sample keeps some."""
        if self._rows is None:
            self._rows = np.empty((self.capacity, rows.shape[1]), dtype=np.float32)
        positions = self.seen + np.arange(len(rows))  # in the stream
        # the row at position n draws a slot of the sample from 0 … n, and is kept if there is one of that number; the
        # first `capacity` rows always are
        slots = np.where(positions < self.capacity, positions, self._generator.integers(0, positions + 1))
        for row in np.flatnonzero(slots < self.capacity):
            self._rows[slots[row]] = rows[row]
        self.seen += len(rows)

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything needed to resume, as arrays for `numpy.savez`."""
        generator = np.array(json.dumps(self._generator.bit_generator.state))
        return {"rows": self.rows, "seen": np.array(self.seen), "generator": generator}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Resumes from `state()`: replaces the sample, the number of rows seen, and the random generator."""
        self.seen = int(state["seen"])
        rows = state["rows"]
        self._rows = np.empty((self.capacity, rows.shape[1]), dtype=np.float32)
        self._rows[: len(rows)] = rows
        self._generator.bit_generator.state = json.loads(str(state["generator"]))

    @property
    def rows(self) -> Features:
        """The sample, float32 [at most capacity, D]."""
        if self._rows is None:
            raise HAFMCorpusError("No frames were sampled; name a folder with songs that have stems.")
        return self._rows[: min(self.seen, self.capacity)]


@dataclass(frozen=True)
class SamplingOptions:
    """Which frames to sample: at most `max_tracks` (0: all) tracks of a split, in segments of `segment_seconds`."""

    max_tracks: int = 0
    segment_seconds: float = 12.0
    split: str = "train"
    seed: int = 0


def sample_features(
    tokenizer: HAFMSemanticTokenizerModel,
    audio: Path,
    reader: StemReader,
    vocals: Reservoir,
    instrumentals: Reservoir,
    options: SamplingOptions,
    splits: SplitOptions,
    filter_options: FilterOptions,
    progress: Callable[[int, int], None] | None = None,
    state: Path | None = None,
) -> int:
    """Fills reservoirs with frames of vocals, with noise, and of instrumentals, from the same segments.

    Args:
        tokenizer: extracts the features; it needs no centroids.
        audio: folder of songs, as for `hafm prepare`.
        reader: reads their vocal and instrumental.
        vocals, instrumentals: get float32 [T_v, D] of each segment; they may be the same reservoir.
        options: how much to sample of which split.
        splits: how songs are divided into splits.
        filter_options: which segments are usable.
        progress: called with the number of finished tracks and of all tracks.
        state: file for the sample so far; a killed run resumes from it and gives the same sample.

    Returns:
        the number of tracks that contributed frames.

    Raises:
        HAFMCorpusError: `state` was saved with other songs, options or weights.
    """
    tracks = shuffled_tracks(audio, reader, splits, options)
    reservoirs = [vocals] if vocals is instrumentals else [vocals, instrumentals]
    # all that decides which frames are sampled
    inputs = [fingerprint(tokenizer), repr((options, filter_options, reader.options))]
    inputs += [str(vocals.capacity), *(track.content_hash for track in tracks)]
    identity = hashlib.sha256("\n".join(inputs).encode()).hexdigest()
    done, used = _load_sample(state, identity, reservoirs)
    saved = time.monotonic()
    for number, track in enumerate(tracks[done:], start=done + 1):
        seen_before = vocals.seen
        for waveform, seed in _segments(tokenizer, audio, reader, track, options, filter_options):
            features = tokenizer.extract_features(waveform.to(tokenizer.device), noise=seed is not None, seed=seed)
            # only vocals have noise, and with it a seed
            reservoir = instrumentals if seed is None else vocals
            reservoir.add(features.cpu().numpy())
        if vocals.seen > seen_before:
            used += 1
        if progress:
            progress(number, len(tracks))
        # nothing can be saved before the first row
        if state and vocals.seen and (time.monotonic() - saved > SAVE_SECONDS or number == len(tracks)):
            _save_sample(state, identity, reservoirs, number, used)
            saved = time.monotonic()
    return used


def _save_sample(state: Path, identity: str, reservoirs: Sequence[Reservoir], done: int, used: int) -> None:
    """Writes the reservoirs and how far they are, so that an interrupted run can go on.

    Args:
        state: the file.
        identity: hash of all that decides which frames are sampled.
        reservoirs: one or two.
        done: number of finished tracks.
        used: number of those that contributed frames.
    """
    arrays = {"identity": np.array(identity), "tracks": np.array([done, used])}
    for index, reservoir in enumerate(reservoirs):
        for name, value in reservoir.state().items():
            arrays[f"{index}_{name}"] = value
    with replacing(state) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _load_sample(state: Path | None, identity: str, reservoirs: Sequence[Reservoir]) -> tuple[int, int]:
    """Restores the reservoirs from a file of `_save_sample`, if there is one.

    Returns:
        The number of finished tracks, and of those that contributed frames; (0, 0) without a file.

    Raises:
        HAFMCorpusError: the file has another identity.
    """
    if state is None or not state.is_file():
        return 0, 0
    with np.load(state, allow_pickle=False) as arrays:
        if str(arrays["identity"]) != identity:
            raise HAFMCorpusError(f"{state} was begun with other songs, options or weights; delete it to begin again.")
        for index, reservoir in enumerate(reservoirs):
            reservoir.load_state({name: arrays[f"{index}_{name}"] for name in ("rows", "seen", "generator")})
        done, used = arrays["tracks"].tolist()
    return done, used


def shuffled_tracks(audio: Path, reader: StemReader, splits: SplitOptions, options: SamplingOptions) -> list[Track]:
    """The tracks to sample.

    Args:
        audio: folder of songs, as for `hafm prepare`.
        reader: groups its files into tracks.
        splits: how tracks are divided into splits.
        options: the split, the seed of the order, and the largest number of tracks (0: all).
    """
    files, *_ = find_audio(audio)
    groupings, _ = reader.group(files)
    identified, _ = identify_tracks(audio, groupings, {}, splits)
    tracks = [track for track in identified if track.split == options.split]
    order = np.random.default_rng(options.seed).permutation(len(tracks))
    return [tracks[index] for index in order][: options.max_tracks or None]


def _segments(
    tokenizer: HAFMSemanticTokenizerModel,
    audio: Path,
    reader: StemReader,
    track: Track,
    options: SamplingOptions,
    filter_options: FilterOptions,
) -> Iterator[tuple[torch.Tensor, int | None]]:
    """Yields the vocal and the instrumental of each segment of a track in which both are usable.

    Args:
        tokenizer: for its rates.
        audio: folder of the songs.
        reader: reads the track's files.
        track: nothing is yielded if it cannot be read.
        options: length of the segments.
        filter_options: which segments are usable.

    Yields:
        A waveform (float32 [N] at the tokenizer's rate), and the seed of its noise; None for instrumentals.
    """
    try:
        stems = reader.read({role: Path(os.path.join(audio, path)) for role, path in track.files.items()})
    except TrackError:
        return
    config = tokenizer.config
    duration = len(stems.vocal) / stems.sampling_rate
    bounds = excerpt_bounds(duration, options.segment_seconds, SHORTEST_SECONDS, Fraction(1, config.frame_rate))
    for number, (start, length) in enumerate(bounds):
        vocal = cut(stems.vocal, stems.sampling_rate, start, length)
        instrumental = cut(stems.instrumental, stems.sampling_rate, start, length)
        if reason_to_drop(vocal, instrumental, filter_options) is not None:
            continue
        # only vocals get noise
        for sound, seed in ((vocal, options.seed + number), (instrumental, None)):
            yield torch.from_numpy(fit_rate(sound, stems.sampling_rate, config.sampling_rate, length)), seed


def fit_clusters(features: Features, clusters: int, seed: int = 0) -> tuple[Features, dict[str, Any]]:
    """Fits MiniBatchKMeans (k-means++) to 90 % of a sample and evaluates it on the held-out 10 %.

    Args:
        features (float32 [M, D], frames by width of the features): the sample.
        clusters: k (paper: 500).
        seed: of the division into fitted and held-out frames, and of the initialisation.

    Returns:
        centroids (float32 [k, D]), and figures of the held-out frames by name: "inertia_per_frame" (mean squared
        distance to the centroid), its share of the variance, the number of used clusters, and the entropy of their
        use in bits with its upper bound; "frames" is M.

    Raises:
        HAFMCorpusError: fewer frames than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    order = np.random.default_rng(seed).permutation(len(features))
    held_out, fitted = np.split(features[order], [max(1, round(len(features) * HELD_OUT_SHARE))])
    if len(fitted) < clusters:
        raise HAFMCorpusError(f"{len(fitted)} frames can't make {clusters} clusters; sample more frames or songs.")
    kmeans = MiniBatchKMeans(
        clusters,
        init="k-means++",
        batch_size=10_000,
        max_iter=60,
        n_init=3,
        # clusters with less than this share of the largest one's frames are placed anew
        reassignment_ratio=0.01,
        random_state=seed,
    ).fit(fitted)
    shares = np.bincount(kmeans.predict(held_out), minlength=clusters) / len(held_out)
    inertia = float((kmeans.transform(held_out).min(axis=1) ** 2).mean())
    used = shares[shares > 0]
    figures = {
        "frames": len(features),
        "inertia_per_frame": round(inertia, 4),
        "inertia_share_of_variance": round(inertia / float(held_out.var(axis=0).sum()), 4),
        "used_clusters": int(used.size),
        "entropy_bits": round(float(-np.sum(used * np.log2(used))), 3),
        "entropy_bits_at_most": round(float(np.log2(clusters)), 3),
    }
    return kmeans.cluster_centers_.astype(np.float32), figures
