# SPDX-License-Identifier: Apache-2.0
"""The card of a token corpus says what its manifest counts, and datasets reads the corpus by it."""

import json
from dataclasses import asdict
from pathlib import Path

import datasets
import numpy as np
import pytest

from hafm_hf.corpus.tokens import TokenCorpusInfo, TokenExcerpt, write_shard
from make_card import make_card


def test_dataset_card_is_that_of_the_manifest_and_read_by_datasets(tmp_path: Path) -> None:
    info, corpus = TokenCorpusInfo(50, 75, 13, 16, 8), tmp_path / "tiny-corpus"
    frames, codes = np.zeros(100, np.int16), np.zeros((8, 150), np.int16)
    corpus.mkdir()
    with pytest.raises(ValueError, match="token corpus"):
        make_card(corpus)
    for name, count in (("train-00000", 2), ("train-00001", 1), ("validation-00000", 1)):
        rows = [TokenExcerpt(name, 2.0 * row, 2.0, frames, frames, codes) for row in range(count)]
        write_shard(corpus / f"{name}.parquet", rows, info)
    splits = {"train": {"tracks": 2, "rows": 3, "hours": 0.0017, "shards": 2}}
    splits |= {"validation": {"tracks": 1, "rows": 1, "hours": 0.0006, "shards": 1}, "test": {"rows": 0}}
    (corpus / "manifest.json").write_text(json.dumps({"splits": splits, "tokenizers": asdict(info)}))
    make_card(corpus)
    text = (corpus / "README.md").read_text()
    assert "| train | 3 | 2 | 0.00 | 2 |" in text and "| validation | 1 | 1 | 0.00 | 1 |" in text
    assert "| num_clusters | 13 |" in text and "`acoustic`" in text and "No licence" in text
    loaded = datasets.load_dataset(str(corpus), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 3, "validation": 1}
