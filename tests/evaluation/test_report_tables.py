# SPDX-License-Identifier: Apache-2.0
"""Tables of the report."""

from hafm_hf.evaluation.report import _distance_rows


def test_why_there_is_no_frechet_distance_is_said_once() -> None:
    few = {"refused": "12 embeddings are too few.", "n": 12, "n_reference": 12, "width": 128, "kernel": 0.5}
    systems = {name: {"distances": {"tokenizer": few}} for name in ("ours", "retrieval", "random")}
    _, *rows = _distance_rows({"systems": systems}, "tokenizer")
    assert [row[1] for row in rows] == ["12 embeddings are too few.", "as above", "as above"]
