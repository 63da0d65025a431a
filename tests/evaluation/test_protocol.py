# SPDX-License-Identifier: Apache-2.0
"""Prompt adherence of whole sets of clips, and scores of other tools, on embeddings with known answers."""

import numpy as np
import pytest

from hafm_hf.evaluation.measuring import REFERENCE, SHUFFLED, Candidate, Measurement
from hafm_hf.evaluation.protocol import ScoringOptions, set_distances

# of embeddings
WIDTH = 4
OPTIONS = ScoringOptions(frechet_resamples=50)


def made_measurements(songs: list[tuple], systems: dict[str, float], count: int = 40) -> list[Measurement]:
    """Measurements of clips, two a song, whose embeddings, alone and mixed, lie around the offset of their system.

    Args:
        songs: features of voices and bands; all clips get those of the first song, which the scores here do not read.
        systems: offset of each system, in standard deviations of the embeddings.
        count: number of clips.
    """
    voice, band = songs[0]
    generator = np.random.default_rng(3)
    measurements = []
    for number in range(count):
        candidates = {}
        for name, offset in systems.items():
            vectors = (generator.standard_normal((20, WIDTH)) + offset).astype(np.float32)
            candidates[name] = Candidate(band, embeddings={"embedder": vectors}, mixes={"embedder": vectors})
        measurements.append(Measurement(f"clip {number}", f"song {number // 2}", voice, band, candidates))
    return measurements


def test_adherence_ranks_systems_between_the_reference_and_shuffled_bands(measured: list[tuple]) -> None:
    offsets = {REFERENCE: 0.0, SHUFFLED: 2.0, "near": 0.5, "far": 1.5}
    measurements = made_measurements(measured, offsets)
    stated = {name: set_distances(measurements, name, OPTIONS)["embedder"] for name in offsets}
    adherence = {name: each["adherence"] for name, each in stated.items()}
    assert adherence[REFERENCE] == pytest.approx(1.0, abs=0.02)
    assert adherence["near"] == pytest.approx(0.75, abs=0.05)
    assert adherence["far"] == pytest.approx(0.25, abs=0.05)
    assert adherence[SHUFFLED] == pytest.approx(0.0, abs=0.02)
    for each in stated.values():
        low, high = each["adherence_interval"]
        assert low <= each["adherence"] <= high
    assert stated["near"]["adherence_interval"][0] > stated["far"]["adherence_interval"][1]
    assert stated[REFERENCE]["coverage"] == 1.0
    assert stated["far"]["coverage"] < stated["near"]["coverage"]


def test_candidates_are_compared_with_references_of_other_songs(measured: list[tuple]) -> None:
    # each song has its own offset: only compared with itself would the reference be perfect
    generator = np.random.default_rng(5)
    offsets = generator.standard_normal((10, WIDTH))
    measurements = made_measurements(measured, {REFERENCE: 0.0, SHUFFLED: 1.0}, count=20)
    for number, each in enumerate(measurements):
        for candidate in each.candidates.values():
            candidate.mixes["embedder"] += offsets[number // 2].astype(np.float32)
    stated = set_distances(measurements, REFERENCE, OPTIONS)["embedder"]
    assert 0.5 < stated["adherence"] < 1.0


def test_with_too_few_clips_adherence_is_refused_with_the_reason(measured: list[tuple]) -> None:
    measurements = made_measurements(measured, {REFERENCE: 0.0, SHUFFLED: 1.0}, count=4)
    for each in measurements:
        for candidate in each.candidates.values():
            candidate.mixes["embedder"] = candidate.mixes["embedder"][:1]
    stated = set_distances(measurements, REFERENCE, OPTIONS)["embedder"]
    assert "2 embeddings of width 4 are too few" in stated["adherence_refused"]
    assert "adherence" not in stated
