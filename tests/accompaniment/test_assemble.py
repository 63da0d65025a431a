# SPDX-License-Identifier: Apache-2.0
"""Assembling parts into a composite: a folder of its own, sounds of styles, and no unrelated files replaced."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from chaos import digest_files
from commands import hafm, said
from hafm_hf import HAFMForVocalAccompaniment, audio
from hafm_hf.accompaniment.assemble import LEAD_SHEET_SETTINGS, assemble_composite
from hafm_hf.accompaniment.parts import part_classes
from hafm_hf.lead_sheet.lead_sheet import ROW_SIZES
from hafm_hf.pretrained.loading import codec_fingerprint, fingerprint, tokenizer_fingerprint
from hafm_hf.pretrained.saving import STYLE_SOUND_BYTES, read_style_sounds
from hafm_hf.tokenizers.codecs import load_codec
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from style_sounds import write_style_sounds
from tiny_models import tiny_band, tiny_composite, tiny_rhythmic_tokenizer, tiny_semantic_tokenizer, tiny_stage
from vocals import CODEC_RATE, file_bytes, glide


def parts_of(folder: Path) -> dict[str, str]:
    """The folders of the parts of a saved composite, by the names of the parts."""
    return {name: str(folder / name) for name in ("semantic_tokenizer", "semantic", "coarse", "fine", "codec")}


@pytest.fixture(scope="module")
def parts(tiny_model: Path) -> dict[str, str]:
    """Folders of the parts of `tiny_model`, by the names of the parts."""
    return parts_of(tiny_model)


@pytest.mark.parametrize("config", [None, '{"model_type": "hafm_coarse"}', "[]", "words"])
def test_a_folder_with_unrelated_files_is_refused_and_left_unchanged(
    parts: dict[str, str], tmp_path: Path, config: str | None
) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    (folder / "lyrics.txt").write_text("la la la")
    if config is not None:
        (folder / "config.json").write_text(config)
    before = digest_files(tmp_path, ignored=())
    with pytest.raises(ValueError, match="songs holds files that are not a composite; name another folder"):
        assemble_composite(parts, folder)
    with pytest.raises(ValueError, match="lyrics.txt is a file"):
        assemble_composite(parts, folder / "lyrics.txt")
    assert digest_files(tmp_path, ignored=()) == before


def test_an_empty_folder_or_older_composite_is_replaced_and_its_siblings_kept(
    parts: dict[str, str], tmp_path: Path
) -> None:
    model = tmp_path / "new" / "model"
    assert assemble_composite(parts, model) > 0
    for name in ("model.old", "model.part"):
        (model.parent / name).mkdir()
        (model.parent / name / "notes.txt").write_text("mine")
    (model / "stale.txt").write_text("from the previous composite")
    (model / "README.md").write_text("mine")
    assemble_composite(parts, model, "float32")
    assert HAFMForVocalAccompaniment.from_pretrained(model).config.model_type == "hafm"
    assert not (model / "stale.txt").exists()
    assert (model / "README.md").read_text() == "mine"
    assert sorted(path.name for path in model.parent.iterdir()) == ["model", "model.old", "model.part"]
    assert (model.parent / "model.old" / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert assemble_composite(parts, tmp_path / "empty") > 0


def test_a_codec_in_half_precision_keeps_its_sound_and_its_fingerprint(parts: dict[str, str], tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        assemble_composite(parts, tmp_path / dtype, dtype)
    whole, halved = (load_codec(str(tmp_path / dtype / "codec")) for dtype in ("float32", "bfloat16"))
    assert codec_fingerprint(halved.model) == codec_fingerprint(whole.model)
    codes = torch.randint(16, (1, 8, 75), generator=torch.Generator().manual_seed(0))
    expected = whole.decode(codes)
    decoded = halved.decode(codes)
    assert decoded.dtype == torch.float32
    error = float((decoded - expected).square().mean() / expected.square().mean())
    assert 0 < error < 1e-5
    stored = load_file(tmp_path / "bfloat16" / "codec" / "model.safetensors")
    assert {each.dtype for name, each in stored.items() if name.startswith("decoder.")} == {torch.float16}


def test_a_composite_may_have_two_stages_but_missing_parts_are_named(parts: dict[str, str], tmp_path: Path) -> None:
    two = {name: source for name, source in parts.items() if name != "fine"}
    assemble_composite(two, tmp_path / "model")
    assert list(HAFMForVocalAccompaniment.from_pretrained(tmp_path / "model").stages) == ["semantic", "coarse"]
    with pytest.raises(ValueError, match="Name every part; missing: coarse, codec."):
        assemble_composite({**two, "coarse": "", "codec": ""}, tmp_path / "model")


def test_parts_that_are_not_named_come_from_another_model(tmp_path: Path) -> None:
    base = tmp_path / "base"
    model = tmp_path / "model"
    tiny_band().save_pretrained(base)
    (base / "styles").mkdir()
    (base / "styles" / "rock.ogg").write_bytes(b"a sound")
    coarse = tiny_band().coarse
    with torch.no_grad():
        coarse.heads.weight.add_(0.1)
    coarse.save_pretrained(tmp_path / "coarse")
    done = hafm("assemble", model, "--from", base, "--coarse", tmp_path / "coarse", "--dtype", "float32")
    assert done.exit_code == 0, done.output
    # every part is that of `base`, but for the coarse stage
    assembled = HAFMForVocalAccompaniment.from_pretrained(model)
    sources = {name: base / name for name in part_classes(assembled.config)} | {"coarse": tmp_path / "coarse"}
    for name, source in sources.items():
        stored, expected = (load_file(folder / "model.safetensors") for folder in (model / name, source))
        assert stored.keys() == expected.keys(), name
        assert all(torch.equal(stored[key], expected[key]) for key in stored), name
    assert assembled.style_sounds == {"rock": b"a sound"}


def test_exchanging_parts_one_by_one_keeps_the_models_own_sounds_and_limits(tmp_path: Path) -> None:
    base = tmp_path / "base"
    model = tmp_path / "model"
    band = tiny_band()
    band.feature_extractor_config = {"min_seconds": 0.5, "max_seconds": 60}
    band.save_pretrained(base)
    (base / "styles").mkdir()
    (base / "styles" / "rock.ogg").write_bytes(b"a sound")
    for part in ("coarse", "semantic"):
        getattr(tiny_band(), part).save_pretrained(tmp_path / part)
        done = hafm("assemble", model, "--from", base, f"--{part}", tmp_path / part)
        assert done.exit_code == 0, done.output
        (model / "styles" / "rock.ogg").write_bytes(b"another sound")
    assert (model / "styles" / "rock.ogg").read_bytes() == b"another sound"
    extractor = HAFMForVocalAccompaniment.from_pretrained(model).feature_extractor()
    assert (extractor.min_seconds, extractor.max_seconds) == (0.5, 60)


def test_without_another_model_the_missing_parts_are_named(parts: dict[str, str], tmp_path: Path) -> None:
    done = hafm("assemble", tmp_path / "model", "--semantic", parts["semantic"])
    assert done.exit_code == 2
    assert "missing --semantic-tokenizer, --coarse, --codec" in said(done)


def test_a_failed_assembly_leaves_the_older_composite_unchanged(
    parts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    assemble_composite(parts, model)
    before = digest_files(tmp_path, ignored=())
    rename = Path.rename

    def fail_on_last_step(path: Path, target: Path) -> Path:
        """Fails where the finished folder replaces the old one."""
        if target == model and path.name == "new":
            # ENOSPC
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_on_last_step)
    with pytest.raises(OSError, match="No space left"):
        assemble_composite(parts, model)
    assert digest_files(tmp_path, ignored=()) == before


def test_stages_that_read_a_lead_sheet_get_default_settings_unless_some_were_chosen(tmp_path: Path) -> None:
    model = tiny_composite(num_hidden_layers=1, lead_sheet_streams={"chord": ROW_SIZES["chord"]})
    model.coarse.generation_config.temperature = 0.7
    model.save_pretrained(tmp_path / "parts")
    assemble_composite(parts_of(tmp_path / "parts"), tmp_path / "model")
    assembled = HAFMForVocalAccompaniment.from_pretrained(tmp_path / "model")
    semantic, coarse, fine = (stage.generation_config for stage in assembled.stages.values())
    for key, value in LEAD_SHEET_SETTINGS["semantic"].items():
        assert getattr(semantic, key) == value
    assert (coarse.temperature, coarse.guidance_scale, coarse.history_free_guidance) == (0.7, 3.0, 0.0)
    assert (fine.temperature, fine.guidance_scale) == (0.9, 1.0)


def test_a_codec_that_a_stage_was_not_trained_on_is_refused(parts: dict[str, str], tmp_path: Path) -> None:
    model = load_codec(parts["codec"]).model
    codec = codec_fingerprint(model)
    tiny_stage("coarse", tokenizers={"codec": codec}).save_pretrained(tmp_path / "coarse")
    tiny_stage("fine", tokenizers={"codec": "another"}).save_pretrained(tmp_path / "fine")
    # training the decoder further changes the sound but not the codes
    with torch.no_grad():
        model.decoder.layers[-1].conv.bias.add_(0.1)
    model.save_pretrained(tmp_path / "codec")
    fitting = {**parts, "coarse": str(tmp_path / "coarse"), "codec": str(tmp_path / "codec")}
    assert assemble_composite(fitting, tmp_path / "model", "float32") > 0
    assert codec_fingerprint(model) == codec != codec_fingerprint(model.decoder)
    message = f"the fine stage was trained on tokens of the codec another, but this one is {codec}"
    with pytest.raises(ValueError, match=message):
        assemble_composite({**parts, "fine": str(tmp_path / "fine")}, tmp_path / "other")
    assert not list(tmp_path.glob("other*"))


def test_a_tokenizer_with_another_beat_head_fits_but_one_with_other_centroids_does_not(
    parts: dict[str, str], tmp_path: Path
) -> None:
    tokenizer = tiny_rhythmic_tokenizer()
    known = {"semantic_tokenizer": tokenizer_fingerprint(tokenizer)}
    tiny_stage("semantic", tokenizers=known).save_pretrained(tmp_path / "semantic")
    fitting = {**parts, "semantic": str(tmp_path / "semantic"), "semantic_tokenizer": str(tmp_path / "tokenizer")}
    for part, fits in ((tokenizer.rhythm.head.bias, True), (tokenizer.centroids, False)):
        with torch.no_grad():
            part.add_(0.1)
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        if fits:
            assert assemble_composite(fitting, tmp_path / "model") > 0
    with pytest.raises(ValueError, match="was trained on tokens of the semantic tokenizer"):
        assemble_composite(fitting, tmp_path / "other")


def test_a_tokenizers_fingerprint_does_not_depend_on_its_dtype(tmp_path: Path) -> None:
    tokenizer = tiny_semantic_tokenizer().half()
    tokenizer.save_pretrained(tmp_path)
    fingerprints = {fingerprint(tokenizer)}
    for dtype in (torch.float16, torch.float32, "auto"):
        fingerprints.add(fingerprint(HAFMSemanticTokenizerModel.from_pretrained(tmp_path, dtype=dtype)))
    assert len(fingerprints) == 1
    with torch.no_grad():
        tokenizer.centroids[0, 0] += 1
    assert fingerprint(tokenizer) not in fingerprints


def test_parts_with_unequal_vocabularies_are_refused_and_write_nothing(parts: dict[str, str], tmp_path: Path) -> None:
    size = tiny_stage("semantic").config.codebook_sizes[0] + 1
    tiny_stage("semantic", codebook_sizes=[size]).save_pretrained(tmp_path / "semantic")
    named = {**parts, "semantic": tmp_path / "semantic"}
    words = [f"--{name.replace('_', '-')}={folder}" for name, folder in named.items()]
    done = hafm("assemble", tmp_path / "model", *words)
    assert done.exit_code == 1
    assert "do not fit" in str(done.exception)
    assert not (tmp_path / "model").exists()


def test_the_recipe_renders_each_style_and_saving_keeps_the_sounds(tmp_path: Path) -> None:
    vocal = tmp_path / "vocal.wav"
    model = tmp_path / "model"
    vocal.write_bytes(file_bytes(glide(1.3)))
    tiny_band().save_pretrained(model)
    written = write_style_sounds(model, vocal)
    assert [path.relative_to(model).as_posix() for path in written] == ["styles/folk.ogg", "styles/rock.ogg"]
    folk, rate = audio.read_audio(written[0])
    rock, _ = audio.read_audio(written[1])
    assert len(folk) == len(rock) == round(1.3 * CODEC_RATE)
    assert rate == CODEC_RATE
    assert not audio.is_silent(folk)
    assert np.abs(folk - rock).max() > 0.01
    loaded = HAFMForVocalAccompaniment.from_pretrained(model)
    assert list(loaded.style_sounds) == ["folk", "rock"]
    loaded.save_pretrained(tmp_path / "again")
    for name, sound in loaded.style_sounds.items():
        assert (tmp_path / "again" / "styles" / f"{name}.ogg").read_bytes() == sound
        assert len(audio.read_audio(io.BytesIO(sound))[0]) == len(folk)


@pytest.mark.fault("sounds in untrusted checkpoints")
def test_oversized_sounds_and_those_outside_the_checkpoint_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "model" / "styles").mkdir(parents=True)
    (tmp_path / "secret.ogg").write_bytes(b"of this machine")
    (tmp_path / "model" / "styles" / "hard rock.ogg").write_bytes(b"sound")
    (tmp_path / "model" / "styles" / "large.ogg").write_bytes(bytes(STYLE_SOUND_BYTES + 1))
    styles = ["hard rock", "large", "missing", "../../secret", str(tmp_path / "secret")]
    assert read_style_sounds(tmp_path / "model", styles) == {"hard rock": b"sound"}
