# SPDX-License-Identifier: Apache-2.0
"""A small hub on loopback: repositories in memory, behind the HTTP API that huggingface_hub uses.

It supports create, preupload, Git LFS batch and upload, commit, branches, information, trees and downloads of models
and data sets; writing needs the token.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback import Quiet, serving

# the token that may write
TOKEN = "hf_stand_in"
# files that go through Git LFS
LFS_SUFFIXES = (".safetensors", ".parquet", ".flac")


@dataclass
class Repository:
    """Files of each branch and pull request, and the messages and descriptions of all commits."""

    url: str
    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[str] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        """Hash of the newest commit."""
        return hashlib.sha1(f"{self.url} {len(self.commits)}".encode()).hexdigest()

    def files(self, revision: str) -> dict[str, bytes] | None:
        """Files of a branch or of the newest commit; None if there is no such revision."""
        return self.branches.get("main" if revision == self.sha else revision)


@dataclass
class StandIn:
    """The hub.

    Args:
        url: its address.
        repositories: by OWNER/NAME.
        objects: contents in Git LFS by their SHA-256.
        requests: the first line of each request it has received.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


class Handler(Quiet):
    """Answers one request to the stand-in `hub`."""

    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Records the request instead of printing it."""
        self.hub.requests.append(format % args)

    def do_HEAD(self) -> None:
        """As `do_GET`; `reply` leaves the body out."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answers with information, a tree or a file of a repository."""
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            return self._answer_information(found[2], found[3] or "main")
        if found := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", path):
            return self._answer_tree(found[2], found[3], found[4] or "")
        if found := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._answer_file(*found.groups())
        return self._refuse(404, "EntryNotFound")

    def do_POST(self) -> None:
        """Creates a repository, or carries out a step of a commit; refuses all but validation without the token."""
        content = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else b""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            content = self._read_chunks()
        path = unquote(urlsplit(self.path).path)
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "InvalidToken")
        if path == "/api/repos/create":
            return self._create(json.loads(content))
        if found := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/(preupload|commit|branch)/([^/]+)", path):
            if found[2] not in self.hub.repositories:
                return self._refuse(404, "RepoNotFound")
            return getattr(self, f"_{found[3]}")(self.hub.repositories[found[2]], found[4], content)
        if re.fullmatch(r"/(?:datasets/)?[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(content))
        return self._refuse(404, "EntryNotFound")

    def do_PUT(self) -> None:
        """Stores an object of Git LFS, if it has the checksum in its address."""
        oid = self.path.rpartition("/")[2]
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if hashlib.sha256(content).hexdigest() != oid:
            return self._refuse(422, "BadDigest")
        self.hub.objects[oid] = content
        return self._answer({})

    def _create(self, wanted: dict[str, Any]) -> None:
        """Creates a repository; answers 409 if it exists."""
        name = "/".join([wanted.get("organization") or "somebody", wanted["name"]])
        exists = name in self.hub.repositories
        prefix = "datasets/" if wanted.get("type") == "dataset" else ""
        created = Repository(f"{self.hub.url}/{prefix}{name}", private=wanted.get("visibility") == "private")
        repository = self.hub.repositories.setdefault(name, created)
        self._answer({"url": repository.url}, 409 if exists else 200)

    def _preupload(self, repository: Repository, revision: str, content: bytes) -> None:
        """Says of each file of a coming commit whether it goes through Git LFS."""
        answers = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(content)["files"]
        ]
        self._answer({"files": answers})

    def _batch(self, wanted: dict[str, Any]) -> None:
        """Says where to upload each object of Git LFS that is not stored yet."""
        objects: list[dict[str, Any]] = []
        for each in wanted["objects"]:
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}}
            objects.append({**each, **({} if each["oid"] in self.hub.objects else upload)})
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, repository: Repository, revision: str, content: bytes) -> None:
        """Adds files to a branch, or to pull request 1 if the address asks for one.

        Args:
            repository: to commit to.
            revision: the branch.
            content: one JSON operation a line: the header with the messages, then files.
        """
        files = repository.branches[revision]
        if "create_pr=1" in self.path:
            files = repository.branches.setdefault("refs/pr/1", dict(files))
        for line in content.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                repository.commits.append(value["summary"])
                repository.descriptions.append(value.get("description", ""))
            elif operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                return self._refuse(400, "BadRequest")
        commit = {"commitUrl": f"{repository.url}/commit/{repository.sha}", "commitOid": repository.sha}
        return self._answer({**commit, "pullRequestUrl": f"{repository.url}/discussions/1"})

    def _branch(self, repository: Repository, name: str, content: bytes) -> None:
        """Creates a branch from main; answers 409 if it exists."""
        exists = name in repository.branches
        repository.branches.setdefault(name, dict(repository.branches["main"]))
        self._answer({}, 409 if exists else 201)

    def _answer_information(self, name: str, revision: str) -> None:
        """Answers with hash, visibility and file names of a repository."""
        repository = self.hub.repositories.get(name)
        files = None if repository is None else repository.files(revision)
        if repository is None or files is None:
            return self._refuse(404, "RepoNotFound" if repository is None else "RevisionNotFound")
        siblings = [{"rfilename": path} for path in sorted(files)]
        return self._answer({"id": name, "sha": repository.sha, "private": repository.private, "siblings": siblings})

    def _answer_tree(self, name: str, revision: str, folder: str) -> None:
        """Answers with paths, hashes and sizes of the files in a folder, of those in subfolders only if asked."""
        repository = self.hub.repositories.get(name)
        files = None if repository is None else repository.files(revision)
        if files is None:
            return self._refuse(404, "RepoNotFound")
        prefix = f"{folder}/" if folder else ""
        inside = {path: content for path, content in sorted(files.items()) if path.startswith(prefix)}
        if folder and not inside:
            return self._refuse(404, "EntryNotFound")
        if "true" not in [each.lower() for each in parse_qs(urlsplit(self.path).query).get("recursive", [])]:
            inside = {path: content for path, content in inside.items() if "/" not in path[len(prefix) :]}
        return self._answer([{"type": "file", "path": path, **_identity(inside[path])} for path in inside])

    def _answer_file(self, name: str, revision: str, path: str) -> None:
        """Answers with a file."""
        repository = self.hub.repositories.get(name)
        files = None if repository is None else repository.files(revision)
        if repository is None or files is None:
            return self._refuse(404, "RepoNotFound" if repository is None else "RevisionNotFound")
        if path not in files:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": repository.sha})
        etag = {"ETag": f'"{_identity(files[path])["oid"]}"', "X-Repo-Commit": repository.sha}
        return self.reply(200, files[path], {**etag, "Content-Type": "application/octet-stream"})

    def _answer(self, content: Any, status: int = 200) -> None:
        """Answers with JSON."""
        self.reply(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        """Answers with an error, whose code huggingface_hub turns into an exception."""
        self.reply(status, b"{}", {"X-Error-Code": code, "Content-Type": "application/json", **(headers or {})})

    def _read_chunks(self) -> bytes:
        """The body of a request in chunked transfer encoding."""
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content


def _identity(content: bytes) -> dict[str, Any]:
    """Git's hash of a file's contents, and its size in bytes."""
    return {"oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), "size": len(content)}


def reaching(url: str, token: str, folder: Path) -> dict[str, str]:
    """This process's environment, pointed at a stand-in hub; without xet storage, which is another protocol."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    online = {"HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HOME": str(folder / "cache")}
    return kept | online | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """Serves an empty hub on loopback while the block runs."""
    hub = StandIn()
    with serving(Handler, hub=hub) as hub.url:
        yield hub
