# SPDX-License-Identifier: Apache-2.0
"""Pictures of a song and of its tokens, for `hafm accompany --plot`, `hafm inspect-tokens` and the Space.

Off the path of the data; needs matplotlib, which the extra `studio` brings. Figures are made without pyplot, so that
threads may draw at once and no window opens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
VOICE, BAND, PITCH, BEAT = "#2a78d6", "#c2560c", "#ffffff", "#ffffff"
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
    """Voice and accompaniment on one time axis: waveforms, log-mel, pitch of the voice, beats of the band.

    Args:
        vocal, instrumental (float32 [N] each, at `sampling_rate` Hz).
        title: stands above the picture.
        beats, downbeats: seconds of the song's beats and of those that begin a bar, drawn over the voice.
        chords: (start s, stop s, label), written above it.

    Raises:
        HAFMPlotError: without matplotlib.
    """
    figure = _figure(height=7.0, title=title)
    axes = figure.subplots(4, 1, sharex=True, height_ratios=(1, 2, 1, 2))
    rows = (("voice", vocal, VOICE), ("accompaniment", instrumental, BAND))
    for (name, samples, colour), waveform, spectrum in zip(rows, axes[::2], axes[1::2], strict=True):
        _draw_waveform(waveform, samples, sampling_rate, colour)
        _caption(waveform, name)
        _draw_log_mel(spectrum, samples, sampling_rate)
    if len(beats) or chords:
        _draw_lead_sheet(axes[0], beats, downbeats, chords)
    pitch = analysis.fundamental_frequency(vocal, sampling_rate)
    _draw_pitch(axes[1], pitch, sampling_rate)
    played = analysis.beat_times(instrumental, sampling_rate)
    axes[3].vlines(played, 0.0, 0.2, BEAT, transform=axes[3].get_xaxis_transform(), linewidth=1.2)
    _caption(axes[1], "voice: log-mel, and pitch (white line)")
    _caption(axes[3], "accompaniment: log-mel, and beats (white ticks)")
    axes[3].set_xlabel("seconds")
    axes[3].set_xlim(0.0, len(vocal) / sampling_rate)
    _ink(axes)
    return figure


def plot_tokens(streams: Mapping[str, tuple[NDArray[Any], int]], title: str = "") -> Figure:
    """Token streams on one time axis; a colour is a token, the same in every frame of its row.

    Args:
        streams: by name, tokens (int [Q, T] or [T]) and their frames a second.
        title: stands above the picture.

    Raises:
        HAFMPlotError: without matplotlib, or if there is nothing to draw.
    """
    drawn = {name: (np.atleast_2d(tokens), rate) for name, (tokens, rate) in streams.items()}
    if not drawn or any(tokens.size == 0 for tokens, _ in drawn.values()):
        raise HAFMPlotError("There are no tokens to draw.")
    heights = [max(tokens.shape[0], 2) for tokens, _ in drawn.values()]
    figure = _figure(height=1.6 + 0.28 * sum(heights), title=title)
    axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (name, (tokens, rate)) in zip(axes, drawn.items(), strict=True):
        codebooks, frames = tokens.shape
        # Neighbouring ids mean nothing, so they get unlike colours: steps of the golden ratio round the wheel.
        colours = (tokens * 0.618034) % 1.0
        extent = (0.0, frames / rate, codebooks + 0.5, 0.5)
        axis.imshow(colours, aspect="auto", cmap="hsv", vmin=0.0, vmax=1.0, interpolation="nearest", extent=extent)
        axis.set_yticks(range(1, codebooks + 1) if codebooks > 1 else [])
        _caption(axis, f"{name}: {describe_tokens(tokens, rate)}")
    axes[-1].set_xlabel("seconds")
    axes[-1].set_xlim(0.0, max(tokens.shape[1] / rate for tokens, rate in drawn.values()))
    _ink(axes)
    return figure


def describe_tokens(tokens: NDArray[Any], rate: int) -> str:
    """One line about a stream (int [Q, T] at `rate` frames a second): rate, tokens used, how often they change."""
    tokens = np.atleast_2d(tokens)
    used = len(np.unique(tokens)) if len(tokens) == 1 else [len(np.unique(row)) for row in tokens]
    changes = float((np.diff(tokens, axis=1) != 0).mean()) * rate if tokens.shape[1] > 1 else 0.0
    books = "" if len(tokens) == 1 else f"{len(tokens)} codebooks, "
    return f"{books}{tokens.shape[1]} frames at {rate} Hz, {used} different tokens, {changes:.1f} changes a second"


def plot_training(lines: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Curves of a training run: what it has learnt on the left, how it went on the right.

    Args:
        lines: of metrics.jsonl, oldest first.
        title: stands above the picture.

    Raises:
        HAFMPlotError: without matplotlib, or if the run has logged no loss yet.
    """
    if not any("loss" in line for line in lines):
        raise HAFMPlotError("The run has logged no loss yet; there is nothing to draw.")
    figure = _figure(height=7.5, title=title)
    axes = figure.subplots(3, 2, sharex=True)
    losses = {"training": "loss", "validation": "validation_matched", "another voice": "validation_shuffled"}
    _draw_curves(axes[0, 0], lines, losses, "loss, nats a token")
    _draw_difference(axes[1, 0], lines)
    last = next(line for line in reversed(lines) if "loss" in line)
    books = range(len(last.get("codebook_losses", [])))
    _draw_curves(
        axes[2, 0], lines, {f"codebook {n + 1}": ("codebook_losses", n) for n in books}, "training loss by codebook"
    )
    accuracy = {f"codebook {n + 1}": ("codebook_accuracy", n) for n in books}
    _draw_curves(axes[0, 1], lines, accuracy, "share of tokens predicted right")
    _draw_curves(axes[1, 1], lines, {"gradient norm": "gradient_norm"}, "gradient norm before clipping", log=True)
    _draw_curves(axes[2, 1], lines, {"tokens": "tokens_per_second"}, "target tokens a second")
    axes[2, 1].set_ylim(bottom=0.0)
    for axis in axes[2]:
        axis.set_xlabel("optimiser steps")
    _ink(axes.flat)
    return figure


def _curve(lines: Sequence[Mapping[str, Any]], key: str | tuple[str, int]) -> NDArray[np.float64]:
    """Steps and values of one number, or of one entry of a list: [n, 2]."""
    name, place = key if isinstance(key, tuple) else (key, None)
    points = [(line["step"], line[name] if place is None else line[name][place]) for line in lines if name in line]
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def _draw_curves(
    axis: Axes,
    lines: Sequence[Mapping[str, Any]],
    keys: Mapping[str, str | tuple[str, int]],
    caption: str,
    log: bool = False,
) -> None:
    colours = (VOICE, BAND, "#2e8b57", "#8a5fc0")
    drawn = 0
    for (label, key), colour in zip(keys.items(), colours, strict=False):
        points = _curve(lines, key)
        if len(points):
            axis.plot(points[:, 0], points[:, 1], color=colour, linewidth=1.4, label=label)
            drawn += 1
    if log and drawn:
        axis.set_yscale("log")
    if drawn > 1:
        axis.legend(fontsize="small", frameon=False, labelcolor=INK)
    _caption(axis, caption)


def _draw_difference(axis: Axes, lines: Sequence[Mapping[str, Any]]) -> None:
    """How much worse another clip's voice is, with its standard error: whether the stage reads the voice at all."""
    points, errors = _curve(lines, "validation_paired_difference"), _curve(lines, "validation_paired_difference_error")
    if len(points):
        axis.errorbar(points[:, 0], points[:, 1], errors[:, 1], color=BAND, linewidth=1.4, elinewidth=0.8, capsize=2)
    axis.axhline(0.0, color=INK, linewidth=0.8, linestyle=":")
    _caption(axis, "gain from the right voice over another's, nats a token (± standard error)")


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


def _figure(height: float, title: str) -> Figure:
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
    _caption(axis, "voice, with beats (ticks), bars (lines) and chords of its lead sheet")


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


def _caption(axis: Axes, text: str) -> None:
    axis.set_title(text, color=INK, fontsize="small", loc="left", pad=3)


def _ink(axes: Any) -> None:
    """Axes, ticks and labels in the ink that reads on light and dark."""
    for axis in axes:
        axis.tick_params(which="both", colors=INK, labelsize="small")
        axis.xaxis.label.set_color(INK)
        for spine in axis.spines.values():
            spine.set_color(INK)
