# SPDX-License-Identifier: Apache-2.0
"""`hafm benchmark NAME`: measurements of speed on this machine, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from math import inf
from typing import Annotated, Any

import typer
from rich.table import Table

from .console import stdout

benchmark = typer.Typer(no_args_is_help=True, help="Measures speed on this machine.")


@benchmark.callback()
def measurements() -> None:
    """Measures speed on this machine."""


@benchmark.command()
def train(
    stage: Annotated[str, typer.Option(help="semantic, coarse or fine.")] = "semantic",
    hidden_size: Annotated[int, typer.Option(min=8, help="Width of all variants.")] = 512,
    num_hidden_layers: Annotated[int, typer.Option(min=1, help="Layers; the paper has 12.")] = 4,
    num_attention_heads: Annotated[int, typer.Option(min=1)] = 8,
    position_scheme: Annotated[str, typer.Option(help="index or time.")] = "index",
    crop_seconds: Annotated[float | None, typer.Option(help="The paper's for the stage if not given.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Crops in a step.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps of each variant; the fastest counts.")] = 5,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 under autocast.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Training speed of a stage: with its relative bias, without any, and of MusicGen's decoder of the same size."""
    from ..benchmark.train import TrainingBenchmark, benchmark_training

    result = benchmark_training(
        TrainingBenchmark(
            stage=stage,
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            position_scheme=position_scheme,
            crop_seconds=crop_seconds,
            batch=batch,
            repeats=repeats,
            precision=precision,
            device=device,
        )
    )
    if as_json:
        typer.echo(json.dumps(result))
        return
    show_training(result)


@benchmark.command()
def generate(
    stage: Annotated[str, typer.Option(help="semantic, coarse or fine.")] = "coarse",
    model: Annotated[
        str | None, typer.Option(help="Folder or hub id, empty for hafm-tiny; the paper's size if not given.")
    ] = None,
    pattern: Annotated[
        list[str] | None, typer.Option(help="flat or delay, with random weights if not the model's own; repeatable.")
    ] = None,
    rows: Annotated[list[int] | None, typer.Option(help="Rows of a step, guidance included; repeatable.")] = None,
    context: Annotated[int, typer.Option(min=2, help="Slots before the first new one.")] = 500,
    steps: Annotated[int, typer.Option(help="New slots, at least 16.")] = 40,
    repeats: Annotated[int, typer.Option(min=1, help="Turns; the fastest counts.")] = 5,
    song: Annotated[list[float] | None, typer.Option(help="Also a whole song of S seconds; repeatable.")] = None,
    samples: Annotated[list[int] | None, typer.Option(help="Samples of the song at once; repeatable.")] = None,
    weights: Annotated[str | None, typer.Option(help="int8 for the whole song.")] = None,
    precision: Annotated[
        bool, typer.Option("--precision", help="Also how far int8 and bfloat16 change the scores.")
    ] = False,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Threads of torch, 0 for all; repeatable. If not given, those of a generation."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Decoding speed of a stage against MusicGen and the bound of memory; with --song, of the whole path too."""
    import torch

    from ..benchmark.generate import DecodingBenchmark, benchmark_decoding, benchmark_precision, benchmark_song

    try:
        wanted = [
            DecodingBenchmark(stage, model, each, wide, context, steps, repeats)
            for each in pattern or (None,)
            for wide in rows or [2]
        ]
    except ValueError as refusal:
        raise typer.BadParameter(str(refusal)) from refusal
    decoding, songs, everything = [], [], torch.get_num_threads()
    counts: Sequence[int | None] = threads or [None]
    for count in counts:
        torch.set_num_threads(count or everything)
        asked = None if count is None else torch.get_num_threads()
        # songs first: the process' peak is theirs then, and not the peers'
        for seconds, number, kind in product(song or [], samples or [1], pattern or (None,)):
            songs.append(benchmark_song(model, seconds, "fast", weights, number, asked, kind))
        torch.set_num_threads(asked or 1)
        decoding += [benchmark_decoding(each) for each in wanted]
    errors = benchmark_precision(model) if precision else {}
    if as_json:
        typer.echo(json.dumps({"decoding": decoding, "songs": songs, "precision": errors}))
        return
    for result in decoding:
        show_decoding(result)
    for result in songs:
        show_song(result)
    for name, kinds in errors.items():
        for kind, error in kinds.items():
            apart = f"KL {error['mean_kl']:.5f} nats, logits off by at most {error['max_logit_error']:.3f}"
            stdout.print(f"{name} in {kind}: {apart}", markup=False)


def show_song(result: dict[str, Any]) -> None:
    """The result of `benchmark_song` as a sentence, and where the time went as a table."""
    stdout.print(
        f"{result['seconds']:g} s of singing, {result['samples']} at once, {result['pattern']}, "
        f"{result['threads'] or 'its own'} threads: "
        f"{result['tokens_per_second']:,.0f} tokens/s, real-time factor {result['real_time_factor']:.3f}; "
        f"loaded in {result['load_seconds']:.1f} s, "
        f"peak {result['peak_gib']:.2f} GiB, {result['loaded_gib']:.2f} of it when it was loaded",
        markup=False,
    )
    table = Table("part", "s", "share", title=f"{result['outside_kernels']:.0%} outside torch's operations, at most")
    for name, value in result["parts"].items():
        table.add_row(name, f"{value:.2f}", f"{value / result['elapsed_seconds']:.0%}")
    stdout.print(table)


def show_decoding(result: dict[str, Any]) -> None:
    """The result of `benchmark_decoding` as a table."""
    options = result["options"]
    table = Table(
        title=f"{options['stage']}, {options['pattern']}, {options['rows']} rows, {result['threads']} threads",
        title_justify="left",
    )
    for heading in ("loop", "ms a step", "median", "tokens/s", "× MusicGen"):
        table.add_column(heading, justify="left" if heading == "loop" else "right")
    formats = {"milliseconds_per_step": ".2f", "median_milliseconds_per_step": ".2f", "tokens_per_second": ",.0f"}
    for name, variant in sorted(result["variants"].items(), key=lambda item: item[1]["milliseconds_per_step"] or inf):
        figures = [_figure(variant[key], digits) for key, digits in formats.items()]
        ratio = _figure(result["ratios"][name], ".2f") if name in result["ratios"] else ""
        table.add_row(name.replace("_", " "), *figures, ratio)
    stdout.print(table)
    stdout.print(
        f"reading the weights once takes {result['bound_milliseconds']:.2f} ms at {result['bandwidth_gb_s']:.1f} GB/s",
        markup=False,
    )


@benchmark.command()
def patterns(
    model: Annotated[
        str | None, typer.Option(help="Folder or hub id, empty for hafm-tiny; the paper's size if not given.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Of singing, for the whole path; with --model only.")] = 10.0,
    window_seconds: Annotated[
        float | None, typer.Option(min=0.2, help="Of windows and training crops, instead of the stages' own.")
    ] = None,
    crops: Annotated[int, typer.Option(min=1, help="Crops of a training step.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Turns; the fastest counts.")] = 2,
    threads: Annotated[int, typer.Option(min=0, help="Of torch; 0 for all.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """The delay pattern, and conditioning added to its slots, against the flat one: decoding, whole path, training."""
    import torch

    from ..benchmark.patterns import benchmark_patterns

    torch.set_num_threads(threads or torch.get_num_threads())
    result = benchmark_patterns(model, seconds, crops, repeats, window_seconds)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table(title=f"against flat, {result['threads']} threads, {result['clock']}", title_justify="left")
    for heading in ("work", "unit", "flat", "delay", "ratio", "added", "ratio"):
        table.add_column(heading, justify="left" if heading in ("work", "unit") else "right")
    for work, entry in result["work"].items():
        figures = (f"{entry[name]:.4g}" for name in ("flat", "delay", "ratio", "sum", "sum_ratio"))
        table.add_row(work, entry["unit"], *figures)
    stdout.print(table)


def _figure(value: float | None, digits: str) -> str:
    return "–" if value is None else format(value, digits)


def show_training(result: dict[str, Any]) -> None:
    """The result of `benchmark_training` as a table and two lines."""
    table = Table(title="fastest optimiser step", title_justify="left")
    for heading in ("variant", "parameters", "seconds", "target tokens/s", "relative bias is"):
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    for name, variant in result["variants"].items():
        ratio = result["ratios"].get(name)
        figures = (
            f"{variant['parameters']:,}",
            f"{variant['step_seconds']:.3f}",
            f"{variant['tokens_per_second']:,.0f}",
        )
        table.add_row(name.replace("_", " "), *figures, "" if ratio is None else f"{ratio:.2f} × as fast")
    stdout.print(table)
    peak, loading = result["peak"], result["data_loading"]
    share = result["model_flop_utilisation"]
    stdout.print(f"{share:.1%} of the peak of {peak['flops'] / 1e9:,.0f} GFLOP/s ({peak['source']})", markup=False)
    stdout.print(f"reading a batch takes {loading['share_of_step']:.2%} of a step", markup=False)


@benchmark.command()
def start(
    model: Annotated[str | None, typer.Option(help="Folder or hub id; the bundled hafm-tiny if not given.")] = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of the singing.")] = 10.0,
    repeats: Annotated[int, typer.Option(min=1, help="Processes; the fewest seconds of each part count.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Processor time from `hafm accompany` to its first step, by part."""
    from ..benchmark.start import benchmark_start

    result = benchmark_start(model, seconds, repeats)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table(title="until the first step, one thread", title_justify="left")
    table.add_column("part")
    table.add_column("processor, s", justify="right")
    for name, value in result["parts"].items():
        table.add_row(name, f"{value:.2f}")
    stdout.print(table)
    stdout.print(
        f"ours {result['ours']:.2f} s, {result['ratio']:.2f} of torch's and transformers' imports; "
        f"{result['wall_seconds']:.1f} s by the clock",
        markup=False,
    )
