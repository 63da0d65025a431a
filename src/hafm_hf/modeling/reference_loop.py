# SPDX-License-Identifier: Apache-2.0
"""`generate()` of a stage: not the loop that runs by default on CPU and CUDA, which is `fast_loop`, but its reference.

The stages inherit from `HAFMGenerationMixin`. What both loops ask of a stage (settings, slots of a batch, history-free
scores) is in `HAFMStageForCausalLM`, and what they share otherwise in `sampling`.

Dimensions: B sequences, C codes per slot (rows per sequence), Q codebooks, T frames to generate, P frames before them,
V codes of a codebook, K conditioning streams, T_c conditioning frames, L slots.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.cache_utils import Cache
from transformers.generation import LogitsProcessor, LogitsProcessorList
from transformers.generation.configuration_utils import GenerationMode

from .configuration_stage import HAFMStageConfig
from .sampling import StepReport, WindowBatch, draw, for_guidance, null_rows, with_kept


@dataclass(eq=False)
class GivenNumberSampling(LogitsProcessor):
    """Makes `generate()` sample with given random numbers: leaves each row only the code that its number selects.

    It must be the last processor, after temperature and top-k.

    Args:
        uniforms (float32 [rows, n]): one number for each row and each of the n tokens to be generated.
        prefix_length (int): tokens in `input_ids`, including BOS, when generation begins.
        kept (int64 [rows, n], *optional*): tokens to use instead of sampling, −1 where to sample.
        report: called with 1 after each step.
    """

    uniforms: torch.Tensor
    prefix_length: int
    kept: torch.Tensor | None = None
    report: StepReport | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Chooses a code for each row.

        Args:
            input_ids (int64 [rows, tokens so far]): the rows so far, for their length.
            scores (float [rows, codes]): logits.

        Returns:
            float [rows, codes], 0 for the code that is chosen and −inf for all others.
        """
        step = input_ids.shape[1] - self.prefix_length
        chosen = with_kept(draw(scores, self.uniforms[:, step]), self.kept, step)
        # BOS is in `kept` where a slot has no frame, but has no logit; `CodebookPattern.hide` puts it back
        chosen = chosen.clamp(max=scores.shape[1] - 1)
        if self.report is not None:
            self.report(1)
        return torch.full_like(scores, -float("inf")).scatter(1, chosen[:, None], 0.0)


class ClassifierFreeGuidance(LogitsProcessor):
    """ℓ = ℓ_uncond + λ (ℓ_cond − ℓ_uncond), for logits whose first half of rows is conditional (paper, §3.5).

    Unlike transformers' processor for that formula, it takes any λ ≥ 0: 1 means no guidance, 0 no conditioning.

    Args:
        guidance_scale (`float`): λ.

    Raises:
        ValueError: λ is negative, infinite or NaN.
    """

    def __init__(self, guidance_scale: float) -> None:
        if not 0 <= guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale is {guidance_scale}; it must be 0 or more (1 means no guidance).")
        self.guidance_scale = guidance_scale

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Combines conditional and unconditional logits.

        Args:
            input_ids (int64 [rows, tokens so far]): the rows so far, for their number only.
            scores (float [2 · rows, codes]): logits, conditional rows first.

        Returns:
            float [rows, codes].

        Raises:
            ValueError: there are not twice as many rows of scores as of `input_ids`.
        """
        if scores.shape[0] != 2 * input_ids.shape[0]:
            raise ValueError(
                f"Guidance got {scores.shape[0]} rows of logits for {input_ids.shape[0]} sequences; it needs twice "
                "as many, the conditional ones first."
            )
        conditional, unconditional = scores.chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)


class HistoryFreeGuidance(LogitsProcessor):
    """ℓ + w (h_cond − h_uncond), where h are scores predicted without history, with and without conditioning.

    `HAFMStageForCausalLM.history_free_scores` says why. The scores h do not depend on generated tokens, so they are
    computed before generation begins.

    Args:
        scores (`torch.Tensor`): w (h_cond − h_uncond), float [B·C, n, V], of B sequences, the n slots to generate and
            the V codes of a codebook.
        prefix_length (`int`): slots in `input_ids`, including BOS, when generation begins.
        codes_per_slot (`int`): C, rows per sequence.
    """

    def __init__(self, scores: torch.Tensor, prefix_length: int, codes_per_slot: int = 1) -> None:
        self.scores = scores
        self.prefix_length = prefix_length
        self.codes_per_slot = codes_per_slot

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Adds the history-free scores of the slot that is generated.

        Args:
            input_ids (int64 [B·samples·C, slots so far]): the sequences, for their length; C rows each.
            scores (float [B·samples·C, V]): logits of V codes; `samples` (`num_return_sequences`) sequences for each
                of the B.

        Returns:
            float, of the shape of `scores`.
        """
        step = input_ids.shape[1] - self.prefix_length
        added = self.scores[:, step].unflatten(0, (-1, self.codes_per_slot))  # [B, C, V]
        samples = len(scores) // self.codes_per_slot // len(added)
        return scores + added.repeat_interleave(samples, dim=0).flatten(0, 1)


class HAFMGenerationMixin(GenerationMixin):
    """`generate()` for a stage.

    `generate(conditioning_ids=…)` starts from BOS and, unless given a length, generates as long as the conditioning
    lasts; with `input_ids` (BOS first) it continues a given prefix. With `guidance_scale` other than 1 the batch is
    doubled: conditional rows first, then the same rows with their conditioning nulled.

    A sequence is one row under the flat codebook pattern and Q rows under the delay pattern (int64 [B·Q, 1 + L], as in
    MusicGen); lengths are in slots. `codes_of` converts the result to codes. Only sampling and greedy search are
    supported; beams, assistants, prompt lookup and chunked prefill are refused.
    """

    config: HAFMStageConfig

    def codes_of(self, sequences: torch.Tensor) -> torch.Tensor:
        """Converts the sequences that `generate()` returns to codes; a frame at the end that is not whole is left out.

        Args:
            sequences (int64 [B·C, 1 + L]): L slots after BOS, C rows per sequence.

        Returns:
            int64 [B, codebooks, frames].
        """
        slots = sequences[:, 1:]
        whole_frames = self.pattern.num_frames(slots.shape[1])
        tokens = self.pattern.tokens(slots[:, : self.pattern.num_slots(whole_frames)])
        return tokens.unflatten(1, (-1, self.config.num_codebooks)).transpose(1, 2)

    def continue_batch(
        self, batch: WindowBatch, config: GenerationConfig, report: StepReport | None = None
    ) -> torch.Tensor:
        """Continues a batch with `generate`, the reference for the fast loop (`fast_loop.FastGenerator`).

        Args:
            batch: the sequences to continue, and for how many frames; it must have random numbers.
            config: from `decoding_config`.
            report: called with 1 after each step.

        Returns:
            The new codes, int64 [batch, codebooks, frames].

        Raises:
            ValueError: the batch has no random numbers.
        """
        plan = self.slot_plan(batch)
        if plan.uniforms is None:
            raise ValueError("There are no random numbers; for the likeliest codes, give any and top_k=1.")
        known_frames = 0
        if batch.known is not None:
            known_frames = batch.known.shape[2]
        config = copy.deepcopy(config)
        # the batch determines the length of the result, and `codes_of` its form
        config.update(
            max_new_tokens=plan.num_slots, max_time=math.inf, num_return_sequences=1, return_dict_in_generate=False
        )
        sampling = GivenNumberSampling(plan.uniforms, plan.known.shape[1] + 1, plan.fixed, report)
        generated = self.generate(
            input_ids=torch.nn.functional.pad(plan.known, (1, 0), value=self.config.codebook_size),
            conditioning_ids=batch.conditioning_ids,
            conditioning_mask=batch.conditioning_mask,
            target_frames=known_frames + batch.frames,
            generation_config=config,
            logits_processor=LogitsProcessorList([sampling]),
        )
        return self.codes_of(generated)[:, :, known_frames:]

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Checks the conditioning, and adds what later hooks of `generate()` need to transformers' result.

        Args:
            generation_config, kwargs: of `generate()`.

        Returns:
            The generation config, with `_target_frames`, the number of frames that last as long as the conditioning,
            and the stage's BOS; and the model's arguments, with `guidance_scale` as a number.

        Raises:
            ValueError: conditioning is missing or does not fit the stage, or `null_conditioning` is given.
        """
        config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        conditioning_ids = model_kwargs.get("conditioning_ids")
        if not isinstance(conditioning_ids, torch.Tensor):
            raise ValueError(f"{type(self).__name__}.generate needs conditioning_ids, a tensor (int64 [B, K, T_c]).")
        # must come before guidance doubles the batch
        checked = {name: model_kwargs.get(name) for name in ("conditioning_ids", "conditioning_mask")}
        self._check_conditioning(checked)
        if model_kwargs.get("null_conditioning") is not None:
            raise ValueError("generate() sets null_conditioning itself; leave it out, and give guidance_scale=0.")
        model_kwargs["guidance_scale"] = 1.0 if config.guidance_scale is None else config.guidance_scale
        # read by `_prepare_generated_length`, which knows the prefix's length, and by `_prepare_cache_for_generation`
        config._target_frames = self.config.target_length(conditioning_ids.shape[-1]) // self.config.num_codebooks
        # a generation config made for another vocabulary may have another BOS
        config.bos_token_id = self.config.bos_token_id
        return config, model_kwargs

    def _prepare_generated_length(self, generation_config: Any, **kwargs: Any) -> Any:
        """Sets `max_new_tokens` so that the target lasts as long as the conditioning, unless a length is given.

        Arguments and result are those of transformers' method; `_prepare_generation_config` has set `_target_frames`.
        """
        if kwargs["has_default_max_length"] and generation_config.max_new_tokens is None:
            slots = self.pattern.num_slots(generation_config._target_frames)
            # the first of `input_ids` is BOS, which is not a slot to generate
            generation_config.max_new_tokens = slots - (kwargs["input_ids_length"] - 1)
        return super()._prepare_generated_length(generation_config, **kwargs)

    def _prepare_model_inputs(
        self, inputs: torch.Tensor | None, bos_token_id: Any, model_kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor, str | None, dict[str, Any]]:
        """Begins with BOS in every row, unless `input_ids` are given, whose number of rows it checks.

        Arguments and result are those of transformers' method: the input ids (int64 [sequences · codes per slot,
        slots]), their name and the model's further arguments.

        Raises:
            ValueError: `input_ids` do not have a row for each code of a slot and each row of `conditioning_ids`.
        """
        ids = model_kwargs["conditioning_ids"]
        rows = len(ids) * self.pattern.codes_per_slot
        if inputs is None and model_kwargs.get("input_ids") is None:
            inputs = ids.new_full((rows, 1), self.config.codebook_size)
        inputs, name, model_kwargs = super()._prepare_model_inputs(inputs, bos_token_id, model_kwargs)
        # must come before guidance doubles both
        if inputs is not None and len(inputs) != rows:
            raise ValueError(f"input_ids has {len(inputs)} rows; conditioning_ids of {len(ids)} need {rows}.")
        return inputs, name, model_kwargs

    def _validate_generation_mode(self, generation_mode: Any, generation_config: Any, mode_kwargs: Any) -> None:
        """Refuses anything but sampling and greedy search, after transformers' checks of the same arguments.

        Raises:
            ValueError: names the settings to leave out.
        """
        super()._validate_generation_mode(generation_mode, generation_config, mode_kwargs)
        simple = generation_mode in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
        if not simple or generation_config.prefill_chunk_size is not None:
            raise ValueError(
                "A stage supports sampling and greedy search only: leave out num_beams, assistant_model, "
                "prompt_lookup_num_tokens and prefill_chunk_size."
            )

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.Tensor | None, dict[str, Any]]:
        """Repeats each sequence, which may have several rows, `expand_size` times, and its model arguments likewise.

        `input_ids` are int64 [B·C, L] before, [B·expand_size·C, L] after: B sequences of L slots, C codes per slot.
        """
        # transformers' method repeats the first dimension
        if input_ids is not None:
            input_ids = input_ids.unflatten(0, (-1, self.pattern.codes_per_slot))  # [B, C, L]
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if input_ids is not None:
            input_ids = input_ids.flatten(0, 1)
        return input_ids, model_kwargs

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, generation_mode: Any, batch_size: int, max_cache_length: int
    ) -> Any:
        """Makes the cache as long as the conditioning and the target together.

        Also sets `target_frames` in `model_kwargs` if it is not given: the number of frames of the target, by which
        `prepare_inputs_for_generation` hides slots without a frame. It depends on `max_length`, which transformers
        knows from here on, and on `_target_frames` (`_prepare_generation_config`). Arguments and result are those of
        transformers' method; `max_cache_length` counts the target's slots.
        """
        # max_length counts slots, the first being BOS; the target may be continued past it, to the conditioning's end
        if not model_kwargs.get("target_frames"):
            frames = self.pattern.num_frames(generation_config.max_length - 1)
            model_kwargs["target_frames"] = max(frames, generation_config._target_frames)
        # a static cache has to hold the conditioning as well
        max_cache_length += self.config.num_prepended_sources * model_kwargs["conditioning_ids"].shape[-1]
        return super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )

    def _get_logits_processor(self, generation_config: Any, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """Guidance first, as it combines raw scores, then the stock processors, and `GivenNumberSampling` last.

        Arguments are those of transformers' method.
        """
        scale = 1.0 if generation_config.guidance_scale is None else generation_config.guidance_scale
        generation_config.guidance_scale = None  # the stock processor must not be added as well
        try:
            others = super()._get_logits_processor(generation_config, *args, **kwargs)
        finally:
            generation_config.guidance_scale = scale
        ours: list[LogitsProcessor] = []
        if scale != 1.0:
            ours.append(ClassifierFreeGuidance(scale))
        weight = getattr(generation_config, "history_free_guidance", None) or 0.0
        if weight != 0.0:
            prefix_length = kwargs["input_ids_seq_length"]
            new_slots = generation_config.max_length - prefix_length
            model_kwargs = kwargs["model_kwargs"]
            conditioning = (model_kwargs["conditioning_ids"], model_kwargs.get("conditioning_mask"))
            # the prefix's first token, BOS, is not predicted
            scores = weight * self.history_free_scores(*conditioning, prefix_length - 1, new_slots)
            ours.append(HistoryFreeGuidance(scores, prefix_length, self.pattern.codes_per_slot))
        # sampling comes after every processor that changes the scores
        others.sort(key=lambda processor: isinstance(processor, GivenNumberSampling))
        return LogitsProcessorList([*ours, *others])

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        next_sequence_length: int | None = None,
        cache: Cache | None = None,
        attention_mask: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        guidance_scale: float = 1.0,
        target_frames: int = 0,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Doubles the rows for guidance, and tells the forward pass whether the cache holds the conditioning already.

        Under the delay pattern BOS replaces what was sampled for slots without a frame: past `target_frames`, by
        default the longer of the conditioning and this call, and past the end of a sequence's conditioning.

        Args:
            input_ids (int64 [B·C, L]): the sequences so far: L slots of C codes, C rows per sequence.
            next_sequence_length, cache, is_first_iteration: as for transformers' method.
            attention_mask ([B·C, L], *optional*): only checked, in the first iteration.
            guidance_scale: 1 for no guidance.
            target_frames: length of the target in frames.
            kwargs: arguments of `forward`, `conditioning_ids` among them.

        Returns:
            The arguments of `forward`, with 2B sequences under guidance, conditional ones first.

        Raises:
            ValueError: `attention_mask` marks padding, though all prefixes must have the same length, or `cache` is
                that of an earlier call.
        """
        if attention_mask is not None and is_first_iteration and not bool(attention_mask.all()):
            raise ValueError("generate() needs target prefixes of the same length; pad the conditioning instead.")
        frames: int | torch.Tensor = target_frames
        mask = kwargs.get("conditioning_mask")
        if mask is not None and self.pattern.codes_per_slot > 1:
            frames = self.frames_of_rows(mask).clamp(max=target_frames)
        if is_first_iteration and cache is not None and int(cache.get_seq_length()) > 0:
            raise ValueError("The cache is not empty; leave it out and pass the sequence as input_ids.")
        inputs = super().prepare_inputs_for_generation(
            self.pattern.hide(input_ids, frames, self.config.codebook_size),
            next_sequence_length=next_sequence_length,
            cache=cache,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        inputs["conditioning_is_cached"] = cache is not None and not is_first_iteration
        inputs["logits_to_keep"] = 1
        ids = inputs["conditioning_ids"]
        inputs["null_conditioning"] = null_rows(ids, guidance_scale)
        if self.training and guidance_scale == 1.0:
            # all False rather than None, with which `forward` would apply conditioning dropout in training mode
            inputs["null_conditioning"] = ids.new_zeros(len(ids), dtype=torch.bool)
        for name in ("input_ids", "conditioning_ids", "conditioning_mask"):
            if inputs.get(name) is not None:
                inputs[name] = for_guidance(inputs[name], guidance_scale)
        # the target has no padding, so the mask that super makes for static caches is not needed
        inputs["attention_mask"] = None
        return inputs
