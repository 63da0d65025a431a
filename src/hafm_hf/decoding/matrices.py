"""Products with a stage's matrices for the few rows of a decoding step, as fast as torch has them without a compiler.

Below the fast loop on the path of the data. For few rows a product costs the reading of its matrix, so the matrices
are kept small and in the order in which they are read.
"""

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional as F

# Precisions of the matrices beside the stage's own
WEIGHTS = ("int8",)
# rows up to which reading the matrix is what a product costs, and how large a matrix is that no cache keeps
FEW_ROWS = 4
LARGE_MATRIX = 1 << 18
# numbers of a matrix up to which MKL is the fastest on Intel's processors
SMALL_MATRIX = 1 << 19
# rows up to which halves beat oneDNN's product of float32
HALF_ROWS = 32
# what rounding to half precision may change in a number for the product to count as float32's
HALF_ROUNDING = 2.0**-25

Linear = Callable[[torch.Tensor], torch.Tensor]


def packed_linear(weight: torch.Tensor, rows: int, weights: str | None = None) -> Linear:
    """`x ↦ x Wᵀ` for float32 [R, I] with R = `rows`, to float32, whatever the precision of W.

    Args:
        weight (float [O, I]): the matrix.
        rows: how many rows the inputs will have.
        weights: "int8" rounds the matrix to 8 bits, one scale an output (CPU only); None keeps its precision.

    Raises:
        ValueError: on another value of `weights`, or int8 on another device than the CPU.
    """
    weight = weight.detach().contiguous()
    if weights is not None:
        return _int8_linear(weight, weights)
    if weight.device.type != "cpu":
        return lambda x: F.linear(x.to(weight.dtype), weight).float()
    if weight.dtype == torch.float32 and 1 < rows <= HALF_ROWS and weight.numel() < SMALL_MATRIX and _is_intel():
        # caches hold it, and MKL has no faster order: half of the time of halves, two thirds of F.linear's. Of one row
        # threads share out the sums, whose last digits would depend on their number
        columns = weight.t().contiguous()
        return lambda x: x @ columns
    # oneDNN's product of bfloat16 is faster for many rows, and rounds the input too, as bfloat16 is meant to
    few = rows <= (HALF_ROWS if weight.dtype == torch.float32 else FEW_ROWS)
    if few and _multiplies_halves() and _fits_half(weight):
        return _half_linear(weight.float())
    if weight.dtype == torch.float32 and rows <= FEW_ROWS and weight.numel() >= LARGE_MATRIX:
        if _is_intel():
            # where MKL is at home it takes half the time of the product below, and 0.6 to 0.9 of oneDNN's
            return lambda x: F.linear(x, weight)
        # of columns that lie apart MKL makes five times the work; this product itself leaves its rows so
        return lambda x: (weight @ x.contiguous().t()).t()
    return _packed_linear(weight, rows)


def packed_down_linear(weight: torch.Tensor, rows: int, weights: str | None = None) -> Linear:
    """`packed_linear` behind a gated product, whose outliers 8 bits of an input do not hold.

    With int8 weights this one matrix keeps half precision: of the divergence that int8 brings to the coarse stage of
    hafm-tiny, three fifths came from here, and it is a fifth of the numbers that a layer reads.
    """
    if weights is not None and weight.device.type == "cpu" and _multiplies_halves():
        return _half_linear(weight.detach().float().contiguous())
    return packed_linear(weight, rows, weights)


def _packed_linear(weight: torch.Tensor, rows: int) -> Linear:
    """By oneDNN; the input is rounded to a matrix of half precision."""
    dtype = weight.dtype
    if not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16):
        return lambda x: F.linear(x.to(dtype), weight).float()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    product = torch.ops.mkldnn._linear_pointwise
    if dtype == torch.float32:
        return lambda x: product(x, packed, None, "none", [], "")
    return lambda x: product(x.to(dtype), packed, None, "none", [], "").float()


@cache
def _is_intel() -> bool:
    """Whether the processor is Intel's, as far as Linux says; MKL goes other ways on others."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


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


def _int8_linear(weight: torch.Tensor, weights: str) -> Linear:
    if weights not in WEIGHTS:
        raise ValueError(f"weights is {weights!r}; choose one of {WEIGHTS} or None.")
    if weight.device.type != "cpu":
        raise ValueError(f"int8 weights run on the CPU only, and the model is on {weight.device}; leave weights out.")
    matrix = weight.float()
    scales = matrix.abs().amax(1).clamp_min(1e-12) / 127
    zeros = torch.zeros(len(matrix), dtype=torch.long)
    with warnings.catch_warnings():
        # torch announces an end of its quantized tensors, and has nothing else yet that is as fast for few rows
        warnings.simplefilter("ignore", UserWarning)
        quantized = torch.quantize_per_channel(matrix, scales, zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(quantized, None)
    product = torch.ops.quantized.linear_dynamic
    # without VNNI two products of 8 bits are added in 16: the inputs get 7, at four times the divergence
    seven_bits = not torch.cpu._is_vnni_supported()
    return lambda x: product(x, packed, seven_bits)
