# SPDX-License-Identifier: Apache-2.0
"""A seed means one song, whoever asks beside you; and long songs stay among the finite numbers."""

import random

import pytest
import torch

from faults import Tally
from hafm_hf import HAFMForVocalAccompaniment
from hafm_hf.modeling.fast_loop import FastDecoder
from modeling.test_fast_loop import guided_scores, uniforms_for
from modeling.test_modeling import conditioning_for
from recording_decoder import RecordingDecoder
from tiny_models import STAGES, tiny_composite, tiny_stage
from vocals import CODEC_RATE, glide


@pytest.fixture(scope="module")
def composite() -> HAFMForVocalAccompaniment:
    model = tiny_composite(num_hidden_layers=1)
    for stage, window in ((model.semantic, 0.8), (model.coarse, 0.4), (model.fine, 0.4)):
        stage.generation_config.update(window_seconds=window, overlap_seconds=0.08)
    return model


@pytest.mark.fault("seeds in batches of any order", cut=6, full=120)
def test_a_song_is_the_same_alone_and_in_any_batch(tally: Tally, composite: HAFMForVocalAccompaniment) -> None:
    draw = random.Random(3)
    voices = [torch.from_numpy(glide(seconds)) for seconds in (0.4, 0.52, 0.7, 1.1)]
    alone = {
        (index, decoding): composite.generate(voice, CODEC_RATE, seed=index, decoding=decoding).codes[0]
        for index, voice in enumerate(voices)
        for decoding in ("fast", "reference")
    }
    assert all(torch.equal(alone[index, "fast"], alone[index, "reference"]) for index in range(len(voices)))
    while tally.made < tally.tries:
        seed = draw.randrange(len(voices))
        order = draw.choices(range(len(voices)), k=draw.randint(1, 5))
        order.insert(draw.randint(0, len(order)), seed)
        decoding = draw.choice(["fast", "reference"])
        together = composite.generate([voices[index] for index in order], CODEC_RATE, seed=seed, decoding=decoding)
        if torch.equal(together.codes[order.index(seed)], alone[seed, decoding]):
            tally.survived()
        else:
            tally.lose(f"voice {seed} in {order}, {decoding}")


@pytest.mark.fault("steps of the fast loop against the forward", cut=600, full=8_000)
def test_the_fast_loop_stays_by_the_forward_over_thousands_of_steps(tally: Tally) -> None:
    cases = [("semantic", "time"), ("coarse", "time"), ("fine", "time"), ("coarse", "index")]
    largest = 0.0
    for name, scheme in cases:
        stage = tiny_stage(name, position_scheme=scheme)
        steps = tally.tries // len(cases)
        rate = stage.config.frame_rate * stage.config.num_codebooks
        frames = -(-steps * stage.config.conditioning_frame_rate // rate)
        conditioning = conditioning_for(stage, batch=1, frames=frames)
        decoder = RecordingDecoder(stage, 3.0, 0.9, 6)
        tokens = decoder.generate(conditioning, steps, uniforms_for(1, steps))
        errors = (torch.stack(decoder.scores, dim=1) - guided_scores(stage, conditioning, tokens, 3.0)).abs()
        errors = errors.nan_to_num(torch.inf).amax(dim=2)[0]
        largest = max(largest, float(errors.max()))
        for step, error in enumerate(errors.tolist()):
            # 1e-3 of logits that spread over tens: far from any candidate's lead
            tally.survived() if error <= 1e-3 else tally.lose(f"{name} {scheme} step {step}: {error:.2g}")
        # no drift: the last steps are as near as the first
        assert float(errors[-steps // 4 :].max()) < 10 * float(errors[: steps // 4].max()) + 1e-4
    tally.measured = f"largest difference {largest:.1e}"


@pytest.mark.fault("seconds generated in half precision", cut=4, full=60)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_stays_finite(
    dtype: torch.dtype, tally: Tally, composite: HAFMForVocalAccompaniment, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = tiny_composite(num_hidden_layers=1)
    for name in STAGES:
        getattr(halves, name).to(dtype)
    finite = []
    limit = FastDecoder.limited

    def watched(decoder: FastDecoder, scores: torch.Tensor, target: int) -> torch.Tensor:
        finite.append(bool(torch.isfinite(scores).all()))
        return limit(decoder, scores, target)

    monkeypatch.setattr(FastDecoder, "limited", watched)
    seconds = tally.tries
    audio = halves.generate(torch.from_numpy(glide(seconds)), halves.sampling_rate, seed=1, decoding="fast").audio[0]
    assert len(finite) > 100 * seconds and all(finite)
    for second in audio.split(24_000):
        tally.survived() if bool(second.isfinite().all()) else tally.lose(f"{dtype}")
