# SPDX-License-Identifier: Apache-2.0
"""Commands that look at a model and prepare it for others: `info`, `inspect-tokens`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .. import audio
from .console import loading, model_folder, plotting, stdout


def info(
    model: Annotated[str | None, typer.Argument(help="Folder or hub id; the bundled hafm-tiny if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Shows a model's parts, parameter counts, rates, vocabularies, position scheme, file sizes."""
    with loading(model):
        description = describe_model(model)
    if as_json:
        typer.echo(json.dumps(description))
        return
    table = Table(title=description["model"], title_justify="left")
    for heading in ("part", "parameters", "size on disk", "rates", "vocabulary", "architecture"):
        table.add_column(heading, justify="right" if heading in ("parameters", "size on disk") else "left")
    for name, part in description["parts"].items():
        sizes = f"{part['parameters']:,}", f"{part['bytes'] / 1e6:.1f} MB"
        table.add_row(name, *sizes, part["rates"], part["vocabulary"], part["architecture"])
    table.add_row("total", f"{description['parameters']:,}", f"{description['bytes'] / 1e6:.1f} MB", "", "", "")
    # A table cut to 80 columns in a log is of no use to anybody.
    Console(highlight=False, width=None if stdout.is_terminal else 160).print(table)


def describe_model(model: str | None) -> dict[str, Any]:
    """What `hafm info` shows, read from the configurations; no weights are loaded.

    Args:
        model: folder or hub id; the bundled hafm-tiny if None.

    Returns:
        {"model", "sampling_rate" (Hz), "parameters", "bytes", "parts": {name: {"parameters", "bytes", "rates",
        "vocabulary", "architecture", and for the stages "position_scheme", "codebook_pattern"}}}.

    Raises:
        OSError: there is no such model.
    """
    folder = model_folder(model)
    import torch

    from ..accompaniment.configuration_accompaniment import HAFMConfig
    from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
    from ..accompaniment.parts import part_classes
    from ..tokenizers.configuration_codec import codec_format

    config = HAFMConfig.from_pretrained(folder)
    # On the meta device a model has shapes but no memory: the paper's size is counted in seconds.
    with torch.device("meta"):
        counts = HAFMForVocalAccompaniment(config).parameter_counts()
    parts = {}
    for name in part_classes(config):
        described = config.describe_part(name)
        parts[name] = {"parameters": counts[name], "bytes": _bytes_in(folder / name), **described}
    return {
        "model": str(folder if model is None else model),
        "sampling_rate": codec_format(config.codec_config).sampling_rate,
        "parameters": counts["total"],
        "bytes": _bytes_in(folder),
        "parts": parts,
    }


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def inspect_tokens(
    sound: Annotated[str, typer.Argument(metavar="AUDIO", help="A recording: path or URL.")],
    model: Annotated[str | None, typer.Option(help="Folder or hub id; the bundled hafm-tiny if not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="Picture to write; NAME_tokens.png if not given.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="Use only the start.")] = None,
    instrumental: Annotated[
        bool, typer.Option("--instrumental", help="The recording is an instrumental, which has centroids of its own.")
    ] = False,
) -> None:
    """Draws the tokens that a model makes of a recording: semantic ones, and all codebooks of the codec."""
    with plotting() as plots:
        plots.require_matplotlib()
    name = audio.source_name(sound)
    samples, rate = audio.read_audio(sound, seconds=seconds)
    with loading(model):
        streams = tokenize(samples, rate, model, instrumental)
    with plotting() as plots:
        figure = plots.plot_tokens(streams, title=name)
        path = plots.write_plot(f"{Path(name).stem}_tokens.png" if out is None else out, figure)
    for stream, (tokens, frame_rate) in streams.items():
        stdout.print(f"{stream}: {plots.describe_tokens(tokens, frame_rate)}", markup=False)
    stdout.print(f"wrote {path}", markup=False)


def tokenize(
    samples: audio.Samples, sampling_rate: int, model: str | None, instrumental: bool = False
) -> dict[str, tuple[Any, int]]:
    """Token streams of a recording (float32 [N] at `sampling_rate` Hz), as numbers and frames a second.

    Returns:
        {"semantic tokens": (int64 [T_v], frames a second), "codec": (int64 [Q, T_a], frames a second)}; the semantic
        ones of a vocal with the noise that a generation with seed 0 adds to it, those of an instrumental without.
    """
    import torch

    from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
    from ..tokenizers.codecs import as_codec

    composite = HAFMForVocalAccompaniment.from_pretrained(model)
    tokenizer, codec = composite.semantic_tokenizer, as_codec(composite.codec)
    waveform = torch.from_numpy(audio.resample(samples, sampling_rate, tokenizer.config.sampling_rate))
    sound = torch.from_numpy(audio.resample(samples, sampling_rate, codec.format.sampling_rate))
    with torch.no_grad():
        semantic = tokenizer.encode(waveform, noise=not instrumental, seed=0).numpy()
        codes = codec.encode(sound.expand(1, codec.format.channels, -1))[0].numpy()
    return {"semantic tokens": (semantic, tokenizer.config.frame_rate), "codec": (codes, codec.format.frame_rate)}
