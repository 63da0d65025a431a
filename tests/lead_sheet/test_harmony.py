"""The part that estimates chords: how notes are counted, what its tables say, its guidance in every loop, files."""

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from decoding.test_fast_loop import uniforms_for
from hafm_hf import HAFMForVocalAccompaniment, HAFMHarmonyConfig, HAFMHarmonyModel, HAFMSemanticTokenizer
from hafm_hf.accompaniment.assemble import assemble_composite
from hafm_hf.accompaniment.saving import PARTS
from hafm_hf.decoding.fast_loop import FastDecoder
from hafm_hf.decoding.windows import DecodingOptions, SongRow, StageRun, decode_window
from hafm_hf.hub.loading import fingerprint
from hafm_hf.lead_sheet.modeling_harmony import NUM_CHORDS, beat_cells
from hafm_hf.stages.generation_hafm import HarmonyGuidance
from hafm_hf.stages.guidance import SongGuidance, TokenGuidance
from hafm_hf.stages.sampling import RandomStream
from hafm_tiny.harmony import chord_ratios
from stages.test_modeling import conditioning_for
from tiny_models import tiny_codec, tiny_harmony, tiny_rhythmic_tokenizer, tiny_stage
from vocals import CODEC_RATE

UNIT = 0.04
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "vocal.wav"


def rhythmic_parts() -> dict[str, Any]:
    tokenizer = tiny_rhythmic_tokenizer()
    stages = {name: tiny_stage(name) for name in ("semantic", "coarse", "fine")}
    harmony = tiny_harmony(semantic_tokenizer=fingerprint(tokenizer))
    return {"semantic_tokenizer": tokenizer, "codec": tiny_codec(), "harmony": harmony, **stages}


def one_note(pitch_class: int, begins: float = 0.0) -> torch.Tensor:
    note = torch.zeros(14)
    note[1 + pitch_class], note[-1] = 1.0, begins
    return note


def test_notes_are_counted_in_the_quarters_of_the_beats_they_lie_in() -> None:
    # a beat of eight frames and the first half of another: C, then in its second half E that begins; G behind it
    notes = torch.stack([one_note(0)] * 4 + [one_note(4, 1.0)] + [one_note(4)] * 3 + [one_note(7)] * 4)
    phase = (torch.arange(12) / 8) % 1
    cells, beat = beat_cells(notes, phase)
    assert beat.tolist() == [0] * 8 + [1] * 4
    quarters = cells.view(2, 4, 14)
    assert torch.equal(quarters[0, :2], torch.stack([one_note(0)] * 2))
    assert torch.equal(quarters[0, 2:], torch.stack([one_note(4, 1.0), one_note(4)]))
    assert torch.equal(quarters[1, :2], torch.stack([one_note(7)] * 2))
    assert (quarters[1, 2:, 0] == 1).all() and not quarters[1, 2:, 1:].any(), "behind the end nothing is sung"
    half = torch.stack([one_note(0), one_note(7)])
    assert torch.allclose(beat_cells(half, torch.tensor([0.0, 0.1]))[0][0, :14], half.mean(0)), "shares of one quarter"


def test_a_token_of_one_chord_is_likelier_in_it_and_hardly_anywhere_else() -> None:
    counts = torch.full((NUM_CHORDS, 5), 100.0)
    counts[:, 3] = 0.0
    counts[8, 3] = 400.0
    model = tiny_harmony(num_clusters=5)
    model.chord_scores.copy_(chord_ratios(counts))
    chords = torch.eye(NUM_CHORDS)
    scores = model.token_scores(chords)
    assert torch.allclose(scores, model.chord_scores, atol=1e-5)
    assert scores[8, 3] > 2 and scores[7, 3] < -1 and scores[7, :3].abs().max() < 0.3
    mixed = model.token_scores(0.5 * chords[7] + 0.5 * chords[8])
    assert torch.allclose(mixed.exp(), (scores[7].exp() + scores[8].exp()) / 2, rtol=1e-4), (
        "likelihoods, not logarithms"
    )


def test_every_frame_gets_the_chords_of_its_beat() -> None:
    model = tiny_harmony(num_clusters=12)
    tokens = torch.randint(12, (200,), generator=torch.Generator().manual_seed(0))
    phase = (torch.arange(200) / 25) % 1
    chords = model.chords(tokens, phase)
    assert chords.shape == (200, NUM_CHORDS) and torch.allclose(chords.sum(1), torch.ones(200))
    assert torch.equal(chords[:25], chords[:1].expand(25, -1)) and not torch.equal(chords[24], chords[25])
    assert model.chords(tokens[:0], phase[:0]).shape == (0, NUM_CHORDS)


@pytest.mark.parametrize("history_free", [0.0, 1.5])
@pytest.mark.parametrize("known", [0, 5])
def test_sampled_tokens_of_all_loops_are_the_same(history_free: float, known: int) -> None:
    stage = tiny_stage("semantic", position_scheme="time", initializer_range=0.2)
    stage.generation_config.history_free_guidance = history_free
    conditioning, generator = conditioning_for(stage, batch=3, frames=24), torch.Generator().manual_seed(1)
    size = stage.config.codebook_sizes[0]
    added, changes = 2 * torch.randn(3, 24, size, generator=generator), torch.randn(3, 24, generator=generator)
    guidance = TokenGuidance(changes[:, known:], added[:, known:])
    numbers, given = uniforms_for(3, 24)[:, known:], torch.ones(3, known, dtype=torch.long)
    arguments = (stage, conditioning, 24 - known, numbers)
    fast, reference, without = (
        decode_window(*arguments, DecodingOptions(how, 2.0, 0.8, 7), given, guidance=what)
        for how, what in (("fast", guidance), ("reference", guidance), ("fast", None))
    )
    assert fast.tolist() == reference.tolist() and not torch.equal(fast, without)
    static = FastDecoder(stage, 2.0, 0.8, 7, history_free_guidance=history_free, static=True)
    for what, expected in ((guidance, fast), (None, without), (guidance, fast)):
        assert torch.equal(static.generate(conditioning, 24 - known, numbers, given, guidance=what), expected)


def test_scores_are_added_to_the_tokens_of_their_instants() -> None:
    processor = HarmonyGuidance(torch.tensor([[[0.0, 0.0, 1.0], [0.0, 5.0, 0.0]]]), known=1)
    scores = torch.zeros(2, 3)
    assert processor(torch.zeros(2, 2, dtype=torch.long), scores).tolist() == [[0.0, 5.0, 0.0]] * 2


def test_windows_take_the_chords_of_their_instants() -> None:
    stage = tiny_stage("semantic", position_scheme="time", initializer_range=0.2)
    (conditioning,) = conditioning_for(stage, batch=1, frames=40)
    size = stage.config.codebook_sizes[0]
    table, wanted = 1e4 * torch.eye(size), torch.arange(40) % 7
    guidance = SongGuidance(known=torch.eye(size)[wanted], token_scores=lambda chords: chords @ table)
    stage.generation_config.window_seconds, stage.generation_config.overlap_seconds = 0.24, 0.08
    rows = [SongRow(20, RandomStream(5), guidance=guidance)]
    (codes,) = StageRun(stage, rows, UNIT, DecodingOptions()).run([conditioning])
    assert torch.equal(codes[0], wanted)
    pair = [SongRow(20, RandomStream(5), guidance=guidance), SongRow(20, RandomStream(6))]
    together = StageRun(stage, pair, UNIT, DecodingOptions()).run([conditioning] * 2)
    (alone,) = StageRun(stage, [SongRow(20, RandomStream(6))], UNIT, DecodingOptions()).run([conditioning])
    assert torch.equal(together[1], alone), "a song without chords beside one that has"


def test_a_composite_with_harmony_is_saved_loaded_and_guided(tmp_path: Path) -> None:
    model = HAFMForVocalAccompaniment.from_parts(**rhythmic_parts()).eval()
    model.semantic.generation_config.harmony_guidance = 3.0
    model.save_pretrained(tmp_path)
    loaded = HAFMForVocalAccompaniment.from_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {*PARTS, "harmony"}
    assert isinstance(loaded.config.harmony_config, HAFMHarmonyConfig)
    assert isinstance(HAFMHarmonyModel.from_pretrained(tmp_path, subfolder="harmony"), HAFMHarmonyModel)
    vocal = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    found = [each.generate(vocal, each.sampling_rate, seed=1).instrumental_semantic[0] for each in (model, loaded)]
    assert torch.equal(*found)
    loaded.semantic.generation_config.harmony_guidance = 0.0
    assert not torch.equal(loaded.generate(vocal, CODEC_RATE, seed=1).instrumental_semantic[0], found[0])
    assert loaded.parameter_counts()["harmony"] == sum(each.numel() for each in loaded.harmony.parameters())


def test_a_composite_without_harmony_has_none_and_refuses_to_weigh_it(tmp_path: Path) -> None:
    parts = rhythmic_parts()
    del parts["harmony"]
    model = HAFMForVocalAccompaniment.from_parts(**parts).eval()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["harmony_config"] is None
    loaded = HAFMForVocalAccompaniment.from_pretrained(tmp_path)
    tokens = torch.zeros(9, dtype=torch.long)
    assert loaded.song_guidance(tokens) == {}
    loaded.semantic.generation_config.harmony_guidance = 1.0
    with pytest.raises(ValueError, match="fit_harmony"):
        loaded.song_guidance(tokens)


def test_a_part_that_every_composite_has_is_missed_by_name() -> None:
    parts = rhythmic_parts()
    del parts["coarse"]
    with pytest.raises(ValueError, match="missing: coarse"):
        HAFMForVocalAccompaniment.from_parts(**parts)


def test_harmony_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    parts = rhythmic_parts()
    with pytest.raises(StrictDataclassClassValidationError, match="harmony clusters"):
        HAFMForVocalAccompaniment.from_parts(**{**parts, "harmony": tiny_harmony(num_clusters=3)})
    plain = HAFMSemanticTokenizer(parts["semantic_tokenizer"].config.__class__(**{
        **parts["semantic_tokenizer"].config.to_dict(), "rhythm_channels": 0, "beat_line": False,
    }))  # fmt: skip
    with pytest.raises(StrictDataclassClassValidationError, match="knows the beat"):
        HAFMForVocalAccompaniment.from_parts(**{**parts, "semantic_tokenizer": plain})
    with pytest.raises(StrictDataclassClassValidationError, match="num_layers"):
        HAFMHarmonyConfig(num_layers=100)
    folders = {}
    for name, part in {**parts, "harmony": tiny_harmony(semantic_tokenizer="another")}.items():
        folders[name] = str(tmp_path / name)
        part.save_pretrained(folders[name])
    with pytest.raises(ValueError, match="the harmony has learnt tokens of the semantic tokenizer another"):
        assemble_composite(folders, tmp_path / "model")


def test_assembled_with_harmony_it_is_weighed(tmp_path: Path) -> None:
    folders = {}
    for name, part in rhythmic_parts().items():
        folders[name] = str(tmp_path / name)
        part.save_pretrained(folders[name])
    assemble_composite(folders, tmp_path / "model", "fp32")
    model = HAFMForVocalAccompaniment.from_pretrained(tmp_path / "model")
    assert model.semantic.generation_config.harmony_guidance > 0
    guidance = model.song_guidance(torch.zeros(20, dtype=torch.long))["semantic"]
    assert guidance.changes is None
    added = guidance.added_to(15, 8)
    assert added is not None and added.shape == (8, model.config.semantic_tokenizer_config.num_clusters)
    assert not added[5:].any(), "nothing is said behind the end"


def test_the_bundled_model_plays_tokens_of_the_chords_that_the_voice_asks_for() -> None:
    model = HAFMForVocalAccompaniment.from_pretrained()
    config = model.semantic.generation_config
    vocal, rate = soundfile.read(EXAMPLE, dtype="float32")
    tokens = model.tokenize_vocal(vocal, rate, seed=0)[0]

    def fit(weight: float) -> float:
        config.harmony_guidance = weight
        guidance = model.song_guidance(tokens).get("semantic")
        rows = [SongRow(len(tokens) // 2, RandomStream(0, sample=row), guidance=guidance) for row in range(2)]
        found = torch.cat(StageRun(model.semantic, rows, UNIT, DecodingOptions()).run([tokens[None]] * 2))
        said = model.harmony.token_scores(chords)
        return float(said.expand(2, -1, -1).gather(2, found[..., None]).mean())

    assert config.harmony_guidance > 0
    phase = model.semantic_tokenizer.beat_phase(model.semantic_tokenizer.beat_places(tokens))
    chords = model.harmony.chords(tokens, phase)
    assert fit(config.harmony_guidance) > fit(0.0) + 0.3
