# SPDX-License-Identifier: Apache-2.0
"""The repository's address stands in one place; `make dist` writes it into the documents, and refuses placeholders."""

import importlib.util
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from programs import REPOSITORY

SCRIPT = REPOSITORY / "requirements" / "addresses.py"
ADDRESS = "https://git.example.net/music/hafm_hf"


def load() -> object:
    """The module requirements/addresses.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("addresses", SCRIPT)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


ADDRESSES = load()
PLACEHOLDER: str = ADDRESSES.PLACEHOLDER  # type: ignore[attr-defined]
FILLED: tuple[str, ...] = ADDRESSES.FILLED  # type: ignore[attr-defined]


def archive_of(folder: Path, address: str) -> Path:
    """A source distribution of the files that are filled, with `address` as the repository's."""
    path = folder / "hafm_hf-0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in FILLED:
            copied = folder / "hafm_hf-0" / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            text = (REPOSITORY / name).read_text()
            if name == "pyproject.toml":
                text = text.replace(f'Repository = "{PLACEHOLDER}"', f'Repository = "{address}"')
            copied.write_text(text)
            archive.add(copied, f"hafm_hf-0/{name}")
    return path


def fill(archive: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs requirements/addresses.py, which unpacks the archive into a folder and prints where."""
    return subprocess.run([sys.executable, SCRIPT, archive, folder, *options], capture_output=True, text=True)


def test_the_address_is_written_into_every_document(tmp_path: Path) -> None:
    filled = fill(archive_of(tmp_path, ADDRESS), tmp_path / "source")
    assert filled.returncode == 0, filled.stderr
    top = Path(filled.stdout.strip())
    for name in FILLED:
        text = (top / name).read_text()
        assert ADDRESS in text, name
        assert PLACEHOLDER not in text, name


def test_a_placeholder_is_refused_unless_it_is_a_draft(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, PLACEHOLDER)
    refused = fill(archive, tmp_path / "source")
    assert refused.returncode == 1
    assert "put the real address into [project.urls], Repository" in refused.stderr
    assert fill(archive, tmp_path / "source", "--draft").returncode == 0


def test_placeholders_stand_only_in_files_that_are_filled() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True).stdout.splitlines()
    if not tracked:
        pytest.skip("not a clone")
    own = {"requirements/addresses.py", "tests/distribution/test_addresses.py"}
    for name in sorted({*tracked} - {*FILLED} - own):
        path = REPOSITORY / name
        if path.suffix in (".md", ".py", ".toml", ".txt", ".cff", ".yaml", ".yml", ".html", ".js", ".ipynb", ".jinja"):
            text = path.read_text()
            for placeholder in (PLACEHOLDER, "THIS-REPOSITORY", "git+URL"):
                assert placeholder not in text, f"{name}: {placeholder}"
