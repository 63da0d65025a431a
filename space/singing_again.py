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
from takes import JOBS, PIECE, Job, read_job


def with_new_voice(state: dict[str, Any], voice: Path) -> dict[str, Any]:
    """Makes takes with a new voice from those of a state of static/page.js.

    Args:
        state: whose takes are copied; those that have expired are left out.
        voice: the file.

    Returns:
        The state, which names the new takes.
    """
    renamed = {}
    for name in state.get("takes") or []:
        job = read_job(str(name), str(voice))
        if job is not None:
            renamed[str(name)] = sung_again(job, voice).folder.name
    marks = state.get("marks") or {}
    return {
        **state,
        "takes": [*renamed.values()],
        "chosen": renamed.get(str(state.get("chosen"))),
        "marks": {renamed[name]: mark for name, mark in marks.items() if name in renamed},
    }


def sung_again(job: Job, voice: Path) -> Job:
    """Writes a new job: the band of another one, with another voice, cut or padded to the length of the first voice.

    Args:
        job: has the band.
        voice: file of the other voice.

    Raises:
        HAFMAudioError: the band has expired, or the voice is unusable.
    """
    band, rate = job.read("instrumental")
    old, _ = job.read("vocal")
    samples, voice_rate = read_vocal(str(voice), None)
    channels = 1 if old.ndim == 1 else old.shape[1]
    sung = audio.with_channels(audio.resample(samples, voice_rate, rate), channels)
    vocal = np.zeros_like(old)
    start = round(job.intro * rate)
    count = min(len(sung), len(vocal) - start)
    vocal[start : start + count] = sung[:count]
    folder = Path(tempfile.mkdtemp(dir=JOBS))
    # what the page plays, and the lossless files; a mix or zip would have the old voice
    pieces = [path for path in job.folder.iterdir() if PIECE.match(path.name)]
    _, *of_band = job.sounds()
    for path in {*of_band, *pieces}:
        os.link(path, folder / path.name)
    balance = audio.balance_gain_db(vocal, band, rate, MEDIAN_BALANCE)
    new = replace(job, folder=folder, balance=balance)
    audio.write_audio(new.path("vocal"), vocal, rate)
    new.save()
    return new
