# SPDX-License-Identifier: Apache-2.0
"""The metric module for `evaluate`, loaded from its folder by evaluate.load."""

from collections.abc import Iterator

import pytest

from hafm_hf.evaluation.features import ANALYSIS_RATE as RATE
from hafm_hf.evaluation.statistics import HAFMEvaluationError
from programs import REPOSITORY

evaluate = pytest.importorskip("evaluate")


@pytest.fixture(autouse=True, scope="module")
def modules_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the copy that `evaluate` makes of the module out of the home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


def test_singer_following_prefers_the_true_bands(songs: list) -> None:
    metric = evaluate.load(str(REPOSITORY / "recipes/metrics/singer_following"))
    voices = [voice for voice, _ in songs]
    bands = [band for _, band in songs]
    result = metric.compute(predictions=bands, vocals=voices, references=bands, sampling_rate=RATE)
    assert result["pitch_class_share"]["low"] > 0
    assert result["onsets_shared"]["low"] > 0
    bands_of_others = bands[1:] + bands[:1]
    wrong = metric.compute(predictions=bands_of_others, vocals=voices, sampling_rate=RATE)
    assert wrong["pitch_class_share"]["difference"] < result["pitch_class_share"]["difference"]
    assert "onsets_shared" not in wrong
    with pytest.raises(HAFMEvaluationError, match="Accompaniment 0 is 1.00 s long"):
        metric.compute(predictions=[band[:RATE] for band in bands], vocals=voices, sampling_rate=RATE)
    with pytest.raises(HAFMEvaluationError, match="do not fit"):
        metric.compute(predictions=bands[:2], vocals=voices, sampling_rate=RATE)
