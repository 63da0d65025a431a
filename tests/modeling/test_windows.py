# SPDX-License-Identifier: Apache-2.0
"""Songs longer than a window: every frame once, forced overlaps, batched rows equal single ones, kept spans."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from hafm_hf.modeling.generation_hafm import RandomStream
from hafm_hf.modeling.windows import DecodingOptions, SongRow, StageRun, Window, default_decoding, song_windows
from modeling.test_modeling import conditioning_for
from tiny_models import tiny_stage

UNIT = 0.04


@pytest.mark.parametrize("frames", [1, 9, 10, 11, 25, 40])
def test_song_windows_cover_every_frame_once(frames: int) -> None:
    cut = song_windows(frames, window=10, overlap=3)
    covered = [frame for w in cut for frame in range(w.start + w.known, w.stop)]
    assert covered == list(range(frames)) and all(w.stop - w.start == min(10, frames) for w in cut)
    assert all(w.known >= 3 for w in cut[1:])


def test_one_window_fits_exactly_and_too_long_an_overlap_is_refused() -> None:
    assert song_windows(10, window=10, overlap=3) == [Window(0, 10, 0)]
    with pytest.raises(ValueError, match="overlap is 10"):
        song_windows(30, window=10, overlap=10)


def windowed(name: str, pattern: str = "flat") -> Any:
    stage = tiny_stage(name, codebook_pattern=pattern)
    stage.generation_config.update(window_seconds=0.24, overlap_seconds=0.08)
    return stage


def rows_of(*units: int) -> list[SongRow]:
    return [SongRow(length, RandomStream(3, sample=row)) for row, length in enumerate(units)]


@pytest.mark.parametrize(("pattern", "steps"), [("flat", 45 * 4), ("delay", 45 + 4 * 3)])
def test_windows_force_the_overlap_and_fill_the_song(pattern: str, steps: int) -> None:
    stage = windowed("coarse", pattern)
    counted: list[int] = []
    read: list[torch.Tensor] = []
    run = StageRun(stage, rows_of(15, 15), UNIT, DecodingOptions(), report=counted.append)
    # only the prefixes go through the stage's forward
    stage.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].clone()), with_kwargs=True
    )
    codes = run.run(list(conditioning_for(stage, batch=2, frames=30)))
    assert [tuple(row.shape) for row in codes] == [(4, 45)] * 2
    # four windows; under the delay pattern, the last codebook ends three slots after the first
    assert sum(counted) == run.steps == steps
    prefixes = [ids for ids in read if ids.shape[1] > 1]
    # windows of 6 units with an overlap of 2 start at units 0, 4, 8 and 9; a unit is 3 frames of 4 codebooks
    for prefix, unit, known in zip(prefixes, (4, 8, 9), (2, 2, 5), strict=True):
        there = torch.stack(codes)[:, :, unit * 3 : (unit + known) * 3].transpose(1, 2).flatten(1)
        expected = stage.pattern.inputs(torch.nn.functional.pad(there, (0, 4)), stage.config.bos_token_id)
        assert torch.equal(prefix[: len(expected)], expected[:, : prefix.shape[1]])


@pytest.mark.parametrize("decoding", ["fast", "reference"])
@pytest.mark.parametrize(
    ("name", "pattern", "independent"),
    [
        ("semantic", "flat", False),
        ("coarse", "flat", False),
        ("fine", "flat", True),
        ("coarse", "delay", False),
        ("fine", "delay", True),
    ],
)
def test_songs_of_different_lengths_generate_the_same_batched_and_alone(
    name: str, pattern: str, independent: bool, decoding: str
) -> None:
    stage = windowed(name, pattern)
    units = (15, 4, 9)
    per_unit = 3 if name == "fine" else 2
    conditioning = [conditioning_for(stage, 1, n * per_unit, seed=n)[0] for n in units]
    options = DecodingOptions(decoding)
    together = StageRun(stage, rows_of(*units), UNIT, options, independent).run(conditioning)
    for row, length in enumerate(units):
        song = SongRow(length, RandomStream(3, sample=row))
        for at_once in (1, 5):
            alone = StageRun(stage, [SongRow(song.units, song.stream)], UNIT, options, independent, at_once)
            assert torch.equal(alone.run([conditioning[row]])[0], together[row])


@pytest.mark.parametrize(("pattern", "steps"), [("flat", 6 * 12), ("delay", 6 * 3 + 3)])
def test_independent_windows_are_decoded_in_one_batch(pattern: str, steps: int) -> None:
    stage = windowed("fine", pattern)
    codes = conditioning_for(stage, batch=2, frames=45)
    counted: list[int] = []
    run = StageRun(stage, rows_of(15, 15), UNIT, DecodingOptions(), independent=True, report=counted.append)
    fine = run.run(list(codes))
    assert len(counted) == run.steps == steps, "four windows of two songs are one batch"
    assert [tuple(row.shape) for row in fine] == [(4, 45)] * 2


def test_independent_windows_are_joined_where_the_sound_changes_least(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = windowed("fine")
    stage.generation_config.update(overlap_seconds=0.16)
    vectors = torch.randn(stage.config.codebook_size, 8, generator=torch.Generator().manual_seed(0))
    conditioning = list(conditioning_for(stage, batch=2, frames=45))

    def sound(codes: torch.Tensor) -> torch.Tensor:
        return vectors[codes].sum(1)

    run = StageRun(stage, rows_of(15, 15), UNIT, DecodingOptions(), independent=True, sound=sound)
    decoded: list[torch.Tensor] = []

    def recorded(*args: Any) -> Iterator[torch.Tensor]:
        decoded.extend(StageRun._decode(run, *args))
        return iter(decoded)

    monkeypatch.setattr(run, "_decode", recorded)
    codes = run.run(conditioning)
    # a unit is 3 frames; windows of 18 frames with an overlap of 12 start at units 0, 2, 4, 6, 8 and 9
    starts, changed = [unit * 3 for unit in (0, 2, 4, 6, 8, 9)], 0
    for row in range(2):
        (batch,) = run.batches
        windows = [new.view(-1, 4) for job, new in zip(batch, decoded[0], strict=True) if job.row == row]
        song, borders = windows[0], []
        for start, window in zip(starts[1:], windows[1:], strict=True):
            end = len(song)
            changes = {}
            for at in range(end - 6, end + 1):
                begins, ends = sound(window[at - start : at - start + 3]), sound(song[at - 3 : at])
                changes[at] = float((begins.mean(0) - ends.mean(0)).norm())
            borders.append(min(changes, key=changes.__getitem__))
            changed += borders[-1] != end
            song = torch.cat([song[: borders[-1]], window[borders[-1] - start :]])
        assert torch.equal(codes[row], song.t())
    assert changed > 0, "some windows take over before the previous one ends"


def test_frames_that_the_next_window_may_replace_are_not_final() -> None:
    stage = windowed("fine")
    conditioning = list(conditioning_for(stage, batch=1, frames=45))
    run = StageRun(stage, rows_of(15), UNIT, DecodingOptions(), True, at_once=1, sound=lambda codes: codes.float())
    seen = torch.empty(4, 0, dtype=torch.long)
    while run.needs is not None:
        run.advance(conditioning)
        codes = run.codes(0)
        assert torch.equal(codes[:, : seen.shape[1]], seen), "final codes do not change"
        assert codes.shape[1] == run.final_units(0) * 3
        seen = codes
    assert seen.shape[1] == 45


@pytest.mark.parametrize(("pattern", "steps"), [("flat", 4 * 12), ("delay", 4 * 3 + 3)])
def test_given_spans_are_kept_and_fully_known_windows_are_skipped(pattern: str, steps: int) -> None:
    stage = windowed("coarse", pattern)
    conditioning = conditioning_for(stage, batch=1, frames=30)
    first = StageRun(stage, rows_of(15), UNIT, DecodingOptions()).run(list(conditioning))[0]
    flat = first.t().flatten()
    # keep units 0 to 7 and 10 to 15, and generate the rest
    given = flat.clone()
    given[7 * 12 : 10 * 12] = -1
    run = StageRun(stage, [SongRow(15, RandomStream(9), given)], UNIT, DecodingOptions())
    again = run.run(list(conditioning))[0].t().flatten()
    assert torch.equal(again[: 7 * 12], flat[: 7 * 12]) and torch.equal(again[10 * 12 :], flat[10 * 12 :])
    assert not torch.equal(again[7 * 12 : 10 * 12], flat[7 * 12 : 10 * 12])
    # new units of the windows begin at 0, 6, 10 and 14: only the second window is generated
    assert run.steps == steps


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("top_p", 0.5), ("min_p", 0.3), ("top_h", 0.4), ("typical_p", 0.4), ("epsilon_cutoff", 0.1),
        ("eta_cutoff", 0.1), ("repetition_penalty", 1.5), ("no_repeat_ngram_size", 2), ("bad_words_ids", [[3]]),
        ("sequence_bias", {(3,): 5.0}), ("suppress_tokens", [1, 2]), ("begin_suppress_tokens", [1]),
        ("forced_bos_token_id", 0), ("forced_eos_token_id", 3),
    ],
)  # fmt: skip
def test_settings_that_only_the_reference_supports_are_refused_by_the_fast_loop(setting: str, value: object) -> None:
    stage = tiny_stage("fine", position_scheme="time")
    stage.generation_config.update(**{setting: value})
    with pytest.raises(ValueError, match=f'generation config sets {setting} .*decoding="reference"'):
        StageRun(stage, rows_of(3), UNIT, DecodingOptions())
    conditioning = list(conditioning_for(stage, batch=1, frames=9))
    # settings that would change the form of the result are overridden per window
    stage.generation_config.update(return_dict_in_generate=True, num_return_sequences=2, max_time=1e-9)
    (codes,) = StageRun(stage, rows_of(3), UNIT, DecodingOptions("reference")).run(conditioning)
    assert codes.shape == (4, 9)


def test_settings_without_effect_are_accepted() -> None:
    stage = tiny_stage("fine")
    stage.generation_config.update(
        top_p=1.0, min_p=0.0, typical_p=1.0, epsilon_cutoff=0.0, repetition_penalty=1.0, suppress_tokens=[]
    )
    assert StageRun(stage, rows_of(3), UNIT, DecodingOptions()).steps == 36
    stage.generation_config = GenerationConfig(do_sample=True)
    assert StageRun(stage, rows_of(3), UNIT, DecodingOptions()).steps == 36


@pytest.mark.parametrize("how", ["fast", "reference"])
def test_without_sampling_both_loops_take_the_most_likely_tokens(how: str) -> None:
    stage = tiny_stage("coarse", position_scheme="time")
    conditioning = conditioning_for(stage, batch=1, frames=6)
    likeliest = stage.generate(conditioning_ids=conditioning, do_sample=False)[:, 1:]
    stage.generation_config.do_sample = False
    (codes,) = StageRun(stage, rows_of(3), UNIT, DecodingOptions(how, top_k=9)).run(list(conditioning))
    assert codes.t().flatten().tolist() == likeliest[0].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoding": "reference", "compile": True}, "compile=True needs the fast loop, but decoding is 'reference'"),
        ({"compile": True}, "compile=True needs CUDA, but the model is on"),
    ],
)
def test_unsupported_compile_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StageRun(tiny_stage("fine"), rows_of(3), UNIT, DecodingOptions(**options))


@pytest.mark.parametrize(
    ("device", "offloaded", "loop"),
    [("cpu", False, "fast"), ("cuda", False, "fast"), ("mps", False, "reference"), ("cuda", True, "reference")],
)
def test_the_fast_loop_is_the_default_only_on_cpu_and_cuda(device: str, offloaded: bool, loop: str) -> None:
    part = SimpleNamespace(**({"_hf_hook": None} if offloaded else {}))
    stage: Any = SimpleNamespace(device=torch.device(device), modules=lambda: [part])
    assert default_decoding([stage]) == loop
    assert DecodingOptions().decoder(tiny_stage("fine")).compile is False, "graphs are off by default"
