# SPDX-License-Identifier: Apache-2.0
"""Bands of stems, styles and energies: rows of one plan, their sum, and every way in which they are asked for."""

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
from huggingface_hub.errors import StrictDataclassClassValidationError
from typer.testing import CliRunner

from accompaniment.test_accompaniment import voice
from hafm_hf import HAFMForVocalAccompaniment, LeadSheet, audio
from hafm_hf.accompaniment.options import GenerationOptions
from hafm_hf.cli import app
from hafm_hf.hub.endpoint import EndpointHandler
from hafm_hf.lead_sheet.vocabulary import STEMS
from hafm_hf.modeling.sampling import RandomStream
from tiny_models import STAGES, tiny_band
from vocals import CODEC_RATE, file_bytes

NAMES = list(STEMS[1:])
SHEET = LeadSheet(chords=[(0.0, 0.2, "C"), (0.2, 2.0, "Am7")])


@pytest.fixture(scope="module", params=["flat", "delay"])
def model(request: pytest.FixtureRequest) -> HAFMForVocalAccompaniment:
    return tiny_band(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("band") / "model"
    tiny_band("delay").save_pretrained(path)
    (path.parent / "v.wav").write_bytes(file_bytes(voice(1), CODEC_RATE))
    return path


@pytest.fixture(scope="module")
def accompany(folder: Path) -> Any:
    return transformers.pipeline("vocal-accompaniment", model=str(folder), device="cpu")


def hafm(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "200"})


def assert_alike(kept: np.ndarray, old: np.ndarray, tolerance: float) -> None:
    """Half a second behind the fade is the same, but for the gain that keeps a band from clipping."""
    new, before = kept[1_000:11_000], old[1_000:11_000]
    assert np.allclose(new, before * (new @ before) / (before @ before), atol=tolerance)


def test_stems_are_rows_on_one_plan_and_lead_sheet_and_their_sum_is_the_band(model: Any) -> None:
    read: list[torch.Tensor] = []
    embedding = model.coarse.model.lead_sheet_embedding
    hook = embedding.register_forward_pre_hook(lambda module, args: read.append(args[0].transpose(1, 2)))
    output = model.generate(voice(0.6), CODEC_RATE, seed=1, lead_sheet=SHEET, stems=True)
    hook.remove()
    told = read[0][:4]
    assert told[:, -1].unique(dim=1).flatten().tolist() == [2, 3, 4, 5]
    assert bool((told[:, :-1] == told[:1, :-1]).all()) and told[0, 0].unique().numel() == 2
    (stems,) = output.stems
    assert list(stems) == NAMES and output.codes[0].shape == (4, 8, 45)
    torch.testing.assert_close(torch.stack(list(stems.values())).sum(0), output.audio[0])
    assert all(len(sound) == 14_400 for sound in stems.values())
    codes = output.codes[0]
    assert all(not torch.equal(codes[n], codes[m]) for n in range(4) for m in range(n))
    mix = model.generate(voice(0.6), CODEC_RATE, seed=1, lead_sheet=SHEET)
    assert mix.stems is None and mix.codes[0].shape == (8, 45)
    assert torch.equal(mix.instrumental_semantic[0], output.instrumental_semantic[0])
    reference = model.generate(voice(0.6), CODEC_RATE, seed=1, lead_sheet=SHEET, stems=True, decoding="reference")
    assert torch.equal(reference.codes[0], codes)


def test_batches_samples_and_streams_of_stems_are_what_each_is_alone(model: Any) -> None:
    vocals = [voice(0.6), voice(0.4, pitch=300)]
    together = model.generate(vocals, CODEC_RATE, seed=3, stems=True, num_samples=2)
    for number, vocal in enumerate(vocals):
        alone = model.generate(vocal, CODEC_RATE, seed=3, stems=True).codes[0]
        assert torch.equal(together.codes[2 * number], alone)
        assert not torch.equal(together.codes[2 * number + 1], alone)
    pieces = torch.cat(list(model.stream(vocals[0], CODEC_RATE, seed=3, stems=True)), dim=1)
    torch.testing.assert_close(pieces, torch.stack(list(together.stems[0].values())), atol=1e-5, rtol=0)
    model.config.plays_stems = True
    summed = torch.cat(list(model.stream(vocals[0], CODEC_RATE, seed=3)))
    model.config.plays_stems = False
    torch.testing.assert_close(summed, together.audio[0], atol=1e-5, rtol=0)
    assert not torch.equal(*(RandomStream(1, 1, 0, stem).uniforms(0, 9) for stem in (0, 1)))
    rounded = model.generate(vocals[1], CODEC_RATE, seed=3, stems=True, quantization="int8", lead_sheet_guidance=2.0)
    assert rounded.codes[0].shape == (4, 8, 30) and rounded.audio[0].isfinite().all()


def test_spans_of_stems_are_kept_as_they_were(model: Any) -> None:
    old = model.generate(voice(0.8), CODEC_RATE, seed=1, stems=True).stems[0]
    given = {"instrumental": old, "keep": [(0.0, 0.4)]}
    new = model.generate(voice(0.8), CODEC_RATE, seed=2, **given)
    for name in NAMES:
        difference = (new.stems[0][name] - old[name]).abs()
        assert float(difference[:9_000].max()) < 1e-6 < float(difference[10_500:].max()), name
    with pytest.raises(ValueError, match="keeps spans of stems"):
        model.generate(voice(0.6), CODEC_RATE, stems=True, instrumental=old["drums"], keep=[(0.0, 0.4)])
    with pytest.raises(ValueError, match="stems is False, and the instrumental is given by stems"):
        model.generate(voice(0.6), CODEC_RATE, stems=False, **given)
    with pytest.raises(ValueError, match="has drums; it needs drums, bass, chords, colour"):
        model.generate(voice(0.6), CODEC_RATE, instrumental={"drums": old["drums"]}, keep=[(0.0, 0.4)])


def test_a_checkpoint_says_whether_it_plays_stems(tmp_path: Path) -> None:
    model = tiny_band()
    model.config.plays_stems = True
    model.save_pretrained(tmp_path)
    again = HAFMForVocalAccompaniment.from_pretrained(tmp_path)
    expected = model.generate(voice(0.4), CODEC_RATE, seed=1)
    found = again.generate(voice(0.4), CODEC_RATE, seed=1)
    assert list(found.stems[0]) == NAMES and torch.equal(found.codes[0], expected.codes[0])
    assert again.generate(voice(0.4), CODEC_RATE, seed=1, stems=False).stems is None
    assert not HAFMForVocalAccompaniment.from_pretrained(tmp_path, plays_stems=False).config.plays_stems
    told = json.loads((tmp_path / "config.json").read_text())
    told["coarse_config"]["lead_sheet_streams"] = {}
    with pytest.raises(StrictDataclassClassValidationError) as refused:
        type(model.config).from_dict(told)
    assert "plays_stems needs a coarse stage" in str(refused.value.__cause__)


def test_what_no_stage_reads_is_refused_in_a_sentence_and_changes_nothing_else() -> None:
    plain, reading = tiny_band(plain=True), tiny_band()
    for asked, said in (
        ({"stems": True}, "stems is True, but this model knows nothing of stem; leave stems out"),
        ({"style": "folk"}, "style is 'folk', but this model knows nothing of style"),
        ({"energy": "auto"}, "energy is 'auto', but this model knows nothing of energy"),
        ({"lead_sheet_guidance": 2.0}, "is 2.0, but this model knows nothing of chord, beat, bar, energy, style"),
    ):
        with pytest.raises(ValueError, match=said):
            plain.generate(voice(0.4), CODEC_RATE, **asked)
    with pytest.raises(ValueError, match="plays no stems apart; give the instrumental as one"):
        plain.generate(voice(0.4), CODEC_RATE, instrumental=dict.fromkeys(NAMES, voice(0.4)), keep=[(0.0, 0.2)])
    with pytest.raises(ValueError, match="no style 'polka'; it has folk, rock"):
        reading.generate(voice(0.4), CODEC_RATE, style="polka")
    # with streams that say nothing the weights that both have play the same, to the bit
    for name in STAGES:
        stage = getattr(reading, name)
        stage.load_state_dict(getattr(plain, name).state_dict(), strict=False)
        stage.model.lead_sheet_embedding.weight.data.zero_()
    outputs = [each.generate(voice(0.6), CODEC_RATE, seed=1, stems=False) for each in (plain, reading)]
    assert torch.equal(outputs[0].codes[0], outputs[1].codes[0])
    assert torch.equal(outputs[0].audio[0], outputs[1].audio[0])
    # numbers of a checkpoint that knows no stems, as they have always been drawn
    numbers = RandomStream(7, 1, 2).uniforms(5, 3) * 2**24
    assert numbers.tolist() == [1445770.0, 7382309.0, 10665339.0]


def test_style_and_energy_become_parts_of_the_lead_sheet() -> None:
    model: Any = tiny_band()
    output = model.generate([voice(0.6), voice(0.4)], CODEC_RATE, seed=1, style="rock", energy="full", skip_fine=True)
    assert [sheet.style for sheet in output.lead_sheets] == ["rock", "rock"]
    assert [sheet.sections for sheet in output.lead_sheets] == [((0.0, 0.6, "full"),), ((0.0, 0.4, "full"),)]
    named = LeadSheet(style="rock", sections=[(0.0, 0.6, "full")])
    told = model.generate(voice(0.6), CODEC_RATE, seed=1, lead_sheet=named, skip_fine=True)
    assert torch.equal(told.codes[0], output.codes[0])
    (heard,) = model.generate(voice(0.6), CODEC_RATE, seed=1, energy="auto", skip_fine=True).lead_sheets
    assert heard.sections == ((0.0, 0.6, "normal"),) and list(heard.estimated) == ["sections"]
    (kept,) = model.generate(
        voice(0.6), CODEC_RATE, seed=1, energy="auto", lead_sheet=named, skip_fine=True
    ).lead_sheets
    assert kept == named
    swelling = np.concatenate([0.05 * voice(8), voice(8)]).astype(np.float32)
    sheet = model.asked_lead_sheet(swelling, CODEC_RATE, None, GenerationOptions(energy="auto"))
    assert [(round(start), energy) for start, _, energy in sheet.sections] == [(0, "sparse"), (8, "full")]


def test_the_pipeline_hands_out_mixes_and_streams_stems(accompany: Any) -> None:
    vocal = {"array": voice(1), "sampling_rate": CODEC_RATE}
    song = accompany(vocal, seed=1, stems=True, style="folk")
    assert list(song["stems"]) == NAMES and song["lead_sheet"].style == "folk"
    assert np.allclose(sum(song["stems"].values()), song["audio"], atol=1e-6)
    edge = CODEC_RATE * 5 // 1000
    for stem in song["stems"].values():
        assert max(audio.peak_dbfs(stem[:edge]), audio.peak_dbfs(stem[-edge:])) < -50.0
    placed = accompany(
        vocal, seed=1, style="folk", stem_gain_db={"drums": -6.0}, stem_pan={"bass": -1.0}, output_rate=CODEC_RATE
    )
    assert placed["audio"].shape == placed["mix"].shape == (len(song["audio"]), 2)
    assert not placed["stems"]["bass"][:, 1].any() and placed["stems"]["chords"].shape == placed["audio"].shape
    ratio = {name: np.abs(placed["stems"][name][:, 0]).max() / np.abs(song["stems"][name]).max() for name in NAMES}
    assert ratio["drums"] / ratio["chords"] == pytest.approx(10 ** (-6 / 20), rel=1e-3)
    assert ratio["bass"] / ratio["chords"] == pytest.approx(2**0.5, rel=1e-3)
    with pytest.raises(ValueError, match="leave them out where the mix is played"):
        accompany(vocal, stems=False, stem_pan={"bass": 1.0})
    both = accompany([vocal, {**vocal, "array": voice(1.2)}], seed=1, stems=True, style="folk", batch_size=2)
    assert np.allclose(both[0]["stems"]["colour"], song["stems"]["colour"], atol=1e-5)
    pieces = list(accompany.stream(vocal, seed=1, stems=True, style="folk", output_rate=32_000))
    joined = accompany.join(pieces)
    assert list(joined["stems"]) == NAMES and joined["sampling_rate"] == 32_000
    kept = accompany(
        vocal,
        seed=2,
        # in any order
        instrumental={name: (stem, CODEC_RATE) for name, stem in reversed(song["stems"].items())},
        keep=[(0.0, 0.5)],
    )
    for name in NAMES:
        assert_alike(kept["stems"][name], song["stems"][name], 1e-5)


def test_command_and_endpoint_write_stems(folder: Path, tmp_path: Path) -> None:
    vocal, words = folder.parent / "v.wav", ["--model", folder, "--seed", 1, "--skip-fine"]
    done = hafm(
        "accompany", vocal, *words, "--out", tmp_path, "--stems", "--style", "rock", "--energy", "sparse",
        "--lead-sheet-guidance", 2, "--stem-gain", "drums=-3,bass=2", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    written = json.loads(done.stdout)
    sounds = {name: soundfile.read(written[name], dtype="float32")[0] for name in (*NAMES, "instrumental")}
    assert written["drums"].endswith("v_drums.wav")
    assert np.allclose(sum(sounds[name] for name in NAMES), sounds["instrumental"], atol=3 / 2**15)
    again = hafm(
        "accompany", vocal, *words, "--out", tmp_path / "again", "--stems", "--keep", "0:0.5",
        "--instrumental", tmp_path / "v_instrumental.wav",
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    kept = soundfile.read(tmp_path / "again" / "v_bass.wav", dtype="float32")[0]
    assert_alike(kept, sounds["bass"], 2 / 2**15)
    done = hafm("accompany", vocal, *words, "--out", tmp_path / "stream", "--stems", "--stream")
    assert done.exit_code == 0, done.output
    stream = {part: soundfile.read(tmp_path / "stream" / f"v_{part}.wav")[0] for part in (*NAMES, "instrumental")}
    assert np.allclose(sum(stream[name] for name in NAMES), stream["instrumental"], atol=3 / 2**15)
    many = tmp_path / "voices"
    many.mkdir()
    (many / "v.wav").write_bytes(vocal.read_bytes())
    done = hafm("accompany", many, *words, "--out", tmp_path / "many", "--stems", "--style", "rock")
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "many").glob("v_*")} == {
        f"v_{part}.wav" for part in ("instrumental", "mix", *NAMES)
    }
    parameters = {"seed": 1, "skip_fine": True, "stems": True, "style": "rock", "format": "wav"}
    answer = EndpointHandler(str(folder))({"inputs": vocal.read_bytes(), "parameters": parameters})
    assert [each["label"] for each in answer] == ["instrumental", "mix", *NAMES]
    assert len(soundfile.read(io.BytesIO(base64.b64decode(answer[-1]["blob"])))[0]) == CODEC_RATE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--energy", "loud"), "'loud' is not one of 'auto', 'sparse', 'normal', 'full'"),
        (("--stem-gain", "flute=3"), "stem_gain_db is 'flute'; choose 'drums' or 'bass'"),
        (("--stem-gain", "drums"), "'drums' is not of the kind drums=-3,bass=2"),
        (("--stem-pan", "drums=2"), "stem_pan['drums'] is 2.0; it must be between -1 and 1"),
        (("--stream", "--stem-pan", "drums=1"), "leave --stem-gain and --stem-pan out"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_read(words: tuple[str, ...], said: str) -> None:
    done = hafm("accompany", "missing.wav", *words)
    assert done.exit_code == 2 and said in " ".join(done.output.replace("│", " ").split())


def test_a_command_refuses_a_model_without_stems_in_a_sentence(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    done = hafm("accompany", folder.parent / "v.wav", "--model", tiny_model, "--out", tmp_path, "--stems")
    assert "stems is True, but this model knows nothing of stem; leave stems out." in str(done.exception)
    assert type(done.exception).__name__ == "HAFMCommandError" and not list(tmp_path.iterdir())
