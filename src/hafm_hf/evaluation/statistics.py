# SPDX-License-Identifier: Apache-2.0
"""Error bars and controls: bootstrap intervals over songs, and partners for shuffled pairs."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
# a clip's partners are drawn from this many times as many clips, those of most similar length
CANDIDATES_PER_PARTNER = 8

Array = NDArray[np.float64]


class HAFMEvaluationError(ValueError):
    """An evaluation is not possible; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap confidence interval, from `n` clips of `songs` songs."""

    value: float
    low: float
    high: float
    n: int
    songs: int


def bootstrap_mean(
    values: Sequence[float] | Array, songs: Sequence[str], seed: int = 0, resamples: int = 2000
) -> Interval:
    """Mean of the clips' values, ignoring NaN, with a bootstrap interval over their songs.

    Songs are resampled, not clips: clips of one song are not independent, and the interval would be too narrow.

    Args:
        values: one value per clip; NaN if it is not defined.
        songs: the song of each clip.
        seed, resamples: seed and number of the bootstrap resamples.

    Returns:
        The interval; its value is NaN if all values are, and its ends are infinite with fewer than two songs.
    """
    array = np.asarray(values, np.float64)
    defined = np.isfinite(array)
    array = array[defined]
    names, song_of_clip = np.unique(np.asarray(songs)[defined], return_inverse=True)
    value = float(array.mean()) if len(array) else float("nan")
    if len(names) < 2:
        return Interval(value, float("-inf"), float("inf"), len(array), len(names))
    # sum and number of each song's values
    sums = np.bincount(song_of_clip, array)
    counts = np.bincount(song_of_clip)
    # indices of the songs of each resample, [resamples, songs]
    drawn_songs = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    means = sums[drawn_songs].sum(axis=1) / counts[drawn_songs].sum(axis=1)
    low, high = np.quantile(means, _tails(len(names)))
    return Interval(value, float(low), float(high), len(array), len(names))


def bootstrap_statistic(
    clips: Sequence[Array],
    songs: Sequence[str],
    statistic: Callable[[list[Array]], float],
    seed: int = 0,
    resamples: int = 100,
) -> tuple[float, float, float]:
    """95 % bootstrap interval of a statistic of a set of clips, of which whole songs are resampled.

    Args:
        clips: the values of each clip, of any shape.
        songs: the song of each clip; at least two songs.
        statistic: computes the statistic from a list of clips' values, in which some clips occur several times.
        seed, resamples: seed and number of the bootstrap resamples.

    Returns:
        Low end, high end, and the resamples' median.
    """
    names, song_of_clip = np.unique(np.asarray(songs), return_inverse=True)
    clips_by_song: list[list[Array]] = [[] for _ in names]
    for clip, song in zip(clips, song_of_clip, strict=True):
        clips_by_song[song].append(clip)
    # indices of the songs of each resample, [resamples, songs]
    drawn_songs = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    values = []
    for resample in drawn_songs:
        drawn_clips = [clip for song in resample for clip in clips_by_song[song]]
        values.append(statistic(drawn_clips))
    low, high = np.quantile(values, _tails(len(names)))
    return float(low), float(high), float(np.median(values))


def _tails(num_songs: int) -> tuple[float, float]:
    """Which quantiles of the bootstrap's values are the ends of the 95 % interval for two or more songs.

    They lie further out than 2.5 and 97.5 %, which give too narrow intervals for few songs (Hesterberg 2015,
    "expanded percentile interval").

    Returns:
        Low and high quantile, between 0 and 1.
    """
    from scipy.special import ndtr, stdtrit

    # Student's t instead of the normal distribution's quantile
    student = stdtrit(num_songs - 1, (1 - CONFIDENCE) / 2)
    # for n songs, the bootstrap's variance is too small by a factor of (n - 1) / n
    widened = student * np.sqrt(num_songs / (num_songs - 1))
    tail = float(ndtr(widened))
    return tail, 1 - tail


def check_songs(songs: Sequence[str]) -> None:
    """Raises HAFMEvaluationError if all clips are of one song; `songs` has each clip's song."""
    if len(set(songs)) < 2:
        raise HAFMEvaluationError(
            f"All {len(songs)} clips are of the song {songs[0]!r}; the shuffled control needs at least 2 songs."
        )


def other_song_partners(
    names: Sequence[str], songs: Sequence[str], seconds: Sequence[float], count: int, seed: int = 0
) -> list[list[int]]:
    """Draws for each clip `count` clips of other songs, among those of most similar length.

    A clip's partners depend on its name and the set, not on the order of the set.

    Args:
        names, songs, seconds: name, song and length of each clip.
        count: partners per clip; fewer if there are not enough clips of other songs.
        seed: of the draw.

    Returns:
        For each clip, the indices of its partners.

    Raises:
        HAFMEvaluationError: when all clips are of one song.
    """
    check_songs(songs)
    partners = []
    for index, name in enumerate(names):
        others = [other for other in range(len(names)) if songs[other] != songs[index]]
        # among clips that are equally long, no song comes first for its name
        ties = {other: hashlib.sha256(f"{seed}/{name}/{names[other]}".encode()).digest() for other in others}
        # to the millisecond
        others.sort(key=lambda other: (round(abs(seconds[other] - seconds[index]), 3), ties[other]))
        nearest = others[: CANDIDATES_PER_PARTNER * max(count, 1)]
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = np.random.default_rng(np.frombuffer(digest, np.uint32))
        chosen = generator.choice(len(nearest), size=min(count, len(nearest)), replace=False)
        partners.append([nearest[int(choice)] for choice in chosen])
    return partners


def as_json(value: Any) -> Any:
    """Makes a value valid JSON, recursively: floats with 9 significant digits, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    if isinstance(value, float | np.floating):
        number = float(value)
        if np.isfinite(number):
            return float(f"{number:.9g}")
        return None
    if isinstance(value, np.integer):
        return int(value)
    return value
