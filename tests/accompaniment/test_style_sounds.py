# SPDX-License-Identifier: Apache-2.0
"""Sound samples of the styles: kept when a checkpoint is saved, and read with care."""

import io
from pathlib import Path

import numpy as np
import pytest

from hafm_hf import HAFMForVocalAccompaniment, audio
from hafm_hf.pretrained.saving import STYLE_SOUND_BYTES, read_style_sounds
from style_sounds import write_style_sounds
from tiny_models import tiny_band
from vocals import CODEC_RATE, file_bytes, glide


def test_the_recipe_renders_each_style_and_saving_keeps_the_sounds(tmp_path: Path) -> None:
    vocal, model = tmp_path / "vocal.wav", tmp_path / "model"
    vocal.write_bytes(file_bytes(glide(1.3)))
    tiny_band().save_pretrained(model)
    written = write_style_sounds(model, vocal)
    assert [path.relative_to(model).as_posix() for path in written] == ["styles/folk.ogg", "styles/rock.ogg"]
    folk, rock = (audio.read_audio(path) for path in written)
    assert (len(folk[0]), len(rock[0]), folk[1]) == (round(1.3 * CODEC_RATE),) * 2 + (CODEC_RATE,)
    assert not audio.is_silent(folk[0]) and np.abs(folk[0] - rock[0]).max() > 0.01
    loaded = HAFMForVocalAccompaniment.from_pretrained(model)
    assert list(loaded.style_sounds) == ["folk", "rock"]
    loaded.save_pretrained(tmp_path / "again")
    for name, sound in loaded.style_sounds.items():
        assert (tmp_path / "again" / "styles" / f"{name}.ogg").read_bytes() == sound
        assert len(audio.read_audio(io.BytesIO(sound))[0]) == len(folk[0])


@pytest.mark.fault("sounds in untrusted checkpoints")
def test_oversized_sounds_and_those_outside_the_checkpoint_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "model" / "styles").mkdir(parents=True)
    (tmp_path / "secret.ogg").write_bytes(b"of this machine")
    (tmp_path / "model" / "styles" / "hard rock.ogg").write_bytes(b"sound")
    (tmp_path / "model" / "styles" / "large.ogg").write_bytes(bytes(STYLE_SOUND_BYTES + 1))
    styles = ["hard rock", "large", "missing", "../../secret", str(tmp_path / "secret")]
    assert read_style_sounds(tmp_path / "model", styles) == {"hard rock": b"sound"}
