# SPDX-License-Identifier: Apache-2.0
"""What the delay pattern saves: decoding, the whole path and training, against the flat pattern in the same run.

And what is saved if the conditioning is added to the delayed target's slots, in the whole path to the semantic stage's
as well. All have random weights, which take as long as trained ones. They go by turns, and each counts with its
fastest turn, so that other work on the machine affects all of them alike.

cd recipes && python -m benchmarks.patterns                # the paper's size
cd recipes && python -m benchmarks.patterns --model ""     # hafm-tiny's size, and whole songs
"""

import json
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.decoding import untrained
from benchmarks.song import glide
from benchmarks.training import clock, timed, training_step
from hafm_hf.accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
from hafm_hf.modeling.modeling_hafm import STAGE_MODELS
from hafm_hf.modeling.sampling import RandomStream
from hafm_hf.modeling.windows import DecodingOptions, decode_window

DELAYED_STAGES = ("coarse", "fine")
# codebook pattern and fusion of the conditioning
WAYS = {"flat": ("flat", "prepend"), "delay": ("delay", "prepend"), "sum": ("delay", "sum")}


def benchmark_patterns(
    model: str | None, seconds: float = 10.0, crops: int = 2, repeats: int = 2, window_seconds: float | None = None
) -> dict[str, Any]:
    """Speeds in both patterns.

    Args:
        model: folder or hub id of the composite whose sizes are taken, the bundled hafm-tiny if empty; None takes the
            paper's, without the whole path.
        seconds: length of the singing for the whole path.
        crops: of a training step.
        repeats: turns.
        window_seconds: of windows and crops of both stages; the stages' own if None.

    Returns:
        {"model", "threads", "clock", "work"}; for each work {"unit", "flat", "delay", "sum", "ratio", "sum_ratio"},
            where more is faster and the ratios are to flat.
    """
    composite = None if model is None else HAFMForVocalAccompaniment.from_pretrained(model or None)
    made = {
        way: {name: _stage(composite, name, how, window_seconds) for name in DELAYED_STAGES}
        for way, how in WAYS.items()
    }
    runs: dict[str, dict[str, Callable[[], object]]] = {}
    for name in DELAYED_STAGES:
        runs[name] = {pattern: _window(stages[name]) for pattern, stages in made.items()}
    if composite is not None:
        song = glide(seconds, composite.sampling_rate)
        added = {"semantic": untrained(composite.semantic, "flat", "sum")}
        playing = made | {"sum": made["sum"] | added}
        runs["song"] = {way: _song(composite, stages, song) for way, stages in playing.items()}
    for name in DELAYED_STAGES:
        runs[f"train {name}"] = {pattern: _training(stages[name], crops) for pattern, stages in made.items()}
    taken = {work: _fastest(variants, repeats) for work, variants in runs.items()}
    window = {name: made["flat"][name].config.window_seconds for name in DELAYED_STAGES}
    rate = made["flat"]["coarse"].config.frame_rate
    work = {
        f"decode {name}": _entry("frames/s", {key: window[name] * rate / value for key, value in taken[name].items()})
        for name in DELAYED_STAGES
    }
    each = {pattern: sum(taken[name][pattern] / window[name] for name in DELAYED_STAGES) for pattern in made}
    work["decode coarse + fine"] = _entry("frames/s", {pattern: rate / value for pattern, value in each.items()})
    if composite is not None:
        work["whole path"] = _entry("s of song/s", {key: seconds / value for key, value in taken["song"].items()})
    for name in DELAYED_STAGES:
        speeds = {key: crops * window[name] / value for key, value in taken[f"train {name}"].items()}
        work[f"train {name}"] = _entry("h of audio/h", speeds)
    return {"model": model, "threads": torch.get_num_threads(), "clock": clock(torch.device("cpu"))[0], "work": work}


def _entry(unit: str, speeds: dict[str, float]) -> dict[str, Any]:
    ratios = {"ratio": speeds["delay"] / speeds["flat"], "sum_ratio": speeds["sum"] / speeds["flat"]}
    return {"unit": unit, **speeds, **ratios}


def _stage(composite: Any, name: str, how: tuple[str, str], window_seconds: float | None) -> Any:
    if composite is not None:
        stage = untrained(getattr(composite, name), *how)
    else:
        torch.manual_seed(0)
        pattern, fusion = how
        config = STAGE_MODELS[name].config_class(codebook_pattern=pattern, conditioning_fusion=fusion)
        stage = STAGE_MODELS[name](config).eval()
    if window_seconds is not None:
        stage.config.window_seconds = stage.generation_config.window_seconds = window_seconds
    return stage


def _conditioning(stage: Any, rows: int) -> torch.Tensor:
    """Random streams as long as a window: int64 [rows, K, T_c]."""
    config = stage.config
    frames = round(config.window_seconds * config.conditioning_frame_rate)
    return torch.randint(min(config.conditioning_sizes), (rows, config.num_conditioning_streams, frames))


def _window(stage: Any) -> Callable[[], object]:
    """Decodes one window of one song in the fast loop, by the stage's own guidance and sampling."""
    conditioning = _conditioning(stage, 1)
    count = stage.config.target_length(conditioning.shape[-1])
    numbers = RandomStream(1).uniforms(0, count)[None]
    known = torch.empty(1, 0, dtype=torch.long)
    return lambda: decode_window(stage, conditioning, count, numbers, DecodingOptions(), known)


def _song(composite: Any, stages: dict[str, Any], vocal: Any) -> Callable[[], object]:
    """The whole path of a composite with other stages in the place of its own."""

    def run() -> object:
        own = {name: getattr(composite, name) for name in stages}
        for name, stage in stages.items():
            setattr(composite, name, stage)
        try:
            return composite.generate(vocal, composite.sampling_rate, seed=1)
        finally:
            for name, stage in own.items():
                setattr(composite, name, stage)

    return run


def _training(stage: Any, crops: int) -> Callable[[], object]:
    """An optimiser step over random crops, by a copy of the stage in float32."""
    torch.manual_seed(0)
    learner = type(stage)(stage.config)
    conditioning = _conditioning(stage, crops)
    labels = torch.randint(stage.config.codebook_size, (crops, stage.config.target_length(conditioning.shape[-1])))
    null = torch.zeros(crops, dtype=torch.bool)
    batch = {"conditioning_ids": conditioning, "labels": labels, "null_conditioning": null}
    return training_step(learner, batch, torch.float32)


def _fastest(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of the fastest turn of each; the first turn warms up."""
    seconds = dict.fromkeys(runs, float("inf"))
    for turn in range(repeats + 1):
        for name, run in runs.items():
            elapsed = timed(run, torch.device("cpu"))
            if turn:
                seconds[name] = min(seconds[name], elapsed)
    return seconds


def main(
    model: Annotated[
        str | None, typer.Option(help="Folder or hub id, empty for hafm-tiny; the paper's size if not given.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of the singing of whole songs; with --model only.")] = 10.0,
    window_seconds: Annotated[
        float | None, typer.Option(min=0.2, help="Of windows and training crops, instead of the stages' own.")
    ] = None,
    crops: Annotated[int, typer.Option(min=1, help="Crops of a training step.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Turns; the fastest counts.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """The delay pattern, and conditioning added to its slots, against the flat one: decoding, songs, training."""
    torch.set_num_threads(threads)
    result = benchmark_patterns(model, seconds, crops, repeats, window_seconds)
    if as_json:
        typer.echo(json.dumps(result))
        return
    title = f"against flat, {result['threads']} threads, {result['clock']}"
    table = Table("work", "unit", "flat", "delay", "ratio", "added", "ratio", title=title, title_justify="left")
    for work, entry in result["work"].items():
        figures = (f"{entry[name]:.4g}" for name in ("flat", "delay", "ratio", "sum", "sum_ratio"))
        table.add_row(work, entry["unit"], *figures)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
