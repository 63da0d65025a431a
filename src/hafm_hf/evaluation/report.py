# SPDX-License-Identifier: Apache-2.0
"""Writes a report as JSON and as an HTML page with tables."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..atomic_files import replacing
from .scores import SCORES, Score

TEMPLATES = Path(__file__).parent / "templates"


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Writes report.json and report.html, each atomically.

    Args:
        folder: output folder.
        report: from `protocol.make_report`, passed through `as_json`.
    """
    from jinja2 import Environment, FileSystemLoader

    pages = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = pages.get_template("report.html.jinja").render(protocol=protocol_lines(report), tables=tables(report))
    texts = {"report.json": json.dumps(report, indent=2) + "\n", "report.html": page}
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(text.encode())


def scores_of(report: dict[str, Any]) -> list[Score]:
    """The scores that at least one system in the report has."""
    return [score for score in SCORES if any(score.name in system["scores"] for system in report["systems"].values())]


def protocol_lines(report: dict[str, Any]) -> list[str]:
    """Describes in sentences what was evaluated, and how, from the report's "protocol"."""
    protocol = report["protocol"]
    shortest, median, longest = protocol["clip_seconds"]
    scoring = protocol["scoring"]
    bank = protocol["retrieval_bank"]
    stated = {name: value for name, value in protocol["data"].items() if value is not None}
    # values for each song are in the JSON only
    data = ", ".join(f"{name}: {value}" for name, value in stated.items() if not isinstance(value, dict))
    lines = [
        f"Data: {data}. {protocol['clips']} clips of {protocol['songs']} songs, {protocol['seconds']:.0f} s in all "
        f"({shortest:.1f} to {longest:.1f} s per clip, median {median:.1f} s).",
        f"Control: each voice with the candidates of {scoring['partners']} clips of other songs. Intervals: 95 %, "
        f"{scoring['resamples']} bootstrap resamples of the songs, seed {scoring['seed']}.",
        f"Beats: {protocol['beats']}. Instrumentals in the retrieval bank: {bank['used']} of {bank['of']}, "
        f"{bank['seconds']:g} s of each.",
    ]
    if protocol["generation"]:
        given = ", ".join(f"{name} {value}" for name, value in protocol["generation"].items() if value is not None)
        lines.append(f"Generation: {given}.")
    return lines


def tables(report: dict[str, Any]) -> list[tuple[str, str, list[list[str]]]]:
    """Every table of the report: its title, a note on how to read it, and its rows; the first row is the header."""
    shown = [
        (
            "Following the singer",
            "Matched minus shuffled pairs, with the interval; a star marks intervals above zero. 0 is chance. "
            "A value above the reference's is not better.",
            score_rows(report),
        )
    ]
    systems = report["systems"].values()
    for embedder in dict.fromkeys(name for system in systems for name in system["distances"]):
        note = (
            "Fréchet distance with its interval over songs, kernel distance × 1000, density and coverage (1 and near "
            "1 for the reference's own distribution), and prompt adherence with its interval: 1 where mixes with the "
            "voice are as coherent as real ones, 0 where they are as those with accompaniments of other songs; "
            "candidates and references are of different songs."
        )
        shown.append((f"Distance to the references: {embedder}", note, _distance_rows(report, embedder)))
    if names := list(dict.fromkeys(name for system in systems for name in system.get("other_scores", {}))):
        note = "Means over clips, with intervals over songs, from scores.jsonl beside the outputs."
        shown.append(("Scores of other tools", note, _other_rows(report, names)))
    if rows := fad_rows(report):
        note = f"The paper's FAD_i, FAD_s and Δ = FAD_i − FAD_s. {report.get('published', {}).get('note', '')}"
        shown.append(("Isolated and separated vocals", note, rows))
    if report["fools"]:
        rows = [["baseline", "exposed by"]]
        rows += [[name, ", ".join(caught) or "nothing"] for name, caught in report["fools"].items()]
        note = "A score exposes a baseline if its whole interval is below a quarter of the reference's value."
        shown.append(("Baselines that ignore the singer", note, rows))
    rows = [["score", "aspect", "needs", "fooled by"]]
    for score in scores_of(report):
        needs = "reference" if score.needs_reference else "voice only"
        rows.append([score.name, score.aspect, needs, score.fooled_by])
    shown.append(("The scores", "What fools each score; the docstrings in hafm_hf.evaluation define them.", rows))
    return shown


def fad_rows(report: dict[str, Any]) -> list[list[str]]:
    """Fréchet distances of the model, one row for each embedder, and published ones; the first row is the header.

    FAD_i is for isolated vocals, FAD_s for vocals separated from a mix, Δ their difference. No rows at all without
    any distance.
    """
    ours = report.get("isolated_and_separated", {})
    columns = ("fad_i", "fad_s", "delta")
    rows = []
    for embedder, distances in ours.items():
        rows.append([f"this model, {embedder}", *(_number_text(distances.get(column)) for column in columns)])
    for name, values in report.get("published", {}).items():
        if name != "note":
            rows.append([f"{name} (published, VGGish)", *map(_number_text, values)])
    if not rows:
        return []
    return [["system", "FAD_i", "FAD_s", "Δ"], *rows]


def _rows(
    report: dict[str, Any], heading: Sequence[str], cells: Callable[[dict[str, Any]], Sequence[str]]
) -> list[list[str]]:
    """The rows of a table with one row for each system; the first row is the header.

    Args:
        report: the report.
        heading: titles of the columns after the system's name.
        cells: returns a system's texts for these columns, from its entry in the report.
    """
    rows = [["system", *heading]]
    for name, system in report["systems"].items():
        rows.append([name, *cells(system)])
    return rows


def score_rows(report: dict[str, Any]) -> list[list[str]]:
    """Matched minus shuffled pairs for each system and score; the first row is the header.

    A star says that the whole interval lies above 0: the accompaniments follow their vocals.
    """
    names = [score.name for score in scores_of(report)]

    def cell(score: dict[str, Any] | None) -> str:
        """A system's entry for one score as text; a dash if it has none."""
        if score is None:
            return "–"
        text = f"{score['difference']:+.2f} [{_number_text(score['low'])}, {_number_text(score['high'])}]"
        if score["follows"]:
            text += " *"
        return text

    return _rows(report, names, lambda system: [cell(system["scores"].get(name)) for name in names])


def _distance_rows(report: dict[str, Any], embedder: str) -> list[list[str]]:
    """Distances of each system by one embedder; the first row is the header."""

    def cells(system: dict[str, Any]) -> list[str]:
        """A system's distances as texts, in the order of `heading`; dashes if this embedder has none."""
        distances = system["distances"].get(embedder)
        if distances is None:
            return ["–"] * len(heading)
        frechet = distances.get("refused") or _with_interval(distances, "frechet")
        adherence = distances.get("adherence_refused") or _with_interval(distances, "adherence")
        sizes = f"{distances['n']} / {distances['n_reference']} / {distances['width']}"
        numbers = [_number_text(distances.get(name)) for name in ("kernel", "density", "coverage")]
        return [frechet, *numbers, adherence, sizes]

    heading = ["Fréchet", "kernel", "density", "coverage", "prompt adherence", "n / n reference / width"]
    return _rows(report, heading, cells)


def _other_rows(report: dict[str, Any], names: Sequence[str]) -> list[list[str]]:
    """Scores of other tools for each system; the first row is the header."""

    def cells(system: dict[str, Any]) -> list[str]:
        """A system's scores as texts, in the order of `names`; dashes for those that it lacks."""
        texts = []
        for name in names:
            score = system.get("other_scores", {}).get(name, {})
            text = _number_text(score.get("value"))
            if score.get("low") is not None:
                text += f" [{_number_text(score['low'])}, {_number_text(score['high'])}]"
            texts.append(text)
        return texts

    return _rows(report, names, cells)


def _with_interval(distances: dict[str, Any], name: str) -> str:
    """The distance `name` of a system, and its interval if it has one, as text; `distances` are by one embedder."""
    text = _number_text(distances.get(name))
    if f"{name}_interval" in distances:
        low, high = distances[f"{name}_interval"]
        text += f" [{_number_text(low)}, {_number_text(high)}]"
    return text


def _number_text(value: float | None) -> str:
    """A number with about three digits; a dash for one that is missing or not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"
