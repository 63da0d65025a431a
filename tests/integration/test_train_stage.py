"""The training recipe through the command line: it learns, and stopping it changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hafm_hf.modeling_hafm import HAFMSemanticForCausalLM
from training.toy_corpus import write_toy_corpus

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = {
    "stage": "semantic",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "head_dim": 8,
    "position_scheme": "time",
    "crop_seconds": 1.2,
    "global_batch": 8,
    "max_steps": 40,
    "warmup_steps": 5,
    "learning_rate": 1e-2,
    "history_dropout": 0.4,
    "history_dropout_end": 0.2,
    "logging_steps": 5,
    "validation_steps": 20,
    "save_steps": 20,
    "keep_checkpoints": 9,
}


def train(corpus: Path, output: Path, launcher: list[str] | None = None, **changes: object) -> list[dict]:
    """Runs the recipe and returns the lines of its metrics."""
    flags = {**FLAGS, **changes, "corpus": corpus, "output_dir": output, "cache_dir": corpus / "cache"}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    launch = launcher or [sys.executable]
    run = subprocess.run(
        [*launch, str(REPOSITORY / "recipes/train_stage.py"), *words],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY / "src"),
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_toy_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def whole_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole")
    config = REPOSITORY / "recipes/accelerate/cpu.yaml"
    train(corpus, output, [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)])
    return output


def read_metrics(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_accelerate_launch_trains_a_stage_whose_loss_falls(whole_run: Path) -> None:
    lines = read_metrics(whole_run)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 0.5
    validations = [line for line in lines if "validation_matched" in line]
    assert [line["step"] for line in validations] == [0, 20, 40]
    assert validations[-1]["validation_matched"] < validations[0]["validation_matched"] - 0.5
    assert {"validation_shuffled", "validation_none", "validation_paired_difference_error"} <= set(validations[-1])
    assert len(validations[-1]["validation_codebooks"]) == 1


def test_the_finished_stage_loads_and_keeps_its_window(whole_run: Path) -> None:
    model = HAFMSemanticForCausalLM.from_pretrained(whole_run / "final")
    assert model.config.window_seconds == 1.2 and model.config.codebook_sizes == [40]
    assert model.generation_config.top_k == 250


def test_a_resumed_run_ends_with_the_same_weights_and_losses(corpus: Path, whole_run: Path, tmp_path: Path) -> None:
    lost = tmp_path / "checkpoint-0000020"
    (whole_run / "checkpoint-0000020").rename(lost)
    (tmp_path / "metrics.jsonl").write_text((whole_run / "metrics.jsonl").read_text())
    resumed = train(corpus, tmp_path)
    whole = read_metrics(whole_run)
    assert [line["step"] for line in resumed] == [line["step"] for line in whole]
    for line, other in zip(resumed, whole, strict=True):
        assert line.get("loss") == other.get("loss")
        assert line.get("validation_matched") == other.get("validation_matched")
    first, second = (HAFMSemanticForCausalLM.from_pretrained(folder / "final") for folder in (whole_run, tmp_path))
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_global_batch_that_does_not_divide_is_refused_before_training(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="multiple of 3"):
        train(corpus, tmp_path, accumulation=3)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_accumulation_does_not_change_the_losses(corpus: Path, whole_run: Path, tmp_path: Path) -> None:
    divided = train(corpus, tmp_path, accumulation=2, max_steps=10, validation_steps=100, save_steps=100)
    together = train(corpus, tmp_path / "one", max_steps=10, validation_steps=100, save_steps=100)
    pairs = [(a["loss"], b["loss"]) for a, b in zip(divided, together, strict=True) if "loss" in a]
    assert len(pairs) >= 3
    assert all(a == pytest.approx(b, abs=1e-5) for a, b in pairs)
