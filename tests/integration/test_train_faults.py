# SPDX-License-Identifier: Apache-2.0
"""Faults of a training run end in one clear sentence, and never damage a checkpoint."""

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chaos import digest_files
from commands import ranks
from hafm_hf.corpus.tokens import write_shard
from hafm_hf.training.data import load_token_corpus
from integration.training_runs import RECIPE, losses, train_here, words
from programs import ForkedWork, run_program, train
from training.toy_corpus import INFO, toy_excerpt, write_toy_corpus

# checkpoints at steps 3 and 6, no validation
QUICK = {"max_steps": 6, "validation_steps": 50, "save_steps": 3, "validation_split": "none"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Folder of a toy corpus that the test may damage."""
    write_toy_corpus(tmp_path / "corpus")
    return tmp_path / "corpus"


def node(world: dict[str, str], arguments: list[str]) -> None:
    """Trains as the only process of one of two machines.

    Args:
        world: environment variables of the process's rank (`commands.ranks`).
        arguments: words of the recipe.
    """
    os.environ.update(world | {"LOCAL_RANK": "0"})
    train(arguments)


def test_machines_without_a_shared_output_folder_are_refused_at_once(corpus: Path, tmp_path: Path) -> None:
    machines = []
    for rank, world in enumerate(ranks(2)):
        arguments = words(corpus, tmp_path / f"disk{rank}", **QUICK)
        # a cache for each, since they read the corpus at the same time; its folder is the last word
        arguments[-1] = str(tmp_path / f"c{rank}")
        machines.append(ForkedWork(node, world, arguments, log=tmp_path / f"log{rank}.txt"))
    assert [machine.wait(120) for machine in machines] == [1, 1]
    for machine in machines:
        (said,) = set(machine.said())
        assert "do not see the main process" in said
        assert "disk that all machines share" in said
    assert not list(tmp_path.glob("disk*/checkpoint-*"))
    assert not list(tmp_path.glob("disk*/metrics.jsonl"))


@contextmanager
def full_disk(bytes_left: int) -> Iterator[None]:
    """Limits every file to `bytes_left` bytes during the block: writing more is an OSError, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # otherwise this signal would end the process
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.fault("losses that are not finite")
def test_a_non_finite_loss_ends_the_run_and_keeps_the_checkpoint(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_here(corpus, run, **QUICK)
    checkpoint = digest_files(run / "checkpoint-0000006")
    # a learning rate at which the weights overflow, and no checkpoint before they do
    broken = {**QUICK, "max_steps": 40, "learning_rate": 1e30, "warmup_steps": 1, "save_steps": 9}
    with pytest.raises(FloatingPointError, match=r"not finite in 4 steps in a row.*lower the learning rate"):
        train_here(corpus, run, **broken, max_skipped_steps=4)
    assert digest_files(run / "checkpoint-0000006") == checkpoint
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-0000003", "checkpoint-0000006"}
    lines = train_here(corpus, run, **{**QUICK, "max_steps": 8})
    assert list(losses(lines)) == list(range(1, 9)), "the run resumes from the checkpoint"


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    train_here(corpus, run, **QUICK)
    damaged = run / "checkpoint-0000006"
    for name in ("model.safetensors", "optimizer.bin"):
        content = (damaged / name).read_bytes()
        (damaged / name).write_bytes(content[: len(content) // 2])
    lines = train_here(corpus, run, **{**QUICK, "max_steps": 8})
    assert "checkpoint-0000006 can't be loaded" in caplog.text
    assert list(losses(lines)) == list(range(1, 9))


@pytest.mark.fault("full disk")
def test_a_full_disk_is_reported_and_the_last_checkpoint_stays_intact(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_here(corpus, run, **{**QUICK, "max_steps": 3})
    checkpoint = digest_files(run / "checkpoint-0000003")
    with full_disk(30_000), pytest.raises(OSError, match=r"checkpoint-0000006 can't be written .* is intact"):
        train_here(corpus, run, **QUICK)
    assert digest_files(run / "checkpoint-0000003") == checkpoint
    assert not list(run.glob("*.part")), "nothing half-written remains"
    assert list(losses(train_here(corpus, run, **QUICK))) == list(range(1, 7))


@pytest.mark.fault("damaged shards")
@pytest.mark.parametrize("place", ["end", "middle"])
def test_a_damaged_shard_is_named_before_training(corpus: Path, place: str) -> None:
    shard = corpus / "train-00001.parquet"
    content = bytearray(shard.read_bytes())
    half = len(content) // 2
    if place == "end":
        content = content[:half]
    else:
        content[100:half] = b"\xff" * (half - 100)
    shard.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"can't be read: train-00001\.parquet; delete them, and prepare"):
        load_token_corpus(corpus, "train", corpus / "cache")


def test_a_corpus_without_a_validation_split_trains_with_one_warning(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (corpus / "validation-00000.parquet").unlink()
    with caplog.at_level("WARNING"):
        lines = train_here(corpus, tmp_path / "run", **{**QUICK, "validation_split": "validation"})
    assert list(losses(lines)) == list(range(1, 7))
    assert not any("validation_matched" in line for line in lines)
    (notice,) = [record.getMessage() for record in caplog.records if "validat" in record.getMessage()]
    assert notice.endswith(
        "has no validation split, so the run is not validated; prepare more songs to hold some out."
    )


def test_a_single_validation_song_gives_no_shuffled_scores_and_a_finished_run_adds_nothing(
    corpus: Path, tmp_path: Path
) -> None:
    write_shard(corpus / "validation-00000.parquet", [toy_excerpt("alone", seconds=6.0, seed=9)], INFO)
    how = {**QUICK, "validation_split": "validation"}
    lines = train_here(corpus, tmp_path / "run", **how)
    assert train_here(corpus, tmp_path / "run", **how) == lines, "a finished run has nothing to add"
    validated = [line for line in lines if "validation_matched" in line]
    assert [line["step"] for line in validated] == [0, 6]
    assert not any("shuffled" in name or "paired" in name for name in validated[-1])
    facts = json.loads((tmp_path / "run/run.json").read_text())
    assert facts["processes"] == 1
    assert facts["arguments"]["max_steps"] == 6
    assert lines[-2]["skipped_steps"] == 0


def test_the_command_line_prints_one_sentence_and_exits_with_1(corpus: Path, tmp_path: Path) -> None:
    run = run_program([sys.executable, RECIPE, *words(corpus, tmp_path / "run", global_batch=64)])
    assert run.returncode == 1
    assert run.stdout == ""
    assert "hafm: The corpus holds 40 crops of 1.2 s, fewer than a global batch of 64" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_ineffective_options_are_refused_and_leave_the_run_unchanged(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_here(corpus, run, **QUICK)
    before = digest_files(run)
    for changes, message in (
        ({"lead_sheet_streams": "style", "styles": "ROCK"}, "No song of .* has the style ROCK"),
        ({"lead_sheet_octave": 0.1}, "without --lead_sheet_streams has no lead sheet"),
        ({"hidden_size": 48}, "is not a checkpoint of this stage and optimizer"),
    ):
        with pytest.raises(ValueError, match=message):
            train_here(corpus, run, **QUICK, **changes)
    assert digest_files(run) == before
