# SPDX-License-Identifier: Apache-2.0
"""Groups files into tracks and reads the vocal and the instrumental of a track.

Layouts: folders of stems like MUSDB18-HQ's, pairs of files, and stereo files with the vocal on one channel (karaoke).
recipes/separate.py makes folders of stems from mixes.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ..atomic_files import PARTIAL_PREFIX, PARTIAL_SUFFIX, replace_folder
from ..audio import Samples, resample, with_channels, without_offset
from .reading import decode
from .stem_names import BAND_NAMES, group_stems, outside_stem_folders
from .tracks import LABELS_FILE, Drop, Grouping, Reason, TrackError, display_name

LONGEST_DIFFERENCE_SECONDS = 1.0
DEFAULT_MAX_SECONDS = 1800.0
CHANNELS = ("left", "right")


@dataclass(frozen=True)
class StemOptions:
    """How stems are read.

    Attributes:
        vocal_channel (str): channel of the vocal in stereo files: left, right, or empty for none.
        max_seconds (float): longer files are dropped.
        channels (int): channels of the instrumental; set to those of the codec when preparing a corpus.
    """

    vocal_channel: str = ""
    max_seconds: float = DEFAULT_MAX_SECONDS
    channels: int = 1


@dataclass(frozen=True)
class Stems:
    """Time-aligned vocal (float32 [N]) and instrumental (float32 [N] or [N, channels]) of a track; their rate in Hz.

    `labels` are the contents of the labels.json beside the stems, such as tempo, key, licence and chords.
    """

    vocal: Samples
    instrumental: Samples
    sampling_rate: int
    labels: dict[str, Any] = field(default_factory=dict)


class StemReader:
    """Reads the layouts listed in this module's docstring.

    Args:
        options: how stems are read.
    """

    def __init__(self, options: StemOptions) -> None:
        self.options = options

    def group(self, paths: Sequence[str]) -> tuple[list[Grouping], list[Drop]]:
        """Groups files into tracks: pairs and stem folders first, then, given a vocal channel, stereo files.

        Args:
            paths: of audio files, relative to the audio folder.

        Returns:
            The tracks, with a file for each role ("vocal" …; "karaoke" for a stereo file with the vocal on one
            channel); and the files and songs that can't be used.
        """
        stem_songs = group_stems(paths)
        groupings = []
        # files of complete songs
        used: set[str] = set()
        for song in stem_songs.songs:
            groupings.append(Grouping(display_name(song.name or "."), chosen_stems(song.files)))
            used.update(song.files.values())
        drops = []
        for path, first in stem_songs.repeated:
            # a file of an incomplete song may be a stereo file, which is grouped below
            if first in used or not self.options.vocal_channel:
                detail = f"{display_name(first)} has the same role in this song"
                drops.append(Drop(display_name(path), Reason.NO_STEMS, detail))
        if self.options.vocal_channel:
            # "Song - Karaoke" and the like are stereo files, not stems
            stereo = list(stem_songs.others)
            for song in stem_songs.incomplete:
                stereo += song.files.values()
            stereo += [path for path, first in stem_songs.repeated if first not in used]
            for path in outside_stem_folders(stem_songs, sorted(stereo)):
                groupings.append(Grouping(display_name(path), {"karaoke": path}))
            return groupings, drops
        for song in stem_songs.incomplete:
            missing = "an instrumental" if "vocal" in song.files else "a vocal"
            detail = f"{', '.join(sorted(song.files))} without {missing}"
            drops.append(Drop(display_name(song.name or "."), Reason.INCOMPLETE, detail))
        for path in outside_stem_folders(stem_songs):
            detail = "name a vocal channel, or separate mixes first"
            drops.append(Drop(display_name(path), Reason.NO_STEMS, detail))
        return groupings, drops

    def read(self, files: Mapping[str, Path]) -> Stems:
        """Reads and aligns the stems of a track; without an instrumental, drums, bass and other are summed.

        Args:
            files: path of each role, as in a `Grouping`.

        Raises:
            TrackError: a file cannot be used, or the files are not of one recording.
        """
        if "karaoke" in files:
            samples, rate = decode(files["karaoke"], self.options.max_seconds)
            if samples.shape[1] != len(CHANNELS):
                raise TrackError(Reason.NO_STEMS, f"{samples.shape[1]} channels, karaoke has 2")
            vocal_channel = CHANNELS.index(self.options.vocal_channel)
            vocal = samples[:, vocal_channel]
            instrumental = samples[:, 1 - vocal_channel]
            return align(vocal, rate, instrumental, rate, channels=self.options.channels)
        labels = read_labels(files["vocal"])
        vocal_sound, vocal_rate = decode(files["vocal"], self.options.max_seconds)
        sounds = {role: decode(files[role], self.options.max_seconds) for role in sorted(files) if role != "vocal"}
        if "instrumental" in sounds:
            parts = [sounds["instrumental"]]
        else:
            parts = [sounds[role] for role in sorted(BAND_NAMES)]
        band, band_rate = add_up(parts, self.options.channels)
        return align(vocal_sound, vocal_rate, band, band_rate, labels, self.options.channels)


def chosen_stems(files: Mapping[str, str]) -> dict[str, str]:
    """The files of a complete song to use, by role: vocal, and instrumental or else drums, bass and other."""
    band = ("instrumental",) if "instrumental" in files else BAND_NAMES
    return {role: files[role] for role in ("vocal", *band)}


def add_up(parts: Sequence[tuple[Samples, int]], channels: int = 1) -> tuple[Samples, int]:
    """Adds sounds up, cut to the shortest.

    Args:
        parts: each sound (float32 [N, its channels]) and its rate in Hz.
        channels: of the sum.

    Returns:
        float32 [N], or [N, channels] for more than one channel, and the rate in Hz.

    Raises:
        TrackError: rates differ, or lengths by more than a second.
    """
    rates = {rate for _, rate in parts}
    lengths = [len(samples) for samples, _ in parts]
    rate = parts[0][1]
    if len(rates) > 1 or max(lengths) - min(lengths) > LONGEST_DIFFERENCE_SECONDS * rate:
        raise TrackError(Reason.LENGTHS_DIFFER, f"parts of {lengths} samples at {sorted(rates)} Hz")
    total = np.sum([with_channels(samples[: min(lengths)], channels) for samples, _ in parts], axis=0)
    return total.astype(np.float32, copy=False), rate


def read_labels(stem: Path) -> dict[str, Any]:
    """The contents of the labels.json beside a stem; empty if it can't be read, or is JSON but not an object.

    Raises:
        TrackError: labels.json is not JSON.
    """
    try:
        labels = json.loads((stem.parent / LABELS_FILE).read_text(encoding="utf-8"))
    except OSError:
        return {}
    except ValueError as error:
        raise TrackError(Reason.BAD_LABELS, str(error)) from error
    return labels if isinstance(labels, dict) else {}


def write_stems(folder: Path, stems: Stems) -> None:
    """Saves stems atomically to a folder, as vocals.flac and accompaniment.flac, with labels.json if there are labels.

    `hafm prepare` and `hafm evaluate` (`--pairs`, `--retrieval-bank`) read this layout. If one stem would clip, both
    are attenuated equally.

    Raises:
        OSError: the disk is full, or the folder can't be written to.
    """
    part = folder.with_name(f"{PARTIAL_PREFIX}{folder.name}{PARTIAL_SUFFIX}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    sounds = {"vocals": stems.vocal, "accompaniment": stems.instrumental}
    peaks = [float(np.abs(sound).max(initial=0.0)) for sound in sounds.values()]
    gain = 1.0 / max(1.0, *peaks)
    try:
        for name, sound in sounds.items():
            soundfile.write(part / f"{name}.flac", gain * sound, stems.sampling_rate, subtype="PCM_16")
        if stems.labels:
            (part / LABELS_FILE).write_text(json.dumps(stems.labels) + "\n", encoding="utf-8")
    except (soundfile.LibsndfileError, OSError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise OSError(f"{folder} can't be written ({error})") from error
    replace_folder(part, folder)


def align(
    vocal: Samples,
    vocal_rate: int,
    instrumental: Samples,
    instrumental_rate: int,
    labels: dict[str, Any] | None = None,
    channels: int = 1,
) -> Stems:
    """Brings two stems of one recording to one rate and length; both start where their files start.

    Args:
        vocal, instrumental (float32 [N] or [N, channels]): the stems; a constant offset of the vocal is removed, as in
            generation.
        vocal_rate, instrumental_rate: in Hz; the stem with the higher rate is resampled to the lower one.
        labels: labels of the track, if there are any.
        channels: channels of the resulting instrumental.

    Returns:
        Vocal (float32 [N]) and instrumental (float32 [N], or [N, channels]), cut to the shorter.

    Raises:
        TrackError: lengths differ by more than a second, so the stems can't be of one recording.
    """
    vocal = without_offset(vocal)
    rate = min(vocal_rate, instrumental_rate)
    vocal = resample(np.ascontiguousarray(with_channels(vocal, 1)), vocal_rate, rate)
    instrumental = resample(np.ascontiguousarray(with_channels(instrumental, channels)), instrumental_rate, rate)
    length = min(len(vocal), len(instrumental))
    if abs(len(vocal) - len(instrumental)) > LONGEST_DIFFERENCE_SECONDS * rate:
        seconds = f"vocal {len(vocal) / rate:.2f} s, instrumental {len(instrumental) / rate:.2f} s"
        raise TrackError(Reason.LENGTHS_DIFFER, seconds)
    return Stems(vocal[:length], instrumental[:length], rate, labels or {})
