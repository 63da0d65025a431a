# SPDX-License-Identifier: Apache-2.0
"""A seed gives the same song in any batch, and long songs stay finite in half precision."""

import random

import pytest
import torch

from faults import Tally
from hafm_hf import HAFMForVocalAccompaniment
from hafm_hf.modeling.fast_loop import FastGenerator
from tiny_models import STAGES, tiny_composite
from vocals import CODEC_RATE, glide


@pytest.fixture(scope="module")
def composite() -> HAFMForVocalAccompaniment:
    """A tiny composite whose windows, of 0.4 and 0.8 s, are shorter than most of the voices."""
    model = tiny_composite(num_hidden_layers=1)
    for stage, window in ((model.semantic, 0.8), (model.coarse, 0.4), (model.fine, 0.4)):
        stage.generation_config.update(window_seconds=window, overlap_seconds=0.08)
    return model


@pytest.mark.fault("seeds in random batches", cut=6, full=120)
def test_a_song_is_the_same_alone_and_in_any_batch(tally: Tally, composite: HAFMForVocalAccompaniment) -> None:
    generator = random.Random(3)
    # seconds
    voices = [torch.from_numpy(glide(seconds)) for seconds in (0.4, 0.52, 0.7, 1.1)]
    alone = {
        (index, decoding): composite.generate(voice, CODEC_RATE, seed=index, decoding=decoding).codes[0]
        for index, voice in enumerate(voices)
        for decoding in ("fast", "reference")
    }
    assert all(torch.equal(alone[index, "fast"], alone[index, "reference"]) for index in range(len(voices)))
    while tally.made < tally.tries:
        # the seed of a voice alone was its index, so only that voice of the batch is compared
        seed = generator.randrange(len(voices))
        order = generator.choices(range(len(voices)), k=generator.randint(1, 5))
        order.insert(generator.randint(0, len(order)), seed)
        decoding = generator.choice(["fast", "reference"])
        together = composite.generate([voices[index] for index in order], CODEC_RATE, seed=seed, decoding=decoding)
        if torch.equal(together.codes[order.index(seed)], alone[seed, decoding]):
            tally.survived()
        else:
            tally.lose(f"voice {seed} in {order}, {decoding}")


@pytest.mark.fault("seconds generated in half precision", cut=4, full=60)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_scores_and_sound_are_finite_in_half_precision(
    dtype: torch.dtype, tally: Tally, composite: HAFMForVocalAccompaniment, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = tiny_composite(num_hidden_layers=1)
    for name in STAGES:
        getattr(halves, name).to(dtype)
    finite = []
    draw = FastGenerator.draw

    def watched(decoder: FastGenerator, scores: torch.Tensor, uniforms: torch.Tensor | None) -> torch.Tensor:
        """Notes whether all scores are finite before it draws tokens from them."""
        finite.append(bool(torch.isfinite(scores).all()))
        return draw(decoder, scores, uniforms)

    monkeypatch.setattr(FastGenerator, "draw", watched)
    seconds = tally.tries
    audio = halves.generate(torch.from_numpy(glide(seconds)), halves.sampling_rate, seed=1, decoding="fast").audio[0]
    # there were scores for more than 100 decoding steps a second
    assert len(finite) > 100 * seconds
    assert all(finite)
    for second in audio.split(CODEC_RATE):
        tally.survived() if bool(second.isfinite().all()) else tally.lose(f"{dtype}")
