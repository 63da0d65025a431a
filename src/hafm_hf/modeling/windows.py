# SPDX-License-Identifier: Apache-2.0
"""Runs a stage over whole songs in overlapping windows of the training length, batched where possible.

Lengths of songs are counted in units, the shortest time that is a whole number of frames at every rate: 0.04 s for 50
and 75 Hz.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.generation import LogitsProcessorList

from .codebook_patterns import FREE
from .fast_loop import FastDecoder
from .generation_hafm import RandomStream, StreamSampling
from .modeling_hafm import HAFMStageForCausalLM

# largest batch size, before guidance doubles it
ROWS_AT_ONCE = 16
# fraction of the overlap of two windows, at its end, in which one may take over from the other
JOINED_SHARE = 0.5
# slots generated between checks whether the next stage can continue
PART = 16
# length that is compared on both sides of a join: three frames at 75 Hz
SIDE_SECONDS = 0.04
# generation settings that only GenerationMixin supports; the values in NEUTRAL turn them off
REFERENCE_ONLY = (
    *("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h", "repetition_penalty"),
    *("no_repeat_ngram_size", "bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens"),
    *("forced_bos_token_id", "forced_eos_token_id", "num_beams", "watermarking_config"),
)
NEUTRAL: tuple[Any, ...] = (1.0, 0, [])


def default_decoding(stages: Iterable[HAFMStageForCausalLM]) -> str:
    """The default decoding loop of stages: the fast one on CPU and CUDA, else the reference.

    The fast loop is untested on other devices, and it cannot read offloaded weights.
    """
    for stage in stages:
        offloaded = any(hasattr(module, "_hf_hook") for module in stage.modules())
        if stage.device.type not in ("cpu", "cuda") or offloaded:
            return "reference"
    return "fast"


@dataclass(frozen=True)
class DecodingOptions:
    """How tokens are decoded.

    Args:
        decoding: "fast" for our loop, "reference" for GenerationMixin's; the tokens are the same up to rounding.
        guidance_scale, temperature, top_k: override the stage's generation config unless None.
        compile: whether the fast loop replays its steps as CUDA graphs.

    Raises:
        ValueError: `compile` with a loop other than the fast one.
    """

    decoding: str = "fast"
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    compile: bool | None = None

    def __post_init__(self) -> None:
        if self.compile and self.decoding != "fast":
            raise ValueError(f"compile=True needs the fast loop, but decoding is {self.decoding!r}; leave it out.")

    def sampling(self, stage: HAFMStageForCausalLM) -> dict[str, Any]:
        """Sampling options of `FastDecoder` and `generate` for a stage; top-k 1 if its config turns sampling off."""
        own = {"guidance_scale": self.guidance_scale, "temperature": self.temperature, "top_k": self.top_k}
        chosen = {name: _setting(stage, name) if value is None else value for name, value in own.items()}
        chosen |= {"top_k": 1, "temperature": 1.0} if stage.generation_config.do_sample is False else {}
        if not (chosen["temperature"] > 0 and chosen["guidance_scale"] >= 0):
            raise ValueError(f"The stage has {chosen}; temperature must be above 0, guidance_scale 0 or more.")
        return chosen

    def decoder(self, stage: HAFMStageForCausalLM) -> FastDecoder:
        """The fast loop's decoder for a stage.

        Raises:
            ValueError: the stage's generation config sets something that the fast loop does not support, or `compile`
                is requested on a device other than CUDA.
        """
        for name in REFERENCE_ONLY:
            value = getattr(stage.generation_config, name, None)
            # except that 0 is a valid token id
            if value is not None and (value not in NEUTRAL or name.endswith("token_id")):
                raise ValueError(
                    f"The generation config sets {name} to {value}, which the fast loop does not support; unset it or "
                    'choose decoding="reference".'
                )
        if self.compile and stage.device.type != "cuda":
            raise ValueError(f"compile=True needs CUDA, but the model is on {stage.device}; leave it out.")
        weight = _setting(stage, "history_free_guidance")
        return FastDecoder(stage, **self.sampling(stage), history_free_guidance=weight, compile=bool(self.compile))


@dataclass(frozen=True)
class Window:
    """A stretch of a song, units [start, stop) of a row, whose first `known` units have already been generated."""

    start: int
    stop: int
    known: int
    row: int = 0


def song_windows(units: int, window: int, overlap: int, row: int = 0) -> list[Window]:
    """Cuts a song into windows of equal length, each starting with the end of the one before.

    The last window is moved back, so that it is as long as the others instead of a short remainder.

    Args:
        units: length of the song.
        window: length of a window, the stage's training length.
        overlap: units by which a window overlaps the one before.
        row: index of the song in the batch.

    Raises:
        ValueError: `overlap` is negative or not below `window`.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"overlap is {overlap} units; it must be at least 0 and below the window, {window} units.")
    cut = []
    done = 0
    while done < units:
        start = max(0, min(done - overlap, units - window))
        stop = min(start + window, units)
        cut.append(Window(start, stop, done - start, row))
        done = stop
    return cut


def window_units(stage: HAFMStageForCausalLM, seconds_per_unit: float) -> tuple[int, int]:
    """Units in a window and in its overlap, from `window_seconds` and `overlap_seconds` of the generation config."""
    window = max(round(_setting(stage, "window_seconds") / seconds_per_unit), 1)
    return window, min(round(_setting(stage, "overlap_seconds") / seconds_per_unit), window - 1)


def _setting(stage: HAFMStageForCausalLM, name: str) -> Any:
    """A value of a stage's generation config, or the default one's if a user's own config lacks it."""
    value = getattr(stage.generation_config, name, None)
    return getattr(stage.default_generation_config(), name) if value is None else value


def steadiest_frame(before: torch.Tensor, after: torch.Tensor, first: int, side: int) -> int:
    """The frame at which switching from `before` to `after` changes the sound least.

    Means of `side` frames before and after it are compared, so that no drum stroke or note onset is cut in two.

    Args:
        before (float [n, D]): frames of the earlier window, in the overlap.
        after (float [m, D]): frames of the next window from the same instant on, m > n.
        first: earliest frame for the switch; the latest is n, where `before` ends.
        side: number of frames to compare on each side.
    """

    def change(frame: int) -> float:
        ends, begins = before[max(frame - side, 0) : frame], after[frame : frame + side]
        return float((begins.mean(0) - ends.mean(0)).norm())

    return min(range(max(first, 1), len(before) + 1), key=change)


def independent_windows(stage: HAFMStageForCausalLM) -> bool:
    """Whether a stage's windows are generated independently: `independent_windows` of its generation config."""
    return _setting(stage, "independent_windows")


@dataclass
class SongRow:
    """One accompaniment that a stage is generating.

    Args:
        units: length of the song.
        stream: its random numbers.
        given (int64 [units · tokens per unit], *optional*): tokens to keep as they are, and −1 elsewhere.
        flat (int64 [n]): the tokens so far, frame by frame.
    """

    units: int
    stream: RandomStream
    given: torch.Tensor | None = None
    flat: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def forced(self, first: int, count: int) -> torch.Tensor:
        """Given tokens at positions [first, first + count), −1 where there are none: int64 [count], on the CPU."""
        given = self.flat.new_empty(0) if self.given is None else self.given[first : first + count]
        return torch.nn.functional.pad(given.cpu(), (0, count - len(given)), value=FREE)


class StageRun:
    """Runs one stage over a batch of songs, one batch of windows at a time.

    Args:
        stage: the stage to run.
        rows: the songs.
        seconds_per_unit: length of a unit (see the module).
        options: how to decode.
        independent: whether windows are generated independently, from their own conditioning only, as in the fine
            stage. One batch may then hold several windows of a song, and each window generates its overlap with the
            one before again, from the same random numbers.
        at_once: batch size; if windows are independent, that of the first batch.
        report: called with 1 after each step.
        sound: maps codes (int64 [n, Q]) to vectors that represent their sound, float [n, D]. If given, an independent
            window takes over from the one before where the sound changes least, rather than where that one ends.
    """

    def __init__(
        self,
        stage: HAFMStageForCausalLM,
        rows: list[SongRow],
        seconds_per_unit: float,
        options: DecodingOptions,
        independent: bool = False,
        at_once: int = ROWS_AT_ONCE,
        report: Callable[[int], None] | None = None,
        sound: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.stage, self.rows, self.options, self.report = stage, rows, options, report
        # shared by all windows, so that matrices are packed once
        self.decoder = options.decoder(stage) if options.decoding == "fast" else None
        self.independent = independent
        self.sound = sound if independent else None
        config = stage.config
        self.unit_conditioning = round(config.conditioning_frame_rate * seconds_per_unit)
        self.unit_tokens = round(config.frame_rate * seconds_per_unit) * config.num_codebooks
        window, overlap = window_units(stage, seconds_per_unit)
        # units at the end of a window that the next window may still replace
        self.held = 0 if self.sound is None else math.ceil(JOINED_SHARE * overlap)
        cut = [each for row, song in enumerate(rows) for each in song_windows(song.units, window, overlap, row)]
        windows = [each for each in cut if not self._is_given(each)]
        self.batches = self._independent_batches(windows, at_once) if independent else self._batches(windows, at_once)
        self.done = 0
        # iterator over the current batch's tokens, once it has started
        self.parts: Iterator[torch.Tensor] | None = None

    @property
    def steps(self) -> int:
        """Total number of steps; a step decodes one slot of each row of a batch."""
        frames = self.unit_tokens // self.stage.config.num_codebooks
        known = [0 if self.independent else batch[0].known * frames for batch in self.batches]
        new = [self._new_units(batch) * frames for batch in self.batches]
        return sum(self.stage.pattern.new_slots(*each) for each in zip(known, new, strict=True))

    @property
    def needs(self) -> int | None:
        """Units of conditioning that the next batch needs; None if there is none left."""
        if self.done == len(self.batches):
            return None
        return max(window.stop for window in self.batches[self.done])

    def run(self, conditioning: list[torch.Tensor]) -> list[torch.Tensor]:
        """Generates everything that is left; returns the codes int64 [Q, T] of each row."""
        while self.needs is not None:
            self.advance(conditioning)
        return [self.codes(row) for row in range(len(self.rows))]

    def advance(self, conditioning: list[torch.Tensor]) -> None:
        """Generates the next part of a batch from the conditioning so far (int64 [K, T_c] for each row).

        A part is `PART` slots if the fast loop decodes dependent windows, else a whole batch.
        """
        batch = self.batches[self.done]
        known_units = 0 if self.independent else batch[0].known
        if self.parts is None:
            self.parts = self._decode(batch, conditioning, known_units)
        tokens = next(self.parts)
        width = self.stage.config.num_codebooks
        for window, new in zip(batch, tokens, strict=True):
            row = self.rows[window.row]
            self._extend(row, window.start + window.known)
            first = (window.start + known_units) * self.unit_tokens
            border = self._border(row.flat, window, new)
            length = (window.stop - window.start - known_units) * self.unit_tokens
            row.flat = torch.cat([row.flat[: border * width].to(new.device), new[border * width - first : length]])
        if tokens.shape[1] == self._new_units(batch) * self.unit_tokens:
            self.done, self.parts = self.done + 1, None

    def final_units(self, row: int) -> int:
        """Number of units of a row that are final."""
        song = self.rows[row]
        units = len(song.flat) // self.unit_tokens
        return units if self.needs is None or units == song.units else max(units - self.held, 0)

    def codes(self, row: int) -> torch.Tensor:
        """The final codes of a row so far: int64 [Q, T]."""
        if self.needs is None:
            self._extend(self.rows[row], self.rows[row].units)
        final = self.rows[row].flat[: self.final_units(row) * self.unit_tokens]
        return final.unflatten(0, (-1, self.stage.config.num_codebooks)).t()

    def _border(self, flat: torch.Tensor, window: Window, new: torch.Tensor) -> int:
        """Frame of the song, 0 for the first window, at which a window's `new` tokens (int64 [m]) replace `flat`
        (int64 [n]), the row's tokens so far. For independent windows, `new` begins at the start of the window."""
        width = self.stage.config.num_codebooks
        start, known = (units * self.unit_tokens // width for units in (window.start, window.known))
        if self.sound is None or not known:
            return start + known
        rate = self.stage.config.frame_rate
        side, held = max(round(SIDE_SECONDS * rate), 1), self.held * self.unit_tokens // width
        before = self.sound(flat[start * width : (start + known) * width].to(new.device).view(-1, width))
        after = self.sound(new[: (known + side) * width].view(-1, width))
        return start + steadiest_frame(before, after, known - held, side)

    def _decode(
        self, batch: list[Window], conditioning: list[torch.Tensor], known_units: int
    ) -> Iterator[torch.Tensor]:
        """Yields the new tokens of a batch so far, int64 [B, n]; finally, shorter rows are padded at the end."""
        new_tokens = self._new_units(batch) * self.unit_tokens
        cut, known, numbers, forced = [], [], [], []
        for window in batch:
            row = self.rows[window.row]
            frames = slice(window.start * self.unit_conditioning, window.stop * self.unit_conditioning)
            cut.append(conditioning[window.row][:, frames].t())
            begin = window.start * self.unit_tokens
            start = begin + known_units * self.unit_tokens
            if known_units:
                self._extend(row, window.start + known_units)
            known.append(row.flat[begin:start].to(cut[-1].device))
            numbers.append(row.stream.uniforms(start, new_tokens))
            forced.append(row.forced(start, new_tokens))
        lengths = torch.tensor([len(frames) for frames in cut])
        padded = pad_sequence(cut, batch_first=True).transpose(1, 2)
        mask = torch.arange(padded.shape[-1]) < lengths[:, None]
        given = torch.stack(forced) if any(self.rows[each.row].given is not None for each in batch) else None
        conditioning_mask = None if bool(mask.all()) else mask.to(padded.device)
        rest = (torch.stack(known), given, conditioning_mask, self.report)
        if self.decoder is not None:
            every = None if self.independent else PART
            return self.decoder.stream(padded, new_tokens, torch.stack(numbers), *rest, every=every)
        return iter([decode_window(self.stage, padded, new_tokens, torch.stack(numbers), self.options, *rest)])

    def _new_units(self, batch: list[Window]) -> int:
        return max(each.stop - each.start - (0 if self.independent else each.known) for each in batch)

    def _extend(self, row: SongRow, units: int) -> None:
        """Appends given tokens up to `units`, where windows were skipped because all their tokens are given."""
        there, wanted = len(row.flat), units * self.unit_tokens
        if row.given is not None and there < wanted:
            row.flat = torch.cat([row.flat, row.given[there:wanted].to(row.flat.device)])

    def _is_given(self, window: Window) -> bool:
        given = self.rows[window.row].given
        if given is None:
            return False
        new = given[(window.start + window.known) * self.unit_tokens : window.stop * self.unit_tokens]
        return bool((new != FREE).all())

    @staticmethod
    def _batches(windows: list[Window], at_once: int) -> list[list[Window]]:
        """Batches windows of different songs at the same position; those of one song come one after another."""
        groups: dict[tuple[int, int], list[Window]] = defaultdict(list)
        for window in windows:
            groups[window.start + window.known, window.known].append(window)
        ordered = [groups[key] for key in sorted(groups)]
        return [group[i : i + at_once] for group in ordered for i in range(0, len(group), at_once)]

    @staticmethod
    def _independent_batches(windows: list[Window], at_once: int) -> list[list[Window]]:
        """Batches windows in order of time, in batches that double in size: a stream starts early, then keeps up."""
        ordered = sorted(windows, key=lambda window: (window.stop, window.row))
        batches, first = [], 0
        while first < len(ordered):
            batches.append(ordered[first : first + at_once])
            first, at_once = first + at_once, max(at_once, min(2 * at_once, ROWS_AT_ONCE))
        return batches


def decode_window(
    stage: HAFMStageForCausalLM,
    conditioning_ids: torch.Tensor,
    new_tokens: int,
    uniforms: torch.Tensor,
    options: DecodingOptions,
    known: torch.Tensor,
    forced: torch.Tensor | None = None,
    conditioning_mask: torch.Tensor | None = None,
    report: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Continues rows with equally many known tokens, with the loop that the options name.

    Args:
        stage: the stage to run.
        conditioning_ids (int64 [B, K, T_c]): conditioning streams.
        new_tokens: number of tokens to generate; under the delay pattern, both these and the known are whole frames.
        uniforms (float32 [B, new_tokens]): the rows' random numbers.
        options: how to decode.
        known (int64 [B, P]): tokens that come before, without BOS.
        forced (int64 [B, new_tokens], *optional*): tokens to use instead of sampling, −1 where to sample.
        conditioning_mask (bool [B, T_c], *optional*): False where the conditioning is padding.
        report: called with 1 after each step.

    Returns:
        int64 [B, new_tokens].
    """
    if options.decoding == "fast":
        decoder = options.decoder(stage)
        return decoder.generate(conditioning_ids, new_tokens, uniforms, known, forced, conditioning_mask, report)
    bos = stage.config.codebook_size
    frames = None if conditioning_mask is None else stage.target_frames(conditioning_mask)
    plan = stage.pattern.plan(known, new_tokens, bos, uniforms.to(conditioning_ids.device), forced, frames)
    assert plan.uniforms is not None
    sampled = StreamSampling(plan.uniforms, plan.known.shape[1] + 1, plan.forced, report)
    generated = stage.generate(
        input_ids=torch.nn.functional.pad(plan.known, (1, 0), value=bos),
        conditioning_ids=conditioning_ids,
        conditioning_mask=conditioning_mask,
        max_new_tokens=plan.slots,
        num_return_sequences=1,
        return_dict_in_generate=False,
        max_time=math.inf,
        target_frames=(known.shape[1] + new_tokens) // stage.config.num_codebooks,
        logits_processor=LogitsProcessorList([sampled]),
        # greedy decoding is expressed as top-k 1 by `sampling`
        do_sample=True,
        **options.sampling(stage),
    )
    return stage.pattern.tokens(generated[:, 1:])[:, known.shape[1] :]
