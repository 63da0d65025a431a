# SPDX-License-Identifier: Apache-2.0
"""Untrusted models load as saved or are refused by name: no code runs, and no memory is allocated before that."""

import ast
import json
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import EncodecModel

import hafm_hf
from faults import Tally
from hafm_hf.pretrained.loading import SUMS_FILE, check_checkpoint, load_strictly, write_checksums
from programs import REPOSITORY
from vocals import file_bytes, glide

WEIGHTS = "model.safetensors"
PARTS: dict[str, Any] = {
    "semantic_tokenizer": hafm_hf.HAFMSemanticTokenizerModel,
    "semantic": hafm_hf.HAFMSemanticForCausalLM,
    "coarse": hafm_hf.HAFMCoarseForCausalLM,
    "fine": hafm_hf.HAFMFineForCausalLM,
    "codec": EncodecModel,
}


@pytest.fixture
def saved(tiny_model: Path, tmp_path: Path) -> Path:
    """Folder of a composite with checksums, as published, which the test may damage."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    write_checksums(folder)
    return folder


def damage(file: Path, content: bytes | bytearray) -> None:
    """Changes a file as a failing disk would: its modification time stays the same."""
    times = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def refusal(part: str, folder: Path) -> str:
    """The error message of loading a part of the composite in `folder`; fails if it loads."""
    with pytest.raises(Exception) as caught:
        load_strictly(PARTS[part], folder, subfolder=part)
    error = caught.value.__cause__ if type(caught.value).__name__.startswith("Strict") else caught.value
    return str(error)


@pytest.mark.fault("flipped bits and cuts in weights", cut=60, full=2000)
def test_a_flipped_bit_or_truncation_is_an_error_that_names_the_file(tally: Tally, saved: Path) -> None:
    draw = random.Random(9)
    for number in range(tally.tries):
        part = draw.choice(list(PARTS))
        file = saved / part / WEIGHTS
        whole = file.read_bytes()
        content = bytearray(whole)
        # three tries of four flip a bit, the fourth truncates
        if number % 4:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        else:
            del content[draw.randrange(len(content)) :]
        damage(file, content)
        try:
            check_checkpoint(PARTS[part], saved, subfolder=part)
        except ValueError as error:
            if str(file) in str(error):
                tally.survived()
            else:
                tally.lose(f"{error} does not name {file}")
        else:
            tally.lose(f"{file} is not noticed")
        damage(file, whole)


@pytest.mark.fault("flipped bits without checksums", cut=40, full=1000)
def test_without_checksums_a_damaged_header_loads_or_gives_an_error_with_the_path(tally: Tally, saved: Path) -> None:
    draw = random.Random(10)
    (saved / "coarse" / SUMS_FILE).unlink()
    file = saved / "coarse" / WEIGHTS
    whole = file.read_bytes()
    # the file begins with the size of its JSON header in 8 bytes, and the header
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(tally.tries):
        content = bytearray(whole)
        content[draw.randrange(header)] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
        try:
            load_strictly(hafm_hf.HAFMCoarseForCausalLM, saved, subfolder="coarse")
            # some bits, as in metadata, need not matter
            tally.survived()
        except ValueError as error:
            assert str(saved) in str(error)
            tally.survived()


def test_non_finite_weights_are_refused_without_checksums(saved: Path) -> None:
    (saved / "fine" / SUMS_FILE).unlink()
    file = saved / "fine" / WEIGHTS
    nan = b"\x00\x00\xc0\x7f"
    file.write_bytes(file.read_bytes()[:-4] + nan)
    assert "holds NaN or infinite numbers" in refusal("fine", saved)


class Payload:
    """An object whose unpickling runs code: it creates a file."""

    def __init__(self, path: Path) -> None:
        """Takes the path of the file to create."""
        self.path = path

    def __reduce__(self) -> Any:
        """The call, with its argument, that unpickling makes."""
        return Path.touch, (self.path,)


@pytest.mark.fault("pickles in place of weights")
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.bin"])
def test_a_pickle_is_refused_and_never_read(name: str, saved: Path, tmp_path: Path) -> None:
    (saved / "coarse" / name).write_bytes(pickle.dumps(Payload(tmp_path / "owned")))
    # next to safetensors it is ignored
    load_strictly(hafm_hf.HAFMCoarseForCausalLM, saved, subfolder="coarse")
    (saved / "coarse" / WEIGHTS).unlink()
    assert "safetensors" in refusal("coarse", saved)
    with pytest.raises(OSError, match="safetensors"):
        hafm_hf.HAFMCoarseForCausalLM.from_pretrained(saved, subfolder="coarse", use_safetensors=False)
    assert not (tmp_path / "owned").exists()


# values for each of the fields below
HOSTILE_VALUES = [-1, 0, 10**9, 2**63, -(10**9)]
SIZES = {
    "semantic": ["hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "frame_rate"],
    "coarse": ["conditioning_frame_rate", "relative_attention_num_buckets", "time_attention_num_buckets"],
    "fine": ["intermediate_size"],
    "semantic_tokenizer": ["num_clusters", "layer", "sampling_rate", "frame_rate", "chunk_seconds"],
    "codec": ["num_filters", "hidden_size", "codebook_size", "kernel_size", "num_lstm_layers", "sampling_rate"],
}
# (part, field, value)
OTHERS: list[tuple[str, str, Any]] = [
    ("semantic", "codebook_sizes", []),
    ("semantic", "codebook_sizes", [2] * 10_000),
    ("coarse", "codebook_sizes", [16, 16, 16, 12]),
    ("semantic", "window_seconds", float("inf")),
    ("semantic", "attention_dropout", float("nan")),
    ("semantic", "position_scheme", "../../etc"),
    ("semantic", "hidden_size", 8192),
    ("semantic", "hidden_size", "24"),
    ("codec", "upsampling_ratios", [8, 5, 4, 7]),
    ("codec", "upsampling_ratios", [1] * 40),
    ("codec", "target_bandwidths", [1e300]),
    ("codec", "codebook_size", 1),
    ("semantic_tokenizer", "noise_std", float("nan")),
    ("semantic_tokenizer", "frame_rate", 49),
]
# fields and values of the semantic tokenizer's HuBERT
HUBERT = [("hidden_size", -12), ("conv_stride", [0] * 7), ("conv_dim", [10**9] * 7)]


def hostile_configurations() -> list[tuple[str, str, Any]]:
    """(part, field, value) of every configuration to refuse; fields of HuBERT begin with "hubert_config."."""
    sizes = [(part, name, value) for part, names in SIZES.items() for name in names for value in HOSTILE_VALUES]
    hubert = [("semantic_tokenizer", f"hubert_config.{name}", value) for name, value in HUBERT]
    # an intermediate size of 0 means the default
    return [each for each in sizes + OTHERS + hubert if each != ("fine", "intermediate_size", 0)]


@pytest.mark.fault("configurations out of range", cut=116, full=116)
def test_configurations_out_of_range_are_refused_before_memory_is_allocated(tally: Tally, saved: Path) -> None:
    for part, name, value in hostile_configurations():
        file = saved / part / "config.json"
        whole = file.read_text()
        config = json.loads(whole)
        *inner, field = name.split(".")
        changed = config[inner[0]] if inner else config
        changed[field] = value
        file.write_text(json.dumps(config))
        # ru_maxrss: KiB
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = refusal(part, saved)
        taken_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        if taken_mb > 100:
            tally.lose(f"{part} {name} = {value!r} took {taken_mb:.0f} MB before it said: {said}")
        else:
            tally.survived()
        file.write_text(whole)


@pytest.mark.parametrize(
    "change", [{"sampling_rate": 0}, {"sampling_rate": 10**9}, {"max_seconds": -1.0}, {"min_seconds": float("nan")}]
)
def test_a_feature_extractor_out_of_range_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="feature extractor"):
        hafm_hf.HAFMFeatureExtractor(**change)


@pytest.mark.fault("paths that lead outside a model")
@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", "..\\secret.safetensors", ".safetensors"])
def test_an_index_may_name_only_files_next_to_it(name: str, saved: Path) -> None:
    (saved / "coarse" / WEIGHTS).rename(saved.parent / "secret.safetensors")
    index = {"metadata": {}, "weight_map": {"heads.weight": name}}
    (saved / "coarse" / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert "not a file next to it" in refusal("coarse", saved)


def test_a_damaged_shard_is_refused_by_name_until_its_checksum_is_written_again(saved: Path, tmp_path: Path) -> None:
    stage = hafm_hf.HAFMCoarseForCausalLM.from_pretrained(saved, subfolder="coarse")
    # bytes, small enough for several shards
    stage.save_pretrained(tmp_path / "sharded", max_shard_size=20_000)
    write_checksums(tmp_path / "sharded")
    shards = sorted((tmp_path / "sharded").glob("*.safetensors"))
    assert len(shards) > 2
    assert len((tmp_path / "sharded" / SUMS_FILE).read_text().splitlines()) == len(shards)
    load_strictly(hafm_hf.HAFMCoarseForCausalLM, tmp_path / "sharded")
    content = bytearray(shards[1].read_bytes())
    content[-1] ^= 1
    damage(shards[1], content)
    with pytest.raises(ValueError, match=f"{shards[1].name} is damaged: it does not match SHA256SUMS"):
        load_strictly(hafm_hf.HAFMCoarseForCausalLM, tmp_path / "sharded")
    write_checksums(tmp_path / "sharded")
    load_strictly(hafm_hf.HAFMCoarseForCausalLM, tmp_path / "sharded")


def test_checksums_are_updated_by_our_saving_and_reveal_saving_by_others(saved: Path) -> None:
    stage = hafm_hf.HAFMCoarseForCausalLM.from_pretrained(saved, subfolder="coarse")
    with torch.no_grad():
        stage.heads.weight.add_(1.0)
    Accelerator().save_model(stage, saved / "coarse")
    with pytest.raises(ValueError, match="delete SHA256SUMS if you changed the weights yourself"):
        hafm_hf.HAFMForVocalAccompaniment.from_pretrained(saved)
    # when the model saves itself, it updates existing checksums
    stage.save_pretrained(saved / "coarse")
    assert subprocess.run(["sha256sum", "-c", SUMS_FILE], cwd=saved / "coarse", capture_output=True).returncode == 0
    # but it does not create them
    stage.save_pretrained(saved / "new")
    assert not (saved / "new" / SUMS_FILE).exists()


@pytest.mark.fault("code in a model's folder")
def test_code_next_to_weights_is_not_run_and_the_command_reports_it(saved: Path, tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    for file in ("hafm_auto.py", "evil.py", "handler.py"):
        (saved / file).write_text(f"open({str(owned)!r}, 'w')\n")
    hafm_hf.HAFMForVocalAccompaniment.from_pretrained(saved)
    config = json.loads((saved / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (saved / "config.json").write_text(json.dumps(config))
    (tmp_path / "vocal.wav").write_bytes(file_bytes(glide(1.0)))
    command = [sys.executable, "-m", "hafm_hf", "accompany", str(tmp_path / "vocal.wav"), "--model", str(saved)]
    # even if every prompt were answered with yes
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, input="y\ny\ny\n", check=False
    )
    assert run.returncode == 1
    assert "cannot be loaded" in run.stderr
    assert "Traceback" not in run.stderr
    assert not owned.exists()
    assert not (tmp_path / "out").exists()


def test_we_never_set_trust_remote_code_to_true() -> None:
    found = []
    for folder in ("src", "space", "recipes"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                    found.append((path.name, ast.unparse(node.value)))
    assert found, found
    assert {value for _, value in found} == {"False"}, found
