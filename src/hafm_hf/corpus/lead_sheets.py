# SPDX-License-Identifier: Apache-2.0
"""Lead sheets of a corpus: from the labels.json beside a song's stems, or estimated from its accompaniment."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..lead_sheet.bars import bars_from_downbeats
from ..lead_sheet.lead_sheet import LeadSheet
from .tracks import Reason, TrackError

# sources of a song's lead sheet
LABELS = "labels"
ESTIMATE = "estimate"


def labelled_lead_sheet(labels: Mapping[str, object]) -> LeadSheet:
    """The lead sheet of a song's labels.json.

    Args:
        labels: contents of the file: fields of `LeadSheet` by name. Bars are given by "downbeats" (times in seconds),
            or by "downbeat" (index of a beat that begins a bar) and "beats_per_bar". Other labels, and those that are
            empty, are ignored.

    Raises:
        ValueError: the labels are invalid.
    """
    names = ("beats", "beats_per_bar", "downbeat", "chords", "key", "sections", "style")
    labelled = {name: labels[name] for name in names if labels.get(name)}
    beats = labelled.get("beats")
    downbeats = labels.get("downbeats")
    if isinstance(beats, Sequence) and isinstance(downbeats, Sequence):
        labelled |= bars_from_downbeats(beats, downbeats)
    return LeadSheet.given(labelled)


def song_lead_sheet(labels: Mapping[str, object], style: str) -> LeadSheet:
    """The lead sheet of a song's labels, with `style` if they have none.

    Raises:
        TrackError: the labels are invalid.
    """
    try:
        return styled(labelled_lead_sheet(labels), style)
    except ValueError as error:
        raise TrackError(Reason.BAD_LABELS, str(error)) from error


def styled(sheet: LeadSheet, style: str) -> LeadSheet:
    """The lead sheet with `style` if it has none of its own."""
    if sheet.style or not style:
        return sheet
    return replace(sheet, style=style)
