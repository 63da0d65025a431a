# SPDX-License-Identifier: Apache-2.0
"""Starts the `hafm` command without transformers and torch, which `import hafm_hf` would load to register with."""

import os


def main() -> None:
    """Entry point of `hafm`."""
    os.environ["HAFM_COMMAND_LINE"] = "1"
    from hafm_hf.cli import main as command_line

    command_line()
