# SPDX-License-Identifier: Apache-2.0
"""Parts become a composite, or are refused where they do not belong together."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from hafm_hf.accompaniment.assemble import assemble_composite
from hafm_hf.cli import app
from hafm_hf.pretrained.loading import codec_fingerprint, fingerprint
from hafm_hf.tokenizers.codecs import load_codec
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from tiny_models import tiny_codec, tiny_semantic_tokenizer, tiny_stage


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    tiny_semantic_tokenizer().save_pretrained(folder / "semantic_tokenizer")
    tiny_codec().save_pretrained(folder / "codec")
    for stage in ("semantic", "coarse", "fine"):
        tiny_stage(stage).save_pretrained(folder / stage)
    return folder


def test_a_codec_that_a_stage_has_not_learnt_is_refused(parts: Path, tmp_path: Path) -> None:
    words = {part.name: str(part) for part in parts.iterdir()}
    model = load_codec(parts / "codec").model
    codec = codec_fingerprint(model)
    tiny_stage("coarse", tokenizers={"codec": codec}).save_pretrained(tmp_path / "coarse")
    tiny_stage("fine", tokenizers={"codec": "another"}).save_pretrained(tmp_path / "fine")
    # a decoder that has been trained further says the same codes in another sound
    with torch.no_grad():
        model.decoder.layers[-1].conv.bias.add_(0.1)
    model.save_pretrained(tmp_path / "codec")
    fitting = {**words, "coarse": str(tmp_path / "coarse"), "codec": str(tmp_path / "codec")}
    assert assemble_composite(fitting, tmp_path / "model", "float32") > 0
    assert codec_fingerprint(model) == codec != codec_fingerprint(model.decoder)
    message = f"the fine stage has learnt tokens of the codec another, but this one is {codec}"
    with pytest.raises(ValueError, match=message):
        assemble_composite({**words, "fine": str(tmp_path / "fine")}, tmp_path / "other")
    assert not list(tmp_path.glob("other*"))


def test_a_tokenizer_is_the_same_however_its_numbers_are_held(tmp_path: Path) -> None:
    tokenizer = tiny_semantic_tokenizer().half()
    tokenizer.save_pretrained(tmp_path)
    found = {fingerprint(tokenizer)}
    for dtype in (torch.float16, torch.float32, "auto"):
        found.add(fingerprint(HAFMSemanticTokenizerModel.from_pretrained(tmp_path, dtype=dtype)))
    assert len(found) == 1
    with torch.no_grad():
        tokenizer.centroids[0, 0] += 1
    assert fingerprint(tokenizer) not in found


def test_parts_with_other_vocabularies_are_refused_and_nothing_is_written(parts: Path, tmp_path: Path) -> None:
    size = tiny_stage("semantic").config.codebook_sizes[0] + 1
    tiny_stage("semantic", codebook_sizes=[size]).save_pretrained(tmp_path / "semantic")
    words = [
        f"--{part.name.replace('_', '-')}={tmp_path / 'semantic' if part.name == 'semantic' else part}"
        for part in parts.iterdir()
    ]
    done = CliRunner().invoke(app, ["assemble", str(tmp_path / "model"), *words])
    assert done.exit_code == 1 and "do not fit" in str(done.exception)
    assert not (tmp_path / "model").exists()
