# SPDX-License-Identifier: Apache-2.0
"""Every import is of something that pyproject.toml declares: for the core if the core runs it, else for an extra."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from distribution.environments import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = {name: list(requirements) for name, requirements in PROJECT["optional-dependencies"].items()}
# Folders that an extra is needed for; all others must do with the core when they are imported.
FOLDERS = {"corpus": "data", "batch": "data", "training": "train", "evaluation": "eval", "benchmark": "eval"}

# No extra brings them: a tracker that accelerate can be told to use; a beat tracker that fetches its weights itself.
OWN_CHOICE = {"wandb", "beat-this"}

installed = lru_cache(packages_distributions)


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imports(node: ast.AST, at_once: bool = True) -> Iterator[tuple[str, bool]]:
    """Top-level packages that a module imports, and whether importing the module does."""
    if isinstance(node, ast.Import):
        yield from ((alias.name.split(".")[0], at_once) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        yield str(node.module).split(".")[0], at_once
    later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
        isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    )
    for child in ast.iter_child_nodes(node):
        yield from imports(child, at_once and not later)


def undeclared(path: Path, eager: set[str], lazy: set[str]) -> list[str]:
    """Imports of one module that `eager` (while it is imported) or `lazy` (later) does not hold."""
    found = []
    for package, at_once in imports(ast.parse(path.read_text())):
        if package in sys.stdlib_module_names or package == "hafm_hf":
            continue
        providers = {canonicalize_name(name) for name in installed().get(package, [package])}
        if not providers & (eager if at_once else lazy):
            found.append(f"{path.name}: {package}{'' if at_once else ' (later)'}")
    return found


def test_every_import_of_the_package_is_declared() -> None:
    core = names(PROJECT["dependencies"])
    every = core.union(OWN_CHOICE, *(names(requirements) for name, requirements in EXTRAS.items() if name != "dev"))
    found = []
    for path in sorted((REPOSITORY / "src" / "hafm_hf").rglob("*.py")):
        folder = path.relative_to(REPOSITORY / "src" / "hafm_hf").parts[0]
        extra = EXTRAS.get(FOLDERS.get(folder, ""), [])
        found += undeclared(path, core | names(extra), every)
    assert not found


def test_an_import_that_is_not_declared_is_noticed(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import yaml\nclass A:\n    def later(self):\n        import matplotlib.pyplot\n")
    assert undeclared(module, {"pyyaml"}, {"pyyaml"}) == ["module.py: matplotlib (later)"]
    assert undeclared(module, set(), {"matplotlib"}) == ["module.py: yaml"]
    assert not undeclared(module, {"pyyaml"}, {"matplotlib"})


def test_the_locked_versions_are_ones_that_the_project_allows() -> None:
    lines = (REPOSITORY / "requirements" / "constraints-cpu.txt").read_text().splitlines()
    locked = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    for text in [*PROJECT["dependencies"], *(text for requirements in EXTRAS.values() for text in requirements)]:
        requirement = Requirement(text)
        version = locked.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version), text
    assert names(PROJECT["dependencies"]) <= set(locked)
