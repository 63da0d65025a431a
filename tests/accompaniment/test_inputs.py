# SPDX-License-Identifier: Apache-2.0
"""Vocals and options that the pipeline accepts, and the one-sentence errors for those that it does not."""

import importlib.util
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers.pipelines.pt_utils import KeyDataset

from hafm_hf import HAFMFeatureExtractor, HAFMPipeline
from hafm_hf.accompaniment.options import GenerationOptions, MixOptions
from hafm_hf.audio import HAFMAudioError
from tiny_models import tiny_composite
from vocals import CODEC_RATE, file_bytes, glide

SIXTEEN_BIT = np.round(glide() * 32768).astype(np.int16)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    """Two rows of encoded audio next to unrelated columns, as in published data sets; nothing is decoded yet."""
    sound = {"bytes": file_bytes(SIXTEEN_BIT), "path": "clip.wav"}
    table = {"path": ["absent.wav"] * 2, "audio": [sound] * 2, "text": ["la"] * 2}
    return datasets.Dataset.from_dict(table).cast_column("audio", datasets.Audio())


def vocals_of(accompany: Any, inputs: Any, **options: Any) -> list[np.ndarray]:
    """The vocals in the songs that one call returns."""
    songs = accompany(inputs, seed=1, skip_fine=True, **options)
    return [song["vocals"] for song in ([songs] if isinstance(songs, dict) else songs)]


def test_rows_columns_and_data_sets_are_read_without_torchcodec(accompany: Any, rows: datasets.Dataset) -> None:
    expected = SIXTEEN_BIT / np.float32(32768)
    assert importlib.util.find_spec("torchcodec") is None
    undecoded = rows.cast_column("audio", datasets.Audio(decode=False))
    decoded = {"text": "la", "audio": {"array": expected, "sampling_rate": torch.tensor(24_000)}}
    for given in (undecoded[0], undecoded[0]["audio"], decoded, expected.tolist()):
        assert np.array_equal(vocals_of(accompany, given, sampling_rate=24_000)[0], expected)
    songs_one_by_one = (KeyDataset(undecoded, "audio"), (row for row in undecoded.to_iterable_dataset()))
    for given in (list(undecoded), undecoded, undecoded["audio"], *songs_one_by_one):
        read = vocals_of(accompany, given)
        assert len(read) == 2, type(given)
        assert np.array_equal(read[1], expected), type(given)


def test_decoders_are_decoded_and_their_failure_is_one_sentence(accompany: Any) -> None:
    decoder = SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(glide())[None], sample_rate=CODEC_RATE)
    )
    assert np.array_equal(vocals_of(accompany, {"audio": decoder})[0], glide())

    def fails() -> None:
        """Stands for a decoder whose library is missing."""
        raise RuntimeError("Could not load libtorchcodec\nand a page more")

    with pytest.raises(HAFMAudioError, match=r"by torchcodec \(Could not load libtorchcodec\); cast its column to"):
        accompany(SimpleNamespace(get_all_samples=fails))


@pytest.mark.parametrize(
    ("vocal", "options", "said"),
    [
        (glide(), {}, "An array needs its sampling_rate; pass sampling_rate=44100"),
        (100 * glide(), {"sampling_rate": 24_000}, "reaches 40, where full scale is 1; divide it by"),
        (np.float32(0.1), {"sampling_rate": 24_000}, r"has shape \(\); HAFM takes \[samples\]"),
        (glide(), {"sampling_rate": "44100"}, "sampling_rate is '44100'; it must be a whole number of Hz"),
        ([0.1, 0.2], {"sampling_rate": 24_000}, "0 s long; HAFM needs at least 1 s"),
        ((44_100, glide()), {"sampling_rate": 24_000}, "is not an array of numbers"),
        (None, {}, "the vocal is None, not an array"),
        ({"array": glide(0.3), "sampling_rate": 24_000}, {}, "0.3 s long; HAFM needs at least 1 s"),
        ({"array": glide() * np.nan, "sampling_rate": 24_000}, {}, "NaN"),
        ("absent.wav", {}, "does not exist"),
        (b"words", {}, "not audio"),
        (np.zeros((40, 44_100)), {"sampling_rate": 44_100}, "has 40 channels; give several vocals as a list"),
        ([[0.1, 0.2], [0.3]], {"sampling_rate": 24_000}, "0 s long"),
        ({"text": "la"}, {}, 'A dict needs "array" and "sampling_rate"'),
        (glide(), {"sampling_rate": 24_000, "seed": 1.5}, "seed is 1.5; it must be a whole number"),
        *(
            (glide(), {"sampling_rate": 24_000, "seconds": wrong}, f"seconds is {wrong!r}; it must be a number")
            for wrong in ("1", 0, -1.0, float("nan"), float("inf"), True)
        ),
        (file_bytes(glide()), {"seconds": "1"}, "seconds is '1'; it must be a number above 0"),
        (glide(), {"sampling_rate": 9600, "instrumental": glide(), "keep": [("a", 1)]}, "give start and stop of each"),
        (glide(), {"lead_sheet": {"chords": ["C", "G"]}}, "chords must be .start s, stop s, label. each, not 'C'"),
    ],
)
def test_invalid_vocals_and_options_give_one_sentence(accompany: Any, vocal: Any, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        accompany(vocal, **options)
    assert "\n" not in str(refused.value)


def test_models_and_extractors_refuse_paths_and_arrays_without_a_rate() -> None:
    model: Any = tiny_composite(num_hidden_layers=1)
    with pytest.raises(ValueError, match="HAFMCoarseForCausalLM is not a whole model"):
        HAFMPipeline(model.coarse)
    extractor = HAFMFeatureExtractor()
    for function in (model.generate, lambda *given: next(model.stream(*given)), extractor):
        with pytest.raises(HAFMAudioError, match="needs its sampling_rate"):
            function(glide())
        with pytest.raises(
            HAFMAudioError, match=r"is 'x.wav', not an array of samples; read a file with hafm_hf.audio.read"
        ):
            function("x.wav", 24_000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples is 0; it must be between 1 and 64"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"seed": 2**63}, "seed is 9223372036854775808; it must be between 0 and 9223372036854775807"),
        ({"seed": -1}, "seed is -1; it must be between 0 and"),
        ({"seed": np.arange(2)}, "it must be a whole number"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0; it must be 0 or more"),
        ({"skip_fine": "no"}, "skip_fine is 'no'; it must be True or False"),
        ({"decoding": "fastest"}, "decoding is 'fastest'; choose 'fast' or 'reference'"),
        ({"threads": 0}, "threads is 0; it must be 1 or more"),
    ],
)
def test_values_out_of_range_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationOptions(**options)


def test_keyword_options_override_those_of_the_object_and_none_is_ignored() -> None:
    options = GenerationOptions(seed=3, top_k=7)
    assert GenerationOptions.of(options, {"top_k": 9, "seed": None, "num_samples": None}) == GenerationOptions(
        seed=3, top_k=9
    )
    with pytest.raises(TypeError, match="There is no option 'guidance'; a generation takes num_samples, seed, guid"):
        GenerationOptions.of(given={"guidance": 3.0})


def test_numpy_and_torch_numbers_are_accepted() -> None:
    given = {"seed": np.int64(3), "temperature": np.float32(0.5), "top_k": torch.tensor(7), "stems": np.True_}
    options = GenerationOptions.of(given=given)
    assert options == GenerationOptions(seed=3, temperature=0.5, top_k=7, stems=True)
    assert type(options.seed) is int


def test_an_option_takes_a_word_for_a_number_only_where_the_table_allows_it() -> None:
    assert MixOptions(balance="auto").balance == "auto"
    assert MixOptions.of(given={"balance": 3}).balance == 3
    for wrong, said in (({"balance": "loud"}, "must be a number or 'auto'"), ({"tail": "2"}, "tail is '2'")):
        with pytest.raises(ValueError, match=said):
            MixOptions.of(given=wrong)
