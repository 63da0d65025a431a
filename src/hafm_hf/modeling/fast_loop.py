# SPDX-License-Identifier: Apache-2.0
"""The fast loop: generates a window's codes slot by slot with minimal overhead.

It computes what a stage's forward computes, from the same weights, which the stage gives as `SlotWeights`, without
modules or masks: keys and values are kept in preallocated buffers, constant factors are folded into the norms,
matrices are packed for the number of rows, and bias rows are computed in blocks by the stage's own position scheme.
What comes before the first new slot goes through the stage's forward, and the loop refuses to go on unless its own
scores of that slot agree. GenerationMixin's loop (`HAFMGenerationMixin.continue_batch`) remains the reference.

There are two loops because a step of a small model on a CPU is mostly overhead: run through the modules, with static
caches, it takes two to three times as long. On a GPU, `compile=True` replays each step as one CUDA graph, one launch
instead of many small kernels per layer. If its first step does not agree with the plain loop's, the plain loop takes
over.

Codes are [B, Q, T] outside; `codebook_patterns` explains slots. Dimensions: B rows of the batch, C codes per
slot (1, or Q under the delay pattern), R rows of the step (2B under guidance, conditional ones first), L slots
of the sequence, n of them that are read, D width, I inner width of the feed-forward, H heads of d, V codes of a
codebook, K conditioning streams, T_c conditioning frames. Slot t of the target is slot `first_slot` + t of the
sequence; `first_slot` is 0 with the fusion "sum", which has no slots of conditioning before the target. The *kind* of
a slot is its index within its frame: under the flat pattern the codebook that it predicts, under the delay pattern 0.
"""

import math
import platform
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import GenerationConfig
from transformers.utils import logging

from .codebook_patterns import SlotPlan
from .layers import LayerWeights, SlotLayout, slot_layout
from .modeling_stage import HAFMStageForCausalLM
from .sampling import StepReport, WindowBatch, draw, for_guidance, null_rows, with_kept

logger = logging.get_logger(__name__)

Linear = Callable[[torch.Tensor], torch.Tensor]
# rows up to which the cost of a matrix product is that of reading the matrix
FEW_ROWS = 4
# rows of one sequence with guidance
PAIR = 2
# rows up to which half-precision weights beat oneDNN's float32 product
HALF_ROWS = 32
# largest change of a weight by rounding to half precision with which a product still counts as a float32 one
HALF_ROUNDING = 2.0**-25
# steps whose bias rows are computed at a time
BLOCK = 64
# slots of all rows that go through the stage's forward at a time, unless a single row has more: a layer takes less
# than half a second on a CPU, also of the paper's size
PREFILL_SLOTS = 2048
# numbers in a layer's keys from which they exceed a core's cache on an AMD CPU: two megabytes in float32
LARGE_CACHE = 1 << 19
# runs of a step before it is captured, in which libraries allocate their workspaces
WARM_UPS = 3
# largest deviation of a captured step's scores, in standard deviations of the scores: half precision rounds that much
GRAPH_TOLERANCE = 0.02
# largest deviation, likewise but on average, from the scores of the stage's own forward, by the precision of that
FORWARD_TOLERANCE = {torch.float64: 0.01, torch.float32: 0.01, torch.float16: 0.1, torch.bfloat16: 0.3}
# generation settings that this loop follows, and those that say only how a result is returned or when it ends, which
# windows decide themselves
SUPPORTED = frozenset(
    "do_sample temperature top_k guidance_scale history_free_guidance "
    "window_seconds overlap_seconds independent_windows "
    "bos_token_id pad_token_id max_length max_new_tokens max_time num_return_sequences return_dict_in_generate "
    "output_scores output_logits output_attentions output_hidden_states use_cache cache_implementation cache_config "
    "disable_compile compile_config transformers_version".split()
)


def check_settings(config: GenerationConfig) -> None:
    """Refuses generation settings that only GenerationMixin supports.

    Raises:
        ValueError: names the first setting that differs from its default and is not supported.
    """
    neutral = GenerationConfig._get_default_generation_params()
    for name, value in config.to_diff_dict().items():
        if name not in SUPPORTED and value is not None and value != neutral.get(name):
            raise ValueError(
                f"The generation config sets {name} to {value}, which the fast loop does not support; unset it or "
                'choose decoding="reference".'
            )


def check_weights(stage: HAFMStageForCausalLM) -> None:
    """Refuses a stage with layers whose parameters are not just those that the fast loop reads.

    Raises:
        ValueError: names the first parameter of an adapter or of a changed, quantised or offloaded layer, and the way
            out.
    """
    for index, (layer, weights) in enumerate(zip(stage.model.layers, stage.model.layer_weights(), strict=True)):
        names_by_id = {id(parameter): name for name, parameter in layer.named_parameters()}
        read = {name: value for name, value in weights._asdict().items() if not isinstance(value, float | None)}
        ids_read = {id(value) for value in read.values()}
        # those of adapters and of replaced layers
        unread = [name for key, name in names_by_id.items() if key not in ids_read]
        # computed from a parameter, offloaded, or of a quantised type
        changed = [
            name
            for name, value in read.items()
            if id(value) not in names_by_id or value.is_meta or type(value.data) is not torch.Tensor
        ]
        if unread or changed:
            raise ValueError(
                f"The fast loop reads weights only, and model.layers.{index}.{(unread or changed)[0]} is quantised, "
                "offloaded, parametrised or an adapter's. Merge adapters with merge_and_unload(), or choose "
                'decoding="reference".'
            )


def packed_linear(weight: torch.Tensor, rows: int, bias: torch.Tensor | None = None) -> Linear:
    """Returns the function `x ↦ x Wᵀ + b` from float32 [R, I] to float32 [R, O], whatever the precision of W.

    With few rows a product is limited by reading the matrix from memory, so the matrix is kept small and in the order
    in which it is read.

    Args:
        weight (float [O, I]): W, from I inputs to O outputs.
        rows: R, the number of rows that x will have.
        bias (float [O], *optional*): b.
    """
    weight = weight.detach().contiguous()
    if bias is not None:
        bias = bias.detach().contiguous()
    if weight.device.type != "cpu":
        bias = _as_dtype(bias, weight.dtype)
        return lambda x: F.linear(x.to(weight.dtype), weight, bias).float()
    most_rows = HALF_ROWS
    if weight.dtype == torch.bfloat16 and _packs(torch.bfloat16):
        # oneDNN's bfloat16 product is faster for many rows; it rounds the input too, as is usual in bfloat16
        most_rows = FEW_ROWS
    has_fbgemm = torch.backends.quantized.engine in ("x86", "fbgemm")
    if rows <= most_rows and has_fbgemm and _fits_half(weight):
        # half the bytes to read; weights are widened before they are multiplied, and sums accumulate in float32
        packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), _as_dtype(bias, torch.float32))
        product = torch.ops.quantized.linear_dynamic_fp16
        return lambda x: product(x, packed)
    return _onednn_linear(weight, rows, bias)


def _as_dtype(bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """The bias, if there is one, in another precision."""
    return None if bias is None else bias.to(dtype)


def _onednn_linear(weight: torch.Tensor, rows: int, bias: torch.Tensor | None) -> Linear:
    """The function `x ↦ x Wᵀ + b` by oneDNN, from float32 [R, I] to float32 [R, O], on a CPU.

    It computes in W's precision, or in float32 where the CPU lacks a bfloat16 product; without oneDNN by PyTorch's
    linear layer.

    Args:
        weight (float [O, I]): W, from I inputs to O outputs.
        rows: R, the number of rows that x will have.
        bias (float [O], *optional*): b.
    """
    if weight.dtype == torch.bfloat16 and not _packs(torch.bfloat16):
        weight = weight.float()
    dtype = weight.dtype
    bias = _as_dtype(bias, dtype)
    if dtype not in (torch.float32, torch.bfloat16) or not _packs(dtype):
        return lambda x: F.linear(x.to(dtype), weight, bias).float()
    if dtype == torch.float32 and rows == PAIR and _is_amd():
        # as a product with two columns, the matrix is read almost twice as fast, and needs no packed copy
        if bias is None:
            return lambda x: torch.mm(weight, x.contiguous().t()).t()
        column = bias[:, None]
        return lambda x: torch.addmm(column, weight, x.contiguous().t()).t()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    product = torch.ops.mkldnn._linear_pointwise
    if dtype == torch.float32:
        return lambda x: product(x, packed, bias, "none", [], "")
    return lambda x: product(x.to(dtype), packed, bias, "none", [], "").float()


@cache
def _is_amd() -> bool:
    """Whether the CPU is AMD's.

    Some products are computed in other ways there. On Intel's, oneDNN and PyTorch's fused attention are already as
    fast as reading memory.
    """
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "AuthenticAMD" in platform.processor()


@cache
def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN supports packed matrices of this dtype on this CPU, found by trying a tiny one."""
    tiny = torch.zeros(1, 1, dtype=dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(tiny, 1)
        torch.ops.mkldnn._linear_pointwise(tiny, packed, None, "none", [], "")
    except (RuntimeError, AttributeError):
        return False
    return True


def _fits_half(weight: torch.Tensor) -> bool:
    """Whether half precision represents all weights closely enough, as it does usual bfloat16 weights."""
    return bool(((weight.half().float() - weight.float()).abs() <= HALF_ROUNDING).all())


class _Norm:
    """RMSNorm of float32 as x / √(‖x‖² + D·ε) · (√D · weight), in four small kernels instead of eight.

    Args:
        weight (float [..., D]): weight of the norm.
        width: D, the number of values over which the norm is taken.
        eps: ε.
        factor: multiplies the result.
    """

    def __init__(self, weight: torch.Tensor, width: int, eps: float, factor: float = 1.0) -> None:
        self.scale = weight.detach().float() * (math.sqrt(width) * factor)
        self.offset = torch.tensor(math.sqrt(width * eps), device=weight.device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The norm of x (float32 [..., D]): float32 [..., D]."""
        return torch.div(x, self._root(x)).mul_(self.scale)

    def apply_(self, x: torch.Tensor) -> None:
        """Like `__call__`, but changes x (float [..., D]) in place."""
        x.div_(self._root(x)).mul_(self.scale)

    def _root(self, x: torch.Tensor) -> torch.Tensor:
        """√(‖x‖² + D·ε) of x (float [..., D]): float32 [..., 1]."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return norm.hypot_(self.offset)


class _Cache:
    """Keys and values of a layer, as PyTorch's fused attention reads them: [2, R, H, L, d].

    R rows of the step, H heads of width d, L slots.

    Args:
        projected (float [R, 3, H, d]): query, key and value of a slot, for their shape and dtype.
        slots: L, the length of the whole sequence.
    """

    def __init__(self, projected: torch.Tensor, slots: int) -> None:
        rows, _, heads, head_dim = projected.shape
        # empty slots are read as well, masked by the lowest number as their bias, so they must not be NaN
        self.stored = projected.new_zeros(2, rows, heads, slots, head_dim)
        # views of each slot, [2, R, H, d]
        self.slots = self.stored.unbind(3)

    def clear(self) -> None:
        """Empties all slots, at the same addresses."""
        self.stored.zero_()

    def fill(self, rows: slice, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Writes the first n slots of some rows.

        Args:
            rows: which rows of the cache.
            keys, values (float [rows, H, n, d]): of these rows and slots, for H heads of width d.
        """
        self.stored[0, rows, :, : keys.shape[2]] = keys
        self.stored[1, rows, :, : values.shape[2]] = values

    def slot(self, slot: int) -> torch.Tensor:
        """A copy of the key and value of a slot (its index), float [2, rows, heads, head width]."""
        return self.slots[slot].clone()

    def write(self, slot: int | torch.Tensor, key_and_value: torch.Tensor) -> None:
        """Writes a slot.

        Args:
            slot: its index, an int, or int64 [1] in a CUDA graph.
            key_and_value (float [2, rows, heads, head width]): its key, then its value.
        """
        if isinstance(slot, int):
            self.slots[slot].copy_(key_and_value)
        else:
            self.stored.index_copy_(3, slot, key_and_value.unsqueeze(3))

    def until(self, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the keys and of the values of the first `slots` slots, for `attend`.

        Returns:
            Both float [rows, heads, slots, head width].
        """
        keys, values = self.stored[:, :, :, :slots]
        return keys, values

    @staticmethod
    def attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Attention of one slot.

        Args:
            query (float [R, H, 1, d]): already scaled; R rows, H heads of width d.
            keys, values: those of n slots, from `until`.
            bias (float [1 or R, H, 1, n]): position bias, which masks empty slots.

        Returns:
            float [R, H, 1, d].
        """
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)


class _LargeCache(_Cache):
    """A cache for AMD CPUs, where PyTorch's fused attention is far slower than memory can be read.

    Attention is two products of a matrix and a column, which read memory in order: keys lie as [R·H, L, d]; values lie
    transposed, in blocks of slots, as [L / BLOCK, R·H, d, BLOCK], so that those in use have no gaps between them. L is
    a multiple of BLOCK, and so is the number of slots to attend to.

    Args:
        projected (float [R, 3, H, d]): query, key and value of a slot, for their shape and dtype: R rows, H heads of
            width d.
        slots: L, the length of the whole sequence, rounded up to whole blocks.
    """

    def __init__(self, projected: torch.Tensor, slots: int) -> None:
        rows, _, heads, head_dim = projected.shape
        self.keys = projected.new_zeros(rows * heads, slots, head_dim)
        self.values = projected.new_zeros(slots // BLOCK, rows * heads, head_dim, BLOCK)
        keys = self.keys.unflatten(0, (rows, heads)).unbind(2)
        values = self.values.unflatten(1, (rows, heads)).permute(0, 4, 1, 2, 3)
        value_slots = [value for block in values.unbind() for value in block.unbind()]
        # views of each slot: its key and its value, float [R, H, d]
        self.cache_slots = list(zip(keys, value_slots, strict=True))

    def clear(self) -> None:
        """As in `_Cache`."""
        self.keys.zero_()
        self.values.zero_()

    def fill(self, rows: slice, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Writes the first n slots of some rows; zeros fill up the last block.

        Args:
            rows: which rows of the cache.
            keys, values (float [rows, H, n, d]): of these rows and slots, for H heads of width d.
        """
        _, heads, slots, _ = keys.shape
        self.keys.unflatten(0, (-1, heads))[rows, :, :slots] = keys
        padded = F.pad(values, (0, 0, 0, -slots % BLOCK))
        blocks = padded.unflatten(2, (-1, BLOCK))  # [rows, H, n / BLOCK, BLOCK, d]
        self.values.unflatten(1, (-1, heads))[: blocks.shape[2], rows] = blocks.permute(2, 0, 1, 4, 3)

    def slot(self, slot: int) -> torch.Tensor:
        """As in `_Cache`."""
        return torch.stack(self.cache_slots[slot])

    def write(self, slot: int | torch.Tensor, key_and_value: torch.Tensor) -> None:
        """Writes a slot.

        Args:
            slot: its index, an int: only CUDA graphs give a tensor, and they never read this cache.
            key_and_value (float [2, rows, heads, head width]): its key, then its value.
        """
        assert isinstance(slot, int)
        key_slot, value_slot = self.cache_slots[slot]
        key_slot.copy_(key_and_value[0])
        value_slot.copy_(key_and_value[1])

    def until(self, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the keys and values of the first n slots (`slots`, a multiple of BLOCK), for `attend`.

        Returns:
            Keys, float [R·H, n, d], and values, float [n / BLOCK · R·H, d, BLOCK]: R rows, H heads of width d.
        """
        return self.keys[:, :slots], self.values[: slots // BLOCK].flatten(0, 1)

    @staticmethod
    def attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Attention of one slot, in blocks of slots.

        Args:
            query (float [R, H, 1, d]): already scaled; R rows, H heads of width d.
            keys (float [R·H, n, d]), values (float [n / BLOCK · R·H, d, BLOCK]): of n slots, from `until`.
            bias (float [1 or R, H, 1, n]): position bias, which masks empty slots.

        Returns:
            float [R, H, 1, d].
        """
        rows, heads, _, head_dim = query.shape
        # a view of a row: with a contiguous column, MKL takes four times as long
        column = query.reshape(rows * heads, 1, head_dim).transpose(1, 2)
        scores = torch.bmm(keys, column).view(rows, heads, 1, -1).add_(bias)
        weights = scores.softmax(dim=-1).view(rows * heads, -1, BLOCK).transpose(0, 1)  # [n / BLOCK, R·H, BLOCK]
        columns = weights.reshape(-1, 1, BLOCK).transpose(1, 2)
        by_block = torch.bmm(values, columns).view(-1, rows, heads, 1, head_dim)  # [n / BLOCK, R, H, 1, d]
        return by_block.sum(0)


class _Layer:
    """One decoder layer's matrices and, after `open`, its cache of keys and values.

    Args:
        weights: what the layer computes with; `LayerWeights` gives the shapes.
        rows: R, the rows of a step.
        head_dim: d, the width of a head.
        eps: added to mean squares by the norms.
    """

    def __init__(self, weights: LayerWeights, rows: int, head_dim: int, eps: float) -> None:
        """Packs the matrices for products with `rows` rows, and folds constant factors into the norms."""
        # all fields by position: a field added to LayerWeights is an error here until the loop uses it
        attention_norm, qkv, query_norm, key_norm, scaling, output, feed_forward_norm, up, up_bias, down, down_bias = (
            weights
        )
        width = len(attention_norm)
        self.rows = rows
        # output: [width, heads · head_dim]
        heads = output.shape[1] // head_dim
        self.qkv = packed_linear(qkv, rows)
        self.output = packed_linear(output, rows)
        if up_bias is not None:
            # the factor √½ of `feed_forward_norm` reaches x · up, but not the bias
            up_bias = up_bias * math.sqrt(0.5)
        self.up = packed_linear(up, rows, up_bias)
        self.down = packed_linear(down, rows, down_bias)
        self.attention_norm = _Norm(attention_norm, width, eps)
        # the factor √½ gives `step` g′ = g / √2 and u′ = u / √2, so that GELU(g) · u = (g′u′) + (g′u′) · erf(g′) takes
        # three kernels with little overhead
        self.feed_forward_norm = _Norm(feed_forward_norm, width, eps, math.sqrt(0.5))
        self.query_key_norm = _Norm(torch.stack([query_norm * scaling, key_norm])[:, None], head_dim, eps)
        dtype = qkv.dtype
        if qkv.device.type == "cpu" and (_is_amd() or not _packs(dtype)):
            # float32 costs no more, because PyTorch's attention has no fast half-precision kernel there
            dtype = torch.float32
        # query, key and value of the slot, written by `step`; the next four attributes are views of it
        self.projected = torch.empty(rows, 3, heads, head_dim, dtype=dtype, device=qkv.device)
        self.projected_flat = self.projected.view(rows, -1)
        self.query_and_key = self.projected[:, :2]
        self.query = self.projected[:, 0, :, None]  # [R, H, 1, d]
        self.key_and_value = self.projected[:, 1:].transpose(0, 1)  # [2, R, H, d]
        self.cache = _Cache(self.projected, 0)
        self.slots = 0

    def open(self, slots: int, large: bool) -> bool:
        """Makes a cache for a sequence, or clears the existing one if its size and class are the same.

        A cleared cache keeps its addresses, so that CUDA graphs that read it stay valid.

        Args:
            slots: length of the whole sequence; a multiple of BLOCK if `large`.
            large: whether to make a `_LargeCache`, for many keys on an AMD CPU.

        Returns:
            Whether a new one was made, so that CUDA graphs must be recorded again.
        """
        cache_class = _LargeCache if large else _Cache
        if self.slots == slots and type(self.cache) is cache_class:
            self.cache.clear()
            return False
        self.slots = slots
        self.cache = cache_class(self.projected, slots)
        return True

    def step(
        self, x: torch.Tensor, slot: int | torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Runs the layer on one slot, and writes the slot's key and value to the cache.

        Args:
            x (float32 [R, D]): the slot's input, R rows of width D; changed in place.
            slot: its index in the sequence, an int or int64 [1].
            keys, values: views of the first n slots of the cache (`_Cache.until`).
            bias (float [1 or R, heads, 1, n]): position bias for these keys.

        Returns:
            x.
        """
        # the query, key and value are views of `projected_flat`
        self.projected_flat.copy_(self.qkv(self.attention_norm(x)))
        self.query_key_norm.apply_(self.query_and_key)
        self.cache.write(slot, self.key_and_value)
        attended = self.cache.attend(self.query, keys, values, bias)
        x.add_(self.output(attended.reshape(self.rows, -1).float()))
        gate, up = self.up(self.feed_forward_norm(x)).chunk(2, dim=-1)
        # both halves come multiplied by √½, so GELU(g) · u = product + product · erf(gate)
        product = gate * up
        return x.add_(self.down(product.addcmul_(product, gate.erf_())))


class CudaGraphed:
    """A function of tensors that returns a tensor; the first call records it as a CUDA graph, which each call replays.

    Arguments are copied to buffers of their own; all else that the function reads or writes must keep its address. The
    result is in a buffer that the next call overwrites. On other devices the function is called without a graph, so
    that tests run there too. The idea is that of moshi's class of that name.

    Args:
        function: of tensors whose shapes do not change.
    """

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        self.function = function
        self.arguments: list[torch.Tensor] = []
        self.graph: torch.cuda.CUDAGraph | None = None
        self.result = torch.empty(0)

    def fits(self, *arguments: torch.Tensor) -> bool:
        """Whether the arguments have the shapes of the first call's, which the graph is for; True before any call."""
        return not self.arguments or [new.shape for new in arguments] == [old.shape for old in self.arguments]

    def __call__(self, *arguments: torch.Tensor) -> torch.Tensor:
        """The function's result for arguments of the first call's shapes; valid until the next call."""
        if not self.arguments:
            self.arguments = [torch.empty_like(argument) for argument in arguments]
        for buffer, argument in zip(self.arguments, arguments, strict=True):
            buffer.copy_(argument)
        if self.arguments[0].device.type != "cuda":
            return self.function(*self.arguments)
        if self.graph is None:
            self.graph = self._captured()
        self.graph.replay()
        return self.result

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Records a graph of the function, which reads `arguments`; sets `result` to the buffer that it writes."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self.function(*self.arguments)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.result = self.function(*self.arguments)
        return graph


class FastGenerator:
    """Continues the codes of a batch, slot by slot.

    Args:
        stage: in evaluation mode; its weights are read at the first batch, and when the number of rows changes.
        config: the stage's `decoding_config`: guidance scale, temperature, top-k, history-free guidance.
        compile: whether a GPU replays the steps as CUDA graphs.

    Raises:
        ValueError: the config sets something that this loop does not support (`check_settings`), or the stage has
            adapters, quantised layers or offloaded weights (`check_weights`).
    """

    def __init__(self, stage: HAFMStageForCausalLM, config: GenerationConfig, compile: bool = False) -> None:
        check_settings(config)
        check_weights(stage)
        self.stage = stage
        self.stage_config = stage.config
        self.pattern = stage.pattern
        self.temperature: float = config.temperature
        self.top_k: int = config.top_k
        self.guidance_scale: float = config.guidance_scale
        self.history_free_guidance: float = config.history_free_guidance
        # rows of a step for each sequence: with guidance, one with the conditioning and one without
        self.rows_per_sequence = 1 if self.guidance_scale == 1.0 else 2
        # rows of a step (R), for which the weights below are packed (`_pack`); 0 before the first batch
        self.rows = 0
        self.layers: list[_Layer] = []
        # by the kind of slot, its index within its frame: embeddings of the codes that it reads, and heads of those
        # that it predicts
        self.tables: list[torch.Tensor] = []
        self.heads: list[Linear] = []
        # the last norm
        self.norm: _Norm
        # for each code of a step, int64 [sequences · codes per slot], where its codebook begins in the table
        self.offsets: torch.Tensor
        # whether the packed weights have given the scores of the stage's forward (`_check_agreement`)
        self.agrees = False
        # set for each batch (`_prefill`): the sequence's slots, and the index in it of the target's slot 0
        self.layout: SlotLayout
        self.first_slot = 0
        # set for each block of steps (`_make_block`): the slot of its first step, the position bias of each step,
        # [1 or R, heads, 1, n], and views of each layer's keys and values of the n slots that its steps read
        self.block_start = 0
        self.biases: tuple[torch.Tensor, ...] = ()
        self.keys_and_values: list[tuple[torch.Tensor, torch.Tensor]] = []
        # whether keys and values are in a `_LargeCache`
        self.large = False
        # added to the input of each slot, [slots, R, width], if the conditioning has no slots of its own
        self.added_conditioning: torch.Tensor | None = None
        self.compile = compile
        # by the kind of slot: its step as a graph; checked once the first has agreed with the plain loop
        self.graphs: dict[int, CudaGraphed] = {}
        self.graphs_checked = False

    def codes(self, batch: WindowBatch, report: StepReport | None = None) -> torch.Tensor:
        """Like `generate_frames`, but returns the codes of all frames at once, for tests and benchmarks.

        Returns:
            int64 [batch, codebooks, frames].
        """
        return torch.stack(list(self.generate_frames(batch, report)), dim=2)

    @torch.no_grad()
    def generate_frames(self, batch: WindowBatch, report: StepReport | None = None) -> Iterator[torch.Tensor]:
        """Generates the frames of a batch.

        Args:
            batch: the sequences to continue, and for how many frames.
            report: called with 1 after each step, with 0 between the layers of the first pass.

        Yields:
            The codes of the next frame, int64 [batch, codebooks].

        Raises:
            ValueError: this loop does not compute what the stage's forward does, because a hook changes that.
        """
        plan = self.stage.slot_plan(batch)
        scores = self._prefill(batch.conditioning_ids, batch.conditioning_mask, plan, report)
        history_free_scores = None
        if self.history_free_guidance != 0.0:
            unweighted = self.stage.history_free_scores(
                batch.conditioning_ids, batch.conditioning_mask, plan.known.shape[1], plan.num_slots, report
            )
            history_free_scores = self.history_free_guidance * unweighted
        complete_frames = 0
        new_predictions = self._predictions_by_step(scores, plan, history_free_scores, report)
        for steps_done, predictions in enumerate(new_predictions, start=1):
            # not after each step: under the flat pattern a frame takes several, under the delay pattern the first ones
            # complete none
            if self.pattern.num_frames(steps_done) > complete_frames:
                # past the end of a shorter sequence there is BOS, which is not a code
                yield self.pattern.frame(predictions, complete_frames).clamp(max=self.stage_config.codebook_size - 1)
                complete_frames += 1

    def _predictions_by_step(
        self,
        scores: torch.Tensor,
        plan: SlotPlan,
        history_free_scores: torch.Tensor | None,
        report: StepReport | None,
    ) -> Iterator[torch.Tensor]:
        """Predicts the codes of the new slots, one slot a step; each slot holds C codes for each of B sequences.

        Args:
            scores (float [B·C, V]): logits of the first new slot, for the V codes of a codebook.
            plan: the slots to generate.
            history_free_scores (float [B·C, slots, V], *optional*): added to the logits of each new slot; already
                multiplied by `history_free_guidance`.
            report: called with 1 after each step.

        Yields:
            After each step, the same tensor int64 [B·C, slots], in which one more slot holds its codes.
        """
        codes_per_step = plan.known.shape[0]  # B·C
        known_slots = plan.known.shape[1]
        predictions = plan.known.new_empty(codes_per_step, plan.num_slots)
        for step in range(plan.num_slots):
            if step > 0:
                scores = self._step(predictions[:, step - 1], known_slots + step)
            if history_free_scores is not None:
                scores = scores + history_free_scores[:, step]
            uniforms = None
            if plan.uniforms is not None:
                uniforms = plan.uniforms[:, step]
            predictions[:, step] = with_kept(self.draw(scores, uniforms), plan.fixed, step)
            if report is not None:
                report(1)
            yield predictions

    def draw(self, scores: torch.Tensor, uniforms: torch.Tensor | None) -> torch.Tensor:
        """Samples the codes of a slot with the loop's temperature and top-k (`sampling.draw`).

        Args:
            scores (float [B·C, V]): logits of C codes for each of B sequences, for the V codes of a codebook.
            uniforms (float32 [B·C], *optional*): random numbers; None for the likeliest codes.

        Returns:
            int64 [B·C].
        """
        return draw(scores, uniforms, self.temperature, self.top_k)

    def _guide(self, states: torch.Tensor) -> torch.Tensor:
        """Applies classifier-free guidance to the normalised hidden states of the last layer.

        The heads are affine and the two weights sum to 1, so the logits of the guided states are the guided logits.

        Args:
            states (float [R, D]): of width D: the B conditional rows, then, with guidance, the B unconditional ones.

        Returns:
            float [B, D].
        """
        if self.rows_per_sequence == 1:
            return states
        # lerp is a single kernel, and extrapolates for scales above 1
        conditional, unconditional = states.chunk(2)
        return torch.lerp(unconditional, conditional, self.guidance_scale)

    def _prefill(
        self,
        conditioning_ids: torch.Tensor,
        mask: torch.Tensor | None,
        plan: SlotPlan,
        report: StepReport | None,
    ) -> torch.Tensor:
        """Prepares the loop for a batch: what comes before the first new slot goes through the stage's own forward.

        Args:
            conditioning_ids (int64 [B, K, T_c]): K conditioning streams of T_c frames.
            mask (bool [B, T_c] or None): False where the conditioning is padding.
            plan: the batch's slots, of which `known` come before those to generate.
            report: called with 0 between layers.

        Returns:
            Scores of the first new slot, float [B·C, V]: C codes per slot, of V each.
        """
        config = self.stage_config
        scale = self.guidance_scale
        conditioning = for_guidance(conditioning_ids, scale)  # [R, K, T_c]
        null = null_rows(conditioning_ids, scale)
        if mask is not None:
            mask = for_guidance(mask, scale)
        bos = plan.known.new_full((len(plan.known), 1), config.codebook_size)
        input_ids = torch.cat([bos, plan.known], dim=1)  # [B·C, 1 + known slots]
        if self.rows != len(conditioning):
            self._pack(len(conditioning), report)

        # conditioning comes before the target, but not with the fusion "sum"
        self.first_slot = config.num_prepended_sources * conditioning.shape[-1]
        slots = self.first_slot + plan.known.shape[1] + plan.num_slots
        numbers_in_keys = len(conditioning) * slots * config.num_attention_heads * config.head_dim  # of a layer
        on_amd = conditioning.device.type == "cpu" and _is_amd()
        self.large = on_amd and not self.compile and numbers_in_keys >= LARGE_CACHE
        cache_length = slots
        if self.large:
            cache_length = math.ceil(slots / BLOCK) * BLOCK
        allocated = [layer.open(cache_length, self.large) for layer in self.layers]
        if any(allocated):
            # existing graphs read the former caches
            self.graphs = {}
        states = self._fill(for_guidance(input_ids, scale), conditioning, null, mask, report)

        device = input_ids.device
        self.layout = slot_layout(config, conditioning.shape[-1], slots - self.first_slot, mask, device=device)
        self.biases = ()
        self.block_start = 0
        if config.conditioning_fusion == "sum":
            target_indices = torch.arange(slots - self.first_slot, device=device)
            self._add_conditioning(self.stage.model.conditioning_of(target_indices, conditioning, null, mask))
        states = self._guide(states)
        if not self.agrees:
            self._check_agreement(input_ids[:, -1], plan.known.shape[1], states)
        return self._scores(states, plan.known.shape[1] % self.pattern.slots_per_frame)

    def _fill(
        self,
        input_ids: torch.Tensor,
        conditioning: torch.Tensor,
        null: torch.Tensor | None,
        mask: torch.Tensor | None,
        report: StepReport | None,
    ) -> torch.Tensor:
        """Runs the stage's forward over what comes before the loop, and writes its keys and values to the caches.

        Args:
            input_ids (int64 [R·C, n]): BOS and the known slots, C codes per slot, for the R rows of a step.
            conditioning (int64 [R, K, T_c]): K conditioning streams of T_c frames.
            null (bool [R] or None): rows whose conditioning is dropped.
            mask (bool [R, T_c] or None): False where the conditioning is padding.
            report: called with 0 between layers.

        Returns:
            The normalised states of the last slot, float32 [R, D]; D, width.
        """
        codes = self.pattern.codes_per_slot
        states = []
        rows_at_once = max(PREFILL_SLOTS // (self.first_slot + input_ids.shape[1]), 1)
        for first in range(0, self.rows, rows_at_once):
            rows = slice(first, first + rows_at_once)
            outputs = self.stage.model(
                input_ids=input_ids[rows.start * codes : rows.stop * codes],
                conditioning_ids=conditioning[rows],
                conditioning_mask=None if mask is None else mask[rows],
                null_conditioning=None if null is None else null[rows],
                use_cache=True,
                target_only=True,
                report=report,
            )
            if report is not None:
                report(0)
            for layer, layer_cache in zip(self.layers, outputs.cache.layers, strict=True):
                layer.cache.fill(rows, layer_cache.keys, layer_cache.values)
            states.append(outputs.last_hidden_state[:, -1].float())
            if report is not None:
                report(0)
        return torch.cat(states)

    def _check_agreement(self, ids: torch.Tensor, target_slot: int, states: torch.Tensor) -> None:
        """Compares this loop's scores of a slot with the stage's own, after its forward has computed that slot.

        Args:
            ids (int64 [B·C]): input of the slot: C codes of the slot before for each of B sequences.
            target_slot: index of the slot in the target.
            states (float [B, D]): the forward's normalised and guided states of that slot; D, width.

        Raises:
            ValueError: they differ by more than rounding does.
        """
        target_indices = torch.tensor([target_slot], device=ids.device)
        expected = self.stage.heads(states[:, None].to(self.stage.dtype), target_indices)[:, 0].float()  # [B·C, V]
        slot = self.first_slot + target_slot
        from_forward = [layer.cache.slot(slot) for layer in self.layers]
        self._make_block(slot)
        scores = self.slot_scores(target_slot % self.pattern.slots_per_frame, ids, slot, self.biases[0])
        # the standard deviation is 0 if all scores are equal
        deviation = float((scores - expected).pow(2).mean().sqrt() / expected.std().clamp(min=1e-6))
        if deviation > FORWARD_TOLERANCE[self.stage.dtype]:
            raise ValueError(
                f"The fast loop reads weights only, and its scores are {deviation:.2g} standard deviations from those "
                'of the model: a hook changes what a module computes. Remove it, or choose decoding="reference".'
            )
        # `slot_scores` has overwritten this slot's keys and values: the loop goes on from the forward's, with blocks
        # from the first new slot
        for layer, key_and_value in zip(self.layers, from_forward, strict=True):
            layer.cache.write(slot, key_and_value)
        self.biases = ()
        self.agrees = True

    def _add_conditioning(self, at_slots: torch.Tensor) -> None:
        """Stores the conditioning to be added to each slot's input.

        It is copied to the existing buffer if the shape is the same, so that CUDA graphs that read it stay valid.

        Args:
            at_slots (float [R, L, D]): for the R rows of a step and the L slots of the target; D, width.
        """
        by_slot = at_slots.float().transpose(0, 1)  # [L, R, D]
        if self.added_conditioning is None or self.added_conditioning.shape != by_slot.shape:
            self.added_conditioning = by_slot.contiguous()
            self.graphs = {}
        else:
            self.added_conditioning.copy_(by_slot)

    def _pack(self, rows: int, report: StepReport | None) -> None:
        """Prepares layers, embedding tables and heads for steps of a number of rows.

        Args:
            rows: twice the number of sequences under guidance, else the number of sequences.
            report: called with 0 before each layer.
        """
        batch = rows // self.rows_per_sequence
        # all fields by position: a field added to SlotWeights is an error here until the loop uses it
        tables, layers, norm, heads, head_biases = self.stage.slot_weights()
        head_dim = self.stage_config.head_dim
        eps = self.stage_config.rms_norm_eps
        self.layers = []
        for layer in layers:
            if report is not None:
                report(0)
            self.layers.append(_Layer(layer, rows, head_dim, eps))
        self.tables = tables
        self.norm = _Norm(norm, len(norm), eps)
        self.heads = [packed_linear(head.detach(), batch, bias) for head, bias in zip(heads, head_biases, strict=True)]
        codes = self.pattern.codes_per_slot
        codebooks = torch.arange(codes, device=norm.device)
        embeddings_per_codebook = len(tables[0]) // codes
        self.offsets = (codebooks * embeddings_per_codebook).repeat(batch)
        self.graphs = {}
        self.agrees = False
        # last, so that the next batch packs again if `report` ends this one between layers
        self.rows = rows

    def _step(self, ids: torch.Tensor, target_slot: int) -> torch.Tensor:
        """Scores of a slot.

        Args:
            ids (int64 [B·C]): C codes of the slot before for each of B sequences.
            target_slot: index of the slot in the target, whose slot 0 reads BOS.

        Returns:
            float [B·C, V], for the V codes of a codebook.
        """
        slot = self.first_slot + target_slot
        kind = target_slot % self.pattern.slots_per_frame
        # outside the current block
        if not 0 <= slot - self.block_start < len(self.biases):
            self._make_block(slot)
        bias = self.biases[slot - self.block_start]
        if self.compile:
            scores = self._graphed_scores(kind, ids, slot, bias)
            # None: graphs have just been turned off
            if scores is not None:
                return scores
        return self.slot_scores(kind, ids, slot, bias)

    def _graphed_scores(self, kind: int, ids: torch.Tensor, slot: int, bias: torch.Tensor) -> torch.Tensor | None:
        """Scores of a slot by a CUDA graph.

        The first graph's scores are compared with those of `slot_scores`. If capturing fails or they deviate, graphs
        are turned off, with a warning.

        Args:
            kind, ids, slot, bias: as for `slot_scores`; `slot` is an int.

        Returns:
            As `slot_scores`; None if graphs have just been turned off.
        """
        # the slot as a tensor: a graph would keep the first call's number
        arguments = (ids, self.layout.slot[slot : slot + 1], bias)
        if kind in self.graphs and not self.graphs[kind].fits(*arguments):
            self.graphs = {}
        if not self.graphs:
            self.graphs_checked = False
        if kind not in self.graphs:
            self.graphs[kind] = CudaGraphed(partial(self.slot_scores, kind))
        graphed = self.graphs[kind]
        if self.graphs_checked:
            return graphed(*arguments)
        expected = self.slot_scores(kind, ids, slot, bias)
        try:
            scores = graphed(*arguments)
            deviation = float((scores - expected).abs().max() / expected.std())
            problem = ""
            # not "greater than", so that NaN is a problem, too
            if not deviation <= GRAPH_TOLERANCE:
                problem = f"its scores differ by {deviation:.2g} standard deviations"
        except RuntimeError as error:
            problem = str(error)
        if not problem:
            self.graphs_checked = True
            return scores
        logger.warning(f"compile=True is off for this stage, which continues without CUDA graphs: {problem}.")
        self.compile = False
        self.graphs = {}
        self._make_block(slot)
        return None

    def slot_scores(self, kind: int, ids: torch.Tensor, slot: int | torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Scores of a slot of the sequence.

        Args:
            kind: the slot's index within its frame: under the flat pattern the codebook that it predicts, under the
                delay pattern 0.
            ids (int64 [B·C]): its input: C codes of the slot before for each of B sequences.
            slot: its index, an int or int64 [1].
            bias (float [1 or R, heads, 1, n]): position bias for the n keys of the current block, for all or each of
                the R rows of a step.

        Returns:
            float [B·C, V], for the V codes of a codebook.
        """
        if self.pattern.codes_per_slot == 1:
            x = self.tables[kind].index_select(0, ids)
        else:
            # the table holds the embeddings of all codebooks, one codebook after the other
            x = self.tables[kind].index_select(0, ids + self.offsets)
            x = x.unflatten(0, (-1, self.pattern.codes_per_slot)).sum(1)
        x = for_guidance(x, self.guidance_scale)  # [R, D]
        if self.added_conditioning is not None:
            if isinstance(slot, int):
                x = x + self.added_conditioning[slot]
            else:
                x = x + self.added_conditioning.index_select(0, slot)[0]
        for layer, (keys, values) in zip(self.layers, self.keys_and_values, strict=True):
            x = layer.step(x, slot, keys, values, bias)
        return self._scores(self._guide(self.norm(x)), kind)

    def _scores(self, states: torch.Tensor, kind: int) -> torch.Tensor:
        """Logits of the codes that slots of a kind predict.

        Args:
            states (float [B, D]): guided states of a slot; D, width.
            kind: index of the slot within its frame.

        Returns:
            float [B·C, V]: C codes per slot, of V each.
        """
        return self.heads[kind](states).reshape(len(states) * self.pattern.codes_per_slot, -1)

    def _make_block(self, slot: int) -> None:
        """Prepares the next steps, from `slot` (index in the sequence) on: at most BLOCK, and at most those left.

        Sets `biases`, one row [1 or R, heads, 1, n] for each step, `keys_and_values`, views of the n slots that these
        steps read, and `block_start`.
        """
        slots = len(self.layout.slot)
        stop = slot + BLOCK
        if self.large:
            # such a cache is read in whole blocks
            stop -= slot % BLOCK
        stop = min(stop, slots)
        # n: a CUDA graph reads the whole cache at every step
        num_keys = slots if self.compile else stop
        query = torch.arange(slot, stop, device=self.layout.slot.device)
        layout = self.layout.select(self.layout.slot[:num_keys])
        block = self.stage.model.attention_bias(layout, query).detach()  # [1 or R, H, steps, n]
        if self.large:
            empty_slots = -num_keys % BLOCK
            block = F.pad(block, (0, empty_slots), value=torch.finfo(block.dtype).min)
            num_keys += empty_slots
        self.keys_and_values = [layer.cache.until(num_keys) for layer in self.layers]
        self.biases = block.to(self.layers[0].projected.dtype).split(1, dim=2)
        self.block_start = slot
        if block.device.type == "cuda":
            # keeps reported progress from running ahead of the GPU by more than a block
            torch.cuda.current_stream().synchronize()
