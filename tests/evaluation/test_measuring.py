# SPDX-License-Identifier: Apache-2.0
"""Measuring clips: a voice is measured as it is listened to."""

from pathlib import Path

import numpy as np
import soundfile

from hafm_hf.evaluation.datasets import Clip, Part
from hafm_hf.evaluation.measuring import ClipJob, Measurer, MeasuringOptions
from little_band import song

RATE = 16_000


def test_a_constant_offset_of_a_voice_changes_no_onset_and_no_chroma(tmp_path: Path) -> None:
    voice, _ = song(0)
    measurer = Measurer(MeasuringOptions(embedders=(), baselines=False))
    measured = []
    for offset in (0.0, 0.4):
        path = tmp_path / f"voice_{offset}.wav"
        soundfile.write(path, 0.5 * voice / np.abs(voice).max() + offset, RATE, subtype="FLOAT")
        measured.append(measurer.measure(ClipJob(Clip("song", "song", Part(path)), {})).voice)
    plain, shifted = measured
    np.testing.assert_allclose(shifted.onsets, plain.onsets, atol=1e-2)
    np.testing.assert_allclose(shifted.chroma, plain.chroma, atol=1e-2)
