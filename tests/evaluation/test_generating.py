# SPDX-License-Identifier: Apache-2.0
"""Rendered accompaniments are reused only if the model would generate the same again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hafm_hf.accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
from hafm_hf.evaluation.datasets import Clip, Part
from hafm_hf.evaluation.generating import RenderingOptions, render
from hafm_hf.evaluation.statistics import HAFMEvaluationError
from tiny_models import tiny_composite

RATE = 24_000


def test_renderings_are_reused_until_the_model_changes(tiny_model: Path, tmp_path: Path) -> None:
    """The generation config counts as part of the model, as the weights do."""
    vocal = tmp_path / "vocal.wav"
    soundfile.write(vocal, 0.3 * np.sin(np.arange(RATE // 2) * 0.06), RATE)
    model = tmp_path / "model"
    clips = [Clip("song", "song", Part(vocal))]
    shutil.copytree(tiny_model, model)

    def rendered() -> Path:
        """The accompaniment of the vocal, which is rendered if there is none."""
        return render(clips, tmp_path / "out", RenderingOptions(str(model)))[0]["song"].path

    first = rendered()
    first.write_bytes(b"kept")
    assert rendered() == first
    assert first.read_bytes() == b"kept"
    config = model / "coarse" / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"history_free_guidance": 1.5}))
    second = rendered()
    assert second != first
    assert len(soundfile.read(second)[0]) == RATE // 2


@pytest.mark.parametrize("name", ["a" * 300, "歌" * 100, "deep__" * 60])
def test_a_clip_with_a_long_name_is_rendered_under_a_shorter_one(tiny_model: Path, tmp_path: Path, name: str) -> None:
    vocal = tmp_path / "vocal.wav"
    soundfile.write(vocal, 0.3 * np.sin(np.arange(RATE // 2) * 0.06), RATE)
    clips = [Clip(name, "song", Part(vocal))]
    for _ in range(2):
        made = render(clips, tmp_path / "out", RenderingOptions(str(tiny_model)))[0][name].path
        assert list((tmp_path / "out").rglob("*.wav")) == [made]
    # without the hash at its end
    assert name.startswith(made.stem[:-17])


def test_a_model_gets_only_the_chosen_labels_of_a_clip(tmp_path: Path) -> None:
    vocal = tmp_path / "vocal.wav"
    labels = tmp_path / "labels.json"
    soundfile.write(vocal, 0.3 * np.sin(np.arange(2 * RATE) * 0.06), RATE)
    known = {"beats": [0.1, 0.7, 1.3, 1.9], "chords": [[0.1, 1.3, "C:maj"], [1.3, 2.5, "A:min"]], "key": "C:maj"}
    labels.write_text(json.dumps(known))
    tiny_composite(num_hidden_layers=1, lead_sheet_streams={"chord": 86}).save_pretrained(tmp_path / "model")
    model = HAFMForVocalAccompaniment.from_pretrained(tmp_path / "model")
    clip = Clip("song", "song", Part(vocal, start=0.5), labels=labels)

    def played(*given: str) -> np.ndarray:
        """The accompaniment that is rendered for the clip, given these parts of its labels."""
        rendered = render([clip], tmp_path / "out", RenderingOptions(str(tmp_path / "model"), given=given))
        return soundfile.read(rendered[0]["song"].path)[0]

    samples, rate = clip.vocal.read()
    sheet = RenderingOptions(given=("chords",)).sheet_of(clip)
    assert sheet is not None
    assert sheet.beats is None
    # times are relative to the start of the clip
    assert [label for *_, label in sheet.chords] == ["C:maj", "A:min"]
    assert sheet.chords[1][0] == pytest.approx(0.8)
    expected = model.generate(samples, rate, seed=0, lead_sheet=sheet).audio[0].numpy()
    assert played("chords") == pytest.approx(expected, abs=1e-4)
    assert not np.allclose(played(), expected, atol=1e-4)
    with pytest.raises(HAFMEvaluationError, match=r"given is 'chord'; choose from beats, chords, key"):
        RenderingOptions(given=("chord",))
    for part, asked in (("beats", Clip("song", "song", Part(vocal))), ("energy", clip)):
        with pytest.raises(HAFMEvaluationError, match=rf"song has no labels\.json with its {part}; leave --given"):
            RenderingOptions(given=("chords", part) if asked is clip else (part,)).sheet_of(asked)
