# SPDX-License-Identifier: Apache-2.0
"""The one table of generation options: types, limits and precedence."""

import numpy as np
import pytest
import torch

from hafm_hf.accompaniment.options import GenerationOptions, MixOptions


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
    assert options == GenerationOptions(seed=3, temperature=0.5, top_k=7, stems=True) and type(options.seed) is int


def test_an_option_takes_a_word_for_a_number_only_where_the_table_allows_it() -> None:
    assert MixOptions(balance="auto").balance == "auto" and MixOptions.of(given={"balance": 3}).balance == 3
    for wrong, said in (({"balance": "loud"}, "must be a number or 'auto'"), ({"tail": "2"}, "tail is '2'")):
        with pytest.raises(ValueError, match=said):
            MixOptions.of(given=wrong)
