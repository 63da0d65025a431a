# SPDX-License-Identifier: Apache-2.0
"""Audio samples during training: what the composite plays when the stage in training takes its place in it."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from accelerate import Accelerator

from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
from ..audio import read_audio, with_channels, write_audio
from .arguments import RunArguments
from .validation import eval_mode


class SongSampler:
    """Generates from one recording with the stage in training, always from the same seed.

    Args:
        run: names the recording, the composite and the seconds.
        stage: semantic, coarse or fine: whose place the stage takes.
        config: the stage's configuration.

    Raises:
        HAFMAudioError: when the recording can't be used.
        ValueError: when the stage's vocabularies or rates are not the composite's.
    """

    def __init__(self, run: RunArguments, stage: str, config: Any) -> None:
        assert run.sample_vocal is not None
        self.run, self.stage = run, stage
        self.vocal, self.rate = read_audio(run.sample_vocal, seconds=run.sample_seconds)
        self.composite = HAFMForVocalAccompaniment.from_pretrained(run.sample_model)
        if stage not in self.composite.stages:
            raise ValueError(f"{run.sample_model} has no {stage} stage; name another composite with --sample_model.")
        theirs = getattr(self.composite, stage).config
        for name in ("conditioning_codebook_sizes", "codebook_sizes", "conditioning_frame_rate", "frame_rate"):
            if getattr(config, name) != getattr(theirs, name):
                raise ValueError(
                    f"{run.sample_model or 'hafm-tiny'} can't play this stage: its {name} is {getattr(theirs, name)}, "
                    f"the stage's {getattr(config, name)}; name the composite of your tokenizers with --sample_model."
                )

    def write(self, model: PreTrainedModel, folder: Path, step: int, accelerator: Accelerator) -> Path:
        """Generates, writes folder/step-NNNNNNN.wav, and hands the audio to TensorBoard."""
        replaced = getattr(self.composite, self.stage)
        self.composite.to(model.device)
        with eval_mode(model), torch.no_grad():
            setattr(self.composite, self.stage, model)
            try:
                output = self.composite.generate(self.vocal, self.rate, seed=self.run.seed)
            finally:
                setattr(self.composite, self.stage, replaced)
        samples = output.audio[0].numpy().T
        path = write_audio(folder / f"step-{step:07d}.wav", samples, output.sampling_rate)
        for tracker in accelerator.trackers:
            if tracker.name == "tensorboard":
                audio = torch.from_numpy(with_channels(samples, 1))[None]
                tracker.writer.add_audio("sample", audio, step, sample_rate=output.sampling_rate)
        return Path(path)
