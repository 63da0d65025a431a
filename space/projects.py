# SPDX-License-Identifier: Apache-2.0
"""Projects: a voice, its lead sheet, takes and settings in one file, which the page can open again.

A project is a zip of project.json (the state in static/page.js), the voice, and a folder for each job. A browser that
has kept one (static/keep.js) has the pieces of each job that it has played, instead of lossless files.
"""

import json
import re
import tempfile
import zipfile
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hafm_hf import audio
from listening import uploaded
from parts import EXAMPLES
from songs import MAX_SECONDS, read_vocal
from takes import ABOUT, JOBS, Job, read_job

# Limit of a project's uncompressed size, in bytes.
MOST_BYTES = 1 << 30
# Lowest rate (Hz) of files that are made of pieces.
LEAST_RATE = 44_100


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
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("project.json", json.dumps({**state, "path": voice.name}))
        archive.write(voice, voice.name)
        for job in jobs:
            about = job.folder / ABOUT
            is_there = all(file.exists() for file in (about, *job.sounds()))
            if job.folder.name in state.get("takes", []) and is_there:
                archive.write(about, f"{job.folder.name}/{ABOUT}")
                for file in job.sounds():
                    # as WAV, two takes of a long song would be more than can be uploaded
                    packed = file.with_suffix(".flac")
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
            if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                raise ValueError(f"{path.name} is too large.")
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
                # takes are read as WAV
                if folder and file.suffix == ".flac":
                    soundfile.write(file.with_suffix(".wav"), *soundfile.read(file, dtype="int16"))
        voice = folders[""] / Path(state["path"]).name
        for folder_here in folders.values():
            job = read_job(folder_here.name, str(voice))
            if job is not None and not job.path("instrumental").exists() and any(folder_here.glob("[0-9]*_*")):
                write_sounds(job)
        return {**state, **_renamed(state, {name: folder.name for name, folder in folders.items()}), "path": voice}
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is not a project of this page, or a part of it is missing.") from error


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
            sounds = [soundfile.read(path, dtype="float32") for path in sorted(job.folder.glob(f"[0-9]*_{channel}.*"))]
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
