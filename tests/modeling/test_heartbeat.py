# SPDX-License-Identifier: Apache-2.0
"""A generation can be cancelled within a tenth of a second anywhere: longer computations poll the callback."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch

from hafm_hf.accompaniment.song import Heartbeat
from tiny_models import tiny_composite
from vocals import CODEC_RATE, glide

LONGEST_SECONDS = 0.1


@pytest.mark.parametrize("kept", [False, True])
def test_progress_is_called_at_least_every_tenth_of_a_second(bundled: Any, kept: bool) -> None:
    vocal = glide(4.0, CODEC_RATE)
    options = {"instrumental": vocal, "keep": [(0.0, 3.5)]} if kept else {"skip_fine": True}
    gaps = []
    # processor time, and the best of a few runs, so that a busy machine does not fail the test
    for _ in range(4):
        called_at = [time.process_time()]
        bundled.generate(vocal, CODEC_RATE, seed=1, progress=partial(_note, called_at), **options)
        called_at.append(time.process_time())
        gaps.append(max(after - before for before, after in zip(called_at, called_at[1:], strict=False)))
        if gaps[-1] < LONGEST_SECONDS:
            break
    assert min(gaps) < LONGEST_SECONDS


def _note(called_at: list[float], *_: object) -> None:
    called_at.append(time.process_time())


class Stop(Exception):
    """Raised by the progress callbacks of these tests."""


def stop(*_: object) -> None:
    raise Stop


def test_tokenizer_and_codec_can_be_cancelled_midway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hafm_hf.accompaniment.song.HEARTBEAT_SECONDS", 0.0)
    model = tiny_composite(num_hidden_layers=1)
    vocal = torch.from_numpy(glide(1.0, CODEC_RATE))
    reports: list[tuple[str, int, int]] = []
    model.generate(vocal, CODEC_RATE, seed=1, progress=lambda *report: reports.append(report))
    first = reports.index(("semantic", 1, 50))
    last = reports.index(("fine", 300, 300))
    assert first > 3
    # the number of steps is known only after listening
    assert {(stage, done) for stage, done, _ in reports[:first]} == {("semantic", 0)}
    assert len(reports) - last > 3 and set(reports[last:]) == {("fine", 300, 300)}
    for moment in (2, first - 1, last + 2, len(reports) - 1):
        calls = 0

        def stop_at(*_: object, moment: int = moment) -> None:
            nonlocal calls
            calls += 1
            if calls == moment:
                raise Stop

        with pytest.raises(Stop):
            model.generate(vocal, CODEC_RATE, seed=1, progress=stop_at)
        assert calls == moment, "the callback was not called again"


@pytest.mark.parametrize("near", [None, 100.0])
def test_tracking_beats_of_a_long_song_can_be_cancelled_midway(bundled: Any, near: float | None) -> None:
    places, called_at = torch.zeros(50 * 240, 4), [time.process_time()]
    with Heartbeat(bundled, partial(_note, called_at)):
        bundled.semantic_tokenizer.beat_phase(places, near=near)
    whole = time.process_time() - called_at[0]
    assert max(b - a for a, b in zip(called_at, called_at[1:], strict=False)) < max(LONGEST_SECONDS, whole / 4)

    began = time.process_time()
    with Heartbeat(bundled, stop), pytest.raises(Stop):
        bundled.semantic_tokenizer.beat_phase(places, near=near)
    assert time.process_time() - began < whole / 2


def test_another_thread_using_the_model_is_not_cancelled(bundled: Any) -> None:
    places = torch.zeros(50 * 60, 4)

    with Heartbeat(bundled, stop), ThreadPoolExecutor() as pool:
        assert len(pool.submit(bundled.semantic_tokenizer.beat_phase, places).result()) == len(places)
        with pytest.raises(Stop):
            bundled.semantic_tokenizer.beat_phase(places)


def test_hooks_are_removed_afterwards() -> None:
    model = tiny_composite(num_hidden_layers=1)
    with pytest.raises(Stop), Heartbeat(model, lambda *_: None):
        assert any(module._forward_pre_hooks for module in model.modules())
        raise Stop
    assert not any(module._forward_pre_hooks for module in model.modules())
    with Heartbeat(model, None):
        assert not any(module._forward_pre_hooks for module in model.modules())
