# SPDX-License-Identifier: Apache-2.0
"""The training loop of one stage, on any number of processes: the paper's optimisation, with paired validation.

Everything random about a sample (crop, guidance dropout, hidden history) is determined by (seed, sample number), so
that neither the number of processes nor stopping and resuming changes the samples of a run.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging

from .arguments import CorruptionArguments, DataArguments, OptimizationArguments, RunArguments
from .checkpoints import RunFolder, RunProgress
from .data import GlobalBatchSampler, TokenCrops
from .inputs import history_inputs, unconditioned_rows
from .optimizers import make_optimizers, scheduled_rate
from .stages import plain_stage
from .validation import Metrics, validate_stage

logger = logging.get_logger(__name__)
Batch = dict[str, torch.Tensor]


def finite_mean(losses: torch.Tensor, accelerator: Accelerator) -> float:
    """Mean of the finite losses of all processes; NaN if there are none. Every process has to call this.

    Args:
        losses (float [N]): this process's; N may differ between processes.
        accelerator: the run's.
    """
    finite = torch.isfinite(losses)
    total_and_count = torch.stack([torch.where(finite, losses, 0.0).sum(), finite.sum().to(losses.dtype)])
    # over all processes
    total, count = accelerator.reduce(total_and_count, "sum").tolist()
    return total / count if count else math.nan


class StageTrainer:
    """Trains one stage.

    Args:
        model: a stage, with or without adapters.
        crops (TokenCrops): training crops.
        validation (TokenCrops or None): validation crops; None turns validation off.
        data, corruption, optimization, run: arguments of the run.

    Raises:
        ValueError: when the global batch has less than one sample per process or is larger than the corpus, or the
            tracker that `run` names is not installed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        crops: TokenCrops,
        validation: TokenCrops | None,
        data: DataArguments,
        corruption: CorruptionArguments,
        optimization: OptimizationArguments,
        run: RunArguments,
    ) -> None:
        self.crops = crops
        self.validation = validation
        self.data = data
        self.corruption = corruption
        self.optimization = optimization
        self.run = run
        self.accelerator = Accelerator(
            mixed_precision=optimization.mixed_precision,
            log_with=None if run.report_to == "none" else run.report_to,
            project_dir=run.output_dir,
        )
        if run.report_to != "none" and not self.accelerator.log_with:
            raise ValueError(f"{run.report_to} is not installed, so nothing would be reported: install it first.")
        # rejects a batch that is too small before the model is moved to the device
        self.accelerator.gradient_accumulation_steps = self.batch_sampler(first_step=0).accumulation
        if len(crops) < optimization.global_batch:
            raise ValueError(
                f"The corpus holds {len(crops)} crops of {crops.seconds:g} s, fewer than a global batch of "
                f"{optimization.global_batch}: add tracks, shorten crop_seconds or lower global_batch."
            )
        self.config = model.config
        if run.activation_checkpointing:
            model.activation_checkpointing_enable()
        optimizers = make_optimizers(model.to(self.accelerator.device), optimization)
        if run.compile:
            model.compile(dynamic=False)
        self.model, *self.optimizers = self.accelerator.prepare(model, *optimizers)
        self.folder = RunFolder(Path(run.output_dir), self.accelerator, run.keep_checkpoints)
        self.progress = RunProgress()
        self.skipped_in_a_row = 0
        # on the clock of time.monotonic, in seconds
        self._began = time.monotonic()
        self.learning_rate = 0.0
        self.gradient_norm: torch.Tensor | float = 0.0
        self.start_report_interval()

    @property
    def finished_stage(self) -> PreTrainedModel:
        """The stage to validate and save: without distributed or compiled wrappers, and with adapters merged."""
        return plain_stage(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))

    def batch_sampler(self, first_step: int) -> GlobalBatchSampler:
        """Sampler of this process's micro-batches from `first_step` on."""
        return GlobalBatchSampler(
            self.optimization.global_batch,
            self.optimization.accumulation,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            first_step,
            self.optimization.max_steps,
        )

    def batches(self) -> Iterator[list[Batch]]:
        """Yields the micro-batches of each remaining step, on this process's device."""
        sampler = self.batch_sampler(self.progress.step)
        workers = self.data.dataloader_workers
        loader = DataLoader(
            self.crops,
            batch_sampler=sampler,
            # its own: without one, a loader draws a seed from torch's global generator, whose state was just restored
            generator=torch.Generator(),
            num_workers=workers,
            # forked workers would inherit the threads of Arrow and CUDA, and have crashed
            multiprocessing_context="spawn" if workers else None,
        )
        micro_batches = []
        for batch in loader:
            device = self.accelerator.device
            micro_batches.append({key: value.to(device, non_blocking=True) for key, value in batch.items()})
            if len(micro_batches) == sampler.accumulation:
                yield micro_batches
                micro_batches = []

    def fraction(self) -> float:
        """Fraction of the run that has passed, 0..1, by steps or by hours, whichever is larger.

        It is equal on all processes: the hours are the main process's.
        """
        by_steps = self.progress.step / self.optimization.max_steps
        if self.optimization.max_hours is None:
            return by_steps
        hours = torch.tensor([self.seconds() / 3600], dtype=torch.float64, device=self.accelerator.device)
        by_hours = float(broadcast(hours)) / self.optimization.max_hours
        return min(1.0, max(by_steps, by_hours))

    def seconds(self) -> float:
        """Training time in seconds, over all sessions of the run."""
        return self.progress.seconds + time.monotonic() - self._began

    def train(self) -> None:
        """Trains until `max_steps` or `max_hours`; saves checkpoints, and the best and the finished stage.

        Raises:
            FloatingPointError: when gradients are no longer finite; the last checkpoint is intact.
            OSError: when something can't be written; what was saved before is intact.
            ValueError: when the machines of the run do not share its output folder.
        """
        self.folder.require_shared()
        self.progress = self.folder.load_checkpoint(self.run.resume, self.config)
        self.init_trackers()
        self._began = time.monotonic()
        first = self.progress.step
        bar = tqdm(
            total=self.optimization.max_steps,
            initial=first,
            disable=not self.accelerator.is_local_main_process,
            mininterval=30,
            unit="step",
        )
        if first == 0:
            # the losses before any training
            self.validate()
        self.start_report_interval()
        for micro_batches in self.batches():
            fraction = self.fraction()
            if fraction >= 1.0:
                break
            self.step(micro_batches, fraction)
            bar.update()
            logged = self.due(self.run.logging_steps) or self.progress.step == 1
            if logged:
                self.log_report_interval(fraction)
            if self.due(self.run.validation_steps):
                self.validate()
            if self.due(self.run.save_steps):
                self.save_checkpoint()
            if logged:
                # validation and checkpointing must not count towards the next interval's speed
                self.start_report_interval()
        bar.close()
        if self.progress.step > first:
            self.finish()
        self.folder.save_stage(self.finished_stage, "final")
        self.accelerator.end_training()

    def due(self, every: int) -> bool:
        """Whether something that happens every `every` steps is due after this step."""
        return self.progress.step % every == 0

    def step(self, micro_batches: list[Batch], fraction: float) -> None:
        """One optimiser step over the micro-batches of this process.

        A gradient that is not finite leaves the weights unchanged.

        Args:
            micro_batches: of this step, each from `TokenCrops` (see `history_inputs`).
            fraction: of the run that has passed, 0..1, which determines learning rate and history dropout.

        Raises:
            FloatingPointError: after `max_skipped_steps` steps in a row whose gradient was not finite.
        """
        self.learning_rate = self.learning_rate_at(fraction)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate
        dropout = self.corruption.history_dropout_at(fraction)
        sampler = self.batch_sampler(self.progress.step)
        finite = True
        self.model.train()

        for batch in micro_batches:
            with self.accelerator.accumulate(self.model):
                output = self.model(
                    input_ids=history_inputs(batch, self.config, self.corruption, dropout, self.run.seed),
                    conditioning_ids=batch["conditioning_ids"],
                    null_conditioning=unconditioned_rows(
                        self.config.conditioning_dropout, self.run.seed, batch["sample"]
                    ),
                    labels=batch["labels"],
                    use_cache=False,
                )
                loss = output.loss * sampler.weight(len(batch["labels"]))
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.optimization.max_grad_norm)
                    finite = math.isfinite(norm)
                    if finite:
                        self.gradient_norm = norm
                    for optimizer in self.optimizers:
                        # in fp16 the scaler itself skips such steps, and must see every step to adjust its scale
                        if finite or self.optimization.mixed_precision == "fp16":
                            optimizer.step()
                        optimizer.zero_grad()
            self.losses.append(loss.detach())
            self.tokens += batch["labels"].numel() * self.accelerator.num_processes

        self.progress.step += 1
        if finite:
            self.skipped_in_a_row = 0
        else:
            self.count_skipped_step()

    def learning_rate_at(self, fraction: float) -> float:
        """Learning rate of the next step, after a fraction (0..1) of the run: a warm-up, then a half cosine.

        Warm-up lasts `warmup_steps` steps; the cosine spans the rest of the run, in steps or hours. The fraction at
        which warm-up ends is kept in `progress.warm_up_end`, for later steps and after resuming.
        """
        arguments = self.optimization
        progress = self.progress
        if arguments.max_hours is None:
            progress.warm_up_end = arguments.warmup_steps / arguments.max_steps
        elif progress.step <= arguments.warmup_steps:
            # how much of the hours warm-up takes is only known when it ends
            progress.warm_up_end = fraction
        # fraction of the run after warm-up; the limit avoids a division by 0 if warm-up lasts to the end
        passed = (fraction - progress.warm_up_end) / max(1.0 - progress.warm_up_end, 1e-9)
        return scheduled_rate(
            progress.step, arguments.warmup_steps, passed, arguments.learning_rate, arguments.final_learning_rate
        )

    def count_skipped_step(self) -> None:
        """Counts a step whose gradient was not finite; raises FloatingPointError when there are too many in a row."""
        self.progress.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.optimization.max_skipped_steps:
            raise FloatingPointError(
                f"The gradient was not finite in {self.skipped_in_a_row} steps in a row, up to step "
                f"{self.progress.step}: lower the learning rate or train in fp32 or bf16; the last checkpoint in "
                f"{self.folder.path} is intact."
            )

    def start_report_interval(self) -> None:
        """Resets losses, tokens, gradient norm and time, from which the next line of training metrics is computed."""
        self.interval_began = time.monotonic()
        # one for each micro-batch; kept on the device, so that no step waits for a transfer
        self.losses: list[torch.Tensor] = []
        self.tokens = 0
        self.gradient_norm = 0.0

    def log_report_interval(self, fraction: float) -> None:
        """Writes one line of training metrics on the steps since `start_report_interval`.

        Its loss is a mean over all processes, NaN if none was finite.

        Args:
            fraction: of the run that has passed, 0..1, for the share of hidden history.
        """
        # the limit avoids a division by 0
        elapsed = max(time.monotonic() - self.interval_began, 1e-9)
        self.write(
            {
                "loss": finite_mean(torch.stack(self.losses), self.accelerator),
                "learning_rate": self.learning_rate,
                "gradient_norm": float(self.gradient_norm),
                "tokens_per_second": self.tokens / elapsed,
                "history_dropout": self.corruption.history_dropout_at(fraction),
                "hours_of_audio": self.progress.step * self.optimization.global_batch * self.crops.seconds / 3600,
                "skipped_steps": float(self.progress.skipped),
                "seconds": self.seconds(),
            }
        )

    def write(self, metrics: Metrics) -> None:
        """Writes metrics by name to metrics.jsonl, the log and the trackers, on the main process.

        Lists, which have a value for each codebook, are left out of the log; trackers get them as `name/1`, `name/2` …
        """
        self.folder.write_metrics({"step": self.progress.step, **metrics})
        numbers = {key: value for key, value in metrics.items() if isinstance(value, float)}
        if self.accelerator.is_main_process:
            logger.info("step %d %s", self.progress.step, {key: round(value, 5) for key, value in numbers.items()})
        for key, values in metrics.items():
            if isinstance(values, list):
                numbers |= {f"{key}/{position + 1}": value for position, value in enumerate(values)}
        self.accelerator.log(numbers, step=self.progress.step)

    def init_trackers(self) -> None:
        """Records the run's arguments and configuration in run.json and in the trackers."""
        groups = (self.data, self.corruption, self.optimization, self.run)
        arguments = {name: value for group in groups for name, value in asdict(group).items()}
        self.folder.write_run(
            {
                "arguments": arguments,
                "processes": self.accelerator.num_processes,
                "crops_a_process": self.batch_sampler(first_step=0).largest,
                "config": self.config.to_diff_dict(),
            }
        )
        self.accelerator.init_trackers("hafm", config={key: str(value) for key, value in arguments.items()})

    def validate(self) -> None:
        """Validates, logs, and saves the stage as best/ if its matched loss is the lowest so far.

        Before the first step it saves nothing. Without validation crops it does nothing.
        """
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

    def finish(self) -> None:
        """Writes the last metrics, validates and saves a checkpoint, each unless the last step already did."""
        # there are none if the last step was logged
        if self.losses:
            self.log_report_interval(self.fraction())
        if not self.due(self.run.validation_steps):
            self.validate()
        if not self.due(self.run.save_steps):
            self.save_checkpoint()
