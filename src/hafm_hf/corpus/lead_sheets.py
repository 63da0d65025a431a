# SPDX-License-Identifier: Apache-2.0
"""Lead sheets of a corpus: from the labels that lie beside a song's stems, or estimated from its accompaniment."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..lead_sheet.bars import bars_from_downbeats
from ..lead_sheet.lead_sheet import LeadSheet
from .tracks import Reason, TrackError

# what a song's lead sheet is
LABELS, ESTIMATE = "labels", "estimate"


def labelled_lead_sheet(labels: Mapping[str, object]) -> LeadSheet:
    """The lead sheet of a song's labels.json: `beats`, `downbeats` or `beats_per_bar` and
    `downbeat`, `chords`, `key`, `sections`, `style`.

    Raises:
        ValueError: they make no sense.
    """
    names = ("beats", "beats_per_bar", "downbeat", "chords", "key", "sections", "style")
    known = {name: labels[name] for name in names if labels.get(name)}
    beats, downbeats = known.get("beats"), labels.get("downbeats")
    if isinstance(beats, Sequence) and isinstance(downbeats, Sequence):
        known |= bars_from_downbeats(beats, downbeats)
    return LeadSheet.told(known)


def told_lead_sheet(labels: Mapping[str, object], style: str) -> LeadSheet:
    """The lead sheet of a song's labels; `style` where they say none.

    Raises:
        TrackError: the labels make no sense.
    """
    try:
        return styled(labelled_lead_sheet(labels), style)
    except ValueError as error:
        raise TrackError(Reason.BAD_LABELS, str(error)) from error


def styled(sheet: LeadSheet, style: str) -> LeadSheet:
    """A lead sheet with a style where it has none."""
    return sheet if sheet.style or not style else replace(sheet, style=style)
