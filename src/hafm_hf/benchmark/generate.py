# SPDX-License-Identifier: Apache-2.0
"""How fast a stage decodes and a song comes out: against our own reference loop, MusicGen's, and the memory's bound.

Steps are timed behind one context of a fixed length, as the difference of a long run and a short one. Variants go by
turns, and each counts with its fastest turn, so that what else the machine does falls on all of them alike; medians
say how much that was. MusicGen's decoder (transformers' `MusicgenForCausalLM` and its own `generate`, with guidance)
has the stage's width, layers and heads and a feed-forward of as many weights.
"""

import copy
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
from ..modeling.configuration_hafm import HAFMStageConfig
from ..modeling.fast_loop import FastDecoder
from ..modeling.modeling_hafm import STAGE_MODELS
from ..modeling.sampling import RandomStream
from ..modeling.stage_table import STAGES
from ..modeling.windows import DecodingOptions, decode_window
from .musicgen import musicgen_decoder

GUIDANCE_SCALE, TEMPERATURE, TOP_K = 3.0, 0.9, 250
VARIANTS = {
    "fast": DecodingOptions("fast", GUIDANCE_SCALE, TEMPERATURE, TOP_K),
    "fast_int8": DecodingOptions("fast", GUIDANCE_SCALE, TEMPERATURE, TOP_K, "int8"),
    "reference": DecodingOptions("reference", GUIDANCE_SCALE, TEMPERATURE, TOP_K),
}
# of fewer steps, the time is lost in what else the machine does
FEWEST_STEPS = 16
# of the buffer that is read to find the memory's bandwidth: more than any cache holds
BANDWIDTH_BYTES = 512 * 2**20
# of a glide (8 s), its pauses (3 s) and its vibrato (1 / 5.5 s), whole numbers of each
GLIDE_SECONDS = 24.0
# of the song that is generated under torch's profiler
PROFILED_SECONDS = 4.0


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
        if self.stage not in STAGES:
            raise ValueError(f"{self.stage!r} is no stage; choose one of {', '.join(STAGES)}.")
        if self.rows < 2 or self.rows % 2:
            raise ValueError(f"rows is {self.rows}; guidance doubles the rows, so it must be even.")
        if self.steps < FEWEST_STEPS:
            raise ValueError(f"steps is {self.steps}; fewer than {FEWEST_STEPS} cannot be timed.")


@torch.no_grad()
def benchmark_decoding(options: DecodingBenchmark) -> dict[str, Any]:
    """Milliseconds a step: {"options", "threads", "variants", "ratios", "bound_milliseconds", "bandwidth_gb_s"}.

    For a variant: "milliseconds_per_step" and "tokens_per_second" of the fastest turn, "median_milliseconds_per_step",
    and "window_start_milliseconds", what a window costs before its second token.

    Ratios say how many times faster than MusicGen a variant is. A figure that no turn could tell is None.
    """
    stage = _stage(options)
    turns = take_turns(_runs(stage, options), options.steps, options.repeats)
    codes = options.rows // 2 * stage.pattern.rows
    variants = {name: _figures(taken, options.steps, codes) for name, taken in turns.items()}
    fastest = {name: figures["milliseconds_per_step"] for name, figures in variants.items()}
    musicgen = fastest.pop("musicgen")
    bandwidth = memory_bandwidth()
    weights = sum(p.numel() * p.element_size() for p in stage.model.layers.parameters())
    return {
        "options": {**asdict(options), "pattern": stage.config.codebook_pattern},
        "threads": torch.get_num_threads(),
        "variants": variants,
        "ratios": {name: musicgen / value if musicgen and value else None for name, value in fastest.items()},
        "bandwidth_gb_s": bandwidth / 1e9,
        "bound_milliseconds": 1e3 * weights / bandwidth,
    }


def take_turns(
    runs: Mapping[str, Callable[[int], Any]], steps: int, repeats: int
) -> dict[str, dict[int, list[float]]]:
    """Seconds of every turn, for each variant and number of steps: one, and all. A run of all goes before, untimed."""
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
    """Milliseconds a step.

    Args:
        short: seconds of one step, for each turn. The difference leaves out what a window costs once: the context's
            pass, the packing of weights.
        long: seconds of `steps` steps, for each turn.
        steps: more than one.
        typical: of the turns, of either kind: a hiccup in one run must not make the steps of another shorter.

    Returns:
        None where that is not above zero, which tells nothing of a step.
    """
    found = 1e3 * (typical(long) - typical(short)) / (steps - 1)
    return found if found > 0 else None


def _figures(taken: Mapping[int, Sequence[float]], steps: int, codes: int) -> dict[str, float | None]:
    """What is told of a variant, from the seconds of its turns by number of steps, and the codes of a step."""
    short, long = taken[1], taken[steps]
    fastest, median = (step_milliseconds(short, long, steps, typical) for typical in (min, statistics.median))
    return {
        "milliseconds_per_step": fastest,
        "median_milliseconds_per_step": median,
        "tokens_per_second": None if fastest is None else 1e3 / fastest * codes,
        "window_start_milliseconds": 1e3 * min(short),
    }


def _stage(options: DecodingBenchmark) -> Any:
    if options.model is not None:
        stage = getattr(HAFMForVocalAccompaniment.from_pretrained(options.model or None), options.stage)
        return stage if options.pattern in (None, stage.config.codebook_pattern) else untrained(stage, options.pattern)
    torch.manual_seed(0)
    made = STAGE_MODELS[options.stage]
    return made(made.config_class(codebook_pattern=options.pattern or "flat")).eval()


def untrained(stage: Any, pattern: str, fusion: str | None = None) -> Any:
    """A stage with random weights of another one's size, rates and generation, in a codebook pattern.

    `fusion` of the conditioning is the other one's if None.
    """
    kept = {name: value for name, value in stage.config.to_dict().items() if name != "dtype"}
    changed = {"codebook_pattern": pattern} | ({} if fusion is None else {"conditioning_fusion": fusion})
    torch.manual_seed(0)
    made = type(stage)(type(stage.config)(**kept | changed)).eval()
    made.generation_config = copy.deepcopy(stage.generation_config)
    return made


def _runs(stage: Any, options: DecodingBenchmark) -> dict[str, Callable[[int], Any]]:
    """Each variant as a function of the number of steps."""
    config: HAFMStageConfig = stage.config
    batch = options.rows // 2
    generator = torch.Generator().manual_seed(1)
    sources = config.num_prepended_sources
    frames = max(
        min(options.context // max(sources, 1), round(config.window_seconds * config.conditioning_frame_rate)), 1
    )
    known_count = max(options.context - sources * frames - 1, 0)
    conditioning = torch.randint(
        min(config.conditioning_sizes), (batch, config.num_conditioning_streams, frames), generator=generator
    )
    # of each slot, so that under the delay pattern these are frames
    codes = stage.pattern.rows
    known = torch.randint(min(config.codebook_sizes), (batch, known_count * codes), generator=generator)
    uniforms = torch.stack([RandomStream(1, sample=row).uniforms(0, options.steps * codes) for row in range(batch)])

    def ours(model: Any, how: DecodingOptions) -> Callable[[int], Any]:
        return lambda steps: decode_window(
            model, conditioning, steps * codes, uniforms[:, : steps * codes], how, known
        )

    runs = {name: ours(stage, how) for name, how in VARIANTS.items()}
    if options.bfloat16:
        # weights that bfloat16 can hold, computed with in bfloat16 and in float32
        for name, dtype in (("fast_bfloat16", torch.bfloat16), ("fast_stored_in_bfloat16", torch.float32)):
            runs[name] = ours(copy.deepcopy(stage).bfloat16().to(dtype), VARIANTS["fast"])
    context = torch.randint(config.codebook_size, (batch * codes, options.context), generator=generator)
    runs["musicgen"] = musicgen_run(musicgen_decoder(stage, options.context + options.steps + 8).eval(), context)
    return runs


def musicgen_run(decoder: PreTrainedModel, context: torch.Tensor) -> Callable[[int], Any]:
    """MusicGen's own `generate` with guidance behind `context` (int64 [B·C, n]), as a function of the steps.

    The context's keys and values are given to it. By itself transformers (5.23) makes an empty cache first and then
    takes of the context no more than the last token, which is no step behind n slots.
    """
    cached = decoder(input_ids=context[:, :-1].repeat(2, 1), use_cache=True).past_key_values

    def run(steps: int) -> torch.Tensor:
        return decoder.generate(  # type: ignore[operator]
            input_ids=context,
            attention_mask=torch.ones_like(context),
            past_key_values=copy.deepcopy(cached),
            guidance_scale=GUIDANCE_SCALE,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=TOP_K,
            # its last codebook, too, ends that many slots behind the first
            max_new_tokens=steps + decoder.config.num_codebooks - 1,
            pad_token_id=decoder.config.pad_token_id,
            decoder_start_token_id=decoder.config.bos_token_id,
            num_return_sequences=1,
        )

    return run


def memory_bandwidth(repeats: int = 5) -> float:
    """Bytes a second at which torch's threads read memory."""
    buffer = torch.ones(BANDWIDTH_BYTES // 4)
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        buffer.sum()
        best = min(best, time.perf_counter() - begin)
    return BANDWIDTH_BYTES / best


class RecordingDecoder(FastDecoder):
    """The fast loop, which also keeps the guided scores of every step in `scores`, float [B, V] each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.static = False  # a graph would run through `limited` when it is captured only
        self.scores: list[torch.Tensor] = []

    def limited(self, scores: torch.Tensor, target: int) -> torch.Tensor:
        self.scores.append(scores.float())
        return super().limited(scores, target)


@torch.no_grad()
def benchmark_precision(model: str | None, seconds: float = 3.0) -> dict[str, dict[str, dict[str, float]]]:
    """What precisions beside float32 do to a stage's guided scores, along the tokens of a generated song.

    Args:
        model: folder or hub id; the bundled hafm-tiny if None.
        seconds: length of the vocal.

    Returns:
        For each stage and precision ("int8", "bfloat16"): "max_logit_error" and "mean_kl", the mean over the steps of
        the Kullback-Leibler divergence from the distribution in float32, in nats, at the stage's temperature.
    """
    composite = HAFMForVocalAccompaniment.from_pretrained(model or None)
    halves = HAFMForVocalAccompaniment.from_pretrained(model or None, dtype=torch.bfloat16)
    song = composite.generate(glide(seconds, composite.sampling_rate), composite.sampling_rate, seed=1)
    coarse = composite.coarse.config.num_codebooks
    streams = {"coarse": song.codes[0][:coarse], "fine": song.codes[0][coarse:]}
    streams |= {name: getattr(song, name)[0][None] for name in ("vocal_semantic", "instrumental_semantic")}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, stage in composite.stages.items():
        tokens = streams[STAGES[name].writes].t().flatten()[None]
        conditioning = torch.cat([streams[each] for each in STAGES[name].reads])
        options = {"guidance_scale": GUIDANCE_SCALE, "temperature": TEMPERATURE}
        exact = RecordingDecoder(stage, **options)
        others = {
            "int8": RecordingDecoder(stage, weights="int8", **options),
            "bfloat16": RecordingDecoder(getattr(halves, name), **options),
        }
        for decoder in (exact, *others.values()):
            decoder.generate(conditioning[None], tokens.shape[1], None, forced=tokens)
        found[name] = {key: _apart(exact.scores, decoder.scores) for key, decoder in others.items()}
    return found


def _apart(exact: list[torch.Tensor], other: list[torch.Tensor]) -> dict[str, float]:
    wanted, found = torch.cat(exact), torch.cat(other)
    logs = [(scores / TEMPERATURE).log_softmax(-1) for scores in (wanted, found)]
    divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()
    return {"max_logit_error": float((wanted - found).abs().max()), "mean_kl": float(divergence)}


def benchmark_song(
    model: str | None,
    seconds: float,
    decoding: str = "fast",
    weights: str | None = None,
    num_samples: int = 1,
    threads: int | None = None,
    pattern: str | None = None,
) -> dict[str, Any]:
    """The whole path once, from loading to sound, and once more under torch's profiler.

    Args:
        model: folder or hub id; the bundled hafm-tiny if None or empty.
        seconds: length of the vocal, a glide with pauses.
        decoding, weights, num_samples, threads: as for `generate`.
        pattern: as for `DecodingBenchmark`, of the coarse and the fine stage.

    Returns:
        "seconds", "samples", "threads", "pattern"; "load_seconds" (start-up after imports), "elapsed_seconds",
        "real_time_factor" (a sample), "tokens_per_second" (of all stages and samples); "stages" and
        "tokenizer_and_codec", seconds a second of the vocal; "peak_gib" and "loaded_gib", the process' peak until
        the end and until the model was loaded; "parts", seconds of "listening", each stage, the "codec" and "other";
        "outside_kernels", the share of the whole outside torch's operations, at most: the profiler's own is in it.
    """
    begin = time.perf_counter()
    composite = HAFMForVocalAccompaniment.from_pretrained(model or None)
    if pattern is not None:
        for name in [name for name in composite.stages if STAGES[name].acoustic]:
            setattr(composite, name, untrained(getattr(composite, name), pattern))
    loaded, loaded_gib = time.perf_counter(), _peak_gib()
    vocal = glide(seconds, composite.sampling_rate)
    how: dict[str, Any] = {"decoding": decoding, "weights": weights, "num_samples": num_samples, "threads": threads}
    parts = _song_parts(composite, vocal, how)
    elapsed, peak = sum(parts.values()), _peak_gib()
    stages = {name: parts[name] for name in composite.stages}
    configs = [getattr(composite, name).config for name in stages]
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
        "stages": {name: value / seconds for name, value in stages.items()},
        "tokenizer_and_codec": (elapsed - sum(stages.values())) / seconds,
        "peak_gib": peak,
        "loaded_gib": loaded_gib,
        "parts": parts,
        "outside_kernels": _outside_kernels(
            composite, vocal[: round(PROFILED_SECONDS * composite.sampling_rate)], how
        ),
    }


def _song_parts(composite: Any, vocal: np.ndarray, how: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of the parts of a song: what the composite does itself, between its own reports."""
    spent = {"listening": 0.0, "codec": 0.0}
    ended: dict[str, float] = {}
    reached: dict[str, int] = {}
    hear, decode = composite.hear_voice, composite._decode

    def listening(*given: Any) -> Any:
        began = time.perf_counter()
        heard = hear(*given)
        ended["listening"] = time.perf_counter()
        spent["listening"] += ended["listening"] - began
        return heard

    def decoding(*given: Any) -> list[Any]:
        began = time.perf_counter()
        decoded = list(decode(*given))
        spent["codec"] += time.perf_counter() - began
        return decoded

    def progress(stage: str, done: int, total: int) -> None:
        # the last report is repeated while the codec computes
        if done > reached.get(stage, 0):
            reached[stage], ended[stage] = done, time.perf_counter()

    composite.hear_voice, composite._decode = listening, decoding
    began = time.perf_counter()
    try:
        composite.generate(vocal, composite.sampling_rate, seed=1, progress=progress, **how)
    finally:
        del composite.hear_voice, composite._decode
    whole = time.perf_counter() - began
    order = ["listening", *composite.stages]
    stages = {name: ended[name] - ended[before] for before, name in pairwise(order)}
    return {**spent, **stages, "other": whole - sum(spent.values()) - sum(stages.values())}


def _outside_kernels(composite: Any, vocal: np.ndarray, how: Mapping[str, Any]) -> float:
    """The share of a song's seconds in which no operation of torch runs."""
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        composite.generate(vocal, composite.sampling_rate, seed=1, **how)
        whole = time.perf_counter() - began
    covered = until = 0
    # as recorded, by their beginnings: torch's summary of them would take longer than the song
    for start, length in sorted(
        (each.start_ns(), each.duration_ns()) for each in found.profiler.kineto_results.events()
    ):
        covered += max(start + length - max(start, until), 0)
        until = max(until, start + length)
    return 1 - covered / 1e9 / whole


def _peak_gib() -> float:
    """Most memory that the process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def glide(seconds: float, rate: int) -> np.ndarray:
    """Something like a voice, float32 [N]: a vibrating tone that glides through an octave, with pauses.

    It repeats itself, so that an hour of it takes no more memory than an hour of sound.
    """
    moment = np.arange(round(GLIDE_SECONDS * rate)) / rate
    pitch = 220.0 * 2 ** (0.5 * np.sin(2 * np.pi * moment / 8.0) + 0.02 * np.sin(2 * np.pi * 5.5 * moment))
    tone = sum(np.sin(k * 2 * np.pi * np.cumsum(pitch) / rate) / k for k in range(1, 6))
    once = (0.2 * tone * (np.sin(2 * np.pi * moment / 3.0) > -0.6)).astype(np.float32)
    return np.resize(once, round(seconds * rate))
