# SPDX-License-Identifier: Apache-2.0
"""Pictures: what is drawn where, and that they are written whole or not at all."""

import sys
from pathlib import Path

import numpy as np
import pytest

from hafm_hf import plots
from vocals import CODEC_RATE, glide

pytest.importorskip("matplotlib")
from matplotlib.image import imread


def test_voice_and_accompaniment_share_one_time_axis_as_long_as_the_song() -> None:
    figure = plots.plot_song(glide(1.5), glide(1.5)[::-1].copy(), CODEC_RATE, title="a $ song $")
    limits = {axis.get_xlim() for axis in figure.axes}
    assert len(figure.axes) == 4 and limits == {(0.0, 1.5)}
    assert figure.axes[-1].get_xlabel() == "seconds"


def test_pitch_is_drawn_at_its_height_among_the_bands() -> None:
    figure = plots.plot_song(glide(1.5), glide(1.5), CODEC_RATE)
    (line,) = figure.axes[1].lines
    height = np.asarray(line.get_ydata(), float)
    positions = {
        tick.get_text(): place
        for place, tick in zip(figure.axes[1].get_yticks(), figure.axes[1].get_yticklabels(), strict=True)
    }
    assert positions["100 Hz"] < height[10] < positions["400 Hz"] < height[-5] + 1.0
    assert height[10] < height[-5]


def test_silence_is_drawn_without_pitch() -> None:
    silence = np.zeros(CODEC_RATE, np.float32)
    figure = plots.plot_song(silence, silence, CODEC_RATE)
    assert np.isnan(np.asarray(figure.axes[1].lines[0].get_ydata(), float)).all()


def test_beats_bars_and_chords_are_drawn_over_the_voice_where_they_are() -> None:
    beats, chords = [0.0, 0.5, 1.0, 1.5], [(0.0, 1.0, "Am"), (1.0, 1.5, "F#dim")]
    figure = plots.plot_song(glide(1.5), glide(1.5), CODEC_RATE, beats=beats, downbeats=[0.5], chords=chords)
    voice = figure.axes[0]
    drawn = [[np.asarray(path.vertices)[0, 0] for path in lines.get_paths()] for lines in voice.collections[-2:]]
    assert drawn == [beats, [0.5]]
    assert [(text.get_position()[0], text.get_text().strip()) for text in voice.texts] == [(0.0, "Am"), (1.0, "F#dim")]
    assert "chords" in voice.get_title(loc="left")


def test_equal_songs_give_equal_files_that_are_pictures(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plots.write_plot(tmp_path / "new" / name, plots.plot_song(glide(1.0), glide(1.0), CODEC_RATE))
    assert (tmp_path / "new" / "a.png").read_bytes() == (tmp_path / "new" / "b.png").read_bytes()
    assert imread(tmp_path / "new" / "a.png").shape[:2] == (840, 1200)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "b.png"]


def test_a_folder_that_cannot_be_written_to_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(plots.HAFMPlotError, match="cannot be written"):
        plots.write_plot(tmp_path / "file" / "a.png", plots.new_figure(1.0, ""))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(plots.HAFMPlotError, match=r"pip install 'hafm-hf\[studio\]'"):
        plots.new_figure(1.0, "")
