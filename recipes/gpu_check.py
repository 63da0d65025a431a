# SPDX-License-Identifier: Apache-2.0
"""Checks and times everything on a GPU in under ten minutes: logits, tokens, decoding steps, a song, training.

python recipes/gpu_check.py --out gpu_check.json
python recipes/gpu_check.py --device cpu --tiny --out check.json     # what a CPU can run, in tiny sizes

At the end, it prints a table to paste into an issue, along with the JSON. Weights are random: neither speed nor the
agreement of two decoding loops depends on training. The JSON has a key for each part; for a part that did not run, its
value says why ("not measured: …"). Exit codes: 0 done, 1 a part failed or found an error (see its key), 3 the device
is not available.
"""

import json
import math
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import EncodecConfig, HubertConfig

import hafm_hf
from benchmarks.decoding import first_steps, step_milliseconds, take_turns
from benchmarks.song import glide
from benchmarks.training import write_random_corpus
from hafm_hf import HAFMConfig, HAFMForVocalAccompaniment, HAFMSemanticTokenizerConfig
from hafm_hf.accompaniment.parts import stage_parts
from hafm_hf.modeling.codebook_patterns import as_tokens
from hafm_hf.modeling.configuration_stage import CODEBOOK_PATTERNS
from hafm_hf.modeling.fast_loop import FastGenerator
from hafm_hf.modeling.sampling import StepReport, WindowBatch
from hafm_hf.training.arguments import parse_arguments
from hafm_hf.training.recipe import make_trainer

NO_DEVICE = 3
# the semantic stage has a single codebook, for which patterns do not differ
STAGES_AND_PATTERNS = (("semantic", "flat"), *product(("coarse", "fine"), CODEBOOK_PATTERNS))
GUIDANCE_SCALE = 3.0
# rows of a song in a step: with and without its conditioning
ROWS_PER_SONG = 2
# turns of each decoding loop; the fastest counts
TURNS = 2
# logits of random weights are around 1; summing float32 in another order changes them by some 1e-5
LOGITS_TOLERANCE = 1e-3
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
TINY_HUBERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TINY_CODEC = {"num_filters": 4, "hidden_size": 8, "codebook_dim": 8, "num_lstm_layers": 1, "target_bandwidths": [6.0]}


@dataclass(frozen=True)
class Check:
    """The device and sizes to check.

    Args:
        device: torch's.
        tiny: whether models are tiny instead of the paper's size.
        rows: batch sizes of timed steps, rows of guidance included.
        slots: to decode.
        song_seconds: length of a song.
        training_steps: of the trainer.
        end: time (`time.monotonic`) after which no part starts and songs stop.
    """

    device: torch.device
    tiny: bool
    rows: tuple[int, ...]
    slots: int
    song_seconds: float
    training_steps: int
    end: float

    @property
    def graphs(self) -> bool:
        """Whether this device supports CUDA graphs."""
        return self.device.type == "cuda"

    def stage(self, name: str, pattern: str) -> Any:
        """The stage `name` (semantic, coarse, fine) with random weights; `pattern` is of its codebooks, if several."""
        stage_class = stage_parts()[name].model_class
        options: dict[str, Any] = dict(TINY) if self.tiny else {}
        if stage_parts()[name].acoustic:
            options["codebook_pattern"] = pattern
        torch.manual_seed(0)
        return stage_class(stage_class.config_class(**options)).eval().to(self.device)

    def wait(self) -> None:
        """Waits until the device has finished all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def finish(self, loop: Callable[[StepReport], Any], steps: int) -> None:
        """Runs the first steps of a decoding loop and waits until the device has finished."""
        first_steps(loop, steps)
        self.wait()


def window(stage: Any, rows: int, slots: int) -> WindowBatch:
    """A window with random conditioning, to decode greedily.

    Args:
        stage: decodes it.
        rows: of a step, half of them for guidance.
        slots: at least so many are decoded.
    """
    config = stage.config
    batch = rows // ROWS_PER_SONG  # songs
    generator = torch.Generator().manual_seed(1)
    frames = round(config.window_seconds * config.conditioning_frame_rate)
    shape = (batch, config.num_conditioning_streams, frames)
    conditioning = torch.randint(min(config.conditioning_sizes), shape, generator=generator).to(stage.device)
    return WindowBatch(conditioning, math.ceil(slots / stage.pattern.slots_per_frame))


def decoder(stage: Any, compiled: bool) -> FastGenerator:
    """The fast decoding loop of a stage, with guidance; as a CUDA graph if `compiled`."""
    return FastGenerator(stage, stage.decoding_config(guidance_scale=GUIDANCE_SCALE), compiled)


def check_logits(check: Check) -> Any:
    """Compares this device's float32 logits with the CPU's.

    Returns:
        The largest absolute difference by stage and pattern; "failed" says whether one is above `LOGITS_TOLERANCE`.
    """
    differences: dict[str, Any] = {}
    for name, pattern in STAGES_AND_PATTERNS:
        stage = check.stage(name, pattern)
        config = stage.config
        generator = torch.Generator().manual_seed(2)
        frames = round(config.window_seconds * config.conditioning_frame_rate)
        inputs = {
            "labels": torch.randint(
                config.codebook_size, (2, check.slots * len(config.codebook_sizes)), generator=generator
            ),
            "conditioning_ids": torch.randint(
                min(config.conditioning_sizes), (2, config.num_conditioning_streams, frames), generator=generator
            ),
        }
        with torch.inference_mode():
            on_device = stage(**{key: value.to(check.device) for key, value in inputs.items()}).logits.float().cpu()
            on_cpu = stage.cpu()(**inputs).logits.float()
        differences[f"{name}, {pattern}"] = float((on_device - on_cpu).abs().max())
    # not "greater than", so that NaN fails, too
    differences["failed"] = not max(differences.values()) <= LOGITS_TOLERANCE
    return differences


def check_tokens(check: Check) -> Any:
    """Whether decoding with a CUDA graph gives the same tokens as without, for every stage and pattern.

    Returns:
        By stage and pattern: "identical", the "first_difference" (index of a token, or None), and the number of
        "tokens"; "failed" if any differ. On a CPU, a sentence instead.
    """
    if not check.graphs:
        return "not measured: CUDA graphs need a GPU"
    comparisons: dict[str, Any] = {}
    for name, pattern in STAGES_AND_PATTERNS:
        stage = check.stage(name, pattern)
        two_songs = window(stage, 2 * ROWS_PER_SONG, check.slots)
        eager = as_tokens(decoder(stage, compiled=False).codes(two_songs))
        graph = as_tokens(decoder(stage, compiled=True).codes(two_songs))
        differing = (eager != graph).any(0).nonzero()
        comparisons[f"{name}, {pattern}"] = {
            "identical": not len(differing),
            "first_difference": int(differing[0]) if len(differing) else None,
            "tokens": eager.numel(),
        }
    comparisons["failed"] = not all(comparison["identical"] for comparison in comparisons.values())
    return comparisons


def check_steps(check: Check) -> Any:
    """Milliseconds per step of the coarse stage, by pattern, batch size and decoding loop."""
    loops = {"eager": False}
    if check.graphs:
        loops["graph"] = True
    milliseconds: dict[str, Any] = {}
    for pattern in CODEBOOK_PATTERNS:
        stage = check.stage("coarse", pattern)
        for rows in check.rows:
            runs: dict[str, Callable[[int], Any]] = {}
            for name, compiled in loops.items():
                loop = partial(decoder(stage, compiled).codes, window(stage, rows, check.slots))
                runs[name] = partial(check.finish, loop)
                runs[name](1)
            for name, turns in take_turns(runs, check.slots, TURNS).items():
                # from the difference between runs of one step and of all, each with its fastest turn
                value = step_milliseconds(turns[1], turns[check.slots], check.slots, min)
                milliseconds.setdefault(f"coarse, {pattern}, {rows} rows", {})[name] = value
    return milliseconds


def composite(check: Check, pattern: str) -> HAFMForVocalAccompaniment:
    """A composite model with random weights on the check's device, tiny or of the paper's size.

    Args:
        check: device and sizes.
        pattern: codebook pattern of the coarse and the fine stage.
    """
    sizes: dict[str, Any] = dict(TINY) if check.tiny else {}
    configs: dict[str, Any] = {}
    for name in stage_parts():
        pattern_option = {}
        if stage_parts()[name].acoustic:
            pattern_option = {"codebook_pattern": pattern}
        configs[f"{name}_config"] = stage_parts()[name].model_class.config_class(**sizes, **pattern_option)
    if check.tiny:
        hubert = HubertConfig(
            **TINY_HUBERT, conv_dim=(8,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2
        )
        configs["semantic_tokenizer_config"] = HAFMSemanticTokenizerConfig(hubert_config=hubert, layer=1)
        configs["codec_config"] = EncodecConfig(**TINY_CODEC)
    torch.manual_seed(0)
    model = HAFMForVocalAccompaniment(HAFMConfig(**configs)).eval()
    # the centroids of a new tokenizer are all 0
    model.semantic_tokenizer.centroids.copy_(torch.randn_like(model.semantic_tokenizer.centroids))
    return model.to(check.device)


def check_song(check: Check, pattern: str) -> Any:
    """Generates one song: wall-clock seconds, real-time factor, and peak memory of the device.

    "failed" says whether it is not as long as its vocal.

    Raises:
        TimeoutError: the check's time is over before the song is finished.
    """
    model = composite(check, pattern)
    vocal = glide(check.song_seconds, model.sampling_rate)
    if check.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(check.device)

    def progress(stage: str, done: int, total: int) -> None:
        """Ends a song for which there is no time left."""
        if time.monotonic() > check.end:
            raise TimeoutError(f"out of time in the {stage} stage, at step {done} of {total}")

    began = time.perf_counter()
    song = model.generate(vocal, model.sampling_rate, seed=1, progress=progress)
    check.wait()
    elapsed = time.perf_counter() - began
    return {
        "seconds": check.song_seconds,
        "wall_seconds": elapsed,
        "real_time_factor": elapsed / check.song_seconds,
        "peak_gib": torch.cuda.max_memory_allocated(check.device) / 2**30 if check.device.type == "cuda" else None,
        "failed": len(song.audio[0]) != len(vocal),
    }


def check_training(check: Check) -> Any:
    """Runs the training recipe's trainer in a process group of one: in fp16 with a scaler on a GPU, else in fp32.

    Returns:
        Figures by name. "failed" says that a loss is not finite, that there is no process group, or that on a CPU the
        model is not wrapped in DDP (on a GPU, accelerate does not wrap that of a single process).
    """
    # any free port for the process group
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in world.items()})
    precision = "fp16" if check.device.type == "cuda" else "no"
    if check.device.type != "cuda":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    with tempfile.TemporaryDirectory() as folder:
        write_random_corpus(Path(folder, "corpus"))
        words = f"--stage coarse --codebook_pattern delay --corpus {folder}/corpus --output_dir {folder}/run "
        words += f"--mixed_precision {precision} --max_steps {check.training_steps} --warmup_steps 2 --crop_seconds 5 "
        words += "--global_batch 4 --validation_split none --logging_steps 5 --save_steps 100000"
        if check.tiny:
            words += "".join(f" --{name} {value}" for name, value in TINY.items())
        trainer = make_trainer(*parse_arguments(words.split()))
        backend = None
        # asked now, because train() ends the process group, too
        if torch.distributed.is_initialized():
            backend = torch.distributed.get_backend()
        began = time.perf_counter()
        trainer.train()
        elapsed = time.perf_counter() - began
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    wrapped = type(trainer.model).__name__
    losses = [line["loss"] for line in lines if "loss" in line]
    losses_are_finite = all(map(math.isfinite, losses))
    # accelerate does not wrap a single process on a GPU
    wrapped_as_expected = check.device.type == "cuda" or wrapped == "DistributedDataParallel"
    return {
        "precision": precision,
        "backend": backend,
        "distributed": wrapped,
        "scale": trainer.accelerator.scaler.get_scale() if trainer.accelerator.scaler else None,
        "losses": losses,
        "skipped_steps": trainer.progress.skipped,
        "steps_per_second": check.training_steps / elapsed,
        "failed": not losses_are_finite or backend is None or not wrapped_as_expected,
    }


def run_part(part: Callable[[], Any], end: float) -> Any:
    """Runs a part, unless it is too late.

    Args:
        part: returns its figures by name, or a sentence that says why they are not measured.
        end: time (`time.monotonic`) after which it does not run.

    Returns:
        The figures with "took_seconds", or the sentence; if it raised an error, "failed" and the "error".
    """
    if time.monotonic() > end:
        return "not measured: out of time"
    began = time.perf_counter()
    try:
        figures = part()
    except TimeoutError as error:
        return f"not measured: {error}"
    except Exception as error:
        return {"failed": True, "error": f"{type(error).__name__}: {error}"}
    if isinstance(figures, str):
        return figures
    return {**figures, "took_seconds": time.perf_counter() - began}


def table(report: Mapping[str, Any]) -> str:
    """The results as a Markdown table: a row per part with its result and its figures."""
    rows = ["| part | result | figures |", "|---|---|---|"]
    for name, result in report.items():
        if isinstance(result, str):
            rows.append(f"| {name} | {result} | |")
            continue
        figures = {key: value for key, value in result.items() if key not in ("failed", "losses", "skipped_steps")}
        columns = "; ".join(f"{key} {_short(value)}" for key, value in figures.items() if value is not None)
        state = "**failed**" if result.get("failed") else "ok"
        rows.append(f"| {name} | {state} | {columns} |")
    return "\n".join(rows)


def _short(value: Any) -> str:
    """A result as text that fits into a cell of the table."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def main(
    out: Annotated[Path, typer.Option(help="JSON file for the report.")] = Path("gpu_check.json"),
    device: Annotated[str, typer.Option(help="Torch device.")] = "cuda",
    tiny: Annotated[bool, typer.Option("--tiny", help="Tiny sizes, to check that it runs.")] = False,
    minutes: Annotated[float, typer.Option(help="Time limit: no part starts and songs stop after it.")] = 9.0,
) -> None:
    """Runs all parts, writes the report and prints it as a table; exits with 1 if a part failed."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        print("This machine has no GPU that torch can use; --device cpu --tiny runs what a CPU can.", file=sys.stderr)
        raise typer.Exit(NO_DEVICE)
    end = time.monotonic() + 60 * minutes
    if tiny:
        check = Check(torch.device(device), tiny, rows=(2, 4), slots=12, song_seconds=1.5, training_steps=6, end=end)
    else:
        check = Check(
            torch.device(device), tiny, rows=(2, 16, 64), slots=400, song_seconds=180.0, training_steps=60, end=end
        )

    parts: dict[str, Callable[[], Any]] = {
        "logits": lambda: check_logits(check),
        "cuda_graph_tokens": lambda: check_tokens(check),
        "steps": lambda: check_steps(check),
        "training": lambda: check_training(check),
        "song, delay": lambda: check_song(check, "delay"),
        "song, flat": lambda: check_song(check, "flat"),
    }
    name = torch.cuda.get_device_name(check.device) if check.device.type == "cuda" else "CPU"
    report: dict[str, Any] = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "tiny": tiny}
    for key, part in parts.items():
        report[key] = run_part(part, end)
        print(f"{key}: done", file=sys.stderr)
        # after each part, so that a crash keeps the results of earlier parts
        out.write_text(json.dumps(report, indent=2) + "\n")

    sizes = ", tiny sizes" if tiny else ""
    print(f"hafm_hf {hafm_hf.__version__}, torch {torch.__version__}, {name}{sizes}\n")
    print(table({key: report[key] for key in parts}))
    print(f"\nTo report it, paste the table into an issue and attach {out}.", file=sys.stderr)
    failed = any(isinstance(result, dict) and result.get("failed") for result in report.values())
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
