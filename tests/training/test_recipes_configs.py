# SPDX-License-Identifier: Apache-2.0
"""recipes/configs agrees with the paper's Table 1, and every configuration can be read."""

import re
from pathlib import Path

import pytest
import yaml

from hafm_hf.corpus.tokens import TokenCorpusInfo
from hafm_hf.modeling.configuration_stage import HAFMStageConfig
from hafm_hf.training.arguments import (
    CorruptionArguments,
    DataArguments,
    OptimizationArguments,
    StageArguments,
    parse_arguments,
)
from hafm_hf.training.data import GlobalBatchSampler
from hafm_hf.training.stages import stage_config

CONFIGS = Path(__file__).resolve().parents[2] / "recipes/configs"
DOCUMENT = CONFIGS.parents[1] / "docs/training.md"
PAPERS_INFO = TokenCorpusInfo(
    semantic_frame_rate=50, acoustic_frame_rate=75, num_clusters=500, codebook_size=1024, num_codebooks=8
)
# by stage: crops in a global batch, seconds of a crop, steps, micro-batches a step, slots of the sequence (PAPER.md,
# "Training")
TABLE_1 = {
    "semantic": (210, 10.0, 100_000, 1, 1000),
    "coarse": (42, 5.0, 200_000, 2, 2000),
    "fine": (140, 3.0, 150_000, 1, 1125),
}


def read(
    name: str,
) -> tuple[StageArguments, DataArguments, CorruptionArguments, OptimizationArguments, HAFMStageConfig]:
    """The arguments in a file, and the resulting stage configuration for the paper's tokens."""
    words = [str(CONFIGS / name), "--corpus", "CORPUS", "--output_dir", "RUN"]
    stage, data, corruption, optimization, _ = parse_arguments(words)
    return stage, data, corruption, optimization, stage_config(stage, PAPERS_INFO, data.crop_seconds)


@pytest.mark.parametrize("scheme", ["index", "time"])
@pytest.mark.parametrize("name", list(TABLE_1))
def test_the_papers_configurations_match_table_1_under_both_schemes(name: str, scheme: str) -> None:
    stage, data, corruption, run, config = read(f"{name}.yaml" if scheme == "index" else f"{name}-time.yaml")
    frames = round(config.window_seconds * config.conditioning_frame_rate)
    slots = config.num_conditioning_sources * frames + config.target_length(frames)
    assert stage.stage == name
    assert config.position_scheme == scheme
    assert (run.global_batch, data.crop_seconds, run.max_steps, run.accumulation, slots) == TABLE_1[name]
    shape = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.head_dim)
    assert shape == (12, 512, 8, 64)
    assert (run.learning_rate, run.final_learning_rate, run.warmup_steps) == (3e-4, 1e-6, 4000)
    assert (run.adam_beta1, run.adam_beta2, run.weight_decay, run.max_grad_norm) == (0.9, 0.98, 0.01, 1.0)
    assert run.mixed_precision == "fp16"
    assert corruption.history_dropout == 0.0
    assert run.global_batch % (7 * run.accumulation) == 0, "the batch divides evenly over the paper's seven GPUs"


def test_the_documented_table_of_batches_matches_the_code() -> None:
    rows = re.findall(r"^\| (semantic|coarse|fine) \|(.*)\|$", DOCUMENT.read_text(), re.MULTILINE)
    # by stage and number of columns, as the document has several tables by stage
    documented = {}
    for name, line in rows:
        cells = [cell.strip() for cell in line.split("|")]
        documented[name, len(cells)] = cells
    for name, (crops, seconds, steps, accumulation, _) in TABLE_1.items():
        # crops in a process's micro-batch, by number of processes
        largest = [GlobalBatchSampler(crops, accumulation, 0, world).largest for world in (1, 2, 7, 8, 14)]
        segments = read(f"{name}.yaml")[-1].num_conditioning_sources + 1
        batches = [crops, f"{seconds:g}", f"{steps:,}", accumulation, segments, *largest]
        assert documented[name, 10] == [str(value) for value in batches]


# the facts of a model card are not a training configuration
CONFIGURATIONS = sorted(
    path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml") if "card" not in path.name
)
# processes of each configuration of accelerate
LAUNCHES = {"cpu": 1, "gpu": 1, "two_gpus": 2, "seven_gpus": 7, "eight_gpus": 8, "multi_node": 14}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_gives_its_stage(name: str) -> None:
    stage, *_, config = read(name)
    assert config.model_type == f"hafm_{stage.stage}"


def test_accelerate_configurations_have_the_expected_processes() -> None:
    found = {path.stem: yaml.safe_load(path.read_text()) for path in (CONFIGS.parent / "accelerate").glob("*.yaml")}
    assert {name: content["num_processes"] for name, content in found.items()} == LAUNCHES
    assert all((found[name]["distributed_type"] == "MULTI_GPU") == (count > 1) for name, count in LAUNCHES.items())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mixed_precision", "fp8"], "choose no, fp16 or bf16"),
        (["--optimizer", "sgd"], "choose adamw or muon"),
        (["--optimizer", "muon", "--mixed_precision", "fp16"], "cannot share a loss scale"),
        (["--history_dropout", "1.5"], "from 0 to 1"),
        (["--stage", "course"], "'course' is not a stage; choose from semantic, coarse, fine"),
        (["--codebook_pattern", "flot"], "'flot' is not a codebook pattern; choose from flat, delay"),
        (["--lead_sheet_streams", "mood"], "'mood' is not a lead sheet stream; choose from chord"),
        (["--styles", *"abcdefghijklmnop"], "16 styles are given; a stage supports at most 15"),
        (["--styles", "rock"], "name it among --lead_sheet_streams"),
        (["--style_ranges", '{"rock": {"tempo": 90}}'], "--style_ranges cannot be read"),
        (["--lora_alpha", "8"], "give them a --lora_rank"),
        (["--warmup_steps", "-5"], "warmup_steps is -5; it must be at least 0"),
        (["--keep_checkpoints", "-1"], "keep_checkpoints is -1; it must be at least 1"),
        *((["--" + name, "0"], f"{name} is 0; it must be") for name in ("validation_crops", "validation_batch")),
        (["--max_hours", "0"], "max_hours is 0.0; it must be above 0"),
    ],
)
def test_unknown_keys_and_arguments_out_of_range_are_refused_before_anything_is_loaded(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--corpus", "CORPUS", "--output_dir", "RUN", *flags])
    (tmp_path / "one.yaml").write_text("lead_sheet_streams: chord\nmixed_precision: no\ncrop_seconds: 2\n")
    stage, _, _, run, _ = parse_arguments([str(tmp_path / "one.yaml"), "--corpus", "CORPUS", "--output_dir", "RUN"])
    assert stage.lead_sheet_streams == ["chord"]
    assert run.mixed_precision == "no"
    (tmp_path / "wrong.yaml").write_text("learing_rate: 1.0\n")
    with pytest.raises(ValueError, match="learing_rate"):
        parse_arguments([str(tmp_path / "wrong.yaml"), "--corpus", "CORPUS", "--output_dir", "RUN"])
