"""What the coarse stage knows of codes along the beat: in every loop, in its files, and in the drums one hears."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hafm_hf import HAFMForVocalAccompaniment
from hafm_hf.audio import resample
from hafm_hf.audio.analysis import FRAME_RATE
from hafm_hf.decoding.windows import DecodingOptions, SongRow, StageRun
from hafm_hf.evaluation.features import ANALYSIS_RATE, onset_strength
from hafm_hf.lead_sheet.beats import at_rate
from hafm_hf.lead_sheet.lead_sheet import LeadSheet
from hafm_hf.stages.guidance import SongGuidance
from hafm_hf.stages.modeling_hafm import HAFMCoarseForCausalLM
from hafm_hf.stages.sampling import RandomStream
from lead_sheet.test_harmony import rhythmic_parts
from stages.test_modeling import conditioning_for
from tiny_models import tiny_stage

UNIT = 0.04
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "vocal.wav"


def knowing_stage(parts: int = 4) -> HAFMCoarseForCausalLM:
    """A coarse stage that is sure of one code, the part's number, in each part of the beat."""
    stage = tiny_stage("coarse", position_scheme="time", beat_parts=parts)
    stage.beat_scores.copy_(100 * torch.eye(parts, stage.config.codebook_size))
    return stage


def test_the_phase_of_frames_at_another_rate() -> None:
    times = [(torch.arange(count) + 0.5).double() / rate for count, rate in ((500, 50), (750, 75))]
    slow, wanted = ((time * 1.7 % 1).float() for time in times)
    found = at_rate(slow, 50, 75)
    distance = (found - wanted + 0.5) % 1 - 0.5
    assert found.shape == (750,) and float(distance[1:-1].abs().max()) < 1e-4
    assert at_rate(slow[:1], 50, 75).shape == (2,) and at_rate(slow[:0], 50, 75).shape == (0,)


def test_only_the_first_codebook_has_a_beat() -> None:
    stage = knowing_stage()
    parts = stage.beat_tokens(torch.tensor([0.0, 0.3, 0.999]))
    assert parts.view(3, -1).tolist() == [[part] + [4] * (stage.config.num_codebooks - 1) for part in (0, 1, 3)]
    scores = stage.beat_token_scores(parts)
    assert scores.shape == (len(parts), stage.config.codebook_size)
    assert (
        scores.sum(1).view(3, -1)[:, 0].tolist() == [100.0] * 3 and float(scores.view(3, -1)[:, 8:].abs().sum()) == 0
    )


@pytest.mark.parametrize("loop", ["fast", "reference", "windows"])
def test_codes_are_the_beats_in_every_loop(loop: str) -> None:
    stage = knowing_stage()
    phase = torch.rand(60, generator=torch.Generator().manual_seed(0))
    if loop == "windows":
        stage.generation_config.window_seconds, stage.generation_config.overlap_seconds = 0.24, 0.08
    row = SongRow(20, RandomStream(5), guidance=SongGuidance(None, stage.beat_tokens(phase), stage.beat_token_scores))
    options = DecodingOptions("reference" if loop == "reference" else "fast")
    (codes,) = StageRun(stage, [row], UNIT, options).run([conditioning_for(stage, batch=1, frames=40)[0]])
    assert torch.equal(codes[0], (phase * 4).long())


def test_a_composite_plays_the_codes_of_the_beats_that_it_is_told(tmp_path: Path) -> None:
    parts = rhythmic_parts()
    parts["coarse"] = knowing_stage()
    model = HAFMForVocalAccompaniment.from_parts(**parts).eval()
    tokens = torch.zeros(50, dtype=torch.long)
    assert model.song_guidance(tokens) == {}
    model.coarse.generation_config.beat_guidance = 2.0
    model.save_pretrained(tmp_path)
    model = HAFMForVocalAccompaniment.from_pretrained(tmp_path)
    assert list(model.song_guidance(tokens)) == ["coarse"]
    rate = model.sampling_rate
    vocals = [np.random.default_rng(row).normal(0, 0.1, rate * (row + 1)).astype(np.float32) for row in range(2)]
    beats = [0.1, 0.6, 1.3, 1.7]
    frames = (np.arange(75) + 0.5) / 75
    wanted = np.floor(4 * np.interp(frames, beats, range(4), left=0.8, right=3.2) % 4)
    found = model.generate(vocals[0], rate, lead_sheet=LeadSheet(beats=beats)).codes[0][0]
    inside = (frames > beats[0]) & (frames < beats[-1])
    assert found.numpy()[inside].tolist() == wanted[inside].tolist()
    # rows of one batch have a beat each
    together = model.generate(vocals, rate, seed=0, num_samples=2).codes
    for row, vocal in enumerate(vocals):
        apart = model.generate(vocal, rate, seed=0, num_samples=2).codes
        assert [codes.tolist() for codes in together[2 * row : 2 * row + 2]] == [codes.tolist() for codes in apart]


def test_a_weight_without_scores_is_refused() -> None:
    model = HAFMForVocalAccompaniment.from_parts(**rhythmic_parts())
    model.coarse.generation_config.beat_guidance = 1.0
    with pytest.raises(ValueError, match="fit_code_beats"):
        model.song_guidance(torch.zeros(50, dtype=torch.long))


def test_the_bundled_models_drums_are_on_the_beat() -> None:
    model = HAFMForVocalAccompaniment.from_pretrained()
    vocal, rate = soundfile.read(EXAMPLE, dtype="float32")
    vocal = vocal[: 6 * rate]
    own = model.coarse.generation_config.beat_guidance
    assert own > 0

    def steadiness(weight: float) -> float:
        """How nearly all onsets lie at one place in the sixths of the beat, 0 to 1, wherever that is heard."""
        model.coarse.generation_config.beat_guidance = weight
        output = model.generate(vocal, rate, seed=0, skip_fine=True)
        onsets = onset_strength(resample(output.audio[0].numpy(), output.sampling_rate, ANALYSIS_RATE))
        phase = model.semantic_tokenizer.beat_phase(model.semantic_tokenizer.beat_places(output.vocal_semantic[0]))
        angle = 12 * np.pi * at_rate(phase, 50, FRAME_RATE).double().numpy()
        heard = np.maximum(onsets[: len(angle)] - np.median(onsets), 0.0)
        return float(abs((heard * np.exp(1j * angle[: len(heard)])).sum()) / heard.sum())

    assert steadiness(own) > steadiness(0.0) + 0.1
