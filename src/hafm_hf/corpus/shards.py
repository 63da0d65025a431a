# SPDX-License-Identifier: Apache-2.0
"""Makes one shard from the files of its tracks: read, align, filter, tokenise, write Parquet.

Every worker runs this, locally or on a cluster; a shard is independent of all others.
"""

import errno
import functools
import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..atomic_files import MOST_NAME_LENGTH, shortened, write_json
from ..audio import Samples, with_channels
from ..computing import torch_threads
from ..lead_sheet.lead_sheet import LeadSheet
from ..listening.transcription import Transcriber
from .filtering import FilterOptions, reason_to_drop
from .lead_sheets import ESTIMATE, LABELS, song_lead_sheet, styled
from .manifest import ShardReport, TrackReport, report_path
from .stems import StemOptions, StemReader, Stems, write_stems
from .tokenizing import SegmentTokens, TokenizerOptions, Tokenizers
from .tokens import TokenExcerpt, excerpt_bounds, write_shard
from .tracks import Drop, HAFMCorpusError, Reason, Track, TrackError, hash_files

# the paper crops 10, 5 and 3 s: a full segment fits several of the longest crops, the shortest segment one of 3 s
DEFAULT_SEGMENT_SECONDS = 30.0
DEFAULT_MIN_SECONDS = 3.0
# errors of disks and network drives that are no fault of a file
DISK_ERRORS = (errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN)
# bytes of a folder's name that are left for what is added to it while it is written, and to tell cut names apart
RESERVED_NAME_LENGTH = 32
# one shard to make: its file name and its tracks
Job = tuple[str, tuple[Track, ...]]


@dataclass(frozen=True)
class ShardOptions:
    """Everything that determines the contents of a shard, apart from its tracks.

    Attributes:
        audio, corpus (str): input and output folder; all machines of a cluster must share them.
        segment_seconds, min_seconds (float): maximum and minimum segment length. A track is cut into as few equal
            segments as the maximum allows, and dropped if they would be shorter than the minimum.
        source, licence (str): collection of all tracks, and licence of those whose labels and tags name none.
        lead_sheet (str): labels (from labels.json), estimate (from the accompaniment) or none.
        beats (str): beat tracker for estimates; the best one installed if empty.
        style_from (str): where to read styles that are not in the labels (see `tracks.read_styles`).
        keep_audio (str): folder for the stems of kept tracks, as SPLIT/TRACK; empty for none.
        threads (int): torch threads of a worker; they change the rounding of sums, and so the contents.
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
        """Raises HAFMCorpusError for segments whose maximum length is below the minimum."""
        if self.segment_seconds < self.min_seconds:
            raise HAFMCorpusError(
                f"Segments of at most {self.segment_seconds:g} s can't last {self.min_seconds:g} s; change one."
            )


@functools.lru_cache(maxsize=1)
def shard_maker(options: ShardOptions) -> "ShardMaker":
    """This process's shard maker, cached so that models are loaded once."""
    return ShardMaker(options)


class ShardMaker:
    """Makes shards, with the tokenizers loaded once.

    Args:
        options: everything that determines the contents of a shard, apart from its tracks.

    Raises:
        HAFMCorpusError: a model or device named in the options is not available.
    """

    def __init__(self, options: ShardOptions) -> None:
        self.options = options
        self.tokenizers = Tokenizers(options.tokenizer)
        self.reader = StemReader(replace(options.stems, channels=self.tokenizers.channels))
        self.transcriber = None
        if options.lead_sheet == ESTIMATE:
            self.transcriber = Transcriber(options.beats, self.tokenizers.device)

    def make(self, job: Job) -> ShardReport:
        """Writes a shard, unless it has no rows, and then its report, which marks it as finished.

        Args:
            job: the shard's file name and its tracks.

        Raises:
            HAFMCorpusError: the disk is full or the folder can't be written to; the shard counts as missing then.
        """
        name, tracks = job
        report = ShardReport(name)
        corpus = Path(self.options.corpus)
        try:
            with torch_threads(self.options.threads):
                rows = [row for track in tracks for row in self._rows(track, report)]
            report.rows = len(rows)
            if rows:
                write_shard(corpus / name, rows, self.tokenizers.info)
            write_json(report_path(corpus, name), asdict(report))
        except OSError as error:
            raise HAFMCorpusError(
                f"{corpus / name} can't be written: {error.strerror or error}; finished shards are kept, free "
                "some disk space and run the same command again."
            ) from error
        return report

    def _rows(self, track: Track, report: ShardReport) -> list[TokenExcerpt]:
        """Rows of a track, one for each segment that is kept, in temporal order; none if the track can't be used.

        What was found, kept and dropped is added to `report`, in place. If the options name a folder for stems, those
        of tracks with rows are saved there.
        """
        track_report = TrackReport()
        report.tracks[track.name] = track_report
        try:
            stems = self._read(track)
            bounds = self._bounds(stems, track_report)
            labels: dict[str, Any] = {}
            if self.options.lead_sheet == LABELS:
                labels = stems.labels
            sheet = song_lead_sheet(labels, track.style)
        except TrackError as error:
            report.drops.append(Drop(track.name, error.reason, error.detail))
            return []

        # start (s) and samples of the segments that pass the filter
        rate = stems.sampling_rate
        starts = []
        vocals = []
        instrumentals = []
        for start, length in bounds:
            vocal = cut(stems.vocal, rate, start, length)
            instrumental = cut(stems.instrumental, rate, start, length)
            reason = reason_to_drop(vocal, with_channels(instrumental, 1), self.options.filter)
            if reason is not None:
                report.drops.append(Drop(track.name, *reason, start=round(start, 3)))
                continue
            starts.append(start)
            vocals.append(vocal)
            instrumentals.append(instrumental)

        # all segments are equally long
        _, seconds = bounds[0]
        track_report.segments = len(bounds)
        track_report.kept = len(starts)
        track_report.kept_seconds = round(len(starts) * seconds, 6)
        if not starts:
            return []

        if self.transcriber is not None:
            estimated = self.transcriber.lead_sheet(with_channels(stems.instrumental, 1), rate)
            sheet = styled(estimated, track.style)
        if self.options.keep_audio:
            # flat names: a track's folder may contain another track
            folder = track.name.replace("/", "__").removeprefix(".") or "track"
            short = shortened(folder, MOST_NAME_LENGTH - RESERVED_NAME_LENGTH)
            # other tracks may have the same flat or cut name
            if short != folder or "__" in track.name:
                folder = f"{short}__{track.content_hash[:6]}"
            write_stems(Path(self.options.keep_audio, track.split, folder), stems)

        seeds = [noise_seed(track.content_hash, start) for start in starts]
        segments = self.tokenizers.encode(vocals, instrumentals, rate, seconds, seeds)
        return [
            self._row(track, stems.labels, sheet, start, seconds, tokens)
            for start, tokens in zip(starts, segments, strict=True)
        ]

    def _read(self, track: Track) -> Stems:
        """The stems of a track.

        Raises:
            TrackError: they have changed since planning or can't be used.
            HAFMCorpusError: the audio folder can't be read any more: its songs must not count as unusable for good.
        """
        audio = Path(self.options.audio)
        try:
            if hash_files(audio, track.files) != track.content_hash:
                raise TrackError(Reason.CHANGED, "its bytes differ from those that were planned")
            return self.reader.read({role: audio / path for role, path in track.files.items()})
        except TrackError as error:
            if error.reason in (Reason.UNREADABLE, Reason.DAMAGED) and is_gone(audio, error.__cause__):
                raise HAFMCorpusError(
                    f"{audio} can't be read any more ({error.detail}): connect its disk, and run the command again."
                ) from error
            raise

    def _bounds(self, stems: Stems, track_report: TrackReport) -> list[tuple[float, float]]:
        """Start and length in seconds of each of a track's segments; also sets `track_report.seconds`.

        Raises:
            TrackError: the track is too short for a segment.
        """
        duration = len(stems.vocal) / stems.sampling_rate
        shortest = self.options.min_seconds
        track_report.seconds = round(duration, 6)
        bounds = excerpt_bounds(duration, self.options.segment_seconds, shortest, self.tokenizers.info.grid)
        if not bounds:
            raise TrackError(Reason.TOO_SHORT, f"{duration:.2f} s, at least {shortest:g}")
        return bounds

    def _row(
        self,
        track: Track,
        labels: dict[str, Any],
        sheet: LeadSheet,
        start: float,
        seconds: float,
        tokens: SegmentTokens,
    ) -> TokenExcerpt:
        """The row of a segment.

        Args:
            track: the track that the segment is from.
            labels: of the track; a licence in them takes precedence over the track's tag and the options.
            sheet: lead sheet of the whole track.
            start, seconds: start in the track, and length, in seconds.
            tokens: of the segment.
        """
        fields = sheet.moved(-start).to_dict()
        return TokenExcerpt(
            track=track.name, start=start, duration=seconds, **vars(tokens),
            source=self.options.source, split=track.split, content_hash=track.content_hash,
            licence=text(labels, "licence") or track.licence or self.options.licence,
            tempo=number(labels, "tempo"), key=text(labels, "key"), lead_sheet=json.dumps(fields) if fields else "",
        )  # fmt: skip


def is_gone(folder: Path, error: BaseException | None) -> bool:
    """Whether a folder's disk fails or is not mounted, after the `error` of reading a file in it."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return True
    try:
        # the mount point of a disk is an empty folder without it
        return not any(folder.iterdir())
    except OSError:
        return True


def cut(sound: Samples, sampling_rate: int, start: float, length: float) -> Samples:
    """Cuts `length` seconds, from `start` (s) on, out of a sound (float32 [N] or [N, channels]).

    The number of samples does not depend on `start`.
    """
    first = round(start * sampling_rate)
    return sound[first : first + round(length * sampling_rate)]


def noise_seed(content_hash: str, start: float) -> int:
    """Seed, below 2⁵⁶, of the noise added to a segment's vocal.

    It depends on the track's content and the segment's start (s, rounded to ms) only.
    """
    digest = hashlib.sha256(f"{content_hash}/{round(start * 1000)}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def text(labels: dict[str, Any], name: str) -> str:
    """The label `name` as text; empty if it is missing or not a string."""
    value = labels.get(name)
    return value if isinstance(value, str) else ""


def number(labels: dict[str, Any], name: str) -> float:
    """The label `name` as a number; NaN if it is missing or not a number."""
    value = labels.get(name)
    if isinstance(value, int | float):
        return float(value)
    return math.nan


def make_shard(options: ShardOptions, job: Job) -> ShardReport:
    """Makes one shard (file name and tracks) and returns its report; models are loaded once per process."""
    return shard_maker(options).make(job)
