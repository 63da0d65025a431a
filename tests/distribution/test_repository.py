# SPDX-License-Identifier: Apache-2.0
"""The repository agrees with the package: README's first commands, the version, licence lines."""

import re
import subprocess
from pathlib import Path

import yaml

from distribution.environments import make
from distribution.test_declared import PROJECT
from programs import REPOSITORY
from vocals import file_bytes, glide

# prose, data, third-party texts, and saved models
WITHOUT_LICENCE_LINE = re.compile(
    r"\.(md|json|wav|flac|ogg|png)$|^(LICENSE|NOTICE|licenses/.*|src/hafm_hf/(py\.typed|checkpoints/.*))$"
)


def test_readme_begins_with_commands_that_work_from_a_clone(tmp_path: Path) -> None:
    (tmp_path / "vocal.wav").write_bytes(file_bytes(glide(1.0)))
    make("demo", EXAMPLE=tmp_path / "vocal.wav", OUT=tmp_path / "demo")
    first = re.findall(r"^```bash.*\n((?:.*\n)*?)```", (REPOSITORY / "README.md").read_text(), re.MULTILINE)[0]
    promised = re.findall(r"demo/[\w.]+", first)
    assert "make demo" in first and len(promised) == 2
    assert all((tmp_path / name).stat().st_size > 10_000 for name in promised)


def test_project_citation_and_changelog_have_one_version() -> None:
    released = re.findall(r"^## (\d+\.\d+\.\d+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"]
    assert PROJECT["version"] == cited == released[0]


def test_every_code_and_configuration_file_begins_with_its_licence() -> None:
    tracked = subprocess.check_output(["git", "ls-files"], cwd=REPOSITORY, text=True).splitlines()
    ours = [REPOSITORY / name for name in tracked if not WITHOUT_LICENCE_LINE.search(name)]
    tops = {path: path.read_text().splitlines()[:2] for path in ours if path.exists()}
    assert len(tops) > 300
    assert not [path for path, top in tops.items() if "SPDX-License-Identifier: Apache-2.0" not in " ".join(top)]
