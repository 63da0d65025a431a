# SPDX-License-Identifier: Apache-2.0
"""How each style sounds: made when a checkpoint is assembled, kept when it is saved, named by its card."""

import io
from pathlib import Path

import numpy as np
import pytest

from hafm_hf import HAFMForVocalAccompaniment, audio
from hafm_hf.accompaniment.assemble import assemble_composite
from hafm_hf.pretrained.model_card import write_card
from hafm_hf.pretrained.style_sounds import STYLE_SOUND_BYTES, read_style_sounds
from tiny_models import tiny_band, tiny_composite
from vocals import CODEC_RATE, file_bytes, glide

NAMES = ("semantic_tokenizer", "semantic", "coarse", "fine", "codec")


def saved_parts(model: HAFMForVocalAccompaniment, folder: Path) -> dict[str, str | None]:
    for name in NAMES:
        getattr(model, name).save_pretrained(folder / name)
    return {name: str(folder / name) for name in NAMES}


def test_an_assembled_model_has_played_a_vocal_in_each_style(tmp_path: Path) -> None:
    vocal, model = tmp_path / "vocal.wav", tmp_path / "model"
    vocal.write_bytes(file_bytes(glide(1.3)))
    assemble_composite(saved_parts(tiny_band(), tmp_path / "parts"), model, style_vocal=vocal)
    assert sorted(path.name for path in (model / "styles").iterdir()) == ["folk.ogg", "rock.ogg"]
    (folk, rate), (rock, _) = (audio.read_audio(model / f"styles/{name}.ogg") for name in ("folk", "rock"))
    assert (len(folk), len(rock), rate) == (round(1.3 * CODEC_RATE),) * 2 + (CODEC_RATE,)
    assert not audio.is_silent(folk) and np.abs(folk - rock).max() > 0.01

    loaded = HAFMForVocalAccompaniment.from_pretrained(model)
    assert list(loaded.style_sounds) == ["folk", "rock"]
    loaded.save_pretrained(tmp_path / "again")
    for name, sound in loaded.style_sounds.items():
        assert (tmp_path / "again" / "styles" / f"{name}.ogg").read_bytes() == sound
        assert len(audio.read_audio(io.BytesIO(sound))[0]) == len(folk)
    card = write_card(tmp_path / "again").read_text()
    assert "[folk](styles/folk.ogg), [rock](styles/rock.ogg)." in card and "neither style" not in card


def test_a_model_without_styles_has_nothing_to_play_and_writes_nothing(tmp_path: Path) -> None:
    vocal = tmp_path / "vocal.wav"
    vocal.write_bytes(file_bytes(glide(1.2)))
    parts = saved_parts(tiny_composite(), tmp_path / "parts")
    with pytest.raises(ValueError, match="plays no styles .*; leave style_vocal out"):
        assemble_composite(parts, tmp_path / "model", style_vocal=vocal)
    assert not (tmp_path / "model").exists()
    assert assemble_composite(parts, tmp_path / "model") > 0 and not (tmp_path / "model" / "styles").exists()


@pytest.mark.fault("sounds in checkpoints of strangers")
def test_a_sound_of_another_place_or_of_any_size_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "model" / "styles").mkdir(parents=True)
    (tmp_path / "secret.ogg").write_bytes(b"of this machine")
    (tmp_path / "model" / "styles" / "hard rock.ogg").write_bytes(b"sound")
    (tmp_path / "model" / "styles" / "large.ogg").write_bytes(bytes(STYLE_SOUND_BYTES + 1))
    styles = ["hard rock", "large", "missing", "../../secret", str(tmp_path / "secret")]
    assert read_style_sounds(tmp_path / "model", styles) == {"hard rock": b"sound"}
