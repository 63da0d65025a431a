# SPDX-License-Identifier: Apache-2.0
"""Unpacks a source distribution with the repository's address in place of its placeholder, for `make dist`.

    python requirements/addresses.py ARCHIVE FOLDER [--draft]

The address stands in pyproject.toml, [project.urls], Repository; everywhere else stands the placeholder. Prints the
folder to build from. Without --draft, an address that is the placeholder itself is refused.
"""

import shutil
import sys
import tarfile
import tomllib
from pathlib import Path

PLACEHOLDER = "https://example.org/hafm_hf"
# where the placeholder may stand; a test finds it anywhere else
FILLED = (
    "README.md",
    "MODEL_CARD.md",
    "CITATION.cff",
    "pyproject.toml",
    "docs/hub.md",
    "examples/quickstart.ipynb",
    "space/README.md",
    "src/hafm_hf/checkpoints/hafm-tiny/README.md",
    "src/hafm_hf/checkpoints/hafm-tiny/requirements.txt",
    "src/hafm_hf/pretrained/saving.py",
    "src/hafm_hf/pretrained/templates/model_card.md",
)


def main(archive: Path, folder: Path, draft: bool) -> None:
    """Unpacks the archive into the folder and fills the address in."""
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    project = tomllib.loads((top / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project["urls"]["Repository"].rstrip("/")
    if address == PLACEHOLDER and not draft:
        sys.exit("Not built: put the real address into [project.urls], Repository, or make dist DRAFT=1 for a try.")
    for name in FILLED:
        path = top / name
        path.write_text(path.read_text(encoding="utf-8").replace(PLACEHOLDER, address), encoding="utf-8")
    print(top)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), "--draft" in sys.argv)
