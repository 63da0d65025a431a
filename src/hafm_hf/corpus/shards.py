# SPDX-License-Identifier: Apache-2.0
"""One shard, from the files of its tracks to Parquet: read, align, filter, tokenise, write.

What every worker does, on this machine or on another of a cluster; nothing here knows of the other shards.
"""

import functools
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..accompaniment.song import torch_threads
from ..audio import Samples, with_channels
from ..lead_sheet.lead_sheet import LeadSheet
from ..listening.transcription import Transcriber
from .filtering import FilterOptions, reason_to_drop
from .lead_sheets import ESTIMATE, LABELS, styled, told_lead_sheet
from .manifest import ShardReport, TrackReport, write_report
from .plan import ShardJob
from .stems import StemOptions, StemReader, write_stems
from .tokenizing import SegmentTokens, TokenizerOptions, Tokenizers
from .tokens import TokenExcerpt, excerpt_bounds, write_shard
from .tracks import Drop, HAFMCorpusError, Reason, Track, TrackError, hash_files

# batches of segments that may wait for others of their length before some go through the models in fewer
MOST_WAITING = 4
# the paper crops 10, 5 and 3 s: a segment has room for several of the longest, and the shortest has one of the last
DEFAULT_SEGMENT_SECONDS, DEFAULT_MIN_SECONDS = 30.0, 3.0
# where a row belongs: number of the track and start in s
_Place = tuple[int, float]


@dataclass(frozen=True)
class ShardOptions:
    """All that decides what a shard holds, beside its tracks.

    Attributes:
        audio, corpus (str): folders; of a cluster, shared by all its machines.
        segment_seconds, min_seconds (float): a track is cut into as few equal segments as the first allows; one that
            is shorter than the second gives none.
        source, licence (str): of rows whose files say nothing themselves.
        lead_sheet (str): labels (those of labels.json), estimate (of the accompaniment) or none.
        beats (str): the tracker of an estimate's beats; the best that there is where empty.
        style_from (str): where the styles of songs are that no labels tell (`tracks.read_styles`).
        keep_audio (str): folder for the stems of tracks that were kept, SPLIT/TRACK; empty for none.
        threads (int): of torch in a worker; sums are rounded by their order, so it belongs to the contents.
    """

    audio: str
    corpus: str
    stems: StemOptions = StemOptions()
    filter: FilterOptions = FilterOptions()
    tokenizer: TokenizerOptions = TokenizerOptions()
    segment_seconds: float = DEFAULT_SEGMENT_SECONDS
    min_seconds: float = DEFAULT_MIN_SECONDS
    source: str = ""
    licence: str = ""
    lead_sheet: str = LABELS
    beats: str = ""
    style_from: str = ""
    keep_audio: str = ""
    threads: int = 1

    def __post_init__(self) -> None:
        if self.segment_seconds < self.min_seconds:
            raise HAFMCorpusError(
                f"Segments of at most {self.segment_seconds:g} s can't last {self.min_seconds:g} s; change one."
            )


@functools.lru_cache(maxsize=1)
def shard_maker(options: ShardOptions) -> "ShardMaker":
    """The maker of this process, its models loaded once."""
    return ShardMaker(options)


class ShardMaker:
    """Tokenizers, and the steps of a shard.

    Raises:
        HAFMCorpusError: something that the options name is missing.
    """

    def __init__(self, options: ShardOptions) -> None:
        self.options = options
        self.tokenizers = Tokenizers(options.tokenizer)
        self.reader = StemReader(replace(options.stems, channels=self.tokenizers.channels))
        self.transcriber = None
        if options.lead_sheet == ESTIMATE:
            self.transcriber = Transcriber(options.beats, self.tokenizers.device)

    def make(self, job: ShardJob) -> ShardReport:
        """Makes a shard and its report.

        Raises:
            HAFMCorpusError: the disk is full or the folder can't be written to; neither file is there then.
        """
        name, tracks = job
        report, corpus = ShardReport(name), Path(self.options.corpus)
        try:
            with torch_threads(self.options.threads):
                rows = self._rows(tracks, report)
            report.rows = len(rows)
            if rows:
                write_shard(corpus / name, rows, self.tokenizers.info)
            write_report(corpus, report)
        except OSError as error:
            raise HAFMCorpusError(
                f"{corpus / name} can't be written: {error.strerror or error}; finished shards are kept, make "
                "room and run the same command again."
            ) from error
        return report

    def _rows(self, tracks: Sequence[Track], report: ShardReport) -> list[TokenExcerpt]:
        """Rows of all tracks, in their order; segments of one length go through the models together."""
        size = self.options.tokenizer.batch_size
        waiting: dict[tuple[int, float], list[_Segment]] = {}
        rows: dict[_Place, TokenExcerpt] = {}
        for place, track in enumerate(tracks):
            counted = report.tracks[track.name] = TrackReport()
            try:
                segments = self._segments(place, track, counted, report)
            except TrackError as error:
                report.drops.append(Drop(track.name, error.reason, error.detail))
                continue
            for segment in segments:
                alike = (segment.sampling_rate, segment.seconds)
                waiting.setdefault(alike, []).append(segment)
                if len(waiting[alike]) == size:
                    rows |= self._tokenize(waiting.pop(alike), report)
            for group in waiting.values():
                # what waits must not keep its whole track in memory
                group[:] = [each.alone() if each.place == place else each for each in group]
            while sum(map(len, waiting.values())) > MOST_WAITING * size:
                rows |= self._tokenize(waiting.pop(next(iter(waiting))), report)
        for group in waiting.values():
            rows |= self._tokenize(group, report)
        return [rows[key] for key in sorted(rows)]

    def _segments(self, place: int, track: Track, counted: TrackReport, report: ShardReport) -> "list[_Segment]":
        """What is kept of one track; raises TrackError when it gives nothing as a whole."""
        if hash_files(Path(self.options.audio), track.files) != track.content_hash:
            raise TrackError(Reason.CHANGED, "its bytes are not those that were planned")
        paths = {role: Path(os.path.join(self.options.audio, path)) for role, path in track.files.items()}
        stems = self.reader.read(paths)
        rate, duration = stems.sampling_rate, len(stems.vocal) / stems.sampling_rate
        counted.seconds = round(duration, 6)
        bounds = excerpt_bounds(
            duration, self.options.segment_seconds, self.options.min_seconds, self.tokenizers.info.grid
        )
        if not bounds:
            raise TrackError(Reason.TOO_SHORT, f"{duration:.2f} s, at least {self.options.min_seconds:g}")
        sheet = told_lead_sheet(stems.labels if self.options.lead_sheet == LABELS else {}, track.style)
        counted.segments = len(bounds)
        kept = []
        for start, length in bounds:
            vocal, instrumental = (cut(sound, rate, start, length) for sound in (stems.vocal, stems.instrumental))
            found = reason_to_drop(vocal, with_channels(instrumental, 1), self.options.filter)
            if found is None:
                kept.append(_Segment(place, track, stems.labels, start, length, vocal, instrumental, rate))
            else:
                report.drops.append(Drop(track.name, *found, start=round(start, 3)))
        counted.kept, counted.kept_seconds = len(kept), round(len(kept) * bounds[0][1], 6)
        if kept:
            if self.transcriber is not None:
                heard = self.transcriber.lead_sheet(with_channels(stems.instrumental, 1), rate)
                sheet = styled(heard, track.style)
            kept = [replace(segment, sheet=sheet) for segment in kept]
        if kept and self.options.keep_audio:
            write_stems(Path(self.options.keep_audio, track.split, track.name), stems)
        return kept

    def _tokenize(self, segments: "Sequence[_Segment]", report: ShardReport) -> dict[_Place, TokenExcerpt]:
        """Rows of segments of one rate and length, by track and start."""
        first = segments[0]
        vocals, instrumentals = [each.vocal for each in segments], [each.instrumental for each in segments]
        seeds = [noise_seed(each.track.content_hash, each.start) for each in segments]
        tokens = list(self.tokenizers.encode(vocals, instrumentals, first.sampling_rate, first.seconds, seeds))
        if report.si_sdr is None:
            ratio = self.tokenizers.fidelity(first.instrumental, first.sampling_rate, first.seconds, tokens[0])
            # rounded, so that reports agree where the last bits of a decoder don't
            report.si_sdr = round(ratio, 2)
        return {(each.place, each.start): self._row(each, own) for each, own in zip(segments, tokens, strict=True)}

    def _row(self, segment: "_Segment", streams: SegmentTokens) -> TokenExcerpt:
        track, labels = segment.track, segment.labels
        sheet = segment.sheet.moved(-segment.start).to_dict()
        return TokenExcerpt(
            track=track.name, start=segment.start, duration=segment.seconds, **vars(streams),
            source=self.options.source, split=track.split, content_hash=track.content_hash,
            licence=text(labels, "licence") or track.licence or self.options.licence,
            tempo=number(labels, "tempo"), key=text(labels, "key"), lead_sheet=json.dumps(sheet) if sheet else "",
        )  # fmt: skip


@dataclass(frozen=True)
class _Segment:
    """A kept piece of track `place`, `seconds` from `start`: vocal [N], instrumental [N] or [N, C]."""

    place: int
    track: Track
    labels: dict[str, Any]
    start: float
    seconds: float
    vocal: Samples
    instrumental: Samples
    sampling_rate: int
    sheet: LeadSheet = LeadSheet()

    def alone(self) -> "_Segment":
        """The same with sounds of its own instead of views of the track's."""
        return replace(self, vocal=self.vocal.copy(), instrumental=self.instrumental.copy())


def cut(sound: Samples, sampling_rate: int, start: float, length: float) -> Samples:
    """A piece of float32 [N] or [N, C], of equally many samples wherever it starts; times in seconds."""
    first = round(start * sampling_rate)
    return sound[first : first + round(length * sampling_rate)]


def noise_seed(content_hash: str, start: float) -> int:
    """Seed of a vocal's noise: a function of the sound and its place, not of the worker."""
    digest = hashlib.sha256(f"{content_hash}/{round(start * 1000)}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def text(labels: dict[str, Any], name: str) -> str:
    """A label that is text; empty without one."""
    value = labels.get(name)
    return value if isinstance(value, str) else ""


def number(labels: dict[str, Any], name: str) -> float:
    """A label that is a number, else NaN."""
    value = labels.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def make_shard(options: ShardOptions, job: ShardJob) -> ShardReport:
    """Makes one shard; the models are loaded once a process."""
    return shard_maker(options).make(job)
