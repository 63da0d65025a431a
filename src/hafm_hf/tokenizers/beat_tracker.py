# SPDX-License-Identifier: Apache-2.0
"""Beat tracking in vocals: a network that estimates the beat phase of each frame, and one beat track through the song.

A single frame of a voice does not reveal the beat, and a small stage does not find it in ten seconds of tokens. A
network of dilated convolutions over descriptors of the voice, trained on known beats, does (as in Davies & Böck 2019,
"Temporal convolutional networks for musical audio beat tracking"). It is part of the semantic tokenizer.

One beat track through all frames is more reliable than the network's estimates for single frames. It is the most
likely path of a bar-pointer model (Whiteley, Cemgil and Godsill 2006) in the state space of Krebs, Böck and Widmer
(2015): a state is a position in a beat of a given length, and the length may change at beats only. If a constant tempo
explains nearly as much, as in a take recorded to a click, the track keeps to it, since a path can slip by half a beat
where the phrasing suggests it. If the listener estimates a tempo, the track stays close to that.
A beat phase is the position in a beat: 0 on it, rising towards 1 before the next. The evidence, or phase vectors, are
cosine and sine of the beat phase, then of twice that phase; they are the shorter, the less certain the phase is.
Dimensions: B batch, T frames, P descriptors, C channels, N states, L beat lengths, K tempi.
"""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from ..lead_sheet.lead_sheet import BEATS_PER_MINUTE, phase_vectors, wrapped
from ..stopping import CheckStop, stoppable

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
# classes into which the network divides a beat, and numbers that encode a beat phase
BEAT_PARTS = 8
PHASE_VECTOR_SIZE = 4
# of the convolutions, in frames
KERNEL = 5
# mean of the tempo prior in beats a minute, and its standard deviation in octaves
LIKELIEST_TEMPO = 115.0
TEMPO_OCTAVES = 0.6
# a constant tempo is chosen if its evidence is at least this fraction of the likeliest path's
STEADY_SHARE = 0.8
# longest take that is tried with a constant tempo; the spectrum of a longer one would take over 0.1 s
LONGEST_STEADY_SECONDS = 900.0
# initial phases tried for a constant tempo; zero padding of the spectrum (a factor), and its shortest length
STEADY_PHASES = 64
SPECTRUM_PADDING = 8
SHORTEST_SPECTRUM = 1024
# loss in log-probability if a beat is twice as long as the one before
CHANGE_PENALTY = 200.0
# steps per frame: at 50 frames a second they resolve a beat's length to 10 ms
STEPS_PER_FRAME = 2
# steps processed per call: some 20 ms of computing
STEPS_AT_ONCE = 500
# relative deviation from a given tempo that the track may have
TEMPO_RANGE = 0.1
# loss in log-probability of a tempo that is not a local maximum
OFF_PEAK_COST = 100.0


class HAFMDilatedLayer(nn.Module):
    """Pre-norm dilated convolution with a residual; its context is 2 · dilation frames to each side.

    Args:
        channels: C, channels of its input and output.
        dilation: distance in frames between the inputs of a kernel.
        dropout: probability.
    """

    def __init__(self, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2 * dilation, dilation=dilation)
        self.output = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds the local context to each frame: float [B, T, C] → [B, T, C]."""
        hidden = self.conv(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.output(self.dropout(F.gelu(hidden)))


class HAFMRhythmNetwork(nn.Module):
    """Dilated convolutions over descriptors of a vocal, the dilation doubling with each layer.

    Args:
        width: P, descriptors per frame.
        channels: C, channels of the convolutions.
        layers: number of convolutions, with dilations 1, 2, 4 …; nine cover ± 20 s at 50 frames a second.
    """

    def __init__(self, width: int, channels: int, layers: int) -> None:
        super().__init__()
        self.input = nn.Linear(width, channels)
        self.layers = nn.ModuleList([HAFMDilatedLayer(channels, 2**index, dropout=0.1) for index in range(layers)])
        self.head = nn.Linear(channels, BEAT_PARTS)

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Classifies each frame by the eighth of a beat in which it lies.

        Args:
            descriptors (float [B, T, P]): of a vocal.

        Returns:
            Logits of the eight parts, float [B, T, 8].
        """
        hidden = self.input(descriptors)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)

    def expected_phase_vectors(self, descriptors: torch.Tensor) -> torch.Tensor:
        """The expected beat phase of each frame as vectors, which are the shorter, the less certain the phase is.

        Args:
            descriptors (float [B, T, P]): of a vocal.

        Returns:
            float [B, T, 4]: cosine and sine of the beat's phase, cosine and sine of twice that phase.
        """
        # phases in the middle of each eighth, whose vectors are averaged by probability
        middles = torch.arange(0.5, BEAT_PARTS, dtype=torch.float32, device=descriptors.device) / BEAT_PARTS
        return self(descriptors).float().softmax(-1) @ phase_vectors(middles)


class HAFMBeatTracker:
    """Tracks the beat through a song, as the module's docstring describes.

    Args:
        frame_rate: frames of the song a second.
    """

    def __init__(self, frame_rate: int) -> None:
        self.frame_rate = frame_rate
        self._set_tempi(BEATS_PER_MINUTE)

    def near(self, tempo: float) -> "HAFMBeatTracker":
        """A copy that is limited to tempi near `tempo` (beats a minute), within `TEMPO_RANGE`."""
        limited = copy.copy(self)
        slowest, fastest = np.clip([tempo * (1 - TEMPO_RANGE), tempo * (1 + TEMPO_RANGE)], *BEATS_PER_MINUTE)
        limited._set_tempi((float(slowest), float(fastest)))
        return limited

    def _set_tempi(self, tempi: tuple[float, float]) -> None:
        """Sets the range of tempi, and the states of all beats that are possible in it.

        A beat length has one state for each step that it lasts. The N states are numbered from the shortest of the L
        beat lengths to the longest. Sets `first` and `last` (int64 [L], the first and the last state of each length),
        `phase` (float64 [N]), `directions` (phase vectors, float64 [4, N]), `change` (float64 [L, L]) and `prior`
        (float64 [N], log-probability of each state by its tempo).

        Args:
            tempi: the slowest and the fastest tempo, in beats a minute.
        """
        self.tempi = tempi
        slowest, fastest = tempi
        steps_per_minute = self.frame_rate * STEPS_PER_FRAME * 60
        shortest = int(np.ceil(steps_per_minute / fastest))
        longest = int(steps_per_minute / slowest)
        # in steps
        lengths: Indices = np.arange(shortest, longest + 1, dtype=np.int64)
        self.last: Indices = np.cumsum(lengths, dtype=np.int64) - 1
        self.first: Indices = self.last - lengths + 1
        self.phase = np.concatenate([np.arange(length) / length for length in lengths])
        self.directions = phase_vectors(torch.from_numpy(self.phase)).numpy().T
        # log-probability that a beat of the column's length is followed by one of the row's
        change = -CHANGE_PENALTY * np.abs(lengths[:, None] / lengths - 1)
        # the probabilities of each column sum to 1
        self.change = change - np.log(np.exp(change).sum(axis=0))
        self.prior = np.repeat(tempo_prior(steps_per_minute / lengths), lengths)

    def follow(
        self, vectors: torch.Tensor, tempo: float | None = None, check_stop: CheckStop | None = None
    ) -> torch.Tensor:
        """Tracks the beat phase through a song.

        Args:
            vectors (float [T, 4]): phase vectors of the beat, the shorter the less certain
                (`HAFMRhythmNetwork.expected_phase_vectors`).
            tempo: tempo (beats a minute) of a take recorded to a click, which the track keeps to exactly; None
                estimates it, and lets it vary if the voice does.
            check_stop: called before each stretch of the song; an exception that it raises ends the work.

        Returns:
            float32 [T], 0 on a beat and rising towards 1 before the next, on the CPU.
        """
        evidence = vectors.detach().cpu().double().numpy()
        if not len(evidence):
            return torch.zeros(0)
        if tempo is not None:
            return wrapped(self.steady(evidence, tempo))
        path = self._likeliest_phases(evidence, check_stop)
        if len(evidence) > LONGEST_STEADY_SECONDS * self.frame_rate:
            return wrapped(path)
        # the path agrees with more of the evidence, but may slip by half a beat where the phrasing suggests it
        steady = self.steady(evidence)
        if _agreement(steady, evidence) > STEADY_SHARE * _agreement(path, evidence):
            return wrapped(steady)
        return wrapped(path)

    def _likeliest_phases(self, evidence: Array, check_stop: CheckStop | None) -> Array:
        """Beat phases along the likeliest path through the states (Viterbi algorithm): float64 [T], 0 to 1.

        Args:
            evidence (float64 [T, 4]): phase vectors of each frame, as for `follow`.
            check_stop: called before each stretch of `STEPS_AT_ONCE` steps.
        """
        # the path has several steps per frame, to which the evidence is interpolated
        frames = np.arange(len(evidence))
        steps = np.linspace(0, len(evidence) - 1, (len(evidence) - 1) * STEPS_PER_FRAME + 1)
        evidence_of_steps = np.stack([np.interp(steps, frames, column) for column in evidence.T], axis=1)
        score = self.prior
        beat_lengths_before = []
        for start in stoppable(range(0, len(steps), STEPS_AT_ONCE), check_stop):
            # a frame's evidence is shared among its steps
            stretch = evidence_of_steps[start : start + STEPS_AT_ONCE] / STEPS_PER_FRAME
            score, lengths_of_stretch = self._follow_stretch(score, stretch)
            beat_lengths_before.append(lengths_of_stretch)
        phases = self._trace_back(int(score.argmax()), np.concatenate(beat_lengths_before))
        return phases[::STEPS_PER_FRAME]

    def steady(self, evidence: Array, tempo: float | None = None) -> Array:
        """The beat track of constant tempo that agrees best with the evidence.

        Args:
            evidence (float64 [T, 4]): phase vectors of each frame, as for `follow`.
            tempo: in beats a minute; the likeliest one if None.

        Returns:
            Position of each frame in beats, float64 [T]: whole numbers on beats, 0 to 1 in the first frame.
        """
        # as complex numbers, [T]: vectors of the beat's phase, and of twice that phase
        once = evidence[:, 0] + 1j * evidence[:, 1]
        twice = evidence[:, 2] + 1j * evidence[:, 3]
        # the evidence for K candidate speeds (beats per frame): bins of the spectra of `once` at these speeds, and of
        # `twice` at twice these, complex [K]; each initial phase rotates them
        if tempo is not None:
            speeds = np.array([tempo / 60 / self.frame_rate])
            wave = np.exp(-2j * np.pi * speeds * np.arange(len(evidence)))
            once_spectrum = np.array([once @ wave])
            twice_spectrum = np.array([twice @ wave**2])
        else:
            size = 1 << max(SPECTRUM_PADDING * len(evidence), SHORTEST_SPECTRUM).bit_length()
            slowest, fastest = self.tempi
            first = round(slowest / 60 / self.frame_rate * size)
            last = round(fastest / 60 / self.frame_rate * size)
            bins = np.arange(first, last + 1)
            speeds = bins / size
            once_spectrum = np.fft.fft(once, size)[bins]
            twice_spectrum = np.fft.fft(twice, size)[2 * bins]

        # for each initial phase at each speed, [STEADY_PHASES, K]
        phases = np.arange(STEADY_PHASES) / STEADY_PHASES
        rotation = np.exp(-2j * np.pi * phases)[:, None]
        support = (once_spectrum * rotation + twice_spectrum * rotation**2).real
        support += tempo_prior(speeds * 60 * self.frame_rate)
        best_phase, best_speed = np.unravel_index(int(support.argmax()), support.shape)
        beats: Array = phases[best_phase] + speeds[best_speed] * np.arange(len(evidence), dtype=np.float64)
        return beats

    def _follow_stretch(self, score: Array, evidence: Array) -> tuple[Array, NDArray[np.int16]]:
        """Runs the Viterbi recursion over one stretch of the song.

        Args:
            score (float64 [N]): log-probability of the likeliest path to each state, one step before the stretch.
            evidence (float64 [steps, 4]): phase vectors of each step, as in `follow`.

        Returns:
            The score at the end of the stretch (float64 [N], its maximum 0); and, for a beat of each length that
            begins at each step, the index of the length of the beat before it: int16 [steps, L].
        """
        score = score.copy()
        beat_lengths_before = np.zeros((len(evidence), len(self.first)), np.int16)
        # `score` and `following` are buffers that take turns
        following = np.empty_like(score)
        lengths = np.arange(len(self.first))
        for step, vector in enumerate(evidence):
            # from the last state of a beat of any length (column) to the first one of a beat of any length (row)
            arriving = self.change + score[self.last]  # [L, L]
            best_lengths = arriving.argmax(axis=1)
            beat_lengths_before[step] = best_lengths
            support = vector @ self.directions  # [N]
            # within a beat, each state is followed by the next
            np.add(score[:-1], support[1:], out=following[1:])
            following[self.first] = arriving[lengths, best_lengths] + support[self.first]
            following -= following.max()
            score, following = following, score
        return score, beat_lengths_before

    def _trace_back(self, state: int, beat_lengths_before: NDArray[np.int16]) -> Array:
        """Traces the path that ends in a state back, beat by beat.

        Args:
            state: index of the state in the last step.
            beat_lengths_before (int16 [steps, L]): for a beat of each length that begins at each step, the index of
                the length of the beat before it.

        Returns:
            The beat phase of each step, float64 [steps], 0 to 1.
        """
        path = np.zeros(len(beat_lengths_before))
        # of the current beat: the step after it, and the index of its length
        end = len(beat_lengths_before)
        length_index = int(np.searchsorted(self.last, state))
        while end > 0:
            # negative if the beat began before the song
            begin = end - 1 - (state - int(self.first[length_index]))
            phases = self.phase[self.first[length_index] : state + 1]
            path[max(begin, 0) : end] = phases[max(-begin, 0) :]
            if begin >= 0:
                length_index = int(beat_lengths_before[begin, length_index])
                state = int(self.last[length_index])
            end = begin
        return path


def _agreement(beats: Array, evidence: Array) -> float:
    """How well a beat track agrees with the evidence; the higher, the better.

    Args:
        beats (float64 [T]): position of each frame in beats, or its beat phase.
        evidence (float64 [T, 4]): phase vectors of each frame, as for `HAFMBeatTracker.follow`.
    """
    return float((evidence * phase_vectors(wrapped(beats)).numpy()).sum())


def tempo_prior(tempos: Array) -> Array:
    """Prior log-probability, up to a constant, of K tempi (float64 [K], beats a minute): float64 [K].

    It is a normal distribution over octaves around `LIKELIEST_TEMPO`.
    """
    return -0.5 * (np.log2(tempos / LIKELIEST_TEMPO) / TEMPO_OCTAVES) ** 2


def likeliest_tempo(tempi: torch.Tensor, logits: torch.Tensor, apart_from: float | None = None) -> float:
    """The likeliest tempo by a listener's logits and the prior, in beats a minute.

    Args:
        tempi (float [K]): the candidates, in beats a minute.
        logits (float [K]): the listener's, of each candidate.
        apart_from: a tempo (beats a minute) to exclude, with its half and its double; None excludes none.
    """
    candidates = tempi.cpu().double().numpy()
    scores = logits.cpu().double().numpy() + tempo_prior(candidates)  # [K]
    # lead sheets have no tempi outside this range
    scores[(candidates < BEATS_PER_MINUTE[0]) | (candidates > BEATS_PER_MINUTE[1])] = -np.inf
    if apart_from is not None:
        excluded = apart_from * np.array([[0.5], [1.0], [2.0]])
        distance = np.abs(candidates / excluded - 1)  # [3, K]
        # only peaks count, not the slopes of the excluded one; the cost is finite, so that some tempo remains where
        # there is no other peak
        is_peak = (scores >= np.roll(scores, 1)) & (scores >= np.roll(scores, -1))
        scores[~is_peak] -= OFF_PEAK_COST
        scores[(distance < TEMPO_RANGE).any(axis=0)] = -np.inf
    return float(candidates[scores.argmax()])
