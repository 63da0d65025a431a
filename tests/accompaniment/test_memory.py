# SPDX-License-Identifier: Apache-2.0
"""Peak memory grows with the input's length by no more than a few copies of the audio."""

import sys
from pathlib import Path

import pytest

from programs import run_program

# bytes that an hour of singing may take
HOUR_BYTES = 2 * 2**30
# prints the peak of memory, in bytes, for 1, 2 and 8 minutes of singing
PROGRAM = """
import re, sys
import numpy as np
import torch
from hafm_hf import audio
from hafm_hf.accompaniment.pipeline_hafm import HAFMPipeline
from slow_tokens import slow_token_composite
from vocals import CODEC_RATE

def peak(minutes):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the recorded peak
    second = (0.9 * np.sin(2 * np.pi * 220 * np.arange(CODEC_RATE) / CODEC_RATE)).astype(np.float32)
    path = audio.write_audio(sys.argv[1] + "/long.wav", np.tile(second, round(60 * minutes)), CODEC_RATE)
    song = accompany(str(path), seed=1, vocal_gain_db=3.0)
    for name in ("audio", "mix"):
        audio.write_audio(path.with_name(f"{name}.wav"), song[name], CODEC_RATE)
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1))

torch.set_num_threads(1)
accompany = HAFMPipeline(model=slow_token_composite())
print(*map(peak, (1, 2, 8)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's record of peak memory")
def test_an_hour_of_singing_takes_less_than_two_gibibytes(tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[1])
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r}){PROGRAM}", str(tmp_path)]
    done = run_program(words, fresh=True, check=True)
    # the first run warms up: it loads and compiles everything once
    _, two, eight = map(int, done.stdout.split())
    bytes_of_an_hour = (eight - two) * 60 / 6
    assert 0 < bytes_of_an_hour < HOUR_BYTES, f"{two / 2**20:.0f} MiB for 2 minutes, {eight / 2**20:.0f} for 8"
