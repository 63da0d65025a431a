"""Lead sheets of a corpus: from the labels that lie beside the stems of a song."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..lead_sheet.lead_sheet import METRES, LeadSheet


def labelled_lead_sheet(labels: Mapping[str, object]) -> LeadSheet:
    """The lead sheet of a song's labels.json: `beats`, `downbeats`, `chords`, `key`, `sections` and `style`.

    Raises:
        ValueError: they make no sense.
    """
    known = {name: labels[name] for name in ("beats", "chords", "key", "sections", "style") if labels.get(name)}
    downbeats = labels.get("downbeats")
    if known.get("beats") and isinstance(downbeats, Sequence) and len(downbeats) > 1:
        beats = np.asarray(known["beats"])
        places = np.abs(beats[:, None] - np.asarray(downbeats)[None]).argmin(axis=0)
        metre = int(np.median(np.diff(places)))
        if metre in METRES:
            known |= {"beats_per_bar": metre, "downbeat": int(places[0])}
    return LeadSheet.told(known)
