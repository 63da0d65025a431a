# SPDX-License-Identifier: Apache-2.0
"""Token shards: the streams of a row are cut at the same instants, and shards read back as written."""

from fractions import Fraction
from pathlib import Path

import datasets
import numpy as np
import pytest

from hafm_hf.corpus.tokens import TokenCorpusInfo, TokenExcerpt, excerpt_bounds, read_info, shard_paths, write_shard

INFO = TokenCorpusInfo(
    semantic_frame_rate=50, acoustic_frame_rate=75, num_clusters=11, codebook_size=13, num_codebooks=3
)


def make_excerpt(seconds: float, track: str) -> TokenExcerpt:
    """An excerpt of random tokens, from the start of a track."""
    rng = np.random.default_rng(0)
    frames = round(seconds * 50)
    codes = round(seconds * 75)
    return TokenExcerpt(
        track=track,
        start=0.0,
        duration=seconds,
        vocal_semantic=rng.integers(0, 11, frames).astype(np.int16),
        instrumental_semantic=rng.integers(0, 11, frames).astype(np.int16),
        acoustic=rng.integers(0, 13, (3, codes)).astype(np.int16),
    )


def test_frames_of_both_rates_align_every_40_ms() -> None:
    assert INFO.grid == Fraction(1, 25)


@pytest.mark.parametrize("duration", [12.0, 59.99, 90.0, 90.04, 200.123])
def test_excerpts_are_on_the_grid_inside_the_track_and_within_the_limits(duration: float) -> None:
    bounds = excerpt_bounds(duration, longest=90.0, shortest=12.0, grid=INFO.grid)
    assert bounds
    assert bounds[-1][0] + bounds[-1][1] <= duration + 1e-9
    # no excerpt loses more than a step of the grid, 40 ms, nor does the end of the track
    assert sum(length for _, length in bounds) > duration - 0.04 * (len(bounds) + 1)
    for start, length in bounds:
        assert 12.0 - 0.04 <= length <= 90.0
        assert start * 25 == pytest.approx(round(start * 25))
        assert length * 25 == pytest.approx(round(length * 25))


def test_a_track_shorter_than_the_shortest_excerpt_gives_none() -> None:
    assert excerpt_bounds(11.9, longest=90.0, shortest=12.0, grid=INFO.grid) == []


def test_a_shard_reads_back_through_datasets_as_written(tmp_path: Path) -> None:
    rows = [make_excerpt(2.0, "a"), make_excerpt(1.2, "b")]
    assert write_shard(tmp_path / "train-00000.parquet", rows, INFO) == 2
    path = str(shard_paths(tmp_path, "train")[0])
    files = {"train": [path]}
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "c"))
    assert loaded.features["acoustic"] == datasets.List(datasets.List(datasets.Value("int16")))
    for row, read in zip(rows, loaded, strict=True):
        assert read["track"] == row.track
        assert read["duration"] == pytest.approx(row.duration)
        assert read["vocal_semantic"] == row.vocal_semantic.tolist()
        assert read["instrumental_semantic"] == row.instrumental_semantic.tolist()
        assert read["acoustic"] == row.acoustic.tolist()
    assert read_info(path) == INFO


def test_a_folder_without_shards_names_the_command_that_writes_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="hafm prepare"):
        shard_paths(tmp_path, "train")
