"""An accompaniment that is there already is taken only if the model would play the same again."""

import json
import shutil
from pathlib import Path

import numpy as np
import soundfile

from hafm_hf.evaluation.datasets import Clip, Part
from hafm_hf.evaluation.generating import RenderingOptions, render

RATE = 24_000


def test_what_is_there_is_not_made_again_unless_the_model_plays_otherwise(tiny_model: Path, tmp_path: Path) -> None:
    """A generation config decides what is played as weights do."""
    vocal = tmp_path / "vocal.wav"
    soundfile.write(vocal, 0.3 * np.sin(np.arange(RATE // 2) * 0.06), RATE)
    model, clips = tmp_path / "model", [Clip("song", "song", Part(vocal))]
    shutil.copytree(tiny_model, model)

    def rendered() -> Path:
        (seed,) = render(clips, tmp_path / "out", RenderingOptions(str(model)))
        return seed.parts["song"].path

    first = rendered()
    first.write_bytes(b"kept")
    assert rendered() == first and first.read_bytes() == b"kept"
    config = model / "coarse" / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"history_free_guidance": 1.5}))
    second = rendered()
    assert second != first and len(soundfile.read(second)[0]) == RATE // 2
