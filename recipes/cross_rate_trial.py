# SPDX-License-Identifier: Apache-2.0
"""Compares the position schemes on the synthetic cross-rate task and prints the table of docs/log.md.

OMP_NUM_THREADS=1 python recipes/cross_rate_trial.py --sources 1 --schemes index time

Conditioning at 50 Hz is piecewise constant; the target at 75 Hz × Q is a noisy function of the conditioning at the
same instant. Each target codebook follows a conditioning stream of its own and streams change often, so that the
history says little: the loss says how well a position scheme ties the two rates together, and the loss on clips longer
than those of training says whether it does so beyond them.
"""

import json
import logging
import math
import time
from dataclasses import dataclass, field

import torch
from transformers import HfArgumentParser, PreTrainedModel

from hafm_hf.modeling.configuration_hafm import HAFMCoarseConfig
from hafm_hf.modeling.modeling_hafm import HAFMCoarseForCausalLM
from hafm_hf.training.objective import Estimate, clustered_mean, token_losses

logger = logging.getLogger("hafm_hf.recipes.cross_rate_trial")


@dataclass(frozen=True)
class CrossRateTask:
    """Streams whose target depends on the conditioning at the same instant only.

    Attributes:
        sources (int): conditioning sources S, each with Q / S streams.
        codebooks (int): target codebooks Q, a multiple of S; codebook q follows stream q.
        vocabulary (int): tokens of every stream.
        noise (float): share of target tokens drawn at random.
        mean_hold (float): mean length in conditioning frames of a constant stretch.
        conditioning_frame_rate, frame_rate (int): Hz.
        seed (int): draws the fixed functions from conditioning to target.
    """

    sources: int = 1
    codebooks: int = 4
    vocabulary: int = 16
    noise: float = 0.1
    mean_hold: float = 2.5
    conditioning_frame_rate: int = 50
    frame_rate: int = 75
    seed: int = 0

    @property
    def floor(self) -> float:
        """Lowest reachable loss in nats: the entropy of a target token given its conditioning."""
        other = self.noise / self.vocabulary
        right = 1.0 - self.noise + other
        return -right * math.log(right) - (self.vocabulary - 1) * other * math.log(other)

    @property
    def functions(self) -> torch.Tensor:
        """int64 [Q, vocabulary]: what each codebook makes of its conditioning token, a permutation each."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.stack([torch.randperm(self.vocabulary, generator=generator) for _ in range(self.codebooks)])

    def clean_target(self, conditioning: torch.Tensor) -> torch.Tensor:
        """The target without noise: conditioning (int64 [B, Q, T_c]) → int64 [B, Q, T]."""
        frames = conditioning.shape[-1] * self.frame_rate // self.conditioning_frame_rate
        sounding = torch.arange(frames) * self.conditioning_frame_rate // self.frame_rate
        functions = self.functions
        codes = [functions[q][conditioning[:, q, sounding]] for q in range(self.codebooks)]
        return torch.stack(codes, dim=1)

    def draw(self, batch: int, seconds: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws clips.

        Returns:
            conditioning (int64 [B, Q, T_c]) and flat labels (int64 [B, T·Q]).
        """
        shape = (batch, self.codebooks, round(seconds * self.conditioning_frame_rate))
        stretch = (torch.rand(shape, generator=generator) < 1.0 / self.mean_hold).long().cumsum(dim=-1)
        values = torch.randint(self.vocabulary, (*shape[:2], shape[2] + 1), generator=generator)
        conditioning = values.gather(-1, stretch)
        codes = self.clean_target(conditioning)
        random = torch.randint(self.vocabulary, codes.shape, generator=generator)
        noisy = torch.where(torch.rand(codes.shape, generator=generator) < self.noise, random, codes)
        return conditioning, noisy.transpose(1, 2).flatten(1)

    def config(self, position_scheme: str, seconds: float, width: int, layers: int, heads: int) -> HAFMCoarseConfig:
        """A stage of the coarse shape for clips of `seconds`."""
        frames = round(seconds * self.conditioning_frame_rate)
        return HAFMCoarseConfig(
            conditioning_codebook_sizes=[[self.vocabulary] * (self.codebooks // self.sources)] * self.sources,
            codebook_sizes=[self.vocabulary] * self.codebooks,
            conditioning_frame_rate=self.conditioning_frame_rate,
            frame_rate=self.frame_rate,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            head_dim=width // heads,
            position_scheme=position_scheme,
            relative_attention_max_distance=round(seconds * self.frame_rate) * self.codebooks + self.sources * frames,
            time_attention_max_distance=max(frames, 64),
            conditioning_dropout=0.0,
            window_seconds=seconds,
        )


@dataclass(frozen=True)
class TrialArguments:
    """Size and optimisation of a trial."""

    seconds: float = 1.0
    steps: int = 800
    batch: int = 16
    width: int = 128
    layers: int = 4
    heads: int = 4
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    evaluation_clips: int = 64
    seed: int = 0


def train_cross_rate(task: CrossRateTask, position_scheme: str, arguments: TrialArguments) -> PreTrainedModel:
    """Trains a stage of the coarse shape on the task's short clips; returns it in evaluation mode."""
    torch.manual_seed(arguments.seed)
    model = HAFMCoarseForCausalLM(
        task.config(position_scheme, arguments.seconds, arguments.width, arguments.layers, arguments.heads)
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
    generator = torch.Generator().manual_seed(arguments.seed + 1)
    for step in range(arguments.steps):
        cosine = (1 + math.cos(math.pi * step / arguments.steps)) / 2
        optimizer.param_groups[0]["lr"] = (
            arguments.learning_rate * min(1.0, (step + 1) / arguments.warmup_steps) * cosine
        )
        conditioning, labels = task.draw(arguments.batch, arguments.seconds, generator)
        loss = model(conditioning_ids=conditioning, labels=labels, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def evaluate_cross_rate(
    model: PreTrainedModel, task: CrossRateTask, seconds: float, clips: int, seed: int = 10_000
) -> Estimate:
    """Loss in nats a token on fresh clips of `seconds`, with its standard error over clips."""
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(0, clips, 8):
        conditioning, labels = task.draw(8, seconds, generator)
        input_ids = model.model.pattern.inputs(labels, model.config.bos_token_id)
        logits = model(input_ids=input_ids, conditioning_ids=conditioning, use_cache=False).logits
        losses.append(token_losses(logits, labels, task.codebooks).mean(dim=1))
    values = torch.cat(losses)
    return clustered_mean(values, [str(clip) for clip in range(len(values))])


@torch.no_grad()
def generated_agreement(model: PreTrainedModel, task: CrossRateTask, seconds: float, clips: int = 8) -> float:
    """Share of greedily generated tokens that are the function of the conditioning at their own instant."""
    conditioning, _ = task.draw(clips, seconds, torch.Generator().manual_seed(20_000))
    wanted = task.clean_target(conditioning).transpose(1, 2).flatten(1)
    generated = model.generate(conditioning_ids=conditioning, do_sample=False, guidance_scale=1.0)[:, 1:]
    return (generated == wanted).float().mean().item()


def cross_rate_row(task: CrossRateTask, position_scheme: str, arguments: TrialArguments) -> dict[str, float | str]:
    """Trains one scheme and measures it at once and twice the training length."""
    begin = time.monotonic()
    model = train_cross_rate(task, position_scheme, arguments)
    row: dict[str, float | str] = {"sources": task.sources, "scheme": position_scheme, "floor": task.floor}
    row["train_seconds"] = time.monotonic() - begin
    for times in (1, 2):
        estimate = evaluate_cross_rate(model, task, times * arguments.seconds, arguments.evaluation_clips)
        row[f"loss_{times}x"], row[f"error_{times}x"] = estimate.mean, estimate.error
        row[f"agreement_{times}x"] = generated_agreement(model, task, times * arguments.seconds)
    return row


@dataclass
class RecipeArguments:
    """Which trials to run, and how large."""

    sources: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "conditioning sources to try"})
    schemes: list[str] = field(default_factory=lambda: ["index", "time"], metadata={"help": "position schemes to try"})
    codebooks: int = field(default=4, metadata={"help": "target codebooks, as many conditioning streams"})
    vocabulary: int = 16
    seconds: float = field(default=1.0, metadata={"help": "length of a training clip"})
    steps: int = 800
    batch: int = 16
    width: int = 128
    layers: int = 4
    heads: int = 4
    learning_rate: float = 2e-3
    seed: int = 0


def main() -> None:
    """Runs the trials one after the other, a JSON line each, then the table."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    torch.set_num_threads(1)
    recipe = HfArgumentParser(RecipeArguments).parse_args_into_dataclasses()[0]
    trial = TrialArguments(
        seconds=recipe.seconds,
        steps=recipe.steps,
        batch=recipe.batch,
        width=recipe.width,
        layers=recipe.layers,
        heads=recipe.heads,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
    )
    rows = []
    for sources in recipe.sources:
        for scheme in recipe.schemes:
            task = CrossRateTask(sources=sources, codebooks=recipe.codebooks, vocabulary=recipe.vocabulary)
            rows.append(cross_rate_row(task, scheme, trial))
            logger.info("%s", json.dumps(rows[-1]))
    print("| sources | scheme | floor | loss at 1 × | loss at 2 × | agreement at 1 × | at 2 × |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        losses = "{loss_1x:.3f} ± {error_1x:.3f} | {loss_2x:.3f} ± {error_2x:.3f}".format_map(row)
        agreements = "{agreement_1x:.3f} | {agreement_2x:.3f}".format_map(row)
        print(f"| {row['sources']} | {row['scheme']} | {row['floor']:.3f} | {losses} | {agreements} |")


if __name__ == "__main__":
    main()
