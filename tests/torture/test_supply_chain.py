# SPDX-License-Identifier: Apache-2.0
"""No data leaks: no connection at import, no secret in any output, and locked test dependencies."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopback import Quiet, serving
from programs import REPOSITORY, run_program
from vocals import file_bytes, glide

SECRET = "hf_TokenThatNobodyMaySee"


@pytest.mark.fault("connections at import")
def test_importing_the_public_modules_opens_no_connection(tmp_path: Path) -> None:
    log = tmp_path / "diary"
    code = (
        "import hafm_hf, transformers, sitecustomize\n"
        "from hafm_hf import HAFMForVocalAccompaniment, HAFMFeatureExtractor\n"
        "import hafm_hf.accompaniment.pipeline_hafm, hafm_hf.cli, hafm_hf.hub.endpoint\n"
        "from transformers.pipelines import PIPELINE_REGISTRY\n"
        "assert 'vocal-accompaniment' in PIPELINE_REGISTRY.get_supported_tasks()\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HAFM_TEST_CONNECTIONS": str(log), "HF_HOME": str(tmp_path)}
    # not forked, since torch's own import is tested too
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert not log.exists(), log.read_text()


class Parrot(Quiet):
    """A server that refuses every request and echoes the secret it was sent."""

    received: list[str] = []

    def answer(self) -> None:
        """Refuses every request, and repeats its credentials in all places of the answer."""
        said = self.headers.get("Authorization", "")
        self.received.append(said)
        body = f'{{"error": "refused: {said}"}}'.encode()
        self.reply(401, body, {"Content-Type": "application/json", "X-Error-Message": f"refused: {said}"})

    do_GET = do_HEAD = do_POST = answer


@pytest.fixture
def parrot() -> Iterator[str]:
    """The URL of a running `Parrot`."""
    with serving(Parrot) as url:
        yield url


@pytest.mark.fault("secrets in outputs")
@pytest.mark.parametrize("model", ["org/private", "bundled"])
def test_a_token_in_the_environment_is_in_no_output(model: str, parrot: str, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "vocal.wav").write_bytes(file_bytes(glide(1.0)))
    environment = os.environ | {"HF_TOKEN": SECRET}
    if model != "bundled":
        online = {"HF_ENDPOINT": parrot, "HF_HOME": str(tmp_path / "home"), "HF_DEBUG": "1", "HF_HUB_OFFLINE": "0"}
        environment |= online
    # the tiny model stands for the bundled one
    named = str(tiny_model) if model == "bundled" else model
    words = ["accompany", str(tmp_path / "vocal.wav"), "--model", named, "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "hafm_hf", *words, "--skip-fine", "--json"]
    run = run_program(command, environment, fresh=model != "bundled")
    assert run.returncode == (0 if model == "bundled" else 1), run.stderr
    assert SECRET not in run.stdout + run.stderr
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    if model != "bundled":
        assert f"Bearer {SECRET}" in Parrot.received, "the server received the token"


def test_every_package_that_the_tests_install_is_locked_to_one_version() -> None:
    lines = (REPOSITORY / "requirements" / "constraints-cpu.txt").read_text().splitlines()
    locked = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.\-]+==[\w.+!]+", line) for line in locked), "each line is name==version"
    # names are equal if they differ only in case and in runs of "-", "_" and "."
    names = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in locked}
    for path in ("requirements/test.txt", "recipes/hafm_tiny/requirements.txt"):
        wanted = re.findall(r"^[\w.-]+", (REPOSITORY / path).read_text(), re.MULTILINE)
        assert not {re.sub(r"[-_.]+", "-", name).lower() for name in wanted} - names
