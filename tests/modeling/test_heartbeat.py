# SPDX-License-Identifier: Apache-2.0
"""A generation ends within a tenth of a second, wherever it is: what takes longer than a step asks in between."""

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
def test_nothing_computes_for_longer_than_a_tenth_of_a_second_unasked(bundled: Any, kept: bool) -> None:
    vocal = glide(4.0, CODEC_RATE)
    options = {"instrumental": vocal, "keep": [(0.0, 3.5)]} if kept else {"skip_fine": True}
    gaps = []
    # time of this process, and the least of a few runs: a busy machine is not a slow one
    for _ in range(4):
        asked = [time.process_time()]
        bundled.generate(vocal, CODEC_RATE, seed=1, progress=partial(_note, asked), **options)
        asked.append(time.process_time())
        gaps.append(max(after - before for before, after in zip(asked, asked[1:], strict=False)))
        if gaps[-1] < LONGEST_SECONDS:
            break
    assert min(gaps) < LONGEST_SECONDS


def _note(asked: list[float], *_: object) -> None:
    asked.append(time.process_time())


class Stop(Exception):
    """What a progress callback raises in these tests."""


def stop(*_: object) -> None:
    raise Stop


def test_the_tokenizer_and_the_codec_are_ended_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hafm_hf.accompaniment.song.BEAT_SECONDS", 0.0)
    model = tiny_composite(num_hidden_layers=1)
    vocal = torch.from_numpy(glide(1.0, CODEC_RATE))
    told: list[tuple[str, int, int]] = []
    model.generate(vocal, CODEC_RATE, seed=1, progress=lambda *report: told.append(report))
    first = told.index(("semantic", 1, 50))
    last = told.index(("fine", 300, 300))
    assert first > 3 and set(told[:first]) == {("semantic", 0, 50)}
    assert len(told) - last > 3 and set(told[last:]) == {("fine", 300, 300)}
    for moment in (2, first - 1, last + 2, len(told) - 1):
        calls = 0

        def stop_at(*_: object, moment: int = moment) -> None:
            nonlocal calls
            calls += 1
            if calls == moment:
                raise Stop

        with pytest.raises(Stop):
            model.generate(vocal, CODEC_RATE, seed=1, progress=stop_at)
        assert calls == moment, "nothing was computed after it"


@pytest.mark.parametrize("near", [None, 100.0])
def test_a_long_line_of_beats_is_ended_in_the_middle(bundled: Any, near: float | None) -> None:
    places, asked = torch.zeros(50 * 240, 4), [time.process_time()]
    with Heartbeat(bundled, partial(_note, asked)):
        bundled.semantic_tokenizer.beat_phase(places, near=near)
    whole = time.process_time() - asked[0]
    assert max(b - a for a, b in zip(asked, asked[1:], strict=False)) < max(LONGEST_SECONDS, whole / 4)

    began = time.process_time()
    with Heartbeat(bundled, stop), pytest.raises(Stop):
        bundled.semantic_tokenizer.beat_phase(places, near=near)
    assert time.process_time() - began < whole / 2


def test_who_uses_the_model_in_another_thread_is_not_ended(bundled: Any) -> None:
    places = torch.zeros(50 * 60, 4)

    with Heartbeat(bundled, stop), ThreadPoolExecutor() as pool:
        assert len(pool.submit(bundled.semantic_tokenizer.beat_phase, places).result()) == len(places)
        with pytest.raises(Stop):
            bundled.semantic_tokenizer.beat_phase(places)


def test_no_hook_stays_behind() -> None:
    model = tiny_composite(num_hidden_layers=1)
    with pytest.raises(Stop), Heartbeat(model, lambda *_: None):
        assert any(module._forward_pre_hooks for module in model.modules())
        raise Stop
    assert not any(module._forward_pre_hooks for module in model.modules())
    with Heartbeat(model, None):
        assert not any(module._forward_pre_hooks for module in model.modules())
