# SPDX-License-Identifier: Apache-2.0
"""`hafm accompany --plot`, as a real process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from programs import run_program
from vocals import file_bytes, glide

pytest.importorskip("matplotlib")
from matplotlib.image import imread

HAFM = Path(sys.executable).with_name("hafm")


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


def test_without_matplotlib_the_extra_is_named_before_anything_is_done(
    tiny_model: Path, vocal: Path, tmp_path: Path
) -> None:
    # A package that cannot be found hides the installed one.
    program = "import sys; sys.modules['matplotlib'] = None; from hafm_hf.cli import main; main()"
    words = [sys.executable, "-c", program, "accompany", "--plot", vocal, "--model", tiny_model]
    work = tmp_path / "work"
    work.mkdir()
    done = run_program(words, os.environ | {"COLUMNS": "200"}, work)
    assert done.returncode == 1
    assert done.stderr.strip() == "hafm: Pictures need matplotlib; install it with: pip install 'hafm-hf[studio]'."
    assert not any(work.iterdir())
