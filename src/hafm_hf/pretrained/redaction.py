# SPDX-License-Identifier: Apache-2.0
"""Makes error messages safe to show: their first line only, and no secrets from the environment."""

import os
import re

# names of environment variables that hold secrets
_SECRET_NAME = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|KEY)$")
# least length of a secret: shorter values may be ordinary words
_SHORTEST_SECRET = 8


def without_secrets(text: str) -> str:
    """The text with the names of environment variables such as HF_TOKEN in place of their values.

    A server may repeat such values in an error.
    """
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, f"({name})")
    return text


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its type if there is no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
