# SPDX-License-Identifier: Apache-2.0
"""The training recipe on the command line: it learns, and the same with several processes or after a kill."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from hafm_hf.modeling.modeling_stage import HAFMSemanticForCausalLM
from integration.training_runs import (
    CROP_SECONDS,
    GLOBAL_BATCH,
    STEPS,
    VALIDATION_STEPS,
    kill_after,
    launch,
    losses,
    read_metrics,
    start,
    train,
)

# metrics of every training step, beside its loss
WATCHED = {"gradient_norm", "learning_rate", "tokens_per_second", "hours_of_audio"}
# nats by which a loss must fall over the run
CLEAR_FALL = 0.5


@pytest.fixture(scope="module")
def whole_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was not interrupted."""
    output = tmp_path_factory.mktemp("whole")
    launch(corpus, output)
    return output


@pytest.fixture(scope="module")
def run_of_two_processes(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run by two processes, also not interrupted."""
    output = tmp_path_factory.mktemp("two")
    launch(corpus, output, processes=2)
    return output


def kill_and_resume(corpus: Path, output: Path, processes: int) -> tuple[int, list[dict[str, Any]]]:
    """Kills a run at a random step, starts it again, and returns the last step before the kill and all metrics."""
    # after the first checkpoint, which is saved at step 5, and before the last
    step = random.randrange(6, 26)
    killed = kill_after(start(corpus, output, processes), output, step)
    assert list(output.glob("checkpoint-*/progress.json")), f"killed at step {killed}, without a checkpoint"
    return killed, train(corpus, output, processes)


def assert_same_run(one: Path, other: Path, killed: int) -> None:
    """Asserts that all losses, validations and weights of two runs are bit-identical.

    Args:
        one: folder of the run that was not interrupted.
        other: folder of the run that was killed and resumed.
        killed: its last step before the kill, for the messages.
    """
    first = read_metrics(one)
    second = read_metrics(other)
    assert [line["step"] for line in first] == [line["step"] for line in second], f"killed at step {killed}"
    for line, same in zip(first, second, strict=True):
        for name in ("loss", "validation_matched", "validation_codebooks", "gradient_norm"):
            assert line.get(name) == same.get(name), f"{name} of step {line['step']}, killed at step {killed}"
    models = [HAFMSemanticForCausalLM.from_pretrained(folder / "final") for folder in (one, other)]
    named_weights = [model.named_parameters() for model in models]
    for (name, weight), (_, same_weight) in zip(*named_weights, strict=True):
        assert torch.equal(weight, same_weight), f"{name}, killed at step {killed}"


def test_a_launched_run_logs_every_step_and_its_training_and_validation_losses_fall(whole_run: Path) -> None:
    lines = read_metrics(whole_run)
    by_step = losses(lines)
    assert list(by_step) == list(range(1, STEPS + 1))
    assert by_step[STEPS] < by_step[1] - CLEAR_FALL
    validations = [line for line in lines if "validation_matched" in line]
    assert [line["step"] for line in validations] == [0, VALIDATION_STEPS, STEPS]
    assert validations[-1]["validation_matched"] < validations[0]["validation_matched"] - CLEAR_FALL
    assert {"validation_shuffled", "validation_none", "validation_paired_difference_error"} <= set(validations[-1])
    # this stage reads nothing but the vocal
    assert validations[-1]["validation_vocal_difference"] == validations[-1]["validation_paired_difference"]
    # one codebook: the semantic tokens
    assert len(validations[-1]["validation_codebooks"]) == 1


def test_every_log_line_has_the_metrics_to_watch(whole_run: Path) -> None:
    lines = [line for line in read_metrics(whole_run) if "loss" in line]
    for line in lines:
        assert set(line) >= WATCHED
    assert lines[-1]["hours_of_audio"] == pytest.approx(STEPS * GLOBAL_BATCH * CROP_SECONDS / 3600)


def test_the_finished_stage_loads_and_only_the_newest_checkpoints_are_kept(whole_run: Path) -> None:
    model = HAFMSemanticForCausalLM.from_pretrained(whole_run / "final")
    assert model.config.window_seconds == CROP_SECONDS
    # the toy corpus has 40 clusters
    assert model.config.codebook_sizes == [40]
    assert model.generation_config.top_k == 250
    kept = sorted(path.name for path in whole_run.iterdir() if path.is_dir())
    assert kept == ["best", "checkpoint-0000025", "checkpoint-0000030", "final"]


@pytest.mark.fault("killed accelerate launch")
def test_two_killed_processes_resume_to_the_same_losses_and_weights(
    corpus: Path, run_of_two_processes: Path, tmp_path: Path
) -> None:
    killed, _ = kill_and_resume(corpus, tmp_path, processes=2)
    assert_same_run(run_of_two_processes, tmp_path, killed)


def test_losses_of_two_processes_and_of_accumulation_match_those_of_one_process(
    corpus: Path, whole_run: Path, run_of_two_processes: Path, tmp_path: Path
) -> None:
    # a run may resume with a different micro-batch size; the first checkpoint is at step 5
    kill_after(start(corpus, tmp_path), tmp_path, 6)
    train(corpus, tmp_path, accumulation=4)
    folders = (whole_run, run_of_two_processes, tmp_path)
    facts = [json.loads((folder / "run.json").read_text()) for folder in folders]
    assert [run["processes"] for run in facts] == [1, 2, 1]
    # of a global batch of 8
    assert [run["crops_a_process"] for run in facts] == [8, 4, 2]
    together, divided, accumulated = (losses(read_metrics(folder)) for folder in folders)
    assert len(together) == STEPS
    for step, loss in together.items():
        assert divided[step] == pytest.approx(loss, abs=1e-5), f"two processes, step {step}"
        assert accumulated[step] == pytest.approx(loss, abs=1e-5), f"accumulation, step {step}"


def test_seven_processes_train_and_each_saves_its_random_state(corpus: Path, tmp_path: Path) -> None:
    lines = train(corpus, tmp_path, processes=7, global_batch=14, max_steps=3, validation_steps=9, save_steps=9)
    assert json.loads((tmp_path / "run.json").read_text())["processes"] == 7
    assert list(losses(lines)) == [1, 2, 3]
    checkpoint = tmp_path / "checkpoint-0000003"
    assert len(list(checkpoint.glob("random_states_*.pkl"))) == 7, "the random state of every process is saved"
