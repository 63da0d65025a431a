# SPDX-License-Identifier: Apache-2.0
"""Stems, styles and energies: what the model does with them, through every interface."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers

from accompaniment.test_accompaniment import voice
from commands import hafm
from hafm_hf import HAFMForVocalAccompaniment, LeadSheet, audio
from hafm_hf.hub.endpoint import EndpointHandler
from hafm_hf.lead_sheet.vocabulary import STEMS
from hafm_hf.listening.encoder import with_style_and_energy
from tiny_models import STAGES, tiny_band
from vocals import CODEC_RATE, file_bytes

NAMES = list(STEMS)


@pytest.fixture(scope="module")
def model() -> HAFMForVocalAccompaniment:
    """A composite with styles, energies and stems."""
    return tiny_band("delay")


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The saved model, beside a voice in v.wav."""
    path = tmp_path_factory.mktemp("band") / "model"
    model.save_pretrained(path)
    (path.parent / "v.wav").write_bytes(file_bytes(voice(1), CODEC_RATE))
    return path


@pytest.fixture(scope="module")
def accompany(folder: Path) -> Any:
    """The pipeline of the saved model."""
    return transformers.pipeline("vocal-accompaniment", model=str(folder), device="cpu")


def test_stems_add_up_to_the_same_instrumental_whole_and_streamed(model: Any) -> None:
    vocals = [voice(0.6), voice(0.4, pitch=300)]
    whole = model.generate(vocals, CODEC_RATE, seed=1, num_samples=2)
    split = model.generate(vocals, CODEC_RATE, seed=1, num_samples=2, stems=True)
    assert whole.stems is None
    assert model.stems == STEMS
    for number, stems in enumerate(split.stems):
        assert list(stems) == NAMES
        assert torch.equal(split.codes[number], whole.codes[number])
        assert torch.equal(split.audio[number], whole.audio[number])
        torch.testing.assert_close(sum(stems.values()), split.audio[number], atol=1e-6, rtol=0)
        assert all(sound.abs().max() > 1e-4 for sound in stems.values())
    pieces = list(model.stream(vocals[0], CODEC_RATE, seed=1, stems=True))
    assert len(pieces) > 1
    torch.testing.assert_close(torch.cat(pieces, dim=1), torch.stack(list(split.stems[0].values())), atol=1e-5, rtol=0)


def test_stems_of_kept_spans_add_up_to_the_kept_audio(model: Any) -> None:
    old = model.generate(voice(0.8), CODEC_RATE, seed=1).audio[0]
    kept = {"instrumental": old, "keep": [(0.0, 0.4)]}
    whole, split = (model.generate(voice(0.8), CODEC_RATE, seed=2, stems=stems, **kept) for stems in (False, True))
    assert torch.equal(split.audio[0], whole.audio[0])
    assert torch.equal(split.audio[0][:9_000], old[:9_000])
    torch.testing.assert_close(sum(split.stems[0].values()), split.audio[0], atol=1e-6, rtol=0)


def test_unsupported_controls_are_refused_and_empty_streams_change_nothing() -> None:
    plain = tiny_band(plain=True)
    reading = tiny_band()
    for controls, said in (
        ({"stems": True}, "stems is True, which this model does not support; leave stems out"),
        ({"style": "folk"}, "style is 'folk', which this model does not support; leave style out"),
        ({"energy": "auto"}, "energy is 'auto', which this model does not support; leave energy out"),
    ):
        with pytest.raises(ValueError, match=said):
            plain.generate(voice(0.4), CODEC_RATE, **controls)
    with pytest.raises(ValueError, match="no style 'polka'; it has folk, rock"):
        reading.generate(voice(0.4), CODEC_RATE, style="polka")
    # with the same weights, lead sheet streams that embed to zero do not change a bit of the output
    for name in STAGES:
        stage = getattr(reading, name)
        stage.load_state_dict(getattr(plain, name).state_dict(), strict=False)
        stage.model.lead_sheet_embedding.weight.data.zero_()
    outputs = [each.generate(voice(0.6), CODEC_RATE, seed=1) for each in (plain, reading)]
    assert torch.equal(outputs[0].codes[0], outputs[1].codes[0])
    assert torch.equal(outputs[0].audio[0], outputs[1].audio[0])


def test_style_and_energy_are_added_to_the_lead_sheet(model: Any) -> None:
    output = model.generate([voice(0.6), voice(0.4)], CODEC_RATE, seed=1, style="rock", energy="full", skip_fine=True)
    assert [sheet.style for sheet in output.lead_sheets] == ["rock", "rock"]
    assert [sheet.sections for sheet in output.lead_sheets] == [((0.0, 0.6, "full"),), ((0.0, 0.4, "full"),)]
    named = LeadSheet(style="rock", sections=[(0.0, 0.6, "full")])
    given = model.generate(voice(0.6), CODEC_RATE, seed=1, lead_sheet=named, skip_fine=True)
    assert torch.equal(given.codes[0], output.codes[0])
    (estimated,) = model.generate(voice(0.6), CODEC_RATE, seed=1, energy="auto", skip_fine=True).lead_sheets
    assert estimated.sections == ((0.0, 0.6, "normal"),)
    assert list(estimated.estimated) == ["sections", "style"]
    kept = model.generate(voice(0.6), CODEC_RATE, seed=1, energy="auto", lead_sheet=named, skip_fine=True).lead_sheets
    assert kept == [named]
    swelling = np.concatenate([0.05 * voice(8), voice(8)]).astype(np.float32)
    sheet = with_style_and_energy(LeadSheet(), None, "auto", swelling, CODEC_RATE)
    assert [(round(start), energy) for start, _, energy in sheet.sections] == [(0, "sparse"), (8, "full")]


def test_the_pipeline_returns_and_streams_stems(accompany: Any) -> None:
    vocal = {"array": voice(1), "sampling_rate": CODEC_RATE}
    song = accompany(vocal, seed=1, stems=True, style="folk")
    assert list(song["stems"]) == NAMES
    assert song["lead_sheet"].style == "folk"
    assert np.allclose(sum(song["stems"].values()), song["audio"], atol=1e-6)
    # 5 ms
    edge = CODEC_RATE * 5 // 1000
    for stem in song["stems"].values():
        assert max(audio.peak_dbfs(stem[:edge]), audio.peak_dbfs(stem[-edge:])) < -50.0
    both = accompany([vocal, {**vocal, "array": voice(1.2)}], seed=1, stems=True, style="folk", batch_size=2)
    assert np.allclose(both[0]["stems"]["pads"], song["stems"]["pads"], atol=1e-5)
    pieces = list(accompany.stream(vocal, seed=1, stems=True, style="folk", output_rate=32_000))
    joined = accompany.join(pieces)
    assert list(joined["stems"]) == NAMES
    assert joined["sampling_rate"] == 32_000
    earlier = {"instrumental": {**vocal, "array": song["audio"]}, "keep": [(0.0, 0.5)]}
    kept = accompany(vocal, seed=2, stems=True, output_rate=32_000, **earlier)
    assert np.allclose(sum(kept["stems"].values()), kept["audio"], atol=1e-6)
    # the kept half second without its ends, at 32 kHz
    new = kept["audio"][1_300:14_000]
    old = audio.resample(song["audio"], CODEC_RATE, 32_000)[1_300:14_000]
    assert np.allclose(new, old * (new @ old) / (old @ old), atol=1e-5), "equal up to the gain that prevents clipping"


def test_command_and_endpoint_write_stems(folder: Path, tmp_path: Path) -> None:
    vocal = folder.parent / "v.wav"
    words = ["--model", folder, "--seed", 1, "--skip-fine"]
    flags = ("--stems", "--style", "rock")
    done = hafm("accompany", vocal, *words, "--out", tmp_path, *flags, "--energy", "sparse", "--json", check=True)
    written = json.loads(done.stdout)
    sounds = {name: soundfile.read(written[name], dtype="float32")[0] for name in (*NAMES, "instrumental")}
    assert written["drums"].endswith("v_drums.wav")
    # each file is rounded to 16 bits
    assert np.allclose(sum(sounds[name] for name in NAMES), sounds["instrumental"], atol=3 / 2**15)
    many = tmp_path / "voices"
    many.mkdir()
    (many / "v.wav").write_bytes(vocal.read_bytes())
    hafm("accompany", many, *words, "--out", tmp_path / "many", *flags, check=True)
    assert {path.name for path in (tmp_path / "many").glob("v_*")} == {
        f"v_{part}.wav" for part in ("instrumental", "mix", *NAMES)
    }
    parameters = {"seed": 1, "skip_fine": True, "stems": True, "style": "rock", "format": "wav"}
    answer = EndpointHandler(str(folder))({"inputs": vocal.read_bytes(), "parameters": parameters})
    assert [each["label"] for each in answer] == ["instrumental", "mix", *NAMES]
    assert len(soundfile.read(io.BytesIO(base64.b64decode(answer[-1]["blob"])))[0]) == CODEC_RATE


def test_the_command_refuses_stems_if_the_model_has_none(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    done = hafm("accompany", folder.parent / "v.wav", "--model", tiny_model, "--out", tmp_path, "--stems")
    assert "stems is True, which this model does not support; leave stems out." in str(done.exception)
    assert type(done.exception).__name__ == "HAFMCommandError"
    assert not list(tmp_path.iterdir())
