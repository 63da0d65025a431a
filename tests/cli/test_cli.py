# SPDX-License-Identifier: Apache-2.0
"""`hafm info` against the model itself, and command-line checks that need no process of their own."""

import inspect
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from hafm_hf import GenerationOptions, HAFMConfig, HAFMForVocalAccompaniment, HAFMPipeline
from hafm_hf.accompaniment.options import MixOptions
from hafm_hf.cli import app
from hafm_hf.cli.accompany import accompany
from hafm_hf.cli.accompany_folder import model_fingerprint
from hafm_hf.cli.console import HAFMCommandError, missing_package
from hafm_hf.cli.info import describe_model
from hafm_hf.cli.options import load_pipeline
from tiny_models import CLUSTERS, CODES, tiny_stage
from vocals import EXAMPLE, file_bytes, glide


def test_a_missing_package_is_named_with_the_smallest_extra_that_has_it() -> None:
    for module, extra in (("pyloudnorm", "studio"), ("peft", "train"), ("mir_eval", "eval")):
        assert f"pip install 'hafm-hf[{extra}]'." in str(missing_package(ModuleNotFoundError(name=module)))


def test_description_agrees_with_the_loaded_model(tiny_model: Path) -> None:
    described = describe_model(str(tiny_model))
    model = HAFMForVocalAccompaniment.from_pretrained(tiny_model)
    counts = model.parameter_counts()
    assert described["parameters"] == counts.pop("total")
    assert {name: part["parameters"] for name, part in described["parts"].items()} == counts
    assert described["sampling_rate"] == model.sampling_rate
    assert described["bytes"] == sum(path.stat().st_size for path in tiny_model.rglob("*") if path.is_file())
    shown = CliRunner().invoke(app, ["info", str(tiny_model)]).output
    for name, part in described["parts"].items():
        assert part["bytes"] > (tiny_model / name / "model.safetensors").stat().st_size > 0
        (line,) = (line for line in shown.splitlines() if f" {name} " in line and "│" in line)
        assert f"{part['parameters']:,}" in line


def test_vocabularies_rates_positions_and_patterns_are_described(tiny_model: Path) -> None:
    parts = describe_model(str(tiny_model))["parts"]
    assert parts["semantic"]["vocabulary"] == f"{CLUSTERS} → {CLUSTERS}"
    assert parts["coarse"]["vocabulary"] == f"{CLUSTERS} and {CLUSTERS} → 4 × {CODES}"
    assert parts["coarse"]["rates"] == "50 → 75 frames/s (300 tokens/s)"
    assert parts["fine"]["vocabulary"] == f"4 × {CODES} → 4 × {CODES}"
    for stage in ("semantic", "coarse", "fine"):
        assert parts[stage]["position_scheme"] == "index"
        assert "index" in parts[stage]["architecture"]
        assert parts[stage]["codebook_pattern"] == "flat"
    delayed = tiny_stage("fine", codebook_pattern="delay").config.describe()
    assert delayed["codebook_pattern"] == "delay"
    assert "codebook pattern delay" in delayed["architecture"]


def test_the_bundled_model_is_the_default_small_and_lists_its_styles(bundled_model: Path) -> None:
    described = describe_model(None)
    assert described["model"] == str(bundled_model)
    # 75 MB
    assert described["bytes"] <= 75_000_000
    assert described["sampling_rate"] == 44_100
    assert "folk" in described["styles"]
    shown = " ".join(CliRunner().invoke(app, ["info"]).output.split())
    assert shown.endswith(f"styles: {', '.join(described['styles'])}")


def test_the_papers_model_size_is_computed_from_its_configuration_alone(tmp_path: Path) -> None:
    HAFMConfig().save_pretrained(tmp_path)
    parts = describe_model(str(tmp_path))["parts"]
    # The paper says 250 M in all, but the architecture it describes adds up to this, in millions.
    sizes = [round(parts[stage]["parameters"] / 1e6, 1) for stage in ("semantic", "coarse", "fine")]
    assert sizes == [38.5, 42.5, 44.1]
    assert parts["coarse"]["rates"] == "50 → 75 frames/s (300 tokens/s)"


def test_hafm_tiny_names_the_bundled_model_in_every_command(bundled_model: Path) -> None:
    assert describe_model("hafm-tiny") == describe_model(None) | {"model": "hafm-tiny"}
    assert model_fingerprint("hafm-tiny") == model_fingerprint(None)
    assert Path(load_pipeline("hafm-tiny", "cpu", "auto").model.name_or_path) == bundled_model


def test_a_missing_folder_is_not_looked_up_on_the_hub(tmp_path: Path) -> None:
    for words in (["info", "runs/model/final"], ["lead-sheet", str(EXAMPLE), "--model", str(tmp_path / "absent")]):
        with pytest.raises(HAFMCommandError, match=rf"cannot be loaded \(no such folder: {words[-1]}\); name a"):
            CliRunner().invoke(app, words, catch_exceptions=False)
    names = ("semantic-tokenizer", "semantic", "coarse", "fine", "codec")
    parts = [word for name in names for word in (f"--{name}", "runs/absent/final")]
    with pytest.raises(FileNotFoundError, match="no such folder: runs/absent/final"):
        CliRunner().invoke(app, ["assemble", str(tmp_path / "out"), *parts], catch_exceptions=False)


def test_a_damaged_file_of_a_model_is_named(tiny_model: Path, tmp_path: Path) -> None:
    weights = shutil.copytree(tiny_model, tmp_path / "model") / "coarse" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(HAFMCommandError, match=r"coarse/model.safetensors is damaged"):
        load_pipeline(str(tmp_path / "model"), "cpu", "auto")
    shutil.copy(tiny_model / "coarse" / "model.safetensors", weights)
    (tmp_path / "model" / "preprocessor_config.json").write_text("{")
    with pytest.raises(HAFMCommandError, match=r"model/preprocessor_config.json' is not a valid JSON file"):
        load_pipeline(str(tmp_path / "model"), "cpu", "auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_missing_device_is_named_with_a_way_out(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "vocal.wav").write_bytes(file_bytes(glide()))
    arguments = ["accompany", str(tmp_path / "vocal.wav"), "--model", str(tiny_model), "--device", "cuda"]
    with pytest.raises(HAFMCommandError, match="no cuda device .* try --device cpu"):
        CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)], catch_exceptions=False)


def test_every_option_is_a_flag_of_accompany_with_the_same_default() -> None:
    flags = {name: each.default for name, each in inspect.signature(accompany).parameters.items()}
    defaults = {**asdict(GenerationOptions()), **asdict(MixOptions())}
    # not a flag: the reference loop is for comparisons in Python
    del defaults["decoding"]
    assert {name: flags[name] for name in defaults} == defaults


def test_clients_of_a_server_may_set_every_option_but_decoding_compile_and_threads() -> None:
    names = {*asdict(GenerationOptions()), *asdict(MixOptions())}
    assert names - set(HAFMPipeline.public_parameters) == {"decoding", "compile", "threads"}
