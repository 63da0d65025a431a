# SPDX-License-Identifier: Apache-2.0
"""How fast a stage decodes: against the reference loop, MusicGen's decoder, and the bound set by memory bandwidth.

cd recipes && python -m benchmarks.decoding --rows 2 --steps 60 --repeats 4 --threads 1

Steps are timed after a context of a fixed length, as the difference of a long run and a short one. The loops take
turns, and the fastest turn of each counts, so that other work on the machine affects all of them alike; medians show
how much there was. MusicGen's decoder (transformers' `MusicgenForCausalLM` and its own `generate`, with guidance) has
the stage's width, layers and heads and a feed-forward of as many weights.

A slot is a position in a stage's sequence; a step decodes one. A step has two rows for each song of the batch, because
guidance needs one with and one without the conditioning.
"""

import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import GenerationConfig, MusicgenForCausalLM, PreTrainedModel
from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

from hafm_hf.accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
from hafm_hf.accompaniment.parts import stage_parts
from hafm_hf.modeling.configuration_stage import HAFMStageConfig
from hafm_hf.modeling.fast_loop import FastGenerator
from hafm_hf.modeling.sampling import RandomNumbers, StepReport, WindowBatch

GUIDANCE_SCALE = 3.0
TEMPERATURE = 0.9
TOP_K = 250
# with fewer steps, their time is lost in the machine's other work
FEWEST_STEPS = 16
# rows of a song in a step: with and without its conditioning
ROWS_PER_SONG = 2
# slots of MusicGen's decoder beyond those of the stage: its last codebook ends after the first (`musicgen_run`)
EXTRA_SLOTS = 8
# size of the buffer that is read to measure memory bandwidth: larger than any cache
BANDWIDTH_BYTES = 512 * 2**20


@dataclass(frozen=True)
class DecodingBenchmark:
    """What is measured; the defaults are the paper's coarse stage.

    Args:
        stage: semantic, coarse or fine.
        model: composite whose stage is taken; None makes one of the paper's size with random weights.
        pattern: codebook pattern; a stage of the model's size with random weights takes the place of one of another.
        rows: rows of a step, those of guidance included.
        context: slots before the first new token, conditioning included.
        steps: new slots, at least 16.
        repeats: turns; the fastest counts.
        bfloat16: whether the fast loop is also timed in bfloat16, and in float32 with weights that were stored in
            bfloat16, as `assemble` stores them ("fast_stored_in_bfloat16").

    Raises:
        ValueError: for an unknown stage, rows that guidance cannot halve, or too few steps.
    """

    stage: str = "coarse"
    model: str | None = None
    pattern: str | None = None
    rows: int = 2
    context: int = 500
    steps: int = 40
    repeats: int = 5
    bfloat16: bool = True

    def __post_init__(self) -> None:
        """Rejects what cannot be measured."""
        if self.stage not in stage_parts():
            raise ValueError(f"{self.stage!r} is not a stage; choose one of {', '.join(stage_parts())}.")
        if self.rows < ROWS_PER_SONG or self.rows % ROWS_PER_SONG:
            raise ValueError(f"rows is {self.rows}; guidance doubles the rows, so it must be even, and at least 2.")
        if self.steps < FEWEST_STEPS:
            raise ValueError(f"steps is {self.steps}; fewer than {FEWEST_STEPS} cannot be timed.")


@torch.no_grad()
def benchmark_decoding(options: DecodingBenchmark) -> dict[str, Any]:
    """Times the decoding loops of a stage, and MusicGen's.

    Returns:
        "options" and "threads"; "variants", for each loop "milliseconds_per_step" and "tokens_per_second" of the
        fastest turn, "median_milliseconds_per_step", and "window_start_milliseconds", what a window costs before its
        second token; "ratios", how many times faster than MusicGen a loop is; "bandwidth_gb_s" of the memory; and
        "bound_milliseconds", in which a step's weights can be read. Figures of a step are None if other work on the
        machine has hidden its time (`step_milliseconds`).
    """
    stage = _stage(options)
    turns = take_turns(_runs(stage, options), options.steps, options.repeats)
    codes_per_step = options.rows // ROWS_PER_SONG * stage.pattern.codes_per_slot
    variants = {name: _figures(seconds, options.steps, codes_per_step) for name, seconds in turns.items()}
    fastest = {name: figures["milliseconds_per_step"] for name, figures in variants.items()}
    musicgen = fastest.pop("musicgen")
    bandwidth = memory_bandwidth()  # bytes a second
    weight_bytes = sum(weight.numel() * weight.element_size() for weight in stage.model.layers.parameters())
    return {
        "options": {**asdict(options), "pattern": stage.config.codebook_pattern},
        "threads": torch.get_num_threads(),
        "variants": variants,
        "ratios": {name: musicgen / value if musicgen and value else None for name, value in fastest.items()},
        "bandwidth_gb_s": bandwidth / 1e9,
        "bound_milliseconds": 1e3 * weight_bytes / bandwidth,
    }


class _Enough(Exception):
    """Ends a decoding loop."""


def first_steps(loop: Callable[[StepReport], Any], steps: int) -> None:
    """Runs a decoding loop until it has made `steps` steps, and stops it there.

    Args:
        loop: gets a function to call after new steps, with their number.
        steps: after so many, that function ends the loop by an exception.
    """
    done = 0

    def report(new: int) -> None:
        """Counts new steps, and ends the loop when they are enough."""
        nonlocal done
        done += new
        if done >= steps:
            raise _Enough

    with suppress(_Enough):
        loop(report)


def take_turns(
    runs: Mapping[str, Callable[[int], Any]], steps: int, repeats: int
) -> dict[str, dict[int, list[float]]]:
    """Times the variants in turns: of each, a run of one step and a long one.

    Args:
        runs: a function for each variant, which runs a number of steps.
        steps: of a long run; each variant has one before the first turn, untimed.
        repeats: number of turns.

    Returns:
        By variant and number of steps (1 and `steps`): the seconds of the run in every turn.
    """
    for run in runs.values():
        run(steps)
    turns: dict[str, dict[int, list[float]]] = {name: {1: [], steps: []} for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            for length, taken in turns[name].items():
                begin = time.perf_counter()
                run(length)
                taken.append(time.perf_counter() - begin)
    return turns


def step_milliseconds(
    short: Sequence[float], long: Sequence[float], steps: int, typical: Callable[[Sequence[float]], float]
) -> float | None:
    """Milliseconds a step, from the difference of long and short runs.

    The difference leaves out what a window costs once: the pass over the context, and the packing of weights.

    Args:
        short: seconds of one step, for each turn.
        long: seconds of `steps` steps, for each turn.
        steps: more than one.
        typical: the typical value of all turns, such as `min`. It is taken of short and long runs separately, so that
            a delay in a short run does not shorten the steps of the long run of the same turn.

    Returns:
        None if the difference is not above zero, because other work on the machine has hidden it.
    """
    milliseconds = 1e3 * (typical(long) - typical(short)) / (steps - 1)
    return milliseconds if milliseconds > 0 else None


def _figures(seconds: Mapping[int, Sequence[float]], steps: int, codes: int) -> dict[str, float | None]:
    """The figures of a variant, by the names that `benchmark_decoding` describes.

    Args:
        seconds: of its turns, by number of steps: 1 and `steps`.
        steps: of a long run.
        codes: number of codes that a step generates.
    """
    seconds_of_one = seconds[1]
    seconds_of_all = seconds[steps]
    fastest = step_milliseconds(seconds_of_one, seconds_of_all, steps, min)
    median = step_milliseconds(seconds_of_one, seconds_of_all, steps, statistics.median)
    return {
        "milliseconds_per_step": fastest,
        "median_milliseconds_per_step": median,
        "tokens_per_second": None if fastest is None else 1e3 / fastest * codes,
        "window_start_milliseconds": 1e3 * min(seconds_of_one),
    }


def _stage(options: DecodingBenchmark) -> Any:
    """The stage to measure: a model's, or an untrained one of that size if the model's has another pattern.

    Without a model it is untrained, in the paper's size.
    """
    if options.model is not None:
        # "" is the bundled model
        stage = getattr(HAFMForVocalAccompaniment.from_pretrained(options.model or None), options.stage)
        if options.pattern in (None, stage.config.codebook_pattern):
            return stage
        return untrained(stage, options.pattern)
    torch.manual_seed(0)
    stage_class = stage_parts()[options.stage].model_class
    return stage_class(stage_class.config_class(codebook_pattern=options.pattern or "flat")).eval()


def untrained(stage: Any, pattern: str, fusion: str | None = None) -> Any:
    """A stage with random weights, in the size, at the rates and with the generation settings of another.

    Args:
        stage: the other one.
        pattern: codebook pattern of the new one.
        fusion: of its conditioning; None: the other one's.
    """
    values = {name: value for name, value in stage.config.to_dict().items() if name != "dtype"}
    values["codebook_pattern"] = pattern
    if fusion is not None:
        values["conditioning_fusion"] = fusion
    torch.manual_seed(0)
    random_stage = type(stage)(type(stage.config)(**values)).eval()
    random_stage.generation_config = copy.deepcopy(stage.generation_config)
    return random_stage


def _runs(stage: Any, options: DecodingBenchmark) -> dict[str, Callable[[int], Any]]:
    """Each decoding loop by name, as a function that runs a number of steps with random conditioning and context.

    Args:
        stage: the stage, with its weights.
        options: what is measured.
    """
    config: HAFMStageConfig = stage.config
    batch = options.rows // ROWS_PER_SONG  # songs
    generator = torch.Generator().manual_seed(1)

    # the context's slots: prepended conditioning, one for BOS, and the target's known frames
    sources = config.num_prepended_sources
    whole_window = round(config.window_seconds * config.conditioning_frame_rate)
    frames = max(min(options.context // max(sources, 1), whole_window), 1)
    conditioning = torch.randint(
        min(config.conditioning_sizes), (batch, config.num_conditioning_streams, frames), generator=generator
    )
    known_frames = max(options.context - sources * frames - 1, 0) // stage.pattern.slots_per_frame
    known = torch.randint(min(config.codebook_sizes), (batch, config.num_codebooks, known_frames), generator=generator)
    new_frames = math.ceil(options.steps / stage.pattern.slots_per_frame)
    uniforms = [RandomNumbers(1, variation=row).of_frames(0, new_frames, config.num_codebooks) for row in range(batch)]
    window = WindowBatch(conditioning, new_frames, torch.stack(uniforms), known)

    def fast(model: Any) -> Callable[[int], Any]:
        """The fast loop of a stage."""

        # a new decoder each time, as for each song: packing its weights is part of a window's start
        def loop(report: StepReport) -> torch.Tensor:
            return FastGenerator(model, _settings(model)).codes(window, report)

        return partial(first_steps, loop)

    runs = {
        "fast": fast(stage),
        "reference": lambda steps: first_steps(
            lambda report: stage.continue_batch(window, _settings(stage), report), steps
        ),
    }
    if options.bfloat16:
        # weights that bfloat16 can hold, computed with in bfloat16 and in float32
        for name, dtype in (("fast_bfloat16", torch.bfloat16), ("fast_stored_in_bfloat16", torch.float32)):
            runs[name] = fast(copy.deepcopy(stage).bfloat16().to(dtype))
    codes = stage.pattern.codes_per_slot
    context = torch.randint(config.codebook_size, (batch * codes, options.context), generator=generator)
    musicgen = musicgen_decoder(stage, options.context + options.steps + EXTRA_SLOTS).eval()
    runs["musicgen"] = musicgen_run(musicgen, context)
    return runs


def _settings(stage: Any) -> GenerationConfig:
    """How all loops of this module sample."""
    return stage.decoding_config(guidance_scale=GUIDANCE_SCALE, temperature=TEMPERATURE, top_k=TOP_K)


def musicgen_decoder(stage: Any, slots: int) -> PreTrainedModel:
    """MusicGen's decoder in a stage's width, layers and heads, with random weights.

    Args:
        stage: the stage; a slot of the decoder has as many codes as one of the stage's.
        slots: the longest sequence.
    """
    config = stage.config
    return MusicgenForCausalLM(
        MusicgenDecoderConfig(
            vocab_size=config.codebook_size,
            max_position_embeddings=slots,
            num_hidden_layers=config.num_hidden_layers,
            ffn_dim=4 * config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            hidden_size=config.hidden_size,
            num_codebooks=stage.pattern.codes_per_slot,
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            layerdrop=0.0,
            pad_token_id=config.codebook_size,
            bos_token_id=config.codebook_size,
        )
    )


def musicgen_run(decoder: PreTrainedModel, context: torch.Tensor) -> Callable[[int], Any]:
    """MusicGen's own `generate` with guidance after a context, as a function of the number of steps.

    It gets a cache with the context's keys and values. Without that, transformers (5.23) makes an empty one and then
    reads the context's last token only, so that steps would attend to almost nothing.

    Args:
        decoder: as `musicgen_decoder` makes it.
        context (int64 [songs · codebooks, slots]): codes before the first new one.
    """
    cached = decoder(input_ids=context[:, :-1].repeat(ROWS_PER_SONG, 1), use_cache=True).cache

    def run(steps: int) -> torch.Tensor:
        """Generates codes in a number of steps after the context."""
        return decoder.generate(
            input_ids=context,
            attention_mask=torch.ones_like(context),
            cache=copy.deepcopy(cached),
            guidance_scale=GUIDANCE_SCALE,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=TOP_K,
            # the last codebook ends num_codebooks − 1 slots after the first
            max_new_tokens=steps + decoder.config.num_codebooks - 1,
            pad_token_id=decoder.config.pad_token_id,
            decoder_start_token_id=decoder.config.bos_token_id,
            num_return_sequences=1,
        )

    return run


def memory_bandwidth(repeats: int = 5) -> float:
    """Bytes a second at which torch's threads read memory, in the fastest of `repeats` sums of a large buffer."""
    buffer = torch.ones(BANDWIDTH_BYTES // torch.float32.itemsize, dtype=torch.float32)
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        buffer.sum()
        best = min(best, time.perf_counter() - begin)
    return BANDWIDTH_BYTES / best


def main(
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
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Decoding speed of a stage against MusicGen's decoder and the bound set by memory."""
    torch.set_num_threads(threads)
    benchmarks = [
        DecodingBenchmark(stage, model, one_pattern, number, context, steps, repeats)
        for one_pattern in pattern or (None,)
        for number in rows or [2]
    ]
    results = [benchmark_decoding(options) for options in benchmarks]
    if as_json:
        typer.echo(json.dumps(results))
        return
    for result in results:
        show_decoding(result)


def show_decoding(result: dict[str, Any]) -> None:
    """Prints the result of `benchmark_decoding` as a table, the fastest loop first."""
    options = result["options"]
    title = f"{options['stage']}, {options['pattern']}, {options['rows']} rows, {result['threads']} threads"
    table = Table("loop", "ms a step", "median", "tokens/s", "× MusicGen", title=title, title_justify="left")
    formats = {"milliseconds_per_step": ".2f", "median_milliseconds_per_step": ".2f", "tokens_per_second": ",.0f"}
    variants = result["variants"].items()
    for name, variant in sorted(variants, key=lambda item: item[1]["milliseconds_per_step"] or math.inf):
        figures = [_figure(variant[key], digits) for key, digits in formats.items()]
        ratio = _figure(result["ratios"][name], ".2f") if name in result["ratios"] else ""
        table.add_row(name.replace("_", " "), *figures, ratio)
    console = Console()
    console.print(table)
    console.print(
        f"reading the weights once takes {result['bound_milliseconds']:.2f} ms at {result['bandwidth_gb_s']:.1f} GB/s",
        markup=False,
    )


def _figure(value: float | None, digits: str) -> str:
    """A figure in a format; a dash for None."""
    return "–" if value is None else format(value, digits)


if __name__ == "__main__":
    typer.run(main)
