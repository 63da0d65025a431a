# SPDX-License-Identifier: Apache-2.0
"""Pictures of songs, for `hafm accompany --plot` and the Space; they need matplotlib, which the extra `studio` brings.

Figures are made without pyplot, so that threads may draw at once and no window opens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .atomic_files import replacing
from .audio import Samples, analysis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Read on white and on near-black alike (contrast 4.5 : 1 and 4.2 : 1), so one picture serves light and dark pages.
INK = "#767676"
VOICE, BAND, PITCH = "#2a78d6", "#c2560c", "#ffffff"
WAVEFORM_COLUMNS = 1000
DOTS_PER_INCH = 120


class HAFMPlotError(RuntimeError):
    """A picture that cannot be drawn; the message is one sentence that says what to do."""


def require_matplotlib() -> None:
    """Raises HAFMPlotError, naming the extra to install, where there is no matplotlib."""
    if find_spec("matplotlib") is None:
        raise HAFMPlotError("Pictures need matplotlib; install it with: pip install 'hafm-hf[studio]'.")


def plot_song(
    vocal: Samples,
    instrumental: Samples,
    sampling_rate: int,
    title: str = "",
    beats: Sequence[float] = (),
    downbeats: Sequence[float] = (),
    chords: Sequence[tuple[float, float, str]] = (),
) -> Figure:
    """Voice and accompaniment on one time axis: waveforms, log-mel, pitch of the voice.

    Args:
        vocal, instrumental (float32 [N] each, at `sampling_rate` Hz).
        title: stands above the picture.
        beats, downbeats: seconds of the song's beats and of those that begin a bar, drawn over the voice.
        chords: (start s, stop s, label), written above it.

    Raises:
        HAFMPlotError: without matplotlib.
    """
    figure = new_figure(height=7.0, title=title)
    axes = figure.subplots(4, 1, sharex=True, height_ratios=(1, 2, 1, 2))
    rows = (("voice", vocal, VOICE), ("accompaniment", instrumental, BAND))
    for (name, samples, colour), waveform, spectrum in zip(rows, axes[::2], axes[1::2], strict=True):
        _draw_waveform(waveform, samples, sampling_rate, colour)
        write_caption(waveform, name)
        _draw_log_mel(spectrum, samples, sampling_rate)
    if len(beats) or chords:
        _draw_lead_sheet(axes[0], beats, downbeats, chords)
    pitch = analysis.fundamental_frequency(vocal, sampling_rate)
    _draw_pitch(axes[1], pitch, sampling_rate)
    write_caption(axes[1], "voice: log-mel, and pitch (white line)")
    write_caption(axes[3], "accompaniment: log-mel")
    axes[3].set_xlabel("seconds")
    axes[3].set_xlim(0.0, len(vocal) / sampling_rate)
    use_ink(axes)
    return figure


def write_plot(path: str | os.PathLike[str], figure: Figure, transparent: bool = False) -> Path:
    """Writes a figure as PNG, whole or not at all.

    Args:
        path: the file; its folder is made.
        transparent: for pages whose background is not known; white otherwise.

    Raises:
        HAFMPlotError: the folder cannot be written to.
    """
    try:
        with replacing(path) as file:
            # without the version of matplotlib in it, equal songs give equal bytes on one machine
            figure.savefig(file, format="png", transparent=transparent, metadata={"Software": None})
    except OSError as error:
        raise HAFMPlotError(f"{path} cannot be written: {error.strerror or error}.") from error
    return Path(path)


def new_figure(height: float, title: str) -> Figure:
    """An empty figure of `height` inches under a title.

    Raises:
        HAFMPlotError: without matplotlib.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, height), dpi=DOTS_PER_INCH, layout="constrained")
    if title:
        # A file's name may hold dollar signs, which are no formulas.
        figure.suptitle(title, color=INK, fontsize="medium", parse_math=False)
    return figure


def _draw_waveform(axis: Axes, samples: Samples, sampling_rate: int, colour: str) -> None:
    """Lowest and highest sample of each column: at a thousand columns that is what a line would show."""
    edges = np.linspace(0, len(samples), min(WAVEFORM_COLUMNS, len(samples)) + 1).astype(int)[:-1]
    low, high = np.minimum.reduceat(samples, edges), np.maximum.reduceat(samples, edges)
    axis.fill_between(edges / sampling_rate, low, high, color=colour, linewidth=0.5)
    axis.set_ylim(-1.0, 1.0)
    axis.set_yticks([-1, 0, 1])


def _draw_lead_sheet(
    axis: Axes, beats: Sequence[float], downbeats: Sequence[float], chords: Sequence[tuple[float, float, str]]
) -> None:
    """Beats as ticks, bars as lines, and the name of each chord where it begins, over a waveform."""
    across = axis.get_xaxis_transform()
    axis.vlines(beats, 0.0, 0.15, INK, transform=across, linewidth=1.0)
    axis.vlines(downbeats, 0.0, 1.0, INK, transform=across, linewidth=1.2)
    for start, _, label in chords:
        axis.text(
            start, 0.97, f" {label}", transform=across, va="top", color=INK, fontsize="small", clip_on=True,
            parse_math=False,
        )  # fmt: skip
    write_caption(axis, "voice, with beats (ticks), bars (lines) and chords of its lead sheet")


def _draw_log_mel(axis: Axes, samples: Samples, sampling_rate: int) -> None:
    mel = analysis.log_mel(samples, sampling_rate)
    seconds = mel.shape[1] / analysis.FRAME_RATE
    extent = (0.0, seconds, 0.0, float(analysis.MEL_BANDS))
    axis.imshow(mel, origin="lower", aspect="auto", cmap="magma", vmin=-80.0, vmax=0.0, extent=extent)
    labels = np.array([100, 400, 1000, 4000])
    axis.set_yticks(_mel_position(labels, sampling_rate), [f"{hertz} Hz" for hertz in labels])


def _draw_pitch(axis: Axes, pitch: NDArray[np.float64], sampling_rate: int) -> None:
    time = np.arange(len(pitch)) / analysis.FRAME_RATE
    axis.plot(time, _mel_position(pitch, sampling_rate), color=PITCH, linewidth=1.2)


def _mel_position(hertz: NDArray[Any], sampling_rate: int) -> NDArray[Any]:
    """Where a frequency lies on the axis of bands: 0 … 80."""
    from transformers.audio_utils import hertz_to_mel

    low, high = (hertz_to_mel(float(edge), "slaney") for edge in (analysis.LOWEST_MEL_HZ, sampling_rate / 2))
    at = hertz_to_mel(np.array(hertz, dtype=float), "slaney")
    return (at - low) / (high - low) * analysis.MEL_BANDS


def write_caption(axis: Axes, text: str) -> None:
    """What a panel shows, above it."""
    axis.set_title(text, color=INK, fontsize="small", loc="left", pad=3)


def use_ink(axes: Any) -> None:
    """Axes, ticks and labels in the ink that reads on light and dark."""
    for axis in axes:
        axis.tick_params(which="both", colors=INK, labelsize="small")
        axis.xaxis.label.set_color(INK)
        for spine in axis.spines.values():
            spine.set_color(INK)
