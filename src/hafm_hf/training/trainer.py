# SPDX-License-Identifier: Apache-2.0
"""The training loop of one stage, on any number of processes: the paper's optimisation, with paired validation.

Everything random about a sample (crop, guidance dropout, hidden history) is determined by (seed, sample number), so
that neither the number of processes nor stopping and resuming changes the samples of a run.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging

from ..modeling.codebook_patterns import codebook_pattern
from ..modeling.configuration_hafm import HAFMStageConfig
from .arguments import DataArguments, RunArguments
from .checkpoints import RunFolder, RunProgress
from .data import GlobalBatchSampler, TokenCrops, collate
from .objective import draw_seeds, drawn_frames, drop_history, null_rows
from .optimizers import make_optimizers, scheduled_rate
from .stages import plain_stage
from .validation import Metrics, validate_stage

logger = logging.get_logger(__name__)
Batch = dict[str, torch.Tensor]


def teacher_forcing(batch: Batch, config: HAFMStageConfig, run: RunArguments, dropout: float) -> torch.Tensor:
    """Input ids of a micro-batch: the history with swapped and hidden spans, shifted right behind BOS.

    Args:
        batch: `labels` and `sample` of `TokenCrops`, and `strangers` when history is swapped.
        config, run: frame rate, codebooks, swap rate, span lengths and seed.
        dropout (float): expected share of hidden frames.
    """
    history, codebooks, hidden = batch["labels"], config.num_codebooks, config.bos_token_id
    assert hidden is not None
    if "strangers" in batch:
        span = run.history_swap_span_seconds * config.frame_rate
        seeds = draw_seeds(run.seed, batch["sample"], "swap")
        swapped = drawn_frames(history, codebooks, run.history_swap, span, seeds)
        history = torch.where(swapped, batch["strangers"], history)
    span, seeds = run.history_span_seconds * config.frame_rate, draw_seeds(run.seed, batch["sample"], "dropout")
    return drop_history(history, hidden, codebook_pattern(config), dropout, span, seeds)


@dataclass
class LossWindow:
    """Accumulates metrics since the last log line; tensors stay on the device until it is written."""

    begin: float = field(default_factory=time.monotonic)
    losses: list[torch.Tensor] = field(default_factory=list)
    tokens: int = 0
    learning_rate: float = 0.0
    gradient_norm: torch.Tensor | float = 0.0

    def metrics(self, accelerator: Accelerator) -> Metrics:
        """Metrics since the window began, with the mean loss over all processes; NaN if no loss was finite."""
        elapsed = max(time.monotonic() - self.begin, 1e-9)
        losses = torch.stack(self.losses)
        finite = torch.isfinite(losses)
        sums = torch.stack([torch.where(finite, losses, 0.0).sum(), finite.sum().to(losses.dtype)])
        total, count = accelerator.reduce(sums, "sum").tolist()
        return {
            "loss": total / count if count else math.nan,
            "learning_rate": self.learning_rate,
            "gradient_norm": float(self.gradient_norm),
            "tokens_per_second": self.tokens / elapsed,
        }


class StageTrainer:
    """Trains one stage.

    Args:
        model: a stage, with or without adapters.
        crops (TokenCrops): training crops.
        validation (TokenCrops or None): validation crops; None turns validation off.
        data (DataArguments), run (RunArguments): arguments of the run.

    Raises:
        ValueError: when the global batch cannot be divided over processes and accumulation, or is larger than the
            corpus.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        crops: TokenCrops,
        validation: TokenCrops | None,
        data: DataArguments,
        run: RunArguments,
    ) -> None:
        self.data, self.run, self.crops, self.validation = data, run, crops, validation
        self.accelerator = Accelerator(
            mixed_precision=run.mixed_precision,
            log_with=None if run.report_to == "none" else run.report_to,
            project_dir=run.output_dir,
        )
        if run.report_to != "none" and not self.accelerator.log_with:
            raise ValueError(f"{run.report_to} is not installed, so nothing would be reported: install it first.")
        # rejects a batch that is too small before the model is moved to the device
        self.accelerator.gradient_accumulation_steps = self.batch_sampler(0).accumulation
        if len(crops) < run.global_batch:
            raise ValueError(
                f"The corpus holds {len(crops)} crops of {crops.seconds:g} s, fewer than a global batch of "
                f"{run.global_batch}: add tracks, shorten crop_seconds or lower global_batch."
            )
        self.config = model.config
        if run.activation_checkpointing:
            model.activation_checkpointing_enable()
        optimizers = make_optimizers(model.to(self.accelerator.device), run)
        if run.compile:
            model.compile(dynamic=False)
        self.model, *self.optimizers = self.accelerator.prepare(model, *optimizers)
        self.folder = RunFolder(Path(run.output_dir), self.accelerator, run.keep_checkpoints)
        self.progress = RunProgress()
        self.skipped_in_a_row = 0
        self._began = time.monotonic()

    @property
    def finished_stage(self) -> PreTrainedModel:
        """The stage to validate and save: without distributed or compiled wrappers, and with adapters merged."""
        return plain_stage(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))

    def batch_sampler(self, first_step: int) -> GlobalBatchSampler:
        """Sampler of this process's micro-batches from `first_step` on."""
        run, state = self.run, self.accelerator
        return GlobalBatchSampler(
            run.global_batch, run.accumulation, state.process_index, state.num_processes, first_step, run.max_steps
        )

    def batches(self) -> Iterator[list[Batch]]:
        """Yields the micro-batches of each remaining step, on this process's device."""
        sampler = self.batch_sampler(self.progress.step)
        # its own generator: a loader draws a seed from torch's global one, whose state resuming has just restored
        own, workers = torch.Generator(), self.data.dataloader_workers
        # forked workers would inherit the threads of Arrow and CUDA, and have crashed
        loader = DataLoader(
            self.crops, batch_sampler=sampler, collate_fn=collate, generator=own, num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
        )  # fmt: skip
        device, parts = self.accelerator.device, []
        for batch in loader:
            parts.append({key: value.to(device, non_blocking=True) for key, value in batch.items()})
            if len(parts) == sampler.accumulation:
                yield parts
                parts = []

    def fraction(self) -> float:
        """Fraction of the run that has passed, by steps or by hours, whichever is larger; equal on all processes."""
        steps = self.progress.step / self.run.max_steps
        if self.run.max_hours is None:
            return steps
        hours = torch.tensor([self.seconds() / 3600], dtype=torch.float64, device=self.accelerator.device)
        return min(1.0, max(steps, float(broadcast(hours)) / self.run.max_hours))

    def seconds(self) -> float:
        """Training time in seconds, over all sessions of the run."""
        return self.progress.seconds + time.monotonic() - self._began

    def train(self) -> None:
        """Trains until `max_steps` or `max_hours`; saves checkpoints, the best and the finished stage.

        Raises:
            FloatingPointError: when gradients are no longer finite; the last checkpoint is intact.
            OSError: when something can't be written; what was saved before is intact.
            ValueError: when the machines of the run do not share its output folder.
        """
        self.folder.require_shared()
        self.progress = self.folder.load_checkpoint(self.run.resume, self.config)
        self.init_trackers()
        self._began, first = time.monotonic(), self.progress.step
        show = self.accelerator.is_local_main_process
        bar = tqdm(total=self.run.max_steps, initial=self.progress.step, disable=not show, mininterval=30, unit="step")
        if self.progress.step == 0:
            self.validate()
        window = LossWindow()
        for parts in self.batches():
            fraction = self.fraction()
            if fraction >= 1.0:
                break
            self.step(parts, fraction, window)
            bar.update()
            logged = self.due(self.run.logging_steps) or self.progress.step == 1
            if logged:
                self.log_window(window, fraction)
            if self.due(self.run.validation_steps):
                self.validate()
            if self.due(self.run.save_steps):
                self.save_checkpoint()
            if logged:
                # validation and checkpointing must not count towards the next window's speed
                window = LossWindow()
        bar.close()
        if self.progress.step > first:
            self.finish(window)
        self.folder.save_stage(self.finished_stage, "final")
        self.accelerator.end_training()

    def due(self, every: int) -> bool:
        """Whether something that happens every `every` steps is due after this step."""
        return self.progress.step % every == 0

    def step(self, parts: list[Batch], fraction: float, window: LossWindow) -> None:
        """One optimiser step over the micro-batches of this process."""
        progress, run = self.progress, self.run
        if run.max_hours is None or progress.step <= run.warmup_steps:
            progress.warm_up_end = fraction if run.max_hours else run.warmup_steps / run.max_steps
        passed = (fraction - progress.warm_up_end) / max(1.0 - progress.warm_up_end, 1e-9)
        rate = scheduled_rate(progress.step, run.warmup_steps, passed, run.learning_rate, run.final_learning_rate)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        self.model.train()
        sampler = self.batch_sampler(progress.step)
        for batch in parts:
            with self.accelerator.accumulate(self.model):
                output = self.forward(batch, fraction)
                loss = output.loss * sampler.weight(len(batch["labels"]))
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.update(window)
            window.losses.append(loss.detach())
            window.tokens += batch["labels"].numel() * self.accelerator.num_processes
        window.learning_rate = rate
        progress.step += 1

    def update(self, window: LossWindow) -> None:
        """Clips the (unscaled) gradients and steps; a gradient that is not finite leaves the weights unchanged.

        Raises:
            FloatingPointError: after `max_skipped_steps` such steps in a row.
        """
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.run.max_grad_norm)
        finite = bool(torch.isfinite(torch.as_tensor(norm)))
        # in fp16 the scaler skips such steps itself, and must see every step to adjust its scale
        for optimizer in self.optimizers:
            if finite or self.run.mixed_precision == "fp16":
                optimizer.step()
            optimizer.zero_grad()
        if finite:
            window.gradient_norm = norm
            self.skipped_in_a_row = 0
            return
        self.progress.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.run.max_skipped_steps:
            raise FloatingPointError(
                f"The gradient was not finite in {self.skipped_in_a_row} steps in a row, up to step "
                f"{self.progress.step + 1}: lower the learning rate or train in fp32 or bf16; the last checkpoint in "
                f"{self.folder.path} is intact."
            )

    def forward(self, batch: Batch, fraction: float) -> Any:
        """Loss and logits of a micro-batch, with guidance dropout and history dropout drawn per sample."""
        null = null_rows(self.config.conditioning_dropout, draw_seeds(self.run.seed, batch["sample"], "guidance"))
        return self.model(
            input_ids=teacher_forcing(batch, self.config, self.run, self.history_dropout(fraction)),
            conditioning_ids=batch["conditioning_ids"],
            labels=batch["labels"],
            null_conditioning=null.to(batch["labels"].device),
            use_cache=False,
        )

    def history_dropout(self, fraction: float) -> float:
        """History dropout rate after the given fraction of the run."""
        start, end = self.run.history_dropout, self.run.history_dropout_end
        return start if end is None else start + (end - start) * fraction

    def log_window(self, window: LossWindow, fraction: float) -> None:
        """Writes one line of training metrics."""
        self.write(
            {
                **window.metrics(self.accelerator),
                "history_dropout": self.history_dropout(fraction),
                "hours_of_audio": self.progress.step * self.run.global_batch * self.crops.seconds / 3600,
                "skipped_steps": float(self.progress.skipped),
                "seconds": self.seconds(),
            }
        )

    def write(self, metrics: Metrics) -> None:
        """Writes a line to metrics.jsonl, the log and the trackers, on the main process."""
        self.folder.write_metrics({"step": self.progress.step, **metrics})
        numbers = {key: value for key, value in metrics.items() if isinstance(value, float)}
        if self.accelerator.is_main_process:
            logger.info("step %d %s", self.progress.step, {key: round(value, 5) for key, value in numbers.items()})
        for key, values in metrics.items():
            if isinstance(values, list):
                numbers |= {f"{key}/{place + 1}": value for place, value in enumerate(values)}
        self.accelerator.log(numbers, step=self.progress.step)

    def init_trackers(self) -> None:
        """Records the run's arguments and configuration in run.json and in the trackers."""
        asked = {**asdict(self.data), **asdict(self.run)}
        self.folder.write_run(
            {
                "arguments": asked,
                "processes": self.accelerator.num_processes,
                "crops_a_process": self.batch_sampler(0).largest,
                "config": self.config.to_diff_dict(),
            }
        )
        self.accelerator.init_trackers("hafm", config={key: str(value) for key, value in asked.items()})

    def validate(self) -> None:
        """Validates, logs, and saves the stage as best/ if its matched loss is the lowest so far."""
        if self.validation is None:
            return
        finished = self.finished_stage
        metrics = validate_stage(finished, self.validation, self.data, self.accelerator)
        self.write({f"validation_{key}": value for key, value in metrics.items()})
        matched = metrics["matched"]
        if self.progress.step and isinstance(matched, float) and matched < self.progress.best:
            self.progress.best = matched
            self.folder.save_stage(finished, "best")

    def save_checkpoint(self) -> None:
        """Saves a checkpoint, unless the last step was skipped: a diverged state must not replace a good one."""
        if self.skipped_in_a_row == 0:
            progress = RunProgress(**asdict(self.progress) | {"seconds": self.seconds()})
            self.folder.save_checkpoint(progress)

    def finish(self, window: LossWindow) -> None:
        """Writes the last metrics, validates and saves a checkpoint, unless the last step already did."""
        if window.losses:
            self.log_window(window, self.fraction())
        if not self.due(self.run.validation_steps):
            self.validate()
        if not self.due(self.run.save_steps):
            self.save_checkpoint()
