# SPDX-License-Identifier: Apache-2.0
"""Chooses a checkpoint's layout by how likely its stages find the tokens of real pairs.

A choice wins over the paper's if, crop by crop on the same tokens, its nats per token are lower by more than
`STANDARD_ERRORS` standard errors and by more than `LEAST_NATS`; otherwise the paper's stands, and is called
undetermined. While the gate or the order of q, k and v is wrong, all else is noise, so these are tried jointly first,
on the stage with the shortest sequence; the rest follows one by one, until nothing changes.

Dimensions: N crops, B of them in a batch, T_v semantic and T_a codec frames, T target and T_c conditioning frames, K
conditioning streams, Q codebooks. A slot is a position in a stage's sequence.
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
# rows of `nats`
ALL_TOKENS = 0
FIRST_FRAME = 1
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
        """A stream that stages read or write: int64 [1, T_v] for semantic tokens, [codebooks, T_a] for codes.

        Args:
            name: of the stream, as in `stage_parts`.
            coarse: number of coarse codebooks; the others are fine.
        """
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
        conditioning (int64 [N, K, T_c]): tokens of the streams that it reads.
        labels (int64 [N, T·Q]): tokens that it writes, frame by frame.
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
    """The outcome of a `Search`.

    Args:
        layout: the layout chosen.
        decisions: with the evidence, for each choice of which several values were tried.
        yardsticks: what a comparison with them says of each stage, by its name.
        faults: why the checkpoint can't be what it should be, one sentence each.
    """

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
        trained: whether the last row of each table was trained, that is, AdamW's second moments of it are not exactly
            0. By our names of the conditioning's tables (`TABLES`, whose last row is the mask) and of the target's
            (`TARGETS`, BOS); without those whose moments are not in the file.
        guessed: choices about which its names say nothing.
    """

    model: HAFMStageForCausalLM
    state: dict[str, torch.Tensor]
    trained: dict[str, list[bool]] = field(default_factory=dict)
    guessed: set[str] = field(default_factory=set)

    def lay_out(self, layout: Layout) -> HAFMStageForCausalLM:
        """Gives the model the weights and the configuration of a layout of the original, and returns the model."""
        self.model.load_state_dict(folded(self.state, self.model.config, layout))
        for name, value in layout_config(self.model.config, layout).items():
            setattr(self.model.config, name, value)
        return self.model


def read_pairs(folder: Path) -> list[tuple[str, np.ndarray, np.ndarray, int]]:
    """Reads real pairs, and cuts them into segments of `SEGMENT_SECONDS`.

    Args:
        folder: laid out as for `hafm prepare`.

    Returns:
        The song's name, vocal and instrumental (float32 [N] each) and their rate in Hz, of each segment that
        `hafm prepare` would keep.

    Raises:
        ValueError: there are fewer than two songs.
    """
    reader = StemReader(StemOptions())
    files, *_ = find_audio(folder)
    songs, _ = reader.group(files)
    segments = []
    for song in songs:
        try:
            stems = reader.read({role: folder / path for role, path in song.files.items()})
        except TrackError:
            continue
        size = round(SEGMENT_SECONDS * stems.sampling_rate)
        for start in range(0, len(stems.vocal) - size + 1, size):
            vocal = stems.vocal[start : start + size]
            instrumental = stems.instrumental[start : start + size]
            if reason_to_drop(vocal, instrumental, FilterOptions()) is None:
                segments.append((song.name, vocal, instrumental, stems.sampling_rate))
    if len({name for name, *_ in segments}) < 2:
        raise ValueError(
            f"{folder} has too few pairs: name a folder of at least two songs, each with its vocal and its "
            f"accompaniment (vocals.wav and accompaniment.wav), of {SEGMENT_SECONDS:g} s or longer."
        )
    return segments


def tokenized(segments: Sequence[tuple[str, np.ndarray, np.ndarray, int]], tokenizers: Tokenizers) -> list[Song]:
    """The tokens of segments of real pairs.

    Vocals get the noise that they have in training; the number of the segment is its seed.

    Args:
        segments: (song's name, vocal, instrumental, rate in Hz) of each, as `read_pairs` returns them.
        tokenizers: the semantic tokenizer and the codec.
    """
    songs = []
    for number, (name, vocal, instrumental, rate) in enumerate(segments):
        tokens = next(tokenizers.encode([vocal], [instrumental], rate, SEGMENT_SECONDS, [number]))
        songs.append(
            Song(
                name,
                vocal=torch.from_numpy(np.asarray(tokens.vocal_semantic)).long(),
                instrumental=torch.from_numpy(np.asarray(tokens.instrumental_semantic)).long(),
                codes=torch.from_numpy(np.asarray(tokens.acoustic)).long(),
            )
        )
    return songs


def crops_of(stage: str, songs: Sequence[Song], model: HAFMStageForCausalLM, seconds: float) -> Crops:
    """Cuts up to `MOST_CROPS` crops, evenly over the songs; conditioning and target start at the same time.

    Args:
        stage: the stage's name.
        songs: the tokens of the segments.
        model: the stage, for its rates and codebooks.
        seconds: length of a crop.
    """
    config = model.config
    part = stage_parts()[stage]
    # number of coarse codebooks, which the coarse stage writes, and the fine stage reads
    num_coarse = config.num_codebooks if stage == "coarse" else config.num_token_streams
    frames_read = round(seconds * config.conditioning_frame_rate)
    frames_written = round(seconds * config.frame_rate)
    names = sorted({song.name for song in songs})
    conditioning = []
    labels = []
    song_numbers = []
    for song in songs:
        sources = torch.cat([song.stream(name, num_coarse) for name in part.reads])  # [K, frames of the song]
        target = song.stream(part.writes, num_coarse)[: config.num_codebooks]  # [Q, frames of the song]
        num_crops = min(sources.shape[1] // frames_read, target.shape[1] // frames_written)
        for number in range(num_crops):
            read = sources[:, number * frames_read : (number + 1) * frames_read]
            written = target[:, number * frames_written : (number + 1) * frames_written]
            conditioning.append(read)
            labels.append(written.t().flatten())  # frame by frame
            song_numbers.append(names.index(song.name))
    chosen = torch.linspace(0, len(labels) - 1, min(MOST_CROPS, len(labels))).long().tolist()
    return Crops(
        torch.stack([conditioning[i] for i in chosen]),
        torch.stack([labels[i] for i in chosen]),
        torch.tensor([song_numbers[i] for i in chosen]),
    )


@torch.no_grad()
def nats(model: HAFMStageForCausalLM, crops: Crops, null: bool = False) -> np.ndarray:
    """Cross-entropy of each crop in nats per token.

    Args:
        model: the stage.
        crops: N crops.
        null: whether to give null conditioning instead of the crops'.

    Returns:
        float64 [2, N]: of all tokens (row `ALL_TOKENS`), and of the first frame's (`FIRST_FRAME`).
    """
    losses = []
    codebooks = model.config.num_codebooks
    for conditioning, labels in zip(crops.conditioning.split(BATCH), crops.labels.split(BATCH), strict=True):
        is_null = torch.full((len(labels),), null)
        logits = model(conditioning_ids=conditioning, labels=labels, null_conditioning=is_null).logits
        token_nats = F.cross_entropy(logits.mT, labels, reduction="none").double()  # [B, T·Q]
        losses.append(torch.stack([token_nats.mean(1), token_nats[:, :codebooks].mean(1)]))
    return torch.cat(losses, dim=1).numpy()


def bigram_nats(crops: Crops, codebooks: int, size: int) -> np.ndarray:
    """Cross-entropy of each crop, in nats per token, under a bigram of its codebooks: float64 [N].

    A token is predicted from the one before it in its codebook, by counts in the crops of other songs; where these are
    few, the estimate falls back on the unigram.

    Args:
        crops: N crops.
        codebooks: Q.
        size: number of codes of a codebook.
    """
    frames = crops.labels.unflatten(1, (-1, codebooks))  # [N, T, Q]
    total = np.zeros(len(frames))
    for codebook in range(codebooks):
        codes = frames[:, :, codebook]
        for song in crops.songs.unique():
            others = codes[crops.songs != song]
            # each code counts once more, so that none is impossible
            unigram = (torch.bincount(others.flatten(), minlength=size).double() + 1) / (others.numel() + size)
            pairs = torch.bincount((others[:, :-1] * size + others[:, 1:]).flatten(), minlength=size * size)
            counts = pairs.view(size, size).double()  # of [code before, code]
            for crop in (crops.songs == song).nonzero()[:, 0].tolist():
                before = codes[crop, :-1]
                after = codes[crop, 1:]
                smoothed_counts = counts[before, after] + BIGRAM_PRIOR * unigram[after]
                likelihood = smoothed_counts / (counts.sum(1)[before] + BIGRAM_PRIOR)
                # nothing is before the first code
                first_nats = -unigram[codes[crop, 0]].log()
                total[crop] += float((first_nats - likelihood.log().sum()) / codes.shape[1])
    return total / codebooks


def significant(differences: np.ndarray, errors: float = STANDARD_ERRORS) -> bool:
    """Whether the mean of paired differences is above `LEAST_NATS`, and above a number of its standard errors.

    Args:
        differences (float64 [N]): in nats per token.
        errors: the number of standard errors.
    """
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    return bool(differences.mean() > max(errors * error, LEAST_NATS))


def in_words(differences: np.ndarray) -> str:
    """Mean and standard error of paired differences (float64 [N], nats per token), such as "+0.031 ± 0.004 nats …"."""
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    return f"{differences.mean():+.3f} ± {error:.3f} nats per token"


class Search:
    """The search for a layout.

    Args:
        stages: by name.
        crops: of each stage.
        progress: called with a sentence before every step that takes long.

    Attributes:
        scored: the results of `score`, by stage and layout.
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
        """Nats per token of a stage's crops under a layout, which are computed once.

        Args:
            stage: the stage's name.
            layout: which its weights get, if it has no result under this layout yet.

        Returns:
            float64 [2, N]: of all tokens (row `ALL_TOKENS`), and of the first frame's (`FIRST_FRAME`).
        """
        if (stage, layout) not in self.scored:
            self.scored[stage, layout] = nats(self.stages[stage].lay_out(layout), self.crops[stage])
        return self.scored[stage, layout]

    def difference(self, choice: str, better: Layout, worse: Layout) -> np.ndarray:
        """Nats per token by which one layout is better than another, by crop, in the stages that a choice concerns.

        Stages in which both layouts come to the same are left out: they would only dilute the others.

        Args:
            choice: name in `CHOICES`; if it is about the first slot, only the first frame's tokens count.
            better: is better where the result is positive.
            worse: the other layout.

        Returns:
            float64 [crops of these stages].
        """
        row = FIRST_FRAME if choice in OF_THE_START else ALL_TOKENS
        savings = [self.score(stage, worse)[row] - self.score(stage, better)[row] for stage in self.concerned(choice)]
        of_differing_stages = [saving for saving in savings if saving.any()]
        return np.concatenate(of_differing_stages or savings)

    def concerned(self, choice: str) -> list[str]:
        """The stages that a choice concerns."""
        return [name for name in self.stages if name in OF_STAGES.get(choice, tuple(self.stages))]

    def values(self, choice: str) -> tuple[Any, ...]:
        """The values of a choice to try; the paper's alone if names have settled it, or if it concerns no stage."""
        concerned = self.concerned(choice)
        # `null` decides this one, by tokens without conditioning
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
        # only now: while other choices are wrong, even the right value of one shows no advantage
        for choice in CHOICES:
            layout = self.papers_unless_worse(layout, choice)
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
        """The layout with the best values of `JOINT` together, on the first stage; unchanged if none is better."""
        stage = next(iter(self.stages))
        crops = self.crops[stage]
        some_crops = Crops(
            crops.conditioning[::JOINT_STEP],
            crops.labels[::JOINT_STEP],
            crops.songs[::JOINT_STEP],
        )

        def mean_nats(tried: Layout) -> float:
            """Mean over `some_crops` under a layout."""
            return float(nats(self.stages[stage].lay_out(tried), some_crops)[ALL_TOKENS].mean())

        names = [name for name in JOINT if stage in self.concerned(name)]
        values_to_try = [self.values(name) for name in names]
        layouts = [
            replace(layout, **dict(zip(names, combination, strict=True))) for combination in product(*values_to_try)
        ]
        best = min(layouts, key=mean_nats)
        if significant(self.score(stage, layout)[ALL_TOKENS] - self.score(stage, best)[ALL_TOKENS]):
            return best
        return layout

    def improved(self, layout: Layout, choice: str) -> Layout:
        """The layout with the best other value of a choice, if it is significantly better; otherwise unchanged."""
        others = [
            replace(layout, **{choice: value}) for value in self.values(choice) if value != getattr(layout, choice)
        ]
        if not others:
            return layout
        best = max(others, key=lambda other: float(self.difference(choice, other, layout).mean()))
        if significant(self.difference(choice, best, layout)):
            return best
        return layout

    def papers_unless_worse(self, layout: Layout, choice: str) -> Layout:
        """The layout with the paper's value of a choice, or unchanged if its own value is significantly better."""
        paper = replace(layout, **{choice: getattr(PAPER, choice)})
        if paper != layout and not significant(self.difference(choice, layout, paper)):
            return paper
        return layout

    def decision(self, verdict: Verdict, choice: str) -> Decision:
        """What speaks for the verdict's value of a choice: its smallest advantage over another value.

        It is decided if the value is significantly better than every other one.

        Args:
            verdict: has the chosen layout; it is not changed.
            choice: name in `CHOICES`.
        """
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
        """Decides the choice "first_table" by AdamW's second moments, if they say which table's BOS was trained.

        Changes the verdict's layout, decisions and faults. Nothing is decided if not exactly one BOS was trained in
        each stage, or if the stages differ.
        """
        layout = verdict.layout
        concerned = self.concerned("first_table")
        if not concerned or layout.input_table != PAPER.input_table:
            # a slot that reads its own codebook's table reads BOS from the first
            verdict.decisions = [decision for decision in verdict.decisions if decision.choice != "first_table"]
            return
        # by stage, index of the only table whose BOS, the last row, was trained
        trained_tables: dict[str, int] = {}
        for name in concerned:
            trained = np.flatnonzero(self.last_rows(name, TARGETS, layout)).tolist()
            if len(trained) == 1:
                trained_tables[name] = trained[0]
        for name, table in trained_tables.items():
            last_table = self.stages[name].model.config.num_codebooks - 1
            if table not in (0, last_table):
                verdict.faults.append(
                    f"{name}: BOS of table {table} was trained, which is neither the first nor the last"
                )
        is_first = {table == 0 for table in trained_tables.values()}
        if len(trained_tables) < len(concerned) or len(is_first) > 1:
            return
        last_codebooks, first_codebooks = CHOICES["first_table"]
        value = first_codebooks if is_first == {True} else last_codebooks
        verdict.layout = replace(layout, first_table=value)
        by_moments = Decision("first_table", value, "the only BOS whose second moments in AdamW are not exactly 0")
        verdict.decisions = [
            by_moments if decision.choice == "first_table" else decision for decision in verdict.decisions
        ]

    def last_rows(self, stage: str, tables: str, layout: Layout) -> list[bool]:
        """Whether the last row of each table was trained (`Candidate.trained`); empty if the file does not say.

        Args:
            stage: the stage's name.
            tables: `TABLES` for the conditioning's, whose last rows are the mask; `TARGETS` for the target's (BOS).
            layout: which may exchange the conditioning's tables and the target's.
        """
        if layout.tables != PAPER.tables and stage in OF_STAGES["tables"]:
            tables = TABLES if tables == TARGETS else TARGETS
        return self.stages[stage].trained.get(tables, [])

    def null(self, verdict: Verdict) -> None:
        """Decides what null conditioning is, and notes it in the verdict.

        By AdamW's moments of the mask rows if all tables agree, and then by how likely the tokens are without
        conditioning.
        """
        values = list(CHOICES["null"])
        *without_mask, mask_row = values
        reasons = []
        trained = {row for name in self.stages for row in self.last_rows(name, TABLES, verdict.layout)}
        if trained == {True}:
            values = [mask_row]
            reasons.append("the mask rows were trained, by AdamW's second moments")
        elif trained == {False}:
            values = without_mask
            reasons.append("the mask rows never were")
        scores: dict[str, np.ndarray] = {}  # of the crops of all stages
        for value in values:
            layout = replace(verdict.layout, null=value)
            of_stages = [
                nats(stage.lay_out(layout), self.crops[name], null=True)[ALL_TOKENS]
                for name, stage in self.stages.items()
            ]
            scores[value] = np.concatenate(of_stages)
        best = min(values, key=lambda value: float(scores[value].mean()))
        weak = [value for value in values if value != best and not significant(scores[value] - scores[best])]
        chosen = best
        if values[0] in weak:
            # the paper's value, unless it is ruled out, wins if it is not significantly worse
            chosen = values[0]
        rivals = [value for value in values if value != chosen]
        if rivals:
            rival = min(rivals, key=lambda value: float(scores[value].mean()))
            reasons.append(f"without a voice {in_words(scores[rival] - scores[chosen])} better than {rival}")
        words = "; ".join(reasons)
        verdict.layout = replace(verdict.layout, null=chosen)
        verdict.decisions.append(Decision("null", chosen, words, decided=not weak))

    def measure(self, verdict: Verdict) -> None:
        """Notes in the verdict by how much each stage is better than a bigram, and than with other conditioning.

        A stage that is no better than a bigram of the same tokens is a fault; one that is no better than with other
        songs' conditioning is not.
        """
        for name, stage in self.stages.items():
            crops = self.crops[name]
            config = stage.model.config
            # nats per token of each crop: of the stage, of the bigram, and of the stage with shuffled conditioning
            real = self.score(name, verdict.layout)[ALL_TOKENS]
            model = stage.lay_out(verdict.layout)
            bigram = bigram_nats(crops, config.num_codebooks, config.codebook_size)
            order = _of_other_songs(crops.songs)
            shuffled = nats(model, replace(crops, conditioning=crops.conditioning[order]))[ALL_TOKENS]
            verdict.yardsticks[name] = (
                f"{real.mean():.3f} nats per token; "
                f"{in_words(bigram - real)} better than a bigram of the same tokens; "
                f"{in_words(shuffled - real)} better than with other songs' conditioning"
            )
            if not significant(shuffled - real, YARDSTICK_ERRORS):
                verdict.yardsticks[name] += ", so it does not measurably listen"
            if not significant(bigram - real, YARDSTICK_ERRORS):
                verdict.faults.append(
                    f"the {name} stage predicts real songs no better than a bigram of their tokens ({real.mean():.2f} "
                    f"and {bigram.mean():.2f} nats per token)"
                )


def _of_other_songs(songs: torch.Tensor) -> torch.Tensor:
    """For each crop, the index of a crop of another song: int64 [N].

    Args:
        songs (int64 [N]): number of each crop's song; at least two songs.
    """
    count = len(songs)
    # a shift takes every crop once; not all songs allow one
    for shift in range(count // 2, count):
        order = (torch.arange(count) + shift) % count
        if bool((songs[order] != songs).all()):
            return order
    chosen = []
    for number, song in enumerate(songs):
        others = (songs != song).nonzero()[:, 0]
        chosen.append(others[number % len(others)])
    return torch.stack(chosen)


def described(verdict: Verdict) -> str:
    """The choices as a table in Markdown."""
    lines = ["| choice | value | evidence |", "|---|---|---|"]
    for decision in verdict.decisions:
        value = decision.value
        if decision.choice == "distance" and value != LENGTH:
            value = f"{value} tokens"
        state = "" if decision.decided else "*undetermined*; "
        lines.append(f"| {TITLES[decision.choice]} | {value} | {state}{decision.evidence} |")
    return "\n".join(lines)
