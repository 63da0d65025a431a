# SPDX-License-Identifier: Apache-2.0
"""How the part that estimates chords is made: a table counted on tokens, a network that is taught songs in symbols.

The network learns from notes, not from audio, so that whole songs count even where only excerpts were rendered, in
every key; its notes are heard as wrongly in training as they are from tokens. Labels are those of
recipes/build_song_corpus.py: `notes`, `chords` and `beats` in seconds.

Dimensions: B batch, T frames, N beats, K clusters.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from hafm_hf.listening.modeling_harmony import (
    CELLS,
    NO_NOTE,
    NOTE_NUMBERS,
    NUM_CHORDS,
    PITCH_CLASSES,
    HAFMHarmonyModel,
    beat_cells,
)

from .steps import StepArguments, take_steps
from .targets import LOWEST_NOTE, beat_phases, chord_targets, note_targets, transposed_chords

# frames a second at which songs in symbols are read
SYMBOL_RATE = 50
# frames of every token that are taken to say what all tokens say
NOTE_SMOOTHING = 5.0
# intervals at which a note is heard instead of the sung one
MISHEARD = (-2, -1, 1, 2, 5, 7)
# beats below which a song is left out, and of the crops, one length a step
LEAST_BEATS, CROP_BEATS = 4, (16, 32, 64, 128)
# of the crops in which hardly anything is sung, so many are learnt all the same: the search for others has an end
UNSUNG = 0.1


@dataclass
class HarmonyArguments(StepArguments):
    """How the network learns, beside its steps.

    Attributes:
        channels, layers (int): of the network.
        beats_a_step (int): how much is learnt at once.
        least_sung (float): share of a crop in which something is sung.
        errors (float): largest share of a crop that is heard wrongly.
        half_beats (float): share of the crops that are heard half a beat off.
    """

    channels: int = 128
    layers: int = 6
    beats_a_step: int = 2048
    weight_decay: float = 0.05
    least_sung: float = 0.3
    errors: float = 0.2
    half_beats: float = 0.15


@dataclass(frozen=True)
class Melody:
    """A song in symbols: notes in the cells of its beats (float32 [N, 4, 14]) and a chord a beat (int64 [N])."""

    cells: torch.Tensor
    chords: torch.Tensor

    def __len__(self) -> int:
        return len(self.chords)


def melody_of(labels: dict[str, Any]) -> Melody:
    """The notes and chords of a song's labels, beat by beat; of fewer than two beats there is nothing."""
    times = (np.arange(int(max(labels["beats"], default=0.0) * SYMBOL_RATE) + 1) + 0.5) / SYMBOL_RATE
    phase = beat_phases(labels, times)
    times, phase = times[np.isfinite(phase)], phase[np.isfinite(phase)]
    if not len(times):
        return Melody(torch.zeros(0, CELLS, NOTE_NUMBERS), torch.zeros(0, dtype=torch.long))
    cells, beat = beat_cells(torch.from_numpy(sung_notes(labels, times)), torch.from_numpy(phase))
    chords = torch.from_numpy(chord_targets(labels, times, 0)["chord"])
    heard = torch.zeros(len(cells), NUM_CHORDS)
    heard.index_put_((beat, chords), torch.ones(len(beat)), accumulate=True)
    return Melody(cells.view(-1, CELLS, NOTE_NUMBERS), heard.argmax(1))


def sung_notes(labels: dict[str, Any], times: NDArray[np.float64]) -> NDArray[np.float32]:
    """What is sung at each instant: float32 [T, 14], one of none and 12 pitch classes, and whether a note begins."""
    targets, found = note_targets(labels, times, 0), np.zeros((len(times), NOTE_NUMBERS), np.float32)
    pitch = targets["pitch"]
    classes = np.where(pitch > 0, 1 + (pitch + LOWEST_NOTE - 1) % PITCH_CLASSES, NO_NOTE)
    found[np.arange(len(times)), classes] = 1.0
    found[:, -1] = targets["onset"] == 1
    return found


class TokenCounts:
    """What a vocal's tokens stand for, counted frame by frame on songs with labels.

    Args:
        clusters: K.
        frame_rate: of the tokens, in Hz.
    """

    def __init__(self, clusters: int, frame_rate: int) -> None:
        self.frame_rate = frame_rate
        self.notes = torch.zeros(clusters, NOTE_NUMBERS)

    def add(self, vocal: torch.Tensor, labels: dict[str, Any], start: float) -> None:
        """Counts the vocal of an excerpt (int64 [T]) that begins `start` seconds into its song."""
        times = start + (np.arange(len(vocal)) + 0.5) / self.frame_rate
        self.notes.index_add_(0, vocal, torch.from_numpy(sung_notes(labels, times)))

    def write_to(self, model: HAFMHarmonyModel) -> None:
        """Sets the table of a model.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.notes.any():
            raise ValueError("No token has a label: do the token corpus and the songs belong together?")
        usual = self.notes.sum(0) / self.notes[:, :-1].sum()
        frames = self.notes[:, :-1].sum(1, keepdim=True)
        model.notes.copy_((self.notes + NOTE_SMOOTHING * usual) / (frames + NOTE_SMOOTHING))


class HarmonyTrainer:
    """Teaches the network the chords of songs.

    Args:
        model: its table is not used.
        songs: those that are too short are left out.
        arguments: see above.

    Raises:
        ValueError: no song has enough beats.
    """

    def __init__(self, model: HAFMHarmonyModel, songs: Sequence[Melody], arguments: HarmonyArguments) -> None:
        self.model, self.arguments = model, arguments
        self.songs = [song for song in songs if len(song) >= LEAST_BEATS]
        if not self.songs:
            raise ValueError(f"No song has {LEAST_BEATS} beats; render longer ones.")
        self.rng = np.random.default_rng(arguments.seed)

    def train(self) -> float:
        """Takes all steps and leaves the average of the weights; returns the mean loss of the last tenth, in nats."""
        return take_steps(self.model, self._loss, self.arguments)

    def _loss(self) -> torch.Tensor:
        length = int(self.rng.choice(CROP_BEATS))
        crops = [self._crop(length) for _ in range(max(1, self.arguments.beats_a_step // length))]
        device = self.model.head.weight.device
        cells, chords = (torch.stack(each).to(device) for each in zip(*crops, strict=True))
        logits = self.model(cells.flatten(2))
        return F.cross_entropy(logits.flatten(0, 1), chords.flatten())

    def _crop(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A crop of a song in another key, as it might be heard: float32 [length, 4, 14], int64 [length]."""
        while True:
            song = self.songs[int(self.rng.integers(len(self.songs)))]
            wanted = min(length, len(song))
            start = int(self.rng.integers(len(song) - wanted + 1))
            cells, chords = song.cells[start : start + wanted], song.chords[start : start + wanted]
            if float(1 - cells[:, :, NO_NOTE].mean()) >= self.arguments.least_sung or self.rng.random() < UNSUNG:
                break
        semitones = int(self.rng.integers(PITCH_CLASSES))
        cells = self._heard(transposed(cells, semitones))
        chords = torch.from_numpy(transposed_chords(chords.numpy(), semitones))
        missing = length - wanted
        # of a song that is shorter nothing more is sung
        rest = torch.zeros(missing, CELLS, NOTE_NUMBERS)
        rest[:, :, NO_NOTE] = 1.0
        return torch.cat([cells, rest]), F.pad(chords, (0, missing))

    def _heard(self, cells: torch.Tensor) -> torch.Tensor:
        """The cells with notes misheard, missed and uncertain, and now and then half a beat off."""
        rng, shape = self.rng, cells.shape[:2]
        errors = rng.uniform(0, self.arguments.errors)
        cells = cells.clone()
        wrong = torch.from_numpy(rng.random(shape) < errors)
        cells[wrong] = transposed(cells[wrong], int(rng.choice(MISHEARD)))
        missed = torch.from_numpy(rng.random(shape) < errors / 2)
        cells[missed] = 0.0
        cells[..., NO_NOTE][missed] = 1.0
        doubt = torch.from_numpy(rng.dirichlet(np.full(NOTE_NUMBERS - 1, 0.5), shape).astype(np.float32))
        cells[..., :-1] = (1 - errors) * cells[..., :-1] + errors * doubt
        kept, added = (torch.from_numpy(rng.random(shape)) for _ in range(2))
        cells[..., -1] = torch.where(kept < errors, 0.0, cells[..., -1]).maximum((added < errors / 5).float())
        if rng.random() < self.arguments.half_beats:
            cells = cells.flatten(0, 1).roll(CELLS // 2, dims=0).view_as(cells)
        return cells


def transposed(cells: torch.Tensor, semitones: int) -> torch.Tensor:
    """Notes (float [..., 14]) that many semitones higher."""
    nothing, classes, begins = cells.split((1, PITCH_CLASSES, 1), dim=-1)
    return torch.cat([nothing, classes.roll(semitones, dims=-1), begins], dim=-1)


@torch.no_grad()
def harmony_scores(model: HAFMHarmonyModel, songs: Iterable[Melody], beats: int) -> dict[str, float]:
    """How well a network knows the chords of songs, from crops of so many beats alone.

    Returns:
        `chord_nats` (3.22 is chance), and of beats with a chord the share whose chord and whose root is the likeliest.

    Raises:
        ValueError: no song is that long.
    """
    nats, right, roots = [], [], []
    device = model.head.weight.device
    for song in songs:
        for start in range(0, len(song) - beats + 1, beats):
            wanted = song.chords[start : start + beats]
            logits = model(song.cells[start : start + beats].flatten(1)[None].to(device))[0].float().cpu()
            nats.append(float(F.cross_entropy(logits, wanted)))
            known, likeliest = wanted > 0, logits.argmax(-1)
            right += (likeliest == wanted)[known].tolist()
            same_root = (likeliest > 0) & ((likeliest - wanted) % PITCH_CLASSES == 0)
            roots += same_root[known].tolist()
    if not nats:
        raise ValueError(f"No song for validation has {beats} beats.")
    return {"chord_nats": float(np.mean(nats)), "chord": float(np.mean(right)), "root": float(np.mean(roots))}
