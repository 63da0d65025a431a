# SPDX-License-Identifier: Apache-2.0
"""Filters segments for training: the paper's two thresholds, and a minimum level of the vocal."""

from dataclasses import dataclass

from ..audio import Samples, rms_dbfs
from .tracks import Reason


@dataclass(frozen=True)
class FilterOptions:
    """Thresholds in dB RMS (paper, section "Data"; `min_vocal_db` is not in the paper).

    Attributes:
        min_instrumental_db (float): segments with a quieter instrumental are dropped.
        max_vocal_excess_db (float): segments whose vocal exceeds the instrumental by more than this are dropped.
        min_vocal_db (float): segments with a quieter vocal have no singing and are dropped. A separated vocal still
            contains some of the band, about 30 dB below it.
    """

    min_instrumental_db: float = -25.0
    max_vocal_excess_db: float = 5.0
    min_vocal_db: float = -50.0


def reason_to_drop(vocal: Samples, instrumental: Samples, options: FilterOptions) -> tuple[Reason, str] | None:
    """Why a segment is dropped, with the measured value and its limit as text; None if it is kept.

    Args:
        vocal, instrumental (float32 [N]): the time-aligned stems of the segment.
        options: thresholds.
    """
    vocal_db = rms_dbfs(vocal)
    instrumental_db = rms_dbfs(instrumental)
    if instrumental_db < options.min_instrumental_db:
        return Reason.QUIET_INSTRUMENTAL, f"{instrumental_db:.1f} dB RMS, at least {options.min_instrumental_db:g}"
    if vocal_db < options.min_vocal_db:
        return Reason.SILENT_VOCAL, f"{vocal_db:.1f} dB RMS, at least {options.min_vocal_db:g}"
    excess_db = vocal_db - instrumental_db
    if excess_db > options.max_vocal_excess_db:
        return Reason.LOUD_VOCAL, f"{excess_db:.1f} dB above the band, at most {options.max_vocal_excess_db:g}"
    return None
