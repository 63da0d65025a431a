# SPDX-License-Identifier: Apache-2.0
"""The fast decoding loop: decodes slot by slot with minimal overhead.

It computes what a stage's forward computes, from the same weights, without modules, hooks or masks: keys and values
are kept in preallocated buffers, constant factors are folded into the norms, matrices are packed for the number of
rows, and bias rows are computed in blocks by the stage's own position scheme. GenerationMixin's loop
(`stage.generate`) remains the reference; tests compare the two.

On a GPU, `compile=True` replays each step as one CUDA graph, one launch instead of many small kernels per layer. If
its first step does not agree with the plain loop's, the plain loop takes over.

Dimensions: B rows of the batch, C codes per slot (1, or Q under the delay pattern), R rows of the step (2B under
guidance, conditional ones first), L slots, D width, H heads of d, V codes of a codebook.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F
from transformers.utils import logging

from .codebook_patterns import SlotPlan
from .generation_hafm import draw, for_guidance, force, null_rows
from .layers import token_layout
from .modeling_hafm import HAFMStageForCausalLM

logger = logging.get_logger(__name__)

Linear = Callable[[torch.Tensor], torch.Tensor]
# rows up to which the cost of a matrix product is that of reading the matrix
FEW_ROWS = 4
# rows up to which half-precision weights beat oneDNN's float32 product
HALF_ROWS = 32
# largest change of a weight by rounding to half precision with which a product still counts as a float32 one
HALF_ROUNDING = 2.0**-25
# steps whose bias rows are computed at a time
BLOCK = 64
# runs of a step before it is captured, in which libraries allocate their workspaces
WARM_UPS = 3
# largest deviation of a captured step's scores, in standard deviations of the scores: half precision rounds that much
GRAPH_TOLERANCE = 0.02
# modules whose computation is known from their weights, and packages whose hooks do not change it
PLAIN_MODULES = ("torch.nn.modules.", "hafm_hf.")
PLAIN_HOOKS = ("hafm_hf.", "transformers.", "peft.")


def check_plain(stage: HAFMStageForCausalLM) -> None:
    """Refuses a stage whose modules do anything beyond applying their weights, which are all that this loop reads.

    Raises:
        ValueError: names the first adapter, quantised layer, hooked or offloaded module, and the way out.
    """
    for part in ("model", "heads"):
        for name, module in getattr(stage, part).named_modules(prefix=part):
            hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
            plain = (
                type(module).__module__.startswith(PLAIN_MODULES)
                and "forward" not in vars(module)
                and all(type(value.data) is torch.Tensor for value in module.parameters(recurse=False))
                and all(hook.__module__.startswith(PLAIN_HOOKS) for hook in hooks)
            )
            if not plain:
                raise ValueError(
                    f"The fast loop reads weights only, and {name} ({type(module).__name__}) is quantised, hooked, "
                    'offloaded or an adapter. Merge adapters with merge_and_unload(), or choose decoding="reference".'
                )


def packed_linear(weight: torch.Tensor, rows: int, bias: torch.Tensor | None = None) -> Linear:
    """Returns `x ↦ x Wᵀ + b` from float32 [R, I], R = `rows`, to float32 [R, O], whatever the precision of W.

    With few rows a product is limited by reading the matrix from memory, so the matrix is kept small and in the order
    in which it is read.

    Args:
        weight (float [O, I]): the matrix.
        rows: number of rows that the inputs will have.
        bias (float [O], *optional*): b.
    """
    weight = weight.detach().contiguous()
    bias = None if bias is None else bias.detach().contiguous()
    if weight.device.type != "cpu":
        bias = None if bias is None else bias.to(weight.dtype)
        return lambda x: F.linear(x.to(weight.dtype), weight, bias).float()
    # oneDNN's bfloat16 product is faster for many rows; it rounds the input too, as is usual in bfloat16
    rounds_inputs = weight.dtype == torch.bfloat16 and _packs(torch.bfloat16)
    has_fbgemm = torch.backends.quantized.engine in ("x86", "fbgemm")
    if rows <= (FEW_ROWS if rounds_inputs else HALF_ROWS) and has_fbgemm and _fits_half(weight):
        # half the bytes to read; weights are widened before they are multiplied, and sums accumulate in float32
        packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None if bias is None else bias.float())
        product = torch.ops.quantized.linear_dynamic_fp16
        return lambda x: product(x, packed)
    return _packed_linear(weight, rows, bias)


def _packed_linear(weight: torch.Tensor, rows: int, bias: torch.Tensor | None) -> Linear:
    """`packed_linear` with oneDNN in W's own precision, or in float32 where the CPU lacks a bfloat16 product."""
    if weight.dtype == torch.bfloat16 and not _packs(torch.bfloat16):
        weight = weight.float()
    dtype = weight.dtype
    bias = None if bias is None else bias.to(dtype)
    if dtype not in (torch.float32, torch.bfloat16) or not _packs(dtype):
        return lambda x: F.linear(x.to(dtype), weight, bias).float()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    product = torch.ops.mkldnn._linear_pointwise
    if dtype == torch.float32:
        return lambda x: product(x, packed, bias, "none", [], "")
    return lambda x: product(x.to(dtype), packed, bias, "none", [], "").float()


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
    """RMSNorm of float32 as x / √(‖x‖² + D·ε) · (√D · weight), in four small kernels instead of eight."""

    def __init__(self, weight: torch.Tensor, width: int, eps: float, factor: float = 1.0) -> None:
        self.scale = weight.detach().float() * (math.sqrt(width) * factor)
        self.offset = torch.tensor(math.sqrt(width * eps), device=weight.device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [..., D] → float32 [..., D]."""
        return torch.div(x, self._root(x)).mul_(self.scale)

    def apply_(self, x: torch.Tensor) -> None:
        """Normalises x, float [..., D], in place."""
        x.div_(self._root(x)).mul_(self.scale)

    def _root(self, x: torch.Tensor) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return norm.hypot_(self.offset)


class _Layer:
    """One decoder layer's matrices and, after `open`, its keys and values in one cache, [2, R, H, L, d]."""

    def __init__(self, layer: Any, rows: int) -> None:
        attention, feed_forward, config = layer.attention, layer.feed_forward, layer.attention.config
        self.rows, self.heads, self.head_dim = rows, config.num_attention_heads, config.head_dim
        up, down = feed_forward.up_proj, feed_forward.down_proj
        self.qkv = packed_linear(attention.qkv_proj.weight, rows)
        self.output = packed_linear(attention.o_proj.weight, rows)
        # halves of `up` are multiplied by √½ (below); its bias is not covered by the norm's factor
        self.up = packed_linear(up.weight, rows, None if up.bias is None else up.bias * math.sqrt(0.5))
        self.down = packed_linear(down.weight, rows, down.bias)
        width, eps = config.hidden_size, config.rms_norm_eps
        self.attention_norm = _Norm(layer.attention_norm.weight, width, eps)
        # GELU(g) · u = (g′u′) + (g′u′) · erf(g′) with g′ = g / √2, u′ = u / √2: three kernels that start fast
        self.feed_forward_norm = _Norm(layer.feed_forward_norm.weight, width, eps, math.sqrt(0.5))
        scales = torch.stack([attention.q_norm.weight * attention.scaling, attention.k_norm.weight])
        self.head_norm = _Norm(scales[:, None], self.head_dim, eps)
        # on a CPU float32 costs no more, because attention has no half-precision kernel there
        weight = attention.qkv_proj.weight
        self.like = weight.detach().new_empty(0, dtype=torch.float32 if weight.device.type == "cpu" else weight.dtype)
        self.projected = self.like.new_empty(rows, 3, self.heads, self.head_dim)
        self.query = self.projected[:, 0, :, None]
        self.normed, self.kept = self.projected[:, :2], self.projected[:, 1:].transpose(0, 1)
        self.flat = self.projected.view(rows, -1)
        self.cache = self.like

    def open(self, slots: int) -> None:
        """Allocates a cache for `slots`; one of the same size is cleared instead, and keeps its address."""
        # empty slots are read as well, masked by the lowest number as their bias, so they must not be NaN
        if self.cache.ndim > 1 and self.cache.shape[3] == slots:
            self.cache.zero_()
            return
        self.cache = self.like.new_zeros(2, self.rows, self.heads, slots, self.head_dim)
        self.slots = self.cache.unbind(3)

    def fill(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Copies the keys and values of the slots before the loop, float [R, H, n, d], into the cache."""
        self.cache[0, :, :, : keys.shape[2]] = keys
        self.cache[1, :, :, : keys.shape[2]] = values

    def until(self, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the first `slots` keys and values, [R, H, slots, d] each."""
        return self.cache[0, :, :, :slots], self.cache[1, :, :, :slots]

    def step(
        self, x: torch.Tensor, slot: int | torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Runs the layer on one slot (an int, or int64 [1]): x [R, D] is changed in place and returned; bias
        [1 or R, H, 1, n] is for the n keys and values."""
        self.flat.copy_(self.qkv(self.attention_norm(x)))
        self.head_norm.apply_(self.normed)
        if isinstance(slot, int):
            self.slots[slot].copy_(self.kept)
        else:
            self.cache.index_copy_(3, slot, self.kept.unsqueeze(3))
        attended = F.scaled_dot_product_attention(self.query, keys, values, attn_mask=bias, scale=1.0)
        x.add_(self.output(attended.reshape(self.rows, -1).float()))
        gate, up = self.up(self.feed_forward_norm(x)).chunk(2, dim=-1)
        product = gate * up
        return x.add_(self.down(product.addcmul_(product, gate.erf_())))


class _GraphedStep:
    """A decoder's step with fixed addresses of inputs, outputs, keys and values, so that CUDA graphs can replay it.

    Each step reads the whole cache; the bias masks the empty part with the lowest number. On other devices the same
    step runs without a graph, so that tests can compare it with the plain loop.

    Args:
        decoder: with open caches.
        bias (float [1 or R, H, 1, n]): bias of a step, for its shape and dtype.
    """

    def __init__(self, decoder: "FastDecoder", bias: torch.Tensor) -> None:
        self.decoder, self.cache = decoder, decoder.layers[0].cache
        codes = decoder.rows // decoder.times * decoder.pattern.rows
        self.ids = torch.zeros(codes, dtype=torch.long, device=bias.device)
        self.slot = self.ids.new_zeros(1)
        self.bias = torch.zeros_like(bias)
        self.views = [layer.until(self.cache.shape[3]) for layer in decoder.layers]
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self.checked = False

    def fits(self, bias: torch.Tensor) -> bool:
        """Whether the decoder still has the caches, and `bias` the shape, for which this step was made."""
        return self.cache is self.decoder.layers[0].cache and self.bias.shape == bias.shape

    def scores(self, ids: torch.Tensor, kind: int, slot: int, bias: torch.Tensor) -> torch.Tensor:
        """`FastDecoder.slot_scores` of a slot, in a buffer that the next slot of the same kind overwrites."""
        self.ids.copy_(ids)
        self.slot.fill_(slot)
        self.bias.copy_(bias)
        if ids.device.type != "cuda":
            return self._compute(kind)
        if kind not in self.graphs:
            self.graphs[kind] = self._captured(kind)
        graph, scores = self.graphs[kind]
        graph.replay()
        return scores

    def _compute(self, kind: int) -> torch.Tensor:
        return self.decoder.slot_scores(self.ids, kind, self.slot, self.views, self.bias)

    def _captured(self, kind: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """Captures the step for one kind of slot: the graph, and the buffer of scores that it fills."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._compute(kind)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            scores = self._compute(kind)
        return graph, scores


class FastDecoder:
    """Continues the targets of a batch, slot by slot.

    Args:
        stage: in evaluation mode; its weights are read at the first generation, and when the number of rows changes.
        guidance_scale: λ of classifier-free guidance; 1 means none, which halves the number of rows.
        temperature, top_k: sampling parameters.
        history_free_guidance: w of `generation_hafm.HistoryFreeGuidance`; 0 means none.
        compile: whether a GPU replays the steps as CUDA graphs.

    Raises:
        ValueError: the stage has adapters, quantised layers, hooks or offloaded weights (`check_plain`).
    """

    def __init__(
        self,
        stage: HAFMStageForCausalLM,
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
        history_free_guidance: float = 0.0,
        compile: bool = False,
    ) -> None:
        check_plain(stage)
        self.stage, self.config = stage, stage.config
        self.pattern = stage.pattern
        self.temperature, self.top_k = temperature, top_k
        self.guidance_scale = guidance_scale
        # rows of the step per row of the batch
        self.times = 1 if guidance_scale == 1.0 else 2
        self.history_free_guidance = history_free_guidance
        self.rows = 0
        # added to the input of each slot, [L, R, D], if the conditioning has no slots of its own
        self.added_conditioning: torch.Tensor | None = None
        self.compile = compile
        self.graphed: _GraphedStep | None = None

    def generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Like `stream`, but returns all tokens at once: int64 [B, new_tokens]."""
        *_, tokens = self.stream(*args, **kwargs)
        return tokens

    @torch.no_grad()
    def stream(
        self,
        conditioning_ids: torch.Tensor,
        new_tokens: int,
        uniforms: torch.Tensor | None,
        known: torch.Tensor | None = None,
        forced: torch.Tensor | None = None,
        conditioning_mask: torch.Tensor | None = None,
        report: Callable[[int], None] | None = None,
        every: int | None = None,
    ) -> Iterator[torch.Tensor]:
        """Generates target tokens, frame by frame with all codebooks, whatever the stage's pattern.

        Args:
            conditioning_ids (int64 [B, K, T_c]): conditioning streams.
            new_tokens: number of tokens to generate per row; whole frames under the delay pattern.
            uniforms (float32 [B, new_tokens]): the rows' random numbers; None for greedy decoding.
            known (int64 [B, P], *optional*): tokens that come before, without BOS; likewise whole frames.
            forced (int64 [B, new_tokens], *optional*): tokens to use instead of sampling, −1 where to sample.
            conditioning_mask (bool [B, T_c], *optional*): False where the conditioning is padding.
            report: called with 1 after each step; an exception that it raises ends the loop.
            every: number of slots after which to yield the tokens so far; None to yield only the final result.

        Yields:
            int64 [B, n]: the tokens of all frames complete so far; at the end n = `new_tokens`.

        Raises:
            ValueError: incomplete frames under the delay pattern.
        """
        known = conditioning_ids.new_empty(len(conditioning_ids), 0) if known is None else known
        if uniforms is not None:
            uniforms = uniforms.to(conditioning_ids.device)
        frames = None if conditioning_mask is None else self.stage.target_frames(conditioning_mask)
        plan = self.pattern.plan(known, new_tokens, self.config.codebook_size, uniforms, forced, frames)
        scores = self._prefill(conditioning_ids, conditioning_mask, plan)
        added = None
        if self.history_free_guidance != 0.0:
            first = plan.known.shape[1]
            said = self.stage.history_free_scores(conditioning_ids, conditioning_mask, first, plan.slots)
            added = self.history_free_guidance * said
        for slots in self._continue(scores, plan, added, report):
            done = slots.shape[1]
            if done == plan.slots or (every is not None and done % every == 0):
                tokens = self.pattern.tokens(torch.cat([plan.known, slots], dim=1))[:, known.shape[1] :]
                # past the end of a shorter row there is BOS, which is not a code
                yield tokens.clamp(max=self.config.codebook_size - 1)

    def _continue(
        self, scores: torch.Tensor, plan: SlotPlan, added: torch.Tensor | None, report: Callable[[int], None] | None
    ) -> Iterator[torch.Tensor]:
        """Yields the predictions so far (int64 [B·C, n], n = 1, 2 …), given the first new slot's scores (float
        [B·C, V]); `added` (float [B·C, slots, V], *optional*) is added to the scores."""
        rows, first = plan.known.shape
        slots = plan.known.new_empty(rows, plan.slots)
        for step in range(plan.slots):
            if step > 0:
                scores = self._step(slots[:, step - 1], first + step)
            scores = scores if added is None else scores + added[:, step]
            numbers = None if plan.uniforms is None else plan.uniforms[:, step]
            slots[:, step] = force(self.draw(scores, numbers), plan.forced, step)
            if report is not None:
                report(1)
            yield slots[:, : step + 1]

    def draw(self, scores: torch.Tensor, uniforms: torch.Tensor | None) -> torch.Tensor:
        """`generation_hafm.draw` with the loop's temperature and top-k."""
        return draw(scores, uniforms, self.temperature, self.top_k)

    def _guide(self, states: torch.Tensor) -> torch.Tensor:
        """Applies guidance to normalised states, giving float [B, D]: equal to guided logits, as heads are affine."""
        if self.times == 1:
            return states
        # lerp is a single kernel
        conditional, unconditional = states.chunk(2)
        return torch.lerp(unconditional, conditional, self.guidance_scale)

    def _prefill(self, conditioning_ids: torch.Tensor, mask: torch.Tensor | None, plan: SlotPlan) -> torch.Tensor:
        """Scores of the first new slot; conditioning, BOS and known tokens go through the stage's own forward."""
        config, model, known, scale = self.config, self.stage.model, plan.known, self.guidance_scale
        bos = known.new_full((len(known), 1), config.codebook_size)
        input_ids = for_guidance(torch.cat([bos, known], dim=1), scale)
        conditioning, null = for_guidance(conditioning_ids, scale), null_rows(conditioning_ids, scale)
        mask = None if mask is None else for_guidance(mask, scale)
        rows = len(conditioning)
        # before the forward pass, whose layers poll for cancellation: a slow CPU takes a tenth of a second for both
        if self.rows != rows:
            self.rows = rows
            self._pack()
        outputs = model(
            input_ids=input_ids,
            conditioning_ids=conditioning,
            conditioning_mask=mask,
            null_conditioning=null,
            use_cache=True,
            target_only=True,
        )
        prefix = config.num_prepended_sources * conditioning.shape[-1]
        slots = prefix + known.shape[1] + plan.slots
        for layer, cached in zip(self.layers, outputs.cache.layers, strict=True):
            layer.open(slots)
            layer.fill(cached.keys, cached.values)
        self.layout = token_layout(config, conditioning.shape[-1], slots - prefix, mask, device=known.device)
        # index in the sequence of the target's slot 0
        self.first_slot = prefix
        self.biases: tuple[torch.Tensor, ...] = ()
        self.block_start = 0
        if config.conditioning_fusion == "sum":
            every = torch.arange(slots, device=known.device)
            self._add_conditioning(model.conditioning_of(every, conditioning, null, mask))
        states = self._guide(outputs.last_hidden_state[:, -1].float())
        return self._scores(states, known.shape[1] % self.pattern.slots_per_frame)

    def _add_conditioning(self, at_slots: torch.Tensor) -> None:
        """Stores what is added to each slot (float [R, L, D]), in the existing buffer if the shape is the same."""
        at_slots = at_slots.float().transpose(0, 1)
        if self.added_conditioning is None or self.added_conditioning.shape != at_slots.shape:
            self.added_conditioning = at_slots.contiguous()
        else:
            self.added_conditioning.copy_(at_slots)

    def _pack(self) -> None:
        """Prepares layers, embedding tables and heads for the current number of rows."""
        model, config = self.stage.model, self.config
        self.layers = [_Layer(layer, self.rows) for layer in model.layers]
        target, heads = model.target_embedding.weight.float(), self.stage.heads.weight.detach()
        bias: torch.Tensor | None = self.stage.heads.bias
        if self.pattern.rows == 1:
            # a slot's embedding is of a token of the previous codebook, of the codebook to predict, and of the target
            kinds = model.quantizer_embedding.weight + model.segment_embedding.weight[-1]
            self.tables = (target.roll(1, dims=0) + kinds.float()[:, None]).unbind()
        else:
            # a slot reads a token of each codebook; the target's segment embedding is added to the first table
            kind = model.segment_embedding.weight[-1:].float()
            self.tables = (torch.cat([target[:1] + kind, target[1:]]).flatten(0, 1),)
            heads = heads.flatten(0, 1)[None]
            bias = None if bias is None else bias.flatten()[None]
        self.norm = _Norm(model.norm.weight, config.hidden_size, config.rms_norm_eps)
        batch = self.rows // self.times
        biases = [None] * len(heads) if bias is None else bias
        self.heads = [packed_linear(head, batch, each) for head, each in zip(heads, biases, strict=True)]
        books = torch.arange(self.pattern.rows, device=heads.device)
        # for each code of a step, where its codebook begins in the table
        self.offsets = (books * target.shape[1]).repeat(batch)

    def _step(self, ids: torch.Tensor, target: int) -> torch.Tensor:
        """Scores [B·C, V] of slot `target` of the target, whose input is the previous tokens (int64 [B·C])."""
        slot, kind = self.first_slot + target, target % self.pattern.slots_per_frame
        if not 0 <= slot - self.block_start < len(self.biases):
            self._make_block(slot)
        if self.compile and (scores := self._graphed_step(ids, kind, slot)) is not None:
            return scores
        return self.slot_scores(ids, kind, slot, self.views, self.biases[slot - self.block_start])

    def _graphed_step(self, ids: torch.Tensor, kind: int, slot: int) -> torch.Tensor | None:
        """`_step` by a CUDA graph; turns graphs off and returns None if the first one fails or its scores deviate."""
        bias = self.biases[slot - self.block_start]
        if self.graphed is None or not self.graphed.fits(bias):
            self.graphed = _GraphedStep(self, bias)
        graphed = self.graphed
        if graphed.checked:
            return graphed.scores(ids, kind, slot, bias)
        expected = self.slot_scores(ids, kind, slot, self.views, bias)
        try:
            scores = graphed.scores(ids, kind, slot, bias)
            apart = float((scores - expected).abs().max() / expected.std())
            problem = "" if apart <= GRAPH_TOLERANCE else f"its scores differ by {apart:.2g} standard deviations"
        except RuntimeError as error:
            problem = str(error)
        if not problem:
            graphed.checked = True
            return scores
        logger.warning(f"compile=True is off for this stage, which continues without CUDA graphs: {problem}.")
        self.compile, self.graphed = False, None
        self._make_block(slot)
        return None

    def slot_scores(
        self,
        ids: torch.Tensor,
        kind: int,
        slot: int | torch.Tensor,
        views: list[tuple[torch.Tensor, torch.Tensor]],
        bias: torch.Tensor,
    ) -> torch.Tensor:
        """Scores [B·C, V] of a slot of the sequence, whose input is the previous tokens (int64 [B·C]).

        `kind` is the slot's index within its frame, under the flat pattern the codebook that it predicts. `views` are
        each layer's keys and values [R, H, n, d], to which bias [1 or R, H, 1, n] applies.
        """
        x = self.tables[kind].index_select(0, ids if self.pattern.rows == 1 else ids + self.offsets)
        if self.pattern.rows > 1:
            x = x.unflatten(0, (-1, self.pattern.rows)).sum(1)
        x = for_guidance(x, self.guidance_scale)
        if self.added_conditioning is not None:
            added = self.added_conditioning
            x = x + (added[slot] if isinstance(slot, int) else added.index_select(0, slot)[0])
        for layer, (keys, values) in zip(self.layers, views, strict=True):
            x = layer.step(x, slot, keys, values, bias)
        return self._scores(self._guide(self.norm(x)), kind)

    def _scores(self, states: torch.Tensor, kind: int) -> torch.Tensor:
        """Output of the heads of a kind of slot for guided states (float [B, D]): float [B·C, V]."""
        return self.heads[kind](states).reshape(len(states) * self.pattern.rows, -1)

    def _make_block(self, slot: int) -> None:
        """Computes the bias rows of the next slots, [1 or R, H, 1, n], and views of the n keys and values."""
        every = len(self.layout.slot)
        stop = min(slot + BLOCK, every)
        # a graph reads the whole cache at every step
        last = every if self.compile else stop
        query = torch.arange(slot, stop, device=self.layout.slot.device)
        layout = self.layout.select(self.layout.slot[:last])
        block = self.stage.model.attention_bias(layout, query).detach()
        self.views = [layer.until(last) for layer in self.layers]
        self.biases = block.to(self.layers[0].like.dtype).split(1, dim=2)
        self.block_start = slot
        if block.device.type == "cuda":
            # keeps reported progress from running ahead of the GPU by more than a block
            torch.cuda.current_stream().synchronize()
