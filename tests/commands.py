# SPDX-License-Identifier: Apache-2.0
"""Commands as people type them, run in forks of the test: what they import is there already."""

import os
import re
import runpy
import socket
import sys
from pathlib import Path

from programs import TORCH, run_program
from torture.works import ForkedWork, hafm, import_libraries, train

LIMIT_SECONDS = 300.0
HF = Path(sys.executable).with_name("hf")


def run_command(words: list[str], folder: Path, processes: int = 1) -> None:
    """Runs a command of the documents in a folder and expects that it succeeds.

    Args:
        words: of `hafm …`, `python recipes/….py …`, or `accelerate launch … recipes/train_stage.py …`.
        folder: where it runs.
        processes: of an `accelerate launch`, whatever its configuration file says.
    """
    import_libraries()
    log = folder / "command.log"
    log.unlink(missing_ok=True)
    if words[0] == "accelerate":
        script = words.index("recipes/train_stage.py")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        works = [
            ForkedWork(_trained, folder, words[script + 1 :], rank, processes, port, log=log)
            for rank in range(processes)
        ]
    elif words[0] == "hafm":
        works = [ForkedWork(_in_folder, folder, words, log=log)]
    else:
        assert words[0] == "python" and words[1].endswith(".py"), words
        works = [ForkedWork(_script, folder, words[1:], log=log)]
    codes = [work.wait(LIMIT_SECONDS) for work in works]
    for work in works:
        work.kill()
    assert codes == [0] * len(works), f"{' '.join(words)}\n{log.read_text(errors='replace')[-4000:]}"


def _in_folder(folder: Path, words: list[str]) -> None:
    os.chdir(folder)
    hafm(words[1:])


def _script(folder: Path, words: list[str]) -> None:
    os.chdir(folder)
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    runpy.run_path(words[0], run_name="__main__")


def _trained(folder: Path, words: list[str], rank: int, processes: int, port: int) -> None:
    import datasets

    os.chdir(folder)
    datasets.config.HF_DATASETS_CACHE = folder / f"cache-{rank}"
    if processes > 1:
        world = {"RANK": rank, "WORLD_SIZE": processes, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
        os.environ.update({name: str(value) for name, value in {**world, "MASTER_PORT": port}.items()})
    train(words)


def upload(words: list[str], folder: Path, url: str, token: str) -> None:
    """`hf upload …` to a stand-in for the hub."""
    kept = {name: value for name, value in os.environ.items() if not re.match("HF_|HUGGINGFACE_", name)}
    online = {"HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1"}
    run = run_program([HF, *words[1:]], kept | online, folder, libraries=TORCH)
    assert run.returncode == 0, run.stderr[-2000:]
