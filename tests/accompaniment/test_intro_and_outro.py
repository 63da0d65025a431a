# SPDX-License-Identifier: Apache-2.0
"""Intro and outro: bars on the song's own grid and chords, before and after the voice, and the length of the song."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import hafm_hf  # noqa: F401  (registers the task)
from accompaniment.test_conditioned_songs import reading_composite
from commands import hafm
from hafm_hf import LeadSheet, audio
from hafm_hf.listening.intro_and_outro import LEAD_SECONDS, RING_SECONDS, IntroAndOutro, add_bars
from vocals import CODEC_RATE, file_bytes, glide

# seconds: four beats at 120 BPM
BAR = 2.0
CHORDS = [(0.0, 2.0, "C"), (2.0, 4.0, "F"), (4.0, 6.0, "G"), (6.0, 8.5, "Am")]


def sung(start: float = 0.0, seconds: float = 8.5) -> np.ndarray:
    """float32 [N] at 1 kHz: silence until `start`, then voice (ones) until `seconds`."""
    silence = np.zeros(round(start * 1000))
    voice = np.ones(round((seconds - start) * 1000))
    return np.concatenate([silence, voice]).astype(np.float32)


def labels(sheet: LeadSheet, start: float, bars: int, length: float = BAR) -> list[str]:
    """The chord at the middle of each bar of `length` seconds from `start` on; where chords overlap, the later one."""
    found = []
    for number in range(bars):
        middle = start + (number + 0.5) * length
        sounding = [label for begin, end, label in sheet.chords if begin <= middle < end]
        found.append(sounding[-1])
    return found


def test_added_bars_follow_the_songs_grid_and_its_first_and_last_chords() -> None:
    # they overlap a little
    chords = [(start, stop + 0.005, label) for start, stop, label in CHORDS]
    sheet = LeadSheet(beats=[0.0, 0.5], beats_per_bar=4, chords=chords, key="C:maj")
    ends = add_bars(sheet, sung(), 1000, intro=3, outro=3)
    longer = ends.sheet
    assert list(longer.chords) == sorted(longer.chords)
    # those of the vocal, of the intro and of the outro
    assert len(longer.chords) == 4 + 3 + 3
    assert ends.before == pytest.approx(3 * BAR + LEAD_SECONDS)
    # the last note lasts half a second into the fifth bar, where the outro begins
    assert ends.after == pytest.approx(4 * BAR + 2 * BAR + RING_SECONDS - 8.5)
    assert ends.fade == RING_SECONDS
    assert np.allclose(np.diff(longer.beats or ()), 0.5)
    assert np.allclose(np.diff(longer.downbeats), BAR)
    assert labels(longer, LEAD_SECONDS, 3) == ["C", "F", "G"]
    assert labels(longer, ends.before, 4) == ["C", "F", "G", "Am"]
    assert labels(longer, ends.before + 4 * BAR, 3) == ["G", "Am", "C:maj"]
    assert [name for *_, name in longer.form] == ["Intro", "Outro"]
    assert add_bars(sheet, sung(), 1000, 1, 0).after == 0 == add_bars(sheet, sung(), 1000, 0, 1).before


@pytest.mark.parametrize(("start", "before"), [(0.3, 4.0), (1.4, 2.0), (2.2, 2.0), (9.0, 0.0)])
def test_a_pickup_overlaps_the_intro_and_leading_silence_counts_towards_it(start: float, before: float) -> None:
    sheet = LeadSheet(beats=[0.0, 0.5], beats_per_bar=4, chords=CHORDS, key="C:maj")
    ends = add_bars(sheet, sung(start, 12.0), 1000, intro=2, outro=0)
    assert ends.before == pytest.approx(before + LEAD_SECONDS if before else 0.0)
    silent = replace(sheet, chords=[(0.0, 4.0, "N"), (4.0, 6.0, "C"), (6.0, 8.0, "G")])
    longer = add_bars(silent, sung(4.0, 8.0), 1000, intro=2, outro=0).sheet
    assert labels(longer, LEAD_SECONDS, 4) == ["C", "G", "C", "G"]


# the recording begins 0.8 s into the first bar
CUT_BAR = LeadSheet(beats=[0.2, 0.7, 1.2], beats_per_bar=4, downbeat=2, chords=[(0.0, 1.2, "C"), (1.2, 3.2, "G")])


def test_a_bar_cut_by_the_beginning_has_its_chord_for_the_whole_bar_after_an_intro() -> None:
    longer = add_bars(CUT_BAR, sung(0.0, 3.2), 1000, intro=2, outro=0).sheet
    spans = [(round(start, 2), round(stop, 2), label) for start, stop, label in longer.chords]
    # the intro begins after LEAD_SECONDS, 0.1 s
    assert spans == [(0.1, 2.1, "C"), (2.1, 4.1, "G"), (4.1, 6.1, "C"), (6.1, 8.1, "G")]


# the recording ends 0.3 s before the last bar does
CUT_AT_THE_END = replace(CUT_BAR, chords=[(0.0, 1.2, "C"), (1.2, 2.9, "G")], key="C:maj")


def test_a_bar_cut_by_the_end_has_its_chord_for_the_whole_bar_before_an_outro() -> None:
    longer = add_bars(CUT_AT_THE_END, sung(0.0, 2.9), 1000, intro=0, outro=2).sheet
    assert [(round(stop, 2), label) for _, stop, label in longer.chords[1:3]] == [(3.2, "G"), (5.2, "G")]


def test_the_last_chord_lasts_through_a_tail() -> None:
    held = IntroAndOutro(CUT_AT_THE_END, before=0.1).with_tail(2.8, 4.0)
    assert held.sheet.chords[1] == (1.2, pytest.approx(6.9), "G")


def test_chords_after_the_voice_sound_neither_in_an_outro_nor_in_a_tail() -> None:
    further = LeadSheet(beats=[0.0, 0.5], beats_per_bar=4, downbeat=0, key="C:maj", chords=[
        *CHORDS[:3], (6.0, 8.0, "Am"), (8.0, 10.0, "D"), (10.0, 12.0, "E"), (12.0, 14.0, "B")])  # fmt: skip
    longer = add_bars(further, sung(0.0, 8.0), 1000, intro=0, outro=3).sheet
    assert labels(longer, 0.0, 7) == ["C", "F", "G", "Am", "G", "Am", "C:maj"]
    held = IntroAndOutro(further, before=0.0).with_tail(8.0, 4.0)
    assert labels(held.sheet, 0.0, 6) == ["C", "F", "G", "Am", "Am", "Am"]


def test_three_four_bars_keep_their_metre_and_a_short_song_repeats_its_chords() -> None:
    sheet = LeadSheet(tempo=None, beats=[0.5, 1.0, 1.5], beats_per_bar=3, downbeat=1, chords=[(1.0, 2.5, "Dm")])
    ends = add_bars(sheet, sung(1.0, 2.5), 1000, intro=4, outro=2)
    longer = ends.sheet
    assert longer.beats_per_bar == 3
    assert np.allclose(np.diff(longer.downbeats), 1.5)
    assert labels(longer, LEAD_SECONDS, 4, 1.5) == ["Dm"] * 4
    assert min(abs(np.array(longer.downbeats) - (ends.before + 1.0))) < 1e-6


@pytest.fixture(scope="module")
def band(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a composite whose stages read beats and chords."""
    folder = tmp_path_factory.mktemp("band") / "model"
    reading_composite().save_pretrained(folder)
    return folder


def test_added_bars_lengthen_the_song_in_calls_streams_batches_and_the_command(band: Path, tmp_path: Path) -> None:
    accompany: Any = transformers.pipeline("vocal-accompaniment", model=str(band), device="cpu")
    voice = glide(1.5)
    options: dict[str, Any] = {
        "sampling_rate": CODEC_RATE, "seed": 1, "intro_bars": 1, "outro_bars": 1,
        "lead_sheet": {"beats": [0.0, 0.4], "beats_per_bar": 3, "chords": [[0, 1.5, "C"]]},
    }  # fmt: skip
    song = accompany(voice, **options)
    start = round(song["vocal_start"] * CODEC_RATE)
    assert song["vocal_start"] == pytest.approx(1.2 + LEAD_SECONDS)
    assert len(song["audio"]) == len(song["mix"]) == round((1.3 + 1.2 + RING_SECONDS) * CODEC_RATE)
    assert np.array_equal(song["vocals"][start : start + len(voice)], voice)
    assert not song["vocals"][:start].any()
    assert not song["vocals"][start + len(voice) :].any()
    assert song["audio"][:start].any()
    assert audio.rms_dbfs(song["audio"][-CODEC_RATE // 20 :]) < -50
    chunks = list(accompany.stream(voice, **options))
    joined = accompany.join(iter(chunks))
    assert np.allclose(joined["audio"], song["audio"], atol=1e-5)
    assert joined["vocal_start"] == song["vocal_start"]
    assert chunks[0]["seconds"] == len(song["audio"]) / CODEC_RATE
    with pytest.raises(TypeError, match="tail is of no use any more; give it to the stream"):
        accompany.join(chunks, tail=1.0)
    # the song's own sheet, for the vocal
    repeated = accompany(voice, **options | {"lead_sheet": song["lead_sheet"].moved(-song["vocal_start"])})
    assert len(repeated["audio"]) == len(song["audio"])
    assert repeated["vocal_start"] == pytest.approx(1.3)
    assert [name for *_, name in repeated["lead_sheet"].form] == ["Intro", "Outro"]
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    again = accompany(voice, **options | {"lead_sheet": {"tempo": 150, "beats_per_bar": 3}})
    assert torch.equal(torch.random.get_rng_state(), before), "with a seed, the global generator is untouched"
    assert again["vocal_start"] > 1.0
    pair = accompany([voice, voice[:-600]], batch_size=2, **options)
    assert np.allclose(pair[0]["audio"], song["audio"], atol=1e-4)
    assert pair[1]["vocal_start"] == song["vocal_start"]

    path = tmp_path / "voice.wav"
    path.write_bytes(file_bytes(voice))
    beats = tmp_path / "voice_beats.txt"
    beats.write_text("0.0 1\n0.4 2\n0.8 3\n1.2 1\n")
    words = ["--model", band, "--out", tmp_path, "--intro-bars", 2, "--beats", beats, "--chords", "C | G", "--seed", 1]
    done = hafm("accompany", path, *words)
    assert done.exit_code == 0, done.output
    assert "the voice begins at 2.50 s" in done.output, done.output


def test_a_model_without_beats_refuses_extra_bars(tiny_model: Path) -> None:
    accompany: Any = transformers.pipeline("vocal-accompaniment", model=str(tiny_model), device="cpu")
    with pytest.raises(ValueError, match="cannot follow beats; leave intro_bars and outro_bars out"):
        accompany(glide(), sampling_rate=CODEC_RATE, intro_bars=4)
    with pytest.raises(ValueError, match="outro_bars is 17; it must be between 0 and 16"):
        accompany(glide(), sampling_rate=CODEC_RATE, outro_bars=17)


def test_each_vocal_of_a_batch_may_have_its_own_lead_sheet() -> None:
    model = reading_composite()
    voices = [glide(1.5), glide(1.2)]
    how: dict[str, Any] = {"seed": 1, "skip_fine": True}
    sheets: list[Any] = [{"chords": [[0, 1, "C"]], "beats": [0.0, 0.4]}, LeadSheet(style="rock", beats=[0.1, 0.5])]
    both = model.generate(voices, CODEC_RATE, lead_sheet=sheets, **how)
    for number, (voice, sheet) in enumerate(zip(voices, sheets, strict=True)):
        alone = model.generate([voice], CODEC_RATE, lead_sheet=sheet, **how)
        assert torch.equal(alone.codes[0], both.codes[number])
        assert alone.lead_sheets[0] == both.lead_sheets[number]
    for given in (sheets, tuple(sheets)):
        chords = model.generate(voices, CODEC_RATE, lead_sheet=given, chords=[(0, 1, "G")], **how).lead_sheets
        assert [list(each.chords) for each in chords] == [[(0, 1, "G")]] * 2
    with pytest.raises(ValueError, match="belongs to one vocal, and 2 were given"):
        model.generate(voices, CODEC_RATE, lead_sheet=sheets[:1], **how)
