# SPDX-License-Identifier: Apache-2.0
"""Tempo, beats and chords as users give them: one function for command line, pipeline and endpoint."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from commands import hafm
from hafm_hf import HAFMForVocalAccompaniment, LeadSheet
from hafm_hf.hub.endpoint import EndpointHandler
from hafm_hf.lead_sheet.files import known_lead_sheet
from vocals import EXAMPLE


def test_files_lists_and_texts_give_the_same_lead_sheet(tmp_path: Path) -> None:
    (tmp_path / "beats.txt").write_text("0.5\n1.0\n", encoding="utf-8-sig")
    (tmp_path / "chords.lab").write_text("0 1 C\n1 2 Am\n")
    expected = LeadSheet(beats=[0.5, 1.0], chords=[(0.0, 1.0, "C"), (1.0, 2.0, "Am")])
    assert known_lead_sheet(beats=tmp_path / "beats.txt", chords=str(tmp_path / "chords.lab")) == expected
    assert known_lead_sheet(beats=[0.5, 1.0], chords=[(0.0, 1.0, "C"), (1.0, 2.0, "Am")]) == expected
    assert known_lead_sheet(expected, chords=[(0.0, 2.0, "G")]) == LeadSheet(
        beats=[0.5, 1.0], chords=[(0.0, 2.0, "G")]
    )
    assert known_lead_sheet(tempo=96, chords="| C | Am |") == LeadSheet(tempo=96, bars=("C", "Am"))
    assert known_lead_sheet(tempo=96, chords="C | Am") == LeadSheet.given({"tempo": 96, "chords": "C | Am"})
    assert known_lead_sheet(tempo=96, chords="Am") == LeadSheet(tempo=96, bars=("Am",))
    assert known_lead_sheet() is None
    (tmp_path / "Chords.lab").write_text("0 1 C\n1 2 Am\n")
    given: dict[str, Any] = {"beats": np.array([0.5, 1]), "chords": tmp_path / "Chords.lab"}
    assert known_lead_sheet(**given) == expected
    given = {"beats": torch.tensor([0.5, 1]), "downbeat": np.int64(1), "chords": np.array([(0, 1, "C")], object)}
    written = json.dumps(LeadSheet(**given).to_dict())
    assert json.loads(written) == {"beats": [0.5, 1], "downbeat": 1, "chords": [[0, 1, "C"]]}
    assert type(LeadSheet.given({"tempo": np.float32(96)}).tempo) is float


@pytest.mark.parametrize("estimated", [(), ["beats", "key"]])
def test_a_tempo_or_beats_replace_the_beats_of_a_lead_sheet(estimated: list[str]) -> None:
    sheet = LeadSheet(beats=[0.5, 1.0], beats_per_bar=3, downbeat=1, key="C:maj", estimated=estimated)
    still_estimated = [name for name in estimated if name != "beats"] or ()
    assert known_lead_sheet(sheet, tempo=96) == LeadSheet(tempo=96, key="C:maj", estimated=still_estimated)
    with_beats = LeadSheet(beats=[0.2, 0.9], key="C:maj", estimated=still_estimated)
    assert known_lead_sheet(sheet, beats=[0.2, 0.9]) == with_beats
    waltz = {"tempo": 96, "beats_per_bar": 3}
    assert known_lead_sheet(waltz, beats=[0, 1]) == LeadSheet(beats=[0, 1], beats_per_bar=3)
    barred = replace(sheet, bars=("C", "F"))
    expected = replace(barred, tempo=96, beats=None, downbeat=0, estimated=still_estimated)
    assert known_lead_sheet(barred, tempo=96) == expected


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"chords": "C | Am"}, "need a beat to count bars by; give a tempo or beats"),
        ({"tempo": 96, "chords": "C | H"}, "'H' is not a chord"),
        ({"tempo": 96, "chords": "C | F H"}, "'H' is not a chord"),
        ({"tempo": 96, "chords": "C || F"}, "Bar 2 of the chords is empty; write N"),
        ({"tempo": 96, "chords": "C Am F G"}, r"chords are 'C Am F G'; say where bars end: 'C \| Am \| F \| G'"),
        ({"tempo": 96, "chords": "C, Am", "files": False}, r"say where bars end: 'C \| Am'"),
        ({"tempo": 96, "chords": "Absent.lab"}, "Absent.lab cannot be read"),
        ({"beats": 2}, "beats are 2; they must be numbers"),
        ({"beats": [0.0, 1e8]}, "beats must be increasing times in seconds, within a day"),
        ({"lead_sheet": {"tempo": 96, "downbeat": "x"}}, "downbeat is 'x'; it must be the number of a beat"),
        ({"tempo": 96, "chords": "absent.lab", "files": False}, "'absent.lab' is not a chord"),
        ({"beats": "absent.txt", "files": False}, "beats is 'absent.txt'; give seconds"),
        ({"tempo": "96"}, "tempo is '96'; it must be a number"),
        ({"tempo": 96, "beats": [0.5, 1.0]}, "leave tempo out"),
        ({"beats": ["a", "b"]}, "beats are .'a', 'b'.; they must be numbers"),
    ],
)
def test_invalid_tempo_beats_and_chords_are_refused(known: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        known_lead_sheet(**known)


def test_chords_given_per_bar_are_placed_on_the_beats_and_repeated() -> None:
    sheet = LeadSheet(beats=[0.2, 0.7, 1.2], downbeat=1, beats_per_bar=3, bars=["C", "Am7"])
    assert sheet.with_bars_placed(torch.zeros(250), 50) == LeadSheet(
        beats=[0.2, 0.7, 1.2],
        downbeat=1,
        beats_per_bar=3,
        chords=[(0.7, 2.2, "C"), (2.2, 3.7, "Am7"), (3.7, 5.0, "C")],
    )
    # with a tempo alone they start at the beat nearest to the start of the voice, here 0.2 beats before it
    placed = LeadSheet(tempo=120, bars=["C", "F"]).with_bars_placed((torch.arange(200) / 25 + 0.2) % 1, 50)
    # the phase, 0 to 1 at 50 Hz, is not changed in place
    phase = ((torch.arange(200) / 25 + 0.2) % 1).double()
    before = phase.clone()
    LeadSheet(tempo=120, bars=["C", "F"]).with_bars_placed(phase, 50)
    assert torch.equal(phase, before)
    assert (placed.chords, placed.beats_per_bar) == (((0.0, 1.9, "C"), (1.9, 3.9, "F"), (3.9, 4.0, "C")), 4)
    assert replace(placed, bars=["C"], beats_per_bar=4).with_bars_placed(torch.arange(200) / 25 % 1, 50).downbeat == 3
    assert LeadSheet.given({"tempo": 120, "chords": "|| C7(b9,#11) | F,\n G ||\n"}).bars == ("C7(b9,#11)", "F", "G")
    shared = LeadSheet(beats=[0.0, 0.5], bars=["C", "F G", "Am"]).with_bars_placed(torch.zeros(300), 50)
    assert shared.chords == ((0.0, 2.0, "C"), (2.0, 3.0, "F"), (3.0, 4.0, "G"), (4.0, 6.0, "Am"))
    # chords given in seconds take precedence
    both = LeadSheet(tempo=120, chords=[(0.0, 1.0, "G")], bars=["C"]).with_bars_placed(torch.zeros(100), 50)
    assert both.chords == ((0.0, 2.0, "C"), (0.0, 1.0, "G"))


def test_chords_given_per_bar_change_on_the_beats_of_the_voice(bundled: HAFMForVocalAccompaniment) -> None:
    vocal, rate = soundfile.read(EXAMPLE, dtype="float32", frames=6 * 24_000)
    sheet = bundled.complete_lead_sheet(vocal, rate, LeadSheet(tempo=120, bars=["C", "F#"]))
    changes = [start for start, _, _ in sheet.chords[1:]]
    assert {label for *_, label in sheet.chords} == {"C", "F#"}
    assert np.allclose(np.diff(changes), 2.0, atol=0.03)
    assert sheet.beats is not None
    assert all(np.abs(np.array(sheet.beats) - change).min() < 0.03 for change in changes)


def test_command_pipeline_endpoint_and_stream_generate_the_same_song_from_tempo_and_chords(
    bundled_model: Path, tmp_path: Path
) -> None:
    vocal, rate = soundfile.read(EXAMPLE, dtype="float32", frames=3 * 24_000)
    soundfile.write(tmp_path / "v.wav", vocal, rate, subtype="FLOAT")
    known = {"tempo": 96, "chords": "C | F#"}
    words = ["accompany", str(tmp_path / "v.wav"), "--tempo", "96", "--chords", "C | F#", "--seed", "1", "--skip-fine"]
    hafm(*words, "--out", tmp_path, check=True)
    written = soundfile.read(tmp_path / "v_instrumental.wav", dtype="float32")[0]
    handler = EndpointHandler(str(bundled_model))
    options: dict[str, Any] = {"seed": 1, "skip_fine": True}
    song = handler.pipeline(vocal, sampling_rate=rate, **options, **known)
    without_sheet = handler.pipeline(vocal, sampling_rate=rate, **options)
    parameters = {**known, **options, "format": "wav"}
    answer = handler({"inputs": (tmp_path / "v.wav").read_bytes(), "parameters": parameters})
    answered = soundfile.read(io.BytesIO(base64.b64decode(answer[0]["blob"])), dtype="float32")[0]
    assert np.array_equal(answered, written)
    assert np.allclose(song["audio"], written, atol=1e-4)
    assert not np.allclose(song["audio"], without_sheet["audio"], atol=1e-2)
    chunks = handler.pipeline.stream(vocal, sampling_rate=rate, **options, **known)
    streamed = np.concatenate([chunk["audio"] for chunk in chunks])
    # a call turns the whole song down if its mix would clip, which a stream cannot know in advance
    assert np.allclose(streamed / np.abs(streamed).max(), song["audio"] / np.abs(song["audio"]).max(), atol=1e-3)
