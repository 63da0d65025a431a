# SPDX-License-Identifier: Apache-2.0
"""From rendered songs to a composite model: trains every part in order, within a given number of hours.

Each part is a recipe, run as a process of its own: the commands are visible here, and a killed part resumes from its
own checkpoints. OUT/plan.json records the decisions made at the start (the steps that fit into the hours, measured on
this machine); a second run follows it and skips finished parts.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml

from hafm_hf.corpus.locks import locked

from .hubert import SemanticTrainingArguments
from .songs.styles import STYLES

logger = logging.getLogger(__name__)

# shares of the hours with two workers: codec and HuBERT in parallel, then the coarse stage and the two others
SHARES = {"codec": 0.3, "hubert": 0.3, "semantic": 0.35, "coarse": 0.5, "fine": 0.15}
# the parts in order, each with those that must be finished before it starts
NEEDS: dict[str, tuple[str, ...]] = {
    "codec": (),
    "decoder": ("codec",),
    "hubert": (),
    "semantic_tokenizer": ("hubert",),
    "vocal_space": ("semantic_tokenizer",),
    "tokens": ("codec", "vocal_space"),
    "coarse": ("tokens",),
    "semantic": ("tokens",),
    "fine": ("tokens",),
    "listener": ("tokens",),
    # only if songs have stems
    "separator": ("decoder",),
    "model": ("decoder", "coarse", "semantic", "fine", "listener", "separator"),
    "card": ("model",),
}
STAGES = ("semantic", "coarse", "fine")
# parts whose steps are planned by a timing run, and their recipes
TIMED_RECIPES = {"codec": "train_spectral_codec.py", "hubert": "pretrain_semantic.py"}
# steps of a timing run
CALIBRATION_STEPS = 8
# more steps than a stage takes in its hours, which limit its training
UNLIMITED_STEPS = 10**6
# stages that train for longer are compiled
SHORTEST_COMPILED_HOURS = 0.1
# steps of the codec and of its decoder alone, relative to the number of steps with discriminators that fit into the
# time; these are three times as slow as others, and the codec only takes its second half with discriminators
CODEC_STEPS = 1.32
DECODER_STEPS = 0.12
# share of the codec's steps before quantisation starts
QUANTIZE_FROM = 0.125
LEAST_STEPS = 4
# options of the timing runs: the codec is timed with quantisation and discriminators, the slowest steps
TRIAL: dict[str, tuple[object, ...]] = {
    "codec": ("--start_batches", 16, "--quantize_from", 0, "--adversarial_from", 1, "--figures", "false"),
    "hubert": ("--start_batches", 1),
}
# options for training the codec's decoder alone, after the codec
DECODER_ALONE = (
    "--decoder_only", "true", "--learning_rate", 5e-4, "--final_learning_rate", 2e-5, "--averaging", 0.995,
    "--level_weight", 0.5, "--adversarial_from", 1, "--discriminator_learning_rate", 1e-3,
    "--discriminator_share", 0.5,
)  # fmt: skip
# rhythm network (0.25 s per step on one core): steps per hour of the stages, at most as many as hafm-tiny's
RHYTHM_STEPS_PER_HOUR = 1400
RHYTHM_STEPS = 3300
# likewise for each tower of the listener (0.2 to 0.33 s per step)
LISTENER_STEPS_PER_HOUR = 2000
LISTENER_STEPS = 4000
# likewise for the separator (0.33 s per step)
SEPARATOR_STEPS_PER_HOUR = 1300
SEPARATOR_STEPS = 10_000


@dataclass(frozen=True)
class Preset:
    """Sizes of the parts.

    Attributes:
        encoder, decoder: (width, layers) of the codec's encoder and decoder.
        hubert: (width, layers) of the HuBERT of the semantic tokenizer.
        semantic, coarse, fine: (width, layers, heads) of the stages.
        codec: further command-line options of the codec's recipe.
    """

    encoder: tuple[int, int]
    decoder: tuple[int, int]
    hubert: tuple[int, int]
    semantic: tuple[int, int, int]
    coarse: tuple[int, int, int]
    fine: tuple[int, int, int]
    codec: tuple[object, ...] = ()


# options of the codec's recipe
SMALLEST_CROPS = (
    "--batch_size", 2, "--varied_rows", 1, "--judged_rows", 1, "--crop_frames", 24, "--sizes", 256,
)  # fmt: skip
PRESETS = {
    # checks within minutes that corpus and setup work, without making music
    "trial": Preset((16, 1), (16, 1), (64, 2), (64, 2, 2), (64, 2, 2), (64, 2, 2), SMALLEST_CROPS),
    # hafm-tiny's
    "tiny": Preset((320, 6), (320, 8), (192, 5), (256, 4, 4), (192, 8, 3), (128, 3, 2)),
    "small": Preset((384, 6), (384, 8), (384, 6), (512, 6, 8), (512, 6, 8), (384, 6, 6)),
}


@dataclass(frozen=True)
class WholeModelOptions:
    """What to train.

    Attributes:
        corpus (Path): output folder of recipes/build_song_corpus.py.
        out (Path): folder for every part's folder, logs, and the composite model (OUT/model).
        recipes (Path): folder of the recipes.
        hours (float): wall-clock time for codec, HuBERT and stages together; clusters, vocal space, tokens, listener,
            separator and assembly add to it.
        preset (str): trial, tiny or small.
        workers (int): number of parts to train in parallel, each on one thread; use 1 on a GPU.
        clusters (int): clusters of the semantic tokenizer, each for vocals and for instrumentals.
    """

    corpus: Path
    out: Path
    recipes: Path
    hours: float = 2.0
    preset: str = "tiny"
    workers: int = 1
    clusters: int = 500

    def __post_init__(self) -> None:
        """Rejects invalid options before anything is run."""
        if self.preset not in PRESETS:
            raise ValueError(f"There is no preset {self.preset!r}; choose one of {', '.join(PRESETS)}.")
        if self.hours <= 0 or self.workers < 1:
            raise ValueError("hours must be above 0 and workers at least 1.")
        for split in ("train", "validation"):
            if not any((self.corpus / split).glob("*/labels.json")):
                raise ValueError(
                    f"{self.corpus / split} holds no songs; render some with recipes/build_song_corpus.py."
                )

    @cached_property
    def labels(self) -> list[dict[str, object]]:
        """Labels of the training songs."""
        return [json.loads(path.read_text()) for path in (self.corpus / "train").glob("*/labels.json")]

    @property
    def have_stems(self) -> bool:
        """Whether the songs have stems."""
        return any((self.corpus / "train").glob("*/pads.flac"))

    @property
    def style_ranges(self) -> dict[str, Any]:
        """By style, the metres, tempos and densities of the songs that it suits; only for styles in STYLES."""
        return {name: asdict(STYLES[name].suits) for name in self.styles if name in STYLES}

    @property
    def styles(self) -> list[str]:
        """Styles of the training songs, sorted."""
        return sorted({str(labels["style"]) for labels in self.labels if labels.get("style")})

    def streams(self, config: Path) -> list[str]:
        """The lead sheet streams in a stage's YAML configuration; without "energy" if no song has sections."""
        streams = yaml.safe_load(config.read_text())["lead_sheet_streams"]
        has_sections = any(labels.get("sections") for labels in self.labels)
        return [name for name in streams if name != "energy" or has_sections]


def train_whole_model(options: WholeModelOptions) -> Path:
    """Trains all unfinished parts and assembles the model.

    Returns:
        The folder of the composite model.

    Raises:
        ValueError: the folder was begun with other options, or another process uses it.
        RuntimeError: a part failed; the message names its log, and finished parts are kept.
    """
    with locked(options.out):
        commands = part_commands(options, _planned_steps(options))
        done = {name for name in commands if (options.out / f"{name}.done").exists()}
        with ThreadPoolExecutor(options.workers) as pool:
            running: dict[Future[None], str] = {}  # names of parts
            while len(done) < len(commands):
                for name in commands:
                    # only parts that are trained: without stems, there is no separator
                    needs = commands.keys() & NEEDS[name]
                    if name not in done and name not in running.values() and done.issuperset(needs):
                        running[pool.submit(_run_part, name, commands[name], options)] = name
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    name = running.pop(future)
                    # raises the error if the part failed
                    future.result()
                    done.add(name)
    return options.out / "model"


def render_songs(songs: Path, voices: Path, corpus: Path, recipes: Path, words: Sequence[str]) -> None:
    """Renders the missing songs of a corpus.

    Args:
        songs: folder of songs in POP909's layout.
        voices: folder of voices.
        corpus: output folder.
        recipes: folder of the recipes.
        words: further command-line options of build_song_corpus.py.

    Raises:
        RuntimeError: rendering failed.
    """
    command = [sys.executable, str(recipes / "build_song_corpus.py"), str(songs), str(voices), str(corpus), *words]
    logger.info("render: %s", " ".join(command))
    if subprocess.run(command, check=False).returncode:
        raise RuntimeError("The songs could not be rendered; see above.")


def part_commands(options: WholeModelOptions, steps: dict[str, int]) -> dict[str, list[str]]:
    """The command of every part to train.

    Args:
        options: what to train.
        steps: optimiser steps of "codec" and "hubert" (`_planned_steps`).

    Returns:
        By part, in the order of NEEDS: its recipe (or "hafm") and command-line arguments.
    """
    preset = PRESETS[options.preset]
    out = options.out
    corpus = str(options.corpus)
    clusters = out / "semantic_tokenizer"
    codec = out / "codec" / "codec"
    decoder = out / "decoder" / "codec"
    tokenizer = out / "vocal_space" / "semantic_tokenizer"
    # these parts take additional time: steps in proportion to the hours, at most as many as for hafm-tiny
    rhythm_steps = max(1, min(RHYTHM_STEPS, round(RHYTHM_STEPS_PER_HOUR * options.hours)))
    listener_steps = max(1, min(LISTENER_STEPS, round(LISTENER_STEPS_PER_HOUR * options.hours)))
    separator_steps = max(1, min(SEPARATOR_STEPS, round(SEPARATOR_STEPS_PER_HOUR * options.hours)))
    stage_options: list[object] = []
    for stage in STAGES:
        stage_options += [f"--{stage}", out / stage / "final"]
    separator_options = ["--separator", out / "separator" / "separator"] if options.have_stems else []
    commands: dict[str, list[object]] = {
        **_codec_commands(options, steps["codec"]),
        "hubert": [
            TIMED_RECIPES["hubert"], *_common_options(options, "hubert", steps["hubert"]),
            *_size_options(options)["hubert"],
            "--start_batches", min(steps["hubert"], SemanticTrainingArguments.start_batches),
        ],
        "semantic_tokenizer": [
            "fit_kmeans.py", corpus, clusters, "--hubert", out / "hubert" / "hubert", "--layer", preset.hubert[1],
            "--clusters", options.clusters, "--separate", "--split-by", "folder",
        ],
        "vocal_space": [
            "fit_vocal_space.py", *_common_options(options, "vocal_space", rhythm_steps),
            "--tokenizer", clusters, "--half", "true",
        ],
        "tokens": [
            "hafm", "prepare", corpus, out / "tokens", "--split-by", "folder",
            "--segment-seconds", 90, "--semantic-tokenizer", tokenizer, "--codec", codec, "--workers", options.workers,
            "--lead-sheet", "labels",
        ],
        "listener": ["train_listener.py", *_common_options(options, "listener", listener_steps)],
        "separator": [
            "train_separator.py", *_common_options(options, "separator", separator_steps), "--codec", decoder,
        ],
        "model": [
            "hafm", "assemble", out / "model", "--semantic-tokenizer", tokenizer, "--codec", decoder,
            "--listener", out / "listener" / "listener", *stage_options, *separator_options,
        ],
        "card": ["make_card.py", out / "model", "--facts", out / "facts.yaml"],
    }  # fmt: skip
    for stage in STAGES:
        commands[stage] = _stage_command(options, stage)
        if stage != "semantic":
            # a recipe that initialises embeddings from codebooks; the semantic stage has clusters only
            commands[stage][0] = "train_tiny_stage.py"
            commands[stage] += ["--codec", codec, "--semantic_tokenizer", tokenizer]
    names = [name for name in NEEDS if name != "separator" or options.have_stems]
    return {name: [str(word) for word in commands[name]] for name in names}


def _stage_command(options: WholeModelOptions, stage: str) -> list[object]:
    """The command that trains a stage (semantic, coarse or fine) for its share of the hours."""
    hours = options.hours * SHARES[stage] * _share_of_time(options)
    # compiling takes one or two minutes
    compiled = hours > SHORTEST_COMPILED_HOURS and shutil.which("c++") is not None
    width, layers, heads = getattr(PRESETS[options.preset], stage)
    config = options.recipes / f"configs/tiny/{stage}.yaml"
    out = options.out
    style_options: list[object] = []
    if options.styles:
        style_options = ["--styles", *options.styles, "--style_ranges", json.dumps(options.style_ranges)]
    return [
        "train_stage.py", config, "--lead_sheet_streams", *options.streams(config),
        *style_options, "--corpus", out / "tokens",
        "--output_dir", out / stage, "--cache_dir", out / stage / "cache", "--max_steps", UNLIMITED_STEPS,
        "--max_hours", hours, "--compile", compiled,
        "--hidden_size", width, "--num_hidden_layers", layers, "--num_attention_heads", heads,
    ]  # fmt: skip


def _codec_commands(options: WholeModelOptions, steps: int) -> dict[str, list[object]]:
    """The commands that train "codec", and then its decoder alone ("decoder").

    Args:
        options: what to train.
        steps: number of steps with discriminators that take as long as both parts together.
    """
    codec_steps = max(LEAST_STEPS, round(CODEC_STEPS * steps))
    decoder_steps = max(LEAST_STEPS, round(DECODER_STEPS * steps))
    recipe = TIMED_RECIPES["codec"]
    sizes = _size_options(options)["codec"]
    schedule = ["--warmup_steps", min(100, codec_steps), "--quantize_from", round(QUANTIZE_FROM * codec_steps)]
    schedule += ["--adversarial_from", codec_steps // 2, "--figures", "false"]
    decoder_schedule = ["--warmup_steps", min(50, decoder_steps), "--adversarial_ramp", decoder_steps]
    return {
        "codec": [recipe, *_common_options(options, "codec", codec_steps), *sizes, *schedule],
        "decoder": [
            recipe, *_common_options(options, "decoder", decoder_steps), *PRESETS[options.preset].codec,
            "--codec", options.out / "codec" / "codec", *DECODER_ALONE, *decoder_schedule,
        ],
    }  # fmt: skip


def _size_options(options: WholeModelOptions) -> dict[str, list[object]]:
    """Command-line options for the sizes of "codec" and "hubert", by part."""
    preset = PRESETS[options.preset]
    codec: list[object] = ["--encoder_width", preset.encoder[0], "--encoder_layers", preset.encoder[1]]
    codec += ["--decoder_width", preset.decoder[0], "--decoder_layers", preset.decoder[1], *preset.codec]
    hubert: list[object] = ["--hidden_size", preset.hubert[0], "--num_hidden_layers", preset.hubert[1]]
    return {"codec": codec, "hubert": hubert}


def _share_of_time(options: WholeModelOptions) -> float:
    """Factor for the SHARES, which are for two workers in parallel: for one worker, they must add up to 1."""
    return 1.0 if options.workers > 1 else 1.0 / sum(SHARES.values())


def _common_options(options: WholeModelOptions, part: str, steps: int) -> list[object]:
    """Command-line options that all recipes training on the corpus have: corpus, output folder, number of steps."""
    return ["--corpus", options.corpus, "--out", options.out / part, "--steps", steps]


def _planned_steps(options: WholeModelOptions) -> dict[str, int]:
    """Optimiser steps of "codec" and "hubert" that fit into their shares of the hours.

    The first call times short runs, and writes OUT/plan.json and OUT/facts.yaml; later calls read the plan.

    Raises:
        ValueError: the folder was begun with other options.
        RuntimeError: a short run failed.
    """
    path = options.out / "plan.json"
    # not compared: a second run may have other workers, and the folders may have been moved
    asked = {key: str(value) for key, value in asdict(options).items() if key not in ("out", "recipes", "workers")}
    if path.exists():
        plan = json.loads(path.read_text())
        if plan["asked"] != asked:
            raise ValueError(f"{options.out} was begun with other options ({plan['asked']}); name another folder.")
        return {name: int(steps) for name, steps in plan["steps"].items()}
    steps = {}
    for part, recipe in TIMED_RECIPES.items():
        trial = options.out / f"{part}_trial"
        words: list[object] = [recipe, *_common_options(options, trial.name, CALIBRATION_STEPS)]
        words += _size_options(options)[part]
        words += ["--log_every", CALIBRATION_STEPS // 2, "--max_hours", 0.2]
        words += TRIAL[part]
        _run_part(trial.name, [str(word) for word in words], options)
        # the last log line, as the first includes start-up time
        measured = json.loads((trial / "metrics.jsonl").read_text().splitlines()[-1])["steps_per_second"]
        seconds = 3600 * options.hours * SHARES[part] * _share_of_time(options)
        steps[part] = max(2 * CALIBRATION_STEPS, round(seconds * measured))
        logger.info("%s: %.2f steps per second, so %d steps", part, measured, steps[part])
    facts: dict[str, Any] = {
        "Data": f"{len(options.labels)} songs of recipes/build_song_corpus.py",
        "Steps": json.dumps(steps),
    }
    facts |= {"Hours": options.hours, "Sizes": options.preset, "Recipe": "`recipes/train_tiny.py`"}
    (options.out / "facts.yaml").write_text(yaml.safe_dump({"license": "apache-2.0", "training": facts}))
    path.write_text(json.dumps({"asked": asked, "steps": steps}, indent=2) + "\n")
    return steps


def _run_part(name: str, command: Sequence[str], options: WholeModelOptions) -> None:
    """Runs a part as a process, with output to OUT/NAME.log, and marks it as done by OUT/NAME.done.

    Args:
        name: name of the part.
        command: a recipe, or "hafm", and its arguments.
        options: output folder, and folder of the recipes.

    Raises:
        RuntimeError: the part failed.
    """
    log = options.out / f"{name}.log"
    logger.info("%s: %s", name, " ".join(command))
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        # each part trains on one core
        environment.setdefault("OMP_NUM_THREADS", "1")
    script, *arguments = command
    program = ["-m", "hafm_hf"] if script == "hafm" else [str(options.recipes / script)]
    with log.open("a") as file:
        done = subprocess.run(
            [sys.executable, *program, *arguments],
            stdout=file, stderr=subprocess.STDOUT, env=environment, check=False,
        )  # fmt: skip
    if done.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"{name} exited with {done.returncode}: {' '.join(last)} (see {log}).")
    (options.out / f"{name}.done").touch()
