# SPDX-License-Identifier: Apache-2.0
"""How long `hafm accompany` takes until its first step, by part: torch, transformers' classes, and our own code.

The command runs in a process of its own, which first imports torch and transformers' classes, until it draws the first
token. Times are processor seconds of one thread.

cd recipes && python -m benchmarks.start
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

# first word of the process that is measured
FIRST_STEP = "until-first-step"
# of the process, in this order: what any command needs; then ours: its imports, loading the model, listening
PARTS = ("python", "torch", "transformers", "command", "loading", "listening")
OURS = ("command", "loading", "listening")
# classes of transformers that the model needs in any case
CLASSES = ("PreTrainedModel", "EncodecModel", "HubertModel")


def benchmark_start(model: str | None = None, seconds: float = 10.0, repeats: int = 3) -> dict[str, Any]:
    """Measures the time from the command to its first step: processor seconds of each part, in its fastest run.

    Args:
        model: folder or hub id; the bundled hafm-tiny if None or empty.
        seconds: length of the vocal, a glide with pauses.
        repeats: processes to run; of each part the fastest counts.

    Returns:
        "parts" (seconds by the names in PARTS), "ours" (those of OURS), "ratio" (of ours to torch and transformers'
        classes), "wall_seconds" (of the whole, the fewest) and "packages" (names of those imported after these
        classes).

    Raises:
        RuntimeError: the command failed before its first step.
    """
    from benchmarks.song import glide
    from hafm_hf.audio import write_audio

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
    """Runs `hafm` with these words in another process until its first step, and measures it.

    Returns:
        "parts" (processor seconds by the names in PARTS), "packages" (names of those imported after transformers'
        classes were) and "wall_seconds".

    Raises:
        RuntimeError: the command failed before its first step.
    """
    began = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, __file__, FIRST_STEP, *words], capture_output=True, text=True, env=environment, check=False
    )
    if run.returncode:
        raise RuntimeError(f"hafm {' '.join(words)} ended before its first step: {run.stderr.strip()[-500:]}")
    return {**json.loads(run.stdout.splitlines()[-1]), "wall_seconds": time.perf_counter() - began}


class _FirstStep(BaseException):
    """Ends the command; not an Exception, because the command would report one."""


def _measure(words: list[str]) -> None:
    """Runs `hafm` with these words in this process until its first step; prints a line of JSON.

    It has "parts", the processor seconds of each of PARTS, and "packages", the names of those imported after
    transformers' classes. For this, it replaces the command's `load_pipeline`, and `draw` of the decoding loop.
    """
    # processor seconds at the start of each part, and at the end
    moments = [0.0, time.process_time()]
    import torch  # noqa: F401

    moments.append(time.process_time())
    import transformers

    for name in CLASSES:
        getattr(transformers, name)
    moments.append(time.process_time())
    modules_before = set(sys.modules)

    def load_pipeline(*args: Any, **kwargs: Any) -> Any:
        """The command's `load_pipeline`, timed; afterwards, drawing the first token ends the command."""
        from hafm_hf.modeling import fast_loop

        moments.append(time.process_time())
        pipeline = load(*args, **kwargs)
        moments.append(time.process_time())
        loop: Any = fast_loop
        loop.draw = stop
        return pipeline

    def stop(*_: Any) -> Any:
        """Ends the command in place of drawing a token."""
        raise _FirstStep

    try:
        from hafm_hf.cli import app

        command: Any = sys.modules["hafm_hf.cli.accompany"]
        load = command.load_pipeline
        command.load_pipeline = load_pipeline
        app(words)
    except _FirstStep:
        moments.append(time.process_time())
    parts = {name: after - before for name, (before, after) in zip(PARTS, pairwise(moments), strict=True)}
    packages = {name.partition(".")[0] for name in set(sys.modules) - modules_before}
    sys.stdout.write(json.dumps({"parts": parts, "packages": sorted(packages)}) + "\n")


def main(
    model: Annotated[str | None, typer.Option(help="Folder or hub id; the bundled hafm-tiny if not given.")] = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of the singing.")] = 10.0,
    repeats: Annotated[int, typer.Option(min=1, help="Processes; the fewest seconds of each part count.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Processor time from `hafm accompany` to its first step, by part."""
    result = benchmark_start(model, seconds, repeats)
    if as_json:
        typer.echo(json.dumps(result))
        return
    for name, value in result["parts"].items():
        typer.echo(f"{name:12} {value:5.2f} s of the processor")
    typer.echo(
        f"ours {result['ours']:.2f} s, {result['ratio']:.2f} of torch's and transformers' imports; "
        f"{result['wall_seconds']:.1f} s by the clock"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == [FIRST_STEP]:
        _measure(sys.argv[2:])
    else:
        typer.run(main)
