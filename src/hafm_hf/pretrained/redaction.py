# SPDX-License-Identifier: Apache-2.0
"""What people are shown of errors: a line of them, and no secrets of the environment."""

import os
import re

_NAME = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|KEY)$")
# shorter values may be ordinary words
_SHORTEST = 8


def without_secrets(text: str) -> str:
    """`text` without the values of environment variables such as HF_TOKEN: a server may repeat them in an error."""
    for name, value in os.environ.items():
        if _NAME.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, f"({name})")
    return text


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type's name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
