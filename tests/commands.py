# SPDX-License-Identifier: Apache-2.0
"""Runs commands as the documents show them."""

import os
import socket
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from hafm_hf.cli import app
from hub_stand_in import reaching
from programs import Program, run_program

LIMIT_SECONDS = 300.0
SCRIPTS = Path(sys.executable).parent


def hafm(*words: object, input: bytes | None = None, check: bool = False) -> Result:
    """Runs the command line in this process, on a wide terminal; with `check` it must exit with 0."""
    done = CliRunner().invoke(app, list(map(str, words)), input=input, env={"COLUMNS": "200"})
    assert not check or done.exit_code == 0, done.output
    return done


def said(result: Result) -> str:
    """The text that a command has printed, without the box and line breaks of usage errors."""
    return " ".join(result.output.replace("│", " ").split())


def run_command(words: list[str], folder: Path, processes: int = 1) -> None:
    """Runs a documented command in a folder and asserts that it succeeds.

    Args:
        words: `hafm …`, `python recipes/….py …`, or `accelerate launch … recipes/train_stage.py …`, split.
        folder: its working directory.
        processes: how many an `accelerate launch` has, whatever its configuration file says.
    """
    log = folder / "command.log"
    log.unlink(missing_ok=True)
    if words[0] == "accelerate":
        recipe = [sys.executable, *words[words.index("recipes/train_stage.py") :]]
        programs = [
            Program(recipe, log, log, {**os.environ, **each, "HF_DATASETS_CACHE": f"{folder}/cache-{rank}"}, folder)
            for rank, each in enumerate(ranks(processes))
        ]
    else:
        programs = [Program([SCRIPTS / words[0], *words[1:]], log, log, cwd=folder)]
    codes = [work.wait(LIMIT_SECONDS) for work in programs]
    for work in programs:
        work.kill()
    assert codes == [0] * len(programs), f"{' '.join(words)}\n{log.read_text(errors='replace')[-4000:]}"


def ranks(processes: int) -> list[dict[str, str]]:
    """Environment variables of each process of a CPU run, as a launcher sets them."""
    if processes == 1:
        return [{"ACCELERATE_USE_CPU": "true"}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world |= {"WORLD_SIZE": str(processes)}
    return [{**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def upload(words: list[str], folder: Path, url: str, token: str) -> None:
    """Runs `hf upload …` against the stand-in hub."""
    run_program([SCRIPTS / "hf", *words[1:]], reaching(url, token, folder), folder, fresh=True, check=True)
