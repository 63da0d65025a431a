# SPDX-License-Identifier: Apache-2.0
"""How long `hafm accompany` takes until its first step, by part: torch, transformers' classes, and what is ours.

The command runs in a process of its own, which has imported torch and transformers' classes, until it draws the first
token. Seconds are the processor's, on one thread.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

# of the process: what it needs in any case, then our command until it loads, loads and listens
PARTS = ("python", "torch", "transformers", "command", "loading", "listening")
OURS = ("command", "loading", "listening")
# what a model of transformers is made of
CLASSES = ("PreTrainedModel", "EncodecModel", "HubertModel")


def benchmark_start(model: str | None = None, seconds: float = 10.0, repeats: int = 3) -> dict[str, Any]:
    """Seconds from the command to its first step, each part's fewest.

    Args:
        model: folder or hub id; the bundled hafm-tiny if None or empty.
        seconds: length of the vocal, a glide with pauses.
        repeats: processes.

    Returns:
        "parts" (seconds by the names in PARTS), "ours" (those of OURS), "ratio" (of ours to torch and transformers'
        classes), "wall_seconds" (of the whole, the fewest) and "packages" that were imported behind these classes.

    Raises:
        RuntimeError: the command failed before its first step.
    """
    from ..audio import write_audio
    from .generate import glide

    with tempfile.TemporaryDirectory() as folder:
        vocal = write_audio(Path(folder) / "vocal.wav", glide(seconds, 44_100), 44_100)
        words = ["accompany", str(vocal), "--out", folder, "--seed", "1", *(["--model", model] if model else [])]
        runs = [_measured(words) for _ in range(repeats)]
    parts = {name: min(run["parts"][name] for run in runs) for name in PARTS}
    ours = sum(parts[name] for name in OURS)
    return {
        "parts": parts,
        "ours": ours,
        "ratio": ours / (parts["torch"] + parts["transformers"]),
        "wall_seconds": min(run["wall_seconds"] for run in runs),
        "packages": runs[0]["packages"],
    }


def _measured(words: list[str]) -> dict[str, Any]:
    began = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-m", __name__, *words], capture_output=True, text=True, env=environment, check=False
    )
    if run.returncode:
        raise RuntimeError(f"hafm {' '.join(words)} came to no first step: {run.stderr.strip()[-500:]}")
    return {**json.loads(run.stdout.splitlines()[-1]), "wall_seconds": time.perf_counter() - began}


class _FirstStep(BaseException):
    """Ends the command; no Exception, which it would report."""


def _measure(words: list[str]) -> None:
    """Runs `hafm` with these words in this process until its first step; prints a line of JSON."""
    moments = [0.0, time.process_time()]
    import torch  # noqa: F401

    moments.append(time.process_time())
    import transformers

    for name in CLASSES:
        getattr(transformers, name)
    moments.append(time.process_time())
    there = set(sys.modules)
    # it puts a lazy module in its own place
    library: Any = sys.modules["transformers"]
    make = library.pipeline

    def pipeline(*args: Any, **kwargs: Any) -> Any:
        from ..modeling import fast_loop

        moments.append(time.process_time())
        made = make(*args, **kwargs)
        moments.append(time.process_time())
        loop: Any = fast_loop
        loop.draw = stop
        return made

    def stop(*_: Any) -> Any:
        raise _FirstStep

    library.pipeline = pipeline
    try:
        # by name: commands are above benchmarks
        __import__("hafm_hf.cli").cli.app(words)
    except _FirstStep:
        moments.append(time.process_time())
    parts = {name: after - before for name, (before, after) in zip(PARTS, pairwise(moments), strict=True)}
    packages = {name.partition(".")[0] for name in set(sys.modules) - there}
    sys.stdout.write(json.dumps({"parts": parts, "packages": sorted(packages)}) + "\n")


if __name__ == "__main__":
    _measure(sys.argv[1:])
