# SPDX-License-Identifier: Apache-2.0
"""The modules of `evaluate`, through evaluate.load with their folders."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hafm_hf.evaluation
from hafm_hf.evaluation.features import ANALYSIS_RATE as RATE
from hafm_hf.evaluation.statistics import HAFMEvaluationError

evaluate = pytest.importorskip("evaluate")
METRICS = Path(hafm_hf.evaluation.__file__).parent / "metrics"


@pytest.fixture(autouse=True, scope="module")
def modules_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copies of the modules that `evaluate` makes stay out of the home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


def load(name: str) -> Any:
    return evaluate.load(str(METRICS / name))


def test_frechet_distance_of_a_set_to_itself_is_zero(bundled_model: Path, songs: list) -> None:
    metric = load("frechet_audio_distance")
    # 9 recordings of 23 windows are just more than the embedder's 192 dimensions
    bands = [band for _, band in [*songs, songs[0]]]
    voices = [voice for voice, _ in [*songs, songs[0]]]
    same = metric.compute(predictions=bands, references=bands, sampling_rate=RATE)
    assert same["frechet_audio_distance"] == pytest.approx(0.0, abs=1e-6)
    assert same["n"] == 9 * 23
    other = metric.compute(predictions=voices, references=bands, sampling_rate=RATE, resamples=5)
    assert other["frechet_audio_distance"] > 1.0
    assert other["low"] < other["high"]
    with pytest.raises(HAFMEvaluationError, match="too few"):
        metric.compute(predictions=bands[:2], references=bands, sampling_rate=RATE)


def test_kernel_distance_takes_sets_of_any_size(bundled_model: Path, songs: list) -> None:
    metric = load("kernel_audio_distance")
    bands, voices = [band for _, band in songs[:3]], [voice for voice, _ in songs[:2]]
    same = metric.compute(predictions=bands, references=bands, sampling_rate=RATE)
    other = metric.compute(predictions=voices, references=bands, sampling_rate=RATE)
    assert other["kernel_audio_distance"] > same["kernel_audio_distance"] + 1.0
    assert (other["n"], other["n_references"]) == (46, 69)


def test_singer_following_tells_bands_from_others(songs: list) -> None:
    metric = load("singer_following")
    voices, bands = [voice for voice, _ in songs], [band for _, band in songs]
    found = metric.compute(predictions=bands, vocals=voices, references=bands, sampling_rate=RATE)
    assert found["pitch_class_share"]["low"] > 0
    assert found["onsets_shared"]["low"] > 0
    wrong = metric.compute(predictions=bands[1:] + bands[:1], vocals=voices, sampling_rate=RATE)
    assert wrong["pitch_class_share"]["difference"] < found["pitch_class_share"]["difference"]
    assert "onsets_shared" not in wrong
    with pytest.raises(HAFMEvaluationError, match="do not fit"):
        metric.compute(predictions=bands[:2], vocals=voices, sampling_rate=RATE)
