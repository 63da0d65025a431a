# SPDX-License-Identifier: Apache-2.0
"""One table of chords for the tests of Python and of the page: how keys spell roots, and what labels mean."""

import json
from pathlib import Path
from typing import Any

_TABLE: dict[str, Any] = json.loads((Path(__file__).parent / "golden_chords.json").read_text())
# for each key and third, the roots from C: {"C#:min": {"maj": "C C# D …"}}
SPELLING: dict[str, dict[str, str]] = _TABLE["spelling"]
# pitch classes of the notes of a label, the lowest note first
READ: dict[str, list[int]] = _TABLE["read"]
# labels that are no chords
REFUSED: list[str] = _TABLE["refused"]
