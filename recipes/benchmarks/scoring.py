# SPDX-License-Identifier: Apache-2.0
"""How many times real time the scoring of accompaniments is, step by step and for a whole run on several processes.

The sounds are drawn, not recorded: what the steps cost depends on their length only. What is compiled at first use is
compiled before the clock starts. Seconds of the steps are those of the processor, so that what else the machine does
does not count; the whole run's are those of the clock.

python recipes/benchmarks/scoring.py --clips 40 --workers 2
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from rich.console import Console
from rich.table import Table

from hafm_hf.audio import Samples
from hafm_hf.evaluation.datasets import Clip, Part
from hafm_hf.evaluation.embedders import EmbedderOptions, make_embedder
from hafm_hf.evaluation.features import ANALYSIS_RATE, extract
from hafm_hf.evaluation.leakage import voice_leak_db
from hafm_hf.evaluation.measuring import ClipJob, MeasuringOptions, measure_all
from hafm_hf.evaluation.protocol import ScoringOptions, make_report
from hafm_hf.evaluation.scores import score_pair
from hafm_hf.evaluation.timing import lag

REPEATS = 3
# how often the measuring of a clip with one system needs each step; its reference is measured too
STEPS_OF_A_CLIP = {"features of a voice": 1, "features of an accompaniment": 2, "leak guard": 2, "embeddings": 2}


@dataclass(frozen=True)
class ScoringBenchmark:
    """What is measured.

    Args:
        clips: clips of `seconds` s each, of as many songs.
        seconds: length of a clip.
        workers: processes of the whole run.
        embedder: as `hafm evaluate` names it.
        vggish_weights: file of VGGish's weights, for an embedder that needs them.
    """

    clips: int = 40
    seconds: float = 20.0
    workers: int = 2
    embedder: str = "tokenizer"
    vggish_weights: str | None = None


def benchmark_evaluation(benchmark: ScoringBenchmark) -> dict[str, Any]:
    """Times each step on one clip, and a whole run: voice, reference and one system's accompaniments.

    Returns:
        {"options", "steps": {name: times real time of one core}, "cores": {number: times real time of measuring on so
        many idle cores, and of scoring with distances and bootstrap on one, by processor time}, "run":
        {"start_seconds", "measuring_seconds", "scoring_seconds", "real_time_factor": seconds of clips a second of the
        clock, from when the processes have started and loaded what they need}}.
    """
    options = EmbedderOptions(benchmark.embedder, weights=benchmark.vggish_weights)
    steps = _time_steps(benchmark, options)
    with tempfile.TemporaryDirectory() as folder:
        jobs = [_job(Path(folder), number, benchmark.seconds) for number in range(benchmark.clips)]
        measuring = MeasuringOptions(embedders=(options,), baselines=False)
        measurements, times = [], [time.perf_counter()]
        for measurement in measure_all(jobs, measuring, benchmark.workers):
            measurements.append(measurement)
            times.append(time.perf_counter())
        processor = time.process_time()
        make_report(measurements, {"system": ["system"]}, ScoringOptions(), {})
        processor = time.process_time() - processor
        times.append(time.perf_counter())
    # every process has started when as many clips are there
    started = benchmark.workers
    run = {"start_seconds": times[started] - times[0], "measuring_seconds": times[-2] - times[started]}
    run["scoring_seconds"] = times[-1] - times[-2]
    run["real_time_factor"] = (benchmark.clips - started) * benchmark.seconds / (times[-1] - times[started])
    measuring_cost = sum(count / steps[name] for name, count in STEPS_OF_A_CLIP.items())
    scoring_cost = processor / (benchmark.clips * benchmark.seconds)
    cores = {str(count): 1 / (measuring_cost / count + scoring_cost) for count in {1, benchmark.workers}}
    return {"options": asdict(benchmark), "steps": steps, "cores": cores, "run": run}


def _time_steps(benchmark: ScoringBenchmark, options: EmbedderOptions) -> dict[str, float]:
    vocal, band = _song(0, benchmark.seconds)
    voice, reference = extract(vocal, voice=True), extract(band)
    embedder = make_embedder(options)
    steps: dict[str, Callable[[], object]] = {
        "features of a voice": lambda: extract(vocal, voice=True),
        "features of an accompaniment": lambda: extract(band),
        "leak guard": lambda: voice_leak_db(vocal, band),
        "embeddings": lambda: embedder.embed(band),
        "scores of a pair": lambda: score_pair(voice, reference, reference),
        "lag": lambda: lag(voice, reference, reference),
    }
    return {name: benchmark.seconds / _cpu_seconds(step) for name, step in steps.items()}


def _cpu_seconds(step: Callable[[], object]) -> float:
    step()
    taken = []
    for _ in range(REPEATS):
        began = time.process_time()
        step()
        taken.append(time.process_time() - began)
    return max(min(taken), 1e-9)


def _song(seed: int, seconds: float) -> tuple[Samples, Samples]:
    """A voice that glides and a band of noise bursts and tones: float32 [N] each at 16 kHz."""
    generator = np.random.default_rng(seed)
    time_axis = np.arange(round(seconds * ANALYSIS_RATE)) / ANALYSIS_RATE
    pitch = 220.0 * 2 ** (np.sin(2 * np.pi * 0.2 * time_axis) * 0.5)
    phase = 2 * np.pi * np.cumsum(pitch) / ANALYSIS_RATE
    vocal = 0.1 * sum(np.sin(k * phase) / k for k in range(1, 5))
    bursts = np.exp(-(time_axis % 0.5) / 0.05) * generator.standard_normal(len(time_axis))
    tones = sum(np.sin(2 * np.pi * hertz * time_axis) for hertz in generator.uniform(100, 400, 3))
    return np.asarray(vocal, np.float32), np.asarray(0.1 * bursts + 0.05 * tones, np.float32)


def _job(folder: Path, number: int, seconds: float) -> ClipJob:
    vocal, band = _song(number, seconds)
    _, candidate = _song(number + 10_000, seconds)
    parts = {}
    for name, sound in (("vocal", vocal), ("reference", band), ("system", candidate)):
        path = folder / f"{number}_{name}.wav"
        soundfile.write(path, sound, ANALYSIS_RATE, subtype="PCM_16")
        parts[name] = Part(path)
    clip = Clip(str(number), str(number), parts["vocal"], parts["reference"])
    return ClipJob(clip, {"system": parts["system"]})


def main(
    clips: Annotated[int, typer.Option(min=2, help="Clips of a whole run.")] = 40,
    seconds: Annotated[float, typer.Option(min=5.0, help="Length of a clip.")] = 20.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the whole run.")] = 2,
    embedder: Annotated[
        str, typer.Option(help="tokenizer, vggish-original, or a transformers audio model.")
    ] = "tokenizer",
    vggish_weights: Annotated[str | None, typer.Option(help="File of VGGish's weights.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Speed of scoring accompaniments, without generation: each step on one core, and a whole run."""
    result = benchmark_evaluation(ScoringBenchmark(clips, seconds, workers, embedder, vggish_weights))
    if as_json:
        typer.echo(json.dumps(result))
        return
    console, table = Console(), Table(title=f"Scoring, embedder {embedder}", title_justify="left")
    table.add_column("step")
    table.add_column("× real time", justify="right")
    for name, factor in result["steps"].items():
        table.add_row(f"{name}, one core", f"{factor:.0f}")
    for count, factor in result["cores"].items():
        table.add_row(f"all of it, by processor time, cores: {count}", f"{factor:.0f}")
    table.add_row(f"a run by the clock, processes: {workers}", f"{result['run']['real_time_factor']:.0f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
