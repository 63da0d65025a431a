# SPDX-License-Identifier: Apache-2.0
"""What surrounds the package agrees with it: README's first command, version, pre-commit, continuous integration."""

import os
import re
from pathlib import Path

import pytest
import yaml

from distribution.environments import REPOSITORY, make
from distribution.test_declared import PROJECT
from vocals import file_bytes, glide

MAKEFILE = (REPOSITORY / "Makefile").read_text()


def test_readme_begins_with_commands_that_work_from_a_clone(tmp_path: Path) -> None:
    (tmp_path / "vocal.wav").write_bytes(file_bytes(glide(1.0)))
    make("demo", EXAMPLE=tmp_path / "vocal.wav", OUT=tmp_path / "demo")
    first = re.findall(r"^```bash.*\n((?:.*\n)*?)```", (REPOSITORY / "README.md").read_text(), re.MULTILINE)[0]
    promised = re.findall(r"demo/[\w.]+", first)
    assert "make demo" in first and len(promised) == 2
    assert all((tmp_path / name).stat().st_size > 10_000 for name in promised)


def test_one_version_everywhere() -> None:
    released = re.findall(r"^## (\d+\.\d+\.\d+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"]
    assert PROJECT["version"] == cited == released[0]


def test_a_commit_is_checked_by_what_make_lint_runs() -> None:
    recipe = MAKEFILE.split("\nlint:")[1].split("\n\n")[0]
    lint = {words for line in re.findall(r"^\t@(?!echo)(.*)$", recipe, re.MULTILINE) if (words := programs(line))}
    (repository,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert {programs(hook["entry"]) for hook in repository["hooks"]} == lint


def programs(command: str) -> str:
    """`env A=b .venv/bin/ruff check --fix` → `ruff check`."""
    words = [word for word in command.split() if word not in ("env", ".") and not re.match(r"--|[A-Z_]+=", word)]
    return " ".join([Path(words[0].replace("$(BIN)", "bin")).name, *words[1:]])


def test_continuous_integration_runs_what_a_contributor_runs() -> None:
    (job,) = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands[0] == ".ci/run" and os.access(REPOSITORY / commands[0], os.X_OK)
    assert (REPOSITORY / ".ci/run").read_text().rstrip().endswith("make test")
    targets = re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE)
    assert {command.split()[1] for command in commands[1:] if command.startswith("make ")} <= set(targets)


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_issue_templates_have_what_the_form_needs(name: str) -> None:
    form = yaml.safe_load((REPOSITORY / f".github/ISSUE_TEMPLATE/{name}.yml").read_text())
    assert form["name"] and form["description"] and any(field["type"] == "textarea" for field in form["body"])
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
