# SPDX-License-Identifier: Apache-2.0
"""Chooses a checkpoint's layout by how likely its stages find the tokens of real pairs.

A choice wins over the paper's if, crop by crop on the same tokens, its nats per token are lower by more than
`STANDARD_ERRORS` standard errors and by more than `LEAST_NATS`; otherwise the paper's stands, and is called
undetermined. While the gate or the order of q, k and v is wrong, all else is noise, so these are tried jointly first,
on the stage with the shortest sequence; the rest follows one by one, until nothing changes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from hafm_hf.accompaniment.parts import stage_parts
from hafm_hf.corpus.filtering import FilterOptions, reason_to_drop
from hafm_hf.corpus.stems import StemOptions, StemReader
from hafm_hf.corpus.tokenizing import Tokenizers
from hafm_hf.corpus.tracks import TrackError, find_audio
from hafm_hf.modeling.modeling_stage import HAFMStageForCausalLM

from .layout import CHOICES, LENGTH, PAPER, TABLES, TARGETS, TITLES, Layout, folded, layout_config

STANDARD_ERRORS = 4.0
LEAST_NATS = 0.01
# of songs, of which each stage gets crops as long as `CROP_SECONDS`
SEGMENT_SECONDS = 6.0
CROP_SECONDS = {"semantic": 2.0, "coarse": 1.0, "fine": 1.0}
MOST_CROPS = 48
# of these, the joint search takes every so many
JOINT_STEP = 4
# crops in one pass of a stage
BATCH = 8
# standard errors by which a stage must be better than a bigram, and than with other songs' conditioning
YARDSTICK_ERRORS = 2.0
# the joint search and the descent end after so many rounds
ROUNDS = 3
# weight of the unigram in the bigram's estimate, in tokens
BIGRAM_PRIOR = 20.0
JOINT = ("gate", "order", "split", "norms", "tables")
# choices that do not concern all stages: they are about several codebooks, two sources, or alike tables
OF_STAGES = {
    "sources": ("coarse",), "streams": ("coarse",), "tables": ("semantic", "fine"), "quantizer": ("coarse", "fine"),
    "input_table": ("coarse", "fine"), "first_table": ("coarse", "fine"),
}  # fmt: skip
# choices about the first slot, which show in the first frame
OF_THE_START = ("first_table",)
# those that are tried only if names say nothing
BY_NAME = ("tables", "streams")


@dataclass(frozen=True)
class Song:
    """Tokens of a segment of a real pair.

    Args:
        name: the song.
        vocal, instrumental (int64 [T_v]): semantic tokens.
        codes (int64 [8, T_a]): the instrumental's codes.
    """

    name: str
    vocal: torch.Tensor
    instrumental: torch.Tensor
    codes: torch.Tensor

    def stream(self, name: str, coarse: int) -> torch.Tensor:
        """A stream that stages read or write: int64 [K, T]."""
        streams = {
            "vocal_semantic": self.vocal[None],
            "instrumental_semantic": self.instrumental[None],
            "coarse": self.codes[:coarse],
            "fine": self.codes[coarse:],
        }
        return streams[name]


@dataclass(frozen=True)
class Crops:
    """What a stage is given and should predict.

    Args:
        conditioning (int64 [N, K, T_c]).
        labels (int64 [N, T·Q]): tokens frame by frame.
        songs (int64 [N]): number of each crop's song.
    """

    conditioning: torch.Tensor
    labels: torch.Tensor
    songs: torch.Tensor


@dataclass
class Decision:
    """A choice, and what speaks for it.

    Args:
        choice: name in `CHOICES`.
        value: the value chosen.
        evidence: in words.
        decided: whether the evidence decides it; otherwise the paper's value stands.
    """

    choice: str
    value: Any
    evidence: str
    decided: bool = True


@dataclass
class Verdict:
    """The layout, with the evidence for each choice, and what the yardsticks say of each stage."""

    layout: Layout
    decisions: list[Decision] = field(default_factory=list)
    yardsticks: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@dataclass
class Candidate:
    """A stage to be laid out.

    Args:
        model: of our architecture, whose weights are replaced for every layout.
        state: the original's weights by our names.
        trained: for each table of the conditioning and of the target, by our names, whether AdamW's second moments of
            its last row, the mask or BOS, are not exactly 0; empty if they are not in the file.
        guessed: choices about which its names say nothing.
    """

    model: HAFMStageForCausalLM
    state: dict[str, torch.Tensor]
    trained: dict[str, list[bool]] = field(default_factory=dict)
    guessed: set[str] = field(default_factory=set)

    def lay_out(self, layout: Layout) -> HAFMStageForCausalLM:
        """The model with the weights that a layout gives."""
        self.model.load_state_dict(folded(self.state, self.model.config, layout))
        for name, value in layout_config(self.model.config, layout).items():
            setattr(self.model.config, name, value)
        return self.model


def read_pairs(folder: Path) -> list[tuple[str, np.ndarray, np.ndarray, int]]:
    """Segments of the real pairs in a folder, laid out as for `hafm prepare`: name, vocal, instrumental [N], rate.

    Raises:
        ValueError: there are none.
    """
    reader = StemReader(StemOptions())
    segments = []
    for song in reader.group(find_audio(folder)[0])[0]:
        try:
            stems = reader.read({role: folder / path for role, path in song.files.items()})
        except TrackError:
            continue
        size = round(SEGMENT_SECONDS * stems.sampling_rate)
        for start in range(0, len(stems.vocal) - size + 1, size):
            part = slice(start, start + size)
            vocal = stems.vocal[part]
            instrumental = stems.instrumental[part]
            if reason_to_drop(vocal, instrumental, FilterOptions()) is None:
                segments.append((song.name, vocal, instrumental, stems.sampling_rate))
    if len({name for name, *_ in segments}) < 2:
        raise ValueError(
            f"{folder} has too few pairs: name a folder of at least two songs, each with its vocal and its "
            f"accompaniment (vocals.wav and accompaniment.wav), of {SEGMENT_SECONDS:g} s or longer."
        )
    return segments


def tokenized(segments: Sequence[tuple[str, np.ndarray, np.ndarray, int]], tokenizers: Tokenizers) -> list[Song]:
    """The tokens of segments of real pairs; vocals get their noise."""
    songs = []
    for number, (name, vocal, instrumental, rate) in enumerate(segments):
        tokens = next(tokenizers.encode([vocal], [instrumental], rate, SEGMENT_SECONDS, [number]))
        streams = (
            torch.from_numpy(np.asarray(each)).long()
            for each in (tokens.vocal_semantic, tokens.instrumental_semantic, tokens.acoustic)
        )
        songs.append(Song(name, *streams))
    return songs


def crops_of(stage: str, songs: Sequence[Song], model: HAFMStageForCausalLM, seconds: float) -> Crops:
    """Up to `MOST_CROPS` crops, evenly over the songs; conditioning and target start at the same time."""
    config = model.config
    kind = stage_parts()[stage]
    coarse = config.num_codebooks if stage == "coarse" else config.num_token_streams
    read = round(seconds * config.conditioning_frame_rate)
    written = round(seconds * config.frame_rate)
    names = sorted({song.name for song in songs})
    conditioning = []
    labels = []
    numbers = []
    for song in songs:
        sources = torch.cat([song.stream(name, coarse) for name in kind.reads])
        target = song.stream(kind.writes, coarse)[: config.num_codebooks]
        for start in range(min(sources.shape[1] // read, target.shape[1] // written)):
            conditioning.append(sources[:, start * read : (start + 1) * read])
            labels.append(target[:, start * written : (start + 1) * written].t().flatten())
            numbers.append(names.index(song.name))
    chosen = torch.linspace(0, len(labels) - 1, min(MOST_CROPS, len(labels))).long().tolist()
    return Crops(
        torch.stack([conditioning[i] for i in chosen]),
        torch.stack([labels[i] for i in chosen]),
        torch.tensor([numbers[i] for i in chosen]),
    )


@torch.no_grad()
def nats(model: HAFMStageForCausalLM, crops: Crops, null: bool = False) -> np.ndarray:
    """Cross-entropy of each crop in nats per token, with its conditioning or without.

    Returns:
        float64 [2, N]: of all tokens, and of the first frame's.
    """
    losses = []
    first = model.config.num_codebooks
    for conditioning, labels in zip(crops.conditioning.split(BATCH), crops.labels.split(BATCH), strict=True):
        rows = torch.full((len(labels),), null)
        logits = model(conditioning_ids=conditioning, labels=labels, null_conditioning=rows).logits
        each = F.cross_entropy(logits.mT, labels, reduction="none").double()
        losses.append(torch.stack([each.mean(1), each[:, :first].mean(1)]))
    return torch.cat(losses, dim=1).numpy()


def bigram_nats(crops: Crops, codebooks: int, size: int) -> np.ndarray:
    """Cross-entropy of each crop under a bigram of its codebooks, counted in the other songs: float64 [N].

    A token is predicted from the one before it in its codebook; the estimate falls back on the unigram.
    """
    frames = crops.labels.unflatten(1, (-1, codebooks))
    total = np.zeros(len(frames))
    for book in range(codebooks):
        rows = frames[:, :, book]
        for song in crops.songs.unique():
            others = rows[crops.songs != song]
            single = (torch.bincount(others.flatten(), minlength=size).double() + 1) / (others.numel() + size)
            pairs = torch.bincount((others[:, :-1] * size + others[:, 1:]).flatten(), minlength=size * size)
            pairs = pairs.view(size, size).double()
            for number in (crops.songs == song).nonzero()[:, 0].tolist():
                before = rows[number, :-1]
                after = rows[number, 1:]
                seen = pairs[before, after] + BIGRAM_PRIOR * single[after]
                likelihood = seen / (pairs.sum(1)[before] + BIGRAM_PRIOR)
                first = -single[rows[number, 0]].log()
                total[number] += float((first - likelihood.log().sum()) / rows.shape[1])
    return total / codebooks


def significant(differences: np.ndarray, errors: float = STANDARD_ERRORS) -> bool:
    """Whether paired differences in nats per token are above zero by so many standard errors, and by `LEAST_NATS`."""
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    return bool(differences.mean() > max(errors * error, LEAST_NATS))


def in_words(differences: np.ndarray) -> str:
    """Mean and standard error of paired differences."""
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    return f"{differences.mean():+.3f} ± {error:.3f} nats per token"


class Search:
    """The search for a layout.

    Args:
        stages: by name.
        crops: of each stage.
        progress: called with a sentence before every step that takes long.
    """

    def __init__(
        self,
        stages: Mapping[str, Candidate],
        crops: Mapping[str, Crops],
        progress: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.stages = stages
        self.crops = crops
        self.progress = progress
        self.scored: dict[tuple[str, Layout], np.ndarray] = {}

    def score(self, stage: str, layout: Layout) -> np.ndarray:
        """Nats per token of a stage's crops under a layout, as `nats` returns them: float64 [2, N]."""
        if (stage, layout) not in self.scored:
            self.scored[stage, layout] = nats(self.stages[stage].lay_out(layout), self.crops[stage])
        return self.scored[stage, layout]

    def difference(self, choice: str, better: Layout, worse: Layout) -> np.ndarray:
        """By how many nats per token `better` is better, for each crop of the stages that a choice concerns."""
        part = int(choice in OF_THE_START)
        stages = self.concerned(choice)
        return np.concatenate([(self.score(stage, worse) - self.score(stage, better))[part] for stage in stages])

    def concerned(self, choice: str) -> list[str]:
        """The stages that a choice concerns."""
        return [name for name in self.stages if name in OF_STAGES.get(choice, tuple(self.stages))]

    def values(self, choice: str) -> tuple[Any, ...]:
        """The values to try; the paper's alone for a choice that names have settled, or that concerns no stage."""
        concerned = self.concerned(choice)
        if not concerned or choice == "null":
            return CHOICES[choice][:1]
        if choice in BY_NAME and not any(choice in self.stages[name].guessed for name in concerned):
            return CHOICES[choice][:1]
        return CHOICES[choice]

    def run(self) -> Verdict:
        """Chooses the layout, and measures the stages against their yardsticks."""
        self.progress("The gate and the order of q, k and v, jointly")
        layout = self.joint(PAPER)
        for number in range(ROUNDS):
            self.progress(f"The other choices, one by one, round {number + 1}")
            before = layout
            for choice in CHOICES:
                layout = self.improved(layout, choice)
            if layout == before:
                break
        verdict = Verdict(layout)
        for choice in CHOICES:
            if choice != "null" and len(self.values(choice)) > 1:
                verdict.decisions.append(self.decision(verdict, choice))
        self.first_table(verdict)
        self.progress("Null conditioning, and the yardsticks")
        self.null(verdict)
        self.measure(verdict)
        return verdict

    def joint(self, layout: Layout) -> Layout:
        """The best values of `JOINT` together, on the first stage."""
        stage = next(iter(self.stages))
        crops = self.crops[stage]
        some = Crops(*(each[::JOINT_STEP] for each in (crops.conditioning, crops.labels, crops.songs)))
        names = [name for name in JOINT if stage in self.concerned(name)]
        tried = [
            replace(layout, **dict(zip(names, values, strict=True)))
            for values in product(*(self.values(name) for name in names))
        ]
        best = min(tried, key=lambda each: float(nats(self.stages[stage].lay_out(each), some)[0].mean()))
        if significant((self.score(stage, layout) - self.score(stage, best))[0]):
            return best
        return layout

    def improved(self, layout: Layout, choice: str) -> Layout:
        """The layout with a better value of one choice, or with the paper's where the evidence for another is weak."""
        others = [
            replace(layout, **{choice: value}) for value in self.values(choice) if value != getattr(layout, choice)
        ]
        if not others:
            return layout
        best = max(others, key=lambda each: float(self.difference(choice, each, layout).mean()))
        if significant(self.difference(choice, best, layout)):
            return best
        paper = replace(layout, **{choice: getattr(PAPER, choice)})
        if paper != layout and not significant(self.difference(choice, layout, paper)):
            return paper
        return layout

    def decision(self, verdict: Verdict, choice: str) -> Decision:
        """What speaks for the value chosen: its smallest advantage over another."""
        value = getattr(verdict.layout, choice)
        margins = {
            other: self.difference(choice, verdict.layout, replace(verdict.layout, **{choice: other}))
            for other in self.values(choice)
            if other != value
        }
        rival = min(margins, key=lambda other: float(margins[other].mean()))
        weak = [str(other) for other, margin in margins.items() if not significant(margin)]
        words = f"{in_words(margins[rival])} better than {rival}"
        if weak:
            words += f"; not distinguished from {', '.join(weak)}"
        return Decision(choice, value, words, decided=not weak)

    def first_table(self, verdict: Verdict) -> None:
        """Lets AdamW's second moments say which table's BOS was trained, where exactly one was."""
        layout = verdict.layout
        concerned = self.concerned("first_table")
        if not concerned or layout.input_table != PAPER.input_table:
            # a slot that reads its own codebook's table reads BOS from the first
            verdict.decisions = [each for each in verdict.decisions if each.choice != "first_table"]
            return
        trained = {name: np.flatnonzero(self.last_rows(name, TARGETS, layout)).tolist() for name in concerned}
        ends = [(name, rows[0]) for name, rows in trained.items() if len(rows) == 1]
        for name, row in ends:
            last = self.stages[name].model.config.num_codebooks - 1
            if row not in (0, last):
                verdict.faults.append(
                    f"{name}: BOS of table {row} was trained, which is neither the first nor the last"
                )
        if len(ends) == len(concerned) and len({row == 0 for _, row in ends}) == 1:
            value = CHOICES["first_table"][1 if ends[0][1] == 0 else 0]
            verdict.layout = replace(layout, first_table=value)
            said = Decision("first_table", value, "the only BOS whose second moments in AdamW are not exactly 0")
            verdict.decisions = [said if each.choice == "first_table" else each for each in verdict.decisions]

    def last_rows(self, stage: str, tables: str, layout: Layout) -> list[bool]:
        """Which tables' last rows were trained, the conditioning's (`TABLES`) or the target's (`TARGETS`)."""
        if layout.tables != PAPER.tables and stage in OF_STAGES["tables"]:
            tables = TABLES if tables == TARGETS else TARGETS
        return self.stages[stage].trained.get(tables, [])

    def null(self, verdict: Verdict) -> None:
        """Chooses what null conditioning is: by AdamW's moments of the mask rows, then by the likelihood without."""
        rows = {row for name in self.stages for row in self.last_rows(name, TABLES, verdict.layout)}
        trained = rows.pop() if len(rows) == 1 else None
        values = list(CHOICES["null"])
        if trained is not None:
            values = [value for value in values if (value == CHOICES["null"][2]) == trained]
        said = {
            None: "",
            True: "the mask rows were trained, by AdamW's second moments",
            False: "the mask rows never were",
        }
        words = said[trained]
        scores = {
            value: {
                name: nats(stage.lay_out(replace(verdict.layout, null=value)), self.crops[name], null=True)[0]
                for name, stage in self.stages.items()
            }
            for value in values
        }
        joined = {value: np.concatenate(list(by_stage.values())) for value, by_stage in scores.items()}
        best = min(values, key=lambda value: float(joined[value].mean()))
        weak = [value for value in values if value != best and not significant(joined[value] - joined[best])]
        chosen = best
        if values[0] in weak:
            chosen = values[0]
        rivals = [value for value in values if value != chosen]
        if rivals:
            rival = min(rivals, key=lambda value: float(joined[value].mean()))
            likelier = f"without a voice {in_words(joined[rival] - joined[chosen])} better than {rival}"
            words = "; ".join(filter(None, (words, likelier)))
        verdict.layout = replace(verdict.layout, null=chosen)
        verdict.decisions.append(Decision("null", chosen, words, decided=not weak))

    def measure(self, verdict: Verdict) -> None:
        """Measures each stage against a bigram of the same tokens, and against other songs' conditioning."""
        for name, stage in self.stages.items():
            crops = self.crops[name]
            config = stage.model.config
            own = self.score(name, verdict.layout)[0]
            model = stage.lay_out(verdict.layout)
            bigram = bigram_nats(crops, config.num_codebooks, config.codebook_size)
            order = _of_other_songs(crops.songs)
            shuffled = nats(model, replace(crops, conditioning=crops.conditioning[order]))[0]
            verdict.yardsticks[name] = (
                f"{own.mean():.3f} nats per token; {in_words(bigram - own)} better than a bigram of the same tokens; "
                f"{in_words(shuffled - own)} better than with other songs' conditioning"
            )
            if not significant(shuffled - own, YARDSTICK_ERRORS):
                verdict.yardsticks[name] += ", so it does not measurably listen"
            if not significant(bigram - own, YARDSTICK_ERRORS):
                verdict.faults.append(
                    f"the {name} stage predicts real songs no better than a bigram of their tokens ({own.mean():.2f} "
                    f"and {bigram.mean():.2f} nats per token)"
                )


def _of_other_songs(songs: torch.Tensor) -> torch.Tensor:
    """For each crop, a crop of another song: int64 [N]."""
    count = len(songs)
    for shift in range(count // 2, count):
        order = (torch.arange(count) + shift) % count
        if bool((songs[order] != songs).all()):
            return order
    return torch.stack([(songs != song).nonzero()[i % int((songs != song).sum()), 0] for i, song in enumerate(songs)])


def described(verdict: Verdict) -> str:
    """The choices as a table in Markdown."""
    lines = ["| choice | value | evidence |", "|---|---|---|"]
    for each in verdict.decisions:
        if each.choice != "distance" or each.value == LENGTH:
            value = each.value
        else:
            value = f"{each.value} tokens"
        state = "" if each.decided else "*undetermined*; "
        lines.append(f"| {TITLES[each.choice]} | {value} | {state}{each.evidence} |")
    return "\n".join(lines)
