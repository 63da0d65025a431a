"""Rolling generation: equal to a window while nothing has left, to a masked forward once it has, and never growing."""

from typing import Any

import pytest
import torch

from decoding.test_fast_loop import guided_scores, uniforms_for
from hafm_hf.decoding.rolling import RollingDecoder, RollingRun
from hafm_hf.decoding.windows import DecodingOptions, SongRow, StageRun
from hafm_hf.stages import modeling_hafm
from hafm_hf.stages.sampling import RandomStream
from stages.test_modeling import conditioning_for
from tiny_models import STAGES, tiny_composite, tiny_stage

UNIT = 0.04
CHUNK_FRAMES = {"semantic": 50, "coarse": 50, "fine": 75}


def rolling_scores(stage: Any, conditioning: torch.Tensor, seconds: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of a song generated chunk by chunk, and the guided scores that they were drawn from."""
    scores: list[torch.Tensor] = []

    class Recording(RollingDecoder):
        def limited(self, found: torch.Tensor, target: int) -> torch.Tensor:
            scores.append(found.clone())
            return super().limited(found, target)

    decoder = Recording(stage, len(conditioning), seconds, guidance_scale=3.0, temperature=0.9, top_k=7)
    tokens, first = [], 0
    for part in conditioning.split(CHUNK_FRAMES[stage.config.model_type.removeprefix("hafm_")], dim=2):
        count = stage.config.target_length(part.shape[2])
        numbers = uniforms_for(len(conditioning), count, seed=first)
        tokens.append(decoder.advance(part, first, count, numbers))
        first += part.shape[2]
    return torch.cat(tokens, dim=1), torch.stack(scores, dim=1)


@pytest.mark.parametrize("name", STAGES)
def test_a_song_of_one_chunk_is_generated_as_in_a_window(name: str) -> None:
    stage = tiny_stage(name, position_scheme="time")
    frames = 40 if name != "fine" else 60
    conditioning = list(conditioning_for(stage, batch=2, frames=frames))
    rows = [[SongRow(20, RandomStream(5, sample=row)) for row in range(2)] for _ in range(2)]
    window = StageRun(stage, rows[0], UNIT, DecodingOptions(temperature=0.8, top_k=5)).run(conditioning)
    rolling = RollingRun(stage, rows[1], UNIT, DecodingOptions(temperature=0.8, top_k=5)).run(conditioning)
    assert [codes.tolist() for codes in rolling] == [codes.tolist() for codes in window]


@pytest.mark.parametrize(("layers", "seconds"), [(2, 10.0), (1, 1.2)])
@pytest.mark.parametrize("name", STAGES)
def test_scores_equal_a_forward_that_sees_what_the_cache_holds(
    name: str, layers: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several layers the kept keys still know what has left, so with a short memory one layer is compared."""
    stage = tiny_stage(name, position_scheme="time", num_hidden_layers=layers)
    chunk = CHUNK_FRAMES[name]
    conditioning = conditioning_for(stage, batch=2, frames=round(2.6 * chunk))
    tokens, scores = rolling_scores(stage, conditioning, seconds)
    whole = modeling_hafm.visible

    def visible(config: Any, query: Any, key: Any) -> torch.Tensor:
        sees = whole(config, query, key)
        begin = query.frame[:, :, None] // chunk * chunk
        arrived = key.frame[:, None] < begin + chunk
        kept = key.frame[:, None] >= begin - round(seconds * config.conditioning_frame_rate)
        return sees & arrived & kept

    monkeypatch.setattr(modeling_hafm, "visible", visible)
    expected = guided_scores(stage, conditioning, tokens, 3.0)
    assert float((scores - expected).abs().max()) < 1e-3


def test_the_cache_does_not_grow_with_the_song() -> None:
    stage = tiny_stage("coarse", position_scheme="time", num_hidden_layers=1)
    decoder = RollingDecoder(stage, 1, seconds=0.6)
    held = []
    for second in range(6):
        decoder.advance(conditioning_for(stage, 1, 50, seed=second), 50 * second, 300, None)
        held.append(decoder.marks.shape[1])
    # 0.6 s that are kept and the chunk, of 100 conditioning and 300 target tokens a second
    assert held == [400] + [640] * 5
    assert decoder.layers[0].cache.shape[3] < 1100


def test_rows_do_not_depend_on_their_neighbours_and_given_tokens_are_kept() -> None:
    stage = tiny_stage("semantic", position_scheme="time")
    conditioning = list(conditioning_for(stage, 2, 110))
    given = torch.full((110,), -1)
    given[10:20] = 4

    def rows() -> list[SongRow]:
        return [SongRow(55, RandomStream(5), given), SongRow(55, RandomStream(5, sample=1))]

    together = RollingRun(stage, rows(), UNIT, DecodingOptions()).run(conditioning)
    for row in range(2):
        alone = RollingRun(stage, rows()[row : row + 1], UNIT, DecodingOptions()).run(conditioning[row : row + 1])
        assert torch.equal(alone[0], together[row])
    assert together[0].shape == (1, 110) and together[0][0, 10:20].tolist() == [4] * 10


def test_composite_rolls_and_streams_a_song() -> None:
    model = tiny_composite(position_scheme="time", num_hidden_layers=1)
    vocal = 0.1 * torch.randn(60_000, generator=torch.Generator().manual_seed(1))
    whole = model.generate(vocal, seed=2, rolling=True)
    assert whole.codes[0].shape == (8, 189) and len(whole.audio[0]) == 60_000
    chunks = list(model.stream(vocal, seed=2, rolling=True))
    assert [len(chunk) for chunk in chunks] == [24_000, 24_000, 12_000]
    torch.testing.assert_close(torch.cat(chunks), whole.audio[0], atol=1e-5, rtol=0)


def test_what_cannot_roll_is_refused() -> None:
    rows = [SongRow(5, RandomStream(1))]
    with pytest.raises(ValueError, match="one length"):
        RollingRun(
            tiny_stage("coarse", position_scheme="time"), [*rows, SongRow(6, RandomStream(1))], UNIT, DecodingOptions()
        )
    with pytest.raises(ValueError, match="this stage has 'index'"):
        RollingRun(tiny_stage("coarse"), rows, UNIT, DecodingOptions())
    with pytest.raises(ValueError, match="decoding is 'reference'"):
        RollingRun(tiny_stage("coarse", position_scheme="time"), rows, UNIT, DecodingOptions("reference"))
