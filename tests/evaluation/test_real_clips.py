# SPDX-License-Identifier: Apache-2.0
"""Real singers (MIR-1K): true accompaniments beat shuffled ones on every score, and every fool is caught."""

from pathlib import Path
from typing import Any

import pytest

from hafm_hf.evaluation.datasets import cut_clips, load_karaoke, spread, sung_clips
from hafm_hf.evaluation.fools import FOOLS
from hafm_hf.evaluation.measuring import ClipJob, MeasuringOptions, measure
from hafm_hf.evaluation.protocol import ScoringOptions, make_report
from hafm_hf.evaluation.scores import SCORES

CLIPS = 32


@pytest.fixture(scope="module")
def report(shared_data: Path) -> dict[str, Any]:
    """A report on the reference and the fools (degenerate accompaniments) for some of the clips."""
    folder = shared_data / "mir1k_dev"
    if not folder.is_dir():
        pytest.skip(f"no karaoke clips at {folder}")
    clips = spread(sung_clips(cut_clips(load_karaoke(folder), None)), CLIPS)
    measured = [measure(MeasuringOptions(embedders=()), ClipJob(clip, outputs={})) for clip in clips]
    report, _ = make_report(measured, evaluated={}, options=ScoringOptions(), protocol={})
    return report


def test_true_accompaniments_beat_shuffled_ones_on_every_score(report: dict[str, Any]) -> None:
    assert report["protocol"]["clips"] == CLIPS
    reference = report["systems"]["reference"]["scores"]
    # these songs have no labelled beats or chords
    assert reference.keys() == {score.name for score in SCORES} - {"followed_beats", "followed_chords"}
    assert all(score["follows"] for score in reference.values())


def test_fools_are_caught_and_doubling_the_voice_wins_only_vocal_scores(report: dict[str, Any]) -> None:
    assert all(report["fools"][fool] for fool in FOOLS)
    doubled, reference = (report["systems"][name]["scores"] for name in ("sine doubling the voice", "reference"))
    assert doubled["pitch_class_share"]["difference"] > reference["pitch_class_share"]["difference"]
    assert doubled["chord_changes_shared"]["high"] < 0.25 * reference["chord_changes_shared"]["difference"]
