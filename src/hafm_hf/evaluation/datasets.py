# SPDX-License-Identifier: Apache-2.0
"""Loads vocals with their reference accompaniments from several layouts and cuts them into clips.

A clip refers to its audio files and is only read when it is measured, so memory is bounded by one clip, not the set.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from ..audio import MAX_CHANNELS, HAFMAudioError, Samples, in_columns, opened, read_recording, source_name
from ..corpus.lead_sheets import labelled_lead_sheet
from ..corpus.stem_names import BAND_NAMES, Song, group_stems, outside_stem_folders, songs_of
from ..corpus.stems import LABELS_FILE, LONGEST_DIFFERENCE_SECONDS
from ..corpus.tracks import display_name, find_audio
from ..lead_sheet.lead_sheet import LeadSheet
from .statistics import HAFMEvaluationError

logger = logging.get_logger(__name__)

# a clip counts as sung if at least SUNG_SHARE of its frames are above SUNG_DBFS
SUNG_DBFS = -45.0
SUNG_SHARE = 0.3
SUNG_FRAMES_A_SECOND = 10
LEAST_SECONDS = 1.0
CLIP_SCORES_FILE = "scores.jsonl"


@dataclass(frozen=True)
class Part:
    """A sound in an audio file.

    Args:
        path: the audio file.
        channel: the channel to use; the mean of all channels if None.
        start, seconds: the excerpt to use, in seconds; to the end of the file if `seconds` is None.
        also: further files, such as other stems, whose sounds are added to that of `path`.
    """

    path: Path
    channel: int | None = None
    start: float = 0.0
    seconds: float | None = None
    also: tuple[Path, ...] = ()

    def read(self) -> tuple[Samples, int]:
        """The sound as mono float32 [N], and its rate in Hz.

        Raises:
            HAFMAudioError: missing or damaged file, NaN or infinite samples, no such channel, or differing rates.
        """
        if self.also:
            stems = [replace(self, path=path, also=()).read() for path in (self.path, *self.also)]
            _, first_rate = stems[0]
            if any(rate != first_rate for _, rate in stems):
                raise HAFMAudioError(f"The stems added to {self.path.name} have other rates; resample them first.")
            # the sum is as long as the shortest
            length = min(len(samples) for samples, _ in stems)
            return np.sum([samples[:length] for samples, _ in stems], axis=0), first_rate
        recording = read_recording(
            self.path,
            start=self.start,
            seconds=self.seconds,
            min_seconds=0.0,
            max_seconds=math.inf,
            keep=1 if self.channel is None else MAX_CHANNELS,
        )
        rate = recording.sampling_rate
        if self.channel is None:
            return recording.samples, rate
        samples = in_columns(recording.samples)
        channels = samples.shape[1]
        if self.channel >= channels:
            raise HAFMAudioError(
                f"{self.path.name} has {channels} channel; karaoke needs two, accompaniment and voice."
            )
        return np.ascontiguousarray(samples[:, self.channel]), rate

    def duration(self) -> float:
        """Seconds of the sound from `start` on, at most `seconds`.

        Raises:
            HAFMAudioError: missing or damaged file.
        """
        with opened(self.path, self.path.name) as sound:
            available = sound.length() / sound.sampling_rate - self.start
        if self.seconds is None:
            return available
        return min(self.seconds, available)


@dataclass(frozen=True)
class Clip:
    """A vocal and, if there is one, its reference accompaniment.

    Args:
        name: name of the clip, unique in a set.
        song: name of the song; clips of the same song are not used as controls for each other.
        vocal, reference: the isolated vocal and the accompaniment; `separated` is the vocal separated from the mix.
        labels: the labels.json of the song, if there is one.
    """

    name: str
    song: str
    vocal: Part
    reference: Part | None = None
    separated: Part | None = None
    labels: Path | None = None

    def lead_sheet(self) -> LeadSheet | None:
        """The lead sheet of the labels, in seconds from the start of the clip; None without labels.

        Raises:
            HAFMEvaluationError: the labels are invalid.
        """
        if self.labels is None:
            return None
        try:
            sheet = labelled_lead_sheet(json.loads(self.labels.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise HAFMEvaluationError(f"{self.labels} holds no valid labels of a song ({error}).") from error
        return sheet.moved(-self.vocal.start)

    def parts(self) -> dict[str, Part]:
        """The available sounds by role: vocal, reference, separated."""
        roles = {"vocal": self.vocal, "reference": self.reference, "separated": self.separated}
        return {role: part for role, part in roles.items() if part is not None}


def load_pairs(folder: Path) -> list[Clip]:
    """Finds the pairs of vocal and instrumental in a folder.

    They are named NAME/vocal.wav and NAME/instrumental.wav (and NAME/vocal_separated.wav), NAME_vocal.wav and
    NAME_instrumental.wav, or as separators name them (`corpus.stem_names`), with any audio suffix. A labels.json in
    the folder of a pair may name its "song" and hold its lead sheet. Files that are left out are logged, each with
    the reason.

    Returns:
        A clip for each pair, in the order of names; if no vocal has an instrumental, one for each vocal.

    Raises:
        HAFMEvaluationError: no vocals, or some without an instrumental while others have one.
    """
    stem_songs = group_stems(_audio_files(folder))
    # a vocal without its instrumental can still be accompanied
    sung = [song for song in (*stem_songs.songs, *stem_songs.incomplete) if "vocal" in song.files]
    # reason by path
    left_out = dict.fromkeys(outside_stem_folders(stem_songs), "is not named as a vocal or an instrumental")
    for song in stem_songs.incomplete:
        if "vocal" not in song.files:
            left_out |= dict.fromkeys(song.files.values(), "has no vocal beside it")
    left_out |= {path: f"has the same role as {first}" for path, first in stem_songs.repeated}
    if not sung:
        reasons = f" ({_joined_reasons(left_out)})" if left_out else ""
        raise HAFMEvaluationError(
            f"{folder} holds no pairs{reasons}; name them NAME/vocal.wav and NAME/instrumental.wav, or NAME_vocal.wav "
            "and NAME_instrumental.wav."
        )
    unpaired = sorted(song.name for song in sung if not song.complete)
    if unpaired and len(unpaired) < len(sung):
        raise HAFMEvaluationError(
            f"{len(unpaired)} of {len(sung)} vocals in {folder} lack their instrumental ({unpaired[0]} …); add them, "
            "or move these vocals away."
        )
    if left_out:
        files = "file" if len(left_out) == 1 else "files"
        logger.warning(f"{len(left_out)} {files} of {folder} left out: {_joined_reasons(left_out)}.")
    return [_clip_of(folder, song) for song in sorted(sung, key=lambda song: song.name)]


def _joined_reasons(left_out: Mapping[str, str]) -> str:
    """Files that are left out with their reasons (`left_out`, by path): "a.wav has no vocal beside it, b.wav …"."""
    return ", ".join(f"{display_name(path)} {reason}" for path, reason in sorted(left_out.items()))


def _clip_of(folder: Path, song: Song) -> Clip:
    """A clip of a whole song.

    Args:
        folder: that the song's files are relative to.
        song: its stems. If the labels.json beside them has a "song", that is the clip's song, else the song's name.

    Raises:
        HAFMEvaluationError: labels.json is not a JSON object.
    """
    # a song without a name has its files in `folder` itself
    name = song.name or "."
    labels = None
    title = flat(name)
    if (folder / name / LABELS_FILE).is_file():
        labels = folder / name / LABELS_FILE
        try:
            title = str(json.loads(labels.read_text(encoding="utf-8")).get("song", title))
        except (ValueError, AttributeError) as error:
            raise HAFMEvaluationError(f"{labels} is not a JSON object ({error}).") from error
    parts = {role: Part(folder / path) for role, path in song.files.items()}
    if "instrumental" not in parts and song.complete:
        # the sum of its stems
        first, *others = (parts[stem].path for stem in BAND_NAMES)
        parts["instrumental"] = Part(first, also=tuple(others))
    return Clip(flat(name), title, parts["vocal"], parts.get("instrumental"), parts.get("separated"), labels)


def load_karaoke(folder: Path) -> list[Clip]:
    """Stereo files with the accompaniment on the left and the vocal on the right, as in MIR-1K.

    A file's song is its name up to the last underscore (MIR-1K: SINGER_SONG_PART), or all of a name without one.

    Raises:
        HAFMEvaluationError: the folder has no audio, or a file is not stereo.
        HAFMAudioError: a file is damaged.
    """
    files = _audio_files(folder)
    if not files:
        raise HAFMEvaluationError(f"{folder} holds no audio; check the path.")
    clips = []
    for path in files:
        name = flat(os.path.splitext(path)[0])
        sound = folder / path
        with opened(sound, path) as file:
            if file.channels != 2:
                raise HAFMEvaluationError(f"{path} has {file.channels} channel(s); a karaoke file has 2.")
        song = name.rpartition("_")[0] or name
        clips.append(Clip(name, song, vocal=Part(sound, channel=1), reference=Part(sound, channel=0)))
    return clips


def cut_clips(clips: Sequence[Clip], seconds: float | None, hop: float | None = None) -> list[Clip]:
    """Cuts songs into clips, named SONG@START; a remainder at the end is dropped.

    Args:
        clips: whole songs; those of `seconds` or less are kept whole. All are cut to their shortest sound.
        seconds: length of the clips; None keeps all songs whole.
        hop: from the start of a clip to that of the next, in seconds; `seconds` if None.

    Raises:
        HAFMEvaluationError: a pair's sounds differ in length by more than 1 s, a clip is below 1 s, two clips have one
            name, or `hop` is invalid.
    """
    too_short = seconds is not None and seconds < LEAST_SECONDS
    bad_hop = hop is not None and (seconds is None or hop <= 0)
    if too_short or bad_hop:
        raise HAFMEvaluationError(
            f"Clips cannot be cut with clip_seconds {seconds} and hop_seconds {hop}; take 1 s or more, and a hop "
            "only with it."
        )
    if twice := sorted(name for name, count in Counter(clip.name for clip in clips).items() if count > 1):
        raise HAFMEvaluationError(f"{len(twice)} names are of two files each ({twice[0]} …); remove or rename one.")
    cut = []
    for clip in clips:
        length = _common_seconds(clip)
        if seconds is None or length <= seconds:
            cut.append(_excerpt(clip, 0.0, length))
            continue
        step = hop or seconds
        # 1e-6: the division may round below a whole number
        count = 1 + int((length - seconds) / step + 1e-6)
        for index in range(count):
            start = index * step
            cut.append(_excerpt(replace(clip, name=f"{clip.name}@{start:g}"), start, seconds))
    return cut


def _common_seconds(clip: Clip) -> float:
    """Length in seconds of the shortest of a clip's sounds.

    Raises:
        HAFMEvaluationError: the lengths differ by more than 1 s, or the shortest is below 1 s.
    """
    lengths = {role: part.duration() for role, part in clip.parts().items()}
    if max(lengths.values()) - min(lengths.values()) > LONGEST_DIFFERENCE_SECONDS:
        shown = ", ".join(f"{role} {seconds:.2f} s" for role, seconds in lengths.items())
        raise HAFMEvaluationError(f"The sounds of {clip.name} differ in length ({shown}); are they of one song?")
    if min(lengths.values()) < LEAST_SECONDS:
        raise HAFMEvaluationError(f"{clip.name} is {min(lengths.values()):.2f} s long; a clip needs 1 s.")
    return min(lengths.values())


def _excerpt(clip: Clip, start: float, seconds: float) -> Clip:
    """The excerpt of all sounds of a clip that begins at `start` (s) and lasts `seconds`, under the clip's name."""
    parts: dict[str, Any] = {
        role: replace(part, start=part.start + start, seconds=seconds) for role, part in clip.parts().items()
    }
    return replace(clip, **parts)


def sung_clips(clips: Sequence[Clip]) -> list[Clip]:
    """The clips with singing: at least 30 % of their 0.1 s frames are above −45 dBFS."""
    return [clip for clip in clips if _is_sung(clip)]


def _is_sung(clip: Clip) -> bool:
    """Whether at least `SUNG_SHARE` of the 0.1 s frames of a clip's vocal are above `SUNG_DBFS`."""
    samples, rate = clip.vocal.read()
    size = rate // SUNG_FRAMES_A_SECOND
    # whole frames, [frames, size]
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    loud_share = (power >= 10 ** (SUNG_DBFS / 10)).mean()
    return bool(loud_share >= SUNG_SHARE)


def spread(clips: Sequence[Clip], count: int | None) -> list[Clip]:
    """`count` clips, evenly spread over the set in the order of their names; all of them if None."""
    ordered = sorted(clips, key=lambda clip: clip.name)
    if count is None or count >= len(ordered):
        return ordered
    return [ordered[index * len(ordered) // count] for index in range(count)]


def find_outputs(folder: Path, clips: Sequence[Clip]) -> dict[str, Part]:
    """Finds a rendered accompaniment for each clip: CLIP.wav, or an instrumental named as in `load_pairs`.

    A clip cut from a song (SONG@SECONDS) may also be taken from a rendering of the whole song, SONG.wav.

    Returns:
        The accompaniment by clip name.

    Raises:
        HAFMEvaluationError: some clips have no accompaniment.
    """
    # by the name of a clip or song; a file with just that name takes precedence
    files: dict[str, Path] = {}
    paths = _audio_files(folder)
    for path in paths:
        files[flat(os.path.splitext(path)[0])] = folder / path
    for path in paths:
        for song, role in songs_of(path):
            if role == "instrumental":
                # a file called just "instrumental" has no song name; its clip is called "."
                files.setdefault(flat(song or "."), folder / path)
    outputs: dict[str, Part] = {}
    for clip in clips:
        # a rendering of the clip, or of the whole song, in which the clip begins later
        song_name = clip.name.rpartition("@")[0]
        for name, start in ((clip.name, 0.0), (song_name, clip.vocal.start)):
            if name in files:
                outputs[clip.name] = Part(files[name], start=start, seconds=clip.vocal.seconds)
                break
    missing = [clip.name for clip in clips if clip.name not in outputs]
    if missing:
        raise HAFMEvaluationError(
            f"{folder} lacks {len(missing)} of {len(clips)} accompaniments, {missing[0]}.wav first; render them, or "
            "evaluate fewer clips."
        )
    return outputs


def read_clip_scores(folder: Path, clips: Sequence[Clip]) -> dict[str, dict[str, float]]:
    """Scores that another tool gave to rendered accompaniments: FOLDER/scores.jsonl, if it is there.

    Each line is a JSON object with "clip" (a clip's name) or "path" (its audio file, in any folder), and numbers under
    the names of their scores; anything else in it is ignored, and so are lines about other clips.

    Returns:
        Values by score and clip; empty without such a file.

    Raises:
        HAFMEvaluationError: a line is not a JSON object, or no line has a score of one of the clips.
    """
    path = folder / CLIP_SCORES_FILE
    if not path.is_file():
        return {}
    names = {clip.name for clip in clips}
    scores: dict[str, dict[str, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise HAFMEvaluationError(f"{path}, line {number} is not a JSON object ({error}).") from error
        clip = entry.get("clip") or Path(str(entry.get("path", ""))).stem
        if clip not in names:
            continue
        for score, value in entry.items():
            # JSON's true and false are integers in Python
            if isinstance(value, int | float) and not isinstance(value, bool):
                scores.setdefault(score, {})[clip] = float(value)
    if not scores:
        raise HAFMEvaluationError(
            f"{path} has no score of {clips[0].name} or another of the {len(clips)} clips; name them by "
            '"clip" or "path".'
        )
    return scores


def _audio_files(folder: Path) -> list[str]:
    """Paths, relative to `folder`, of the audio files in and below it.

    Raises:
        HAFMEvaluationError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise HAFMEvaluationError(f"{folder} is not a folder; check the path.")
    return find_audio(folder)[0]


def flat(name: str) -> str:
    """A path as a single file name, with its folders joined by "__"; one that has no name, such as ".", is kept."""
    return name.strip("./").replace("/", "__") or source_name(name)
