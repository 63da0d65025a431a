# SPDX-License-Identifier: Apache-2.0
"""From measured clips to a report: matched against shuffled pairs, distances, baselines, fools, seeds.

The report is a dictionary, written as JSON and HTML by `report.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .distances import (
    NEIGHBOURS,
    Gaussian,
    density_and_coverage,
    fit_gaussian,
    frechet_audio_distance,
    kernel_audio_distance,
    median_bandwidth,
    prompt_adherence,
)
from .fools import FOOLS
from .measuring import REFERENCE, SHUFFLED, Measurement
from .scores import SCORE_NAMES, score_pair
from .statistics import HAFMEvaluationError, bootstrap_mean, bootstrap_statistic, other_song_partners

# a score catches a fool if the fool's whole interval is below this share of the reference's value
CAUGHT_SHARE = 0.25


@dataclass(frozen=True)
class ScoringOptions:
    """How measured clips are scored.

    Args:
        partners: number of shuffled pairs per clip, which are averaged.
        seed: seed of partners, bootstrap and the kernel bandwidth's subset.
        resamples: bootstrap resamples of scores.
        frechet_resamples: bootstrap resamples of Fréchet distances; 0 skips their intervals.
    """

    partners: int = 4
    seed: int = 0
    resamples: int = 2000
    frechet_resamples: int = 100


@dataclass(frozen=True)
class ClipScores:
    """Scores of one candidate of a clip: of the matched pair, and the mean over shuffled pairs (`control`)."""

    clip: str
    song: str
    system: str
    matched: dict[str, float]
    control: dict[str, float]


def score_clips(measurements: Sequence[Measurement], options: ScoringOptions) -> list[ClipScores]:
    """Scores every candidate of every clip, and as a control, the same system's candidates for other songs.

    The control keeps the clip's voice and reference, so that the two scores differ in the candidate only. Sounds of
    different lengths are compared over the shorter length.
    """
    partners = other_song_partners(
        [measurement.name for measurement in measurements],
        [measurement.song for measurement in measurements],
        [measurement.voice.seconds for measurement in measurements],
        options.partners,
        options.seed,
    )
    scored = []
    for measured, others in zip(measurements, partners, strict=True):
        for system, candidate in measured.candidates.items():
            matched = score_pair(measured.voice, measured.reference, candidate.features)
            shuffled = []
            for other in others:
                features = measurements[other].candidates[system].features
                shuffled.append(score_pair(measured.voice, measured.reference, features))
            control = {name: _mean_of_known([scores[name] for scores in shuffled]) for name in SCORE_NAMES}
            scored.append(ClipScores(measured.name, measured.song, system, matched, control))
    return scored


def make_report(
    measurements: Sequence[Measurement],
    evaluated: dict[str, list[str]],
    options: ScoringOptions,
    protocol: dict[str, Any],
    clip_scores: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]] | None = None,
) -> tuple[dict[str, Any], list[ClipScores]]:
    """Scores, distances and fools for a set of clips.

    Args:
        measurements: measurements of all clips, all with the same candidates.
        evaluated: the candidates of each system, one per seed.
        options: how to score.
        protocol: facts about data, model and embedders to include in the report.
        clip_scores: by system, for each of its seeds: scores given by other tools, by score and clip
            (`datasets.read_clip_scores`); None without any.

    Returns:
        The report, and the scores of each candidate of each clip.

    Raises:
        HAFMEvaluationError: fewer than 2 songs, or measurements with different candidates.
    """
    candidates = list(measurements[0].candidates)
    if any(list(measurement.candidates) != candidates for measurement in measurements):
        raise HAFMEvaluationError("The clips do not all have the same accompaniments; render the missing ones.")
    scored = score_clips(measurements, options)
    scores_of = {name: [scores for scores in scored if scores.system == name] for name in candidates}
    # the candidates of each system, one per seed; a baseline is a system of one candidate
    candidates_of = dict(evaluated)
    of_seeds = {candidate for seeds in evaluated.values() for candidate in seeds}
    for name in candidates:
        if name not in of_seeds:
            candidates_of[name] = [name]
    systems = {}
    for name, seeds in candidates_of.items():
        scores_by_seed = [scores_of[candidate] for candidate in seeds]
        averaged = [_mean_over_seeds(scores) for scores in zip(*scores_by_seed, strict=True)]
        # of the first seed only
        distances = set_distances(measurements, seeds[0], options)
        systems[name] = describe_system(averaged, options) | {"distances": distances, "seeds": len(seeds)}
        if clip_scores and name in clip_scores:
            systems[name]["other_scores"] = _other_scores(measurements, clip_scores[name], options)
    report = {
        "protocol": protocol | _description(measurements, options),
        "systems": systems,
        "fools": _catching_scores(systems),
    }
    return report, scored


def describe_system(clips: Sequence[ClipScores], options: ScoringOptions) -> dict[str, Any]:
    """Summarises each score of a system over its clips: matched, control, and their difference with its interval.

    Returns:
        under "scores", a dict for each score that is defined for at least one clip; its "follows" says whether the
        whole interval is above 0.
    """
    scores: dict[str, Any] = {}
    songs = [clip.song for clip in clips]
    for name in SCORE_NAMES:
        matched = np.array([clip.matched[name] for clip in clips])
        control = np.array([clip.control[name] for clip in clips])
        interval = bootstrap_mean(matched - control, songs, options.seed, options.resamples)
        if interval.n:
            defined = np.isfinite(matched - control)
            scores[name] = {
                "matched": float(matched[defined].mean()),
                "control": float(control[defined].mean()),
                "difference": interval.value,
                "low": interval.low,
                "high": interval.high,
                "n": interval.n,
                "songs": interval.songs,
                "follows": interval.low > 0.0,
            }
    return {"scores": scores}


def _other_scores(
    measurements: Sequence[Measurement],
    seeds: Sequence[Mapping[str, Mapping[str, float]]],
    options: ScoringOptions,
) -> dict[str, Any]:
    """Means of the scores that other tools gave to a system, with intervals over songs, by the score's name.

    Args:
        measurements: of all clips.
        seeds: for each seed of the system, the values by score and clip; a clip's value is its mean over the seeds.
        options: seed and number of resamples of the bootstrap.
    """
    songs = [measurement.song for measurement in measurements]
    # each once, in order of appearance
    score_names = dict.fromkeys(name for scores in seeds for name in scores)
    means = {}
    for score in score_names:
        values = []
        for measurement in measurements:
            by_seed = [scores.get(score, {}).get(measurement.name, math.nan) for scores in seeds]
            values.append(_mean_of_known(by_seed))
        interval = bootstrap_mean(values, songs, options.seed, options.resamples)
        means[score] = asdict(interval)
    return means


def _mean_over_seeds(by_seed: Sequence[ClipScores]) -> ClipScores:
    """One clip's scores, averaged over the seeds that its accompaniments were generated with.

    Counted separately, the seeds would pass for independent clips.

    Args:
        by_seed: the clip's scores, one for each seed.

    Returns:
        The mean scores, under the first seed's `system`.
    """
    matched = {}
    control = {}
    for score in by_seed[0].matched:
        matched[score] = _mean_of_known([scores.matched[score] for scores in by_seed])
        control[score] = _mean_of_known([scores.control[score] for scores in by_seed])
    return replace(by_seed[0], matched=matched, control=control)


def _mean_of_known(values: Sequence[float]) -> float:
    """The mean of the values that are not NaN; NaN if all are."""
    return float(np.mean([value for value in values if not math.isnan(value)] or [math.nan]))


def set_distances(measurements: Sequence[Measurement], system: str, options: ScoringOptions) -> dict[str, Any]:
    """How far the accompaniments of one candidate are from the references.

    Fréchet and kernel distance, density and coverage compare accompaniments; prompt adherence compares mixes with the
    voice.

    Args:
        measurements: of all clips.
        system: name of the candidate in the measurements.
        options: seed, and number of resamples for the intervals.

    Returns:
        By embedder, the sizes of both sets, and by name each distance that can be computed, with its interval if
        there is one; in place of the Fréchet distance and of prompt adherence, why they can't be computed. Empty if
        a clip has no reference.
    """
    if any(measurement.reference is None for measurement in measurements):
        return {}
    by_embedder: dict[str, Any] = {}
    songs = [measurement.song for measurement in measurements]
    for name in measurements[0].candidates[system].embeddings:
        # one array for each clip, float [embeddings, width], then all of them joined
        references = [measurement.candidates[REFERENCE].embeddings[name] for measurement in measurements]
        evaluated = [measurement.candidates[system].embeddings[name] for measurement in measurements]
        joined = np.concatenate(references)
        joined_evaluated = np.concatenate(evaluated)
        stated: dict[str, Any] = {"n": len(joined_evaluated), "n_reference": len(joined), "width": joined.shape[1]}
        try:
            frechet = frechet_audio_distance(
                references, evaluated, songs, seed=options.seed, resamples=options.frechet_resamples
            )
            stated["frechet"] = frechet.value
            if math.isfinite(frechet.low):
                stated["frechet_interval"] = [frechet.low, frechet.high]
        except HAFMEvaluationError as error:
            stated["refused"] = str(error)
        if min(len(joined), len(joined_evaluated)) > 1:
            bandwidth = median_bandwidth(joined, options.seed)
            stated["kernel"] = kernel_audio_distance(joined, joined_evaluated, bandwidth)
        if len(joined) > NEIGHBOURS and len(joined_evaluated):
            density, coverage = density_and_coverage(joined, joined_evaluated)
            stated |= {"density": density, "coverage": coverage}
        if SHUFFLED in measurements[0].candidates:
            stated |= _adherence(measurements, system, name, options)
        by_embedder[name] = stated
    return by_embedder


def _adherence(
    measurements: Sequence[Measurement], system: str, embedder: str, options: ScoringOptions
) -> dict[str, Any]:
    """Prompt adherence of a system by one embedder, with its interval over songs, or why it can't be computed.

    The songs are divided into two halves, and each half's candidates are compared with the other half's references:
    compared with itself, a reference would be perfect by definition. The value is the mean of the two.

    Args:
        measurements: of all clips.
        system, embedder: names of the system and the embedder, as in the measurements' candidates.
        options: seed and number of resamples for the interval.

    Returns:
        "adherence" and, with resamples and two songs in each half, "adherence_interval"; or "adherence_refused".
    """
    halves = _halves_by_song(measurements, options.seed)

    def fitted(half: list[Measurement], candidate: str) -> Gaussian:
        """The Gaussian of the embedded mixes of a half's clips with one candidate."""
        return fit_gaussian(np.concatenate([clip.candidates[candidate].mixes[embedder] for clip in half]))

    try:
        # for each half, those of the other half
        matched = [fitted(half, REFERENCE) for half in reversed(halves)]
        shuffled = [fitted(half, SHUFFLED) for half in reversed(halves)]
        evaluated = [fitted(half, system) for half in halves]
        adherences = list(map(prompt_adherence, evaluated, matched, shuffled))
        adherence = float(np.mean(adherences))
    except HAFMEvaluationError as error:
        return {"adherence_refused": str(error)}
    stated: dict[str, Any] = {"adherence": adherence}
    if options.frechet_resamples and all(len({clip.song for clip in half}) > 1 for half in halves):
        # from each half's median down to the low end of its interval, and up to the high end
        below = []
        above = []
        for half, other_matched, other_shuffled in zip(halves, matched, shuffled, strict=True):
            mixes = [np.asarray(clip.candidates[system].mixes[embedder], np.float64) for clip in half]
            songs = [clip.song for clip in half]
            statistic = partial(_resampled_adherence, matched=other_matched, shuffled=other_shuffled)
            low, high, median = bootstrap_statistic(mixes, songs, statistic, options.seed, options.frechet_resamples)
            below.append(median - low)
            above.append(high - median)
        # the halves are independent: the variance of their mean is a quarter of the sum of their variances
        low = adherence - math.hypot(*below) / 2
        high = adherence + math.hypot(*above) / 2
        stated["adherence_interval"] = [max(low, 0.0), min(high, 1.0)]
    return stated


def _halves_by_song(measurements: Sequence[Measurement], seed: int) -> list[list[Measurement]]:
    """Two halves of the clips, without a song in common: the songs are shuffled and go to either half in turn."""
    songs = sorted({measurement.song for measurement in measurements})
    order = np.random.default_rng(seed).permutation(len(songs))
    half_of_song = {songs[int(index)]: position % 2 for position, index in enumerate(order)}
    halves: list[list[Measurement]] = [[], []]
    for measurement in measurements:
        halves[half_of_song[measurement.song]].append(measurement)
    return halves


def _resampled_adherence(drawn: list[Any], matched: Gaussian, shuffled: Gaussian) -> float:
    """Prompt adherence of the mixes of the clips that a bootstrap has drawn.

    Unlike `fit_gaussian`, it takes any number of embeddings: a resampled set repeats clips.

    Args:
        drawn: embeddings of each clip's mix, float64 [embeddings, width].
        matched, shuffled: as for `prompt_adherence`.
    """
    values = np.concatenate(drawn)
    resampled = (values.mean(axis=0), np.cov(values, rowvar=False))
    return prompt_adherence(resampled, matched, shuffled)


def isolated_and_separated(report: dict[str, Any], isolated: str, separated: str) -> dict[str, Any]:
    """The paper's FAD_i and, with separated vocals, FAD_s and Δ = FAD_i − FAD_s, by embedder.

    Args:
        report: from `make_report`.
        isolated, separated: names of the systems that accompany isolated and separated vocals; the second may be
            missing in the report.

    Returns:
        By embedder that has a Fréchet distance: "fad_i", and "fad_s" and "delta" if the second system has one, too.
    """
    by_embedder = {}
    separated_distances = report["systems"].get(separated, {"distances": {}})["distances"]
    for embedder, distances in report["systems"][isolated]["distances"].items():
        if "frechet" not in distances:
            continue
        fad_i = distances["frechet"]
        by_embedder[embedder] = {"fad_i": fad_i}
        fad_s = separated_distances.get(embedder, {}).get("frechet")
        if fad_s is not None:
            by_embedder[embedder] |= {"fad_s": fad_s, "delta": fad_i - fad_s}
    return by_embedder


def _description(measurements: Sequence[Measurement], options: ScoringOptions) -> dict[str, Any]:
    """What the report says of the clips, and how they were scored."""
    lengths = [measurement.voice.seconds for measurement in measurements]
    return {
        "clips": len(measurements),
        "songs": len({measurement.song for measurement in measurements}),
        "seconds": float(sum(lengths)),
        "clip_seconds": [float(min(lengths)), float(np.median(lengths)), float(max(lengths))],
        "scoring": asdict(options),
    }


def _catching_scores(systems: dict[str, Any]) -> dict[str, list[str]]:
    """The names of the scores that catch each fool (a trivial accompaniment, see `fools`); empty without a reference.

    A score catches a fool if the fool's whole interval is below `CAUGHT_SHARE` of the reference's value.

    Args:
        systems: a report's "systems", by name.
    """
    if REFERENCE not in systems:
        return {}
    caught_by: dict[str, list[str]] = {}
    for fool in FOOLS:
        if fool in systems:
            scores = systems[fool]["scores"]
            caught_by[fool] = []
            for name, reference in systems[REFERENCE]["scores"].items():
                if scores[name]["high"] < CAUGHT_SHARE * reference["difference"]:
                    caught_by[fool].append(name)
    return caught_by
