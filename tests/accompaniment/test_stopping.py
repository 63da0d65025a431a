# SPDX-License-Identifier: Apache-2.0
"""A generation can be stopped anywhere: longer computations call `progress` between their pieces."""

import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from hafm_hf import audio
from hafm_hf.computing import torch_threads
from hafm_hf.lead_sheet.lead_sheet import LeadSheet
from hafm_hf.modeling.fast_loop import FastGenerator
from hafm_hf.modeling.modeling_stage import (
    HAFMCoarseForCausalLM,
    HAFMFineForCausalLM,
    HAFMSemanticForCausalLM,
)
from hafm_hf.modeling.sampling import WindowBatch
from tiny_models import tiny_composite, tiny_rhythmic_tokenizer
from vocals import CODEC_RATE, glide

# a callback that notes the time at which it is called
Note = Callable[..., None]


def longest_share(work: Callable[[Note], object], bound: float) -> float:
    """The longest time between two calls of the callback that `work` is given, as a share of the whole.

    It is measured in processor time, and the best of up to four runs counts, so that a busy machine fails no test.

    Args:
        work: what is measured; it takes a callback to call between its pieces.
        bound: a share below which no other run is needed.
    """
    shares = []
    for _ in range(4):
        called_at = [time.process_time()]
        work(partial(_note, called_at))
        called_at.append(time.process_time())
        longest = max(after - before for before, after in pairwise(called_at))
        shares.append(longest / (called_at[-1] - called_at[0]))
        if shares[-1] < bound:
            break
    return min(shares)


@pytest.mark.parametrize("kept", [False, True])
def test_no_tenth_of_a_generation_passes_without_progress(bundled: Any, kept: bool) -> None:
    vocal = glide(4.0, CODEC_RATE)
    options = {"instrumental": vocal, "keep": [(0.0, 3.5)]} if kept else {"skip_fine": True}
    generate = partial(bundled.generate, vocal, CODEC_RATE, seed=1, **options)
    assert longest_share(lambda note: generate(progress=note), bound=1 / 10) < 1 / 10


@pytest.mark.parametrize("given", [{}, {"beats": [0.5, 1.0], "chords": [(0.0, 90.0, "C:maj")]}])
def test_no_piece_of_listening_to_a_long_voice_takes_long(bundled: Any, given: dict[str, Any]) -> None:
    (vocal,) = bundled.feature_extractor().vocals(glide(90.0, 16_000), 16_000)
    listen = partial(bundled.encoder, vocal, LeadSheet.given(given))
    assert longest_share(lambda note: listen(check_stop=note), bound=1 / 10) < 1 / 10


def test_separating_a_long_band_can_be_stopped_midway(bundled: Any) -> None:
    band = torch.from_numpy(np.stack([glide(40.0, 44_100)] * 2))
    assert longest_share(lambda note: bundled.separator.separate(band, 44_100, note), bound=1 / 5) < 1 / 5


@pytest.mark.parametrize("options", [{}, {"balance": "auto", "loudness": -14.0}])
def test_mixing_can_be_stopped_midway(accompany: Any, options: dict[str, Any]) -> None:
    if options:
        pytest.importorskip("pyloudnorm")
    reports: list[tuple[str, int, int]] = []
    vocal = {"array": glide(1.0, CODEC_RATE), "sampling_rate": CODEC_RATE}
    accompany(vocal, seed=1, skip_fine=True, progress=lambda *report: reports.append(report), **options)
    generated: list[tuple[str, int, int]] = []
    accompany.model.generate(
        vocal["array"], CODEC_RATE, seed=1, skip_fine=True, progress=lambda *report: generated.append(report)
    )
    assert reports[: len(generated)] == generated
    # mixing reports before the track and before the peaks of the mix; with the options, also before the loudness of
    # voice and band and each pass of the limiter
    assert len(reports) - len(generated) >= (6 if options else 2)
    assert set(reports[len(generated) :]) == {generated[-1]}
    for moment in (len(generated) + 1, len(reports)):
        stop = StopAt(moment)
        with pytest.raises(Stop):
            accompany(vocal, seed=1, skip_fine=True, progress=stop, **options)
        assert stop.calls == moment


def test_no_piece_of_bringing_a_song_to_a_loudness_takes_long() -> None:
    pytest.importorskip("pyloudnorm")
    song = np.stack([glide(40.0, 44_100, amplitude=0.05)] * 2, axis=1)
    # clicks that the limiter has to lower, pass by pass
    song[::22_050] = 0.9
    limit = partial(audio.to_loudness, song, 44_100, -12.0)
    assert longest_share(lambda note: limit(check_stop=note), bound=1 / 4) < 1 / 4


def test_a_missing_loudness_meter_is_found_before_the_generation(
    accompany: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)
    reports: list[tuple[str, int, int]] = []
    for options in ({"balance": "auto"}, {"loudness": -16.0}):
        with pytest.raises(ModuleNotFoundError, match=r"hafm-hf\[studio\]"):
            accompany(
                glide(1.0, CODEC_RATE),
                sampling_rate=CODEC_RATE,
                progress=lambda *report: reports.append(report),
                **options,
            )
    assert not reports


def _note(called_at: list[float], *_: object) -> None:
    """Appends the processor time in seconds to a list."""
    called_at.append(time.process_time())


class Stop(Exception):
    """Raised by the progress callbacks of these tests."""


class StopAt:
    """A callback that counts its calls, and raises `Stop` at call number `moment`, from 1; 0: never."""

    def __init__(self, moment: int) -> None:
        self.moment = moment
        self.calls = 0

    def __call__(self, *_: object) -> None:
        """Counts the call, and raises `Stop` if it is the chosen one."""
        self.calls += 1
        if self.calls == self.moment:
            raise Stop


def test_tokenizer_and_codec_can_be_stopped_midway() -> None:
    model = tiny_composite(num_hidden_layers=1)
    vocal = torch.from_numpy(glide(3.0, CODEC_RATE))
    reports: list[tuple[str, int, int]] = []
    model.generate(vocal, CODEC_RATE, seed=1, progress=lambda *report: reports.append(report))
    first = reports.index(("semantic", 1, 150))
    # the last stage is done; the codec repeats this report
    all_done = ("fine", 900, 900)
    if all_done not in reports:
        all_done = reports[-1]
    last = reports.index(all_done)
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
    assert max(after - before for before, after in pairwise(called_at)) < whole / 4

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
        """Notes whether any layer has a hook."""
        hooked.append(any(module._forward_pre_hooks or module._forward_hooks for module in model.modules()))

    model.generate(torch.from_numpy(glide(0.4, CODEC_RATE)), CODEC_RATE, seed=1, progress=look)
    assert not any(hooked)


@pytest.mark.parametrize("model_class", [HAFMSemanticForCausalLM, HAFMCoarseForCausalLM, HAFMFineForCausalLM])
@torch.no_grad()
def test_the_first_pass_of_a_stage_of_the_papers_size_can_be_stopped_midway(model_class: Any) -> None:
    stage = model_class(model_class.config_class()).eval()
    config = stage.config
    frames = round(config.window_seconds * config.conditioning_frame_rate)
    conditioning = torch.zeros(1, config.num_conditioning_streams, frames, dtype=torch.long)
    # the longest first pass: a window of which all but a little is given
    known_codes = torch.zeros(1, config.num_codebooks, config.target_frames(frames) - 3, dtype=torch.long)

    def decode(note: Note) -> None:
        """Decodes the window on one thread."""
        with torch_threads(1):
            FastGenerator(stage, stage.decoding_config()).codes(WindowBatch(conditioning, 3, known=known_codes), note)

    # the whole takes some 5 s
    assert longest_share(decode, bound=1 / 8) < 1 / 8
