# SPDX-License-Identifier: Apache-2.0
"""A generation can be stopped anywhere: longer computations call `progress` between their pieces."""

import time
from functools import partial
from typing import Any

import pytest
import torch

from hafm_hf.computing import torch_threads
from hafm_hf.modeling.fast_loop import FastGenerator
from hafm_hf.modeling.modeling_stage import (
    HAFMCoarseForCausalLM,
    HAFMFineForCausalLM,
    HAFMSemanticForCausalLM,
)
from hafm_hf.modeling.sampling import WindowBatch
from tiny_models import tiny_composite, tiny_rhythmic_tokenizer
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


class StopAt:
    """A callback that raises `Stop` when it is called for the `moment`-th time."""

    def __init__(self, moment: int) -> None:
        self.moment = moment
        self.calls = 0

    def __call__(self, *_: object) -> None:
        self.calls += 1
        if self.calls == self.moment:
            raise Stop


def test_tokenizer_and_codec_can_be_stopped_midway() -> None:
    model = tiny_composite(num_hidden_layers=1)
    vocal = torch.from_numpy(glide(3.0, CODEC_RATE))
    reports: list[tuple[str, int, int]] = []
    model.generate(vocal, CODEC_RATE, seed=1, progress=lambda *report: reports.append(report))
    first = reports.index(("semantic", 1, 150))
    last = reports.index(("fine", 900, 900)) if ("fine", 900, 900) in reports else reports.index(reports[-1])
    assert first > 3
    assert set(reports[:first]) == {("semantic", 0, 150)}, "the tokenizer's pieces"
    assert len(reports) - last > 2
    assert {stage for stage, *_ in reports[last:]} == {"fine"}, "the codec's stretches"
    for moment in (2, first - 1, last + 2, len(reports)):
        stop = StopAt(moment)
        with pytest.raises(Stop):
            model.generate(vocal, CODEC_RATE, seed=1, progress=stop)
        assert stop.calls == moment, "the callback was not called again"


@pytest.mark.parametrize("near_tempo", [None, 100.0])
def test_tracking_beats_of_a_long_song_can_be_stopped_midway(bundled: Any, near_tempo: float | None) -> None:
    points = torch.zeros(50 * 240, 4)
    called_at = [time.process_time()]
    bundled.semantic_tokenizer.track_beats(points, near_tempo=near_tempo, check_stop=partial(_note, called_at))
    whole = time.process_time() - called_at[0]
    assert max(b - a for a, b in zip(called_at, called_at[1:], strict=False)) < max(LONGEST_SECONDS, whole / 4)

    began = time.process_time()
    with pytest.raises(Stop):
        bundled.semantic_tokenizer.track_beats(points, near_tempo=near_tempo, check_stop=StopAt(1))
    assert time.process_time() - began < whole / 2


@pytest.mark.parametrize("call", ["encode", "extract_features", "describe", "measure_pitch_and_beats"])
def test_every_call_of_the_tokenizer_can_be_stopped(call: str) -> None:
    tokenizer = tiny_rhythmic_tokenizer()
    waveform = torch.from_numpy(glide(25.0, 16_000))
    counting = StopAt(0)
    how: dict[str, Any] = {"vocal": True} if call == "encode" else {}
    getattr(tokenizer, call)(waveform, check_stop=counting, **how)
    assert counting.calls > 2
    for moment in (1, counting.calls):
        stop = StopAt(moment)
        with pytest.raises(Stop):
            getattr(tokenizer, call)(waveform, check_stop=stop, **how)
        assert stop.calls == moment


def test_no_layer_is_hooked_during_a_generation() -> None:
    model = tiny_composite(num_hidden_layers=1)
    hooked: list[bool] = []

    def look(*_: object) -> None:
        hooked.append(any(module._forward_pre_hooks or module._forward_hooks for module in model.modules()))

    model.generate(torch.from_numpy(glide(0.4, CODEC_RATE)), CODEC_RATE, seed=1, progress=look)
    assert not any(hooked)


@pytest.mark.parametrize("model_class", [HAFMSemanticForCausalLM, HAFMCoarseForCausalLM, HAFMFineForCausalLM])
@torch.no_grad()
def test_a_stage_of_the_papers_size_can_be_stopped_within_half_a_second(model_class: Any) -> None:
    stage = model_class(model_class.config_class()).eval()
    config = stage.config
    frames = round(config.window_seconds * config.conditioning_frame_rate)
    conditioning = torch.zeros(1, config.num_conditioning_streams, frames, dtype=torch.long)
    # the longest first pass: a window of which all but a little is given
    known_codes = torch.zeros(1, config.num_codebooks, config.target_frames(frames) - 3, dtype=torch.long)
    gaps = []
    # processor time, and the best of a few runs, so that a busy machine does not fail the test
    for _ in range(3):
        decoder = FastGenerator(stage, stage.decoding_config())
        called_at = [time.process_time()]
        with torch_threads(1):
            decoder.codes(WindowBatch(conditioning, 3, known=known_codes), partial(_note, called_at))
        gaps.append(max(after - before for before, after in zip(called_at, called_at[1:], strict=False)))
        if gaps[-1] < 0.5:
            break
    assert min(gaps) < 0.5
