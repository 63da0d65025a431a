# SPDX-License-Identifier: Apache-2.0
"""Takes: the files of generated songs, mixing them, and replacing selected bars.

Every other module of the Space imports this one, which also decides where files are stored.
"""

import atexit
import json
import math
import os
import re
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache, reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import filelock
import numpy as np
import soundfile

from hafm_hf import LeadSheet, audio
from hafm_hf.accompaniment.options import MEDIAN_BALANCE, MixOptions
from hafm_hf.atomic_files import replacing
from hafm_hf.lead_sheet.files import read_lead_sheet
from hafm_hf.lead_sheet.vocabulary import STEMS
from opus_pieces import RATE as OPUS_RATE
from opus_pieces import OpusPieces


def setting(name: str, default: str) -> str:
    """The value of the environment variable HAFM_SPACE_NAME, or the default."""
    return os.environ.get(f"HAFM_SPACE_{name}", default)


KEEP_SECONDS = float(setting("KEEP_SECONDS", "3600"))
FORMATS = tuple(audio.FILE_FORMATS)
# Everything that this process writes is below it, including uploads; files older than KEEP_SECONDS are removed.
FOLDER_PREFIX = "hafm_space_"
JOBS = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
# Who holds the lock of such a folder uses it.
LOCK_FILE = ".lock"
LOCK = filelock.FileLock(JOBS / LOCK_FILE)
os.environ["GRADIO_TEMP_DIR"] = str(JOBS / "gradio")
atexit.register(shutil.rmtree, JOBS, ignore_errors=True)
# Metadata of a job, next to its audio files.
ABOUT = "job.json"
# The limits of a channel's level in dB, before `Job.balance` is added.
LEVELS_DB = (-60.0, 24.0)
# The model cannot continue from shorter pieces of an old take.
LEAST_KEPT_SECONDS = 0.2
# Parts of a sample that are errors of float arithmetic.
ROUNDING = 1e-6
# Seed of the bands stored with the example voices.
STORED_SEED = 1
# Length of the pieces in which a band is sent to the page, unless less of it has been generated.
PIECE_SECONDS = 10.0
# The name of a piece's file: the millisecond at which it begins, and its stem (`Pieces`).
PIECE = re.compile(r"\d{7,}_[a-z]+\.\w+$")
EXPIRED = "This take has been removed from the server; generate it again."


@dataclass
class Job:
    """A song generated for a vocal, which becomes a take of the page.

    Attributes:
        folder: of its files; it disappears when the job expires.
        name: with which the names of its files begin.
        seed: of the generation.
        elapsed: seconds that the generation took; 0 for a band stored with an example.
        source: the vocal file.
        balance: gain (dB) that makes the band as loud relative to the voice as in the median song.
        intro: seconds of the song before the voice begins.
        added: by how many seconds the song is longer than the part of the voice that was used.
        stems: names of the stems; empty if the band has none.
        style: the band's; "" if unknown.
        number: of the take on its page; 0 until it has one.
        excess: by how many dB the pieces that the page plays (`Pieces`) are louder than the other files.
        stopped: whether it was stopped before its end.
        remade: whether some of its bars were regenerated, so that its seed does not give it again.
        played: files that the page plays instead of pieces, by channel; empty if it plays pieces.
    """

    folder: Path
    name: str
    seed: int
    elapsed: float
    source: str
    balance: float
    intro: float = 0.0
    added: float = 0.0
    stems: tuple[str, ...] = ()
    style: str = ""
    number: int = 0
    excess: float = 0.0
    stopped: bool = False
    remade: bool = False
    played: dict[str, str] = field(default_factory=dict)

    @property
    def channels(self) -> dict[str, str]:
        """The mixer's channels with the names of their files: the voice, and the stems or the band."""
        channels = {"voice": "vocal"}
        if self.stems:
            return channels | {stem: stem for stem in self.stems}
        return channels | {"band": "instrumental"}

    def path(self, part: str, suffix: str = "wav") -> Path:
        """The path of a file; its name is also that of the download.

        Args:
            part: "vocal", "instrumental", "mix", "stems" (a zip) or the name of a stem.
            suffix: of the file's name, without a dot.
        """
        return self.folder / f"{self.name}_{part}.{suffix}"

    def sounds(self) -> list[Path]:
        """The files of vocal, instrumental and stems."""
        return [self.path(part) for part in ("vocal", "instrumental", *self.stems)]

    def about(self) -> dict[str, Any]:
        """What `read_job` needs besides the files."""
        # paths of this process are of no use to another one, which gives `read_job` its own
        return {**asdict(self), "folder": "", "source": "", "played": {}}

    def save(self) -> None:
        """Saves the job next to its files, for `read_job`."""
        (self.folder / ABOUT).write_text(json.dumps(self.about()), encoding="utf-8")

    def read(self, part: str) -> tuple[audio.Samples, int]:
        """Reads the vocal, the instrumental or a stem: float32 [N] or [N, 2], rate in Hz; a HAFMAudioError if gone."""
        path = self.path(part)
        if not path.exists():
            raise audio.HAFMAudioError(EXPIRED)
        return audio.read_audio(path, min_seconds=0.0, mono=False)

    def files_to_play(self) -> dict[str, Any]:
        """Finds the files of the band that the page plays.

        Pieces that are missing are written from the lossless files; they are as loud as those, so `excess` becomes 0.

        Returns:
            {"files": paths by channel, "at": second at which each of a channel's files begins}; without "at" if a
            channel has one file.
        """
        if self.played:
            return {"files": self.played}
        names = [name for name in self.channels if name != "voice"]
        if not self._pieces_of(names[0]):
            sounds = {}
            for name in names:
                sounds[name], rate = self.read(self.channels[name])
            Pieces(self.folder).add(sounds, rate, ends=True)
            self.excess = 0.0
            if (self.folder / ABOUT).exists():
                self.save()
        files = {name: self._pieces_of(name) for name in names}
        # `Pieces` begins the names of its files with milliseconds
        begins = [int(path.name.split("_")[0]) / 1000 for path in files[names[0]]]
        return {"files": {name: [*map(str, paths)] for name, paths in files.items()}, "at": begins}

    def _pieces_of(self, channel: str) -> list[Path]:
        """The pieces of a channel, in the order in which they are played; empty if none has been written."""
        return sorted(self.folder.glob(f"[0-9]*_{channel}.opus"))


class Pieces:
    """Writes the stems of a band as pieces that a page plays while more is generated: `MILLISECONDS_STEM.opus`.

    Each is there as FLAC too, for browsers that do not decode Opus.

    Args:
        folder: where they are written.

    Attributes:
        files: paths of the pieces that have been written, by stem.
        at: second at which each of a stem's pieces begins.
        until: second at which the last one ends.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rate = 0
        # what has not been written yet
        self.rest: dict[str, audio.Samples] = {}
        self.encoders: dict[str, OpusPieces] = {}
        self.files: dict[str, list[str]] = {}
        self.at: list[float] = []
        self.until = 0.0

    def add(self, sounds: Mapping[str, audio.Samples], rate: int, ends: bool = False) -> bool:
        """Adds the next samples of each stem, and writes the pieces that are ready.

        Args:
            sounds (float32 [N] or [N, C]): by stem, always the same stems.
            rate: in Hz.
            ends: whether they are the last ones; otherwise the encoders hold back about a second.

        Returns:
            Whether a piece was written.
        """
        self.rate = rate
        for name, sound in sounds.items():
            if name not in self.encoders:
                self.rest[name] = sound[:0]
                self.encoders[name] = OpusPieces(rate, 1 if sound.ndim == 1 else sound.shape[1])
            self.rest[name] = np.concatenate([self.rest[name], sound])
            self.encoders[name].add(sound)
        if ends:
            self._end()
        return self._write()

    def finish(self) -> None:
        """Writes the rest of a song that has been stopped."""
        self._end()
        self._write()

    def _end(self) -> None:
        """Ends the encoders, after which all that was added is ready."""
        for encoder in self.encoders.values():
            if not encoder.finished:
                encoder.finish()

    def _write(self) -> bool:
        """Writes all that is ready in every stem, in pieces of up to PIECE_SECONDS; returns whether there was any."""
        # in samples at OPUS_RATE, like the edges of the pieces
        ready = min((encoder.ready for encoder in self.encoders.values()), default=0)
        start = round(self.until * OPUS_RATE)
        if ready <= start:
            return False
        edges = [*range(start, ready, round(PIECE_SECONDS * OPUS_RATE)), ready]
        for first, stop in pairwise(edges):
            self.at.append(first / OPUS_RATE)
            for name, encoder in self.encoders.items():
                path = self.folder / f"{round(1000 * first / OPUS_RATE):07d}_{name}.opus"
                path.write_bytes(encoder.piece(stop).content)
                # samples at the stem's own rate: both ends are rounded, so that the counts add up
                count = round(stop * self.rate / OPUS_RATE) - round(first * self.rate / OPUS_RATE)
                audio.write_audio(path.with_suffix(".flac"), self.rest[name][:count], self.rate)
                self.rest[name] = self.rest[name][count:]
                self.files.setdefault(name, []).append(str(path))
        self.until = ready / OPUS_RATE
        return True


def read_job(name: str, source: str) -> Job | None:
    """Reads a job that has been saved.

    Args:
        name: of its folder in JOBS.
        source: the vocal file.

    Returns:
        The job; None if it has expired or can't be read.
    """
    if not re.fullmatch(r"\w+", name):
        return None
    path = JOBS / name / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        about |= {"folder": path.parent, "source": source, "played": {}}
        kinds = get_type_hints(Job)
        # values of an untrusted project may be of any type
        job = Job(**{field_name: kind(about[field_name]) for field_name, kind in kinds.items() if field_name in about})
    except (OSError, OverflowError, TypeError, ValueError):
        return None
    # nor may a name lead out of the folder
    safe = re.sub(r"[^\w-]+", "_", job.name)
    stems = tuple(stem for stem in STEMS if stem in job.stems)
    return replace(job, name=safe, stems=stems)


def write_job(song: dict[str, Any], folder: Path | None = None, **about: Any) -> Job:
    """Writes the vocal, instrumental and stems of a song; `sweep` removes them when they expire.

    Args:
        song: as from the pipeline.
        folder: None: a new one.
        about: the fields of `Job` that the song does not give.
    """
    stems = song.get("stems", {})
    rate = song["sampling_rate"]
    balance = audio.balance_gain_db(song["vocals"], song["audio"], rate, MEDIAN_BALANCE)
    folder = folder or Path(tempfile.mkdtemp(dir=JOBS))
    job = Job(folder, balance=balance, stems=(*stems,), intro=song["vocal_start"], **about)
    for part, sound in {"vocal": song["vocals"], "instrumental": song["audio"], **stems}.items():
        audio.write_audio(job.path(part), sound, rate)
    return job


def zip_stems(job: Job) -> Path:
    """The path of a zip of all audio files of a job, written on first use."""
    path = job.path("stems", "zip")
    if not path.exists():
        # two presses of the button write two files, the later of which replaces the other
        with replacing(path) as content, zipfile.ZipFile(content, "w") as archive:
            for file in job.sounds():
                archive.write(file, file.name)
    return path


class LiveTake:
    """A take while it is generated: its chunks, and files of them for the page to play.

    Attributes:
        chunks: of `HAFMPipeline.stream`, so far.
        seconds: their length.
        seed: of the generation, which whoever starts it sets.
        writer: of the files; None before the first chunk.
    """

    def __init__(self) -> None:
        self.chunks: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.seed: int | None = None
        self.writer: Pieces | None = None

    @property
    def folder(self) -> Path | None:
        """Where the pieces are, None before the first chunk."""
        return self.writer.folder if self.writer else None

    def add(
        self, chunk: dict[str, Any], source: str | None, vocal: audio.Samples, vocal_rate: int
    ) -> dict[str, Any] | None:
        """Adds the next chunk of a song, and writes the files that are ready.

        Args:
            chunk: of `HAFMPipeline.stream`.
            source: the vocal file.
            vocal (float32 [N] or [N, 2]): its samples.
            vocal_rate: their rate in Hz.

        Returns:
            None if no file has become ready. Otherwise what the mixer needs to play the song so far: "source", "seed",
            "balance" (dB, of the band so far with the vocal), "files" (paths by channel), and in seconds "at" (where
            each of a channel's files starts), "until" (where the last one ends), "intro", and "seconds" (the song's
            final length).
        """
        self.writer = self.writer or Pieces(Path(tempfile.mkdtemp(dir=JOBS)))
        self.chunks.append(chunk)
        rate = chunk["sampling_rate"]
        self.seconds += len(chunk["audio"]) / rate
        # within half a sample
        ends = self.seconds >= chunk["seconds"] - 0.5 / rate
        if not self.writer.add(chunk.get("stems") or {"band": chunk["audio"]}, rate, ends):
            return None
        band = np.concatenate([added["audio"] for added in self.chunks])
        voice = audio.resample(vocal, vocal_rate, rate)
        return {
            "source": source,
            "seed": self.seed,
            "balance": audio.balance_gain_db(voice, band, rate, MEDIAN_BALANCE),
            "seconds": chunk["seconds"],
            "intro": chunk["vocal_start"],
            "until": self.writer.until,
            "at": [*self.writer.at],
            "files": {name: [*files] for name, files in self.writer.files.items()},
        }

    def finish(self, song: dict[str, Any]) -> float:
        """Writes the last files.

        Returns:
            By how many dB they are louder than the song, which may have been turned down when it was complete.
        """
        if self.writer is None:
            return 0.0
        self.writer.finish()
        loud = max(audio.peak_dbfs(chunk["audio"]) for chunk in self.chunks)
        excess = loud - audio.peak_dbfs(song["audio"])
        # of silence it is not finite
        return excess if math.isfinite(excess) else 0.0


def stored_sheet(voice: Path) -> LeadSheet:
    """The lead sheet stored for an example voice, in bands/NAME.json next to it; an empty one if there is none."""
    path = voice.parent / "bands" / f"{voice.stem}.json"
    return read_lead_sheet(path) if path.exists() else LeadSheet()


@cache
def stored_song(voice: Path) -> dict[str, Any]:
    """The song of an example voice with the band stored for it, in bands/NAME_STEM.ogg next to it.

    Returns:
        A song as from the pipeline, at the voice's rate, with "files" (paths by channel); empty if there is no band.
    """
    vocal, rate = audio.read_audio(voice)
    paths = {stem: voice.parent / "bands" / f"{voice.stem}_{stem}.ogg" for stem in STEMS}
    if not all(path.exists() for path in paths.values()):
        return {}
    sounds = {stem: audio.resample(*audio.read_audio(path, min_seconds=0.0), rate) for stem, path in paths.items()}
    frames = max(map(len, sounds.values()))
    stems = {stem: np.pad(sound, (0, frames - len(sound))) for stem, sound in sounds.items()}
    return {
        "audio": reduce(np.add, stems.values()),
        "vocals": np.pad(vocal, (0, frames))[:frames],
        "stems": stems,
        "sampling_rate": rate,
        "vocal_start": 0.0,
        "files": {"voice": str(voice), **{stem: str(path) for stem, path in paths.items()}},
    }


def stored_band(voice: Path) -> dict[str, Any]:
    """What the mixer needs to play an example's band until `stored_job` has made a take of it; empty without a band.

    Its entries are those of `LiveTake.add`, and "run", a name like a run's ticket.
    """
    song = stored_song(voice)
    if not song:
        return {}
    seconds = len(song["audio"]) / song["sampling_rate"]
    return {
        "seconds": seconds,
        "until": seconds,
        "files": song["files"],
        "balance": audio.balance_gain_db(song["vocals"], song["audio"], song["sampling_rate"], MEDIAN_BALANCE),
        "run": str(voice),
        "source": str(voice),
    }


def stored_job(voice: Path) -> Job | None:
    """Makes a take of the band stored for an example voice; None if there is none."""
    song = stored_song(voice)
    if not song:
        return None
    return write_job(
        song,
        name=voice.stem,
        seed=STORED_SEED,
        elapsed=0.0,
        source=str(voice),
        style=str(stored_sheet(voice).style or ""),
        played=song["files"],
    )


@dataclass(frozen=True)
class Channel:
    """A mixer channel: level in dB, and equal-power pan from −1 (left) to 1 (right)."""

    db: float = 0.0
    pan: float = 0.0
    muted: bool = False

    @classmethod
    def of(cls, asked: Any) -> "Channel":
        """A channel from the mixer's {"db", "pan", "muted"}, clamped to the limits; what is no number becomes 0."""
        if not isinstance(asked, dict):
            asked = {}
        lowest, highest = LEVELS_DB
        db = min(max(_number(asked.get("db")), lowest), highest)
        pan = min(max(_number(asked.get("pan")), -1.0), 1.0)
        return cls(db, pan, muted=bool(asked.get("muted")))

    def place(self, samples: audio.Samples) -> audio.Samples:
        """Applies level and pan to samples (float32 [N] or [N, 2]); the result is [N, 2] unless the pan is 0."""
        gain = 0.0 if self.muted else audio.decibels_to_gain(self.db)
        loud = samples * np.float32(gain)
        if not self.pan:
            return loud
        if loud.ndim == 1:
            angle = (self.pan + 1) * math.pi / 4
            # normalised so that a centred sound keeps its level
            sides = np.float32(math.sqrt(2)) * np.array([math.cos(angle), math.sin(angle)], dtype=np.float32)
            return audio.with_channels(loud, 2) * sides
        # the far channel is mixed into the near one, like Web Audio's StereoPannerNode, which the page uses
        angle = abs(self.pan) * math.pi / 2
        # from rows (left, right) to columns (left, right), for a pan to the right
        matrix = np.array([[math.cos(angle), math.sin(angle)], [0, 1]], dtype=np.float32)
        if self.pan < 0:
            matrix = matrix[::-1, ::-1]
        return audio.with_channels(loud, 2) @ matrix


def _number(value: Any) -> float:
    """A value that a page has sent as a number; 0 if it is none, or not finite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def placed(job: Job, channels: Mapping[str, Channel]) -> tuple[audio.Samples, audio.Samples, int]:
    """Reads the voice and the band of a job, with the levels and pans of the mixer's channels.

    Args:
        job: the job.
        channels: by name, one for each of `Job.channels`.

    Returns:
        Voice and band (float32 [N] each, or [N, 2] if one of them is stereo), and their rate in Hz.

    Raises:
        HAFMAudioError: the job has expired.
    """
    sounds = {}
    for name, part in job.channels.items():
        sound, rate = job.read(part)
        sounds[name] = channels[name].place(sound)
    # a mono sound has one axis, a stereo sound two
    num_channels = max(sound.ndim for sound in sounds.values())
    # `Job.channels` has the voice first
    voice, *band_parts = (audio.with_channels(sound, num_channels) for sound in sounds.values())
    return voice, reduce(np.add, band_parts), rate


def mix_job(job: Job, channels: Mapping[str, Channel], suffix: str = "wav", lufs: float | None = None) -> Path:
    """Mixes the channels of a job into one file.

    Args:
        channels: by name, one for each of `Job.channels`.
        suffix: of the file, one of FORMATS.
        lufs: loudness of the mix in LUFS; None: as it is.

    Returns:
        The file's path.

    Raises:
        HAFMAudioError: the job has expired.
    """
    voice, band, rate = placed(job, channels)
    mix = audio.mix_audio(voice, band)
    if lufs is not None:
        mix = audio.to_loudness(mix, rate, lufs)
    return audio.write_audio(job.path("mix", suffix), audio.fade_edges(mix, rate), rate)


def channels_of(job: Job, mixer: dict[str, Any]) -> dict[str, Channel]:
    """A job's channels as set in the mixer, where 0 dB of the band's channels is the level of `Job.balance`.

    Args:
        job: the job.
        mixer: the mixer's value, whose "channels" are settings (`Channel.of`) by name.
    """
    sent = mixer.get("channels")
    if not isinstance(sent, dict):
        sent = {}
    channels = {name: Channel.of(sent.get(name)) for name in job.channels}
    for name in channels.keys() - {"voice"}:
        channels[name] = replace(channels[name], db=channels[name].db + job.balance)
    return channels


def write_file(job: Job, mixer: dict[str, Any]) -> Path:
    """Writes the file that the mixer's "ask" requests.

    Args:
        job: the take to write.
        mixer: the mixer's value. The "file" of its "ask" is "mix" or "instrumental", in the "format" of its "ask", or
            "stems", always a zip. The mix also depends on "channels" (`channels_of`) and "loudness" (LUFS; None: as
            it is).

    Returns:
        The file's path.

    Raises:
        ValueError: there is no such file or format, or the job has expired.
    """
    ask = mixer.get("ask") or {}
    part = ask.get("file")
    suffix = ask.get("format")
    if part == "stems":
        return zip_stems(job)
    if part not in ("mix", "instrumental") or suffix not in FORMATS:
        raise ValueError(f"There is no {part!r} as {suffix!r}; the formats are {', '.join(FORMATS)}.")
    if part == "mix":
        options = MixOptions.of(given={"loudness": mixer.get("loudness")})
        return mix_job(job, channels_of(job, mixer), suffix, options.loudness)
    path = job.path("instrumental", suffix)
    if not path.exists():
        audio.write_audio(path, *job.read("instrumental"))
    return path


@dataclass(frozen=True)
class Remake:
    """Regenerates a take from `start` to `stop` (seconds of the take); the rest stays the same, to the sample."""

    job: Job
    start: float
    stop: float

    def parameters(self) -> dict[str, Any]:
        """Arguments with which the pipeline replaces the selection and keeps the rest of the take.

        Raises:
            ValueError: nothing is kept, or nothing is replaced.
        """
        band, rate = self.job.read("instrumental")
        seconds = len(band) / rate
        # before and after the selection
        spans = [(0.0, max(self.start, 0.0)), (min(self.stop, seconds), seconds)]
        keep = [(start, stop) for start, stop in spans if stop - start >= LEAST_KEPT_SECONDS]
        if self.start >= seconds:
            raise ValueError("This take ends before the selected bars.")
        if not keep or self.start >= self.stop:
            raise ValueError("The selected bars are the whole song; generate a new one instead.")
        return {
            "instrumental": {"array": band, "sampling_rate": rate},
            "keep": keep,
            "stems": bool(self.job.stems),
        }

    def paste(self, song: dict[str, Any]) -> dict[str, Any]:
        """Pastes the selected seconds of a new song into the old take, cross-faded inside the selection.

        Args:
            song: as from the pipeline, which has generated it with `parameters`.

        Returns:
            The old take with these seconds, in the form of `song`, at the rate of the old take.
        """
        vocal, rate = self.job.read("vocal")
        stems = {stem: self._pasted(stem, song["stems"][stem], song["sampling_rate"]) for stem in self.job.stems}
        band = self._pasted("instrumental", song["audio"], song["sampling_rate"])
        return {
            **song,
            "audio": band,
            "stems": stems,
            "vocals": vocal,
            "vocal_start": self.job.intro,
            "sampling_rate": rate,
        }

    def _pasted(self, part: str, sound: audio.Samples, sound_rate: int) -> audio.Samples:
        """A sound of the old take with the selected seconds taken from a new one.

        Args:
            part: "instrumental" or the name of a stem.
            sound (float32 [N] or [N, C]): of the new song.
            sound_rate: its rate in Hz.

        Returns:
            float32, with the channels and at the rate of the old take.
        """
        old_sound, rate = self.job.read(part)
        channels = 1 if old_sound.ndim == 1 else old_sound.shape[1]
        new_sound = audio.with_channels(audio.resample(sound, sound_rate, rate), channels)
        # whole samples inside the selection, so that nothing before or after it changes
        first = max(math.ceil(self.start * rate - ROUNDING), 0)
        last = min(math.floor(self.stop * rate + ROUNDING), len(old_sound), len(new_sound))
        return audio.paste(old_sound, new_sound, rate, first, last)


def shelf(jobs: list[Job]) -> list[dict[str, Any]]:
    """The mixer's description of the takes that still exist, oldest first."""
    shown = []
    for job in sorted(jobs, key=lambda job: job.number):
        if job.path("vocal").exists() and job.path("instrumental").exists():
            shown.append(_take_for_page(job))
    return shown


def _take_for_page(job: Job) -> dict[str, Any]:
    """What the mixer needs to know of a take.

    Returns:
        "id", the name of its folder; "name", its title; "seconds", its length; "seed", "style", "source", "intro" and
        "remade" of the job; "files" and "at" (`Job.files_to_play`); "balance", the gain (dB) of these files; "folder"
        and "about", which the browser keeps, so that `read_job` can read the take on a server that was restarted.
    """
    name = f"Take {job.number}"
    if job.stopped:
        name += " (partial)"
    # first: it may write the pieces anew, and then sets `excess` (dB by which pieces are louder than the files) to 0
    to_play = job.files_to_play()
    return {
        "id": job.folder.name,
        "name": name,
        **{field: getattr(job, field) for field in ("seed", "style", "source", "intro", "remade")},
        "seconds": soundfile.info(job.path("vocal")).duration,
        **to_play,
        "balance": job.balance - job.excess,
        "folder": str(job.folder),
        "about": job.about(),
    }


def find(jobs: list[Job], take: Any) -> Job:
    """The job with a take's "id"; a HAFMAudioError if it has expired."""
    for job in jobs:
        if take == job.folder.name:
            job.read("instrumental")  # raises if its files are gone
            return job
    raise audio.HAFMAudioError(EXPIRED)


def sweep(folder: Path, age: float) -> None:
    """Removes files in a folder that have not changed for `age` seconds, and folders left empty."""
    oldest = time.time() - age
    old: list[Path] = []
    # finds all before removing any, because removing a file changes its folder's time
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *names)):
            with suppress(OSError):  # gone already
                if path.stat().st_ctime <= oldest:
                    old.append(path)
    # files before the folders that they are in
    for path in sorted(old, reverse=True):
        with suppress(OSError):  # gone already, or not empty
            if path.is_file():
                path.unlink()
            else:
                path.rmdir()


def keep_sweeping() -> None:
    """Deletes what killed processes have left, and starts a thread that deletes what has expired in JOBS.

    Gradio's own `delete_cache` (6.31) stops for good if a file is added during its scan.
    """

    # released however this process ends
    LOCK.acquire(timeout=0)
    for folder in JOBS.parent.glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError, filelock.Timeout):  # of another user, or of a process that lives
            if folder != JOBS and (folder / LOCK_FILE).exists():
                with filelock.FileLock(folder / LOCK_FILE, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)

    def sweep_forever() -> None:
        """Sweeps four times in KEEP_SECONDS, but at most once a second and at least once a minute."""
        while True:
            time.sleep(min(max(KEEP_SECONDS / 4, 1.0), 60.0))
            # the lock file itself never expires
            os.utime(JOBS / LOCK_FILE)
            sweep(JOBS, KEEP_SECONDS)

    threading.Thread(target=sweep_forever, name="sweep", daemon=True).start()
