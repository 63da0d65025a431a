# SPDX-License-Identifier: Apache-2.0
"""From the files of a track to its vocal and its instrumental: one small interface; stems that exist, and models.

`stems` takes material that is separated: folders like MUSDB18-HQ's, pairs of files, and stereo files with the voice on
one channel (karaoke). The models of `separation_models` take mixes apart; the paper used MDX-Net.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import Samples, with_channels
from .reading import decode
from .stems import (
    LABELS_FILE,
    LONGEST_DIFFERENCE_SECONDS,
    Separator,
    SeparatorOptions,
    Stems,
    align,
)
from .tracks import Drop, Grouping, Reason, TrackError, display_name

# how stems are called, by role; those of MUSDB18, drums, bass and other, add up to the band
VOCAL_NAMES = ("vocals", "vocal", "voice", "acapella")
INSTRUMENTAL_NAMES = ("accompaniment", "instrumental", "instrumentals", "no_vocals", "karaoke", "backing")
BAND_NAMES = ("drums", "bass", "other")
ROLES = {**dict.fromkeys(VOCAL_NAMES, "vocal"), **dict.fromkeys(INSTRUMENTAL_NAMES, "instrumental")}
ROLES |= {name: name for name in BAND_NAMES}
# a vocal that was taken out of a mix, beside the isolated one, is for evaluation only
ROLES |= dict.fromkeys(("vocal_separated", "vocals_separated"), "separated")


class StemsSeparator:
    """Material that is separated already; see this module's docstring for the layouts."""

    def __init__(self, options: SeparatorOptions) -> None:
        self.options = options

    def group(self, paths: Sequence[str]) -> tuple[list[Grouping], list[Drop]]:
        """Pairs and stem folders first; what is left are stereo files, where a vocal channel is named."""
        families: dict[str, dict[str, str]] = defaultdict(dict)
        singles = []
        for path in paths:
            role = stem_role(path)
            if role is None or role[1] in families[role[0]]:
                singles.append(path)
            else:
                families[role[0]][role[1]] = path
        groupings, drops = [], []
        for name, files in families.items():
            kept = chosen_stems(files)
            if kept is not None:
                groupings.append(Grouping(display_name(name or "."), kept))
            elif files:
                missing = "a vocal" if "vocal" not in files else "an instrumental"
                detail = f"{', '.join(sorted(files))} without {missing}"
                drops.append(Drop(display_name(name or "."), Reason.INCOMPLETE, detail))
        # other sounds in a folder of stems (a mixture, a part of the band) are what its stems came from
        stem_folders = {name for name, files in families.items() if chosen_stems(files)}
        for path in singles:
            if self.options.vocal_channel:
                groupings.append(Grouping(display_name(path), {"karaoke": path}))
            elif os.path.dirname(path) not in stem_folders:
                detail = "name a vocal channel, or a separator for mixes"
                drops.append(Drop(display_name(path), Reason.NO_STEMS, detail))
        return groupings, drops

    def separate(self, files: Mapping[str, Path]) -> Stems:
        """Reads and aligns what there is; the parts of a band are added up where it has no file of its own."""
        if "karaoke" in files:
            samples, rate = decode(files["karaoke"], self.options.max_seconds)
            if samples.shape[1] != len(CHANNELS):
                raise TrackError(Reason.NO_STEMS, f"{samples.shape[1]} channels, karaoke has 2")
            vocal = CHANNELS.index(self.options.vocal_channel)
            return align(samples[:, vocal], rate, samples[:, 1 - vocal], rate, channels=self.options.channels)
        labels = read_labels(files["vocal"])
        vocal_sound, vocal_rate = decode(files["vocal"], self.options.max_seconds)
        sounds = {role: decode(files[role], self.options.max_seconds) for role in sorted(files) if role != "vocal"}
        whole = [sounds["instrumental"]] if "instrumental" in sounds else [sounds[role] for role in sorted(BAND_NAMES)]
        band, band_rate = add_up(whole, self.options.channels)
        return align(vocal_sound, vocal_rate, band, band_rate, labels, self.options.channels)


CHANNELS = ("left", "right")


def stem_role(path: str) -> tuple[str, str] | None:
    """The track (its path without the role) and the role of a stem, None for files that are not called like one."""
    folder, file = os.path.split(path)
    stem = os.path.splitext(file)[0]
    lower = stem.lower()
    if lower in ROLES:
        return folder, ROLES[lower]
    # no_vocals ends in vocals, so the longest name counts
    for name in sorted(ROLES, key=len, reverse=True):
        if lower.endswith(name) and lower[-len(name) - 1] in "_-. ":
            return os.path.join(folder, stem[: -len(name) - 1]), ROLES[name]
    return None


def chosen_stems(files: dict[str, str]) -> dict[str, str] | None:
    """The vocal, and the instrumental or else all parts of the band; None when something is missing."""
    if "vocal" not in files:
        return None
    if "instrumental" in files:
        return {role: files[role] for role in ("vocal", "instrumental")}
    return {role: files[role] for role in ("vocal", *BAND_NAMES)} if set(BAND_NAMES) <= set(files) else None


def add_up(parts: Sequence[tuple[Samples, int]], channels: int = 1) -> tuple[Samples, int]:
    """The sum (float32 [N], or [N, channels]) of sounds (float32 [N, C] each) of one rate, cut to the shortest.

    Raises:
        TrackError: other rates or lengths.
    """
    rates, lengths = {rate for _, rate in parts}, [len(samples) for samples, _ in parts]
    rate = parts[0][1]
    if len(rates) > 1 or max(lengths) - min(lengths) > LONGEST_DIFFERENCE_SECONDS * rate:
        raise TrackError(Reason.LENGTHS_DIFFER, f"parts of {lengths} samples at {sorted(rates)} Hz")
    total = np.sum([with_channels(samples[: min(lengths)], channels) for samples, _ in parts], axis=0)
    return total.astype(np.float32, copy=False), rate


def read_labels(stem: Path) -> dict[str, Any]:
    """What labels.json beside a stem says; empty without one that can be read."""
    try:
        labels = json.loads((Path(stem).parent / LABELS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return labels if isinstance(labels, dict) else {}


def make_separator(options: SeparatorOptions) -> Separator:
    """The separator that `options` name.

    Raises:
        HAFMCorpusError: its model is not there.
        ModuleNotFoundError: its library is not installed.
    """
    if options.name == "stems":
        return StemsSeparator(options)
    from .separation_models import AudioSeparator, DemucsSeparator

    return {"audio-separator": AudioSeparator, "demucs": DemucsSeparator}[options.name](options)
