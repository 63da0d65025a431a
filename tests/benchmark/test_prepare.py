# SPDX-License-Identifier: Apache-2.0
"""`recipes/benchmark_prepare.py`: a measured run, in this process rather than in one of its own."""

from multiprocessing import Pipe
from pathlib import Path

import benchmark_prepare
from benchmark_prepare import PreparationBenchmark, write_songs
from hafm_hf.corpus.tokenizing import TokenizerOptions


def test_a_run_tells_its_speed_by_step_its_memory_and_the_seconds_of_audio(tiny_model: Path, tmp_path: Path) -> None:
    write_songs(tmp_path / "songs", 3, 4.0)
    receiver, sender = Pipe(duplex=False)
    options = PreparationBenchmark(tokenizer=TokenizerOptions(model=str(tiny_model), device="cpu"))
    benchmark_prepare._run(options, tmp_path / "songs", tmp_path / "corpus", 1, sender)
    measured = receiver.recv()
    assert measured["audio_seconds"] == 12.0 and measured["rate"] > 0 and measured["peak_gib"] > 0
    assert {"read", "separate", "tokenise", "write"} <= set(measured["steps"])
