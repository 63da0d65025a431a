# SPDX-License-Identifier: Apache-2.0
"""How fast and in how much memory songs become tokens: by step, for one long track, and for two workers against one.

The songs are made here, of noise and tones: what the steps cost doesn't depend on what is heard.

python recipes/benchmarks/preparation.py --minutes 10 --songs 8 --workers 2
"""

import json
import multiprocessing
import resource
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from rich.console import Console
from rich.table import Table

from hafm_hf.corpus.prepare import PrepareOptions, ShardOptions, prepare
from hafm_hf.corpus.shards import ShardResult
from hafm_hf.corpus.stems import SeparatorOptions
from hafm_hf.corpus.tokenizing import TokenizerOptions

SAMPLING_RATE = 44_100
KIB_IN_GIB = 2**20


@dataclass(frozen=True)
class PreparationBenchmark:
    """What is measured: one track of `minutes`, then `songs` of `song_seconds` with one worker and with `workers`."""

    minutes: float = 10.0
    songs: int = 8
    song_seconds: float = 60.0
    workers: int = 2
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)


def benchmark_preparation(options: PreparationBenchmark) -> dict[str, Any]:
    """Measures the preparation; each run is a process of its own, so that peaks of memory are its own.

    Returns:
        `peak_memory_gib` of the long track; `hours_per_hour` of audio by step and in all, with one worker;
        `dominates`: the slowest step and its share; `workers`: hours an hour by number of workers, and `speed_up`. The
        first shards are left out of these, for what starting costs is paid once. `cpu_seconds` of all processes, with
        starting: what a busy machine can't distort.
    """
    with tempfile.TemporaryDirectory(prefix="hafm-benchmark-") as folder:
        write_songs(Path(folder, "long"), 1, options.minutes * 60)
        write_songs(Path(folder, "many"), options.songs, options.song_seconds)
        long = _measure(options, Path(folder, "long"), Path(folder, "corpus_long"), 1)
        one = _measure(options, Path(folder, "many"), Path(folder, "corpus_1"), 1)
        several = _measure(options, Path(folder, "many"), Path(folder, "corpus_n"), options.workers)
    steps = {name: seconds for name, seconds in one["steps"].items() if seconds > 0}
    slowest = max(steps, key=lambda name: steps[name])
    by_step = {name: round(one["audio_seconds"] / seconds, 1) for name, seconds in steps.items()}
    return {
        "peak_memory_gib": round(long["peak_gib"], 3),
        "long_track_minutes": options.minutes,
        "long_track_seconds": round(long["seconds"], 1),
        "hours_per_hour": {**by_step, "all": round(one["audio_seconds"] / sum(steps.values()), 1)},
        "dominates": {"step": slowest, "share": round(steps[slowest] / sum(steps.values()), 3)},
        "workers": {
            "1": round(one["rate"], 1),
            str(options.workers): round(several["rate"], 1),
            "speed_up": round(several["rate"] / one["rate"], 2),
        },
        "cpu_seconds": {"1": round(one["cpu_seconds"], 1), str(options.workers): round(several["cpu_seconds"], 1)},
    }


def write_songs(folder: Path, count: int, seconds: float) -> None:
    """Karaoke of tones and noise, stereo FLAC at 44.1 kHz, the voice on the right."""
    folder.mkdir(parents=True)
    times = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    for number in range(count):
        generator = np.random.default_rng(number)
        sound = 0.05 * generator.standard_normal((times.size, 2), dtype=np.float32)
        sound[:, 1] += 0.1 * np.sin(2 * np.pi * 220 * times + 4 * np.sin(2 * np.pi * 5 * times)).astype(np.float32)
        sound[:, 0] += 0.2 * ((times * 2) % 1 < 0.1)
        soundfile.write(folder / f"{number:03d}.flac", sound, SAMPLING_RATE)


def _measure(options: PreparationBenchmark, songs: Path, corpus: Path, workers: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(options, songs, corpus, workers, sender))
    process.start()
    sender.close()
    try:
        measured: dict[str, Any] = receiver.recv()
    except EOFError as error:
        raise RuntimeError("the measured process ended early; its message stands above") from error
    finally:
        process.join()
    return measured


def _run(options: PreparationBenchmark, songs: Path, corpus: Path, workers: int, sender: Connection) -> None:
    steps: Counter[str] = Counter()
    finished: list[tuple[float, float]] = []

    def progress(done: int, total: int, result: ShardResult | None) -> None:
        if result is not None:
            steps.update(result.seconds_by_step)
            finished.append((time.perf_counter(), result.audio_seconds))

    began = time.perf_counter()
    shards = ShardOptions(
        audio=str(songs),
        corpus=str(corpus),
        separator=SeparatorOptions(vocal_channel="right"),
        tokenizer=options.tokenizer,
    )
    prepare(PrepareOptions(shards, tracks_per_shard=1, workers=workers), progress)
    # as many shards are left out as workers started at once
    first = finished[min(workers, len(finished)) - 1][0]
    after = sum(seconds for _, seconds in finished[workers:])
    # of this process and of its workers
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    sender.send(
        {
            "seconds": time.perf_counter() - began,
            "peak_gib": max(usage.ru_maxrss for usage in spent) / KIB_IN_GIB,
            "cpu_seconds": sum(usage.ru_utime + usage.ru_stime for usage in spent),
            "steps": dict(steps),
            "audio_seconds": sum(seconds for _, seconds in finished),
            "rate": after / max(finished[-1][0] - first, 1e-9),
        }
    )


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="Length of the long track.")] = 10.0,
    songs: Annotated[int, typer.Option(min=3, help="Songs for the speed.")] = 8,
    song_seconds: Annotated[float, typer.Option(min=3, help="Length of each.")] = 60.0,
    workers: Annotated[int, typer.Option(min=2, help="Compared with one.")] = 2,
    model: Annotated[str, typer.Option(help="Composite whose tokenizers are used; hafm-tiny if not given.")] = "",
    semantic_tokenizer: Annotated[str, typer.Option(help="Instead of the model's.")] = "",
    codec: Annotated[str, typer.Option(help="Instead of the model's.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Segments in a batch.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Songs to tokens: peak memory on a long track, hours of audio an hour by step, several workers against one."""
    tokenizer = TokenizerOptions(semantic_tokenizer, codec, model, device=device, dtype=dtype, batch_size=batch_size)
    result = benchmark_preparation(PreparationBenchmark(minutes, songs, song_seconds, workers, tokenizer))
    if as_json:
        typer.echo(json.dumps(result))
        return
    console, table = Console(), Table(title="preparation", title_justify="left")
    for heading in ("step", "hours of audio an hour"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for name, rate in result["hours_per_hour"].items():
        table.add_row(name, f"{rate:,.1f}")
    console.print(table)
    dominates, rates = result["dominates"], result["workers"]
    console.print(f"{dominates['step']} takes {dominates['share']:.0%} of the time")
    console.print(f"{workers} workers: {rates[str(workers)]:.1f} hours an hour, {rates['speed_up']:.2f} × one")
    console.print(f"peak memory on {minutes:g} min: {result['peak_memory_gib']:.2f} GiB")


if __name__ == "__main__":
    typer.run(main)
