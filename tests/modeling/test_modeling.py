# SPDX-License-Identifier: Apache-2.0
"""The three stages: parameter counts, causality, caches, padding, codebooks, null conditioning, saving, precision."""

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache, StaticCache

from hafm_hf import HAFMCoarseConfig, HAFMCoarseForCausalLM
from hafm_hf.modeling.modeling_stage import HAFMCodebookEmbedding, HAFMCodebookHeads
from tiny_models import CLUSTERS, CODES, SIZES, STAGES, tiny_stage

BATCH = 5
FRAMES = 6  # of conditioning; at 50 Hz and 75 Hz alike they give whole target frames
SCHEMES = ("index", "time")
STAGES_AND_PATTERNS = [*((name, "flat") for name in STAGES), ("coarse", "delay"), ("fine", "delay")]
BACKENDS = ("sdpa", "eager")


def conditioning_for(stage: Any, batch: int = BATCH, frames: int = FRAMES, seed: int = 1) -> torch.Tensor:
    """Random conditioning of a stage: int64 [batch, conditioning streams, frames]."""
    # stages at 50 Hz read semantic tokens, the others acoustic codes
    vocabulary = CLUSTERS if stage.config.conditioning_frame_rate == 50 else CODES
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (batch, stage.config.num_conditioning_streams, frames), generator=generator)


@torch.no_grad()
def both_logits(stage: Any, conditioning: torch.Tensor, **tokens: torch.Tensor) -> torch.Tensor:
    """Scores with the conditioning (first) and without it: float [2, rows, slots, vocabulary].

    There is a row for each sequence, or under the delay pattern for each of its codebooks. `tokens` are further
    arguments of the stage's forward.
    """
    null = torch.ones(len(conditioning), dtype=torch.bool)
    passes = [stage(conditioning_ids=conditioning, null_conditioning=rows, **tokens) for rows in (~null, null)]
    return torch.stack([output.logits for output in passes])


def targets_for(stage: Any, batch: int = BATCH, frames: int = FRAMES, seed: int = 2) -> torch.Tensor:
    """Random targets for `frames` frames of conditioning: int64 [batch, frames of the stage · codebooks]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, stage.config.target_length(frames))
    return torch.randint(min(stage.config.codebook_sizes), shape, generator=generator)


def shifted(stage: Any, targets: torch.Tensor) -> torch.Tensor:
    """The input_ids that predict these targets: BOS, and the targets without the last: int64 [rows, slots]."""
    return stage.pattern.inputs(targets, stage.config.bos_token_id)


@pytest.mark.parametrize(("name", "parameters"), [("semantic", 38.5e6), ("coarse", 42.5e6), ("fine", 44.1e6)])
def test_paper_size_stages_have_the_papers_parameter_counts(name: str, parameters: float) -> None:
    config_class, model_class = STAGES[name]
    with torch.device("meta"):
        stage = model_class(config_class())
    config = stage.config
    width, layers = 512, 12
    # attention, the three matrices of the feed-forward, two norms, and the norms of queries and keys
    layer = 4 * width**2 + 3 * 1365 * width + 2 * width + 2 * 64
    # embeddings have a code more, BOS, and target codebooks also have a head
    vocabularies = sum(size + 1 for source in config.conditioning_codebook_sizes for size in source)
    vocabularies += sum(2 * size + 1 for size in config.codebook_sizes)
    # an embedding for each codebook, each source, and the target
    rest = config.num_codebooks + config.num_conditioning_sources + 1
    # the last norm, and the relative positions: 32 buckets of 8 heads
    expected = layers * layer + width + 32 * 8 + width * (vocabularies + rest)
    assert stage.num_parameters() == expected
    assert stage.num_parameters() == pytest.approx(parameters, rel=2e-3)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", STAGES)
def test_target_never_sees_its_future(name: str, scheme: str) -> None:
    stage = tiny_stage(name, position_scheme=scheme)
    embedded: list[torch.Tensor] = []
    stage.model.target_embedding.register_forward_hook(lambda *hooked: embedded.append(hooked[-1].requires_grad_()))
    targets = targets_for(stage)
    logits = stage(input_ids=shifted(stage, targets), conditioning_ids=conditioning_for(stage)).logits
    middle = logits.shape[1] // 2
    (gradient,) = torch.autograd.grad(logits[:, middle].sum(), embedded)
    # of each slot on the scores of the middle one
    reach = gradient.abs().amax(dim=(0, 2))
    assert (reach[: middle + 1] > 0).all()
    assert (reach[middle + 1 :] == 0).all()


@pytest.mark.parametrize(("scheme", "sees_future"), [("index", False), ("time", True)])
def test_conditioning_sees_its_future_under_the_time_scheme_only(scheme: str, sees_future: bool) -> None:
    stage = tiny_stage("semantic", position_scheme=scheme)
    conditioning = conditioning_for(stage)
    changed = conditioning.clone()
    changed[..., -1] = (changed[..., -1] + 1) % CLUSTERS
    states = []
    for ids in (conditioning, changed):
        cache = DynamicCache(config=stage.config)
        stage(input_ids=targets_for(stage)[:, :1], conditioning_ids=ids, cache=cache)
        states.append(cache.layers[1].keys[:, :, : FRAMES - 1])
    assert torch.equal(*states) is not sees_future


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("name", "pattern"), STAGES_AND_PATTERNS)
def test_cached_and_static_logits_equal_uncached(name: str, pattern: str, scheme: str, backend: str) -> None:
    stage = tiny_stage(name, codebook_pattern=pattern, position_scheme=scheme, attn_implementation=backend)
    assert stage.config._attn_implementation == backend
    conditioning = conditioning_for(stage)
    input_ids = shifted(stage, targets_for(stage))
    slots = stage.config.num_conditioning_sources * FRAMES + input_ids.shape[1]
    with torch.no_grad():
        whole = stage(input_ids=input_ids, conditioning_ids=conditioning).logits
        for cache in (DynamicCache(config=stage.config), StaticCache(config=stage.config, max_cache_len=slots + 3)):
            pieces = []
            # a prefix, single tokens, then a longer piece, as generate() calls a stage
            for start, stop in [(0, 3), (3, 4), (4, 5), (5, input_ids.shape[1])]:
                piece = input_ids[:, start:stop]
                pieces.append(stage(piece, conditioning, cache=cache, use_cache=True).logits)
            torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=0)


# where the four frames of conditioning are between the padding
@pytest.mark.parametrize("there", [slice(0, 4), slice(2, 6), slice(1, 5)])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("name", "pattern"), STAGES_AND_PATTERNS)
def test_a_padded_row_equals_the_row_alone(name: str, pattern: str, scheme: str, there: slice) -> None:
    stage = tiny_stage(name, codebook_pattern=pattern, position_scheme=scheme)
    conditioning = conditioning_for(stage)
    targets = targets_for(stage)
    length = stage.config.target_length(4)
    rows = stage.pattern.codes_per_slot
    alone = stage(labels=targets[:1, :length], conditioning_ids=conditioning[:1, :, there])
    conditioning_mask = torch.ones(BATCH, FRAMES, dtype=torch.bool)
    conditioning_mask[0] = False
    conditioning_mask[0, there] = True
    attention_mask = torch.ones_like(targets)
    attention_mask[0, length:] = 0
    labels = targets.masked_fill(attention_mask == 0, -100)
    masks = {"conditioning_mask": conditioning_mask, "attention_mask": attention_mask if rows == 1 else None}
    padded = stage(labels=labels, conditioning_ids=conditioning, **masks)
    torch.testing.assert_close(padded.logits[:rows, : alone.logits.shape[1]], alone.logits, atol=1e-5, rtol=0)
    # the loss of that row ignores its padding too
    only_first = labels.clone()
    only_first[1:] = -100
    assert stage.codebook_loss(padded.logits, only_first).item() == pytest.approx(alone.loss.item(), abs=1e-5)


def test_heads_and_embedding_of_a_position_equal_separate_linear_layers() -> None:
    config = HAFMCoarseConfig(**SIZES, codebook_sizes=[7, 7, 7], conditioning_codebook_sizes=[[5], [5]])
    heads = HAFMCodebookHeads(config)
    embedding = HAFMCodebookEmbedding([7, 7, 7], 24)
    for module in (heads, embedding):
        torch.nn.init.normal_(module.weight)
    hidden_states = torch.randn(2, 8, 24)
    for first in range(4):
        logits = heads(hidden_states, torch.arange(8) + first)
        for slot in range(8):
            expected = F.linear(hidden_states[:, slot], heads.weight[(first + slot) % 3])
            torch.testing.assert_close(logits[:, slot], expected)
    ids = torch.tensor([[0, 7, 3]])
    expected = torch.stack([embedding.weight[2, 0], embedding.weight[0, 7], embedding.weight[1, 3]])
    assert torch.equal(embedding(ids, torch.tensor([2, 0, 1]))[0], expected)


@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_loss_is_the_mean_of_the_codebooks_cross_entropies(pattern: str) -> None:
    config = HAFMCoarseConfig(
        **SIZES, codebook_sizes=[7] * 3, conditioning_codebook_sizes=[[5], [5]], codebook_pattern=pattern
    )
    stage = HAFMCoarseForCausalLM(config).eval()
    labels = torch.randint(7, (2, 12))
    # the first sequence has two frames, the second four
    labels[0, 6:] = -100
    output = stage(labels=labels, conditioning_ids=torch.randint(5, (2, 2, 4)))
    logits = stage.pattern.tokens(output.logits)
    losses = []
    for codebook in range(3):
        labelled = [(row, slot) for row in range(2) for slot in range(codebook, 12, 3) if labels[row, slot] >= 0]
        losses.append(torch.stack([-logits[at].log_softmax(-1)[labels[at]] for at in labelled]).mean())
    assert output.loss.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)


@pytest.mark.parametrize("counted", [1, 3])
def test_codebooks_without_a_label_are_left_out_of_the_loss(counted: int) -> None:
    stage = tiny_stage("fine")
    labels = targets_for(stage)
    # a view: what is masked in it is masked in the labels
    frames = labels.view(BATCH, -1, stage.config.num_codebooks)
    frames[..., counted:] = -100
    output = stage(labels=labels, conditioning_ids=conditioning_for(stage))
    losses = [
        F.cross_entropy(output.logits[:, codebook :: frames.shape[-1]].flatten(0, 1), frames[..., codebook].flatten())
        for codebook in range(counted)
    ]
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in stage.parameters())
    has_gradient = stage.heads.weight.grad.abs().amax(dim=(1, 2)) > 0
    assert has_gradient.tolist() == [codebook < counted for codebook in range(frames.shape[-1])]


def test_loss_without_any_label_is_zero_and_has_no_gradient() -> None:
    stage = tiny_stage("coarse")
    labels = torch.full_like(targets_for(stage), -100)
    loss = stage(labels=labels, conditioning_ids=conditioning_for(stage)).loss
    loss.backward()
    assert loss.item() == 0.0
    assert not any(p.grad.any() for p in stage.parameters())


@pytest.mark.parametrize("name", STAGES)
def test_null_conditioning_hides_the_voice(name: str) -> None:
    stage = tiny_stage(name)
    is_null = torch.tensor([True, False, True, False, True])
    targets = targets_for(stage)
    first, second = (
        stage(labels=targets, conditioning_ids=conditioning_for(stage, seed=s), null_conditioning=is_null).logits
        for s in (1, 7)
    )
    assert torch.equal(first[is_null], second[is_null])
    assert not torch.isclose(first[~is_null], second[~is_null]).all(-1).any(-1).any()


def test_conditioning_dropout_acts_at_its_rate_and_only_in_training() -> None:
    stage = tiny_stage("semantic", conditioning_dropout=0.3)
    drawn: list[Any] = []
    stage.model.register_forward_pre_hook(
        lambda module, args, kwargs: drawn.append(kwargs["null_conditioning"]), with_kwargs=True
    )
    ids = conditioning_for(stage, batch=400, frames=2)
    labels = targets_for(stage, batch=400, frames=2)
    stage(labels=labels, conditioning_ids=ids)
    assert drawn == [None]
    torch.manual_seed(0)
    stage.train()(labels=labels, conditioning_ids=ids)
    assert drawn[-1].float().mean().item() == pytest.approx(0.3, abs=0.08)
    stage.generate(conditioning_ids=ids, guidance_scale=1.0)
    assert not drawn[-1].any(), "generate() does not drop conditioning either"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", STAGES)
def test_half_precisions_run_close_to_float32(name: str, dtype: torch.dtype) -> None:
    stage = tiny_stage(name, initializer_range=0.1)
    ids = conditioning_for(stage)
    labels = targets_for(stage)
    exact = stage(labels=labels, conditioning_ids=ids)
    half = stage.to(dtype)(labels=labels, conditioning_ids=ids)
    assert half.logits.dtype == dtype
    assert half.loss.item() == pytest.approx(exact.loss.item(), abs=0.02)
    assert stage.generate(conditioning_ids=ids).shape == (BATCH, 1 + labels.shape[1])


def test_target_padding_before_tokens_is_refused() -> None:
    for name in STAGES:
        stage = tiny_stage(name)
        labels = targets_for(stage)
        for hidden in (slice(0, 1), slice(2, 3)):
            mask = torch.ones_like(labels)
            mask[1, hidden] = 0
            with pytest.raises(ValueError, match="pad targets on the right"):
                stage(labels=labels, conditioning_ids=conditioning_for(stage), attention_mask=mask)


def test_ids_outside_the_codebooks_are_refused() -> None:
    for name in STAGES:
        stage = tiny_stage(name)
        conditioning = conditioning_for(stage)
        ids = shifted(stage, targets_for(stage))
        bos = stage.config.bos_token_id
        for wrong in (-1, bos + 1):
            changed = ids.clone()
            changed[1, 2] = wrong
            with pytest.raises(ValueError, match=rf"input_ids holds {wrong}; .* 0 to {bos - 1}"):
                stage(changed, conditioning)
            other = conditioning.clone()
            limit = stage.config.conditioning_codebook_sizes[0][0]
            other[1, -1, 2] = -1 if wrong < 0 else limit
            with pytest.raises(ValueError, match=rf"conditioning_ids holds {other[1, -1, 2]}; .* 0 to {limit - 1}"):
                stage(ids, other)
            with pytest.raises(ValueError, match="input_ids holds"):
                stage.generate(changed, conditioning_ids=conditioning)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditioning_ids": torch.zeros(5, 1, 6, dtype=torch.long)}, r"needs \[B, 2, T_c\]"),
        ({"conditioning_ids": torch.zeros(5, 2, 0, dtype=torch.long)}, "T_c > 0"),
        ({"labels": None}, "Give input_ids, labels"),
        ({"labels": torch.zeros(5, 35).long()}, r"labels has shape \(5, 35\); this stage needs \[B, T · 4\]"),
        ({"labels": torch.full((5, 36), CODES)}, rf"labels holds {CODES}; .* 0 to {CODES - 1}"),
        ({"input_ids": torch.zeros(1, 36, dtype=torch.long)}, "input_ids 1, conditioning_ids 5, labels 5"),
        ({"null_conditioning": torch.ones(4, dtype=torch.bool)}, "conditioning_ids 5, null_conditioning 4"),
        ({"conditioning_mask": torch.ones(5, 3)}, "conditioning_mask has 3 frames, and conditioning_ids 6"),
        ({"inputs_embeds": torch.zeros(5, 36, 24)}, "instead of inputs_embeds"),
    ],
)
def test_missing_inputs_and_wrong_shapes_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    stage = tiny_stage("coarse")
    with pytest.raises(ValueError, match=message):
        stage(**{"labels": targets_for(stage), "conditioning_ids": conditioning_for(stage), **changes})


def test_the_bos_id_must_be_the_number_of_codes(tmp_path: Path) -> None:
    config_class, model_class = STAGES["semantic"]
    tiny_stage("semantic").save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match="(?s)bos_token_id is 13; .* must be 20"):
        model_class(config_class.from_pretrained(tmp_path, codebook_sizes=[20]))
    config = config_class.from_pretrained(tmp_path, codebook_sizes=[20], bos_token_id=20)
    stage = model_class(config)
    assert stage.generate(conditioning_ids=conditioning_for(stage))[:, 0].tolist() == [20] * BATCH
    config.codebook_sizes = [30]
    with pytest.raises(StrictDataclassError, match="must be 30"):
        model_class(config)
