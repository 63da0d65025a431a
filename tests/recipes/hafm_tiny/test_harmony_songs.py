# SPDX-License-Identifier: Apache-2.0
"""The part that estimates chords learns whole songs, in the splits that they were rendered in."""

from pathlib import Path

import pytest

pytest.importorskip("pretty_midi", reason="pretty_midi is not installed")
pytest.importorskip("mir_eval", reason="mir_eval is not installed")

from hafm_tiny.songs.midi_song import list_songs
from labelled_songs import run_recipe


def test_all_songs_but_those_for_test_are_learnt_as_a_whole(songs: Path, tmp_path: Path) -> None:
    done = run_recipe(tmp_path, "--songs", str(songs), "--validation_songs", "2", "--test_songs", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    learnt = len(list_songs(songs)) - 3
    assert f"'train': '{learnt} songs', 'validation': '2 songs'" in done.stderr
    assert (tmp_path / "run" / "harmony" / "model.safetensors").exists()
