"""Renders the accompaniments of a model that are to be evaluated, each once: what is there is not made again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..accompaniment.song import STAGES
from ..audio import write_audio
from ..hub.loading import fingerprint
from .datasets import Clip, Part

logger = logging.getLogger(__name__)
KEY_DIGITS = 16


@dataclass(frozen=True)
class GenerationOptions:
    """How a model is asked; None leaves the model's own generation config.

    Args:
        model: folder or hub id; the bundled hafm-tiny if None.
        seeds: one accompaniment a clip and seed.
        device: as torch names it.
    """

    model: str | None = None
    seeds: tuple[int, ...] = (0,)
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    skip_fine: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class Rendered:
    """Accompaniments of one seed by clip, and the seconds at which windows of the acoustic stages meet."""

    seed: int
    parts: dict[str, Part]
    borders: dict[str, tuple[float, ...]]


def render(clips: Sequence[Clip], folder: Path, options: GenerationOptions, role: str = "vocal") -> list[Rendered]:
    """Generates what is missing in `folder`; a killed run goes on where it was.

    Args:
        clips: whose vocals are accompanied.
        folder: of SEED/CLIP-KEY.wav and its borders; the key is a hash of vocal, weights, configs and options.
        options: how.
        role: "vocal", or "separated" for the vocals of a separation.

    Returns:
        one entry a seed.
    """
    from tqdm import tqdm

    model = _load(options)
    asked = {name: value for name, value in asdict(options).items() if name not in ("model", "seeds", "device")}
    identity = _identity(model)
    given = {name: value for name, value in asked.items() if value is not None}
    rendered = []
    for seed in options.seeds:
        parts, borders = {}, {}
        for clip in tqdm(clips, desc=f"accompanying, seed {seed}", unit="clip"):
            sound = clip.parts()[role]
            samples, rate = sound.read()
            described = json.dumps([identity, asked, seed, rate], sort_keys=True).encode()
            key = hashlib.sha256(described + samples.tobytes()).hexdigest()[:KEY_DIGITS]
            path = folder / f"seed_{seed}" / f"{clip.name}-{key}.wav"
            beside = path.with_suffix(".borders.json")
            if not (path.exists() and beside.exists()):
                song = model.generate(samples, rate, seed=seed, **given)
                path.parent.mkdir(parents=True, exist_ok=True)
                beside.write_text(json.dumps(song.borders[0]))
                write_audio(path, song.audio[0].numpy(), song.sampling_rate)
            parts[clip.name] = Part(path)
            borders[clip.name] = tuple(json.loads(beside.read_text()))
        rendered.append(Rendered(seed, parts, borders))
    return rendered


def _load(options: GenerationOptions) -> Any:
    from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment

    return HAFMForVocalAccompaniment.from_pretrained(options.model).to(options.device)


def _identity(model: Any) -> list[Any]:
    """What a model's music depends on beside the question: weights, and what its generation configs say."""
    settings = [getattr(model, name).generation_config.to_dict() for name in STAGES]
    return [fingerprint(model), str(model.semantic.dtype), settings]
