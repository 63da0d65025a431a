# SPDX-License-Identifier: Apache-2.0
"""The four files of the published model, from a folder or the hub, compared with the known revision."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import HFValidationError, validate_repo_id

STAGE_FILES = {name: f"ar_{name}/ckpt_best.pt" for name in ("semantic", "coarse", "fine")}
KMEANS_FILE = "hubert_kmeans_500.pt"
# the stage without which the first four codebooks are decoded
OPTIONAL = "fine"
# what the authors published, and the sums that somebody who downloaded it recorded
PUBLISHED = "zhuqijian/HAFM"
REVISION = "1653c3c7bffdc9b4b2d57d8b6e4f5bb3002a64fe"
SUMS = {
    STAGE_FILES["semantic"]: "672e4d212023b83704f5630cb96e2693bc1d4a89286a02c764e5ca5750b54f8d",
    STAGE_FILES["coarse"]: "584ba739758b73ba25cafef17978919efe3e124f6e6a5161c3ff34a6b9353cca",
    STAGE_FILES["fine"]: "20f58ed265c0888668c8ab5798dde9e5c599cfe75a97653b4eebc7102109a72f",
    KMEANS_FILE: "1f42c8beac9500c212cf9ef74801c5fc6e6bfd3cbc0d1de2db7e404bb347b638",
}


@dataclass(frozen=True)
class Files:
    """The published files.

    Args:
        source: where they are from: a folder or a hub id.
        stages: checkpoint of each stage by its name; the fine stage may be missing.
        kmeans: the pickled k-means.
        sums: SHA-256 of each by its name in the repository.
    """

    source: str
    stages: dict[str, Path]
    kmeans: Path
    sums: dict[str, str]

    @property
    def differing(self) -> list[str]:
        """Names of the files that are not those of the known revision."""
        return [name for name, digest in self.sums.items() if SUMS[name] != digest]


def published_files(source: str, revision: str | None = None) -> Files:
    """Finds the files in a folder, or downloads them, and only them; an interrupted download is resumed.

    Args:
        source: folder or hub id.
        revision: of the hub's repository; for the authors' own, the known one if not given.

    Raises:
        ValueError: a file is missing, the hub cannot be reached, or `source` is neither a folder nor a hub id.
    """
    if revision is None and source == PUBLISHED:
        revision = REVISION
    paths: dict[str, Path] = {}
    for name in (*STAGE_FILES.values(), KMEANS_FILE):
        if Path(source).is_dir():
            path = _local(Path(source), name)
        else:
            path = _downloaded(source, name, revision)
        if path is not None:
            paths[name] = path
        elif name != STAGE_FILES[OPTIONAL]:
            raise ValueError(f"{source} has no {name}; it needs {', '.join(STAGE_FILES.values())} and {KMEANS_FILE}.")
    stages = {stage: paths[name] for stage, name in STAGE_FILES.items() if name in paths}
    return Files(source, stages, paths[KMEANS_FILE], {name: _sha256(path) for name, path in paths.items()})


def _local(folder: Path, name: str) -> Path | None:
    """The path of a file in a folder; None if it is not there."""
    return folder / name if (folder / name).is_file() else None


def _downloaded(source: str, name: str, revision: str | None) -> Path | None:
    """Downloads a file.

    Args:
        source: hub id.
        name: of the file in the repository.
        revision: of the repository; None: the latest.

    Returns:
        Its path; None if the repository does not have it.

    Raises:
        ValueError: `source` is not a hub id, or the hub cannot be reached or refuses.
    """
    try:
        validate_repo_id(source)
    except HFValidationError:
        raise ValueError(f"no such folder: {source}") from None
    try:
        return Path(hf_hub_download(source, name, revision=revision))
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"{name} of {source} was not downloaded before, and the hub cannot be reached; download the repository "
            "elsewhere, and name its folder."
        ) from error
    except EntryNotFoundError:
        return None
    except HfHubHTTPError as error:
        raise ValueError(f"The hub refuses {name} of {source} at {revision or 'main'}: {error}") from error


def _sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
