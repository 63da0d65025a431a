# SPDX-License-Identifier: Apache-2.0
"""`hafm accompany --plot` and `hafm inspect-tokens`, as real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hafm_hf import HAFMForVocalAccompaniment
from hafm_hf.audio import read_audio
from hafm_hf.cli.models import tokenize
from programs import run_program
from vocals import file_bytes, glide

pytest.importorskip("matplotlib")
from matplotlib.image import imread

HAFM = Path(sys.executable).with_name("hafm")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "vocal.wav"


def run_hafm(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {"NO_COLOR": "1", "COLUMNS": "200", **environment}
    return run_program([HAFM, *arguments], os.environ | settings, folder)


@pytest.fixture(scope="module")
def vocal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocals") / "vocal.wav"
    path.write_bytes(file_bytes(glide(1.0, 44_100), 44_100))
    return path


def test_a_song_gets_one_picture_that_json_names(tiny_model: Path, vocal: Path, tmp_path: Path) -> None:
    done = run_hafm(tmp_path, "accompany", vocal, "--model", tiny_model, "--skip-fine", "--plot", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["plot"] == "vocal_plot.png"
    assert imread(tmp_path / "vocal_plot.png").shape == (840, 1200, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "vocal_instrumental.wav",
        "vocal_mix.wav",
        "vocal_plot.png",
        "vocal_take.json",
    ]


def test_tokens_of_both_rates_are_counted_and_drawn(tiny_model: Path, vocal: Path, tmp_path: Path) -> None:
    done = run_hafm(tmp_path, "inspect-tokens", vocal, "--model", tiny_model)
    assert done.returncode == 0, done.stderr
    semantic, codec, wrote = done.stdout.splitlines()
    assert semantic.startswith("semantic tokens: 50 frames at 50 Hz")
    assert codec.startswith("codec: 8 codebooks, 75 frames at 75 Hz")
    assert wrote == "wrote vocal_tokens.png"
    assert imread(tmp_path / "vocal_tokens.png").shape[1] == 1200


def test_a_vocal_is_heard_as_a_generation_hears_it_and_an_accompaniment_as_one(
    bundled_model: Path, tmp_path: Path
) -> None:
    """The bundled model has centroids of its own for voices."""
    samples, rate = read_audio(EXAMPLE, seconds=3.0)
    model = HAFMForVocalAccompaniment.from_pretrained(bundled_model)
    heard = model.generate(samples, rate, seed=0, skip_fine=True).vocal_semantic[0].numpy()
    as_vocal, as_instrumental = (
        tokenize(samples, rate, str(bundled_model), instrumental)["semantic tokens"][0]
        for instrumental in (False, True)
    )
    assert np.array_equal(as_vocal, heard[: len(as_vocal)]) and len(as_vocal) == 150
    assert (as_vocal != as_instrumental).mean() > 0.9
    lines = {
        option: run_hafm(tmp_path, "inspect-tokens", EXAMPLE, "--seconds", 3, *option).stdout.splitlines()[0]
        for option in ((), ("--instrumental",))
    }
    assert lines[()] != lines["--instrumental",]


@pytest.mark.parametrize("command", [("accompany", "--plot"), ("inspect-tokens",)])
def test_without_matplotlib_the_extra_is_named_before_anything_is_done(
    tiny_model: Path, vocal: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    # A package that cannot be found hides the installed one.
    program = "import sys; sys.modules['matplotlib'] = None; from hafm_hf.cli import main; main()"
    words = [sys.executable, "-c", program, *command, vocal, "--model", tiny_model]
    work = tmp_path / "work"
    work.mkdir()
    done = run_program(words, os.environ | {"COLUMNS": "200"}, work)
    assert done.returncode == 1
    assert done.stderr.strip() == "hafm: Pictures need matplotlib; install it with: pip install 'hafm-hf[studio]'."
    assert not any(work.iterdir())
