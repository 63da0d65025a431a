# SPDX-License-Identifier: Apache-2.0
"""Which segments are worth learning from: the paper's two thresholds, and a vocal that is there at all."""

from dataclasses import dataclass

from ..audio import Samples, rms_dbfs
from .tracks import Reason


@dataclass(frozen=True)
class FilterOptions:
    """Thresholds in dB RMS (paper, section "Data"; the silence of vocals is ours).

    Attributes:
        min_instrumental_db (float): a segment whose instrumental is quieter is dropped.
        max_vocal_excess_db (float): a segment whose vocal is louder than its instrumental by more is dropped.
        min_vocal_db (float): a segment whose vocal is quieter has nobody to accompany. Separation leaves some of the
            band in the vocal, about 30 dB below it.
    """

    min_instrumental_db: float = -25.0
    max_vocal_excess_db: float = 5.0
    min_vocal_db: float = -50.0


def reason_to_drop(vocal: Samples, instrumental: Samples, options: FilterOptions) -> tuple[Reason, str] | None:
    """Why a segment is dropped and the values that say so; None when it is kept.

    Args:
        vocal, instrumental (float32 [N]): of one instant.
        options: thresholds.
    """
    voice, band = rms_dbfs(vocal), rms_dbfs(instrumental)
    if band < options.min_instrumental_db:
        return Reason.QUIET_INSTRUMENTAL, f"{band:.1f} dB RMS, at least {options.min_instrumental_db:g}"
    if voice < options.min_vocal_db:
        return Reason.SILENT_VOCAL, f"{voice:.1f} dB RMS, at least {options.min_vocal_db:g}"
    if voice - band > options.max_vocal_excess_db:
        return Reason.LOUD_VOCAL, f"{voice - band:.1f} dB above the band, at most {options.max_vocal_excess_db:g}"
    return None
