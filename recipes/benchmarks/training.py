# SPDX-License-Identifier: Apache-2.0
"""How fast a stage trains: against itself without a bias, and against MusicGen's decoder.

All variants take full optimiser steps over one fixed batch, in turns, and the fastest step of each counts, so that
other work on the machine affects all of them alike. MusicGen's decoder (transformers' `MusicgenForCausalLM`) has the
stage's width, layers and heads, a feed-forward of as many weights, and a sequence of as many slots (positions), with
the loss on as many of them.

cd recipes && python -m benchmarks.training --stage coarse --num-hidden-layers 12 --batch 6
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from benchmarks.decoding import musicgen_decoder
from hafm_hf.accompaniment.parts import stage_parts
from hafm_hf.corpus.tokens import TokenCorpusInfo, TokenExcerpt, write_shard
from hafm_hf.modeling.configuration_stage import HAFMCoarseConfig, HAFMFineConfig
from hafm_hf.modeling.layers import HAFMAttention
from hafm_hf.modeling.modeling_stage import HAFMStageForCausalLM
from hafm_hf.training.arguments import StageArguments
from hafm_hf.training.data import GlobalBatchSampler, TokenCrops, load_token_corpus
from hafm_hf.training.stages import stage_config

# the paper's tokens
_COARSE = HAFMCoarseConfig()
_FINE = HAFMFineConfig()
INFO = TokenCorpusInfo(
    semantic_frame_rate=_COARSE.conditioning_frame_rate,
    acoustic_frame_rate=_COARSE.frame_rate,
    num_clusters=_COARSE.conditioning_codebook_sizes[0][0],
    codebook_size=_COARSE.codebook_size,
    num_codebooks=_COARSE.num_codebooks + _FINE.num_codebooks,
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# length of the songs of FMA-Large
EXCERPT_SECONDS = 30.0


@dataclass(frozen=True)
class TrainingBenchmark:
    """What is measured; the defaults are the paper's semantic stage with 4 of its 12 layers, for a CPU.

    Args:
        stage: semantic, coarse or fine.
        hidden_size, num_hidden_layers, num_attention_heads: of all variants.
        position_scheme: index or time.
        crop_seconds: length of a crop; None means the paper's.
        batch: crops in a step.
        repeats: timed steps of each variant; the fastest counts.
        dtype: float32, or bfloat16 under autocast.
        device: as torch names it.
    """

    stage: str = "semantic"
    hidden_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    position_scheme: str = "index"
    crop_seconds: float | None = None
    batch: int = 2
    repeats: int = 5
    dtype: str = "float32"
    device: str = "cpu"


class UnbiasedAttention(HAFMAttention):
    """The stage's attention with PyTorch's fused causal kernel in place of a bias."""

    def forward(
        self, hidden_states: torch.Tensor, position_bias: Any, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """As HAFMAttention, with causal attention instead of the bias.

        Args:
            hidden_states (float [B, T, D]).
            position_bias ([1, 1, n_query, T]): only its shape is read: the last n_query of T slots are queries.

        Returns:
            float [B, n_query, D], and None: the kernel gives no attention weights.
        """
        batch, slots, _ = hidden_states.shape
        queries = position_bias.shape[2]
        query, key, value = self.qkv_proj(hidden_states).view(batch, slots, 3, -1, self.config.head_dim).unbind(2)
        if queries < slots:
            query = query[:, slots - queries :]
        query = self.q_norm(query).transpose(1, 2)  # [B, H, n_query, d]
        key = self.k_norm(key).transpose(1, 2)  # [B, H, T, d]
        value = value.transpose(1, 2)
        mask = None
        if queries < slots:
            # PyTorch's `is_causal` would align the first query, not the last, with its slot
            mask = torch.ones(queries, slots, dtype=torch.bool, device=query.device).tril(slots - queries)
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(output.transpose(1, 2).reshape(batch, queries, -1)), None


class NoBias(nn.Module):
    """Stands in for the relative bias: right in shape, without numbers or weights."""

    def forward(self, query: Any, key: Any, seen: torch.Tensor) -> torch.Tensor:
        """An expanded zero, float [1, 1, n_query, n_key], for as many query and key slots.

        Args:
            query, key: layouts of the slots (`SlotLayout`).
            seen: only its device is read.
        """
        return torch.zeros(1, device=seen.device).expand(1, 1, len(query.slot), len(key.slot))

    by_bucket = forward


def without_bias(stage: HAFMStageForCausalLM) -> HAFMStageForCausalLM:
    """Takes the relative bias out of a stage, in place, and returns it."""
    stage.model.add_module("relative_attention_bias", NoBias())
    for layer in stage.model.layers:
        layer.attention.__class__ = UnbiasedAttention
    return stage


def benchmark_training(options: TrainingBenchmark) -> dict[str, Any]:
    """Times training steps of a stage, of the stage without bias, and of MusicGen's decoder.

    Returns:
        "options"; "clock", what times are taken by; "variants", for each the "step_seconds" of the fastest step,
        "tokens_per_second" and "parameters"; "ratios" of the stage's speed to the others'; and "data_loading", the
        "seconds_per_step" of the loader and their "share_of_step".

    Raises:
        ValueError: for an unknown stage or dtype.
    """
    if options.dtype not in DTYPES:
        raise ValueError(f"dtype is {options.dtype!r}; choose one of {', '.join(DTYPES)}.")
    if options.stage not in stage_parts():
        raise ValueError(f"{options.stage!r} is not a stage; choose one of {', '.join(stage_parts())}.")
    seconds = options.crop_seconds or stage_parts()[options.stage].model_class.config_class().window_seconds
    arguments = StageArguments(
        stage=options.stage,
        hidden_size=options.hidden_size,
        num_hidden_layers=options.num_hidden_layers,
        num_attention_heads=options.num_attention_heads,
        head_dim=options.hidden_size // options.num_attention_heads,
        position_scheme=options.position_scheme,
    )
    config = stage_config(arguments, INFO, seconds)
    device = torch.device(options.device)
    frames = round(seconds * config.conditioning_frame_rate)

    steps, tokens, parameters = training_steps(config, frames, options, device)
    fastest = dict.fromkeys(steps, float("inf"))
    for turn in range(options.repeats + 1):
        for name, step in steps.items():
            elapsed = timed(step, device)
            if turn:  # the first turn warms up
                fastest[name] = min(fastest[name], elapsed)

    # target tokens a second
    speeds = {name: tokens / elapsed for name, elapsed in fastest.items()}
    loading = loading_seconds(config, seconds, options.batch, options.repeats)
    return {
        "options": {**asdict(options), "crop_seconds": seconds},
        "clock": clock(device)[0],
        "variants": {
            name: {"step_seconds": fastest[name], "tokens_per_second": speed, "parameters": parameters[name]}
            for name, speed in speeds.items()
        },
        "ratios": {
            "without_bias": speeds["relative_bias"] / speeds["without_bias"],
            "musicgen": speeds["relative_bias"] / speeds["musicgen"],
        },
        "data_loading": {"seconds_per_step": loading, "share_of_step": loading / fastest["relative_bias"]},
    }


def training_steps(
    config: Any, frames: int, options: TrainingBenchmark, device: torch.device
) -> tuple[dict[str, Callable[[], None]], int, dict[str, int]]:
    """Makes the variants and one fixed batch of random tokens.

    Args:
        config: the stage's.
        frames: of the conditioning.
        options: what is measured.
        device: for models and batch.

    Returns:
        By variant, a function that takes a training step; the number of target tokens of a step; and by variant, the
        number of parameters.
    """
    torch.manual_seed(0)
    stage_class = stage_parts()[options.stage].model_class
    rows = options.batch
    conditioning = torch.randint(
        min(config.conditioning_sizes),
        (rows, config.num_conditioning_streams, frames),
        device=device,
    )
    labels = torch.randint(config.codebook_size, (rows, config.target_length(frames)), device=device)
    conditioning_slots = config.num_prepended_sources * frames
    null = torch.zeros(rows, dtype=torch.bool, device=device)
    ours = {"conditioning_ids": conditioning, "labels": labels, "null_conditioning": null}
    # as many slots as the stage has for conditioning and target, all with MusicGen's tokens
    all_slots = torch.randint(config.codebook_size, (rows, conditioning_slots + labels.shape[1]), device=device)
    # −100: without loss
    theirs = {"input_ids": all_slots, "labels": F.pad(labels, (conditioning_slots, 0), value=-100)[..., None]}
    stage = stage_class(config)
    models = {
        "relative_bias": (stage, ours),
        "without_bias": (without_bias(stage_class(config)), ours),
        "musicgen": (musicgen_decoder(stage, all_slots.shape[1]), theirs),
    }
    steps = {
        name: training_step(model.to(device), batch, DTYPES[options.dtype]) for name, (model, batch) in models.items()
    }
    counts = {name: model.num_parameters() for name, (model, _) in models.items()}
    return steps, labels.numel(), counts


def training_step(model: PreTrainedModel, batch: dict[str, torch.Tensor], dtype: torch.dtype) -> Callable[[], None]:
    """A function that takes one optimiser step of a model over one batch.

    Args:
        model: put into training mode.
        batch: keyword arguments of its `forward`.
        dtype: of autocast; float32 means none.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        """A full optimiser step over the batch."""
        with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def clock(device: torch.device) -> tuple[str, Callable[[], float]]:
    """The clock that times are taken by: its name, and a function that reads it in seconds.

    On one CPU thread it is that thread's, so that waiting for the machine's other work doesn't count.
    """
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return "processor time of one thread", time.process_time
    return "wall clock", time.perf_counter


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds that `step` takes, the device's share included."""
    _, now = clock(device)
    begin = now()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now() - begin


def loading_seconds(config: Any, seconds: float, batch: int, repeats: int) -> float:
    """Seconds of the fastest reading of one batch, by the loader that training uses, from shards of random tokens.

    Args:
        config: the stage's.
        seconds: length of a crop.
        batch: crops in a batch.
        repeats: number of batches that are timed.
    """
    with tempfile.TemporaryDirectory() as name:
        write_random_corpus(Path(name))
        corpus, info = load_token_corpus(name, "train", Path(name) / "cache")
        crops = TokenCrops(corpus, info, config, seconds)
        sampler = GlobalBatchSampler(batch, last_step=repeats + 1)
        batches: Iterator[Any] = iter(DataLoader(crops, batch_sampler=sampler))
        next(batches)  # a warm-up, untimed
        times = []
        for _ in range(repeats):
            # the wall clock, because reading waits for the disk
            begin = time.perf_counter()
            next(batches)
            times.append(time.perf_counter() - begin)
        return min(times)


def write_random_corpus(folder: Path, shards: int = 2, rows: int = 32) -> None:
    """Writes a corpus of random tokens, always the same, to be read as the split "train".

    Args:
        folder: gets the shards, train-00000.parquet and so on.
        shards: number of shards.
        rows: number of excerpts in a shard, `EXCERPT_SECONDS` each.
    """
    generator = np.random.default_rng(0)
    semantic_frames = round(EXCERPT_SECONDS * INFO.semantic_frame_rate)
    codec_frames = round(EXCERPT_SECONDS * INFO.acoustic_frame_rate)

    def random_excerpt(track: str) -> TokenExcerpt:
        """An excerpt of random tokens, said to be of a track."""
        vocal = generator.integers(INFO.num_clusters, size=semantic_frames).astype(np.int16)
        instrumental = generator.integers(INFO.num_clusters, size=semantic_frames).astype(np.int16)
        codes = generator.integers(INFO.codebook_size, size=(INFO.num_codebooks, codec_frames)).astype(np.int16)
        return TokenExcerpt(track, 0.0, EXCERPT_SECONDS, vocal, instrumental, codes)

    for shard in range(shards):
        excerpts = [random_excerpt(f"{shard}-{row}") for row in range(rows)]
        write_shard(folder / f"train-{shard:05d}.parquet", excerpts, INFO)


def main(
    stage: Annotated[str, typer.Option(help="semantic, coarse or fine.")] = "semantic",
    hidden_size: Annotated[int, typer.Option(min=8, help="Width of all variants.")] = 512,
    num_hidden_layers: Annotated[int, typer.Option(min=1, help="Layers; the paper has 12.")] = 4,
    num_attention_heads: Annotated[int, typer.Option(min=1)] = 8,
    position_scheme: Annotated[str, typer.Option(help="index or time.")] = "index",
    crop_seconds: Annotated[float | None, typer.Option(help="The paper's for the stage if not given.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Crops in a step.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps of each variant; the fastest counts.")] = 5,
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 under autocast.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Training speed of a stage: with its relative bias, without any, and of MusicGen's decoder of the same size."""
    sizes = (hidden_size, num_hidden_layers, num_attention_heads)
    options = TrainingBenchmark(stage, *sizes, position_scheme, crop_seconds, batch, repeats, dtype, device)
    result = benchmark_training(options)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("variant", "parameters", "seconds", "target tokens/s", "relative bias is", title="fastest step")
    for name, variant in result["variants"].items():
        ratio = result["ratios"].get(name)
        table.add_row(
            name.replace("_", " "),
            f"{variant['parameters']:,}",
            f"{variant['step_seconds']:.3f}",
            f"{variant['tokens_per_second']:,.0f}",
            "" if ratio is None else f"{ratio:.2f} × as fast",
        )
    console = Console()
    console.print(table)
    loading = result["data_loading"]["share_of_step"]
    console.print(f"reading a batch takes {loading:.2%} of a step", markup=False)


if __name__ == "__main__":
    typer.run(main)
