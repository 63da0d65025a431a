"""What a command was asked to generate, and the pipeline on the device that it asked for."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import HAFMCommandError, loading

if TYPE_CHECKING:
    from ..accompaniment.pipeline_hafm import HAFMPipeline

# of an option of sampling: the stages of a model seldom agree on one value
OF_EVERY_STAGE = "in every stage; each has its own value if not given"


class Device(str, enum.Enum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Decoding(str, enum.Enum):
    """The loop that draws the tokens."""

    fast = "fast"
    reference = "reference"


class Weights(str, enum.Enum):
    """Precision of the stages' matrices, beside --dtype."""

    int8 = "int8"


class DType(str, enum.Enum):
    """Precision that the stages compute in; auto is float32, however they are stored."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass
class Request:
    """What `accompany` was asked for, beside the vocals."""

    model: str | None
    out: Path
    samples: int
    device: Device
    dtype: DType
    as_json: bool
    plot: bool
    stream: bool
    parameters: dict[str, Any]


def load_pipeline(request: Request) -> HAFMPipeline:
    """The pipeline on the wanted device, or an error that says what to do instead."""
    import torch
    import transformers

    from ..hub.loading import model_source

    device = torch_device(request.device)
    dtype: Any = getattr(torch, request.dtype.value, "auto")
    with loading(request.model):
        model = str(model_source(request.model))
        return transformers.pipeline(
            "vocal-accompaniment", model=model, device=device, dtype=dtype, trust_remote_code=False
        )


def torch_device(wanted: Device) -> str:
    """The device as torch names it; raises HAFMCommandError where this machine has none of the kind."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted is Device.auto:
        return next(name for name, there in available.items() if there)
    if not available[wanted.value]:
        raise HAFMCommandError(f"This machine has no {wanted.value} device that torch can use; try --device cpu.")
    return wanted.value
