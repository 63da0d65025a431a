# SPDX-License-Identifier: Apache-2.0
"""Runs the script of a recipe: logs go to stderr, and an error is reported as one sentence."""

import logging
import os
import sys
from collections.abc import Callable, Mapping

from transformers import PretrainedConfig

from hafm_hf.cli.console import HAFMCommandError, first_line, missing_package, report_error

# their INFO messages do not concern users of the recipes
NOISY = ("httpx", "datasets", "filelock", "fsspec", "torch", "accelerate")


def check_sizes(config: PretrainedConfig, sizes: Mapping[str, int | None]) -> None:
    """Checks that a model to continue from has the sizes that were requested.

    Args:
        config: the model's.
        sizes: by field of the configuration; None: any.

    Raises:
        ValueError: a size differs.
    """
    for name, size in sizes.items():
        size_before = getattr(config, name)
        if size not in (None, size_before):
            raise ValueError(f"{name} is {size_before} in the model to continue from, not {size}; leave it out.")


def run_recipe(recipe: Callable[[], object]) -> None:
    """Runs a recipe with its log on stderr; an error is reported there as one sentence, with exit code 1.

    `HAFM_DEBUG=1` shows the traceback instead.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        recipe()
    except Exception as error:
        if os.environ.get("HAFM_DEBUG"):
            raise
        expected = isinstance(error, (ValueError, OSError, FloatingPointError, ImportError))
        sentence = first_line(error)
        if not expected:
            sentence += f" ({type(error).__name__}; HAFM_DEBUG=1 shows more)"
        if not sentence.endswith((".", "?")):
            sentence += "."
        report_error(missing_package(error) or HAFMCommandError(sentence))
        sys.exit(1)
