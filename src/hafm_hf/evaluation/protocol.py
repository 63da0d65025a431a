# SPDX-License-Identifier: Apache-2.0
"""From measured clips to a report: matched against shuffled pairs, distances, baselines, fools, seeds.

The report is a dictionary, written as JSON and HTML by `report.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
    """Scores every candidate of every clip, and as a control, candidates made for other songs.

    The control keeps the clip's voice and reference and takes the same system's candidate of another song, so that
    the two scores differ in the candidate only. Each score is computed over the shorter length.
    """
    partners = other_song_partners(
        [each.name for each in measurements],
        [each.song for each in measurements],
        [each.voice.seconds for each in measurements],
        options.partners,
        options.seed,
    )
    scored = []
    for measured, others in zip(measurements, partners, strict=True):
        for system, candidate in measured.candidates.items():
            matched = score_pair(measured.voice, measured.reference, candidate.features)
            shuffled = [
                score_pair(measured.voice, measured.reference, measurements[other].candidates[system].features)
                for other in others
            ]
            control = {name: _mean_of_known([each[name] for each in shuffled]) for name in SCORE_NAMES}
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
        clip_scores: by system, for each seed: scores of other tools by name and clip (`datasets.read_clip_scores`).

    Returns:
        the report and the scores of each clip.

    Raises:
        HAFMEvaluationError: fewer than 2 songs, or measurements with different candidates.
    """
    names = [tuple(each.candidates) for each in measurements]
    if len(set(names)) > 1:
        raise HAFMEvaluationError("The clips do not all have the same accompaniments; render the missing ones.")
    scored = score_clips(measurements, options)
    candidates = list(names[0])
    rows = {name: [each for each in scored if each.system == name] for name in candidates}
    groups = dict(evaluated)
    groups |= {name: [name] for name in candidates if not any(name in seeds for seeds in evaluated.values())}
    systems = {}
    for name, seeds in groups.items():
        averaged = [_over_seeds(list(each)) for each in zip(*(rows[seed] for seed in seeds), strict=True)]
        distances = set_distances(measurements, seeds[0], options)
        systems[name] = describe_system(averaged, options) | {"distances": distances, "seeds": len(seeds)}
        if clip_scores and name in clip_scores:
            systems[name]["other_scores"] = _other_scores(measurements, clip_scores[name], options)
    report = {"protocol": protocol | _stated(measurements, options), "systems": systems, "fools": _fools(systems)}
    return report, scored


def describe_system(rows: Sequence[ClipScores], options: ScoringOptions) -> dict[str, Any]:
    """Summarises each score: matched, control, and their difference with its interval."""
    scores: dict[str, Any] = {}
    for name in SCORE_NAMES:
        matched = np.array([row.matched[name] for row in rows])
        control = np.array([row.control[name] for row in rows])
        interval = bootstrap_mean(matched - control, [row.song for row in rows], options.seed, options.resamples)
        if interval.n:
            there = np.isfinite(matched - control)
            means = {"matched": float(matched[there].mean()), "control": float(control[there].mean())}
            scores[name] = means | {
                "difference": interval.value, "low": interval.low, "high": interval.high, "n": interval.n,
                "songs": interval.songs, "follows": interval.low > 0.0,
            }  # fmt: skip
    return {"scores": scores}


def _other_scores(
    measurements: Sequence[Measurement],
    seeds: Sequence[Mapping[str, Mapping[str, float]]],
    options: ScoringOptions,
) -> dict[str, Any]:
    """Means of other tools' scores, with intervals over songs; a clip's value is its mean over seeds."""
    songs = [each.song for each in measurements]
    described = {}
    for score in dict.fromkeys(score for scores in seeds for score in scores):
        values = [
            _mean_of_known([scores.get(score, {}).get(each.name, math.nan) for scores in seeds])
            for each in measurements
        ]
        interval = bootstrap_mean(values, songs, options.seed, options.resamples)
        described[score] = asdict(interval)
    return described


def _over_seeds(rows: list[ClipScores]) -> ClipScores:
    """The mean of one clip over seeds: intervals are over songs, and seeds are not independent clips."""

    def mean(values: list[dict[str, float]]) -> dict[str, float]:
        return {name: _mean_of_known([each[name] for each in values]) for name in values[0]}

    return replace(rows[0], matched=mean([row.matched for row in rows]), control=mean([row.control for row in rows]))


def _mean_of_known(values: Sequence[float]) -> float:
    """The mean of the values that are not NaN; NaN if all are."""
    return float(np.mean([value for value in values if not math.isnan(value)] or [math.nan]))


def set_distances(measurements: Sequence[Measurement], system: str, options: ScoringOptions) -> dict[str, Any]:
    """How far a system is from the references, by embedder, or why that can't be computed.

    Fréchet and kernel distance, density and coverage compare accompaniments; prompt adherence compares mixes with the
    voice.
    """
    if any(each.reference is None for each in measurements):
        return {}
    by_embedder: dict[str, Any] = {}
    songs = [each.song for each in measurements]
    for name in measurements[0].candidates[system].embeddings:
        wanted = [each.candidates[REFERENCE].embeddings[name] for each in measurements]
        evaluated = [each.candidates[system].embeddings[name] for each in measurements]
        joined = np.concatenate(wanted)
        joined_evaluated = np.concatenate(evaluated)
        stated: dict[str, Any] = {"n": len(joined_evaluated), "n_reference": len(joined), "width": joined.shape[1]}
        try:
            frechet = frechet_audio_distance(
                wanted, evaluated, songs, seed=options.seed, resamples=options.frechet_resamples
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
    """Prompt adherence with its interval over songs, or why it can't be computed.

    The songs are dealt into two halves, and each half's candidates are compared with the other half's references:
    compared with itself, a reference would be perfect by definition. The value is the mean of the two.
    """
    names = sorted({each.song for each in measurements})
    order = np.random.default_rng(options.seed).permutation(len(names))
    half_of = {names[int(index)]: position % 2 for position, index in enumerate(order)}
    halves = [[each for each in measurements if half_of[each.song] == half] for half in (0, 1)]

    def fitted(half: list[Measurement], candidate: str) -> Gaussian:
        return fit_gaussian(np.concatenate([each.candidates[candidate].mixes[embedder] for each in half]))

    try:
        matched = [fitted(half, REFERENCE) for half in halves]
        shuffled = [fitted(half, SHUFFLED) for half in halves]
        value = np.mean(
            [prompt_adherence(fitted(halves[half], system), matched[1 - half], shuffled[1 - half]) for half in (0, 1)]
        )
    except HAFMEvaluationError as error:
        return {"adherence_refused": str(error)}
    stated: dict[str, Any] = {"adherence": float(value)}
    if options.frechet_resamples and all(len({each.song for each in half}) > 1 for half in halves):
        ends = []
        for half in (0, 1):

            def statistic(drawn: list[Any], other: int = 1 - half) -> float:
                values = np.concatenate(drawn)
                resampled = (values.mean(axis=0), np.cov(values, rowvar=False))
                return prompt_adherence(resampled, matched[other], shuffled[other])

            mixes = [np.asarray(each.candidates[system].mixes[embedder], np.float64) for each in halves[half]]
            songs = [each.song for each in halves[half]]
            ends.append(bootstrap_statistic(mixes, songs, statistic, options.seed, options.frechet_resamples))
        # the halves are independent: the variance of their mean is a quarter of the sum
        below = math.hypot(*(median - low for low, _, median in ends)) / 2
        above = math.hypot(*(high - median for _, high, median in ends)) / 2
        stated["adherence_interval"] = [max(float(value) - below, 0.0), min(float(value) + above, 1.0)]
    return stated


def isolated_and_separated(report: dict[str, Any], isolated: str, separated: str) -> dict[str, Any]:
    """The paper's FAD_i and, with separated vocals, FAD_s and Δ = FAD_i − FAD_s, by embedder."""
    found = {}
    others = report["systems"].get(separated, {"distances": {}})["distances"]
    for embedder, stated in report["systems"][isolated]["distances"].items():
        if "frechet" in stated:
            found[embedder] = {"fad_i": stated["frechet"]}
            if "frechet" in (other := others.get(embedder, {})):
                found[embedder] |= {"fad_s": other["frechet"], "delta": stated["frechet"] - other["frechet"]}
    return found


def _stated(measurements: Sequence[Measurement], options: ScoringOptions) -> dict[str, Any]:
    lengths = [each.voice.seconds for each in measurements]
    return {
        "clips": len(measurements),
        "songs": len({each.song for each in measurements}),
        "seconds": float(sum(lengths)),
        "clip_seconds": [float(min(lengths)), float(np.median(lengths)), float(max(lengths))],
        "scoring": asdict(options),
    }


def _fools(systems: dict[str, Any]) -> dict[str, list[str]]:
    """The scores that catch each fool."""
    if REFERENCE not in systems:
        return {}
    reached = systems[REFERENCE]["scores"]
    return {
        fool: [
            name
            for name, found in reached.items()
            if systems[fool]["scores"][name]["high"] < CAUGHT_SHARE * found["difference"]
        ]
        for fool in FOOLS
        if fool in systems
    }
