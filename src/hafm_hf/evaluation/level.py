# SPDX-License-Identifier: Apache-2.0
"""How loud an accompaniment is beside the voice."""

from __future__ import annotations

import math

from .features import SILENT_DBFS, Features


def instrumental_to_vocal_db(voice: Features, candidate: Features) -> float:
    """Level of the accompaniment above the voice in dB, rests of either not counted.

    A reading, not a score: there is no right value, but the references' own is shown beside it. Fooled by anything
    that is as loud as a band.

    Returns:
        dB; −inf for a silent accompaniment, NaN for a silent voice.
    """
    if voice.active_dbfs < SILENT_DBFS:
        return math.nan
    return candidate.active_dbfs - voice.active_dbfs if candidate.active_dbfs >= SILENT_DBFS else -math.inf
