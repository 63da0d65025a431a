# SPDX-License-Identifier: Apache-2.0
"""Streaming: chunks that add up to the whole song, cancelling, and spans of an existing instrumental to keep."""

from typing import Any

import numpy as np
import pytest
import torch

from accompaniment.test_accompaniment import voice
from hafm_hf import HAFMForVocalAccompaniment
from hafm_hf.tokenizers.codecs import as_codec
from hafm_hf.training.data import stage_streams
from tiny_models import CODECS, STAGES, first_read, tiny_composite, tiny_semantic_tokenizer, tiny_stage
from vocals import CODEC_RATE


@pytest.fixture(scope="module", params=["flat", "delay"])
def composite(request: pytest.FixtureRequest) -> HAFMForVocalAccompaniment:
    """A tiny composite that cuts a song into several windows, in either codebook pattern."""
    model = tiny_composite(codebook_pattern=request.param)
    for stage, window in ((model.semantic, 1.2), (model.coarse, 0.6), (model.fine, 0.4)):
        stage.generation_config.update(window_seconds=window, overlap_seconds=0.12, independent_windows=None)
    return model


class Steps(dict[str, int]):
    """A progress callback that records how many steps each stage has done."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Notes the steps that a stage has done."""
        self[stage] = done


def test_each_stage_reads_the_streams_it_is_trained_on() -> None:
    model = tiny_composite(position_scheme="time", num_hidden_layers=1)
    with first_read(model, "conditioning_embedding") as read:
        output = model.generate(voice(0.8), CODEC_RATE, seed=1, decoding="reference")
    assert torch.equal(model.generate(voice(0.8), CODEC_RATE, seed=1, decoding="fast").codes[0], output.codes[0])
    tokens = {"vocal_semantic": output.vocal_semantic[0][None], "acoustic": output.codes[0]}
    tokens["instrumental_semantic"] = output.instrumental_semantic[0][None]
    for name in STAGES:
        *sources, _ = stage_streams(getattr(model, name).config)
        expected = torch.cat([tokens[source.column][source.first : source.last] for source in sources])
        assert torch.equal(read[name], expected), name
        assert len(expected.unique(dim=0)) == len(expected), "no two streams are equal"


@pytest.mark.parametrize(("samples", "rate"), [(50_123, 24_000), (8_000, 16_000), (3_001, 8_000)])
def test_chunks_add_up_to_what_generate_returns(composite: HAFMForVocalAccompaniment, samples: int, rate: int) -> None:
    vocal = voice(3, rate)[:samples]
    chunks = list(composite.stream(vocal, rate, seed=3))
    whole = composite.generate(vocal, rate, seed=3).audio[0]
    torch.testing.assert_close(torch.cat(chunks), whole, atol=1e-5, rtol=0)
    assert all(len(chunk) for chunk in chunks)


def test_the_first_chunk_needs_only_its_own_windows(composite: HAFMForVocalAccompaniment) -> None:
    steps = Steps()
    chunks = composite.stream(voice(3), CODEC_RATE, seed=3, progress=steps)
    first = next(chunks)
    # windows of 1.2, 0.6 and 0.4 s at 50, 75 and 75 frames per second; the first two go as far as the next stage
    # needs: a fine window of 0.4 s reads 30 coarse frames, a coarse window of 0.6 s 30 semantic ones
    slots = composite.coarse.pattern.num_slots(30)
    assert steps == {"semantic": 30, "coarse": slots, "fine": slots}
    # the last 0.08 s of a window become final only with the next window
    assert len(first) == round((0.4 - 0.08) * 24_000)
    chunks.close()
    assert steps["fine"] == slots, "closing the iterator ends the generation"


def test_independent_coarse_windows_form_one_batch(composite: HAFMForVocalAccompaniment, monkeypatch: Any) -> None:
    vocal = voice(3)
    steps = Steps()
    sequential = composite.generate(vocal, CODEC_RATE, seed=3, progress=steps)
    # 225 frames in six windows of 45; all but the first start with 9 known frames
    pattern = composite.coarse.pattern
    assert steps["coarse"] == pattern.num_slots(45) + 5 * pattern.new_slots(9, 36)
    monkeypatch.setattr(composite.coarse.generation_config, "independent_windows", True)
    parallel = composite.generate(vocal, CODEC_RATE, seed=3, progress=steps)
    assert steps["coarse"] == pattern.num_slots(45), "all windows are one batch"
    # 0.6 s, the last 0.08 of which the next window may replace
    assert torch.equal(parallel.codes[0][:4, :39], sequential.codes[0][:4, :39]), "the first window is the same"
    chunks = list(composite.stream(vocal, CODEC_RATE, seed=3))
    torch.testing.assert_close(torch.cat(chunks), parallel.audio[0], atol=1e-5, rtol=0)
    kept = composite.generate(vocal, CODEC_RATE, seed=4, instrumental=parallel.audio[0].numpy(), keep=[(0.0, 1.0)])
    assert torch.equal(kept.audio[0][:20_000], parallel.audio[0][:20_000])


def test_an_exception_in_progress_stops_the_generation_at_once(composite: HAFMForVocalAccompaniment) -> None:
    calls = []

    def cancel(stage: str, done: int, total: int) -> None:
        """Ends the generation at its 130th report, which is of the coarse stage."""
        calls.append(stage)
        if len(calls) == 130:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        composite.generate(voice(2), CODEC_RATE, seed=1, progress=cancel)
    assert len(calls) == 130
    assert calls[-1] == "coarse"


def test_kept_spans_are_unchanged_and_the_rest_is_new(composite: HAFMForVocalAccompaniment) -> None:
    vocal = voice(2)
    instrumental = composite.generate(vocal, CODEC_RATE, seed=1).audio[0].numpy()
    new = composite.generate(vocal, CODEC_RATE, seed=2, instrumental=instrumental, keep=[(0.0, 0.8), (1.4, 2.0)])
    assert len(new.audio[0]) == len(vocal)
    changes = np.abs(new.audio[0].numpy() - instrumental)
    # inside the kept spans, and between them
    assert changes[np.r_[0:18_000, 36_000:48_000]].max() < 1e-6
    assert changes[20_000:32_000].max() > 1e-3
    codes = composite.codec.encode(torch.from_numpy(instrumental)[None, None], bandwidth=2.4).audio_codes[0, 0]
    assert torch.equal(new.codes[0][:, :60], codes[:, :60])
    again = composite.generate(vocal, CODEC_RATE, seed=2, instrumental=instrumental, keep=[(0.0, 0.8), (1.4, 2.0)])
    assert torch.equal(again.audio[0], new.audio[0])
    # input_values are at the rate at which the model listens; sampling_rate is that of the instrumental
    how: dict[str, Any] = {"instrumental": voice(2, 48_000, 330.0), "keep": [(0.0, 0.8)]}
    heard = voice(2, 16_000)
    regenerated = composite.generate(input_values=heard, sampling_rate=48_000, seed=2, **how).audio[0].numpy()
    assert np.abs(regenerated - voice(2, pitch=330.0))[1_000:18_000].max() < 1e-3


def test_kept_spans_use_only_the_models_codebooks_of_a_codec_with_more() -> None:
    stages = {name: tiny_stage(name) for name in STAGES}
    model = HAFMForVocalAccompaniment.from_parts(
        semantic_tokenizer=tiny_semantic_tokenizer(), codec=CODECS["24 kbps"](), **stages
    ).eval()
    assert model.config.codec_format.num_codebooks == 32
    assert model.fine.config.num_codebooks == 4
    old = model.generate(voice(1), CODEC_RATE, seed=1).audio[0].numpy()
    new = model.generate(voice(1), CODEC_RATE, seed=2, instrumental=old, keep=[(0.0, 0.6)])
    assert new.codes[0].shape == (8, 75)
    assert np.abs(new.audio[0].numpy() - old)[:13_000].max() < 1e-6
    whole = as_codec(model.codec).encode(torch.from_numpy(old)[None, None])[0]
    assert len(whole) == 32
    assert torch.equal(new.codes[0][:, :45], whole[:8, :45])


@pytest.mark.parametrize(
    "spans", [[(0.0, 0.5), (0.5, 1.0)], [(0.3, 1.0), (0.0, 0.7)], [(0.0, 0.51), (0.51, 1.0)], [(0.0, 1.0), (0.2, 0.3)]]
)
def test_spans_that_touch_or_overlap_are_merged(composite: HAFMForVocalAccompaniment, spans: list) -> None:
    instrumental = composite.generate(voice(2), CODEC_RATE, seed=1).audio[0].numpy()
    together, apart = (
        composite.generate(voice(2), CODEC_RATE, seed=2, instrumental=instrumental, keep=keep)
        for keep in ([(0.0, 1.0)], spans)
    )
    assert np.array_equal(apart.audio[0][:23_000], instrumental[:23_000])
    assert torch.equal(apart.audio[0], together.audio[0])
    assert torch.equal(apart.codes[0], together.codes[0])


def test_spans_that_cannot_be_kept_are_refused(composite: HAFMForVocalAccompaniment) -> None:
    old = np.zeros(24_000, dtype=np.float32)
    with pytest.raises(ValueError, match="is not within the instrumental of 1.00 s"):
        composite.generate(voice(2), CODEC_RATE, instrumental=old, keep=[(0.5, 1.5)])
    with pytest.raises(ValueError, match="begins after the vocal has ended"):
        composite.generate(voice(0.5), CODEC_RATE, instrumental=old, keep=[(0.6, 0.9)])
    with pytest.raises(ValueError, match="Say which spans"):
        composite.generate(voice(2), CODEC_RATE, instrumental=old)
    with pytest.raises(ValueError, match="2 were given"):
        composite.generate([voice(1), voice(1)], CODEC_RATE, instrumental=old, keep=[(0.0, 0.5)])
