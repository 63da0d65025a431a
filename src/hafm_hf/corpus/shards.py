"""One shard, from the files of its tracks to Parquet: read, separate, align, filter, tokenise, write.

What every worker does, on this machine or on another of a cluster; nothing here knows of the other shards.
"""

import functools
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..audio import Samples
from ..jobs.engines import run_on
from ..jobs.threads import torch_threads
from .features import segment_features
from .filtering import FilterOptions, reason_to_drop
from .lead_sheets import labelled_lead_sheet
from .manifest import ShardReport, TrackReport, write_report
from .plan import ShardJob
from .separation import make_separator
from .stems import SeparatorOptions, Stems, write_stems
from .tokenizing import TokenizerOptions, Tokenizers, fit_rate
from .tokens import TokenExcerpt, excerpt_bounds, write_shard
from .tracks import Drop, HAFMCorpusError, Reason, Track, TrackError, hash_files

FEATURE_RATE = 24_000
# the paper crops 10, 5 and 3 s: a segment has room for several of the longest, and the shortest has one of the last
DEFAULT_SEGMENT_SECONDS, DEFAULT_MIN_SECONDS = 30.0, 3.0


@dataclass(frozen=True)
class ShardOptions:
    """All that decides what a shard holds, beside its tracks.

    Attributes:
        audio, corpus (str): folders; of a cluster, shared by all its machines.
        segment_seconds, min_seconds (float): a track is cut into as few equal segments as the first allows; one that
            is shorter than the second gives none.
        source, licence (str): of rows whose files say nothing themselves.
        keep_audio (str): folder for the stems of tracks that were kept, SPLIT/TRACK; empty for none.
        threads (int): of torch in a worker; sums are rounded by their order, so it belongs to the contents.
    """

    audio: str
    corpus: str
    separator: SeparatorOptions = SeparatorOptions()
    filter: FilterOptions = FilterOptions()
    tokenizer: TokenizerOptions = TokenizerOptions()
    segment_seconds: float = DEFAULT_SEGMENT_SECONDS
    min_seconds: float = DEFAULT_MIN_SECONDS
    source: str = ""
    licence: str = ""
    keep_audio: str = ""
    threads: int = 1

    def __post_init__(self) -> None:
        if self.segment_seconds < self.min_seconds:
            raise HAFMCorpusError(
                f"Segments of at most {self.segment_seconds:g} s can't last {self.min_seconds:g} s; change one."
            )


@dataclass
class ShardResult:
    """A finished shard's report, and what making it took: seconds by step, and seconds of audio."""

    report: ShardReport
    seconds_by_step: dict[str, float] = field(default_factory=dict)
    audio_seconds: float = 0.0


@functools.lru_cache(maxsize=1)
def shard_maker(options: ShardOptions) -> "ShardMaker":
    """The maker of this process, its models loaded once."""
    return ShardMaker(options)


class ShardMaker:
    """Separator and tokenizers, and the steps of a shard.

    Raises:
        HAFMCorpusError: something that the options name is missing.
    """

    def __init__(self, options: ShardOptions) -> None:
        self.options = options
        self.separator = make_separator(options.separator)
        self.tokenizers = Tokenizers(options.tokenizer)
        self.clock: Counter[str] = Counter()

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.clock[name] += time.perf_counter() - began  # type: ignore[assignment]

    def make(self, job: ShardJob) -> ShardResult:
        """Makes a shard and its report.

        Raises:
            HAFMCorpusError: the disk is full or the folder can't be written to; neither file is there then.
        """
        self.clock.clear()
        report, rows = ShardReport(job.name), []
        corpus = Path(self.options.corpus)
        try:
            with torch_threads(self.options.threads):
                for track in job.tracks:
                    counted = report.tracks[track.name] = TrackReport()
                    try:
                        rows += self._rows(track, counted, report)
                    except TrackError as error:
                        report.drops.append(Drop(track.name, error.reason, error.detail))
            report.rows = len(rows)
            with self._step("write"):
                if rows:
                    write_shard(corpus / job.name, rows, self.tokenizers.info)
                write_report(corpus, report)
        except OSError as error:
            raise HAFMCorpusError(
                f"{corpus / job.name} can't be written: {error.strerror or error}; finished shards are kept, make "
                "room and run the same command again."
            ) from error
        return ShardResult(report, dict(self.clock), sum(track.seconds for track in report.tracks.values()))

    def _rows(self, track: Track, counted: TrackReport, report: ShardReport) -> list[TokenExcerpt]:
        """Rows of one track; raises TrackError when it gives none as a whole."""
        with self._step("read"):
            if hash_files(Path(self.options.audio), track.files) != track.content_hash:
                raise TrackError(Reason.CHANGED, "its bytes are not those that were planned")
        with self._step("separate"):
            paths = {role: Path(os.path.join(self.options.audio, path)) for role, path in track.files.items()}
            stems = self.separator.separate(paths)
        duration = len(stems.vocal) / stems.sampling_rate
        counted.seconds = round(duration, 6)
        bounds = excerpt_bounds(
            duration, self.options.segment_seconds, self.options.min_seconds, self.tokenizers.info.grid
        )
        if not bounds:
            raise TrackError(Reason.TOO_SHORT, f"{duration:.2f} s, at least {self.options.min_seconds:g}")
        counted.segments = len(bounds)
        kept: list[tuple[float, Samples, Samples]] = []
        with self._step("filter"):
            for start, length in bounds:
                vocal, instrumental = (
                    cut(sound, stems.sampling_rate, start, length) for sound in (stems.vocal, stems.instrumental)
                )
                found = reason_to_drop(vocal, instrumental, self.options.filter)
                if found is None:
                    kept.append((start, vocal, instrumental))
                else:
                    report.drops.append(Drop(track.name, *found, start=round(start, 3)))
        counted.kept, counted.kept_seconds = len(kept), round(len(kept) * bounds[0][1], 6)
        if kept and self.options.keep_audio:
            with self._step("keep audio"):
                write_stems(Path(self.options.keep_audio, track.split, track.name), stems)
        return self._tokenize(track, stems, kept, bounds[0][1], report) if kept else []

    def _tokenize(
        self,
        track: Track,
        stems: Stems,
        kept: list[tuple[float, Samples, Samples]],
        seconds: float,
        report: ShardReport,
    ) -> list[TokenExcerpt]:
        """Rows of the segments (start, vocal, instrumental) that were kept."""
        starts, vocals, instrumentals = zip(*kept, strict=True)
        with self._step("tokenise"):
            seeds = [noise_seed(track.content_hash, start) for start in starts]
            tokens = list(self.tokenizers.encode(vocals, instrumentals, stems.sampling_rate, seconds, seeds))
        if report.si_sdr is None:
            with self._step("decode again"):
                ratio = self.tokenizers.fidelity(instrumentals[0], stems.sampling_rate, seconds, tokens[0])
                # rounded, so that reports agree where the last bits of a decoder don't
                report.si_sdr = round(ratio, 2)
        rows = []
        for start, instrumental, streams in zip(starts, instrumentals, tokens, strict=True):
            with self._step("features"):
                sound = fit_rate(instrumental, stems.sampling_rate, FEATURE_RATE, seconds)
                features = segment_features(sound, FEATURE_RATE)
            labels = stems.labels
            sheet = labelled_lead_sheet(labels).moved(-start).to_dict()
            rows.append(
                TokenExcerpt(
                    track=track.name, start=start, duration=seconds, **vars(streams),
                    source=self.options.source, split=track.split, content_hash=track.content_hash,
                    licence=text(labels, "licence") or track.licence or self.options.licence,
                    loudness=features.loudness, tempo=number(labels, "tempo", features.tempo),
                    key=text(labels, "key") or features.key, lead_sheet=json.dumps(sheet) if sheet else "",
                )
            )  # fmt: skip
        return rows


def cut(sound: Samples, sampling_rate: int, start: float, length: float) -> Samples:
    """A piece of float32 [N], of equally many samples wherever it starts; times in seconds."""
    first = round(start * sampling_rate)
    return sound[first : first + round(length * sampling_rate)]


def noise_seed(content_hash: str, start: float) -> int:
    """Seed of a vocal's noise: a function of what is heard and when, not of who works on it."""
    digest = hashlib.sha256(f"{content_hash}/{round(start * 1000)}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def text(labels: dict[str, Any], name: str) -> str:
    """A label that is text; empty without one."""
    value = labels.get(name)
    return value if isinstance(value, str) else ""


def number(labels: dict[str, Any], name: str, default: float) -> float:
    """A label that is a number, else the default."""
    value = labels.get(name)
    return float(value) if isinstance(value, int | float) else default


def run_jobs(
    jobs: Sequence[ShardJob], options: ShardOptions, engine: str = "local", workers: int = 1, address: str = ""
) -> Iterator[ShardResult]:
    """Makes shards, in any order.

    Args:
        jobs: what to make.
        options: what decides contents.
        engine, workers, address: as for `jobs.engines.run_on`.

    Raises:
        HAFMJobError: unknown engine, Ray is not installed or not reachable, a worker died, or a shard failed.
    """
    needs = {"threads": options.threads, "gpus": int(options.tokenizer.device == "cuda")}
    yield from run_on(engine, make_shard, options, jobs, workers, address, **needs)


def make_shard(options: ShardOptions, job: ShardJob) -> ShardResult:
    """Makes one shard; the models are loaded once a process."""
    return shard_maker(options).make(job)
