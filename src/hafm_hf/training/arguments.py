# SPDX-License-Identifier: Apache-2.0
"""Typed training arguments, parsed by `HfArgumentParser` from a YAML file, flags, or both (flags take precedence)."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from ..accompaniment.parts import stage_parts
from ..lead_sheet.lead_sheet import MAX_STYLES, ROW_SIZES
from ..lead_sheet.style_choice import StyleRange
from ..modeling.codebook_patterns import PATTERNS


def at_least(least: float, **values: float) -> None:
    """Raises ValueError if a value, given by its name, is below `least`."""
    for name, value in values.items():
        # written so that NaN fails
        if not value >= least:
            raise ValueError(f"{name} is {value}; it must be at least {least:g}.")


def shares(**values: float | None) -> None:
    """Checks shares: raises ValueError if a value, given by its name, is not between 0 and 1; None is allowed."""
    for name, value in values.items():
        if value is not None and not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} is {value}; it is a share, from 0 to 1.")


@dataclass
class StageArguments:
    """The stage to train, and overrides of the paper's configuration or of the one in `init_from`."""

    stage: str = field(default="semantic", metadata={"help": "semantic, coarse or fine"})
    init_from: str | None = field(default=None, metadata={"help": "folder or hub name of a stage to continue from"})
    new_tokens: bool = field(
        default=False,
        metadata={"help": "adapt init_from, trained with another tokenizer or codec, to the corpus's tokens"},
    )
    hidden_size: int | None = field(default=None, metadata={"help": "width D (the paper: 512)"})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "number of layers (the paper: 12)"})
    num_attention_heads: int | None = field(default=None, metadata={"help": "attention heads (the paper: 8)"})
    head_dim: int | None = field(default=None, metadata={"help": "width of each head (the paper: 64)"})
    codebook_pattern: str | None = field(
        default=None, metadata={"help": "flat (the paper: a code per step) or delay (a frame per step; coarse, fine)"}
    )
    position_scheme: str | None = field(default=None, metadata={"help": "index (the paper) or time"})
    conditioning_fusion: str | None = field(
        default=None, metadata={"help": "prepend (the paper) or sum (added to the target's embeddings)"}
    )
    lead_sheet_streams: list[str] = field(
        default_factory=list, metadata={"help": f"streams to read: {', '.join(ROW_SIZES)} (the paper: none)"}
    )
    styles: list[str] = field(default_factory=list, metadata={"help": "style names for the stream style"})
    style_ranges: str = field(
        default="", metadata={"help": 'songs that styles suit, as JSON: {"folk": {"metres": [4], "tempo": [62, 122]}}'}
    )
    conditioning_dropout: float | None = field(
        default=None, metadata={"help": "fraction of samples trained without conditioning (the paper: 0.1)"}
    )
    attention_dropout: float | None = field(default=None, metadata={"help": "attention dropout (the paper: 0)"})
    coarse_codebooks: int | None = field(default=None, metadata={"help": "coarse stage's codebooks (the paper: 4)"})
    fine_codebooks: int | None = field(default=None, metadata={"help": "fine stage's codebooks (the paper: 4)"})
    lora_rank: int = field(default=0, metadata={"help": "train only LoRA adapters of this rank; 0 trains all weights"})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA alpha; adapters are scaled by alpha / rank"})
    lora_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Rejects unknown names, too many styles, and options that would have no effect."""
        for kind, names, choices in (
            ("stage", [self.stage], list(stage_parts())),
            ("codebook pattern", [self.codebook_pattern or "flat"], list(PATTERNS)),
            ("lead sheet stream", self.lead_sheet_streams, list(ROW_SIZES)),
        ):
            if unknown := [name for name in names if name not in choices]:
                raise ValueError(f"{unknown[0]!r} is not a {kind}; choose from {', '.join(choices)}.")
        if len(self.styles) > MAX_STYLES:
            raise ValueError(f"{len(self.styles)} styles are given; a stage supports at most {MAX_STYLES}.")
        if self.styles and not self.init_from and "style" not in self.lead_sheet_streams:
            raise ValueError("--styles need the stream style: name it among --lead_sheet_streams.")
        self.ranges_by_style()
        if not self.lora_rank and (self.lora_alpha, self.lora_dropout) != (32, 0.0):
            raise ValueError("--lora_alpha and --lora_dropout only affect adapters: give them a --lora_rank.")

    def ranges_by_style(self) -> dict[str, Any]:
        """`style_ranges` (JSON) as a dict by style, as `HAFMStageConfig` takes it: {"folk": {"tempo": [62, 122]}}.

        Raises:
            ValueError: it is not JSON, or holds something other than ranges of metres, tempo and density.
        """
        try:
            ranges = json.loads(self.style_ranges or "{}")
            for bounds in ranges.values():
                # for its checks
                StyleRange.from_dict(bounds)
        except (AttributeError, TypeError, ValueError) as error:
            message = f"--style_ranges cannot be read ({error}); give metres, tempo and density by style."
            raise ValueError(message) from error
        return dict(ranges)

    def architecture(self) -> dict[str, Any]:
        """The arguments, if set, that a stage's weights determine, by their names in the stage's configuration."""
        return _without_none(
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            head_dim=self.head_dim,
            codebook_pattern=self.codebook_pattern,
            position_scheme=self.position_scheme,
            conditioning_fusion=self.conditioning_fusion,
        )

    def dropouts(self) -> dict[str, Any]:
        """The arguments, if set, that may change when a stage is trained further, by their configuration's names."""
        return _without_none(conditioning_dropout=self.conditioning_dropout, attention_dropout=self.attention_dropout)


def _without_none(**values: Any) -> dict[str, Any]:
    """Those of the values, by name, that are not None."""
    return {name: value for name, value in values.items() if value is not None}


@dataclass
class DataArguments:
    """The token corpus and how it is cropped."""

    corpus: str = field(default="", metadata={"help": "folder of Parquet token shards"})
    crop_seconds: float | None = field(
        default=None, metadata={"help": "crop length; defaults to the stage's window (the paper: 10, 5 and 3 s)"}
    )
    validation_split: str = field(default="validation", metadata={"help": "split name; none disables validation"})
    validation_crops: int = field(default=256, metadata={"help": "maximum number of validation crops"})
    validation_batch: int = 16
    cache_dir: str | None = field(default=None, metadata={"help": "cache folder of the datasets library"})
    dataloader_workers: int = 0

    def __post_init__(self) -> None:
        """Rejects values out of range."""
        at_least(1, validation_crops=self.validation_crops, validation_batch=self.validation_batch)


@dataclass
class CorruptionArguments:
    """How training samples differ from their songs, so that the stage listens to the voice and recovers from mistakes.

    The history is the target tokens before the one to predict; lead sheets are those of the accompaniment.
    """

    history_dropout: float = field(default=0.0, metadata={"help": "expected share of hidden history at the start"})
    history_dropout_end: float | None = field(default=None, metadata={"help": "share at the end; default: constant"})
    history_span_seconds: float = field(default=0.5, metadata={"help": "mean length of a hidden span"})
    history_swap: float = field(default=0.0, metadata={"help": "expected share of history taken from another track"})
    history_swap_span_seconds: float = field(default=2.0, metadata={"help": "mean length of a swapped span"})
    lead_sheet_dropout: float = field(default=0.0, metadata={"help": "probability of dropping a stream, for each"})
    lead_sheet_dropout_all: float = field(default=0.0, metadata={"help": "probability of dropping all streams"})
    lead_sheet_half_beat: float = field(default=0.0, metadata={"help": "probability of beats half a beat late"})
    lead_sheet_octave: float = field(default=0.0, metadata={"help": "probability of double or half the tempo"})
    lead_sheet_other_voice: float = field(default=0.0, metadata={"help": "probability of another vocal over chords"})

    def __post_init__(self) -> None:
        """Rejects values out of range."""
        shares(
            history_dropout=self.history_dropout,
            history_dropout_end=self.history_dropout_end,
            history_swap=self.history_swap,
            lead_sheet_dropout=self.lead_sheet_dropout,
            lead_sheet_dropout_all=self.lead_sheet_dropout_all,
            lead_sheet_half_beat=self.lead_sheet_half_beat,
            lead_sheet_octave=self.lead_sheet_octave,
            lead_sheet_other_voice=self.lead_sheet_other_voice,
        )

    @property
    def corrupts_lead_sheets(self) -> bool:
        """Whether any of the options `lead_sheet_…` is above 0."""
        return any(value for name, value in vars(self).items() if name.startswith("lead_sheet_"))

    def history_dropout_at(self, fraction: float) -> float:
        """Expected share of hidden history (0..1) after the given fraction (0..1) of the run; it changes linearly."""
        if self.history_dropout_end is None:
            return self.history_dropout
        change = self.history_dropout_end - self.history_dropout
        return self.history_dropout + change * fraction


@dataclass
class OptimizationArguments:
    """Length of the run, batch, optimiser and learning rate."""

    max_steps: int = 100_000
    max_hours: float | None = field(default=None, metadata={"help": "end the schedule here if max_steps takes longer"})
    global_batch: int = field(default=210, metadata={"help": "crops per optimiser step, over all processes"})
    accumulation: int = 1
    optimizer: str = field(default="adamw", metadata={"help": "adamw (the paper), or muon for the layers' matrices"})
    learning_rate: float = 3e-4
    final_learning_rate: float = 1e-6
    warmup_steps: int = 4000
    adam_beta1: float = 0.9
    adam_beta2: float = 0.98
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_skipped_steps: int = field(
        default=20, metadata={"help": "stop after this many consecutive steps without a finite gradient"}
    )
    mixed_precision: str = field(default="no", metadata={"help": "no, fp16 or bf16; accelerate's is not used"})

    def __post_init__(self) -> None:
        """Rejects values out of range and unknown choices."""
        at_least(1, max_steps=self.max_steps, global_batch=self.global_batch, accumulation=self.accumulation)
        at_least(0, learning_rate=self.learning_rate, final_learning_rate=self.final_learning_rate)
        at_least(0, warmup_steps=self.warmup_steps, weight_decay=self.weight_decay)
        if self.mixed_precision not in ("no", "fp16", "bf16"):
            raise ValueError(f"mixed_precision is {self.mixed_precision!r}; choose no, fp16 or bf16.")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"optimizer is {self.optimizer!r}; choose adamw or muon.")
        if self.optimizer == "muon" and self.mixed_precision == "fp16":
            raise ValueError(
                "muon trains some parameters with AdamW, and the two cannot share a loss scale: "
                "train in bf16, or without mixed precision."
            )
        if self.max_hours is not None and self.max_hours <= 0:
            raise ValueError(f"max_hours is {self.max_hours}; it must be above 0.")


@dataclass
class RunArguments:
    """Output folder, seed, checkpoints, logs, and how the machine computes."""

    output_dir: str = field(default="", metadata={"help": "for checkpoints, metrics.jsonl and the finished stage"})
    seed: int = 0
    resume: str = field(
        default="auto", metadata={"help": "auto, none (deletes all checkpoints and best/), or a checkpoint's folder"}
    )
    save_steps: int = 1000
    keep_checkpoints: int = 2
    logging_steps: int = 50
    validation_steps: int = 1000
    activation_checkpointing: bool = False
    compile: bool = False
    report_to: str = field(default="none", metadata={"help": "none, or a tracker supported by accelerate"})

    def __post_init__(self) -> None:
        """Rejects values out of range."""
        at_least(1, save_steps=self.save_steps, keep_checkpoints=self.keep_checkpoints)
        at_least(1, logging_steps=self.logging_steps, validation_steps=self.validation_steps)


def parse_dataclasses(classes: Sequence[type], arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Parses arguments into dataclasses: an optional YAML file first, then flags, which take precedence.

    Args:
        classes: dataclasses with defaults.
        arguments: command-line arguments, of which the first may be a YAML file; `sys.argv[1:]` if None.

    Returns:
        An instance of each class, in their order.

    Raises:
        ValueError: when the YAML file holds a key that is not an argument.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(classes)
    if words and words[0].endswith((".yaml", ".yml")):
        # BaseLoader reads all scalars as texts, which argparse converts: YAML itself would read 2 as an integer where
        # a float is meant, and the word no as False
        values = yaml.load(Path(words.pop(0)).read_text(encoding="utf-8"), yaml.BaseLoader) or {}
        types = {item.name: str(item.type) for cls in classes for item in fields(cls)}
        if unknown := set(values) - set(types):
            raise ValueError(f"The configuration holds unknown keys: {', '.join(sorted(unknown))}.")
        # YAML may give a single word where an argument takes a list
        lists_of_one = {
            name: [word] for name, word in values.items() if isinstance(word, str) and "list" in types[name]
        }
        parser.set_defaults(**values | lists_of_one)
    return parser.parse_args_into_dataclasses(args=words)


def parse_arguments(
    arguments: Sequence[str] | None = None,
) -> tuple[StageArguments, DataArguments, CorruptionArguments, OptimizationArguments, RunArguments]:
    """Parses the arguments of a stage's training run.

    Args:
        arguments: command-line arguments; `sys.argv[1:]` if None.

    Raises:
        ValueError: for an unknown key in the YAML file, a value out of range, or a missing corpus or output folder.
    """
    classes = (StageArguments, DataArguments, CorruptionArguments, OptimizationArguments, RunArguments)
    stage, data, corruption, optimization, run = parse_dataclasses(classes, arguments)
    for name, value in (("corpus", data.corpus), ("output_dir", run.output_dir)):
        if not value:
            raise ValueError(f"Name the {name} in the YAML file or with --{name}.")
    return stage, data, corruption, optimization, run
