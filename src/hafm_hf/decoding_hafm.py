"""The fast decoding loop: one token after another with as little as possible around the mathematics.

It computes what a stage's forward computes, from the same weights, without modules, hooks or masks: the rows' keys and
values lie in buffers made once, norm weights are folded into the matrices behind them, matrices are packed for the
number of rows, and bias rows come in blocks from the stage's own position scheme. GenerationMixin's loop
(`stage.generate`) stays the reference; tests compare the two.

Dimensions: B rows of the batch, R rows of the step (2B under guidance, conditional ones first), L slots, D width, H
heads of d, V codes.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from .position_hafm import TokenLayout, token_layout
from .sampling_hafm import draw, force

# Precisions of the matrices beside the stage's own
WEIGHTS = ("int8",)
# steps whose bias rows are computed at once
BIAS_BLOCK = 64
# rows up to which a matrix beyond the caches is read fastest by a plain product, and what "beyond" starts at
FEW_ROWS = 4
LARGE_MATRIX = 1 << 18

Linear = Callable[[torch.Tensor], torch.Tensor]


def packed_linear(weight: torch.Tensor, rows: int, weights: str | None = None) -> Linear:
    """`x ↦ x Wᵀ` for float [R, I] with R = `rows`, the fastest of what torch has without a compiler.

    Args:
        weight (float [O, I]): the matrix.
        rows: how many rows the inputs will have.
        weights: "int8" rounds the matrix to 8 bits, one scale an output (CPU only); None keeps its precision.

    Raises:
        ValueError: on another value of `weights`, or int8 on another device than the CPU.
    """
    if weights is not None:
        return _int8_linear(weight, weights)
    weight = weight.contiguous()
    if weight.device.type != "cpu":
        return lambda x: F.linear(x, weight)
    if weight.dtype == torch.float32 and rows <= FEW_ROWS and weight.numel() >= LARGE_MATRIX:
        return lambda x: (weight @ x.t()).t()
    if not torch.backends.mkldnn.is_available() or weight.dtype not in (torch.float32, torch.bfloat16):
        return lambda x: F.linear(x, weight)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x: product(x, packed, None, "none", [], "")


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
    product, dtype = torch.ops.quantized.linear_dynamic, weight.dtype
    return lambda x: product(x.float(), packed, True).to(dtype)


class UnitNorm:
    """RMSNorm without its weight and without the factor √D, both of which live in the matrix behind it."""

    def __init__(self, width: int, eps: float, device: torch.device) -> None:
        # ‖x‖² + D·ε under the root: RMSNorm's own ε, in three small kernels instead of eight
        self.offset = torch.tensor(math.sqrt(width * eps), device=device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """float [..., D] → float [..., D], x / √(‖x‖² + D·ε)."""
        wide = x.float()
        return (wide / torch.hypot(torch.linalg.vector_norm(wide, dim=-1, keepdim=True), self.offset)).to(x.dtype)


class _Layer:
    """One decoder layer's matrices and its keys and values, [R·H, d, L] and [R·H, L, d]."""

    def __init__(self, layer: Any, rows: int, slots: int, weights: str | None) -> None:
        attention, config = layer.attention, layer.attention.config
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        root = math.sqrt(config.hidden_size)

        def pack(weight: torch.Tensor, norm: torch.Tensor | None = None) -> Linear:
            return packed_linear(weight if norm is None else weight * (norm * root), rows, weights)

        self.qkv = pack(attention.qkv_proj.weight, layer.attention_norm.weight)
        self.output = pack(attention.o_proj.weight)
        self.up = pack(layer.feed_forward.up_proj.weight, layer.feed_forward_norm.weight)
        self.down = pack(layer.feed_forward.down_proj.weight)
        self.inner = config.intermediate_size
        weight = attention.qkv_proj.weight
        norms = torch.stack([attention.q_norm.weight * attention.scaling, attention.k_norm.weight])
        self.head_scale = (norms * math.sqrt(self.head_dim))[:, None].expand(2, self.heads, self.head_dim)
        self.norm = UnitNorm(config.hidden_size, config.rms_norm_eps, weight.device)
        self.head_norm = UnitNorm(self.head_dim, config.rms_norm_eps, weight.device)
        self.keys = weight.new_zeros(rows * self.heads, self.head_dim, slots)
        self.values = weight.new_zeros(rows * self.heads, slots, self.head_dim)

    def fill(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Takes over the keys and values of the slots before the loop, float [R, H, n, d]."""
        slots = keys.shape[2]
        self.keys[..., :slots] = keys.flatten(0, 1).transpose(1, 2)
        self.values[:, :slots] = values.flatten(0, 1)

    def extend(self, x: torch.Tensor, first: int, count: int, bias: torch.Tensor) -> torch.Tensor:
        """Adds slots [first, first + count): x [R · count, D], bias [R·H, count, first + count] → [R · count, D]."""
        until, rows = first + count, len(x) // count
        qkv = self.qkv(self.norm(x)).view(rows, count, 3, self.heads, self.head_dim)
        normed = self.head_norm(qkv[:, :, :2]) * self.head_scale
        query = normed[:, :, 0].transpose(1, 2).reshape(-1, count, self.head_dim)
        self.keys[..., first:until] = normed[:, :, 1].permute(0, 2, 3, 1).reshape(-1, self.head_dim, count)
        self.values[:, first:until] = qkv[:, :, 2].transpose(1, 2).reshape(-1, count, self.head_dim)
        weights = torch.baddbmm(bias, query, self.keys[..., :until]).softmax(-1)
        attended = torch.bmm(weights, self.values[:, :until]).view(rows, self.heads, count, self.head_dim)
        x = x + self.output(attended.transpose(1, 2).reshape(rows * count, -1))
        gate, up = self.up(self.norm(x)).split(self.inner, dim=-1)
        return x + self.down(F.gelu(gate) * up)


class FastDecoder:
    """Continues the target of a batch of rows, token by token.

    Args:
        stage: HAFMStageForCausalLM in evaluation mode; its weights are read when this is made.
        guidance_scale: λ of classifier-free guidance; 1 means none, and half of the rows.
        temperature, top_k: of the sampling.
        weights: "int8" for matrices of 8 bits, None for the stage's precision.
    """

    def __init__(
        self,
        stage: Any,
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
        weights: str | None = None,
    ) -> None:
        self.stage, self.config = stage, stage.config
        self.guidance_scale, self.temperature, self.top_k = guidance_scale, temperature, top_k
        self.weights = weights
        self.guided = guidance_scale != 1.0

    @torch.no_grad()
    def generate(
        self,
        conditioning_ids: torch.Tensor,
        new_tokens: int,
        uniforms: torch.Tensor | None,
        known: torch.Tensor | None = None,
        forced: torch.Tensor | None = None,
        conditioning_mask: torch.Tensor | None = None,
        report: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """Generates flat target tokens.

        Args:
            conditioning_ids (int64 [B, K, T_c]): conditioning streams.
            new_tokens: how many tokens each row gets.
            uniforms (float32 [B, new_tokens]): the rows' random numbers; None takes the likeliest codes.
            known (int64 [B, P], *optional*): flat tokens that come before, without BOS.
            forced (int64 [B, new_tokens], *optional*): tokens to take instead of drawing, −1 where to draw.
            conditioning_mask (bool [B, T_c], *optional*): False where the conditioning is padding.
            report: called with 1 after each step; what it raises ends the loop.

        Returns:
            int64 [B, new_tokens].
        """
        batch = len(conditioning_ids)
        known = conditioning_ids.new_empty(batch, 0) if known is None else known
        if uniforms is not None:
            uniforms = uniforms.to(conditioning_ids.device)
        scores = self._prefill(conditioning_ids, conditioning_mask, known, new_tokens)
        tokens = conditioning_ids.new_empty(batch, new_tokens)
        for step in range(new_tokens):
            target = known.shape[1] + step
            if step > 0:
                scores = self._step(tokens[:, step - 1], target)
            scores = self._limit(scores, target)
            numbers = None if uniforms is None else uniforms[:, step]
            tokens[:, step] = force(draw(scores, numbers, self.temperature, self.top_k), forced, step)
            if report is not None:
                report(1)
        return tokens

    def _double(self, rows: torch.Tensor | None) -> torch.Tensor | None:
        return torch.cat([rows, rows]) if self.guided and rows is not None else rows

    def _guide(self, scores: torch.Tensor) -> torch.Tensor:
        if not self.guided:
            return scores
        conditional, unconditional = scores.chunk(2)
        return torch.lerp(unconditional, conditional, self.guidance_scale)

    def _limit(self, scores: torch.Tensor, target: int) -> torch.Tensor:
        size = self.config.codebook_sizes[target % self.config.num_codebooks]
        return scores if size == scores.shape[-1] else scores[:, :size]

    def _prefill(
        self, conditioning_ids: torch.Tensor, mask: torch.Tensor | None, known: torch.Tensor, new_tokens: int
    ) -> torch.Tensor:
        """Scores of the first new token; conditioning, BOS and `known` go through the stage's own forward."""
        config, model = self.config, self.stage.model
        bos = torch.full_like(conditioning_ids[:, 0, :1], config.codebook_size)
        input_ids = self._double(torch.cat([bos, known], dim=1))
        conditioning, mask = self._double(conditioning_ids), self._double(mask)
        assert conditioning is not None and input_ids is not None
        rows = len(conditioning)
        outputs = model(
            input_ids=input_ids,
            conditioning_ids=conditioning,
            conditioning_mask=mask,
            null_conditioning=torch.arange(rows, device=known.device) >= len(known) if self.guided else None,
            use_cache=True,
        )
        prefix = config.num_conditioning_sources * conditioning.shape[-1]
        slots = prefix + input_ids.shape[1] + new_tokens - 1
        self._prepare(rows, slots)
        for layer, cached in zip(self.layers, outputs.past_key_values.layers, strict=True):
            layer.fill(cached.keys, cached.values)
        self._lay_out(
            token_layout(config, conditioning.shape[-1], slots - prefix, mask, device=known.device), first_slot=prefix
        )
        scores = self.stage.heads(
            outputs.last_hidden_state[:, -1:], torch.tensor([known.shape[1]], device=known.device)
        )
        return self._guide(scores[:, 0])

    def _lay_out(self, layout: TokenLayout, first_slot: int) -> None:
        """Says where each slot stands; flat target t has slot `first_slot` + t."""
        self.layout, self.first_slot = layout, first_slot
        self.block, self.block_start = torch.empty(0, 0, 0), 0

    def _prepare(self, rows: int, slots: int) -> None:
        """Layers with room for `slots`, tables and heads as the loop wants them."""
        model, config = self.stage.model, self.config
        self.layers = [_Layer(layer, rows, slots, self.weights) for layer in model.layers]
        # a slot holds a token of the codebook before, and says which codebook it predicts and that it is target
        self.tables = list(model.target_embedding.weight)
        self.slot_kinds = model.quantizer_embedding.weight + model.segment_embedding.weight[-1]
        self.norm = UnitNorm(config.hidden_size, config.rms_norm_eps, model.norm.weight.device)
        scale = model.norm.weight * math.sqrt(config.hidden_size)
        self.heads = [packed_linear(head * scale, rows, self.weights) for head in self.stage.heads.weight]

    def _step(self, ids: torch.Tensor, target: int) -> torch.Tensor:
        """Scores [B, V] of flat target `target`, whose slot holds the tokens before it (int64 [B])."""
        count = self.config.num_codebooks
        x = F.embedding(ids, self.tables[(target - 1) % count]) + self.slot_kinds[target % count]
        x = torch.cat([x, x]) if self.guided else x
        slot = self.first_slot + target
        bias = self._bias_row(slot, len(x))
        for layer in self.layers:
            x = layer.extend(x, slot, 1, bias)
        return self._guide(self.heads[target % count](self.norm(x)))

    def _bias_row(self, slot: int, rows: int) -> torch.Tensor:
        """Relative bias of one slot on itself and all before it: [R·H, 1, slot + 1]."""
        if not 0 <= slot - self.block_start < self.block.shape[2]:
            last = min(slot + BIAS_BLOCK, len(self.layout.slot))
            query = torch.arange(slot, last, device=self.layout.slot.device)
            self.block = self.stage.model.attention_bias(_until(self.layout, last), query)
            self.block_start = slot
        row = self.block[:, :, slot - self.block_start, : slot + 1]
        return row.expand(rows, -1, -1).reshape(-1, 1, slot + 1)


def _until(layout: TokenLayout, slots: int) -> TokenLayout:
    return layout.select(layout.slot[:slots])
