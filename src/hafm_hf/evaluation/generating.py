# SPDX-License-Identifier: Apache-2.0
"""Renders the accompaniments of a model that are to be evaluated, each once: what is there is not made again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..accompaniment.options import GenerationOptions
from ..audio import write_audio
from ..lead_sheet.lead_sheet import LeadSheet
from ..pretrained.loading import fingerprint
from .datasets import Clip, Part
from .statistics import HAFMEvaluationError

logger = logging.getLogger(__name__)
KEY_DIGITS = 16
# what a model may be told of a song, and the fields of its lead sheet that say so
TOLD = {
    "beats": ("beats", "beats_per_bar", "downbeat"), "chords": ("chords",), "key": ("key",), "energy": ("sections",),
    "style": ("style",),
}  # fmt: skip


@dataclass(frozen=True)
class RenderingOptions:
    """How a model is asked.

    Args:
        model: folder or hub id; the bundled hafm-tiny if None.
        seeds: one accompaniment a clip and seed.
        device: as torch names it.
        options: the rest.
        told: what it is told of a clip's own lead sheet, among `TOLD`.

    Raises:
        HAFMEvaluationError: a lead sheet has no such part.
    """

    model: str | None = None
    seeds: tuple[int, ...] = (0,)
    device: str = "cpu"
    options: GenerationOptions = GenerationOptions()
    told: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := set(self.told) - set(TOLD):
            raise HAFMEvaluationError(f"told is {min(unknown)!r}; choose from {', '.join(TOLD)}.")

    @property
    def asked(self) -> dict[str, Any]:
        """The options that are not left to the model, by name."""
        given = {name: value for name, value in asdict(self.options).items() if value is not None}
        return given | ({"told": self.told} if self.told else {})

    def sheet_of(self, clip: Clip) -> LeadSheet | None:
        """What the model is told of a clip; nothing, unless asked.

        Raises:
            HAFMEvaluationError: a part is not known of it.
        """
        if not self.told:
            return None
        known = clip.told() or LeadSheet()
        for part in self.told:
            if not getattr(known, TOLD[part][0]):
                raise HAFMEvaluationError(f"{clip.name} has no labels.json with its {part}; leave --told {part} out.")
        return LeadSheet(**{name: getattr(known, name) for part in self.told for name in TOLD[part]})


def render(
    clips: Sequence[Clip], folder: Path, options: RenderingOptions, role: str = "vocal"
) -> dict[int, dict[str, Part]]:
    """Generates what is missing in `folder`; a killed run resumes.

    Args:
        clips: whose vocals are accompanied.
        folder: of SEED/CLIP-KEY.wav; the key is a hash of vocal, weights, configs and options.
        options: how.
        role: "vocal", or "separated" for the vocals of a separation.

    Returns:
        by seed, the accompaniments by clip.

    Raises:
        HAFMEvaluationError: the model is to be told of a clip of which nothing is known.
    """
    from tqdm import tqdm

    from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment

    # before hours of rendering
    sheets = [options.sheet_of(clip) for clip in clips]
    model = HAFMForVocalAccompaniment.from_pretrained(options.model).to(options.device)
    identity = _identity(model)
    rendered: dict[int, dict[str, Part]] = {}
    for seed in options.seeds:
        rendered[seed] = {}
        for clip, sheet in zip(tqdm(clips, desc=f"accompanying, seed {seed}", unit="clip"), sheets, strict=True):
            sound = clip.parts()[role]
            samples, rate = sound.read()
            known = [] if sheet is None else [asdict(sheet)]
            described = json.dumps([identity, options.asked, seed, rate, *known], sort_keys=True).encode()
            key = hashlib.sha256(described + samples.tobytes()).hexdigest()[:KEY_DIGITS]
            path = folder / f"seed_{seed}" / f"{clip.name}-{key}.wav"
            if not path.exists():
                song = model.generate(samples, rate, options=options.options, lead_sheet=sheet, seed=seed)
                write_audio(path, song.audio[0].numpy().T, song.sampling_rate)
            rendered[seed][clip.name] = Part(path)
    return rendered


def _identity(model: Any) -> list[Any]:
    """What a model's music depends on beside the question: weights, and what its generation configs say."""
    settings = [stage.generation_config.to_dict() for stage in model.stages.values()]
    return [fingerprint(model), str(model.semantic.dtype), settings]
