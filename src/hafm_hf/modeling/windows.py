# SPDX-License-Identifier: Apache-2.0
"""Runs a stage over whole songs in overlapping windows of the training length, batched where possible.

Codes are [Q, T] at the stage's frame rate, and windows are counted in these frames. They begin and end where a frame
of the conditioning does too: every 3 frames for 75 and 50 Hz. Dimensions: B windows of a batch, Q codebooks, T frames,
K conditioning streams, T_c conditioning frames, D width of the vectors that represent codes.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from .codebook_patterns import FREE
from .configuration_stage import HAFMStageConfig
from .fast_loop import FastGenerator
from .modeling_stage import HAFMStageForCausalLM
from .sampling import RandomNumbers, StepReport, WindowBatch

# largest batch size, before guidance doubles it
ROWS_AT_ONCE = 16
# fraction of the overlap of two windows, at its end, in which one may take over from the other
JOINED_SHARE = 0.5
# length of the sound that is compared on either side of a join: three frames at 75 Hz
SIDE_SECONDS = 0.04


def default_decoding(stages: Iterable[HAFMStageForCausalLM]) -> str:
    """The default decoding loop of stages: "fast" on CPU and CUDA, else "reference".

    It is "reference" for stages with offloaded weights, too, which the fast loop cannot read; on other devices that
    loop is untested.
    """
    for stage in stages:
        # accelerate hooks the modules whose weights it offloads
        offloaded = any(hasattr(module, "_hf_hook") for module in stage.modules())
        if stage.device.type not in ("cpu", "cuda") or offloaded:
            return "reference"
    return "fast"


@dataclass(frozen=True)
class Window:
    """A stretch of a song that is generated at once.

    Args:
        start, stop: its frames in the song, [start, stop).
        overlap_frames: number of its first frames that the window before has generated already; independent windows
            generate them again.
        song: index of the song in the run.
    """

    start: int
    stop: int
    overlap_frames: int
    song: int = 0


def song_windows(frames: int, window: int, overlap: int, song: int = 0) -> list[Window]:
    """Cuts a song into windows of equal length, each starting with the end of the one before.

    The last window is moved back, so that it is as long as the others instead of a short remainder.

    Args:
        frames: length of the song, in frames.
        window: length of a window, in frames; the stage's training length.
        overlap: frames by which a window overlaps the one before.
        song: index of the song in the run.

    Returns:
        The windows in order of time; a single one of `frames` if the song is no longer than a window.

    Raises:
        ValueError: `overlap` is negative or not below `window`.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"overlap is {overlap} frames; it must be at least 0 and below the window, {window} frames.")
    windows = []
    done = 0
    while done < frames:
        start = max(0, min(done - overlap, frames - window))
        stop = min(start + window, frames)
        windows.append(Window(start, stop, done - start, song))
        done = stop
    return windows


def window_frames(stage_config: HAFMStageConfig, generation_config: GenerationConfig) -> tuple[int, int]:
    """Lengths of a window and of its overlap with the one before.

    Both are rounded so that they last a whole number of frames of the conditioning as well.

    Args:
        stage_config: for the frame rates.
        generation_config: for `window_seconds` and `overlap_seconds`.

    Returns:
        Both in frames of the stage.
    """
    unit = whole_frames(stage_config)
    rate = stage_config.frame_rate
    window_units = max(round(generation_config.window_seconds * rate / unit), 1)
    overlap_units = min(round(generation_config.overlap_seconds * rate / unit), window_units - 1)
    return window_units * unit, overlap_units * unit


def whole_frames(stage_config: HAFMStageConfig) -> int:
    """The least number of a stage's frames that last as long as a whole number of frames of its conditioning.

    For instance 3 frames at 75 Hz, which last as long as 2 at 50 Hz.
    """
    rate = stage_config.frame_rate
    return rate // math.gcd(rate, stage_config.conditioning_frame_rate)


def steadiest_frame(before: torch.Tensor, after: torch.Tensor, first: int, side: int) -> int:
    """The frame at which switching from `before` to `after` changes the sound least.

    Means of `side` frames before and after it are compared, so that no drum stroke or note onset is cut in two.

    Args:
        before (float [n, D]): embedded frames of the earlier window, in the overlap: vectors of width D.
        after (float [m, D]): those of the next window from the same instant on, m > n.
        first: earliest frame for the switch, at most n, where `before` ends.
        side: number of frames to compare on each side.

    Returns:
        Index of the first frame to take from `after`.
    """

    def change(frame: int) -> float:
        """Distance between the mean vectors on either side of a switch at `frame`."""
        last_of_before = before[max(frame - side, 0) : frame]
        first_of_after = after[frame : frame + side]
        return float((first_of_after.mean(0) - last_of_before.mean(0)).norm())

    # from 1, since a frame of `before` is needed for comparison
    return min(range(max(first, 1), len(before) + 1), key=change)


@dataclass
class SongCodes:
    """The codes of one accompaniment that a stage is generating, as far as they exist.

    Args:
        frames: length of the song, in frames of the stage.
        random: the accompaniment's random numbers.
        kept (int64 [Q, T], *optional*): codes of an existing instrumental to keep as they are, and −1 elsewhere: Q
            codebooks, T frames.
        codes (int64 [Q, n], *optional*): the codes so far.
    """

    frames: int
    random: RandomNumbers
    kept: torch.Tensor | None = None
    codes: torch.Tensor | None = None

    @property
    def done(self) -> int:
        """Frames that have been generated so far."""
        if self.codes is None:
            return 0
        return self.codes.shape[1]

    def append(self, codes: torch.Tensor) -> None:
        """Adds the codes of the next frames (int64 [codebooks, frames]), on whose device all codes then are."""
        if self.codes is not None:
            codes = torch.cat([self.codes.to(codes.device), codes], dim=1)
        self.codes = codes

    def append_kept(self, stop: int) -> None:
        """Adds the kept codes of the frames between those that exist and frame `stop`, if there are kept codes.

        Such frames are missing only where windows were skipped (`is_kept`).
        """
        if self.kept is not None and self.done < stop:
            codes = self.kept[:, self.done : stop]
            if self.codes is not None:
                codes = codes.to(self.codes.device)
            self.append(codes)

    def kept_frames(self, first: int, count: int) -> torch.Tensor:
        """Kept codes of the frames [first, first + count), where there are kept codes.

        Returns:
            int64 [codebooks, count] on the CPU, −1 where no code is kept.
        """
        assert self.kept is not None
        kept = self.kept[:, first : first + count].cpu()
        return F.pad(kept, (0, count - kept.shape[1]), value=FREE)

    def is_kept(self, window: Window) -> bool:
        """Whether all codes that a window would add are kept, so that it need not be generated."""
        if self.kept is None:
            return False
        codes_to_add = self.kept[:, window.start + window.overlap_frames : window.stop]
        return bool((codes_to_add != FREE).all())


class StageRun:
    """Runs one stage over a batch of songs, one batch of windows at a time.

    Args:
        stage: the stage to run.
        songs: the accompaniments to generate, to which codes are added as they are generated.
        config: the stage's `decoding_config`.
        decoding: "fast" for our loop, "reference" for GenerationMixin's; the codes are the same up to rounding.
        compile: whether the fast loop replays its steps as CUDA graphs.
        batch_size: largest number of windows in a batch; if they are independent, in the first batch.
        report: called with 1 after each step, and with 0 during longer passes.
        code_vectors: function of the codes of n frames (int64 [n, Q], Q codebooks) that returns vectors that represent
            their sound, float [n, D]. If given, an independent window takes over from the one before where the sound
            changes least, rather than where that one ends.

    If `config.independent_windows`, as in the fine stage, windows are generated from their own conditioning only. One
    batch may then hold several windows of a song, and each window generates its overlap with the one before again,
    from the same random numbers.

    Raises:
        ValueError: `compile` on a device other than CUDA or with the reference, or a stage or a setting that the fast
            loop does not support.
    """

    def __init__(
        self,
        stage: HAFMStageForCausalLM,
        songs: list[SongCodes],
        config: GenerationConfig,
        decoding: str = "fast",
        compile: bool = False,
        batch_size: int = ROWS_AT_ONCE,
        report: StepReport | None = None,
        code_vectors: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        if compile and decoding != "fast":
            raise ValueError(f"compile=True needs the fast loop, but decoding is {decoding!r}; leave it out.")
        if compile and stage.device.type != "cuda":
            raise ValueError(f"compile=True needs CUDA, but the model is on {stage.device}; leave it out.")
        self.stage = stage
        self.songs = songs
        self.config = config
        self.report = report
        # shared by all windows, so that matrices are packed once
        self.fast_loop: FastGenerator | None = None
        if decoding == "fast":
            self.fast_loop = FastGenerator(stage, config, compile)
        self.independent: bool = config.independent_windows
        self.code_vectors = code_vectors if self.independent else None
        window, overlap = window_frames(stage.config, config)
        # frames that are compared on either side of a join
        self.side = max(round(SIDE_SECONDS * stage.config.frame_rate), 1)
        # frames at the end of a window that the next window may still replace
        self.replaceable_frames = 0
        if self.code_vectors is not None:
            self.replaceable_frames = math.ceil(JOINED_SHARE * overlap / self.side) * self.side
        windows: list[Window] = []
        for song_index, song in enumerate(songs):
            for song_window in song_windows(song.frames, window, overlap, song_index):
                if not song.is_kept(song_window):
                    windows.append(song_window)
        if self.independent:
            self.batches = self._independent_batches(windows, batch_size)
        else:
            self.batches = self._batches(windows, batch_size)
        # index of the batch to run, or to go on with
        self.next_batch = 0
        # that batch's frames still to come, as codes (int64 [windows, codebooks]), once it has started; their number
        self.frames_to_come: Iterator[torch.Tensor] | None = None
        self.num_to_come = 0

    @property
    def steps(self) -> int:
        """Total number of decoding steps; a step decodes one slot of each window of a batch."""
        steps = 0
        for batch in self.batches:
            steps += self.stage.pattern.new_slots(self._known_frames(batch), self._new_frames(batch))
        return steps

    @property
    def finished(self) -> bool:
        """Whether all windows have been generated."""
        return self.next_batch == len(self.batches)

    @property
    def conditioning_needed(self) -> int:
        """Frames of conditioning, counted from the song's start, that the next batch needs; 0 after the last batch."""
        if self.finished:
            return 0
        return self._conditioning_frames(max(window.stop for window in self.batches[self.next_batch]))

    def run(self, conditioning: list[torch.Tensor]) -> list[torch.Tensor]:
        """Generates everything that is left.

        Args:
            conditioning (int64 [K, T_c] for each song): K conditioning streams of the whole song, T_c frames.

        Returns:
            The codes of each song, int64 [codebooks, frames].
        """
        while not self.finished:
            self.advance(conditioning)
        return [self.codes(number) for number in range(len(self.songs))]

    def advance(self, conditioning: list[torch.Tensor], stop_frame: int | None = None) -> None:
        """Generates the rest of the next batch of windows, or a part of it, and adds its codes to the songs.

        Args:
            conditioning (int64 [K, T_c] for each song): K conditioning streams from the song's start on, of at least
                `conditioning_needed` frames.
            stop_frame: frame of the song, beyond those that exist, at which to stop; by default the whole batch is
                generated. Ignored for independent windows, which can be joined only when they are complete.
        """
        batch = self.batches[self.next_batch]
        if self.frames_to_come is None:
            if not self.independent:
                # windows that were skipped end where this batch's new frames begin
                for window in batch:
                    self.songs[window.song].append_kept(window.start + window.overlap_frames)
            self.frames_to_come = self._decode(self._window_batch(batch, conditioning))
            self.num_to_come = self._new_frames(batch)

        count = self.num_to_come
        if stop_frame is not None and not self.independent:
            count = min(count, stop_frame - self.songs[batch[0].song].done)
        codes = torch.stack(list(itertools.islice(self.frames_to_come, count)), dim=2)  # [B, Q, count]
        self.num_to_come -= count

        for window, window_codes in zip(batch, codes, strict=True):
            if self.independent:
                self._join(window, window_codes)
            else:
                song = self.songs[window.song]
                # a shorter window of the batch is padded at its end
                song.append(window_codes[:, : window.stop - song.done])
        if not self.num_to_come:
            self.next_batch += 1
            self.frames_to_come = None

    def final_frames(self, number: int) -> int:
        """Number of frames from a song's start that no later window will replace; `number` is the song's index."""
        song = self.songs[number]
        if self.finished or song.done == song.frames:
            return song.frames
        return max(song.done - self.replaceable_frames, 0)

    def codes(self, number: int) -> torch.Tensor:
        """The final codes so far of a song (`number`, its index): int64 [codebooks, frames].

        Once all windows are done, kept codes are added for those that were skipped at the song's end.
        """
        song = self.songs[number]
        if self.finished:
            song.append_kept(song.frames)
        if song.codes is None:
            return torch.empty(self.stage.config.num_codebooks, 0, dtype=torch.long)
        return song.codes[:, : self.final_frames(number)]

    def _join(self, window: Window, codes: torch.Tensor) -> None:
        """Appends an independent window to its song, from a frame of the overlap on, or from where the codes end.

        Args:
            window: the next window of the song.
            codes (int64 [Q, n]): codes of Q codebooks from the window's first frame on; n may exceed its length.
        """
        song = self.songs[window.song]
        # windows that were skipped end where this window's new frames begin
        song.append_kept(window.start + window.overlap_frames)
        join = window.overlap_frames  # counted from the window's start
        if self.code_vectors is not None and window.overlap_frames:
            assert song.codes is not None
            overlap = slice(window.start, window.start + window.overlap_frames)
            before = song.codes[:, overlap].to(codes.device)  # [Q, overlap]
            after = codes[:, : window.overlap_frames + self.side]  # [Q, overlap + side]
            earliest = window.overlap_frames - self.replaceable_frames
            join = steadiest_frame(self.code_vectors(before.t()), self.code_vectors(after.t()), earliest, self.side)
        if song.codes is not None:
            song.codes = song.codes[:, : window.start + join]
        song.append(codes[:, join : window.stop - window.start])

    def _window_batch(self, batch: list[Window], conditioning: list[torch.Tensor]) -> WindowBatch:
        """What a decoding loop needs to generate a batch of windows.

        Args:
            batch: the windows, with the same number of known frames (0 if independent); shorter ones are padded at
                the end.
            conditioning (int64 [K, T_c] for each song of the run): K conditioning streams from the song's start on, of
                T_c frames.
        """
        known_frames = self._known_frames(batch)
        frames = self._new_frames(batch)
        conditioning_windows = []
        known = []
        uniforms = []
        kept = []
        for window in batch:
            song = self.songs[window.song]
            song_conditioning = conditioning[window.song]  # [K, T_c]
            begin = self._conditioning_frames(window.start)
            end = self._conditioning_frames(window.stop)
            conditioning_windows.append(song_conditioning[:, begin:end].t())
            first = window.start + known_frames
            uniforms.append(song.random.of_frames(first, frames, self.stage.config.num_codebooks))
            if known_frames:
                assert song.codes is not None
                known.append(song.codes[:, window.start : first].to(song_conditioning.device))
            if song.kept is not None:
                kept.append(song.kept_frames(first, frames))

        lengths = torch.tensor([len(ids) for ids in conditioning_windows])
        conditioning_ids = pad_sequence(conditioning_windows, batch_first=True).transpose(1, 2)  # [B, K, T_c]
        conditioning_mask = None
        if len(set(lengths.tolist())) > 1:
            within = torch.arange(conditioning_ids.shape[-1]) < lengths[:, None]  # [B, T_c]
            conditioning_mask = within.to(conditioning_ids.device)
        return WindowBatch(
            conditioning_ids,
            frames,
            torch.stack(uniforms),
            torch.stack(known) if known else None,
            torch.stack(kept) if kept else None,
            conditioning_mask,
        )

    def _decode(self, batch: WindowBatch) -> Iterator[torch.Tensor]:
        """Iterates over the codes of each new frame, int64 [windows, codebooks].

        Past the end of a window that is shorter than others in the batch, they are meaningless.
        """
        if self.fast_loop is not None:
            return self.fast_loop.generate_frames(batch, self.report)
        return iter(self.stage.continue_batch(batch, self.config, self.report).unbind(2))

    def _known_frames(self, batch: list[Window]) -> int:
        """Frames at the start of each window of a batch that are known already; the same number in all."""
        if self.independent:
            # these windows generate their overlap with the one before again
            return 0
        return batch[0].overlap_frames

    def _new_frames(self, batch: list[Window]) -> int:
        """Frames that a batch generates, those of its longest window."""
        return max(window.stop - window.start for window in batch) - self._known_frames(batch)

    def _conditioning_frames(self, frames: int) -> int:
        """Frames of the conditioning that last as long as `frames` of the stage."""
        return frames * self.stage.config.conditioning_frame_rate // self.stage.config.frame_rate

    @staticmethod
    def _batches(windows: list[Window], batch_size: int) -> list[list[Window]]:
        """Batches of windows of different songs that begin to generate at the same frame, in order of time.

        Windows of one song are never in the same batch, since each continues the one before.
        """
        # by the first frame to generate and the number of known frames
        groups: dict[tuple[int, int], list[Window]] = defaultdict(list)
        for window in windows:
            groups[window.start + window.overlap_frames, window.overlap_frames].append(window)
        batches = []
        for key in sorted(groups):
            group = groups[key]
            for begin in range(0, len(group), batch_size):
                batches.append(group[begin : begin + batch_size])
        return batches

    @staticmethod
    def _independent_batches(windows: list[Window], batch_size: int) -> list[list[Window]]:
        """Batches windows in order of time: first `batch_size`, then in batches that double in size to ROWS_AT_ONCE.

        So a stream starts early and then keeps up with playback.
        """
        ordered = sorted(windows, key=lambda window: (window.stop, window.song))
        batches = []
        first = 0
        while first < len(ordered):
            batches.append(ordered[first : first + batch_size])
            first += batch_size
            batch_size = max(batch_size, min(2 * batch_size, ROWS_AT_ONCE))
        return batches
