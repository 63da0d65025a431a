# SPDX-License-Identifier: Apache-2.0
"""Scores of following the singer as a module of `evaluate`.

evaluate.load("<this folder>").compute(predictions=[accompaniment, …], vocals=[…], references=[…], sampling_rate=24000)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hafm_hf.evaluation import modules
from hafm_hf.evaluation.features import ANALYSIS_RATE, extract
from hafm_hf.evaluation.leakage import voice_leak_db
from hafm_hf.evaluation.protocol import ClipScores, ScoringOptions, describe_system
from hafm_hf.evaluation.scores import SCORE_NAMES, SCORES, score_pair
from hafm_hf.evaluation.statistics import HAFMEvaluationError, as_json, other_song_partners

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
    for each score {"matched", "control", "difference", "low", "high", "n", "songs", "follows"}, and
    "leak_db", the median of the voice-coherent energy in the accompaniments.
"""
CITATION = "@misc{hafm_hf, title={hafm_hf: accompaniment for singing voices}}\n"


class SingerFollowing(modules.RecordingsMetric):
    """Measures each sound once and scores matched and shuffled pairs."""

    description, inputs, citation = DESCRIPTION, INPUTS_DESCRIPTION, CITATION

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
        if len(predictions) != len(vocals) or (references is not None and len(references) != len(vocals)):
            raise HAFMEvaluationError(f"{len(predictions)} accompaniments do not fit {len(vocals)} vocals.")
        sung = modules.at_rate(vocals, sampling_rate, ANALYSIS_RATE)
        played = modules.at_rate(predictions, sampling_rate, ANALYSIS_RATE)
        voices = [extract(sound, voice=True) for sound in sung]
        bands = [extract(sound) for sound in played]
        wanted: list[Any] = [None] * len(voices)
        if references is not None:
            wanted = [extract(sound) for sound in modules.at_rate(references, sampling_rate, ANALYSIS_RATE)]
        names = [f"{index:06d}" for index in range(len(voices))]
        whose = songs or names
        drawn = other_song_partners(names, whose, [voice.seconds for voice in voices], partners, seed)
        scored = []
        for index, (voice, reference) in enumerate(zip(voices, wanted, strict=True)):
            matched = score_pair(voice, reference, bands[index])
            shuffled = [score_pair(voice, reference, bands[other]) for other in drawn[index]]
            control = {name: float(np.mean([each[name] for each in shuffled])) for name in SCORE_NAMES}
            leak = {"leak_db": voice_leak_db(sung[index], played[index])}
            scored.append(ClipScores(names[index], whose[index], "predictions", matched, control, leak))
        found = as_json(describe_system(scored, ScoringOptions(partners=partners, seed=seed)))
        return found["scores"] | {"leak_db": found["readings"]["leak_db"]["median"]}
