# SPDX-License-Identifier: Apache-2.0
"""Sounds as strangers save them, made by ffmpeg."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


def needs_ffmpeg() -> None:
    """Skips the test where ffmpeg is not installed."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")


def encode(source: Path, outputs: dict[Path, list[str]]) -> None:
    """Encodes a sound into several files in one run.

    Args:
        source: the sound.
        outputs: ffmpeg's options for each file to write.
    """
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(source)]
    for path, options in outputs.items():
        command += ["-map", "0:a", *options, str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def piped(source: Path, *options: str) -> bytes:
    """The file that ffmpeg writes to a pipe, where it cannot go back to correct the header."""
    command = ["ffmpeg", "-v", "error", "-i", str(source), *options, "-"]
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True).stdout


def decoded_lengths(paths: Sequence[Path]) -> list[int]:
    """Number of mono samples that ffmpeg decodes of each file."""
    command = ["ffmpeg", "-v", "quiet", "-y"]
    raw = [path.with_suffix(".raw") for path in paths]
    for path in paths:
        command += ["-i", str(path)]
    for index, path in enumerate(raw):
        command += ["-map", f"{index}:a", "-ac", "1", "-c:a", "pcm_s16le", "-f", "s16le", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    # two bytes a sample
    return [path.stat().st_size // 2 for path in raw]
