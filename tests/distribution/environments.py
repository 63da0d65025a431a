# SPDX-License-Identifier: Apache-2.0
"""Virtual environments with the wheel and exactly its declared dependencies, linked from this environment."""

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from programs import REPOSITORY

OWN_NAME = "hafm-hf"


@dataclass
class Environment:
    """A virtual environment other than the one the tests run in."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        """Its folder of installed distributions."""
        return self.folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

    def run(self, *command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Runs one of its programs to its end, within 600 s, with nothing else on the PATH: no ffmpeg, no compiler."""
        words = [str(self.folder / "bin" / str(command[0])), *map(str, command[1:])]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        own = {"PYTHONNOUSERSITE": "1", "PATH": str(self.folder / "bin")}
        return subprocess.run(words, cwd=cwd, env=kept | own, capture_output=True, text=True, timeout=600)


def make(target: str, **variables: object) -> str:
    """Runs a make target in the tests' environment, skipping its set-up, and returns its output."""
    settings = [f"{name}={value}" for name, value in {"VENV": sys.prefix, **variables}.items()]
    ready = [f"--assume-old={sys.prefix}/{stamp}" for stamp in (".core", ".dev")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
    result = subprocess.run(
        ["make", target, *settings, *ready], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def make_environment(folder: Path, wheel: Path) -> Environment:
    """A virtual environment with `wheel` and its dependencies and nothing else, not even pip.

    Raises:
        PackageNotFoundError: a dependency is not installed here.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    environment = Environment(folder)
    install = [sys.executable, "-m", "pip", "--quiet", "--python", str(environment.python), "install"]
    subprocess.run([*install, "--no-index", "--no-deps", str(wheel)], check=True, capture_output=True)
    (own,) = metadata.distributions(name=OWN_NAME, path=[str(environment.site_packages)])
    for name in closure(own):
        link(metadata.distribution(name), environment.site_packages)
    return environment


def closure(distribution: metadata.Distribution) -> list[str]:
    """Names of a distribution's transitive dependencies on this platform, from the metadata installed here."""
    # extras by name
    found: dict[str, set[str]] = {}
    open_requirements = wanted(distribution, set())
    while open_requirements:
        requirement = open_requirements.pop()
        name = canonicalize_name(requirement.name)
        if name in found and requirement.extras <= found[name]:
            continue
        found[name] = found.get(name, set()) | requirement.extras
        open_requirements += wanted(metadata.distribution(name), found[name])
    return sorted(found)


def wanted(distribution: metadata.Distribution, extras: set[str]) -> list[Requirement]:
    """The direct requirements of a distribution with extras on this platform."""
    requirements = [Requirement(text) for text in distribution.requires or []]
    return [
        each
        for each in requirements
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ["", *extras])
    ]


def link(distribution: metadata.Distribution, site_packages: Path) -> None:
    """Links the packages, modules and metadata of an installed distribution into another environment."""
    files = distribution.files or []
    for top in {Path(file).parts[0] for file in files} - {"..", "__pycache__"}:
        if not (site_packages / top).exists():
            (site_packages / top).symlink_to(Path(str(distribution.locate_file(top))))
