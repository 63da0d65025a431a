# SPDX-License-Identifier: Apache-2.0
"""Rendered songs in memory, for the parts that are trained on audio (codec, semantic tokenizer, separator).

A song is a folder `SPLIT/SONG_PASS/` with vocal.flac, instrumental.flac (time-aligned, same rate and length) and
labels.json, as written by recipes/build_song_corpus.py; with stereo.flac, it also has the instrumental as left and
right, at a rate of its own. The pool can be used while the corpus is still being rendered: `refresh` loads the songs
that were finished since.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from transformers.utils import logging

logger = logging.get_logger(__name__)

# of int16 samples
PCM_SCALE = 32768.0
# file name of the instrumental as left and right
STEREO = "stereo"


@dataclass(frozen=True)
class Song:
    """One rendered song.

    Args:
        name: name of its folder.
        vocal, instrumental (int16 [N]): mono, at the pool's rate.
        labels: see `songs.song_corpus.render_item`.
        stems (int16 [N] each): stems of the instrumental by name; empty if they were not loaded.
        stereo (int16 [2, N']): the instrumental as left and right, at the pool's stereo rate; None if not loaded.
        stereo_scale: factor that brings the mean of `stereo` to the instrumental's level.
    """

    name: str
    vocal: np.ndarray
    instrumental: np.ndarray
    labels: dict[str, Any]
    stems: dict[str, np.ndarray] = field(default_factory=dict)
    stereo: np.ndarray | None = None
    stereo_scale: float = 1.0

    @property
    def num_samples(self) -> int:
        """Length of vocal and instrumental in samples."""
        return len(self.vocal)


def finished_songs(folder: Path) -> list[Path]:
    """Folders of the finished songs of a split's folder, sorted; a song that is being rendered is in NAME.partial."""
    return [path.parent for path in sorted(folder.glob("*/labels.json")) if not path.parent.suffix]


def load_labels(corpus: Path, split: str) -> dict[str, dict[str, Any]]:
    """Labels of the rendered songs of a split, by the names of their folders."""
    return {song.name: json.loads((song / "labels.json").read_text()) for song in finished_songs(corpus / split)}


def read_mono(path: Path, sampling_rate: int) -> np.ndarray:
    """Read a file as int16 [N], mono at `sampling_rate` Hz."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate != sampling_rate:
        mono = soxr.resample(mono, rate, sampling_rate)
    return np.clip(np.round(mono * PCM_SCALE), -32768, 32767).astype(np.int16)


def read_stereo(path: Path, sampling_rate: int) -> np.ndarray:
    """Read a file as int16 [left and right, N] at `sampling_rate` Hz; mono becomes two equal channels."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != sampling_rate:
        samples = soxr.resample(samples, rate, sampling_rate)
    if samples.shape[1] == 1:
        both = np.broadcast_to(samples.T, (2, len(samples)))
    else:
        both = samples.T[:2]
    return np.clip(np.round(both * PCM_SCALE), -32768, 32767).astype(np.int16)


def load_song(folder: Path, sampling_rate: int, stems: bool = False, stereo_rate: int | None = None) -> Song:
    """Read one song.

    Args:
        folder: folder of the song.
        sampling_rate: in Hz, for vocal, instrumental and stems, which are all cut to the length of the shortest.
        stems: whether to read the stems.
        stereo_rate: in Hz, for the instrumental in stereo, which is not cut; None: it is not read.
    """
    labels = json.loads((folder / "labels.json").read_text())
    vocal = read_mono(folder / "vocal.flac", sampling_rate)
    instrumental = read_mono(folder / "instrumental.flac", sampling_rate)
    band = {}
    if stems:
        for path in sorted(folder.glob("*.flac")):
            if path.stem not in ("vocal", "instrumental", STEREO):
                band[path.stem] = read_mono(path, sampling_rate)
    length = min(map(len, (vocal, instrumental, *band.values())))
    stereo = None
    if stereo_rate is not None:
        stereo = read_stereo(folder / f"{STEREO}.flac", stereo_rate)
    return Song(
        folder.name,
        vocal[:length],
        instrumental[:length],
        labels,
        stems={name: stem[:length] for name, stem in band.items()},
        stereo=stereo,
        # undoes the gain by which the corpus attenuated the stereo file, against clipping
        stereo_scale=1 / float(labels.get("stereo_gain", 1.0)),
    )


class SongPool:
    """The finished songs of one split, held in memory as int16.

    Args:
        root: corpus folder, above the splits.
        split: "train", "validation" or "test".
        sampling_rate: rate in Hz that songs are resampled to.
        max_hours: no further songs are loaded once their total length reaches this many hours.
        stems: whether to load stems as well.
        stereo_rate: rate in Hz at which to load the instrumental in stereo as well; None: it is not loaded.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        sampling_rate: int,
        max_hours: float = 12.0,
        stems: bool = False,
        stereo_rate: int | None = None,
    ) -> None:
        self.folder = Path(root) / split
        self.sampling_rate = sampling_rate
        self.max_hours = max_hours
        self.stems = stems
        self.stereo_rate = stereo_rate
        self.songs: list[Song] = []
        self._seen: set[str] = set()

    @property
    def hours(self) -> float:
        """Total length of the loaded songs in hours."""
        return sum(song.num_samples for song in self.songs) / self.sampling_rate / 3600

    def refresh(self) -> int:
        """Load the songs that were finished since the last call, up to `max_hours`; returns their number.

        Songs that cannot be read are skipped with a warning.
        """
        count = 0
        for folder in finished_songs(self.folder):
            if folder.name in self._seen:
                continue
            if self.hours >= self.max_hours:
                break
            self._seen.add(folder.name)
            try:
                self.songs.append(load_song(folder, self.sampling_rate, self.stems, self.stereo_rate))
                count += 1
            except (OSError, RuntimeError, json.JSONDecodeError) as error:
                logger.warning("skipping song %s: %s", folder, error)
        return count

    def require(self, seconds: float) -> None:
        """Raise ValueError unless at least one song is long enough for crops of `seconds`."""
        needed = int(seconds * self.sampling_rate)
        if not any(song.num_samples > needed for song in self.songs):
            raise ValueError(
                f"{self.folder} holds no finished song longer than {seconds:g} s ({len(self.songs)} songs): "
                "render some with recipes/build_song_corpus.py first."
            )

    def draw(self, rng: np.random.Generator, num_samples: int) -> tuple[Song, int]:
        """Draw a song, uniformly among those longer than `num_samples`, and the first sample of a crop in it.

        Raises:
            ValueError: no song is longer.
        """
        long_songs = [song for song in self.songs if song.num_samples > num_samples]
        song = long_songs[int(rng.integers(len(long_songs)))]
        return song, int(rng.integers(song.num_samples - num_samples))
