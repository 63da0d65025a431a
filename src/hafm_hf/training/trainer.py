"""The training loop of one stage, on any number of processes: the paper's optimisation, watched by paired validation.

Everything random about a sample (crop, guidance dropout, hidden history) follows from (seed, number of the sample), so
that neither the number of processes nor a stop and resume changes what a run sees.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate.utils import broadcast, gather_object
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging

from accelerate import Accelerator

from .arguments import DataArguments, RunArguments
from .data import GlobalBatchSampler, TokenCrops, collate
from .objective import (
    clustered_mean,
    drop_history,
    history_dropout_rate,
    null_rows,
    other_tracks,
    paired_losses,
)

logger = logging.get_logger(__name__)
Batch = dict[str, torch.Tensor]


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint.

    Attributes:
        step (int): optimiser steps done.
        seconds (float): training time so far, validation and earlier sessions included.
        warm_up_end (float): fraction of the run that had passed when warm-up ended.
        best (float): lowest validation loss so far, in nats.
    """

    step: int = 0
    seconds: float = 0.0
    warm_up_end: float = 0.0
    best: float = math.inf


def learning_rate_at(step: int, fraction: float, warm_up_end: float, run: RunArguments) -> float:
    """Learning rate of optimiser step `step` (0-based): linear warm-up, then a cosine (paper, "Training").

    Args:
        step (int): steps done before this one.
        fraction (float): share of the run that has passed, 0..1.
        warm_up_end (float): that share at the end of warm-up.
        run (RunArguments): peak, final rate and warm-up steps.
    """
    if step < run.warmup_steps:
        return run.learning_rate * (step + 1) / run.warmup_steps
    passed = min(max((fraction - warm_up_end) / max(1.0 - warm_up_end, 1e-9), 0.0), 1.0)
    return (
        run.final_learning_rate + (run.learning_rate - run.final_learning_rate) * (1 + math.cos(math.pi * passed)) / 2
    )


class StageTrainer:
    """Trains one stage.

    Args:
        model (PreTrainedModel): a stage.
        crops (TokenCrops): training crops.
        validation (TokenCrops or None): validation crops; None turns validation off.
        data (DataArguments), run (RunArguments): see there.

    Raises:
        ValueError: when the global batch cannot be divided over processes and accumulation.
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
        self.output = Path(run.output_dir)
        self.accelerator = Accelerator(
            mixed_precision=run.mixed_precision,
            gradient_accumulation_steps=run.accumulation,
            log_with=None if run.report_to == "none" else run.report_to,
            project_dir=str(self.output),
        )
        self.sampler(0)  # refuses an indivisible batch before the model moves
        self.config = model.config
        self.span = run.history_span_seconds * self.config.frame_rate
        if run.activation_checkpointing:
            model.activation_checkpointing_enable()
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=run.learning_rate,
            betas=(run.adam_beta1, run.adam_beta2),
            weight_decay=run.weight_decay,
        )
        if run.compile:
            model.compile(dynamic=False)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.progress = Progress()
        self._resumed_at = time.monotonic()

    def sampler(self, first_step: int) -> GlobalBatchSampler:
        """Batches of this process from `first_step` on."""
        run, state = self.run, self.accelerator
        return GlobalBatchSampler(
            run.global_batch, run.accumulation, state.process_index, state.num_processes, first_step, run.max_steps
        )

    def batches(self) -> Iterator[list[Batch]]:
        """Yields the micro-batches of each remaining step, on this process's device."""
        sampler = self.sampler(self.progress.step)
        loader = DataLoader(
            self.crops, batch_sampler=sampler, collate_fn=collate, num_workers=self.data.dataloader_workers
        )
        device, parts = self.accelerator.device, []
        for batch in loader:
            parts.append(
                {key: value.to(device, non_blocking=True) for key, value in batch.items() if value is not None}
            )
            if len(parts) == self.run.accumulation:
                yield parts
                parts = []

    def fraction(self) -> float:
        """Share of the run that has passed, by steps or by hours, whichever is further; equal on all processes."""
        steps = self.progress.step / self.run.max_steps
        if self.run.max_hours is None:
            return steps
        hours = torch.tensor([self.seconds() / 3600], dtype=torch.float64, device=self.accelerator.device)
        return min(1.0, max(steps, float(broadcast(hours)) / self.run.max_hours))

    def seconds(self) -> float:
        """Seconds trained, over all sessions of the run."""
        return self.progress.seconds + time.monotonic() - self._resumed_at

    def train(self) -> Progress:
        """Trains until `max_steps` or `max_hours`; saves checkpoints, the best and the finished stage.

        Raises:
            FloatingPointError: when the loss is not finite; the last checkpoint stays as it is.
        """
        self.resume()
        self.accelerator.init_trackers("hafm", config={**asdict(self.data), **asdict(self.run)})
        shown = self.accelerator.is_local_main_process
        bar = tqdm(
            total=self.run.max_steps, initial=self.progress.step, disable=not shown, mininterval=30, unit="step"
        )
        window = LossWindow(time.monotonic())
        if self.progress.step == 0:
            self.validate()
        for parts in self.batches():
            fraction = self.fraction()
            if fraction >= 1.0:
                break
            self.step(parts, fraction, window)
            bar.update()
            step = self.progress.step
            if step % self.run.logging_steps == 0 or step == 1:
                self.log_window(window, fraction)
                window = LossWindow(time.monotonic())
            if step % self.run.validation_steps == 0:
                self.validate()
                window.begin = time.monotonic()
            if step % self.run.save_steps == 0:
                self.save_checkpoint(window)
        bar.close()
        self.finish(window)
        return self.progress

    def step(self, parts: list[Batch], fraction: float, window: "LossWindow") -> None:
        """One optimiser step over the micro-batches of this process."""
        progress, run = self.progress, self.run
        if progress.step <= run.warmup_steps:
            progress.warm_up_end = fraction
        rate = learning_rate_at(progress.step, fraction, progress.warm_up_end, run)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        for batch in parts:
            with self.accelerator.accumulate(self.model):
                loss = self.loss(batch, fraction)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    window.gradient_norm = self.accelerator.clip_grad_norm_(self.model.parameters(), run.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            window.losses.append(loss.detach())
            window.tokens += batch["labels"].numel() * self.accelerator.num_processes
        window.learning_rate = rate
        progress.step += 1

    def loss(self, batch: Batch, fraction: float) -> torch.Tensor:
        """Training loss of a micro-batch with guidance dropout and history dropout drawn per sample."""
        run, config = self.run, self.config
        seeds = [(run.seed * 1_000_003 + int(sample)) * 2 for sample in batch["sample"]]
        end = run.history_dropout if run.history_dropout_end is None else run.history_dropout_end
        rate = history_dropout_rate(fraction, run.history_dropout, end)
        labels = batch["labels"]
        input_ids = drop_history(labels, config.bos_token_id, config.num_codebooks, rate, self.span, seeds)
        null = null_rows(config.conditioning_dropout, (seed + 1 for seed in seeds)).to(labels.device)
        output = self.model(
            input_ids=input_ids,
            conditioning_ids=batch["conditioning_ids"],
            labels=labels,
            null_conditioning=null,
            use_cache=False,
        )
        return output.loss

    def log_window(self, window: "LossWindow", fraction: float) -> None:
        """Writes one line of training metrics; raises FloatingPointError when the loss is not finite."""
        elapsed = time.monotonic() - window.begin
        loss = self.accelerator.reduce(torch.stack(window.losses).mean(), "mean").item()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss} at step {self.progress.step}: lower the learning rate or train in fp32 or bf16; "
                f"the last checkpoint in {self.output} is intact."
            )
        run = self.run
        end = run.history_dropout if run.history_dropout_end is None else run.history_dropout_end
        self.write(
            {
                "loss": loss,
                "learning_rate": window.learning_rate,
                "gradient_norm": float(window.gradient_norm),
                "history_dropout": history_dropout_rate(fraction, run.history_dropout, end),
                "tokens_per_second": window.tokens / elapsed,
                "hours_of_audio": self.progress.step * run.global_batch * self.crops.seconds / 3600,
                "seconds": self.seconds(),
            }
        )

    def write(self, metrics: dict[str, float | list[float]]) -> None:
        """Appends a line to metrics.jsonl, the log and the trackers, on the main process."""
        line = {"step": self.progress.step, **metrics}
        if self.accelerator.is_main_process:
            self.output.mkdir(parents=True, exist_ok=True)
            with open(self.output / "metrics.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
            logger.info(
                "%s", {key: round(value, 5) if isinstance(value, float) else value for key, value in line.items()}
            )
        self.accelerator.log(
            {key: value for key, value in metrics.items() if isinstance(value, float)}, step=self.progress.step
        )

    def validate(self) -> dict[str, float | list[float]]:
        """Validates, logs, and keeps the stage under best/ when its matched loss is the lowest so far."""
        if self.validation is None:
            return {}
        with eval_mode(self.accelerator.unwrap_model(self.model)) as model:
            metrics = validate_stage(model, self.validation, self.data, self.accelerator)
            if self.run.validate_without_history:
                blind = validate_stage(model, self.validation, self.data, self.accelerator, hide_history=True)
                metrics |= {
                    f"{key}_without_history": value for key, value in blind.items() if isinstance(value, float)
                }
        self.write({f"validation_{key}": value for key, value in metrics.items()})
        matched = metrics["matched"]
        if self.progress.step and isinstance(matched, float) and matched < self.progress.best:
            self.progress.best = matched
            self.save_model(self.output / "best")
        return metrics

    def save_model(self, folder: Path) -> None:
        """Saves the stage as `from_pretrained` reads it, complete or not at all."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            temporary = folder.with_name(folder.name + ".part")
            shutil.rmtree(temporary, ignore_errors=True)
            self.accelerator.unwrap_model(self.model, keep_torch_compile=False).save_pretrained(temporary)
            replace_folder(temporary, folder)

    def save_checkpoint(self, window: "LossWindow | None" = None) -> None:
        """Saves everything that resuming needs, under a temporary name first, and drops the oldest checkpoints."""
        if window is not None and window.losses and not torch.isfinite(torch.stack(window.losses)).all():
            self.log_window(window, self.fraction())  # raises: a broken state must not replace a good one
        folder = self.output / f"checkpoint-{self.progress.step:07d}"
        temporary = folder.with_name(folder.name + ".part")
        if self.accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(temporary))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            state = asdict(self.progress) | {"seconds": self.seconds()}
            (temporary / "progress.json").write_text(json.dumps(state))
            replace_folder(temporary, folder)
            for old in self.checkpoints()[: -self.run.keep_checkpoints]:
                shutil.rmtree(old)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints of the run, oldest first."""
        return sorted(
            path.parent for path in self.output.glob("checkpoint-*/progress.json") if path.parent.suffix != ".part"
        )

    def resume(self) -> None:
        """Continues from the newest checkpoint ("auto") or a named one; metrics behind it are dropped.

        Raises:
            FileNotFoundError: when a named checkpoint is missing or incomplete.
        """
        if self.run.resume == "none":
            return
        named = self.run.resume != "auto"
        found = [Path(self.run.resume)] if named else self.checkpoints()
        if not found:
            return
        if not (found[-1] / "progress.json").is_file():
            raise FileNotFoundError(f"{found[-1]} is no complete checkpoint: progress.json is missing.")
        self.accelerator.load_state(str(found[-1]))
        self.progress = Progress(**json.loads((found[-1] / "progress.json").read_text()))
        self._resumed_at = time.monotonic()
        log = self.output / "metrics.jsonl"
        if self.accelerator.is_main_process and log.is_file():
            lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= self.progress.step]
            log.write_text("".join(line + "\n" for line in lines))
        logger.info("Resumed from %s at step %d.", found[-1], self.progress.step)

    def finish(self, window: "LossWindow") -> None:
        """Last validation, checkpoint, and the finished stage."""
        if window.losses:
            self.log_window(window, self.fraction())
        if self.progress.step % self.run.validation_steps:
            self.validate()
        if self.progress.step % self.run.save_steps:
            self.save_checkpoint()
        self.save_model(self.output / "final")
        self.accelerator.end_training()


class LossWindow:
    """What has happened since the last log line; losses stay on the device until it is written."""

    def __init__(self, begin: float) -> None:
        self.begin = begin
        self.losses: list[torch.Tensor] = []
        self.tokens = 0
        self.learning_rate = 0.0
        self.gradient_norm: torch.Tensor | float = 0.0


@contextmanager
def eval_mode(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The model in evaluation mode, put back afterwards."""
    training = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(training)


def validate_stage(
    model: PreTrainedModel,
    validation: TokenCrops,
    data: DataArguments,
    accelerator: Accelerator,
    hide_history: bool = False,
) -> dict[str, float | list[float]]:
    """Validation losses of a stage in nats a token.

    Returns:
        `matched`, `shuffled`, `none` (means over clips and codebooks); `codebooks` (matched, per codebook);
        `paired_difference` (shuffled - matched of the same targets) and `paired_difference_error`, its standard error
        over tracks; `clips`.
    """
    crops = validation.fixed_crops(data.validation_crops)
    tracks = validation.tracks(crops)
    partners = other_tracks(tracks)
    share = list(range(len(crops)))[accelerator.process_index :: accelerator.num_processes]
    found: list[tuple[int, dict[str, torch.Tensor]]] = []
    for begin in range(0, len(share), data.validation_batch):
        chosen = share[begin : begin + data.validation_batch]
        batch = collate([validation.read(crops[clip]) for clip in chosen])
        other = collate([validation.read(crops[partners[clip]]) for clip in chosen])
        tensors = (batch["conditioning_ids"], other["conditioning_ids"], batch["labels"])
        right, wrong, labels = (value.to(accelerator.device) for value in tensors if value is not None)
        with accelerator.autocast():
            losses = paired_losses(model, right, wrong, labels, hide_history)
        for place, clip in enumerate(chosen):
            found.append((clip, {name: value[place].cpu() for name, value in losses.items()}))
    gathered = dict(gather_object(found))
    rows = {
        name: torch.stack([gathered[clip][name] for clip in range(len(crops))])
        for name in ("matched", "shuffled", "none")
    }
    difference = clustered_mean((rows["shuffled"] - rows["matched"]).mean(dim=1), tracks)
    return {
        **{name: value.mean().item() for name, value in rows.items()},
        "codebooks": rows["matched"].mean(dim=0).tolist(),
        "paired_difference": difference.mean,
        "paired_difference_error": difference.error,
        "clips": float(len(crops)),
    }


def replace_folder(temporary: Path, folder: Path) -> None:
    """Puts a complete folder in place of an older one."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
