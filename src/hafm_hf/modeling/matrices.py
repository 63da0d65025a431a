# SPDX-License-Identifier: Apache-2.0
"""Products with a stage's matrices for the few rows of a decoding step, as fast as torch has them without a compiler.

For few rows a product costs the reading of its matrix, so the matrices
are kept small and in the order in which they are read.
"""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional as F

# precisions of the matrices beside the stage's own
QUANTIZATIONS = ("int8",)
# rows up to which reading the matrix is what a product costs
FEW_ROWS = 4
# rows up to which halves beat oneDNN's product of float32
HALF_ROWS = 32
# what rounding to half precision may change in a number for the product to count as float32's
HALF_ROUNDING = 2.0**-25

Linear = Callable[[torch.Tensor], torch.Tensor]


def packed_linear(weight: torch.Tensor, rows: int, quantization: str | None = None) -> Linear:
    """`x ↦ x Wᵀ` for float32 [R, I] with R = `rows`, to float32, whatever the precision of W.

    Args:
        weight (float [O, I]): the matrix.
        rows: how many rows the inputs will have.
        quantization: "int8" rounds the matrix to 8 bits, one scale an output (CPU only); None keeps its precision.

    Raises:
        ValueError: on another value of `quantization`, or int8 on another device than the CPU.
    """
    weight = weight.detach().contiguous()
    if quantization is not None:
        return _int8_linear(weight, quantization)
    if weight.device.type != "cpu":
        return lambda x: F.linear(x.to(weight.dtype), weight).float()
    # oneDNN's product of bfloat16 is faster for many rows, and rounds the input too, as bfloat16 is meant to
    rounds_inputs = weight.dtype == torch.bfloat16 and _packs(torch.bfloat16)
    if rows <= (FEW_ROWS if rounds_inputs else HALF_ROWS) and _multiplies_halves() and _fits_half(weight):
        return _half_linear(weight.float())
    return _packed_linear(weight, rows)


def packed_down_linear(weight: torch.Tensor, rows: int, quantization: str | None = None) -> Linear:
    """`packed_linear` behind a gated product, whose outliers 8 bits of an input do not hold.

    With int8 weights this one matrix keeps half precision: of the divergence that int8 brings to the coarse stage of
    hafm-tiny, three fifths came from here, and it is a fifth of the numbers that a layer reads.
    """
    if quantization is not None and weight.device.type == "cpu" and _multiplies_halves():
        return _half_linear(weight.detach().float().contiguous())
    return packed_linear(weight, rows, quantization)


def _packed_linear(weight: torch.Tensor, rows: int) -> Linear:
    """By oneDNN in the matrix's own precision, to which inputs are rounded; where it has no bfloat16, widened."""
    if weight.dtype == torch.bfloat16 and not _packs(torch.bfloat16):
        weight = weight.float()
    dtype = weight.dtype
    if dtype not in (torch.float32, torch.bfloat16) or not _packs(dtype):
        return lambda x: F.linear(x.to(dtype), weight).float()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    product = torch.ops.mkldnn._linear_pointwise
    if dtype == torch.float32:
        return lambda x: product(x, packed, None, "none", [], "")
    return lambda x: product(x.to(dtype), packed, None, "none", [], "").float()


@cache
def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies packed matrices of this precision on this processor: a tiny one is tried."""
    tiny = torch.zeros(1, 1, dtype=dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(tiny, 1)
        torch.ops.mkldnn._linear_pointwise(tiny, packed, None, "none", [], "")
    except (RuntimeError, AttributeError):
        return False
    return True


def _multiplies_halves() -> bool:
    """Whether this build and this processor have FBGEMM's product of float32 and half precision."""
    return torch.backends.quantized.engine in ("x86", "fbgemm")


def _fits_half(weight: torch.Tensor) -> bool:
    """Whether half precision holds every number, as it does those that bfloat16 holds, the tiniest rounded."""
    return bool(((weight.half().float() - weight.float()).abs() <= HALF_ROUNDING).all())


def _half_linear(weight: torch.Tensor) -> Linear:
    """Half the bytes to read; each number is widened before it is multiplied, and sums are float32's."""
    packed = torch.ops.quantized.linear_prepack_fp16(weight, None)
    product = torch.ops.quantized.linear_dynamic_fp16
    return lambda x: product(x, packed)


def _int8_linear(weight: torch.Tensor, quantization: str) -> Linear:
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization is {quantization!r}; choose one of {QUANTIZATIONS} or None.")
    if weight.device.type != "cpu":
        raise ValueError(f"int8 runs on the CPU only, and the model is on {weight.device}; leave quantization out.")
    packed, product = _pack_int8(weight.float()), torch.ops.quantized.linear_dynamic
    # the inputs get 7 bits then, at four times the divergence
    seven_bits = _int8_overflows()
    return lambda x: product(x, packed, seven_bits)


def _pack_int8(matrix: torch.Tensor) -> torch.ScriptObject:
    """A matrix (float32 [O, I]) as torch's product of 8 bits reads it."""
    scales = matrix.abs().amax(1).clamp_min(1e-12) / 127
    zeros = torch.zeros(len(matrix), dtype=torch.long)
    with warnings.catch_warnings():
        # torch announces an end of its quantized tensors, and has nothing else yet that is as fast for few rows
        warnings.simplefilter("ignore", UserWarning)
        return torch.ops.quantized.linear_prepack(
            torch.quantize_per_channel(matrix, scales, zeros, 0, torch.qint8), None
        )


@cache
def _int8_overflows() -> bool:
    """Whether this processor adds products of 8 bits in 16, where the largest do not fit: a few of these are tried."""
    ones = torch.ones(1, 16)
    return bool(torch.ops.quantized.linear_dynamic(ones, _pack_int8(ones), False) < 15)
