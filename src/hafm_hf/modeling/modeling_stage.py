# SPDX-License-Identifier: Apache-2.0
"""The shared decoder and the three stages: semantic, coarse, fine.

A stage models target tokens, arranged in slots by its codebook pattern, given conditioning streams at one frame rate.
With the fusion "sum", that of all bundled stages, its sequence is the target's slots, and the conditioning of a slot's
instant is added to its input; with "prepend", the paper's, the sequence is [source 0 | … | source S−1 | target].

Dimensions: B batch, L target slots (BOS first), Q target codebooks, C codes per slot (1 under the flat pattern, Q
under the delay pattern), T target frames, K conditioning streams (tokens of the sources, then R lead-sheet rows), S
conditioning sources, T_c conditioning frames, D width, H heads, V size of a target codebook.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationConfig
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..pretrained.saving import HAFMModelMixin
from .codebook_patterns import CodebookPattern, SlotPlan, codebook_pattern
from .configuration_stage import HAFMCoarseConfig, HAFMFineConfig, HAFMSemanticConfig, HAFMStageConfig
from .layers import (
    BucketedBias,
    HAFMAttention,
    HAFMCodebookEmbedding,
    HAFMCodebookHeads,
    HAFMConditioningMixer,
    HAFMDecoderLayer,
    LayerWeights,
    RelativeAttentionBias,
    SlotLayout,
    at_slots,
    last_rows,
    slot_layout,
    visible,
)
from .reference_loop import HAFMGenerationMixin
from .sampling import StepReport, WindowBatch

IGNORE_INDEX = -100
# Paper, "Inference"
TEMPERATURE = 0.9
TOP_K = 250
GUIDANCE_SCALE = 3.0
# fraction of a window that overlaps the one before
OVERLAP = 0.2


class SlotWeights(NamedTuple):
    """Everything that decoding a slot computes with, for `fast_loop`, which unpacks it (see `LayerWeights`).

    `tables`, `heads` and `head_biases` have an entry for each kind of slot: under the flat pattern one for each
    codebook that a slot predicts, under the delay pattern a single one.

    Args:
        tables (float [V + 1, D] each): embeddings of a slot's input, by its id; V codes of a codebook, then BOS; width
            D. Under the delay pattern those of all codebooks, one after the other, of which a slot sums one each.
        layers: the weights of each layer.
        norm (float [D]): of the last RMSNorm.
        heads (float [V, D] each), head_biases (float [V] or None each): under the delay pattern those of all
            codebooks, one after the other.
    """

    tables: list[torch.Tensor]
    layers: list[LayerWeights]
    norm: torch.Tensor
    heads: list[torch.Tensor]
    head_biases: list[torch.Tensor | None]


class HAFMPreTrainedModel(HAFMModelMixin, PreTrainedModel):
    """Base class of the decoder and the stages: initialisation, loading and attention back ends."""

    config_class = HAFMStageConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _input_embed_layer = "target_embedding"
    _no_split_modules = ["HAFMDecoderLayer"]
    _skip_keys_device_placement = ["cache"]
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": HAFMDecoderLayer, "attentions": HAFMAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises a layer: weights normal, biases zero, norms one; the bias of scheme "time" favours near keys."""
        std = self.config.initializer_range
        tables = (HAFMCodebookEmbedding, HAFMCodebookHeads, RelativeAttentionBias)
        if isinstance(module, (nn.Linear, nn.Embedding, *tables)):
            init.normal_(module.weight, mean=0.0, std=std)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d):
            # depthwise: an output sums as many products as the kernel is long
            init.normal_(module.weight, mean=0.0, std=module.kernel_size[0] ** -0.5)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)
        if isinstance(module, RelativeAttentionBias) and self.config.position_scheme == "time":
            init.copy_(module.weight, module.weight + module.locality().to(module.weight))


class HAFMDecoder(HAFMPreTrainedModel):
    """Decoder-only transformer over conditioning and target (paper, §3.3), from ids to normalised hidden states.

    Args:
        config: the stage's configuration.

    Inputs:
        input_ids (int64 [B·C, L]): input of L slots: BOS, then the C codes that the slot before predicts, arranged by
            the codebook pattern (`codebook_patterns`).
        conditioning_ids (int64 [B, K, T_c]): K conditioning streams of T_c frames at
            `config.conditioning_frame_rate`.
        conditioning_mask (bool [B, T_c], *optional*): False where a sequence's conditioning is padding, on either
            side.
        attention_mask ([B, L], *optional*): 0 where the target is padding, which follows the tokens.
        null_conditioning (bool [B], *optional*): sequences whose conditioning is dropped (classifier-free guidance).
        cache (`Cache`, *optional*): keys and values of earlier slots, including the conditioning's.
        use_cache (`bool`, *optional*): whether to create and return a cache.
        conditioning_is_cached (`bool`, *optional*): whether the cache holds the conditioning already; by default,
            whether it holds anything.
    """

    config: HAFMStageConfig

    def __init__(self, config: HAFMStageConfig) -> None:
        super().__init__(config)
        # the configuration may have been changed since its construction
        config.validate()
        self.pattern = codebook_pattern(config)
        token_sizes = [size for source in config.conditioning_codebook_sizes for size in source]
        self.conditioning_embedding = HAFMCodebookEmbedding(token_sizes, config.hidden_size)
        if sizes := list(config.lead_sheet_streams.values()):
            self.lead_sheet_embedding = HAFMCodebookEmbedding(sizes, config.hidden_size)
        self.target_embedding = HAFMCodebookEmbedding(config.codebook_sizes, config.hidden_size)
        if self.pattern.codes_per_slot == 1:
            # tells slots which codebook they predict; under the delay pattern each predicts all of them
            self.quantizer_embedding = nn.Embedding(config.num_codebooks, config.hidden_size)
        self.segment_embedding = nn.Embedding(config.num_prepended_sources + 1, config.hidden_size)
        if config.conditioning_fusion == "sum":
            # adds the frames beside it to each frame of the conditioning
            self.conditioning_mixer = HAFMConditioningMixer(config)
        self.relative_attention_bias = RelativeAttentionBias(config)
        self.layers = nn.ModuleList([HAFMDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def embed_conditioning(self, conditioning_ids: torch.Tensor, null: torch.Tensor | None) -> torch.Tensor:
        """Embeds the conditioning: the streams of a source are summed; sources are concatenated, or summed as well.

        Args:
            conditioning_ids (int64 [B, K, T_c]): K streams of T_c frames: the tokens of all sources, then the
                lead-sheet rows if the stage reads any; these are added to the vectors of the last source.
            null (bool [B], *optional*): sequences whose conditioning is replaced by zeros. The segment embedding
                stays, since it carries no information about the vocal.

        Returns:
            float [B, S · T_c, D] for S sources and width D, or [B, T_c, D] with the fusion "sum".
        """
        ids = conditioning_ids.transpose(1, 2)  # [B, T_c, K]
        num_token_streams = self.config.num_token_streams
        lead_sheet = ids[..., num_token_streams:]
        codebooks = torch.arange(num_token_streams, device=ids.device)
        embedded = self.conditioning_embedding(ids[..., :num_token_streams], codebooks)
        if null is not None:
            embedded = embedded.masked_fill(null[:, None, None, None], 0.0)  # [B, T_c, token streams, D]
        streams_per_source = [len(source) for source in self.config.conditioning_codebook_sizes]
        sources = [source.sum(dim=2) for source in embedded.split(streams_per_source, dim=2)]  # [B, T_c, D] each
        if self.config.lead_sheet_streams:
            sources[-1] = sources[-1] + self._embed_lead_sheet(lead_sheet, null)
        if self.config.conditioning_fusion == "sum":
            return torch.stack(sources).sum(dim=0)
        ordered = [sources[i] + self._segment(i, ids.device) for i in self.config.prepended_sources]
        return torch.cat(ordered, dim=1)

    def conditioning_of(
        self,
        target_indices: torch.Tensor,
        conditioning_ids: torch.Tensor,
        null: torch.Tensor | None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the fusion "sum" adds to slots of the target.

        Args:
            target_indices (int64 [L]): indices of the slots in the target.
            conditioning_ids (int64 [B, K, T_c]): K conditioning streams of T_c frames.
            null (bool [B], *optional*): sequences whose conditioning is replaced by zeros.
            mask (bool [B, T_c], *optional*): False where a sequence's conditioning is padding.

        Returns:
            float [B, L, D]; D, width.
        """
        frames = self.conditioning_mixer(self.embed_conditioning(conditioning_ids, null), mask)  # [B, T_c, D]
        config = self.config
        # conditioning frame at the instant of each slot
        slot_frames = self.pattern.frame_of(target_indices) * config.conditioning_frame_rate // config.frame_rate
        return at_slots(frames, slot_frames, mask)

    def _segment(self, number: int, device: torch.device) -> torch.Tensor:
        """Segment embedding of conditioning source `number`, or of the target, numbered after them: float [width]."""
        # calls the module rather than indexing its weights, which may be offloaded
        return self.segment_embedding(torch.full((), number, device=device))

    def _embed_lead_sheet(self, rows: torch.Tensor, null: torch.Tensor | None) -> torch.Tensor:
        """Embeds the lead-sheet rows and sums them in each frame.

        Args:
            rows (int64 [B, T_c, R]): values of R lead-sheet rows in T_c frames; 0 where unknown.
            null (bool [B], *optional*): sequences without conditioning.

        Returns:
            float [B, T_c, D], zeros in the sequences of `null`; D, width.
        """
        numbers = torch.arange(rows.shape[-1], device=rows.device)
        embedded = self.lead_sheet_embedding(rows, numbers).sum(dim=2)
        if null is not None:
            embedded = embedded.masked_fill(null[:, None, None], 0.0)
        return embedded

    def embed_target(self, input_ids: torch.Tensor, target_indices: torch.Tensor) -> torch.Tensor:
        """Embeds slots of the target.

        Args:
            input_ids (int64 [B·C, L]): with Q codebooks, under the flat pattern (C = 1 code per slot) slot t reads a
                token of codebook (t − 1) mod Q; under the delay pattern (C = Q) a slot sums the embeddings of one
                token per codebook.
            target_indices (int64 [L]): indices t of the slots in the target.

        Returns:
            float [B, L, D]; D, width.
        """
        num_codebooks = self.config.num_codebooks
        # the target's segment is the last
        target_segment = self._segment(self.segment_embedding.num_embeddings - 1, input_ids.device)
        if self.pattern.codes_per_slot > 1:
            rows_of_sequences = input_ids.reshape(input_ids.shape[0] // num_codebooks, num_codebooks, -1)  # [B, Q, L]
            ids = rows_of_sequences.transpose(1, 2)  # [B, L, Q]
            codebooks = torch.arange(num_codebooks, device=ids.device)
            return self.target_embedding(ids, codebooks).sum(dim=2) + target_segment
        embedded = self.target_embedding(input_ids, (target_indices - 1) % num_codebooks)
        # the codebook that the slot predicts
        embedded = embedded + self.quantizer_embedding(target_indices % num_codebooks)
        return embedded + target_segment

    def layer_weights(self) -> list[LayerWeights]:
        """The weights of each layer: the `layers` of `SlotWeights`."""
        return [layer.weights() for layer in self.layers if isinstance(layer, HAFMDecoderLayer)]

    def input_tables(self) -> list[torch.Tensor]:
        """What `embed_target` gives for each input id: the `tables` of `SlotWeights`.

        Returns:
            Under the flat pattern, for each codebook that a slot predicts, a table float32 [V + 1, D] of the slot's
            inputs: the V codes of a codebook, then BOS; width D. Under the delay pattern, where a slot sums one row
            per codebook, a single table float32 [Q · (V + 1), D] of all Q codebooks.
        """
        target = self.target_embedding.weight.float()  # [Q, V + 1, D]
        segment = self.segment_embedding.weight[-1]
        if self.pattern.codes_per_slot > 1:
            # the target's segment embedding is added once, to the first codebook's
            return [torch.cat([target[:1] + segment.float(), target[1:]]).flatten(0, 1)]
        constant = self.quantizer_embedding.weight + segment  # [Q, D], by the codebook that a slot predicts
        # a slot reads a token of the codebook before the one that it predicts
        return list((target.roll(1, dims=0) + constant.float()[:, None]).unbind())

    def attention_bias(self, layout: SlotLayout, query: torch.Tensor) -> torch.Tensor:
        """Attention bias of query slots on all slots; the lowest number where attention is masked.

        Args:
            layout: attributes of all slots of the sequence.
            query (int64 [n]): indices of the query slots in the sequence.

        Returns:
            float [1 or B, heads, n, slots].
        """
        queries = layout.select(query)
        return self.relative_attention_bias(queries, layout, visible(self.config, queries, layout))

    def _attends_in_chunks(self) -> bool:
        """Whether the layers use `chunked_attention`.

        They do in training on a CPU, with float32 or float64 weights, unless the configuration asks for attention
        dropout or for an attention implementation other than the default, "sdpa".
        """
        return (
            self.training
            and torch.is_grad_enabled()
            and self.device.type == "cpu"
            and self.dtype in (torch.float32, torch.float64)
            and self.config._attn_implementation == "sdpa"
            and self.config.attention_dropout == 0.0
        )

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        conditioning_ids: torch.Tensor,
        conditioning_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        null_conditioning: torch.Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        conditioning_is_cached: bool | None = None,
        target_only: bool = False,
        report: StepReport | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states of the target's slots.

        Args:
            input_ids (int64 [B·C, L]), conditioning_ids (int64 [B, K, T_c]), conditioning_mask, attention_mask,
                null_conditioning, cache, use_cache, conditioning_is_cached: described at the class. C codes per slot,
                L slots, K conditioning streams, T_c conditioning frames.
            target_only: whether the last layer (and its attentions) is limited to the target's slots, as in training.
            report: called with 0 before each layer, so that a long pass can be ended by an exception.
            kwargs: for the attention function.

        Returns:
            `last_hidden_state` (float [B, L, D], width D), normalised, and the cache, if there is one.
        """
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        # slots of the sequence that the cache holds
        past: int | torch.Tensor = 0
        if cache is not None:
            past = cache.get_seq_length()
            if isinstance(past, torch.Tensor):
                # a static cache returns its own counter, which the first layer's update would advance
                past = past.clone()
        if conditioning_is_cached is None:
            conditioning_is_cached = bool(past > 0)

        frames = conditioning_ids.shape[-1]
        conditioning_slots = self.config.num_prepended_sources * frames
        new_slots = input_ids.shape[1]
        if not conditioning_is_cached:
            new_slots += conditioning_slots
        key_slots = new_slots
        if cache is not None:
            key_slots = cache.get_mask_sizes(new_slots, 0)[0]
        query = torch.arange(new_slots, device=input_ids.device) + past  # indices in the whole sequence
        target_indices = query[-input_ids.shape[1] :] - conditioning_slots  # [L], indices in the target

        hidden_states = self.embed_target(input_ids, target_indices)  # [B, L, D]
        if self.config.conditioning_fusion == "sum":
            conditioning_at_slots = self.conditioning_of(
                target_indices, conditioning_ids, null_conditioning, conditioning_mask
            )
            hidden_states = hidden_states + conditioning_at_slots
        elif not conditioning_is_cached:
            prefix = self.embed_conditioning(conditioning_ids, null_conditioning)
            hidden_states = torch.cat([prefix, hidden_states], dim=1)  # [B, S · T_c + L, D]

        target_slots = key_slots - conditioning_slots
        layout = slot_layout(
            self.config, frames, target_slots, conditioning_mask, attention_mask, device=input_ids.device
        )
        position_bias: torch.Tensor | BucketedBias
        if self._attends_in_chunks():
            queries = layout.select(query)
            position_bias = self.relative_attention_bias.by_bucket(
                queries, layout, visible(self.config, queries, layout)
            )
        else:
            position_bias = self.attention_bias(layout, query)

        for index, layer in enumerate(self.layers):
            if report is not None:
                report(0)
            # an only layer, as the first, computes all slots
            if (self.training or target_only) and layer is self.layers[-1] and index > 0:
                # nothing is predicted from the conditioning's slots: the last layer needs only their keys and values
                position_bias = last_rows(position_bias, input_ids.shape[1])
            hidden_states = layer(hidden_states, position_bias, cache=cache, **kwargs)
        return BaseModelOutputWithPast(self.norm(hidden_states[:, -input_ids.shape[1] :]), cache=cache)


class HAFMStageForCausalLM(HAFMPreTrainedModel, HAFMGenerationMixin):
    """A decoder with one head per target codebook; the three stages differ in their configuration only.

    Args:
        config: the stage's configuration.
    """

    config: HAFMStageConfig
    # the loss is a mean over the batch it is given, so Trainer must divide it when it accumulates gradients
    accepts_loss_kwargs = False

    def __init__(self, config: HAFMStageConfig) -> None:
        super().__init__(config)
        self.model = HAFMDecoder(config)
        self.heads = HAFMCodebookHeads(config)
        self.post_init()
        self.generation_config = self.default_generation_config()

    def slot_weights(self) -> SlotWeights:
        """Weights that `forward` computes with for a slot whose conditioning is cached or added to its input."""
        weight: torch.Tensor = self.heads.weight  # [codebooks, codes, width]
        bias: torch.Tensor | None = self.heads.bias  # [codebooks, codes]
        if self.model.pattern.codes_per_slot > 1:
            # every slot uses all heads, so they become a single one
            weight = weight.flatten(0, 1)[None]
            if bias is not None:
                bias = bias.flatten()[None]
        head_biases: list[torch.Tensor | None] = [None] * len(weight)
        if bias is not None:
            head_biases = list(bias)
        return SlotWeights(
            tables=self.model.input_tables(),
            layers=self.model.layer_weights(),
            norm=self.model.norm.weight,
            heads=list(weight),
            head_biases=head_biases,
        )

    @property
    def pattern(self) -> CodebookPattern:
        """How the codes of a frame are arranged in slots."""
        return codebook_pattern(self.config)

    def default_generation_config(self) -> GenerationConfig:
        """The paper's settings: sampling at temperature 0.9 with top-k 250, guidance scale 3.0.

        `window_seconds` and `overlap_seconds` say how the composite cuts a longer song into windows, and
        `independent_windows` whether these are generated independently of each other, in one batch.
        `history_free_guidance` is the weight with which `history_free_scores` are added to the logits; it requires
        training with history dropout, which hides random spans of the target so far.
        """
        return GenerationConfig(
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=TOP_K,
            guidance_scale=GUIDANCE_SCALE,
            bos_token_id=self.config.bos_token_id,
            window_seconds=self.config.window_seconds,
            overlap_seconds=self.config.window_seconds * OVERLAP,
            independent_windows=self.config.model_type == "hafm_fine",
            history_free_guidance=0.0,
        )

    def decoding_config(self, **changes: float | None) -> GenerationConfig:
        """The stage's generation config, with the default values of what it leaves open, and with changes.

        Args:
            changes: guidance_scale, temperature, top_k; None changes nothing.

        Raises:
            ValueError: the temperature is not above 0, or the guidance scale is negative.
        """
        config = copy.deepcopy(self.generation_config)
        for name, value in self.default_generation_config().to_diff_dict().items():
            if getattr(config, name, None) is None:
                setattr(config, name, value)
        config.update(**{name: value for name, value in changes.items() if value is not None})
        if not config.do_sample:
            # `draw` then chooses the likeliest codes
            config.update(do_sample=True, temperature=1.0, top_k=1)
        if not (config.temperature > 0 and config.guidance_scale >= 0):
            raise ValueError(
                f"The stage has temperature {config.temperature} and guidance_scale {config.guidance_scale}; "
                "temperature must be above 0, guidance_scale 0 or more."
            )
        return config

    def slot_plan(self, batch: WindowBatch) -> SlotPlan:
        """The slots to decode for the frames of a batch, with its known and kept codes and its random numbers.

        Random numbers are moved to the device of the conditioning, on which known codes must be already.
        """
        ids = batch.conditioning_ids
        known = batch.known
        if known is None:
            known = ids.new_empty(len(ids), self.config.num_codebooks, 0)
        uniforms = batch.uniforms
        if uniforms is not None:
            uniforms = uniforms.to(ids.device)
        row_frames = None
        if batch.conditioning_mask is not None:
            row_frames = self.frames_of_rows(batch.conditioning_mask)
        bos = self.config.codebook_size
        return self.pattern.plan(known, batch.frames, bos, uniforms, batch.kept, row_frames)

    def frames_of_rows(self, conditioning_mask: torch.Tensor) -> torch.Tensor:
        """Number of target frames that last as long as each row's conditioning.

        Args:
            conditioning_mask (bool [B, T_c]): False where the conditioning is padding.

        Returns:
            int64 [B].
        """
        frames = conditioning_mask.long().sum(dim=1)
        return frames * self.config.frame_rate // self.config.conditioning_frame_rate

    @torch.no_grad()
    def history_free_scores(
        self,
        conditioning_ids: torch.Tensor,
        conditioning_mask: torch.Tensor | None,
        first: int,
        count: int,
        report: StepReport | None = None,
    ) -> torch.Tensor:
        """Conditional minus unconditional scores without history: the evidence of the conditioning alone.

        The history is the target so far. A stage tends to follow it more than the voice, so this evidence, weighted by
        `history_free_guidance`, is added to the scores of each slot. It is a single pass over the window, since
        nothing depends on generated tokens.

        Args:
            conditioning_ids (int64 [B, K, T_c]): K conditioning streams of T_c frames.
            conditioning_mask (bool [B, T_c] or None): False where the conditioning is padding.
            first, count: scores are for the slots [first, first + count) of the target.
            report: called with 0 between layers.

        Returns:
            float32 [B·C, count, V]: C codes per slot, of V each.
        """

        def scores(ids: torch.Tensor, mask: torch.Tensor | None, null: bool) -> torch.Tensor:
            """Scores of some sequences, without their conditioning if `null`: float32 [sequences · C, count, V]."""
            rows = len(ids) * self.pattern.codes_per_slot
            outputs = self.forward(
                # BOS in every slot: no history
                input_ids=ids.new_full((rows, first + count), self.config.codebook_size),
                conditioning_ids=ids,
                conditioning_mask=mask,
                null_conditioning=torch.full((len(ids),), null, device=ids.device),
                use_cache=False,
                target_only=True,
                logits_to_keep=count,
                report=report,
            )
            return outputs.logits.float()

        unconditional_of_any: torch.Tensor | None = None
        if conditioning_mask is None:
            # without conditioning, sequences of the same length are the same
            unconditional_of_any = scores(conditioning_ids[:1], None, True)
        sequences_at_once = len(conditioning_ids)
        if conditioning_ids.device.type == "cpu":
            # one by one: no slower, and a job can be cancelled between the shorter layers
            sequences_at_once = 1
        differences = []
        for begin in range(0, len(conditioning_ids), sequences_at_once):
            sequences = slice(begin, begin + sequences_at_once)
            ids = conditioning_ids[sequences]
            mask = None
            if conditioning_mask is not None:
                mask = conditioning_mask[sequences]
            if unconditional_of_any is None:
                unconditional = scores(ids, mask, True)
            else:
                unconditional = unconditional_of_any.repeat(len(ids), 1, 1)
            differences.append(scores(ids, mask, False) - unconditional)
        return torch.cat(differences)

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        conditioning_ids: torch.Tensor | None = None,
        conditioning_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        null_conditioning: torch.Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        conditioning_is_cached: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the target's slots, and the loss of its tokens.

        A slot is a position of the target in the decoder's sequence; it predicts C codes, one under the flat codebook
        pattern, one of each of the Q codebooks under the delay pattern (`codebook_patterns`).

        Args:
            input_ids, conditioning_ids, conditioning_mask, attention_mask, null_conditioning, cache,
                use_cache, conditioning_is_cached: as for `HAFMDecoder`. `input_ids` may be left out if `labels` are
                given. In training, if `null_conditioning` is not given, the conditioning of each sequence is dropped
                with probability `config.conditioning_dropout`.
            labels (int64 [B, T·Q], *optional*): tokens of T target frames, not shifted; −100 is ignored. The loss
                needs the logits of all slots.
            logits_to_keep (`int`): number of last slots to compute logits for; 0 means all.
            kwargs: for `HAFMDecoder.forward`.

        Returns:
            `CausalLMOutputWithPast` with `loss` (see `codebook_loss`) and `logits` (float [B·C, L, V] for L slots and
            the V codes of a codebook; `pattern.tokens` puts those of all slots into the order of the labels). The last
            of `hidden_states`, after the final norm, covers the target's slots only; the others cover all slots.

        Raises:
            ValueError: inputs are missing, differ in their number of sequences, or do not fit the stage.
        """
        if labels is not None:
            self._check_labels(labels)
            if input_ids is None:
                input_ids = self.pattern.inputs(labels, self.config.codebook_size)
        inputs: dict[str, Any] = {
            "input_ids": input_ids, "conditioning_ids": conditioning_ids, "conditioning_mask": conditioning_mask,
            "attention_mask": attention_mask, "null_conditioning": null_conditioning,
        }  # fmt: skip
        cache_state: dict[str, Any] = {"cache": cache, "conditioning_is_cached": conditioning_is_cached}
        target_indices = self._checked_target_indices({**inputs, "labels": labels}, **cache_state, **kwargs)
        if null_conditioning is None and self.training and self.config.conditioning_dropout > 0:
            ids = inputs["conditioning_ids"]
            rates = torch.full((len(ids),), self.config.conditioning_dropout, device=ids.device)
            inputs["null_conditioning"] = torch.bernoulli(rates).bool()
        outputs = self.model(**inputs, **cache_state, use_cache=use_cache, **kwargs)
        hidden_states = outputs.last_hidden_state
        if logits_to_keep:
            hidden_states = hidden_states[:, -logits_to_keep:]
            target_indices = target_indices[-logits_to_keep:]
        logits = self.heads(hidden_states, target_indices)
        loss = None
        if labels is not None:
            loss = self.codebook_loss(logits, labels)
        return CausalLMOutputWithPast(loss, logits, outputs.cache, outputs.hidden_states, outputs.attentions)

    def _checked_target_indices(
        self,
        inputs: dict[str, Any],
        cache: Cache | None,
        conditioning_is_cached: bool | None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Checks the inputs of `forward`, and returns the indices of the slots that it computes.

        Args:
            inputs: tensors by argument name: `input_ids`, `conditioning_ids`, `labels`, the masks and
                `null_conditioning`; None for those that are not given.
            cache, conditioning_is_cached: as for `HAFMDecoder`.
            inputs_embeds: refused if given.
            kwargs: further arguments of `forward`, which are not checked.

        Returns:
            Index in the target of each of the L slots of `input_ids`, int64 [L].

        Raises:
            ValueError: inputs are missing, differ in their number of sequences, or do not fit the stage.
        """
        if inputs_embeds is not None:
            raise ValueError("A stage embeds its tokens itself, by codebook; give input_ids instead of inputs_embeds.")
        input_ids = inputs["input_ids"]
        conditioning_ids = inputs["conditioning_ids"]
        if input_ids is None:
            raise ValueError("Give input_ids, labels, or both.")
        config = self.config
        attention_mask = inputs["attention_mask"]
        # slots of the sequence that the cache holds
        past = 0 if cache is None else cache.get_seq_length()
        if conditioning_is_cached is None:
            conditioning_is_cached = bool(past > 0)
        self._check_conditioning(inputs, conditioning_is_cached)
        target_indices = torch.arange(input_ids.shape[1], device=input_ids.device)
        if conditioning_is_cached:
            # the cache holds the conditioning's slots and those of the target so far
            target_indices = target_indices + past - config.num_prepended_sources * conditioning_ids.shape[2]
        # the codebook that a slot reads: that of the token before, or under the delay pattern that of its row
        if self.model.pattern.codes_per_slot == 1:
            codebooks = (target_indices - 1) % config.num_codebooks
        else:
            rows = torch.arange(len(input_ids), device=input_ids.device)[:, None]
            codebooks = rows % config.num_codebooks
        # BOS is allowed in every codebook
        ids = input_ids.masked_fill(input_ids == config.codebook_size, 0)
        check_ids("input_ids", ids, config.codebook_sizes, codebooks)
        # a slot's index determines the codebook and the instant that it predicts, so padding must not precede a token;
        # checked on a CPU only, since it would make a GPU synchronise
        if attention_mask is not None and attention_mask.device.type == "cpu" and not torch.compiler.is_compiling():
            if bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
                raise ValueError("attention_mask has padding before or between tokens; pad targets on the right.")
        return target_indices

    def _check_labels(self, labels: torch.Tensor) -> None:
        """Refuses labels that are not whole frames, or with ids that their codebooks do not have.

        Args:
            labels (int64 [B, T·Q]): tokens of T frames of Q codebooks; −100 is ignored.

        Raises:
            ValueError: names the shape or the id.
        """
        shape = tuple(labels.shape)
        num_codebooks = self.config.num_codebooks
        if len(shape) != 2 or shape[1] % num_codebooks:
            raise ValueError(f"labels has shape {shape}; this stage needs [B, T · {num_codebooks}], whole frames.")
        codebooks = torch.arange(shape[1], device=labels.device) % num_codebooks
        check_ids("labels", labels.masked_fill(labels == IGNORE_INDEX, 0), self.config.codebook_sizes, codebooks)

    def _check_conditioning(self, inputs: dict[str, Any], is_cached: bool = False) -> None:
        """Refuses inputs that differ in their number of sequences, and conditioning that does not fit the stage.

        Args:
            inputs: tensors or None by argument name, `conditioning_ids` and `conditioning_mask` among them.
            is_cached: whether the cache holds the conditioning already, whose ids then need no check.

        Raises:
            ValueError: says what does not fit.
        """
        conditioning_ids = inputs["conditioning_ids"]
        mask = inputs["conditioning_mask"]
        streams = self.config.num_conditioning_streams
        shape = tuple(getattr(conditioning_ids, "shape", ()))
        if len(shape) != 3 or shape[1] != streams or not shape[2]:
            raise ValueError(f"conditioning_ids has shape {shape}; this stage needs [B, {streams}, T_c], T_c > 0.")
        counts = {name: len(value) for name, value in inputs.items() if value is not None}
        if "input_ids" in counts:
            # input_ids have a row for each code of a slot
            counts["input_ids"] //= self.model.pattern.codes_per_slot
        if len(set(counts.values())) > 1:
            counted = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise ValueError(f"The inputs have different numbers of sequences: {counted}.")
        if mask is not None and mask.shape[1] != shape[2]:
            raise ValueError(f"conditioning_mask has {mask.shape[1]} frames, and conditioning_ids {shape[2]}.")
        if not is_cached:
            codebooks = torch.arange(streams, device=conditioning_ids.device)[:, None]
            check_ids("conditioning_ids", conditioning_ids, self.config.conditioning_sizes, codebooks)

    def token_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each target token, in nats.

        Args:
            logits (float [B·C, L, V]): of all L slots, from the first; C codes per slot, of V each.
            labels (int64 [B, T·Q]): tokens of T frames of Q codebooks; −100 is ignored.

        Returns:
            float32 [B, T, Q], 0 where a label is ignored.
        """
        pattern = self.model.pattern
        slot_labels = pattern.arrange(labels, IGNORE_INDEX)  # [B·C, L]
        # over all slots at once: the gradient of each slice of the logits would be as large as all logits
        nats = F.cross_entropy(
            logits.float().flatten(0, 1), slot_labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
        )
        return pattern.tokens(nats.view_as(slot_labels)).unflatten(1, (-1, self.config.num_codebooks))

    def codebook_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each codebook, averaged over the codebooks that have labels (paper, §3.5).

        Args:
            logits (float [B·C, L, V]): of all L slots, from the first; C codes per slot, of V each.
            labels (int64 [B, T·Q]): tokens of T frames of Q codebooks; −100 is ignored.

        Returns:
            A scalar, in nats per token; 0 if all labels are ignored.
        """
        nats = self.token_losses(logits, labels).sum(dim=(0, 1))  # [Q]
        counts = (labels != IGNORE_INDEX).unflatten(1, (-1, self.config.num_codebooks)).sum(dim=(0, 1))  # [Q]
        # an empty sum is 0 where an empty mean is NaN, so the device need not be synchronised to check the counts
        losses = nats / counts.clamp(min=1)
        return losses.sum() / (counts > 0).sum().clamp(min=1)


class HAFMSemanticForCausalLM(HAFMStageForCausalLM):
    """Stage 1: instrumental semantic tokens from vocal semantic tokens.

    By the paper's defaults at 50 Hz, from K = 1 conditioning stream; lead-sheet rows are further streams.
    """

    config_class = HAFMSemanticConfig


class HAFMCoarseForCausalLM(HAFMStageForCausalLM):
    """Stage 2: the codec's first codebooks from vocal and instrumental semantic tokens.

    By the paper's defaults EnCodec's codebooks 1–4 at 75 Hz, from K = 2 conditioning streams; lead-sheet rows are
    further streams.
    """

    config_class = HAFMCoarseConfig


class HAFMFineForCausalLM(HAFMStageForCausalLM):
    """Stage 3: the codec's further codebooks from its first.

    By the paper's defaults EnCodec's codebooks 5–8 at 75 Hz, from codebooks 1–4 as K = 4 conditioning streams, whose
    embeddings are summed; lead-sheet rows are further streams.
    """

    config_class = HAFMFineConfig


def check_ids(name: str, ids: torch.Tensor, sizes: list[int], codebooks: torch.Tensor) -> None:
    """Refuses ids that their codebooks do not have.

    On a CPU an error names the id. On CUDA, to avoid synchronising, it is an assertion on the device. Compiled code is
    not checked.

    Args:
        name: what the ids are, for the error.
        ids (int64 [...]): each from 0 to the size of its codebook − 1.
        sizes: size of each codebook.
        codebooks (int64, broadcasts to `ids`): index of each id's codebook.

    Raises:
        ValueError: names the id and the limit.
    """
    if torch.compiler.is_compiling() or ids.device.type not in ("cpu", "cuda"):
        return
    limits: int | torch.Tensor
    if len(set(sizes)) == 1:
        # a plain number needs no copy to the device
        limits = sizes[0]
    else:
        limits = torch.tensor(sizes, device=ids.device)[codebooks]
    valid = (ids >= 0) & (ids < limits)
    if ids.device.type == "cuda":
        torch._assert_async(valid.all(), f"{name} holds an id that its codebook does not have.")
    elif not bool(valid.all()):
        first = tuple((~valid).nonzero()[0])
        largest = sizes[int(codebooks.expand_as(ids)[first])] - 1
        raise ValueError(f"{name} holds {int(ids[first])}; the ids of that codebook are 0 to {largest}.")
