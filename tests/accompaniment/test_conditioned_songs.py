# SPDX-License-Identifier: Apache-2.0
"""Generating with stages that read a lead sheet: given parts reach every stage and window, the rest is estimated."""

from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from accompaniment.test_accompaniment import voice
from hafm_hf import HAFMForVocalAccompaniment, LeadSheet
from hafm_hf.accompaniment.pipeline_hafm import HAFMPipeline
from hafm_hf.lead_sheet.lead_sheet import ROW_SIZES, rows_by_frame
from tiny_models import STAGES, encoded, first_read, tiny_composite, tiny_listener, tiny_rhythmic_tokenizer, tiny_stage
from vocals import CODEC_RATE

# the streams of a lead sheet that the stages read
NAMES = ["chord", "beat", "bar", "style"]
SIZES = {name: ROW_SIZES[name] for name in NAMES}
OPTIONS: dict[str, Any] = {"lead_sheet_streams": SIZES, "styles": ["folk", "rock"]}
SHEET = LeadSheet(beats=[0.1, 0.6, 1.1], beats_per_bar=4, chords=[(0.0, 0.8, "C"), (0.8, 2.0, "Am7")], style="rock")


def reading_composite(
    pattern: str = "flat", style_ranges: dict | None = None, **parts: Any
) -> HAFMForVocalAccompaniment:
    """A composite whose stages all read a lead sheet, with windows so short that each song has several.

    Args:
        pattern: codebook pattern of the acoustic stages.
        style_ranges: of the styles "folk" and "rock", as in the configuration of a stage; None: none.
        parts: additional parts, or replacements.
    """
    given = {part: getattr(tiny_composite(), part) for part in ("semantic_tokenizer", "codec")}
    for name, window in (("semantic", 1.2), ("coarse", 0.6), ("fine", 0.4)):
        how: dict[str, Any] = {} if name == "semantic" else {"codebook_pattern": pattern}
        stage = tiny_stage(
            name, position_scheme="time", num_hidden_layers=1, **OPTIONS, style_ranges=style_ranges or {}, **how
        )
        stage.generation_config.update(window_seconds=window, overlap_seconds=0.12)
        given[name] = stage
    return HAFMForVocalAccompaniment.from_parts(**{**given, **parts})


@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_every_stage_reads_the_lead_sheet_at_its_own_rate(pattern: str) -> None:
    model = reading_composite(pattern)
    with first_read(model, "lead_sheet_embedding") as read:
        whole = model.generate(voice(2), CODEC_RATE, seed=1, lead_sheet=SHEET, decoding="reference")
    for name in STAGES:
        rate = getattr(model, name).config.conditioning_frame_rate
        expected = rows_by_frame(SHEET, NAMES, 2 * rate, rate, ["folk", "rock"])
        assert torch.equal(read[name], expected[:, : read[name].shape[1]]), name
    chunks = torch.cat(list(model.stream(voice(2), CODEC_RATE, seed=1, lead_sheet=SHEET)))
    torch.testing.assert_close(chunks, whole.audio[0], atol=1e-5, rtol=0)
    other = model.generate(voice(2), CODEC_RATE, seed=1, lead_sheet=LeadSheet(style="folk"))
    assert not torch.equal(other.codes[0], whole.codes[0])
    with pytest.raises(ValueError, match="no style 'polka'; it has folk, rock"):
        model.generate(voice(1), CODEC_RATE, lead_sheet=LeadSheet(style="polka"))


def test_each_sample_gets_a_different_style_unless_one_is_given() -> None:
    model = reading_composite()

    def styles_of(seed: int, **how: Any) -> list[Any]:
        """The styles of two samples."""
        output = model.generate(voice(0.4), CODEC_RATE, seed=seed, num_samples=2, skip_fine=True, **how)
        return [sheet.style for sheet in output.lead_sheets]

    drawn = [styles_of(seed) for seed in (4, 5)]
    assert drawn == [["folk", "rock"], ["rock", "folk"]]
    assert styles_of(4) == drawn[0]
    assert styles_of(4, style="rock") == ["rock", "rock"]
    assert styles_of(4, lead_sheet=LeadSheet(style="folk")) == ["folk", "folk"]
    assert styles_of(4, instrumental=voice(0.4), keep=[(0.0, 0.2)]) == [None, None], "the kept spans decide"


def test_a_drawn_style_reaches_every_stage() -> None:
    model = reading_composite()
    with first_read(model, "lead_sheet_embedding") as read:
        output = model.generate(voice(0.4), CODEC_RATE, seed=5, decoding="reference")
    assert output.lead_sheets[0].style == "rock"
    for name in STAGES:
        # 0 is no style, 1 folk, 2 rock
        assert read[name][NAMES.index("style")].unique().tolist() == [2], name
        assert not read[name][NAMES.index("chord")].any(), name


def test_missing_parts_of_a_lead_sheet_are_estimated_where_the_model_can() -> None:
    model = reading_composite(semantic_tokenizer=tiny_rhythmic_tokenizer(), listener=tiny_listener())
    estimate = model.complete_lead_sheet(voice(2), 24_000)
    assert estimate.beats
    assert estimate.chords
    assert estimate.estimated == ["beats", "chords", "key"]
    chord, beat, bar, style = encoded(model, voice(2), 24_000).lead_sheet_rows["semantic"]
    assert bool((chord > 0).all())
    assert bool((beat > 0).all())
    assert not bar.any()
    assert not style.any()
    given = LeadSheet(tempo=100.0, chords=[(0.0, 2.0, "E")], style="folk")
    chord, beat, bar, style = encoded(model, voice(2), 24_000, given).lead_sheet_rows["coarse"]
    assert chord.unique().tolist() == [1 + 5]
    assert style.unique().tolist() == [1], "folk"
    # 0.6 s a beat, in frames of 20 ms
    assert (beat.diff() < 0).nonzero().flatten().diff().float().mean() == pytest.approx(30, abs=1.5)
    partly = LeadSheet(chords=[(0.0, 2.0, "E"), (4.5, 5.0, "F")])
    chords = encoded(model, voice(7), 24_000, partly).lead_sheet.chords
    assert {*partly.chords} < {*chords}
    for (_, stop, _), (start, _, _) in zip(chords, chords[1:], strict=False):
        assert stop <= start
    assert sum(stop - start for start, stop, _ in chords) == pytest.approx(7, abs=0.05)
    almost = LeadSheet(chords=[(0.0, 4.0, "E")])
    assert encoded(model, voice(5), 24_000, almost).lead_sheet.chords == almost.chords
    assert not encoded(reading_composite(), voice(2), 24_000).lead_sheet_rows["fine"].any()


RANGES = {"folk": {"tempo": [55, 90], "metres": [4]}, "rock": {"tempo": [110, 180], "metres": [4]}}


def styles_at(model: Any, tempo: float, **how: Any) -> set[Any]:
    """The styles that some seeds choose for a voice at a tempo."""
    outputs = [
        model.generate(voice(0.4), CODEC_RATE, seed=seed, tempo=tempo, skip_fine=True, **how) for seed in range(3)
    ]
    return {output.lead_sheets[0].style for output in outputs}


@pytest.mark.parametrize(("tempo", "expected"), [(70.0, {"folk"}), (150.0, {"rock"})])
def test_auto_draws_among_the_styles_that_suit_the_tempo(tempo: float, expected: set) -> None:
    model = reading_composite(style_ranges=RANGES)
    assert styles_at(model, tempo) == expected
    assert styles_at(model, tempo, style="auto") == expected


def test_without_ranges_auto_draws_among_all_styles() -> None:
    assert styles_at(reading_composite(), 70.0) == {"folk", "rock"}


def test_a_given_style_is_used_even_if_it_does_not_suit() -> None:
    model = reading_composite(style_ranges=RANGES)
    assert styles_at(model, 70.0, style="rock") == {"rock"}
    assert styles_at(model, 70.0, style="auto", lead_sheet=LeadSheet(style="rock")) == {"rock"}


def test_a_model_without_styles_accepts_auto() -> None:
    plain = tiny_composite()
    assert plain.generate(voice(0.4), CODEC_RATE, seed=1, skip_fine=True).lead_sheets[0].style is None
    assert plain.generate(voice(0.4), CODEC_RATE, seed=1, skip_fine=True, style="auto").lead_sheets[0].style is None


def test_every_piece_of_a_stream_states_the_style_that_is_played() -> None:
    accompany = HAFMPipeline(reading_composite(style_ranges=RANGES))
    pieces = list(accompany.stream(voice(1.1), sampling_rate=CODEC_RATE, seed=1, tempo=150.0, skip_fine=True))
    assert {piece["lead_sheet"].style for piece in pieces} == {"rock"}
    assert accompany.join(pieces)["lead_sheet"].style == "rock"


def test_ranges_of_styles_that_a_stage_does_not_have_are_refused() -> None:
    with pytest.raises(StrictDataclassClassValidationError, match="style_ranges has 'polka', which is not among"):
        tiny_stage("semantic", lead_sheet_streams={"style": 16}, styles=["folk"], style_ranges={"polka": {}})
