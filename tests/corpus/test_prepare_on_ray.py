# SPDX-License-Identifier: Apache-2.0
"""Preparing on a real Ray cluster of two nodes, one of which dies midway."""

import json
from pathlib import Path
from typing import Any

import pytest

from corpus.karaoke import karaoke_options, save_tokenizers, shards, write_karaoke
from hafm_hf.corpus.engines import HAFMJobError
from hafm_hf.corpus.prepare import PrepareOptions, ShardOptions, prepare

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.mark.fault("killed Ray node")
@pytest.mark.slow
def test_a_node_that_dies_midway_does_not_change_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Ray sends no usage statistics
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    write_karaoke(tmp_path / "songs", 8, seconds=3.0)
    options = karaoke_options(tmp_path, "here", save_tokenizers(tmp_path), segment_seconds=2.0, min_seconds=1.0)
    prepare(PrepareOptions(options, tracks_per_shard=1))
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        second = cluster.add_node(**NODE)
        left_when_killed: list[int] = []

        def kill_the_second(done: int, total: int) -> None:
            """Kills a node after two shards, and notes how many shards are left."""
            if done == 2:
                cluster.remove_node(second, allow_graceful=False)
                left_when_killed.append(total - done)

        there = ShardOptions(**{**vars(options), "corpus": str(tmp_path / "there")})
        manifest = prepare(
            PrepareOptions(there, tracks_per_shard=1, engine="ray", workers=0, address=cluster.address),
            kill_the_second,
        )
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert left_when_killed
    assert left_when_killed[0] > 0
    assert manifest["complete"]
    assert manifest["tracks"] == {"found": 8, "kept": 8, "dropped": {}}
    assert shards(tmp_path / "there") == shards(tmp_path / "here")
    here = json.loads((tmp_path / "here/manifest.json").read_text())
    assert manifest == here


def test_an_unreachable_cluster_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    write_karaoke(tmp_path / "songs", 1)
    options = karaoke_options(tmp_path, "corpus", save_tokenizers(tmp_path))
    with pytest.raises(HAFMJobError, match="No Ray cluster can be reached at 127.0.0.1:1"):
        prepare(PrepareOptions(options, engine="ray", address="127.0.0.1:1"))
