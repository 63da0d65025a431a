# SPDX-License-Identifier: Apache-2.0
"""Songs longer than a window: every frame once, forced overlaps, batched rows equal single ones, kept spans."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from hafm_hf.modeling.fast_loop import FastGenerator
from hafm_hf.modeling.sampling import RandomNumbers
from hafm_hf.modeling.windows import SongCodes, StageRun, Window, default_decoding, song_windows, window_frames
from modeling.test_modeling import conditioning_for
from tiny_models import tiny_stage


@pytest.mark.parametrize("frames", [1, 9, 10, 11, 25, 40])
def test_song_windows_cover_every_frame_once(frames: int) -> None:
    cut = song_windows(frames, window=10, overlap=3)
    covered = [frame for window in cut for frame in range(window.start + window.overlap_frames, window.stop)]
    assert covered == list(range(frames))
    assert all(window.stop - window.start == min(10, frames) for window in cut)
    assert all(window.overlap_frames >= 3 for window in cut[1:])


def test_one_window_fits_exactly_and_too_long_an_overlap_is_refused() -> None:
    assert song_windows(10, window=10, overlap=3) == [Window(0, 10, 0)]
    with pytest.raises(ValueError, match="overlap is 10"):
        song_windows(30, window=10, overlap=10)


@pytest.mark.parametrize(
    # frames of a window, and of its overlap of 0.08 s
    ("name", "seconds", "frames"),
    [("semantic", 0.25, (12, 4)), ("coarse", 0.25, (18, 6)), ("fine", 0.25, (19, 6)), ("coarse", 0.01, (3, 0))],
)
def test_windows_are_whole_frames_of_the_conditioning_too(name: str, seconds: float, frames: tuple[int, int]) -> None:
    stage = tiny_stage(name)
    stage.generation_config.update(window_seconds=seconds, overlap_seconds=0.08)
    assert window_frames(stage.config, stage.decoding_config()) == frames


def windowed(name: str, pattern: str = "flat", **settings: Any) -> Any:
    """A stage with windows of 0.24 s and an overlap of 0.08: at 75 Hz 18 and 6 frames."""
    stage = tiny_stage(name, codebook_pattern=pattern)
    stage.generation_config.update(**{"window_seconds": 0.24, "overlap_seconds": 0.08, **settings})
    return stage


def songs_of(*frames: int) -> list[SongCodes]:
    """Songs of so many frames, with nothing generated yet."""
    return [SongCodes(length, RandomNumbers(3, variation=number)) for number, length in enumerate(frames)]


def run_of(stage: Any, songs: list[SongCodes], decoding: str = "fast", **options: Any) -> StageRun:
    """The generation of songs by a stage, with the stage's own settings."""
    return StageRun(stage, songs, stage.decoding_config(), decoding, **options)


# 45 frames of 4 codebooks in 4 windows; under the delay pattern each ends 3 slots later
@pytest.mark.parametrize(("pattern", "steps"), [("flat", 45 * 4), ("delay", 45 + 4 * 3)])
def test_windows_force_the_overlap_and_fill_the_song(pattern: str, steps: int) -> None:
    stage = windowed("coarse", pattern)
    counted: list[int] = []
    read: list[torch.Tensor] = []
    run = run_of(stage, songs_of(45, 45), report=counted.append)
    # only the prefixes go through the stage's forward
    stage.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].clone()), with_kwargs=True
    )
    codes = run.run(list(conditioning_for(stage, batch=2, frames=30)))
    assert [tuple(row.shape) for row in codes] == [(4, 45)] * 2
    assert sum(counted) == run.steps == steps
    prefixes = [ids for ids in read if ids.shape[1] > 1]
    # windows of 18 frames with an overlap of 6 start at frames 0, 12, 24 and 27
    for prefix, start, known in zip(prefixes, (12, 24, 27), (6, 6, 15), strict=True):
        there = torch.stack(codes)[:, :, start : start + known].transpose(1, 2).flatten(1)
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
    stage = windowed(name, pattern, independent_windows=independent)
    lengths = [round(seconds * stage.config.conditioning_frame_rate) for seconds in (0.6, 0.16, 0.36)]
    conditioning = [conditioning_for(stage, 1, length, seed=length)[0] for length in lengths]
    frames = [stage.config.target_frames(length) for length in lengths]
    together = run_of(stage, songs_of(*frames), decoding).run(conditioning)
    for row, length in enumerate(frames):
        for batch_size in (1, 5):
            song = SongCodes(length, RandomNumbers(3, variation=row))
            alone = run_of(stage, [song], decoding, batch_size=batch_size)
            assert torch.equal(alone.run([conditioning[row]])[0], together[row])


# one batch of windows of 18 frames of 4 codebooks; under the delay pattern the last one ends 3 slots after the first
@pytest.mark.parametrize(("pattern", "steps"), [("flat", 18 * 4), ("delay", 18 + 3)])
def test_independent_windows_are_decoded_in_one_batch(pattern: str, steps: int) -> None:
    stage = windowed("fine", pattern)
    codes = conditioning_for(stage, batch=2, frames=45)
    counted: list[int] = []
    run = run_of(stage, songs_of(45, 45), report=counted.append)
    fine = run.run(list(codes))
    assert sum(counted) == run.steps == steps, "four windows of two songs are one batch"
    assert [tuple(row.shape) for row in fine] == [(4, 45)] * 2


def test_independent_windows_are_joined_where_the_sound_changes_least(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = windowed("fine", overlap_seconds=0.16)
    vectors = torch.randn(stage.config.codebook_size, 8, generator=torch.Generator().manual_seed(0))
    conditioning = list(conditioning_for(stage, batch=2, frames=45))

    def sound(codes: torch.Tensor) -> torch.Tensor:
        """The sum of the vectors of each frame's codes (int64 [frames, codebooks]): float [frames, 8]."""
        return vectors[codes].sum(1)

    run = run_of(stage, songs_of(45, 45), code_vectors=sound)
    decoded: list[torch.Tensor] = []

    def recorded(*args: Any) -> Iterator[torch.Tensor]:
        """Decodes, and keeps what is decoded in `decoded`."""
        decoded.extend(StageRun._decode(run, *args))
        return iter(decoded)

    monkeypatch.setattr(run, "_decode", recorded)
    codes = run.run(conditioning)
    # windows of 18 frames with an overlap of 12, whose last 6 may be replaced; 3 are compared on either side of a join
    starts = (0, 6, 12, 18, 24, 27)
    early_borders = 0
    for row in range(2):
        (batch,) = run.batches
        windows = [new for job, new in zip(batch, torch.stack(decoded, dim=1), strict=True) if job.song == row]
        song = windows[0]
        for start, window in zip(starts[1:], windows[1:], strict=True):
            end = len(song)
            changes = {}
            for frame in range(end - 6, end + 1):
                after = sound(window[frame - start : frame - start + 3])
                before = sound(song[frame - 3 : frame])
                changes[frame] = float((after.mean(0) - before.mean(0)).norm())
            border = min(changes, key=changes.__getitem__)
            early_borders += border != end
            song = torch.cat([song[:border], window[border - start :]])
        assert torch.equal(codes[row], song.t())
    assert early_borders > 0, "some windows take over before the previous one ends"


def test_frames_that_the_next_window_may_replace_are_not_final() -> None:
    stage = windowed("fine")
    conditioning = list(conditioning_for(stage, batch=1, frames=45))
    run = run_of(stage, songs_of(45), batch_size=1, code_vectors=lambda codes: codes.float())
    seen = torch.empty(4, 0, dtype=torch.long)
    while not run.finished:
        run.advance(conditioning)
        codes = run.codes(0)
        assert torch.equal(codes[:, : seen.shape[1]], seen), "final codes do not change"
        assert codes.shape[1] == run.final_frames(0)
        seen = codes
    assert seen.shape[1] == 45


# one window with 12 new frames of 4 codebooks
@pytest.mark.parametrize(("pattern", "steps"), [("flat", 12 * 4), ("delay", 12 + 3)])
def test_given_spans_are_kept_and_fully_known_windows_are_skipped(pattern: str, steps: int) -> None:
    stage = windowed("coarse", pattern)
    conditioning = conditioning_for(stage, batch=1, frames=30)
    first = run_of(stage, songs_of(45)).run(list(conditioning))[0]
    # −1: to be generated
    given = first.clone()
    given[:, 21:30] = -1
    run = run_of(stage, [SongCodes(45, RandomNumbers(9), given)])
    again = run.run(list(conditioning))[0]
    assert torch.equal(again[:, :21], first[:, :21])
    assert torch.equal(again[:, 30:], first[:, 30:])
    assert not torch.equal(again[:, 21:30], first[:, 21:30])
    # new frames of the windows begin at 0, 18, 30 and 42: only the second window is generated
    assert run.steps == steps


def test_a_dependent_window_is_generated_only_as_far_as_it_is_needed() -> None:
    stage = windowed("coarse")
    conditioning = list(conditioning_for(stage, batch=1, frames=30))
    counted: list[int] = []
    run = run_of(stage, songs_of(45), report=counted.append)
    for frames in (1, 5, 18, 20):
        while run.final_frames(0) < frames:
            run.advance(conditioning, frames)
        assert run.codes(0).shape[1] == frames
        assert sum(counted) == frames * 4
    assert torch.equal(run.run(conditioning)[0], run_of(stage, songs_of(45)).run(conditioning)[0])


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
        run_of(stage, songs_of(9))
    conditioning = list(conditioning_for(stage, batch=1, frames=9))
    # the reference loop works, and overrides settings that would change the form of its result
    stage.generation_config.update(return_dict_in_generate=True, num_return_sequences=2, max_time=1e-9)
    (codes,) = run_of(stage, songs_of(9), "reference").run(conditioning)
    assert codes.shape == (4, 9)


def test_settings_at_their_defaults_are_accepted() -> None:
    stage = tiny_stage("fine")
    stage.generation_config.update(
        top_p=1.0, min_p=None, typical_p=1.0, epsilon_cutoff=0.0, repetition_penalty=1.0, suppress_tokens=None
    )
    # 9 frames of 4 codebooks
    assert run_of(stage, songs_of(9)).steps == 36
    stage.generation_config = GenerationConfig(do_sample=True)
    assert run_of(stage, songs_of(9)).steps == 36


def test_an_unknown_setting_is_refused() -> None:
    stage = tiny_stage("fine")
    stage.generation_config.swing = 0.6
    with pytest.raises(ValueError, match="generation config sets swing to 0.6"):
        run_of(stage, songs_of(9))


@pytest.mark.parametrize("how", ["fast", "reference"])
def test_without_sampling_both_loops_take_the_most_likely_tokens(how: str) -> None:
    stage = tiny_stage("coarse", position_scheme="time")
    conditioning = conditioning_for(stage, batch=1, frames=6)
    likeliest = stage.generate(conditioning_ids=conditioning, do_sample=False)[:, 1:]
    stage.generation_config.do_sample = False
    config = stage.decoding_config(top_k=9)
    (codes,) = StageRun(stage, songs_of(9), config, how).run(list(conditioning))
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
        run_of(tiny_stage("fine"), songs_of(9), **options)


@pytest.mark.parametrize(
    ("device", "offloaded", "loop"),
    [("cpu", False, "fast"), ("cuda", False, "fast"), ("mps", False, "reference"), ("cuda", True, "reference")],
)
def test_the_fast_loop_is_the_default_only_on_cpu_and_cuda(device: str, offloaded: bool, loop: str) -> None:
    part = SimpleNamespace(**({"_hf_hook": None} if offloaded else {}))
    stage: Any = SimpleNamespace(device=torch.device(device), modules=lambda: [part])
    assert default_decoding([stage]) == loop


def test_compiling_is_off_by_default() -> None:
    stage = tiny_stage("fine")
    assert FastGenerator(stage, stage.decoding_config()).compile is False
