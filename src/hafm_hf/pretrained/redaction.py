# SPDX-License-Identifier: Apache-2.0
"""Secrets of the environment, kept out of what people are shown."""

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
