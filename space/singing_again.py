# SPDX-License-Identifier: Apache-2.0
"""Takes whose voice was sung again: the same bands with another voice, which keeps their beats and chords."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hafm_hf import audio
from hafm_hf.accompaniment.options import MEDIAN_BALANCE
from songs import read_vocal
from takes import JOBS, Job, read_job


def with_new_voice(state: dict[str, Any], voice: Path) -> dict[str, Any]:
    """A state of static/page.js whose takes have the voice of a file; takes that have expired are left out."""
    jobs = {str(name): read_job(str(name), str(voice)) for name in state.get("takes") or []}
    renamed = {name: sung_again(job, voice).folder.name for name, job in jobs.items() if job is not None}
    marks = state.get("marks") or {}
    return {
        **state,
        "takes": [*renamed.values()],
        "chosen": renamed.get(str(state.get("chosen"))),
        "marks": {renamed[name]: mark for name, mark in marks.items() if name in renamed},
    }


def sung_again(job: Job, voice: Path) -> Job:
    """A new job with the band of another, and the voice of a file; a HAFMAudioError if the band has expired."""
    band, rate = job.read("instrumental")
    old, _ = job.read("vocal")
    samples, voice_rate = read_vocal(str(voice), None)
    sung = audio.with_channels(audio.resample(samples, voice_rate, rate), 1 if old.ndim == 1 else old.shape[1])
    vocal = np.zeros_like(old)
    start = round(job.intro * rate)
    count = min(len(sung), len(vocal) - start)
    vocal[start : start + count] = sung[:count]
    folder = Path(tempfile.mkdtemp(dir=JOBS))
    # what the page plays, and the lossless files; a mix or zip would have the old voice
    pieces = [path for path in job.folder.iterdir() if path.suffix in (".opus", ".flac")]
    for path in {*job.sounds()[1:], *pieces}:
        os.link(path, folder / path.name)
    balance = audio.balance_gain_db(vocal, band, rate, MEDIAN_BALANCE)
    new = replace(job, folder=folder, balance=balance)
    audio.write_audio(new.path("vocal"), vocal, rate)
    new.save()
    return new
