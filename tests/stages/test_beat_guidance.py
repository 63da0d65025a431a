"""Beat guidance: its formula in every loop, where it comes from, and that changes move onto the beat."""

from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from decoding.test_fast_loop import uniforms_for
from hafm_hf import HAFMForVocalAccompaniment
from hafm_hf.decoding.fast_loop import FastDecoder
from hafm_hf.decoding.windows import DecodingOptions, SongRow, StageRun, decode_window
from hafm_hf.stages.generation_hafm import BeatGuidance
from hafm_hf.stages.guidance import SongGuidance, TokenGuidance
from hafm_hf.stages.sampling import RandomStream, hold_back
from stages.test_modeling import conditioning_for
from tiny_models import tiny_composite, tiny_stage

UNIT = 0.04
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "vocal.wav"


def stage_and_changes(frames: int, batch: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
    stage = tiny_stage("semantic", position_scheme="time", initializer_range=0.2)
    conditioning = conditioning_for(stage, batch=batch, frames=frames)
    changes = 3 * torch.randn(batch, frames, generator=torch.Generator().manual_seed(1))
    return stage, conditioning, changes


def test_the_token_before_loses_what_is_taken_and_bos_nothing() -> None:
    scores = torch.arange(8.0).view(2, 4)
    held = hold_back(scores, torch.tensor([1, 4]), torch.tensor([10.0, 10.0]))
    assert held.tolist() == [[0.0, -9.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]
    ids = torch.tensor([[4, 1], [4, 2]])
    processor = BeatGuidance(torch.tensor([[7.0, 1.0], [8.0, 2.0]]), known=1)
    assert processor(ids, scores).tolist() == [[0.0, 0.0, 2.0, 3.0], [4.0, 5.0, 4.0, 7.0]], "the second token to come"
    samples = processor(ids.repeat_interleave(2, 0), scores.repeat_interleave(2, 0))
    assert torch.equal(samples, processor(ids, scores).repeat_interleave(2, 0)), "two samples of each vocal"


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("known", [0, 5])
def test_sampled_tokens_of_all_loops_are_the_same(scale: float, known: int) -> None:
    stage, conditioning, changes = stage_and_changes(24, batch=3)
    mask = torch.arange(24) < torch.tensor((24, 12, 20))[:, None]
    numbers, given = uniforms_for(3, 24)[:, known:], torch.ones(3, known, dtype=torch.long)
    arguments = (stage, conditioning, 24 - known, numbers)
    fast, reference, without = (
        decode_window(
            *arguments,
            DecodingOptions(how, scale, 0.8, 7),
            given,
            conditioning_mask=mask,
            guidance=TokenGuidance(taken),
        )
        for how, taken in (("fast", changes[:, known:]), ("reference", changes[:, known:]), ("fast", None))
    )
    assert fast.tolist() == reference.tolist() and not torch.equal(fast, without)
    static = FastDecoder(stage, scale, 0.8, 7, static=True)
    for taken, expected in ((changes[:, known:], fast), (None, without), (changes[:, known:], fast)):
        found = static.generate(conditioning, 24 - known, numbers, given, None, mask, guidance=TokenGuidance(taken))
        assert torch.equal(found, expected)


def test_windows_take_the_changes_of_their_instants() -> None:
    stage, conditioning, _ = stage_and_changes(40, batch=1)
    # a token is never held where that costs everything, and always where it is everything, in every window
    stage.generation_config.window_seconds, stage.generation_config.overlap_seconds = 0.24, 0.08
    changing = torch.arange(40) % 7 == 0
    row = SongRow(20, RandomStream(5), guidance=SongGuidance(torch.where(changing, 1e4, -1e4)))
    (codes,) = StageRun(stage, [row], UNIT, DecodingOptions()).run([conditioning[0]])
    assert torch.equal(codes[0].diff() != 0, changing[1:])


def test_a_song_without_a_beat_goes_beside_one_that_has() -> None:
    stage, conditioning, changes = stage_and_changes(40, batch=2)
    pair = [SongRow(20, RandomStream(5), guidance=SongGuidance(changes[0])), SongRow(20, RandomStream(6))]
    alone = [SongRow(20, RandomStream(5), guidance=SongGuidance(changes[0]))], [SongRow(20, RandomStream(6))]
    together = StageRun(stage, pair, UNIT, DecodingOptions()).run(list(conditioning))
    apart = [
        StageRun(stage, rows, UNIT, DecodingOptions()).run([conditioning[row]])[0] for row, rows in enumerate(alone)
    ]
    assert [codes.tolist() for codes in together] == [codes.tolist() for codes in apart]


def test_the_bundled_model_changes_on_the_singers_beat() -> None:
    model = HAFMForVocalAccompaniment.from_pretrained()
    config = model.semantic.generation_config
    own = config.beat_guidance
    assert own > 0 and max(config.beat_profile) == config.beat_profile[0]
    # by itself: chords bring changes onto the beat too
    config.harmony_guidance = 0.0
    vocal, rate = soundfile.read(EXAMPLE, dtype="float32")
    tokens = model.tokenize_vocal(vocal[: 6 * rate], rate, seed=0)[0]
    phase = model.semantic_tokenizer.beat_phase(model.semantic_tokenizer.beat_places(tokens))
    near = torch.minimum(phase, 1 - phase) < 0.1

    def share_near(weight: float) -> float:
        config.beat_guidance = weight
        guidance = model.song_guidance(tokens).get("semantic")
        rows = [SongRow(len(tokens) // 2, RandomStream(0, sample=row), guidance=guidance) for row in range(4)]
        found = StageRun(model.semantic, rows, UNIT, DecodingOptions()).run([tokens[None]] * len(rows))
        changed = torch.cat(found).diff(dim=1) != 0
        return float(changed[:, near[1:]].sum() / changed.sum())

    assert share_near(own) > share_near(0.0) + 0.1


def test_a_weight_without_a_profile_or_a_tokenizer_without_a_beat_is_refused() -> None:
    model = tiny_composite()
    tokens = torch.zeros(9, dtype=torch.long)
    assert model.song_guidance(tokens) == {}
    model.semantic.generation_config.beat_guidance = 1.0
    with pytest.raises(ValueError, match="fit_beat_profile"):
        model.song_guidance(tokens)
    model.semantic.generation_config.beat_profile = [0.5, -0.5]
    with pytest.raises(ValueError, match="rhythm network"):
        model.song_guidance(tokens)
    del model.semantic.generation_config.beat_guidance
    assert model.song_guidance(tokens) == {}, "a generation config that a user made"
