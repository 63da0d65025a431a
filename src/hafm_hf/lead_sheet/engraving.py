# SPDX-License-Identifier: Apache-2.0
"""A chord chart as a page: PDF to print, PNG to send.

Beside the path of the data; needs matplotlib, which the extra `studio` brings.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..plots import require_matplotlib
from .bars import Bar, Chart
from .chords import SUFFIXES, pitch_classes
from .export import BARS_A_LINE, key_name, lines_of_bars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# what matplotlib stamps with its version and the time; equal charts are to give equal bytes
NO_STAMP: dict[str, dict[str, None]] = {
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "png": {"Software": None},
}
# of an A4 page, in inches
WIDTH, HEIGHT, MARGIN = 8.27, 11.69, 0.75
LINE, HEAD = 0.72, 1.1
LINES_A_PAGE = math.floor((HEIGHT - 2 * MARGIN - HEAD) / LINE)
SYMBOLS = str.maketrans({"b": "♭", "#": "♯"})


def to_page(chart: Chart, title: str, kind: str) -> bytes:
    """A chart as "pdf", of A4 pages, or "png", of one as long as the song: four bars a line, chords where they begin.

    Raises:
        HAFMPlotError: without matplotlib.
    """
    require_matplotlib()
    rows = lines_of_bars(chart)
    with io.BytesIO() as file:
        if kind == "png":
            figure = _page(chart, title, rows, HEAD + 2 * MARGIN + LINE * len(rows))
            figure.savefig(file, format="png", dpi=150, metadata=NO_STAMP["png"])
        else:
            from matplotlib.backends.backend_pdf import PdfPages

            with PdfPages(file, metadata=NO_STAMP["pdf"]) as pages:
                for first in range(0, len(rows), LINES_A_PAGE):
                    pages.savefig(_page(chart, title, rows[first : first + LINES_A_PAGE], HEIGHT))
        return file.getvalue()


def _page(chart: Chart, title: str, rows: Sequence[Sequence[Bar]], height: float) -> Figure:
    """A page of so many inches: inches are its coordinates, downwards from its upper left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0.0, WIDTH), ylim=(height, 0.0))
    axes.axis("off")
    # a file's name may hold dollar signs, which are no formulas
    axes.text(MARGIN, MARGIN + 0.2, title, fontsize=18, fontweight="bold", parse_math=False)
    key = key_name(chart)
    about = f"{chart.tempo:.0f} beats a minute · {chart.metre}/4"
    about += f" · {_spelt(key.removesuffix('m'))} {'minor' if key.endswith('m') else 'major'}" if key else ""
    axes.text(MARGIN, MARGIN + 0.55, about, fontsize=11)
    quarter = (WIDTH - 2 * MARGIN) / (BARS_A_LINE * chart.metre)
    for number, row in enumerate(rows):
        middle, left = MARGIN + HEAD + LINE * (number + 0.5), MARGIN
        for bar in row:
            axes.vlines([left, left + quarter * bar.length], middle - 0.2, middle + 0.2, "black", linewidth=1.0)
            axes.text(left + 0.04, middle - 0.24, f"{bar.number}" if bar.number else "", fontsize=7, color="#595959")
            for place, label in bar.chords:
                axes.text(left + 0.06 + quarter * place, middle, _spelt(label), fontsize=13, va="center")
            left += quarter * bar.length
    return figure


def _spelt(label: str) -> str:
    """A chord or a root as musicians write it: B♭m7, N.C. where there is none."""
    if not pitch_classes(label):
        return "N.C."
    root, _, quality = label.partition(":")
    return label[:1] + (root[1:] + SUFFIXES.get(quality, quality)).translate(SYMBOLS)
