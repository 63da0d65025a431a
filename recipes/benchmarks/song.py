# SPDX-License-Identifier: Apache-2.0
"""How long a whole song takes, from the voice to the sound, part by part; real-time factor and memory.

cd recipes && python -m benchmarks.song --model "" --seconds 10 --seconds 180
"""

import json
import resource
import time
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.decoding import untrained
from hafm_hf.accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
from hafm_hf.accompaniment.parts import stage_parts

# period of `glide`: a whole number of its glides (8 s each), of its pauses (every 3 s) and of cycles of its vibrato
GLIDE_SECONDS = 24.0


def benchmark_song(
    model: str,
    seconds: float,
    num_samples: int = 1,
    threads: int | None = None,
    pattern: str | None = None,
) -> dict[str, Any]:
    """One whole song, from loading to sound.

    Args:
        model: folder or hub id; the bundled hafm-tiny if empty.
        seconds: length of the vocal, a glide with pauses.
        num_samples, threads: as for `generate`.
        pattern: codebook pattern of the coarse and the fine stage; stages with random weights if not their own.

    Returns:
        "seconds", "samples", "threads", "pattern"; "load_seconds" (after the imports), "elapsed_seconds",
        "real_time_factor" (of one sample), "tokens_per_second" (of all stages and samples); "parts", seconds of
        "listening", each stage and "codec and mix"; "peak_gib" and "loaded_gib", the process's peak memory in all
        and after loading.
    """
    begin = time.perf_counter()
    composite = HAFMForVocalAccompaniment.from_pretrained(model or None)
    if pattern is not None:
        for name in [name for name in composite.stages if stage_parts()[name].acoustic]:
            setattr(composite, name, untrained(getattr(composite, name), pattern))
    loaded = time.perf_counter()
    loaded_gib = _peak_gib()
    vocal = glide(seconds, composite.sampling_rate)
    parts = _song_parts(composite, vocal, num_samples=num_samples, threads=threads)
    elapsed = sum(parts.values())
    configs = [getattr(composite, name).config for name in composite.stages]
    tokens = num_samples * seconds * sum(config.frame_rate * config.num_codebooks for config in configs)
    return {
        "seconds": seconds,
        "samples": num_samples,
        "threads": threads,
        "pattern": composite.coarse.config.codebook_pattern,
        "load_seconds": loaded - begin,
        "elapsed_seconds": elapsed,
        "real_time_factor": elapsed / (seconds * num_samples),
        "tokens_per_second": tokens / elapsed,
        "parts": parts,
        "peak_gib": _peak_gib(),
        "loaded_gib": loaded_gib,
    }


def _song_parts(composite: Any, vocal: np.ndarray, **options: Any) -> dict[str, float]:
    """Generates a song, and measures its parts by the times at which the stages report progress.

    Args:
        composite: the model.
        vocal (float32 [N]): at the model's rate.
        options: of `generate`.

    Returns:
        Seconds of "listening", of each stage by its name, and of "codec and mix".
    """
    # by stage: the times at which it reported its first and its last step, and the number of steps reported
    first_report: dict[str, float] = {}
    last_report: dict[str, float] = {}
    steps_done: dict[str, int] = {}

    def progress(stage: str, done: int, total: int) -> None:
        """Notes when a stage has done more of its `total` steps than it had reported before."""
        # the last report is repeated while the codec computes
        if done > steps_done.get(stage, -1):
            steps_done[stage] = done
            last_report[stage] = time.perf_counter()
            first_report.setdefault(stage, last_report[stage])

    began = time.perf_counter()
    composite.generate(vocal, composite.sampling_rate, seed=1, progress=progress, **options)
    ended = time.perf_counter()
    # the first stage begins when the vocal has been listened to, and each other one when the stage before it ends
    end_of_listening = next(iter(first_report.values()))
    moments = [began, end_of_listening, *last_report.values(), ended]
    names = ["listening", *last_report, "codec and mix"]
    return {name: after - before for name, (before, after) in zip(names, pairwise(moments), strict=True)}


def _peak_gib() -> float:
    """Most memory that the process has held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def glide(seconds: float, rate: int) -> np.ndarray:
    """Something like a voice, float32 [N]: a vibrating tone that glides through an octave, with pauses.

    Only one period (`GLIDE_SECONDS`) is computed, and then repeated, so that an hour takes little memory.

    Args:
        seconds: length.
        rate: in Hz.
    """
    time_axis = np.arange(round(GLIDE_SECONDS * rate)) / rate
    # up and down by half an octave in 8 s; a vibrato of 5.5 Hz
    glide_octaves = 0.5 * np.sin(2 * np.pi * time_axis / 8.0)
    vibrato_octaves = 0.02 * np.sin(2 * np.pi * 5.5 * time_axis)
    hertz = 220.0 * 2 ** (glide_octaves + vibrato_octaves)
    phase = 2 * np.pi * np.cumsum(hertz) / rate
    tone = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 6))
    # silent for some 0.9 s of every 3 s
    sings = np.sin(2 * np.pi * time_axis / 3.0) > -0.6
    one_period = (0.2 * tone * sings).astype(np.float32)
    return np.resize(one_period, round(seconds * rate))


def main(
    model: Annotated[str, typer.Option(help="Folder or hub id; the bundled hafm-tiny if empty.")] = "",
    seconds: Annotated[list[float] | None, typer.Option(help="Length of the singing; repeatable.")] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Accompaniments at once.")] = 1,
    pattern: Annotated[str | None, typer.Option(help="flat or delay, with random weights if not the model's.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Measures how long each part of a composite takes for whole songs."""
    results = [benchmark_song(model, length, num_samples, threads, pattern) for length in seconds or [10.0]]
    if as_json:
        typer.echo(json.dumps(results))
        return
    for result in results:
        show_song(result)


def show_song(result: dict[str, Any]) -> None:
    """Prints the result of `benchmark_song` as a sentence, and where the time went as a table."""
    console = Console()
    console.print(
        f"{result['seconds']:g} s of singing, {result['samples']} at once, {result['pattern']}: "
        f"{result['tokens_per_second']:,.0f} tokens/s, real-time factor {result['real_time_factor']:.3f}; "
        f"loaded in {result['load_seconds']:.1f} s, "
        f"peak {result['peak_gib']:.2f} GiB, {result['loaded_gib']:.2f} of it after loading",
        markup=False,
    )
    table = Table("part", "s", "share")
    for name, value in result["parts"].items():
        table.add_row(name, f"{value:.2f}", f"{value / result['elapsed_seconds']:.0%}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
