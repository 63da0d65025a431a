# SPDX-License-Identifier: Apache-2.0
"""The composite model: exact lengths, seeds, samples, saving and loading in parts, rejected inputs."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, pipeline, set_seed

from hafm_hf import HAFMCoarseForCausalLM, HAFMConfig, HAFMFeatureExtractor, HAFMForVocalAccompaniment
from hafm_hf.accompaniment.parts import part_classes
from hafm_hf.audio.feature_extraction_hafm import instrumental_channels_first
from hafm_hf.cli.info import describe_model
from hafm_hf.tokenizers import modeling_spectral_codec
from hafm_hf.training.stages import add_adapters
from tiny_models import CODES, tiny_band, tiny_composite, tiny_listener, tiny_rhythmic_tokenizer, tiny_spectral_codec
from vocals import CODEC_RATE

Composite = HAFMForVocalAccompaniment
# accelerate's device maps, each of which chooses a device itself
STRATEGIES = ("auto", "balanced", "sequential")


def voice(seconds: float, rate: int = 24_000, pitch: float = 220.0) -> np.ndarray:
    """A sine of `pitch` Hz: float32 [seconds * rate]."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


@pytest.fixture(scope="module")
def composite() -> HAFMForVocalAccompaniment:
    """A tiny composite that cuts a vocal of a second into several windows."""
    model = tiny_composite()
    for stage, window in ((model.semantic, 0.8), (model.coarse, 0.4), (model.fine, 0.4)):
        stage.generation_config.update(window_seconds=window, overlap_seconds=0.08)
    return model


def test_a_seed_fixes_the_tokens_whatever_the_batch_and_the_global_generator(composite: Composite) -> None:
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    alone = composite.generate(voice(0.5), CODEC_RATE, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    batch = torch.zeros(2, 24_000)
    batch[0] = torch.from_numpy(voice(1, pitch=300))
    batch[1, :12_000] = torch.from_numpy(voice(0.5))
    mask = torch.ones(2, 24_000, dtype=torch.bool)
    mask[1, 12_000:] = False
    together = composite.generate(batch, CODEC_RATE, seed=4, padding_mask=mask)
    other = composite.generate(voice(0.5), CODEC_RATE, seed=5)
    assert torch.equal(alone.codes[0], together.codes[1])
    assert torch.equal(alone.audio[0], together.audio[1])
    assert not torch.equal(alone.codes[0], other.codes[0])


def test_without_a_seed_one_number_from_the_global_generator_decides_the_song(composite: Composite) -> None:
    drawn = []
    for seed in (7, 7, 8):
        set_seed(seed)
        drawn.append(composite.generate(voice(0.5), CODEC_RATE).codes[0])
        state = torch.random.get_rng_state()
        set_seed(seed)
        torch.randint(2**31, ())
        assert torch.equal(torch.random.get_rng_state(), state), "exactly one number is drawn"
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    set_seed(7)
    streamed = torch.cat(list(composite.stream(voice(0.5), CODEC_RATE)))
    set_seed(7)
    torch.testing.assert_close(streamed, composite.generate(voice(0.5), CODEC_RATE).audio[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("left", [0, 3_000, 12_000])
def test_padding_is_removed_on_either_side(composite: Composite, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = torch.zeros(2, 24_000)
    mask = torch.zeros(2, 24_000, dtype=torch.long)
    batch[0, left : left + 12_000] = torch.from_numpy(voice(0.5))
    mask[0, left : left + 12_000] = 1
    batch[1] = torch.from_numpy(voice(1, pitch=300))
    mask[1] = 1
    extract = Mock(wraps=HAFMFeatureExtractor.prepare, side_effect=HAFMFeatureExtractor().prepare)
    monkeypatch.setattr(HAFMFeatureExtractor, "prepare", extract)
    output = composite.generate(batch, CODEC_RATE, seed=4, padding_mask=mask)
    prepared = [call.args[0] for call in extract.call_args_list]
    assert [len(audio) for audio in output.audio] == [12_000, 24_000]
    assert np.array_equal(prepared[0], voice(0.5))
    assert np.array_equal(prepared[1], voice(1, pitch=300))


def test_one_mono_vocal_is_accepted_in_any_layout_with_or_without_a_mask(composite: Composite) -> None:
    int16 = torch.from_numpy(np.round(32_768 * voice(0.5))).short()
    vocal = int16 / 32_768
    alone = composite.generate(vocal, CODEC_RATE, seed=4).audio[0]
    mask = torch.ones(12_000, dtype=torch.bool)
    stacked = vocal[None, None]
    for given, where in ((vocal, mask), (stacked, None), (stacked, mask[None]), ([vocal[None]], None), (int16, None)):
        (found,) = composite.generate(given, CODEC_RATE, seed=4, padding_mask=where).audio
        assert torch.equal(found, alone)
    for sound in (int16, int16.numpy()[None], vocal):
        assert np.array_equal(instrumental_channels_first(sound, 2), torch.stack([vocal, vocal]))


@pytest.mark.parametrize(
    ("vocals", "mask", "message"),
    [
        (torch.zeros(3, 2, 9_000), None, r"A vocal has shape \[2, 9000\]"),
        (torch.zeros(9000, 2), None, r"vocals have shape \[9000, 2\], samples by channels .*; average channels first"),
        (torch.tensor(0.5), None, r"A vocal has shape \(\)"),
        (torch.zeros(3, 9_000), torch.ones(2, 9_000), r"padding_mask has 2 rows for 3 vocals"),
        (torch.zeros(3, 9_000), torch.ones(9_000), r"padding_mask has 1 rows for 3 vocals"),
        (torch.zeros(3, 9_000), torch.ones(3, 8_000), r"padding_mask has 8000 values for a vocal of 9000 samples"),
    ],
)
def test_shapes_that_cannot_be_vocals_are_refused(
    composite: Composite, vocals: torch.Tensor, mask: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        composite.generate(vocals, CODEC_RATE, padding_mask=mask)


def test_samples_differ_and_are_grouped_by_vocal(composite: Composite) -> None:
    output = composite.generate([voice(0.5), voice(0.3)], CODEC_RATE, seed=2**63 - 1, num_samples=3)
    assert [len(audio) for audio in output.audio] == [12_000] * 3 + [7_200] * 3
    assert not torch.equal(output.codes[0], output.codes[1])
    assert torch.equal(output.vocal_semantic[0], output.vocal_semantic[2])


def test_skip_fine_decodes_the_same_coarse_codes_only(composite: Composite) -> None:
    full = composite.generate(voice(0.5), CODEC_RATE, seed=1)
    coarse = composite.generate(voice(0.5), CODEC_RATE, seed=1, skip_fine=True)
    assert coarse.codes[0].shape[0] == 4
    assert torch.equal(coarse.codes[0], full.codes[0][:4])
    assert not torch.equal(coarse.audio[0], full.audio[0])


def test_progress_counts_every_stage_to_its_total(composite: Composite) -> None:
    seen: dict[str, list[tuple[int, int]]] = defaultdict(list)
    composite.generate(voice(0.9), CODEC_RATE, seed=1, progress=lambda stage, *steps: seen[stage].append(steps))
    assert list(seen) == ["semantic", "coarse", "fine"]
    for counts in seen.values():
        dones = [done for done, _ in counts]
        # step 0 is the analysis of the vocal, or a stage's first pass; a long step reports more than once
        assert dones == sorted(dones)
        assert {total for _, total in counts} == {dones[-1]}
        assert sorted(set(dones)) == list(range(dones[-1] + 1))


def test_top_k_and_guidance_scale_reach_the_stages(composite: Composite, monkeypatch: pytest.MonkeyPatch) -> None:
    # without noise the vocal's tokens are the same for every seed
    monkeypatch.setattr(composite.semantic_tokenizer.config, "noise_std", 0.0)
    greedy = [composite.generate(voice(0.5), CODEC_RATE, seed=seed, top_k=1) for seed in (1, 2)]
    assert torch.equal(greedy[0].instrumental_semantic[0], greedy[1].instrumental_semantic[0])
    unguided = composite.generate(voice(0.5), CODEC_RATE, seed=1, top_k=1, guidance_scale=1.0)
    assert not torch.equal(greedy[0].codes[0], unguided.codes[0])
    monkeypatch.setattr(composite.coarse.generation_config, "temperature", 0.0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        composite.generate(voice(0.5), CODEC_RATE)
    monkeypatch.setattr(composite.coarse.generation_config, "do_sample", False)
    composite.generate(voice(0.5), CODEC_RATE)


def test_saved_and_loaded_composite_gives_identical_logits_and_audio(composite: Composite, tmp_path: Path) -> None:
    composite.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, HAFMForVocalAccompaniment)
    assert not loaded.training
    expected = composite.state_dict()
    weights = loaded.state_dict()
    assert expected.keys() == weights.keys()
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    ids = torch.randint(CODES, (3, 4, 6))
    labels = torch.randint(CODES, (3, 24))
    logits = [model.fine(labels=labels, conditioning_ids=ids).logits for model in (composite, loaded)]
    assert torch.equal(*logits)
    assert loaded.coarse.generation_config.window_seconds == 0.4
    audio = [model.generate(voice(0.5), CODEC_RATE, seed=2).audio[0] for model in (composite, loaded)]
    assert torch.equal(*audio)


def test_repository_has_a_folder_for_each_part_and_only_safetensors(composite: Composite, tmp_path: Path) -> None:
    composite.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == set(part_classes(composite.config))
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]
    assert (tmp_path / "coarse" / "generation_config.json").exists()
    assert isinstance(AutoConfig.from_pretrained(tmp_path), HAFMConfig)
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path), HAFMFeatureExtractor)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    stage = HAFMCoarseForCausalLM.from_pretrained(tmp_path, subfolder="coarse")
    assert torch.equal(stage.heads.weight, composite.coarse.heads.weight)


def test_only_the_main_process_saves_and_a_state_dict_is_refused(composite: Composite, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="load the state_dict with load_state_dict first"):
        composite.save_pretrained(tmp_path, state_dict=composite.state_dict())
    composite.save_pretrained(tmp_path, is_main_process=False, push_to_hub=True)
    # a push would fail, as tests cannot reach the hub
    composite.coarse.save_pretrained(tmp_path, is_main_process=False, push_to_hub=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_length_limits_survive_loading_and_saving(composite: Composite, tmp_path: Path) -> None:
    composite.save_pretrained(tmp_path / "first")
    HAFMFeatureExtractor(min_seconds=2.0, max_seconds=30.0).save_pretrained(tmp_path / "first")
    HAFMForVocalAccompaniment.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "again")
    files = [tmp_path / folder / "preprocessor_config.json" for folder in ("first", "again")]
    assert files[0].read_text() == files[1].read_text()
    assert pipeline("vocal-accompaniment", model=composite).feature_extractor.max_seconds == 3600
    named = pipeline("vocal-accompaniment", model=composite, feature_extractor=str(tmp_path / "first"))
    assert named.feature_extractor.max_seconds == 30
    files[0].unlink()
    HAFMForVocalAccompaniment.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "again")
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "again").max_seconds == 3600


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_composite_with_every_part_generates_in_half_precision(dtype: torch.dtype) -> None:
    parts: dict[str, Any] = {"semantic_tokenizer": tiny_rhythmic_tokenizer(), "listener": tiny_listener()}
    model = tiny_band(codec=tiny_spectral_codec(), **parts).to(dtype)
    song = model.generate(voice(0.6), CODEC_RATE, seed=1, instrumental=voice(0.6), keep=[(0.0, 0.2)], stems=True)
    assert song.audio[0].dtype == torch.float32
    assert bool(song.audio[0].isfinite().all())
    assert song.audio[0].shape == (14_400,)
    assert song.lead_sheets[0].chords


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_songs_do_not_depend_on_torchs_default_dtype(dtype: torch.dtype) -> None:
    analysis: dict[str, Any] = {"semantic_tokenizer": tiny_rhythmic_tokenizer(), "listener": tiny_listener()}
    model = tiny_band(**analysis, codec=tiny_spectral_codec())
    expected = model.generate(voice(0.6), CODEC_RATE, seed=1).audio[0]
    for cached_table in (modeling_spectral_codec._noise_table, modeling_spectral_codec._band_weights):
        cached_table.cache_clear()
    torch.set_default_dtype(dtype)
    try:
        assert torch.equal(model.generate(voice(0.6), CODEC_RATE, seed=1).audio[0], expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_generating_in_training_mode_leaves_the_codec_unchanged() -> None:
    model = tiny_band(codec=tiny_spectral_codec()).train()
    before = {name: values.clone() for name, values in model.codec.state_dict().items()}
    model.generate(voice(0.6), CODEC_RATE, seed=1)
    assert model.coarse.training
    assert all(torch.equal(before[name], v) for name, v in model.codec.state_dict().items())


@pytest.mark.parametrize("device_map", ["cpu", *STRATEGIES, {"": "cpu"}, {"": torch.device("cpu")}])
def test_a_device_map_must_name_one_device(tiny_model: Path, device_map: Any) -> None:
    loaded = HAFMForVocalAccompaniment.from_pretrained(tiny_model, device_map=device_map)
    (device,) = {parameter.device for parameter in loaded.parameters()}
    assert device.type == "cpu" or device_map in STRATEGIES
    assert pipeline("vocal-accompaniment", model=str(tiny_model), device_map=device_map).device.type == device.type
    with pytest.raises(ValueError, match="device_map is .*'coarse'.*; a model has one device"):
        HAFMForVocalAccompaniment.from_pretrained(tiny_model, device_map={"coarse": "cpu"})


@pytest.mark.processor
@pytest.mark.parametrize("option", ["dtype", "torch_dtype"])
def test_dtype_applies_to_stages_but_not_to_tokenizers(composite: Composite, tmp_path: Path, option: str) -> None:
    composite.save_pretrained(tmp_path)
    loaded = HAFMForVocalAccompaniment.from_pretrained(tmp_path, **{option: torch.bfloat16})
    dtypes = {name: next(getattr(loaded, name).parameters()).dtype for name in part_classes(loaded.config)}
    assert dtypes == {
        name: torch.float32 if name in ("codec", "semantic_tokenizer") else torch.bfloat16 for name in dtypes
    }
    assert loaded.generate(voice(0.3), CODEC_RATE, seed=1).audio[0].isfinite().all()
    with pytest.raises(ValueError, match="dtype is {'semantic': torch.bfloat16}; all stages have one"):
        HAFMForVocalAccompaniment.from_pretrained(tmp_path, **{option: {"semantic": torch.bfloat16}})
    with pytest.raises(ValueError, match="all stages have one attn_implementation"):
        HAFMForVocalAccompaniment.from_pretrained(tmp_path, attn_implementation={"coarse": "eager"})


@pytest.mark.parametrize("kind", [HAFMForVocalAccompaniment, AutoModel])
def test_configuration_overrides_apply_or_are_refused_by_name(composite: Composite, tmp_path: Path, kind: Any) -> None:
    composite.save_pretrained(tmp_path)

    def attention(**given: Any) -> list[str]:
        """The attention implementation of each stage of a model loaded with these options."""
        return [each.config._attn_implementation for each in kind.from_pretrained(tmp_path, **given).stages.values()]

    assert attention() == ["sdpa"] * 3
    assert attention(attn_implementation="eager") == ["eager"] * 3
    with pytest.raises(ValueError, match='attn_implementation="nonsense"'):
        kind.from_pretrained(tmp_path, attn_implementation="nonsense")
    loaded = kind.from_pretrained(tmp_path, semantic_config={"conditioning_dropout": 0.5})
    assert loaded.semantic.config.conditioning_dropout == loaded.config.semantic_config.conditioning_dropout == 0.5
    config = HAFMConfig.from_pretrained(tmp_path)
    config.coarse_config.conditioning_dropout = 0.3
    loaded = kind.from_pretrained(tmp_path, config=config)
    assert loaded.coarse.config.conditioning_dropout == 0.3
    assert loaded.fine.config.conditioning_dropout == 0.1
    for given, said in (({"semantic_config": {"num_hidden_layers": 1}}, "layers.1"), ({"colour": 1}, "'colour'")):
        with pytest.raises((TypeError, ValueError), match=said):
            kind.from_pretrained(tmp_path, **given)


def test_a_two_stage_composite_is_built_saved_loaded_and_run(composite: Composite, tmp_path: Path) -> None:
    parts = {name: getattr(composite, name) for name in ("semantic_tokenizer", "semantic", "coarse", "codec")}
    model = HAFMForVocalAccompaniment.from_parts(**parts)
    assert list(model.stages) == ["semantic", "coarse"]
    assert "fine" not in model.parameter_counts()
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "fine").exists()
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.config.fine_config is None
    assert HAFMForVocalAccompaniment(loaded.config).stages.keys() == loaded.stages.keys()
    expected = composite.generate(voice(1), CODEC_RATE, seed=3, skip_fine=True)
    for skip_fine in (False, True):
        again = loaded.generate(voice(1), CODEC_RATE, seed=3, skip_fine=skip_fine)
        assert torch.equal(again.codes[0], expected.codes[0])
        assert torch.equal(again.audio[0], expected.audio[0])
    streamed = torch.cat(list(loaded.stream(voice(1), CODEC_RATE, seed=3)))
    torch.testing.assert_close(streamed, expected.audio[0], atol=1e-5, rtol=0)
    kept = loaded.generate(voice(1), CODEC_RATE, seed=4, instrumental=expected.audio[0].numpy(), keep=[(0.0, 0.5)])
    # most of the first 0.5 s, 12,000 samples
    assert torch.equal(kept.audio[0][:11_000], expected.audio[0][:11_000])
    assert set(describe_model(str(tmp_path))["parts"]) == set(parts)


def test_an_empty_missing_or_second_vocal_is_refused(composite: Any) -> None:
    with pytest.raises(ValueError, match="empty"):
        composite.generate(voice(0), CODEC_RATE)
    for given in ({}, {"vocals": voice(1), "sampling_rate": CODEC_RATE, "input_values": voice(1)}):
        with pytest.raises(ValueError, match="There is no vocal, or two"):
            composite.generate(**given)


def test_generate_takes_the_feature_extractors_output_as_keywords(composite: Composite) -> None:
    vocals = [voice(1, pitch=300), voice(1.2)]
    output = composite.generate(**HAFMFeatureExtractor()(vocals, sampling_rate=24_000), seed=4)
    expected = composite.generate(vocals, CODEC_RATE, seed=4)
    assert [len(audio) for audio in output.audio] == [24_000, 28_800]
    assert all(torch.equal(*pair) for pair in zip(output.codes, expected.codes, strict=True))
    chunks = list(composite.stream(**HAFMFeatureExtractor()(vocals[1], sampling_rate=24_000), seed=4))
    assert sum(map(len, chunks)) == 28_800


def test_a_replaced_part_brings_its_configuration_and_adapters_are_refused(tmp_path: Path) -> None:
    model = tiny_composite(num_hidden_layers=1)
    model.coarse = tiny_composite(num_hidden_layers=2).coarse
    # a class that a user has derived
    model.__class__ = type("OutsideOfThePackage", (Composite,), {})
    model.save_pretrained(tmp_path)
    assert (tmp_path / "hafm_auto.py").is_file()
    assert HAFMForVocalAccompaniment.from_pretrained(tmp_path).config.coarse_config.num_hidden_layers == 2
    model.fine = add_adapters(model.fine, 2, 4)
    with pytest.raises(ValueError, match="fine has adapters"):
        model.save_pretrained(tmp_path)


def test_hafm_tiny_is_the_bundled_model_unless_a_folder_has_that_name(
    composite: Composite, bundled_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = HAFMForVocalAccompaniment.from_pretrained("hafm-tiny")
    assert Path(loaded.name_or_path) == bundled_model
    stage = HAFMCoarseForCausalLM.from_pretrained("hafm-tiny", subfolder="coarse")
    assert torch.equal(stage.heads.weight, loaded.coarse.heads.weight)
    composite.save_pretrained("hafm-tiny")
    mine = HAFMForVocalAccompaniment.from_pretrained("hafm-tiny")
    assert torch.equal(mine.coarse.heads.weight, composite.coarse.heads.weight)
