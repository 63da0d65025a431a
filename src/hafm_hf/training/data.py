# SPDX-License-Identifier: Apache-2.0
"""From token shards to batches: time-aligned crops of every stream that a stage reads and predicts.

A crop starts at the same instant in all streams, on the common grid of both frame rates (cells of 1/25 s for 50 and
75 Hz), so that s seconds are exactly 50·s semantic and 75·s acoustic frames. Sample n of a run depends on (seed, n)
alone, so the samples are the same however the global batch is divided over processes and accumulation steps, and a
run resumes at a sample number. The corpus is a memory-mapped `datasets.Dataset`: random access without loading 100 K
tracks into memory.

Dimensions: Q codebooks of a stream, T frames of the target, T_c of the conditioning, K conditioning streams.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import torch
from torch.utils.data import Dataset, Sampler
from transformers.utils import logging

from ..accompaniment.parts import VOCAL_STREAM, stage_of, tokenizer_of
from ..corpus.manifest import missing_shards
from ..corpus.tokens import TokenCorpusInfo, read_info, shard_paths
from ..lead_sheet.lead_sheet import UNKNOWN
from ..modeling.configuration_stage import HAFMStageConfig
from .arguments import CorruptionArguments
from .lead_sheets import crop_rows

logger = logging.get_logger(__name__)
# the columns that training reads, plus the lead sheets of shards that have them
COLUMNS = ("track", "duration", "vocal_semantic", "instrumental_semantic", "acoustic")
LEAD_SHEET = "lead_sheet"


@dataclass(frozen=True)
class StreamSlice:
    """What a stage reads or predicts of a corpus: codebooks `first` to `last` (exclusive) of a column of tokens.

    Semantic tokens have one codebook, so 0 and 1.
    """

    column: str
    first: int
    last: int

    def in_corpus(self, info: TokenCorpusInfo) -> tuple[int, int, int]:
        """Vocabulary size, frame rate in Hz and number of codebooks of the whole column in a corpus."""
        if self.column == "acoustic":
            return info.codebook_size, info.acoustic_frame_rate, info.num_codebooks
        return info.num_clusters, info.semantic_frame_rate, 1


def stage_streams(config: HAFMStageConfig) -> list[StreamSlice]:
    """The token streams of a corpus that a stage reads, in its order, and last the one that it predicts.

    Args:
        config: the stage's, with the sizes of its codebooks.

    Raises:
        ValueError: for a model type that is not a stage.
    """
    stage = stage_of(config.model_type)
    slices = []
    for stream, sizes in zip(stage.reads, config.conditioning_codebook_sizes, strict=True):
        if tokenizer_of(stream) == "codec":
            # a stage reads the codec's first codebooks
            slices.append(StreamSlice("acoustic", 0, len(sizes)))
        else:
            slices.append(StreamSlice(stream, 0, 1))
    if stage.acoustic:
        slices.append(StreamSlice("acoustic", config.first_codebook, config.first_codebook + config.num_codebooks))
    else:
        slices.append(StreamSlice(stage.writes, 0, 1))
    return slices


def check_vocabularies(config: HAFMStageConfig, info: TokenCorpusInfo) -> None:
    """Checks that a stage's vocabularies, codebooks, frame rates and tokenizers are those of a corpus.

    Raises:
        ValueError: naming the first difference and the way out. A tokenizer that the stage or the corpus does not name
            is not compared.
    """
    for name, learnt in config.tokenizers.items():
        corpus_tokenizer = getattr(info, name, "")
        if corpus_tokenizer and corpus_tokenizer != learnt:
            raise ValueError(
                f"The stage was trained on tokens of the {name.replace('_', ' ')} {learnt}, the corpus holds those of "
                f"{corpus_tokenizer}: tokenise the corpus with the tokenizers of the stage's model, or let the stage "
                "learn the corpus's tokens (--new_tokens true)."
            )
    streams = stage_streams(config)
    # of each stream: the sizes of its codebooks, and its frame rate
    expected = [*config.conditioning_codebook_sizes, config.codebook_sizes]
    rates = [config.conditioning_frame_rate] * (len(streams) - 1) + [config.frame_rate]
    for stream, rate, vocabularies in zip(streams, rates, expected, strict=True):
        size, corpus_rate, codebooks = stream.in_corpus(info)
        if any(vocabulary != size for vocabulary in vocabularies) or rate != corpus_rate:
            raise ValueError(
                f"The stage expects {stream.column} of {vocabularies} tokens at {rate} Hz, the corpus holds {size} at "
                f"{corpus_rate} Hz: change the stage's configuration or tokenise the corpus again."
            )
        if stream.last > codebooks:
            raise ValueError(
                f"The stage needs codebook {stream.last} of {stream.column}; the corpus has {info.num_codebooks}: "
                f"prepare it with --num-codebooks {stream.last}."
            )


def load_token_corpus(
    folder: str | os.PathLike[str], split: str, cache_dir: str | os.PathLike[str] | None = None
) -> tuple[datasets.Dataset, TokenCorpusInfo]:
    """Loads the finished shards of a split, memory-mapped, and their token metadata.

    Args:
        folder: holds the shards, of which only the columns that training needs are read.
        split: "train", "validation" …
        cache_dir: cache folder of the datasets library; its default if None.

    Returns:
        The corpus in "arrow" format, and its frame rates, vocabularies and tokenizers.

    Raises:
        FileNotFoundError: when the folder holds no shard of the split.
        ValueError: when a shard can't be read, or shards disagree about frame rates, vocabularies or tokenizers.
        OSError: when the cache in `cache_dir` can't be written.
    """
    paths = shard_paths(folder, split)
    missing = missing_shards(Path(folder))
    if missing:
        logger.warning(
            "%s is not finished (shards to be made: %d, such as %s); run hafm prepare again.",
            folder, len(missing), missing[0],
        )  # fmt: skip
    try:
        infos = {read_info(path) for path in paths}
        schemas = [parquet.read_schema(path).names for path in paths]
        # lead sheets only if all shards have them
        optional = {LEAD_SHEET}.intersection(*schemas)
        corpus = datasets.load_dataset(
            "parquet",
            data_files={split: [str(path) for path in paths]},
            split=split,
            columns=[*COLUMNS, *optional],
            cache_dir=None if cache_dir is None else str(cache_dir),
        )
    except (pyarrow.ArrowException, datasets.exceptions.DatasetGenerationError) as error:
        # either shards are broken or the cache can't be written; the library does not tell which
        if broken := ", ".join(path.name for path in paths if not _can_be_read(path)):
            raise ValueError(
                f"These shards of {folder} can't be read: {broken}; delete them, and prepare the corpus again."
            ) from error
        raise OSError(
            f"{folder} can't be cached in {cache_dir or datasets.config.HF_DATASETS_CACHE} "
            f"({error.__cause__ or error}): free some disk space there or name another --cache_dir."
        ) from error
    if len(infos) > 1:
        raise ValueError(
            f"The {split} shards of {folder} were made with different tokenizers: {infos}; prepare all songs again "
            "into one new folder."
        )
    return corpus.with_format("arrow"), infos.pop()


def _can_be_read(path: Path) -> bool:
    """Whether the columns that training reads are intact in the Parquet file at `path`; they are read whole."""
    try:
        parquet.read_table(path, columns=list(COLUMNS))
    except (pyarrow.ArrowException, OSError):
        return False
    return True


def read_stream(corpus: datasets.Dataset, row: int, column: str) -> np.ndarray:
    """Tokens in one column of one row, without going through Python lists.

    Args:
        corpus: in "arrow" format.
        row: index of the row.
        column: "vocal_semantic", "instrumental_semantic" or "acoustic".

    Returns:
        int16 [codebooks, frames]; semantic tokens have one codebook.
    """
    values = corpus[row].column(column).combine_chunks()
    codebooks = len(values[0]) if column == "acoustic" else 1
    # down to the numbers, through the list of the row and, for codes, those of the codebooks
    while hasattr(values, "flatten") and values.type.num_fields:
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(codebooks, -1)


# where a crop starts: row of the corpus, and in the row, cell of the grid (1/25 s for 50 and 75 Hz)
Crop = tuple[int, int]


class TokenCrops(Dataset[dict[str, torch.Tensor]]):
    """Crops of a token corpus for one stage, addressed by sample number or by where they start (`Crop`).

    Args:
        corpus (datasets.Dataset): rows of the shard format, in "arrow" format.
        info (TokenCorpusInfo): frame rates and vocabularies of the corpus.
        config (HAFMStageConfig): the stage's, which determines the streams.
        crop_seconds (float, *optional*): crop length, rounded down to the common grid of all frame rates; the stage's
            window if None.
        seed (int): sample n depends on (seed, n) alone.
        corruption (CorruptionArguments, *optional*): corrupts the samples' lead sheets; with `history_swap`, samples
            also contain the targets of a crop of another track (`strangers`).

    Raises:
        ValueError: when no row is as long as a crop, the stage's vocabularies differ from the corpus's, `history_swap`
            or `lead_sheet_other_voice` need a second track, or the stage reads lead sheets and the corpus has none.
    """

    def __init__(
        self,
        corpus: datasets.Dataset,
        info: TokenCorpusInfo,
        config: HAFMStageConfig,
        crop_seconds: float | None,
        seed: int = 0,
        corruption: CorruptionArguments | None = None,
    ) -> None:
        check_vocabularies(config, info)
        self.config = config
        self.corruption = corruption
        if config.lead_sheet_streams and LEAD_SHEET not in corpus.column_names:
            names = ", ".join(config.lead_sheet_streams)
            raise ValueError(f"The stage reads {names}, but the corpus has no lead sheets: prepare it again.")
        self.corpus = corpus
        self.info = info
        self.seed = seed
        *self.sources, self.target = stage_streams(config)
        seconds = config.window_seconds if crop_seconds is None else crop_seconds
        # length of a crop in cells of the grid
        self.frames = math.floor(Fraction(seconds).limit_denominator(10**6) / info.grid)
        durations = np.asarray(corpus.data.column("duration").to_numpy(), dtype=np.float64)
        if corpus._indices is not None:
            # select() keeps the whole table and indexes into it
            durations = durations[np.asarray(corpus._indices.column(0).to_numpy())]
        # length of each row in cells of the grid
        self.cells = np.rint(durations / float(info.grid)).astype(np.int64)
        # crops that fit into each row without overlap
        counts = np.zeros_like(self.cells)
        if self.frames:
            counts = self.cells // self.frames
        if not counts.sum():
            longest = self.cells.max(initial=0) * float(info.grid)
            raise ValueError(
                f"No {corpus.split} excerpt fills a crop of {seconds} s; the longest is {longest:.2f} s: lower "
                "--crop_seconds."
            )
        if unused := [str(corpus[int(row)].column("track")[0]) for row in np.flatnonzero(counts == 0)]:
            logger.warning(
                "%d of %d excerpts are shorter than a crop of %g s and are not used: %s%s.",
                len(unused), len(counts), seconds, ", ".join(unused[:5]), " …" if len(unused) > 5 else "",
            )  # fmt: skip
        # the row of every crop that fits without overlap, so that rows are drawn in proportion to their length
        self.slots = np.repeat(np.arange(len(corpus)), counts)
        # index of the latest epoch, and its shuffled slots
        self._epoch: tuple[int, np.ndarray] | None = None
        self.strangers = corruption is not None and corruption.history_swap > 0
        self.other_voice = 0.0
        # only a stage that reads the vocal can have it swapped
        if corruption is not None and self.sources[0].column == VOCAL_STREAM:
            self.other_voice = corruption.lead_sheet_other_voice
        self.track_of_row = None
        if self.strangers or self.other_voice:
            self.track_of_row = np.asarray(corpus.with_format(None)["track"])
            if len(set(self.track_of_row[self.slots])) < 2:
                raise ValueError("History or a vocal of another track needs crops of two tracks; the corpus has one.")

    @property
    def seconds(self) -> float:
        """Length of a crop in seconds."""
        return float(self.frames * self.info.grid)

    def __len__(self) -> int:
        """Number of crops per epoch."""
        return len(self.slots)

    def crop_at(self, number: int) -> Crop:
        """Crop `number` of the endless sequence: every epoch shuffles the rows of all slots and draws new starts."""
        epoch, slot = divmod(number, len(self.slots))
        # one shuffled epoch is kept, for the crops that follow
        if self._epoch is None or self._epoch[0] != epoch:
            # the second number of a seed is the purpose of the draws (0 to 4), so that they are independent
            self._epoch = (epoch, np.random.default_rng((self.seed, 0, epoch)).permutation(self.slots))
        _, shuffled = self._epoch
        return self._crop_of(int(shuffled[slot]), np.random.default_rng((self.seed, 1, number)))

    def _crop_of(self, row: int, generator: np.random.Generator) -> Crop:
        """A crop of a row of the corpus that starts at a random cell: (row, cell)."""
        # both lengths are in cells
        return row, int(generator.integers(0, self.cells[row] - self.frames + 1))

    def crop_of_other_track(self, number: int, purpose: int = 2) -> Crop:
        """A random crop (row, cell) of another track than crop `number`; it depends on (seed, purpose, number) alone.

        Args:
            number: of the crop in the endless sequence.
            purpose: makes draws independent of each other: 2 for swapped history, 4 for another track's vocal.
        """
        assert self.track_of_row is not None
        generator = np.random.default_rng((self.seed, purpose, number))
        row, _ = self.crop_at(number)
        while True:
            other = int(generator.choice(self.slots))
            if self.track_of_row[other] != self.track_of_row[row]:
                return self._crop_of(other, generator)

    def fixed_crops(self, limit: int | None = None) -> list[Crop]:
        """Validation crops (row, cell): consecutive, as many as fit in each excerpt, evenly subsampled to `limit`."""
        counts = self.cells // self.frames
        crops = []
        for row, count in enumerate(counts):
            crops += [(row, index * self.frames) for index in range(count)]
        if limit is None or len(crops) <= limit:
            return crops
        return [crops[index * len(crops) // limit] for index in range(limit)]

    def tracks(self, crops: Sequence[Crop]) -> list[str]:
        """The track name of each crop."""
        return [str(self.corpus[row].column("track")[0]) for row, _ in crops]

    def read(self, crop: Crop, generator: np.random.Generator | None = None) -> dict[str, torch.Tensor]:
        """Tokens of one crop, and the streams of its lead sheet if the stage reads any.

        Args:
            crop: row of the corpus, and cell of the grid at which it starts.
            generator: for corrupting the lead sheet; without one, the lead sheet is left unchanged.

        Returns:
            `conditioning_ids` (int64 [streams, conditioning frames], token streams before those of the lead sheet) and
            `labels` (int64 [target frames · codebooks], frame by frame, all codebooks of a frame).

        Raises:
            ValueError: when the row is corrupt.
        """
        conditioning = torch.cat([self._cut(source, crop) for source in self.sources])
        if self.config.lead_sheet_streams:
            row, cell = crop
            text = str(self.corpus[row].column(LEAD_SHEET)[0])
            # in seconds
            start = float(cell * self.info.grid)
            rows = crop_rows(text, self.config, start, conditioning.shape[1], self.corruption, generator)
            conditioning = torch.cat([conditioning, rows])
        return {"conditioning_ids": conditioning, "labels": self._targets(crop)}

    def _targets(self, crop: Crop) -> torch.Tensor:
        """The target's tokens in a crop, frame by frame: int64 [target frames · codebooks]."""
        return self._cut(self.target, crop).transpose(0, 1).flatten()

    def _cut(self, stream: StreamSlice, crop: Crop) -> torch.Tensor:
        """A stream's tokens in a crop, int64 [codebooks, frames].

        Raises:
            ValueError: the row is shorter than its duration says, or has ids out of range.
        """
        row, cell = crop
        tokens = read_stream(self.corpus, row, stream.column)[stream.first : stream.last]
        size, frame_rate, _ = stream.in_corpus(self.info)
        frames_per_cell = int(frame_rate * self.info.grid)
        cut = tokens[:, cell * frames_per_cell : (cell + self.frames) * frames_per_cell]
        if cut.shape[1] != self.frames * frames_per_cell or cut.min() < 0 or cut.max() >= size:
            raise ValueError(
                f"Row {row} of the corpus is corrupt: {stream.column} has {tokens.shape[1]} frames with values "
                f"{cut.min(initial=0)}..{cut.max(initial=0)} at crop {cell}; expected 0..{size - 1}."
            )
        return torch.from_numpy(cut.astype(np.int64))

    def _swap_voice(self, ids: torch.Tensor, number: int) -> None:
        """Puts another track's vocal into a sample, if the chords are known in more than half of its frames.

        So the stage learns that chords prevail over the vocal.

        Args:
            ids (int64 [streams, frames]): the sample's conditioning, changed in place.
            number: the sample's.
        """
        rows = dict(zip(self.config.lead_sheet_streams, ids[self.config.num_token_streams :], strict=True))
        if "chord" in rows and (rows["chord"] != UNKNOWN).float().mean() > 0.5:
            # the vocal is the first stream
            ids[:1] = self._cut(self.sources[0], self.crop_of_other_track(number, purpose=4))

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """Sample `number` of the endless sequence: as `read` returns it, with its number as `sample` (int64 scalar).

        With `history_swap`, it also has the targets of another track's crop as `strangers` (int64, shape of `labels`).
        """
        generator = np.random.default_rng((self.seed, 3, number))
        sample = {**self.read(self.crop_at(number), generator), "sample": torch.tensor(number)}
        if generator.random() < self.other_voice:
            self._swap_voice(sample["conditioning_ids"], number)
        if self.strangers:
            sample["strangers"] = self._targets(self.crop_of_other_track(number))
        return sample


class GlobalBatchSampler(Sampler[list[int]]):
    """Yields one process's micro-batches, as lists of sample numbers.

    Step s covers samples s·G … (s+1)·G − 1 for a global batch of G, whatever the number of processes. If G does not
    divide evenly, micro-batch sizes differ by one; `weight` scales their mean losses accordingly.

    Args:
        global_batch (int): samples per optimiser step, G.
        accumulation (int): micro-batches per step and process; lowered if there are fewer samples than that.
        rank, world_size (int): index of this process and number of processes.
        first_step, last_step (int): range of steps, `last_step` excluded.

    Raises:
        ValueError: when G is less than one sample per process.
    """

    def __init__(
        self,
        global_batch: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
        first_step: int = 0,
        last_step: int = 0,
    ) -> None:
        if global_batch < world_size:
            raise ValueError(
                f"A global batch of {global_batch} cannot be divided over {world_size} processes: take at least "
                f"--global_batch {world_size}, or fewer processes."
            )
        self.accumulation = min(accumulation, global_batch // world_size)
        self.rank = rank
        self.global_batch = global_batch
        # micro-batches of a step, over all processes
        self.parts = self.accumulation * world_size
        self.first_step = first_step
        self.last_step = last_step

    def __iter__(self) -> Iterator[list[int]]:
        """Yields the sample numbers of each micro-batch of this process."""
        for step in range(self.first_step, self.last_step):
            for part in range(self.rank * self.accumulation, (self.rank + 1) * self.accumulation):
                first_sample = step * self.global_batch
                begin = first_sample + part * self.global_batch // self.parts
                end = first_sample + (part + 1) * self.global_batch // self.parts
                yield list(range(begin, end))

    def weight(self, samples: int) -> float:
        """What to multiply the mean loss of a micro-batch of `samples` samples by; 1 if all are of equal size."""
        return samples * self.parts / self.global_batch

    @property
    def largest(self) -> int:
        """Number of samples in the largest micro-batch."""
        # rounded up
        return -(-self.global_batch // self.parts)
