# SPDX-License-Identifier: Apache-2.0
"""The fenced code blocks of the project's documents, as commands that can be checked and run.

A block that cannot run in the tests, because it needs a network, a GPU or minutes, has `check` after its language
(```bash check): its commands are still checked against the programs that they name.
"""

import ast
import re
import shlex
from dataclasses import dataclass

from programs import REPOSITORY

# Generated from the checkpoint: its first example loads the model from the hub.
CHECKED_ONLY = {"MODEL_CARD.md"}
FENCE = re.compile(r"^```(\w*)[ ]?(.*)\n((?:.*\n)*?)```$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block: its document and section, its language, whether it is run, and its text."""

    document: str
    section: str
    language: str
    runs: bool
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(document: str) -> list[Block]:
    """All blocks of a document that name a language.

    Raises:
        ValueError: a block has something other than `check` after its language.
    """
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        language, mark, content = match.groups()
        if mark not in ("", "check"):
            raise ValueError(f"{document}: ```{language} {mark} is neither run nor checked.")
        # without earlier code blocks, whose comments begin with # too
        prose = re.sub(r"^```.*?^```", "", text[: match.start()], flags=re.MULTILINE | re.DOTALL)
        headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
        if language:
            run = not mark and document not in CHECKED_ONLY
            heading = headings[-1] if headings else ""
            found.append(Block(document, heading, language, run, content))
    return found


def imported_names(code: str) -> list[tuple[str, str]]:
    """(module, name) of every `from module import name` and (module, "") of every `import module`."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(str(node.module), alias.name) for alias in node.names]
    return found
