"""`hafm benchmark NAME`: measurements of speed on this machine, as a table or as JSON."""

from __future__ import annotations

import json
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
