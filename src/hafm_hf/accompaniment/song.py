# SPDX-License-Identifier: Apache-2.0
"""What the composite returns, and what it is given: vocals, and the lead sheet that options ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers.utils import ModelOutput

from ..audio import check_sampling_rate
from ..audio.feature_extraction_hafm import mono_vocals
from ..lead_sheet.lead_sheet import LeadSheet
from ..lead_sheet.vocabulary import ENERGIES
from ..listening.transcription import energies
from .options import GenerationOptions


@dataclass
class HAFMAccompanimentOutput(ModelOutput):
    """Output of `HAFMForVocalAccompaniment.generate`; lists have an entry per vocal and sample, samples innermost.

    Args:
        audio: instrumentals, float32 [N] each, [C, N] from a codec with several channels, as long as their vocal.
        sampling_rate: sampling rate of `audio`, in Hz.
        vocal_semantic: int64 [T_v] each, at 50 Hz.
        instrumental_semantic: int64 [T_v] each, at 50 Hz.
        codes: int64 [Q, T_a] each, the codec's codebooks at its frame rate; Q is 8, or 4 without the fine stage.
        lead_sheets: the `LeadSheet` of each, as far as it was given or estimated.
        stems: stems of each by name (float32 [N] or [C, N]), which sum to `audio`; only if requested.
    """

    audio: list[torch.Tensor]
    sampling_rate: int = None  # type: ignore[assignment]
    vocal_semantic: list[torch.Tensor] = None  # type: ignore[assignment]
    instrumental_semantic: list[torch.Tensor] = None  # type: ignore[assignment]
    codes: list[torch.Tensor] = None  # type: ignore[assignment]
    lead_sheets: list[LeadSheet] = None  # type: ignore[assignment]
    stems: list[dict[str, torch.Tensor]] | None = None


def drawn_style(styles: Sequence[str], seed: int, sample: int = 0) -> str:
    """The style of a sample if none is given; consecutive seeds and samples get different styles."""
    return styles[(seed + sample) % len(styles)]


def requested_lead_sheet(
    vocal: np.ndarray, sampling_rate: int, lead_sheet: LeadSheet | None, options: GenerationOptions
) -> LeadSheet | None:
    """Adds the style and energy of the options to the lead sheet of a mono vocal (float32 [N])."""
    changes: dict[str, Any] = {} if options.style is None else {"style": options.style}
    sheet = LeadSheet() if lead_sheet is None else lead_sheet
    estimated = {*sheet.estimated} - changes.keys()
    if options.energy in ENERGIES:
        changes["sections"] = [(0.0, len(vocal) / sampling_rate, options.energy)]
        estimated -= {"sections"}
    elif options.energy is not None and not sheet.sections:
        changes["sections"] = energies(vocal, sampling_rate, sheet.downbeats)
        estimated |= {"sections"}
    return replace(sheet, **changes, estimated=sorted(estimated)) if changes else lead_sheet


def given_vocals(
    own_rate: int, vocals: Any, sampling_rate: int | None, input_values: Any = None, padding_mask: Any = None
) -> tuple[list[np.ndarray], int]:
    """The vocals without padding, float32 [N] each, and their rate in Hz: for `input_values` it is `own_rate`.

    Raises:
        ValueError: if there is no vocal or two sources, one is not mono, or the mask or the rate does not fit.
    """
    if (vocals is None) is (input_values is None):
        raise ValueError("There is no vocal, or two; give either vocals or the feature extractor's input_values.")
    rows = mono_vocals(input_values if vocals is None else vocals, padding_mask)
    if not rows:
        raise ValueError("There is no vocal; the batch is empty.")
    return rows, own_rate if vocals is None else check_sampling_rate(sampling_rate)


def one_vocal(vocals: Sequence[Any]) -> Any:
    """The only vocal; ValueError if there are none or several."""
    if len(vocals) != 1:
        raise ValueError(f"A stream takes one vocal, and {len(vocals)} were given.")
    return vocals[0]


def without_one_channel(audio: torch.Tensor) -> torch.Tensor:
    """Drops the channel axis of mono audio (float32 […, C, N]): […, N] if C is 1."""
    return audio.squeeze(-2) if audio.shape[-2] == 1 else audio
