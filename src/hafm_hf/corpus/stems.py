# SPDX-License-Identifier: Apache-2.0
"""What separators take and give: a track's files in, its vocal and its instrumental out.

`separation` reads stems that exist, `separation_models` takes mixes apart.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from ..audio import Samples, resample, with_channels
from .tracks import Drop, Grouping, Reason, TrackError, display_name

LONGEST_DIFFERENCE_SECONDS = 1.0
LABELS_FILE = "labels.json"
DEFAULT_MAX_SECONDS = 1800.0


@dataclass(frozen=True)
class SeparatorOptions:
    """Which separator, and with what.

    Attributes:
        name (str): stems, audio-separator or demucs.
        vocal_channel (str): for `stems`, the channel of stereo files with the voice: left, right, or empty for none.
        model (str): of audio-separator or demucs; empty for the default of each.
        model_dir (str): folder of model files; empty for the default of each.
        device (str): auto, cpu or cuda; where models run.
        max_seconds (float): longer files are dropped.
        channels (int): of the instrumental; the preparation sets it to those of the codec.
    """

    name: str = "stems"
    vocal_channel: str = ""
    model: str = ""
    model_dir: str = ""
    device: str = "auto"
    max_seconds: float = DEFAULT_MAX_SECONDS
    channels: int = 1


@dataclass(frozen=True)
class Stems:
    """Vocal (float32 [N]) and instrumental ([N], or [N, C]) of one track from one instant on, and their rate in Hz.

    `labels` are what lies beside the stems as labels.json: tempo, key and licence of rendered songs.
    """

    vocal: Samples
    instrumental: Samples
    sampling_rate: int
    labels: dict[str, Any] = field(default_factory=dict)


class Separator(Protocol):
    """What the preparation needs of a separator."""

    def group(self, paths: Sequence[str]) -> tuple[list[Grouping], list[Drop]]:
        """Which of the found files (relative paths) make a track, and which can't."""

    def separate(self, files: Mapping[str, Path]) -> Stems:
        """Vocal and instrumental of a track's files by role; raises TrackError where there are none."""


def write_stems(folder: Path, stems: Stems) -> None:
    """Saves stems as vocals.flac and accompaniment.flac, whole or not at all: a layout that the
    separator `stems` and `hafm evaluate` (`--pairs`, `--retrieval-bank`, `--separated-vocals`) read.

    Where one of them would clip, all are turned down alike.

    Raises:
        OSError: the disk is full, or the folder can't be written to.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    sounds = {"vocals": stems.vocal, "accompaniment": stems.instrumental}
    gain = 1.0 / max(1.0, *(float(np.abs(sound).max(initial=0.0)) for sound in sounds.values()))
    try:
        for name, sound in sounds.items():
            soundfile.write(part / f"{name}.flac", gain * sound, stems.sampling_rate, subtype="PCM_16")
        if stems.labels:
            (part / LABELS_FILE).write_text(json.dumps(stems.labels) + "\n", encoding="utf-8")
    except (soundfile.LibsndfileError, OSError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise OSError(f"{folder} can't be written ({error})") from error
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def group_mixes(paths: Sequence[str]) -> tuple[list[Grouping], list[Drop]]:
    """Every file is a track of its own, for separators of mixes."""
    return [Grouping(display_name(path), {"mix": path}) for path in paths], []


def align(
    vocal: Samples,
    vocal_rate: int,
    instrumental: Samples,
    instrumental_rate: int,
    labels: dict[str, Any] | None = None,
    channels: int = 1,
) -> Stems:
    """Two stems of one recording at one rate and length; both begin where their files begin.

    Args:
        vocal, instrumental (float32 [N] or [N, C]).
        vocal_rate, instrumental_rate: in Hz; the higher one is brought to the lower.
        labels: of the track.
        channels: of the instrumental.

    Raises:
        TrackError: their lengths differ by more than a second, so that they can't be of one recording.
    """
    rate = min(vocal_rate, instrumental_rate)
    sounds = [
        resample(np.ascontiguousarray(with_channels(sound, wanted)), own_rate, rate)
        for sound, own_rate, wanted in ((vocal, vocal_rate, 1), (instrumental, instrumental_rate, channels))
    ]
    length = min(map(len, sounds))
    if max(map(len, sounds)) - length > LONGEST_DIFFERENCE_SECONDS * rate:
        seconds = [len(sound) / rate for sound in sounds]
        raise TrackError(Reason.LENGTHS_DIFFER, f"vocal {seconds[0]:.2f} s, instrumental {seconds[1]:.2f} s")
    return Stems(sounds[0][:length], sounds[1][:length], rate, labels or {})
