# SPDX-License-Identifier: Apache-2.0
"""Projects: a voice, its lead sheet, takes and settings in one file, which the page can open again.

A project is a zip of project.json (the state in static/page.js), the voice, and a folder for each job. A browser that
has kept one (static/keep.js) has the pieces of each job that it has played, instead of lossless files.
"""

import json
import re
import tempfile
import zipfile
import zlib
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hafm_hf import audio
from listening import uploaded
from parts import EXAMPLES
from songs import MAX_SECONDS, read_vocal
from takes import ABOUT, JOBS, PIECE, Job, read_job

# Limit of what is unpacked of a project, in bytes, its sounds as WAV.
MOST_BYTES = 1 << 30
# The methods of compression that are unpacked piece by piece: others may make gigabytes of a few bytes at once.
COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Limit of a take's length: that of a voice, with intro and outro.
LONGEST_TAKE_SECONDS = 2 * MAX_SECONDS + 60
# Lowest rate (Hz) of files that are made of pieces.
LEAST_RATE = 44_100


class TooLargeError(ValueError):
    """A project is too large to be unpacked; the message says so to the user."""


def write_project(jobs: list[Job], state: Any) -> Path:
    """Writes a project.

    Args:
        jobs: the takes of the page, of which the state names those of the project; without those that have expired.
        state: of static/page.js.

    Returns:
        The zip's path.

    Raises:
        ValueError: the voice is gone.
    """
    voice = uploaded(state.get("path") if isinstance(state, dict) else None, EXAMPLES)
    path = Path(tempfile.mkdtemp(dir=JOBS)) / f"{voice.stem}_project.zip"
    with zipfile.ZipFile(path, "w") as archive, tempfile.TemporaryDirectory(dir=JOBS) as temporary:
        archive.writestr("project.json", json.dumps({**state, "path": voice.name}))
        archive.write(voice, voice.name)
        for job in jobs:
            about = job.folder / ABOUT
            is_there = all(file.exists() for file in (about, *job.sounds()))
            if job.folder.name in state.get("takes", []) and is_there:
                archive.write(about, f"{job.folder.name}/{ABOUT}")
                for file in job.sounds():
                    # as WAV, two takes of a long song would be more than can be uploaded
                    packed = Path(temporary, file.with_suffix(".flac").name)
                    soundfile.write(packed, *soundfile.read(file, dtype="int16"))
                    archive.write(packed, f"{job.folder.name}/{packed.name}")
    return path


def read_project(path: Path) -> dict[str, Any]:
    """Unpacks a project into new folders, and writes files of takes of which it has only pieces.

    Returns:
        Its state, of which "path" (a Path), "takes", "chosen" and "marks" name what has been unpacked here.

    Raises:
        ValueError: the file is no project, is too large, or lacks a part.
    """
    # by the project's own names; "" is the folder of the voice
    folders: dict[str, Path] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked_bytes = sum(member.file_size for member in archive.infolist())
            check_size(path, unpacked_bytes)
            if any(member.compress_type not in COMPRESSION for member in archive.infolist()):
                raise ValueError(f"{path.name} is compressed in another way than projects are.")
            state = json.loads(archive.read("project.json"))
            for member in archive.namelist():
                folder, _, name = member.rpartition("/")
                # no file may leave its folder; the entry of a folder has no file name
                if not re.fullmatch(r"\w*", folder) or not name or name != Path(name).name:
                    continue
                if folder not in folders:
                    folders[folder] = Path(tempfile.mkdtemp(dir=JOBS))
                file = folders[folder] / name
                file.write_bytes(archive.read(member))
                # takes are read as WAV, pieces of them as they are
                if folder and file.suffix == ".flac" and not PIECE.match(name):
                    decoded = file.with_suffix(".wav")
                    soundfile.write(decoded, *read_sound(file, dtype="int16"))
                    unpacked_bytes += decoded.stat().st_size
                    check_size(path, unpacked_bytes)
        voice = folders[""] / Path(state["path"]).name
        for folder_here in folders.values():
            job = read_job(folder_here.name, str(voice))
            if job is not None and not job.path("instrumental").exists() and any(folder_here.glob("[0-9]*_*")):
                write_sounds(job)
        return {**state, **_renamed(state, {name: folder.name for name, folder in folders.items()}), "path": voice}
    except TooLargeError:
        raise
    except (
        AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile, zlib.error
    ) as error:  # fmt: skip
        raise ValueError(f"{path.name} is not a project of this page, or a part of it is missing.") from error


def check_size(path: Path, unpacked_bytes: int) -> None:
    """Raises TooLargeError if what is unpacked of a project is more than MOST_BYTES."""
    if unpacked_bytes > MOST_BYTES:
        raise TooLargeError(f"{path.name} is too large: unpacked, it has over {MOST_BYTES >> 20} MB.")


def read_sound(path: Path, **options: Any) -> tuple[np.ndarray, int]:
    """Reads a sound of a project with `soundfile.read` and its options: [N] or [N, 2], and the rate in Hz.

    Raises:
        ValueError: it is longer, or has more channels, than any that this page writes.
    """
    about = soundfile.info(path)
    if about.duration > LONGEST_TAKE_SECONDS or about.channels > 2:
        raise ValueError(f"{path.name} has {about.channels} channels and {about.duration:.0f} s.")
    samples, rate = soundfile.read(path, **options)
    return samples, rate


def _renamed(state: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Renames takes in the entries of a state that name some: "takes", "chosen" and "marks".

    Args:
        state: of static/page.js.
        names: new names by old ones; others stay.

    Returns:
        These three entries.
    """

    def new_name(quoted: re.Match[str]) -> str:
        """The new name of a name in quotes, in quotes too."""
        return f'"{names.get(quoted[1], quoted[1])}"'

    entries = {name: state.get(name) for name in ("takes", "chosen", "marks")}
    renamed: dict[str, Any] = json.loads(re.sub(r'"(\w+)"', new_name, json.dumps(entries)))
    return renamed


def write_sounds(job: Job) -> None:
    """Writes the vocal, instrumental and stems of a job of which there are only pieces, at least at LEAST_RATE.

    Raises:
        ValueError: the pieces don't fit together.
    """
    vocal, vocal_rate = read_vocal(job.source, MAX_SECONDS)
    rate = max(vocal_rate, LEAST_RATE)
    # as loud as the lossless files were
    gain = np.float32(audio.decibels_to_gain(-job.excess))
    band = {}
    for channel, part in job.channels.items():
        if channel != "voice":
            sounds = [read_sound(path, dtype="float32") for path in sorted(job.folder.glob(f"[0-9]*_{channel}.*"))]
            joined = np.concatenate([samples for samples, _ in sounds])
            band[part] = gain * audio.resample(joined, sounds[0][1], rate)
    instrumental = reduce(np.add, band.values())
    # the song is longer than the voice by intro and end
    voice_length = max(len(instrumental) - round(job.added * rate), 0)
    sung = audio.resample(vocal, vocal_rate, rate)[:voice_length]
    # silence where the band plays without the voice
    voice = np.zeros((len(instrumental), *sung.shape[1:]), dtype=np.float32)
    first = max(round(job.intro * rate), 0)
    voice[first : first + len(sung)] = sung[: max(len(instrumental) - first, 0)]
    for part, sound in {**band, "instrumental": instrumental, "vocal": voice}.items():
        audio.write_audio(job.path(part), sound, rate)
