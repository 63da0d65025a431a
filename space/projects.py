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
    """Writes a project from a state of static/page.js, without expired jobs; a ValueError if the voice is gone."""
    voice = uploaded(state.get("path") if isinstance(state, dict) else None, EXAMPLES)
    path = Path(tempfile.mkdtemp(dir=JOBS)) / f"{voice.stem}_project.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("project.json", json.dumps({**state, "path": voice.name}))
        archive.write(voice, voice.name)
        for job in jobs:
            files = [job.folder / ABOUT, *job.sounds()]
            if job.folder.name in state.get("takes", []) and all(file.exists() for file in files):
                archive.write(files[0], f"{job.folder.name}/{ABOUT}")
                for file in files[1:]:  # as WAV, two takes of a long song would be more than can be uploaded
                    soundfile.write(packed := file.with_suffix(".flac"), *soundfile.read(file, dtype="int16"))
                    archive.write(packed, f"{job.folder.name}/{packed.name}")
    return path


def read_project(path: Path) -> dict[str, Any]:
    """Unpacks a project; its state's "path" (a Path) and "takes" then name files here. ValueError if it is not one."""
    now: dict[str, Path] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                raise ValueError(f"{path.name} is too large.")
            state = json.loads(archive.read("project.json"))
            for member in archive.namelist():
                folder, _, name = member.rpartition("/")
                # the entry of a folder has no file name
                if re.fullmatch(r"\w*", folder) and name and name == Path(name).name:
                    now.setdefault(folder, Path(tempfile.mkdtemp(dir=JOBS)))
                    (to := now[folder] / name).write_bytes(archive.read(member))
                    if folder and to.suffix == ".flac":
                        soundfile.write(to.with_suffix(".wav"), *soundfile.read(to, dtype="int16"))
        # replaces ids of takes wherever they occur
        known = {name: state.get(name) for name in ("takes", "chosen", "marks")}
        moved = re.sub(r'"(\w+)"', lambda id: f'"{now[id[1]].name}"' if id[1] in now else id[0], json.dumps(known))
        voice = now[""] / Path(state["path"]).name
        for brought in now.values():
            job = read_job(brought.name, str(voice))
            if job is not None and not job.path("instrumental").exists() and any(brought.glob("[0-9]*_*")):
                write_sounds(job)
        return {**state, **json.loads(moved), "path": voice}
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is not a project of this page, or a part of it is missing.") from error


def write_sounds(job: Job) -> None:
    """Writes the files of a job of which there are only pieces; a ValueError if they don't fit together."""
    vocal, vocal_rate = read_vocal(job.source, MAX_SECONDS)
    rate = max(vocal_rate, LEAST_RATE)
    gain = np.float32(audio.decibels_to_gain(-job.excess))
    band = {}
    for channel, part in job.channels.items():
        if channel != "voice":
            sounds = [soundfile.read(path, dtype="float32") for path in sorted(job.folder.glob(f"[0-9]*_{channel}.*"))]
            joined = np.concatenate([samples for samples, _ in sounds])
            band[part] = gain * audio.resample(joined, sounds[0][1], rate)
    mix = reduce(np.add, band.values())
    sung = audio.resample(vocal, vocal_rate, rate)[: max(len(mix) - round(job.added * rate), 0)]
    # silence where the band plays without the voice
    voice = np.zeros((len(mix), *sung.shape[1:]), dtype=np.float32)
    first = max(round(job.intro * rate), 0)
    voice[first : first + len(sung)] = sung[: max(len(mix) - first, 0)]
    for part, sound in {**band, "instrumental": mix, "vocal": voice}.items():
        audio.write_audio(job.path(part), sound, rate)
