# SPDX-License-Identifier: Apache-2.0
"""Scores of following the singer as a module of `evaluate`.

metric = evaluate.load("recipes/metrics/singer_following")
metric.compute(predictions=[accompaniment, …], vocals=[…], references=[…], sampling_rate=24000)
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from hafm_hf.audio import resample, to_samples
from hafm_hf.evaluation.features import ANALYSIS_RATE, extract
from hafm_hf.evaluation.measuring import Candidate, Measurement, Sound, as_long_as
from hafm_hf.evaluation.protocol import ScoringOptions, describe_system, score_clips
from hafm_hf.evaluation.scores import SCORES
from hafm_hf.evaluation.statistics import HAFMEvaluationError, as_json

DESCRIPTION = """\
Whether accompaniments follow the singer in harmony and time: each score on the matched pairs minus the same on pairs
shuffled across songs, with its bootstrap interval over songs; 0 is chance.
""" + "\n".join(f"- {score.name} ({score.aspect}): fooled by {score.fooled_by}." for score in SCORES)
INPUTS_DESCRIPTION = """\
Args:
    predictions: list of accompaniments, float [N] each.
    vocals: list of the voices they accompany, as many.
    references: list of the voices' own accompaniments; None leaves out the scores that need them.
    songs: names; clips of one song are no control for each other, and intervals are over songs. Each clip is a song of
        its own if not given.
    sampling_rate: Hz of all of them.
    partners: shuffled pairs a clip.
    seed: of shuffling and bootstrap.
Returns:
    for each score {"matched", "control", "difference", "low", "high", "n", "songs", "follows"}.
"""
CITATION = "@misc{hafm_hf, title={hafm_hf: accompaniment for singing voices}}\n"


class SingerFollowing(evaluate.Metric):
    """Measures each sound once and scores matched and shuffled pairs."""

    def _info(self) -> evaluate.MetricInfo:
        """Describes the metric for `evaluate`."""
        sequence = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": sequence}),
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        """The scores; see INPUTS_DESCRIPTION.

        `evaluate` would store the inputs in a table, which recordings of different lengths do not fit; they bypass it.
        """
        return self._compute(predictions=predictions, references=references, **kwargs)

    def _compute(
        self,
        *,
        predictions: Any,
        references: Any,
        vocals: Any,
        sampling_rate: int,
        songs: list[str] | None = None,
        partners: int = 4,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Scores accompaniments; the arguments are those of INPUTS_DESCRIPTION."""
        if len(predictions) != len(vocals) or (references is not None and len(references) != len(vocals)):
            raise HAFMEvaluationError(f"{len(predictions)} accompaniments do not fit {len(vocals)} vocals.")
        names = [f"{index:06d}" for index in range(len(vocals))]
        reference_sounds: list[Any] = [None] * len(vocals)
        if references is not None:
            reference_sounds = _resampled(references, sampling_rate)
        sounds = zip(
            _resampled(vocals, sampling_rate), _resampled(predictions, sampling_rate), reference_sounds, strict=True
        )
        measured = []
        for name, song, (vocal, prediction, reference) in zip(names, songs or names, sounds, strict=True):
            sound = as_long_as(
                Sound(prediction, ANALYSIS_RATE), len(vocal) / ANALYSIS_RATE, f"Accompaniment {int(name)}"
            )
            candidate = Candidate(extract(sound.samples), {})
            features = None if reference is None else extract(reference)
            measured.append(Measurement(name, song, extract(vocal, voice=True), features, {"predictions": candidate}))
        options = ScoringOptions(partners, seed)
        return as_json(describe_system(score_clips(measured, options), options)["scores"])


def _resampled(recordings: Any, rate: int) -> list[np.ndarray]:
    """Recordings (sequence of [N] at `rate` Hz) as mono float32 [N'] at the rate of the scores.

    Raises:
        HAFMAudioError: NaN, infinite samples, or another shape.
    """
    sounds = [to_samples(np.asarray(recording, np.float32), name="a recording") for recording in recordings]
    return [resample(sound, rate, ANALYSIS_RATE) for sound in sounds]
