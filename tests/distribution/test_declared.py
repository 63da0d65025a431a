# SPDX-License-Identifier: Apache-2.0
"""Imports are declared in pyproject.toml, for the core or in an extra; README, versions and licence lines agree."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from distribution.environments import make
from programs import REPOSITORY
from vocals import file_bytes, glide

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = {name: list(requirements) for name, requirements in PROJECT["optional-dependencies"].items()}
# Folders that need an extra; all others must be importable with the core alone.
FOLDERS = {"corpus": "data", "training": "train", "evaluation": "eval"}

# prose, data, third-party texts, and saved models
WITHOUT_LICENCE_LINE = re.compile(
    r"\.(md|json|ipynb|wav|flac|ogg|png|svg)$|^(LICENSE|NOTICE|licenses/.*|src/hafm_hf/(py\.typed|checkpoints/.*))$"
)
# In no extra: an experiment tracker that accelerate may use, and a beat tracker that downloads its own weights.
OWN_CHOICE = {"wandb", "beat-this"}

installed = lru_cache(packages_distributions)


def names(requirements: list[str]) -> set[str]:
    """Canonical names of the distributions that requirements such as "torch>=2" ask for."""
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imports(node: ast.AST, at_once: bool = True) -> Iterator[tuple[str, bool]]:
    """Yields the top-level packages that a module imports, and whether it does so when it is imported itself.

    Args:
        node: the module's syntax tree, or a part of it.
        at_once: whether this part is run when the module is imported.
    """
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
    """Imports of one module whose distributions are not declared: "file: package" of each.

    Args:
        path: the module.
        eager: distributions that may be imported when the module is.
        lazy: distributions that may be imported later, in functions.
    """
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


def locked_versions() -> dict[str, str]:
    """Versions in requirements/constraints-cpu.txt by canonical name."""
    lines = (REPOSITORY / "requirements" / "constraints-cpu.txt").read_text().splitlines()
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}


def test_locked_versions_satisfy_the_declared_requirements() -> None:
    locked = locked_versions()
    for text in [*PROJECT["dependencies"], *(text for requirements in EXTRAS.values() for text in requirements)]:
        requirement = Requirement(text)
        version = locked.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version), text
    assert names(PROJECT["dependencies"]) <= set(locked)


def test_the_oldest_declared_python_can_install_the_locked_versions() -> None:
    (oldest,) = re.findall(r"^>=(\d+\.\d+)$", PROJECT["requires-python"])
    unfit = []
    installed_names = set()
    for name in locked_versions():
        try:
            wanted = metadata.metadata(name)["Requires-Python"]
        except metadata.PackageNotFoundError:
            continue
        installed_names.add(name)
        if wanted and not SpecifierSet(wanted).contains(f"{oldest}.0"):
            unfit.append(f"{name} needs Python {wanted}")
    assert not unfit
    assert names(PROJECT["dependencies"]) <= installed_names
    declared = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text}
    (job,) = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())["jobs"].values()
    assert set(job["strategy"]["matrix"]["python"]) == declared == {oldest, "3.12", "3.13"}


def test_one_extra_holds_all_for_users_and_every_mentioned_extra_exists() -> None:
    bundled = " ".join(EXTRAS["all"] + EXTRAS["space"])
    assert not [name for name in EXTRAS.keys() - {"all", "dev"} if not re.search(rf"[\[,]{name}[],]", bundled)]
    folders = [path for name in ("src", "recipes", "space", "docs") for path in (REPOSITORY / name).rglob("*.*")]
    unknown = []
    for path in [*folders, REPOSITORY / "README.md", REPOSITORY / "MODEL_CARD.md"]:
        if path.suffix in (".md", ".py", ".txt", ".yaml"):
            groups = re.findall(r"hafm[-_]hf\[([\w,-]+)\]", path.read_text(encoding="utf-8"))
            names = ",".join(groups).split(",") if groups else []
            unknown += [f"{path.name}: {name}" for name in names if name not in EXTRAS]
    assert not unknown


def test_no_module_imports_our_modules_by_string() -> None:
    """Import-linter misses such imports. `hafm_hf/__init__.py` may: type checkers see its names there."""
    found = []
    for path in sorted((REPOSITORY / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            call = ast.unparse(node) if isinstance(node, ast.Call) else ""
            if re.match(r"__import__\(|(importlib\.)?import_module\(f?['\"](hafm_hf|\.)", call):
                found.append(f"{path.parent.name}/{path.name}: {call}")
    assert [each for each in found if not each.startswith("hafm_hf/__init__.py")] == []


def test_readme_begins_with_commands_that_work_from_a_clone(tmp_path: Path) -> None:
    (tmp_path / "vocal.wav").write_bytes(file_bytes(glide(1.0)))
    make("demo", EXAMPLE=tmp_path / "vocal.wav", OUT=tmp_path / "demo")
    shown = re.findall(r"^```bash.*\n((?:.*\n)*?)```", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    (block,) = [block for block in shown if "make demo" in block]
    promised = re.findall(r"demo/[\w.]+", block)
    assert len(promised) == 2
    assert all((tmp_path / name).stat().st_size > 10_000 for name in promised)


def test_project_citation_and_changelog_have_one_version() -> None:
    released = re.findall(r"^## (\d+\.\d+\.\d+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"]
    assert PROJECT["version"] == cited == released[0]


def test_every_code_and_configuration_file_begins_with_its_licence() -> None:
    tracked = subprocess.check_output(["git", "ls-files"], cwd=REPOSITORY, text=True).splitlines()
    ours = [REPOSITORY / name for name in tracked if not WITHOUT_LICENCE_LINE.search(name)]
    tops = {path: path.read_text().splitlines()[:2] for path in ours if path.exists()}
    assert tops
    assert not [path for path, top in tops.items() if "SPDX-License-Identifier: Apache-2.0" not in " ".join(top)]
