# SPDX-License-Identifier: Apache-2.0
"""How each style of a composite sounds: `styles/NAME.ogg` beside its parts, some seconds that a page can play.

`recipes/style_sounds.py` makes them.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

STYLE_SOUND = "styles/{}.ogg"
# a page loads all of them, and a stranger's may be of any size
STYLE_SOUND_BYTES = 300_000
PLAIN_STYLE = re.compile(r"\w[\w -]*")


def read_style_sounds(source: str | os.PathLike[str], styles: Iterable[str], **hub: Any) -> dict[str, bytes]:
    """The sounds that a composite carries of its styles.

    Args:
        source: folder or hub id.
        styles: names of the styles that it plays.
        hub: HUB_OPTIONS.

    Returns:
        OGG files by the name of the style, without those that are missing, larger than STYLE_SOUND_BYTES, or of a
        style whose name is no plain file name.
    """
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found = {}
    for style in filter(PLAIN_STYLE.fullmatch, styles):
        path = cached_file(str(source), STYLE_SOUND.format(style), **hub, **quiet)
        if path is not None and os.path.getsize(path) <= STYLE_SOUND_BYTES:
            found[style] = Path(path).read_bytes()
    return found


def write_style_sounds(folder: str | os.PathLike[str], sounds: Mapping[str, bytes]) -> None:
    """Writes what `read_style_sounds` reads."""
    for style in filter(PLAIN_STYLE.fullmatch, sounds):
        path = Path(folder) / STYLE_SOUND.format(style)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sounds[style])
