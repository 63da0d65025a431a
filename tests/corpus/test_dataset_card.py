# SPDX-License-Identifier: Apache-2.0
"""The card of a token corpus is counted from its shards."""

from pathlib import Path

import datasets
import numpy as np
import pytest

from hafm_hf.corpus.dataset_card import dataset_card
from hafm_hf.corpus.tokens import TokenCorpusInfo, TokenExcerpt, write_shard
from make_card import make_card


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus of three train excerpts of two songs, 2 s each, and one for validation."""
    info = TokenCorpusInfo(50, 75, 13, 16, 8)
    frames, codes = np.zeros(100, np.int16), np.zeros((8, 150), np.int16)

    def excerpt(track: str, start: float) -> TokenExcerpt:
        return TokenExcerpt(track, start, 2.0, frames, frames, codes)

    folder = tmp_path / "tiny-corpus"
    folder.mkdir()
    write_shard(folder / "train-00000.parquet", [excerpt("a", 0), excerpt("a", 2)], info)
    write_shard(folder / "train-00001.parquet", [excerpt("b", 0)], info)
    write_shard(folder / "validation-00000.parquet", [excerpt("c", 0)], info)
    return folder


def test_dataset_card_is_counted_from_the_shards_and_read_by_datasets(corpus: Path, tmp_path: Path) -> None:
    make_card(corpus)
    text = (corpus / "README.md").read_text()
    assert "| train | 3 | 2 | 0.00 | 2 |" in text and "| validation | 1 | 1 | 0.00 | 1 |" in text
    assert "| num_clusters | 13 |" in text and "`acoustic`" in text and "No licence" in text
    loaded = datasets.load_dataset(str(corpus), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 3, "validation": 1}


def test_corpora_that_are_none_or_two_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="token corpus"):
        dataset_card(tmp_path)
    frames, codes = np.zeros(100, np.int16), np.zeros((8, 150), np.int16)
    other = TokenCorpusInfo(50, 75, 14, 16, 8)
    write_shard(corpus / "train-00002.parquet", [TokenExcerpt("d", 0.0, 2.0, frames, frames, codes)], other)
    with pytest.raises(ValueError, match="different tokenizers"):
        dataset_card(corpus)
