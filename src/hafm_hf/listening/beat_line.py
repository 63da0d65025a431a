# SPDX-License-Identifier: Apache-2.0
"""The singer's beat: where each frame seems to lie in it, and one beat track through a whole song.

One frame of a voice does not tell the beat, and a small stage does not find it in ten seconds of tokens; a network of
dilated convolutions over descriptors of the voice, with beats to learn from, does (as in Davies & Böck 2019, "Temporal
convolutional networks for musical audio beat tracking"). It is part of the semantic tokenizer, beside HuBERT.

Its frames say by themselves where in the beat they probably lie; one beat track through all of them is surer. It is
found as the likeliest path of a bar-pointer model (Whiteley, Cemgil and Godsill 2006) in the state space of
Krebs, Böck and Widmer (2015): states are places in beats of each length, and only at a beat may the length change.
Where one steady tempo explains nearly as much, as in a take sung to a click, the line keeps to it: a path slips half a
beat where a phrase leans that way, a tempo cannot. Where a listener says how fast the song goes, the track keeps near
that tempo. Dimensions: B batch, T frames, P descriptors, C channels, N states, L lengths of a beat, K tempi.
"""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from ..lead_sheet.lead_sheet import BEATS_PER_MINUTE, beat_points, wrapped

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
# into how many parts a beat is divided, and how many numbers say where a frame lies among them
BEAT_PARTS, BEAT_NUMBERS = 8, 4
KERNEL = 5
# tempo that is likeliest without any evidence, and the standard deviation around it in octaves
LIKELIEST_TEMPO, TEMPO_OCTAVES = 115.0, 0.6
# of what speaks for the likeliest path, how much must speak for one steady tempo that it is taken
STEADY_SHARE = 0.8
# of a take that is asked whether it is steady; the spectrum of a longer one would take more than a tenth of a second
LONGEST_STEADY_SECONDS = 900.0
# places in the beat that are tried for a steady tempo, and zeros behind the frames, for tempos between the spectrum's
STEADY_PLACES, SPECTRUM_PADDING, SHORTEST_SPECTRUM = 64, 8, 1024
# log-probability that is lost when a beat is twice as long as the one before
CHANGE_PENALTY = 200.0
# states a frame: at 50 frames a second a beat's length is known to 10 ms
STATES_A_FRAME = 2
# states that are gone through at once: some 20 ms of computing
STRETCH = 500
# share by which a beat may be longer or shorter than those of the song's tempo
TEMPO_RANGE = 0.1
# log-probability that a tempo loses to which neighbouring ones are preferred
NO_PEAK = 100.0


class HAFMRhythmLayer(nn.Module):
    """Pre-norm dilated convolution with a residual; it sees 2 · dilation frames to each side."""

    def __init__(self, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2 * dilation, dilation=dilation)
        self.output = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, C] → [B, T, C]."""
        hidden = self.conv(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.output(self.dropout(F.gelu(hidden)))


class HAFMRhythmNetwork(nn.Module):
    """Dilated convolutions over descriptors of a vocal, each layer looking twice as far as the one before.

    Args:
        width: P.
        channels: C.
        layers: with dilations 1, 2, 4 …; nine of them see ± 20 s at 50 frames a second.
    """

    def __init__(self, width: int, channels: int, layers: int) -> None:
        super().__init__()
        self.input = nn.Linear(width, channels)
        self.layers = nn.ModuleList([HAFMRhythmLayer(channels, 2**number, dropout=0.1) for number in range(layers)])
        self.head = nn.Linear(channels, BEAT_PARTS)

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """float [B, T, P] → logits of the parts of the beat, float [B, T, 8]."""
        hidden = self.input(descriptors)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)

    def place(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Expected place in the beat and in the half beat as points of the unit disc; the surer, the further out.

        Returns:
            float [B, T, 4]: cosine and sine of the beat's phase, cosine and sine of twice that phase.
        """
        middles = torch.arange(0.5, BEAT_PARTS, dtype=torch.float32, device=descriptors.device) / BEAT_PARTS
        return self(descriptors).float().softmax(-1) @ beat_points(middles)


class HAFMBeatLine(nn.Module):
    """Draws one beat track through a song. It has no weights; it is a module so that hooks come between stretches.

    Args:
        frame_rate: in Hz.
    """

    def __init__(self, frame_rate: int) -> None:
        super().__init__()
        self.frame_rate = frame_rate
        self._set_tempi(BEATS_PER_MINUTE)

    def near(self, tempo: float) -> "HAFMBeatLine":
        """The same line, hooks included, of tempi near to one (beats a minute)."""
        line = copy.copy(self)
        slowest, fastest = (float(np.clip(tempo * (1 + by), *BEATS_PER_MINUTE)) for by in (-TEMPO_RANGE, TEMPO_RANGE))
        line._set_tempi((slowest, fastest))
        return line

    def _set_tempi(self, tempi: tuple[float, float]) -> None:
        self.tempi, rate = tempi, self.frame_rate * STATES_A_FRAME
        slowest, fastest = (rate * 60 / tempo for tempo in tempi)
        lengths: Indices = np.arange(int(np.ceil(fastest)), int(slowest) + 1, dtype=np.int64)
        self.last: Indices = np.cumsum(lengths, dtype=np.int64) - 1
        self.first: Indices = self.last - lengths + 1
        self.phase = np.concatenate([np.arange(length) / length for length in lengths])
        self.directions = beat_points(torch.from_numpy(self.phase)).numpy().T
        # from the column's length to the row's
        change = -CHANGE_PENALTY * np.abs(lengths[:, None] / lengths - 1)
        self.change = change - np.log(np.exp(change).sum(axis=0))
        self.prior = np.repeat(tempo_prior(rate * 60 / lengths), lengths)

    def follow(self, places: torch.Tensor, tempo: float | None = None) -> torch.Tensor:
        """Where in the beat each frame of a song lies.

        Args:
            places (float [T, 4]): cosine and sine of the beat's phase and of twice that phase, the longer the surer
                (`HAFMRhythmNetwork.place`).
            tempo: beats a minute of a take to a click; the line keeps to it exactly.

        Returns:
            float32 [T], 0 on a beat and towards 1 before the next, on the CPU.
        """
        evidence = places.detach().cpu().double().numpy()
        if not len(evidence):
            return torch.zeros(0)
        if tempo is not None:
            return wrapped(self.steady(evidence, tempo))
        path = self._path(evidence)
        if len(evidence) > LONGEST_STEADY_SECONDS * self.frame_rate:
            return wrapped(path)
        steady = self.steady(evidence)
        speaks = [float((evidence * beat_points(wrapped(line)).numpy()).sum()) for line in (path, steady)]
        return wrapped(steady if speaks[1] > STEADY_SHARE * speaks[0] else path)

    def _path(self, evidence: Array) -> Array:
        """The phases of the likeliest path, float64 [T]."""
        fine = np.linspace(0, len(evidence) - 1, (len(evidence) - 1) * STATES_A_FRAME + 1)
        evidence = np.stack([np.interp(fine, np.arange(len(evidence)), column) for column in evidence.T], axis=1)
        score, before = self.prior, []
        for start in range(0, len(evidence), STRETCH):
            score, stretch = self(score, evidence[start : start + STRETCH] / STATES_A_FRAME)
            before.append(stretch)
        return self._trace_back(int(score.argmax()), np.concatenate(before))[::STATES_A_FRAME]

    def steady(self, evidence: Array, tempo: float | None = None) -> Array:
        """The beats passed on the likeliest line of one tempo (beats a minute, any if None), float64 [T].

        What speaks for a tempo and the phase at its start is one number of the places' spectrum, turned by the phase.
        """
        once, twice = (evidence[:, at] + 1j * evidence[:, at + 1] for at in (0, 2))
        if tempo is not None:
            speeds = np.array([tempo / 60 / self.frame_rate])
            turned = np.exp(-2j * np.pi * speeds * np.arange(len(evidence)))
            once, twice = np.array([once @ turned]), np.array([twice @ turned**2])
        else:
            size = 1 << max(SPECTRUM_PADDING * len(evidence), SHORTEST_SPECTRUM).bit_length()
            first, last = (round(each / 60 / self.frame_rate * size) for each in self.tempi)
            bins = np.arange(first, last + 1)
            speeds = bins / size
            once, twice = np.fft.fft(once, size)[bins], np.fft.fft(twice, size)[2 * bins]
        phases = np.arange(STEADY_PLACES) / STEADY_PLACES
        turn = np.exp(-2j * np.pi * phases)[:, None]
        speaks = (once * turn + twice * turn**2).real + tempo_prior(speeds * 60 * self.frame_rate)
        place, at = np.unravel_index(int(speaks.argmax()), speaks.shape)
        line: Array = phases[place] + speeds[at] * np.arange(len(evidence), dtype=np.float64)
        return line

    def forward(self, score: Array, evidence: Array) -> tuple[Array, NDArray[np.int16]]:
        """One stretch.

        Args:
            score (float64 [N]): of the likeliest path to each state, one step before the stretch.
            evidence (float64 [T, 4]): what speaks for each direction of the circle.

        Returns:
            the score at its end, and which length a beat that begins at each step follows: int16 [T, L].
        """
        score, before = score.copy(), np.zeros((len(evidence), len(self.first)), np.int16)
        # a step writes into the other of two rows: few passes over all states
        following, lengths = np.empty_like(score), np.arange(len(self.first))
        for step, frame in enumerate(evidence):
            arriving = self.change + score[self.last]
            best = arriving.argmax(axis=1)
            before[step] = best
            speaks = frame @ self.directions
            np.add(score[:-1], speaks[1:], out=following[1:])
            following[self.first] = arriving[lengths, best] + speaks[self.first]
            following -= following.max()
            score, following = following, score
        return score, before

    def _trace_back(self, state: int, before: NDArray[np.int16]) -> Array:
        """The phases of the path that ends in `state`, beat by beat from the last one: float64 [T]."""
        path, end, length = np.zeros(len(before)), len(before), int(np.searchsorted(self.last, state))
        while end > 0:
            begin = end - 1 - (state - int(self.first[length]))
            beat = self.phase[self.first[length] : state + 1]
            path[max(begin, 0) : end] = beat[max(-begin, 0) :]
            if begin >= 0:
                length = int(before[begin, length])
                state = int(self.last[length])
            end = begin
        return path


def tempo_prior(tempos: Array) -> Array:
    """Log-probability of tempi (float64 [K], beats a minute) without any evidence."""
    return -0.5 * (np.log2(tempos / LIKELIEST_TEMPO) / TEMPO_OCTAVES) ** 2


def likeliest_tempo(tempi: torch.Tensor, tempo: torch.Tensor, apart_from: float | None = None) -> float:
    """Beats a minute: what a listener's logits (float [K], of tempi float [K]) and what is usual speak for.

    `apart_from`: a tempo that it is not, nor half or twice that.
    """
    known, heard = (each.cpu().double().numpy() for each in (tempi, tempo))
    likely = heard + tempo_prior(known)
    likely[(known < BEATS_PER_MINUTE[0]) | (known > BEATS_PER_MINUTE[1])] = -np.inf
    if apart_from is not None:
        away = np.abs(known / (apart_from * np.array([[0.5], [1.0], [2.0]])) - 1)
        # what is a little slower or faster is no other tempo
        likely[(likely < np.roll(likely, 1)) | (likely < np.roll(likely, -1))] -= NO_PEAK
        likely[(away < TEMPO_RANGE).any(axis=0)] = -np.inf
    return float(known[likely.argmax()])
