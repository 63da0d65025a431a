# SPDX-License-Identifier: Apache-2.0
"""Takes: the files of what was generated, mixed as a person wants them, and their selected bars made anew.

Behind songs.py on the path of the data, which generates; below everything else of the Space, since it says where files
lie.
"""

from __future__ import annotations

import atexit
import math
import os
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hafm_hf import audio
from hafm_hf.accompaniment.options import MixOptions


def setting(name: str, default: str) -> str:
    """The environment variable HAFM_SPACE_NAME."""
    return os.environ.get(f"HAFM_SPACE_{name}", default)


KEEP_SECONDS = float(setting("KEEP_SECONDS", "3600"))
FORMATS = tuple(audio.FILE_FORMATS)
# Everything that this process writes lies below, uploads too; what is older than KEEP_SECONDS is removed.
JOBS = Path(tempfile.mkdtemp(prefix="hafm_space_"))
os.environ["GRADIO_TEMP_DIR"] = str(JOBS / "gradio")
atexit.register(shutil.rmtree, JOBS, ignore_errors=True)
# What a channel's level may be, in dB.
LEVELS_DB = (-60.0, 24.0)
# Shorter pieces of an old take are not worth keeping: the model would go on from nothing.
LEAST_KEPT_SECONDS = 0.2
PASTE_FADE_SECONDS = 0.02
EXPIRED = "These songs have been removed from the server; generate them again."


@dataclass
class Job:
    """The songs made of one vocal: files in `folder`, which disappears when the job expires.

    Args:
        name: what the files are called after.
        variations: how many songs there are.
        seed: that made them.
        seconds: that it took.
        source: the vocal's file.
        loudness: of each variation in LUFS, by channel of the mixer; None for silence.
        tail: seconds for which the band goes on behind the voice.
        stems: names of those that were played apart.
        number: of the takes of a person.
    """

    folder: Path
    name: str
    variations: int
    seed: int
    seconds: float
    source: str
    loudness: list[dict[str, float | None]]
    tail: float = 0.0
    stems: tuple[str, ...] = ()
    number: int = 1

    @property
    def band(self) -> dict[str, str]:
        """The band's channels in the mixer, and what the file of each is called by."""
        return {stem: stem for stem in self.stems} or {"band": "instrumental"}

    def path(self, part: str, suffix: str, variation: int | None = None) -> Path:
        """Name of a file, as it will be called on the person's own machine."""
        number = f"_{variation}" if variation and self.variations > 1 else ""
        return self.folder / f"{self.name}{number}_{part}.{suffix}"

    def read(self, part: str, variation: int | None = None) -> tuple[audio.Samples, int]:
        """The vocal, an instrumental or a stem: float32 [N] and its rate in Hz.

        Raises:
            HAFMAudioError: when the job has expired.
        """
        path = self.path(part, "wav", variation)
        if not path.exists():
            raise audio.HAFMAudioError(EXPIRED)
        return audio.read_audio(path, min_seconds=0.0, mono=False)


def write_job(
    songs: list[dict[str, Any]], name: str, seed: int, seconds: float, source: str, tail: float = 0.0
) -> Job:
    """Writes vocal, instrumentals, their stems and the zip of all of these, which `sweep` removes in time."""
    rate, parts = songs[0]["sampling_rate"], [song.get("stems", {}) for song in songs]
    loudness = [
        measure({"voice": song["vocals"], **(stems or {"band": song["audio"]})}, rate)
        for song, stems in zip(songs, parts, strict=True)
    ]
    folder = Path(tempfile.mkdtemp(dir=JOBS))
    job = Job(folder, name, len(songs), seed, seconds, source, loudness, tail, tuple(parts[0]))
    files = [audio.write_audio(job.path("vocal", "wav"), songs[0]["vocals"], rate)]
    for number, (song, stems) in enumerate(zip(songs, parts, strict=True), start=1):
        for part, sound in {"instrumental": song["audio"], **stems}.items():
            files.append(audio.write_audio(job.path(part, "wav", number), sound, rate))
    with zipfile.ZipFile(job.path("stems", "zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.name)
    return job


@dataclass(frozen=True)
class Channel:
    """How voice or band goes into a mix.

    Args:
        db: level in dB.
        pan: −1 left to 1 right, with equal power; 0 leaves a sound as it is.
        muted: not heard at all.
    """

    db: float = 0.0
    pan: float = 0.0
    muted: bool = False

    @classmethod
    def of(cls, asked: Any) -> Channel:
        """A channel as the mixer sends it, within its limits; what it lacks is as usual."""
        asked = asked if isinstance(asked, dict) else {}
        db, pan = (_number(asked.get(name)) for name in ("db", "pan"))
        return cls(min(max(db, LEVELS_DB[0]), LEVELS_DB[1]), min(max(pan, -1.0), 1.0), bool(asked.get("muted")))

    def place(self, samples: audio.Samples) -> audio.Samples:
        """Samples (float32 [N] or [N, 2]) with level and place: [N, 2] where the place is not the middle."""
        loud = samples * np.float32(0.0 if self.muted else audio.decibels_to_gain(self.db))
        if not self.pan:
            return loud
        angle = (self.pan + 1) * math.pi / 4
        # the middle keeps its level, as without a pan
        sides = np.float32(math.sqrt(2)) * np.array([math.cos(angle), math.sin(angle)], dtype=np.float32)
        return audio.with_channels(loud, 2) * sides


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def mix_job(
    job: Job,
    variation: int,
    voice: Channel,
    band: Channel | Mapping[str, Channel],
    suffix: str = "wav",
    lufs: float | None = None,
) -> Path:
    """Mixes voice and band, which exist already, into a file of one of `FORMATS`, at a loudness if one is given.

    Args:
        job, variation: whose.
        voice: its channel.
        band: one channel for all of it, or one for each of `Job.band`.
        suffix: of the file.
        lufs: loudness of the mix.

    Raises:
        HAFMAudioError: when the job has expired.
    """
    vocal, rate = job.read("vocal")
    channels = {"instrumental": band} if isinstance(band, Channel) else {job.band[name]: band[name] for name in band}
    placed = [channel.place(job.read(part, variation)[0]) for part, channel in channels.items()]
    wide = max(sound.ndim for sound in placed)
    instrumental = reduce(np.add, [audio.with_channels(sound, 2) if wide > 1 else sound for sound in placed])
    mix = audio.mix_audio(voice.place(vocal), instrumental)
    mix = mix if lufs is None else audio.to_loudness(mix, rate, lufs)
    return audio.write_audio(job.path("mix", suffix, variation), audio.fade_edges(mix, rate), rate)


def write_file(job: Job, variation: int, mixer: dict[str, Any]) -> Path:
    """What a person takes home, as the mixer asks for it by {"file", "format"}.

    "mix" or "instrumental" in one of `FORMATS`, or "stems", a zip; the mix with its "channels" and "loudness" (LUFS).

    Raises:
        ValueError: there is no such file, or it has expired.
    """
    ask = mixer.get("ask") or {}
    part, suffix = ask.get("file"), ask.get("format")
    if part == "stems" and job.path("stems", "zip").exists():
        return job.path("stems", "zip")
    if part not in ("mix", "instrumental") or suffix not in FORMATS:
        raise ValueError(f"There is no {part!r} as {suffix!r}; files are {', '.join(FORMATS)}.")
    if part == "mix":
        options = MixOptions.of(given={"loudness": mixer.get("loudness")})
        sent = mixer.get("channels")
        sent = sent if isinstance(sent, dict) else {}
        band = {name: Channel.of(sent.get(name)) for name in job.band}
        return mix_job(job, variation, Channel.of(sent.get("voice")), band, suffix, options.loudness)
    path = job.path("instrumental", suffix, variation)
    return path if path.exists() else audio.write_audio(path, *job.read("instrumental", variation))


@dataclass(frozen=True)
class Remake:
    """Some seconds of a take, made anew: the rest stays as it is, to the sample.

    Args:
        job, variation: whose band.
        start, stop: seconds of it.

    Raises:
        ValueError: nothing would be left of the old take, or nothing made anew.
    """

    job: Job
    variation: int
    start: float
    stop: float

    def parameters(self) -> dict[str, Any]:
        """What the pipeline needs in order to keep the rest."""
        band, rate = self.job.read("instrumental", self.variation)
        seconds = len(band) / rate
        around = [(0.0, max(self.start, 0.0)), (min(self.stop, seconds), seconds)]
        keep = [(start, stop) for start, stop in around if stop - start >= LEAST_KEPT_SECONDS]
        if not keep or self.start >= min(self.stop, seconds):
            raise ValueError("The selected bars are the whole song; generate it anew instead.")
        known = {"instrumental": {"array": band, "sampling_rate": rate}, "keep": keep}
        return {**known, "stems": bool(self.job.stems), "num_samples": 1, "tail": self.job.tail}

    def paste(self, song: dict[str, Any]) -> dict[str, Any]:
        """The old take with the selected seconds of a new song, cross-faded within them."""
        vocal, rate = self.job.read("vocal")
        stems = {stem: self._pasted(stem, song["stems"][stem], song["sampling_rate"]) for stem in self.job.stems}
        band = self._pasted("instrumental", song["audio"], song["sampling_rate"])
        return {**song, "audio": band, "stems": stems, "vocals": vocal, "sampling_rate": rate}

    def _pasted(self, part: str, sound: audio.Samples, sound_rate: int) -> audio.Samples:
        """A file of the old take with the selected seconds of a new sound (float32 [N] or [N, C])."""
        old, rate = self.job.read(part, self.variation)
        new = audio.resample(sound, sound_rate, rate)
        first, last = max(round(self.start * rate), 0), min(round(self.stop * rate), len(old), len(new))
        fade = min(round(PASTE_FADE_SECONDS * rate), (last - first) // 2)
        gain = np.ones(last - first, dtype=np.float32)
        slope = np.linspace(0, 1, fade + 2, dtype=np.float32)[1:-1]
        gain[:fade] *= slope if first > 0 else 1
        gain[len(gain) - fade :] *= slope[::-1] if last < len(old) else 1
        old, new = (sound if sound.ndim == 2 else sound[:, None] for sound in (old, new))
        gain = gain[:, None]
        band = old.copy()
        band[first:last] = gain * new[first:last] + (1 - gain) * old[first:last]
        return band if band.shape[1] > 1 else band[:, 0]


def measure(sounds: dict[str, audio.Samples], rate: int) -> dict[str, float | None]:
    """Loudness of sounds in LUFS; None for silence, and for less than 0.4 s."""
    found = {name: audio.loudness(samples, rate) for name, samples in sounds.items()}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def shelf(jobs: list[Job]) -> list[dict[str, Any]]:
    """What the mixer shows of takes that still exist, the oldest first."""
    return [
        {
            "id": f"{job.folder.name}/{variation}",
            "name": f"Take {job.number}",
            "seed": job.seed,
            "variation": variation if job.variations > 1 else 0,
            "seconds": soundfile.info(job.path("vocal", "wav")).duration,
            "voice": str(job.path("vocal", "wav")),
            "band": {name: str(job.path(part, "wav", variation)) for name, part in job.band.items()},
            "loudness": job.loudness[variation - 1],
        }
        for job in jobs
        for variation in range(1, job.variations + 1)
        if job.path("vocal", "wav").exists() and job.path("instrumental", "wav", variation).exists()
    ]


def find(jobs: list[Job], take: Any) -> tuple[Job, int]:
    """The job and variation of a take's "id".

    Raises:
        HAFMAudioError: it is none of these, or has expired.
    """
    for job in jobs:
        for variation in range(1, job.variations + 1):
            if take == f"{job.folder.name}/{variation}":
                job.read("instrumental", variation)
                return job, variation
    raise audio.HAFMAudioError(EXPIRED)


def sweep(folder: Path, age: float) -> None:
    """Removes files below a folder that have been there, untouched, for `age` seconds, and folders left empty."""
    oldest = time.time() - age
    old: list[Path] = []
    # before the first goes: a folder is changed by what is removed from it
    for place, folders, names in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *names)):
            with suppress(OSError):  # gone already
                old += [path] if path.stat().st_ctime <= oldest else []
    for path in sorted(old, reverse=True):
        with suppress(OSError):  # gone already, or not empty
            path.unlink() if path.is_file() else path.rmdir()


def keep_sweeping() -> None:
    """Starts the thread that sweeps JOBS as long as the process lives.

    Gradio's own `delete_cache` (6.31) left 449 files behind after 500 requests; by its code, it ends for good when a
    file is added while it counts.
    """

    def run() -> None:
        while True:
            time.sleep(min(max(KEEP_SECONDS / 4, 1.0), 60.0))
            sweep(JOBS, KEEP_SECONDS)

    threading.Thread(target=run, name="sweep", daemon=True).start()
