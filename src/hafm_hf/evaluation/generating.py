# SPDX-License-Identifier: Apache-2.0
"""Renders the accompaniments to evaluate with a model; existing renderings are reused."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..accompaniment.options import GenerationOptions
from ..atomic_files import MOST_NAME_LENGTH, shortened
from ..audio import write_audio
from ..lead_sheet.lead_sheet import LeadSheet
from ..pretrained.loading import fingerprint
from .datasets import Clip, Part
from .statistics import HAFMEvaluationError

logger = logging.getLogger(__name__)
# hexadecimal digits of the hash in a rendering's file name
KEY_DIGITS = 16
# parts of a clip's own lead sheet that a model can be given, and their fields in `LeadSheet`
GIVEN = {
    "beats": ("beats", "beats_per_bar", "downbeat"), "chords": ("chords",), "key": ("key",), "energy": ("sections",),
    "style": ("style",),
}  # fmt: skip


@dataclass(frozen=True)
class RenderingOptions:
    """How accompaniments are generated.

    Args:
        model: folder or hub id; the bundled hafm-tiny if None.
        seeds: one accompaniment is rendered per clip and seed.
        device: torch device.
        options: all other generation options.
        given: parts of the clip's own lead sheet to condition on, among the keys of `GIVEN`.

    Raises:
        HAFMEvaluationError: `given` has an unknown part.
    """

    model: str | None = None
    seeds: tuple[int, ...] = (0,)
    device: str = "cpu"
    options: GenerationOptions = GenerationOptions()
    given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Rejects unknown parts of the lead sheet."""
        if unknown := set(self.given) - set(GIVEN):
            raise HAFMEvaluationError(f"given is {min(unknown)!r}; choose from {', '.join(GIVEN)}.")

    @property
    def asked(self) -> dict[str, Any]:
        """The options that are set, by name, for the report and the hash in file names; the model chooses the rest."""
        set_options = {name: value for name, value in asdict(self.options).items() if value is not None}
        if self.given:
            set_options["given"] = self.given
        return set_options

    def sheet_of(self, clip: Clip) -> LeadSheet | None:
        """The parts of a clip's labelled lead sheet to condition the model on; None if `given` is empty.

        Raises:
            HAFMEvaluationError: the clip's labels lack one of the parts.
        """
        if not self.given:
            return None
        labelled = clip.lead_sheet() or LeadSheet()
        for part in self.given:
            # by the part's first field: the others may be missing
            if not getattr(labelled, GIVEN[part][0]):
                raise HAFMEvaluationError(f"{clip.name} has no labels.json with its {part}; leave --given {part} out.")
        names = [name for part in self.given for name in GIVEN[part]]
        return LeadSheet(**{name: getattr(labelled, name) for name in names})


def render(
    clips: Sequence[Clip], folder: Path, options: RenderingOptions, role: str = "vocal"
) -> dict[int, dict[str, Part]]:
    """Generates the accompaniments that are missing in `folder`; a killed run resumes.

    Args:
        clips: clips whose vocals are accompanied.
        folder: for the renderings, seed_SEED/CLIP-KEY.wav; CLIP is cut if the file name would be too long, and KEY is
            a hash of vocal, weights, configs and options.
        options: how to generate.
        role: which of a clip's sounds to accompany: "vocal", or "separated" for the separated vocal.

    Returns:
        The accompaniments by seed and clip name.

    Raises:
        HAFMEvaluationError: a clip's labels lack a part of the lead sheet that the model is to be given.
    """
    from tqdm import tqdm

    from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment

    # before any rendering, so that invalid labels don't stop a run after hours
    sheets = [options.sheet_of(clip) for clip in clips]
    model = HAFMForVocalAccompaniment.from_pretrained(options.model).to(options.device)
    settings = [stage.generation_config.to_dict() for stage in model.stages.values()]
    # what the output depends on apart from the input and options
    identity = [fingerprint(model), str(model.semantic.dtype), settings]
    rendered: dict[int, dict[str, Part]] = {}
    for seed in options.seeds:
        rendered[seed] = {}
        for clip, sheet in zip(tqdm(clips, desc=f"accompanying, seed {seed}", unit="clip"), sheets, strict=True):
            samples, rate = clip.parts()[role].read()
            # everything that determines the accompaniment
            facts = [identity, options.asked, seed, rate]
            if sheet is not None:
                facts.append(asdict(sheet))
            described = json.dumps(facts, sort_keys=True).encode()
            key = hashlib.sha256(described + samples.tobytes()).hexdigest()[:KEY_DIGITS]
            ending = f"-{key}.wav"
            name = shortened(clip.name, MOST_NAME_LENGTH - len(ending))
            path = folder / f"seed_{seed}" / f"{name}{ending}"
            if not path.exists():
                song = model.generate(samples, rate, options=options.options, lead_sheet=sheet, seed=seed)
                write_audio(path, song.audio[0].numpy().T, song.sampling_rate)
            rendered[seed][clip.name] = Part(path)
    return rendered
