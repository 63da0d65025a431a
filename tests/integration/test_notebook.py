# SPDX-License-Identifier: Apache-2.0
"""examples/quickstart.ipynb runs as it is, from a clone, and leaves the files that it names."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from programs import REPOSITORY

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
NOTEBOOK = REPOSITORY / "examples" / "quickstart.ipynb"


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]


def test_the_notebook_plays_the_example_and_writes_mix_and_stems(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "examples" / "vocal.wav", tmp_path)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [text for text in printed if text.startswith("key ")]
    players = []
    for cell in notebook.cells:
        if any("text/html" in output.get("data", {}) for output in cell.get("outputs", ())):
            players.append(cell)
    assert len(players) == 3
    mix, rate = soundfile.read(tmp_path / "mix.wav")
    vocal = soundfile.info(tmp_path / "vocal.wav")
    assert len(mix) / rate == pytest.approx(vocal.duration, abs=1e-3)
    stems = [soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("drums", "bass", "chords", "pads")]
    for stem in stems:
        assert np.abs(stem).max() > 1e-3
