# SPDX-License-Identifier: Apache-2.0
"""The built wheel as installed: it has the bundled model, and its core needs only declared dependencies."""

import json
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import soundfile
import typer.main

from distribution.environments import Environment, make, make_environment
from hafm_hf.cli import app
from hafm_hf.pretrained.loading import BUNDLED_MODEL
from programs import REPOSITORY

# generates a song of 1 s from the installed package
PIPELINE = """
import soundfile, sys
import hafm_hf
from transformers import pipeline
song = pipeline("vocal-accompaniment", device="cpu")({vocal!r}, seconds=1.0, skip_fine=True, seed=1)
soundfile.write("song.wav", song["mix"], song["sampling_rate"], subtype="FLOAT")
assert hafm_hf.__file__.startswith(sys.prefix), hafm_hf.__file__
"""
# runs several commands in one process, and prints their exit codes
EACH = """
import sys
from hafm_hf.cli import main
for words in {commands}:
    sys.argv = ["hafm", *words]
    try:
        main()
    except SystemExit as ended:
        print(ended.code)
"""
VOCAL = REPOSITORY / "examples" / "vocal.wav"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make dist` built, with its output in `printed`."""
    folder = tmp_path_factory.mktemp("dist")
    (folder / "printed").write_text(make("dist", DIST=folder, DRAFT=1))
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """The built wheel."""
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and no extras."""
    return make_environment(tmp_path_factory.mktemp("core") / "venv", wheel)


def test_make_dist_passes_twine_and_its_sdist_has_every_tracked_file(dist: Path) -> None:
    assert (dist / "printed").read_text().count("PASSED") == 2
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True).stdout.split("\n")
    assert not {name for name in tracked if name and (REPOSITORY / name).exists()} - held


def test_the_wheel_holds_the_bundled_model_and_is_under_80_megabytes(wheel: Path) -> None:
    assert wheel.stat().st_size < 80e6
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("hafm_hf/checkpoints/hafm-tiny/")}
        files = [path for path in BUNDLED_MODEL.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        for path in files:
            name = f"hafm_hf/checkpoints/hafm-tiny/{path.relative_to(BUNDLED_MODEL)}"
            assert archive.getinfo(name).file_size == path.stat().st_size
        assert len(held) == len(files)
        assert any(name.endswith("NOTICE") for name in archive.namelist())
        tops = {name.split("/")[0] for name in archive.namelist() if not name.startswith("hafm_hf-")}
        assert tops == {"hafm_hf", "hafm_command.py"}


def test_the_core_alone_runs_the_accompany_command(core: Environment, tmp_path: Path) -> None:
    run = core.run("hafm", "accompany", VOCAL, "--seconds", 1, "--skip-fine", "--seed", 1, "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    written = json.loads(run.stdout)
    for key in ("instrumental", "mix"):
        assert soundfile.info(tmp_path / written[key]).frames == 44_100


@pytest.mark.parametrize(
    ("words", "said"),
    [(["info"], "hafm_hf/checkpoints/hafm-tiny"), (["lead-sheet", VOCAL, "--seconds", 4, "--json"], '"beats"')],
    ids=["info", "lead-sheet"],
)
def test_the_core_reads_the_bundled_model(core: Environment, tmp_path: Path, words: list[object], said: str) -> None:
    run = core.run("hafm", *words, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert said in run.stdout.replace("\n", "")


def test_the_core_alone_runs_the_pipeline(core: Environment, tmp_path: Path) -> None:
    run = core.run("python", "-c", PIPELINE.format(vocal=str(VOCAL)), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert soundfile.info(tmp_path / "song.wav").frames == 44_100


def test_every_command_has_help_with_the_core_alone(core: Environment, tmp_path: Path) -> None:
    command = typer.main.get_command(app)
    words = [[], *([name] for name in getattr(command, "commands", {}))]
    script = f"from hafm_hf.cli import app\nfor words in {words}:\n    app([*words, '--help'], standalone_mode=False)"
    run = core.run("python", "-c", script, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


def test_commands_that_need_an_extra_name_it(core: Environment, tmp_path: Path) -> None:
    commands = [
        ["accompany", VOCAL, "--loudness", "-16"],
        ["evaluate", "--pairs", VOCAL.parent, "--out", "report"],
        ["prepare", VOCAL.parent, "out"],
    ]
    # one process, since imports take longer than the commands
    script = EACH.format(commands=[[str(word) for word in words] for words in commands])
    run = core.run("python", "-c", script, cwd=tmp_path)
    refusals = run.stderr.splitlines()
    assert run.stdout.split() == ["1"] * len(commands), run.stderr
    assert len(refusals) == len(commands), run.stderr
    for refusal in refusals:
        assert re.search(r"^hafm: .*: pip install 'hafm-hf\[\w+\]'\.$", refusal), refusal
    assert not list(tmp_path.iterdir())
