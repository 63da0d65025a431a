# SPDX-License-Identifier: Apache-2.0
"""A complete evaluation, from a set of vocals to a report on disk; `hafm evaluate` runs it."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..atomic_files import replacing
from ..corpus.engines import run_on
from ..corpus.locks import locked
from .datasets import Clip, Part, find_outputs, read_clip_scores
from .embedders import make_embedder
from .fools import FOOLS
from .generating import RenderingOptions, render
from .measuring import RANDOM, REFERENCE, RETRIEVAL, SHUFFLED, ClipJob, Measurement, MeasuringOptions, measure
from .musdb18 import PUBLISHED
from .protocol import ScoringOptions, isolated_and_separated, make_report
from .report import write_report
from .retrieval import BANK_SECONDS, BankItem, build_bank
from .statistics import HAFMEvaluationError, as_json, check_songs, other_song_partners

CLIPS_FILE = "clips.jsonl"
ISOLATED = "isolated vocals"
SEPARATED = "separated vocals"


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate, and how.

    Args:
        clips: vocals, with references if available.
        out: folder for the report, renderings and the cache.
        generation: the model to render with; None evaluates `outputs` only.
        outputs: folders of existing renderings by system; several folders of one system are its seeds.
        bank: clips of a training split for the retrieval baselines; without any, these are skipped.
        measuring, scoring: options of these steps.
        workers, engine, address: where measuring runs (see `corpus.engines.run_on`).
        data: description of the data set for the report; with "protocol", published results are added to it.
    """

    clips: tuple[Clip, ...]
    out: Path
    generation: RenderingOptions | None = None
    outputs: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    bank: tuple[Clip, ...] = ()
    measuring: MeasuringOptions = MeasuringOptions()
    scoring: ScoringOptions = ScoringOptions()
    workers: int = 1
    engine: str = "local"
    address: str = ""
    data: dict[str, Any] = field(default_factory=dict)


# a system's candidates (one per seed or folder of outputs) by name, each with its renderings by clip
System = dict[str, dict[str, Part]]


def evaluate(
    evaluation: Evaluation,
    progress: Callable[[Sequence[ClipJob], Iterator[Measurement]], Iterable[Measurement]] | None = None,
) -> dict[str, Any]:
    """Renders missing accompaniments, measures and scores clips, and writes report.json, report.html and clips.jsonl.

    A killed run resumes and gives the same report.

    Args:
        evaluation: what to evaluate, and how.
        progress: given all jobs and the iterator of measurements, returns what to iterate over (a progress bar).

    Returns:
        the report, as in report.json.

    Raises:
        HAFMEvaluationError: no clips, missing renderings, two systems with the same name, or unusable audio.
        HAFMBusyError: another run uses the folder.
    """
    if not evaluation.clips:
        raise HAFMEvaluationError("No clip contains singing; check the folder and the clip lengths.")
    # two runs in one folder would render the same clips twice
    with locked(evaluation.out):
        bank: tuple[BankItem, ...] = ()
        if evaluation.bank:
            bank = tuple(build_bank(evaluation.bank, evaluation.clips))
        systems = _systems(evaluation)
        candidates: System = {}
        for system in systems.values():
            if names_taken := candidates.keys() & system.keys():
                raise HAFMEvaluationError(f"Two sets of outputs would be {min(names_taken)!r}; rename one of them.")
            candidates |= system
        jobs = _jobs(evaluation, candidates)
        options = replace(evaluation.measuring, bank=bank, cache=evaluation.out / "cache")
        measured = run_on(evaluation.engine, measure, options, jobs, evaluation.workers, evaluation.address)
        if progress is not None:
            measured = iter(progress(jobs, measured))
        # measurements are finished in any order
        by_name = {measurement.name: measurement for measurement in measured}
        measurements = [by_name[clip.name] for clip in evaluation.clips]
        # names of each system's candidates
        evaluated = {name: list(system) for name, system in systems.items()}
        clip_scores = {
            name: [read_clip_scores(folder, evaluation.clips) for folder in folders]
            for name, folders in evaluation.outputs.items()
        }
        protocol = _protocol(evaluation, options, bank)
        report, scored = make_report(measurements, evaluated, evaluation.scoring, protocol, clip_scores)
        model = _model_name(evaluation)
        # the paper's protocol, whose published results are shown beside these
        published = "protocol" in evaluation.data
        isolated = f"{model}, {ISOLATED}"
        separated = f"{model}, {SEPARATED}"
        if isolated not in systems:
            # without separated vocals, the model is a single system
            isolated = model
        if separated in systems or (published and model in systems):
            report["isolated_and_separated"] = isolated_and_separated(report, isolated, separated)
        if published:
            report["published"] = PUBLISHED
        report = as_json(report)
        # one JSON object per clip and candidate: the scores that the report averages
        with replacing(evaluation.out / CLIPS_FILE) as file:
            file.writelines((json.dumps(as_json(asdict(scores))) + "\n").encode() for scores in scored)
        write_report(evaluation.out, report)
    return report


def _jobs(evaluation: Evaluation, candidates: System) -> list[ClipJob]:
    """A job for each clip, with its renderings, and the reference of another song if all clips have one."""
    clips = evaluation.clips
    shuffled: list[Part | None] = [None] * len(clips)
    if all(clip.reference is not None for clip in clips):
        partners = other_song_partners(
            [clip.name for clip in clips],
            [clip.song for clip in clips],
            [clip.vocal.duration() for clip in clips],
            count=1,
            seed=evaluation.scoring.seed,
        )
        # each clip has one partner
        shuffled = [clips[other].reference for (other,) in partners]
    return [
        ClipJob(clip, {name: renderings[clip.name] for name, renderings in candidates.items()}, reference)
        for clip, reference in zip(clips, shuffled, strict=True)
    ]


def _systems(evaluation: Evaluation) -> dict[str, System]:
    """The systems to evaluate: the model, whose missing accompaniments are rendered, and those of `outputs`.

    If all clips have separated vocals, the model is two systems: one accompanies these, one the isolated vocals.

    Returns:
        By system, its candidates (one per seed or folder of outputs) by name, each with its renderings by clip.

    Raises:
        HAFMEvaluationError: a name that is taken, missing outputs, all clips of one song, or an unusable embedder.
    """
    rendered_systems = dict[str, System]()
    given_systems = dict[str, System]()
    model = _model_name(evaluation)
    for name, folders in evaluation.outputs.items():
        if name in (model, REFERENCE, SHUFFLED, RETRIEVAL, RANDOM, *FOOLS):
            raise HAFMEvaluationError(f"{name!r} is the model's name or a baseline's: call these outputs otherwise.")
        given_systems[name] = {}
        for number, folder in enumerate(folders, start=1):
            candidate = name if len(folders) == 1 else f"{name} ({number})"
            given_systems[name][candidate] = find_outputs(folder, evaluation.clips)
    if evaluation.generation is not None:
        # fail before hours of rendering
        check_songs([clip.song for clip in evaluation.clips])
        for embedder in evaluation.measuring.embedders:
            make_embedder(embedder)
        # the role of the vocals from which a system makes its accompaniments
        roles = {f"{model}, {ISOLATED}": "vocal", f"{model}, {SEPARATED}": "separated"}
        if any(clip.separated is None for clip in evaluation.clips):
            roles = {model: "vocal"}
        for system, role in roles.items():
            folder = evaluation.out / "rendered" / (system.replace(", ", "_").replace(" ", "_"))
            rendered = render(evaluation.clips, folder, evaluation.generation, role)
            rendered_systems[system] = {}
            for seed, renderings in rendered.items():
                candidate = system if len(rendered) == 1 else f"{system} (seed {seed})"
                rendered_systems[system][candidate] = renderings
    return rendered_systems | given_systems


def _model_name(evaluation: Evaluation) -> str:
    """The model's name in the report: the last part of its path; empty if nothing is generated."""
    if evaluation.generation is None:
        return ""
    return os.path.basename(os.path.abspath(evaluation.generation.model or "hafm-tiny"))


def _protocol(evaluation: Evaluation, options: MeasuringOptions, bank: Sequence[BankItem]) -> dict[str, Any]:
    """What the report says about data, generation, embedders and the retrieval bank.

    Args:
        evaluation: what was evaluated.
        options: how clips were measured.
        bank: the instrumentals that were used, of those in `evaluation.bank`.
    """
    generation = None
    if evaluation.generation is not None:
        rendering = evaluation.generation
        generation = {
            "model": _model_name(evaluation),
            "seeds": rendering.seeds,
            "device": rendering.device,
            **rendering.asked,
        }
    return {
        "data": evaluation.data,
        "generation": generation,
        "embedders": [embedder.kind for embedder in options.embedders],
        "retrieval_bank": {"used": len(bank), "of": len(evaluation.bank), "seconds": BANK_SECONDS},
        "beats": "librosa",
    }
