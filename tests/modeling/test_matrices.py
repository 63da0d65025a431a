# SPDX-License-Identifier: Apache-2.0
"""The fast loop's matrix products for few rows equal linear layers, exactly unless rounding is intended."""

import os

import pytest
import torch

from hafm_hf.modeling.fast_loop import FEW_ROWS, HALF_ROWS, _packs, packed_linear

pytestmark = pytest.mark.processor

# output and input sizes
SHAPES = [(48, 36), (512, 512), (1024, 512)]


def relative_error(rows: int, weight: torch.Tensor, bias: torch.Tensor | None = None) -> float:
    """Relative error of the product of `rows` random rows with a matrix, against that in double precision.

    Args:
        rows: for which the matrix is packed.
        weight ([outputs, inputs]): the matrix.
        bias ([outputs], *optional*): added to the product.
    """
    x = torch.randn(rows, weight.shape[1], generator=torch.Generator().manual_seed(rows))
    expected = x.double() @ weight.double().t()
    if bias is not None:
        expected = expected + bias.double()
    product = packed_linear(weight, rows, bias)(x)
    assert product.dtype == torch.float32
    assert product.shape == expected.shape
    return float((product.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1, HALF_ROWS + 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_linear_layers(rows: int, shape: tuple[int, int]) -> None:
    assert relative_error(rows, torch.randn(shape, generator=torch.Generator().manual_seed(0))) < 1e-6


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1, HALF_ROWS + 1])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_biases_are_added_by_every_kind_of_product(rows: int, dtype: torch.dtype, limit: float) -> None:
    weight = torch.randn(48, 36, generator=torch.Generator().manual_seed(0))
    bias = 5 * torch.randn(48, generator=torch.Generator().manual_seed(1))
    assert relative_error(rows, weight.to(dtype), bias.to(dtype)) < limit


@pytest.mark.parametrize("rows", [1, FEW_ROWS + 1, HALF_ROWS + 1])
def test_the_bias_of_a_matrix_in_half_precision_is_not_rounded(rows: int) -> None:
    """The products for few rows accumulate in float32, and so does the bias."""
    weight = torch.randn(48, 36, generator=torch.Generator().manual_seed(0)).half().float()
    assert relative_error(rows, weight, torch.full((48,), 1.0 + 2.0**-20)) < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bfloat16_matrix_is_multiplied_exactly_for_few_rows(shape: tuple[int, int]) -> None:
    """Trained models are stored in bfloat16; inputs are rounded only for more rows, where it pays off."""
    stored = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert relative_error(FEW_ROWS, stored.float()) < 1e-6
    assert relative_error(FEW_ROWS, stored) < 1e-6
    assert relative_error(FEW_ROWS + 1, stored) < 0.01
    assert relative_error(HALF_ROWS + 1, stored) < 0.01


@pytest.mark.parametrize("large", [1e5, 1.0 + 2.0**-12])
def test_weights_that_half_precision_cannot_hold_are_not_rounded(large: float) -> None:
    weight = torch.zeros(16, 32)
    weight[3, 5] = large
    x = torch.zeros(2, 32)
    x[:, 5] = 1.0
    assert packed_linear(weight, 2)(x)[1, 3] == weight[3, 5]


@pytest.mark.skipif("ONEDNN_MAX_CPU_ISA" not in os.environ, reason="for an emulated processor")
@pytest.mark.skipif(torch.backends.quantized.engine not in ("x86", "fbgemm"), reason="no x86 processor")
def test_missing_instructions_of_an_emulated_processor_are_detected() -> None:
    assert not _packs(torch.bfloat16)
