# SPDX-License-Identifier: Apache-2.0
"""Why a transformers test cannot hold for a model: by test class, then by the beginning of the test's name.

Tests that skip themselves (no GPU, no flash attention, feature absent from the model) are not listed.
"""

TABLES = "the embeddings are a table a codebook, not one nn.Embedding"
NO_EMBEDDINGS = "the model reads no ids, so it has no embeddings"
LEFT = "a slot's place says which codebook it predicts, so padding on the left is refused"
STAGE = {
    # those that pad on the left: three precisions, with and without fused kernels
    **{f"test_eager_matches_sdpa_inference_{number:02d}": LEFT for number in (0, 1, 8, 9, 16, 17)},
    "test_model_get_set_embeddings": TABLES,
}
SAMPLES = "the forward pass returns samples, and no other outputs"
TOKENS = "the forward pass returns tokens, and no hidden states"
LOGITS = "the forward pass returns logits, and no other outputs"
AUDIO = {
    "test_model_get_set_embeddings": NO_EMBEDDINGS,
    "test_hidden_states_output": SAMPLES,
    "test_model_outputs_equivalence": SAMPLES,
    "test_retain_grad_hidden_states_attentions": SAMPLES,
}
REASONS: dict[str, dict[str, str]] = {
    "SemanticStageTest": STAGE,
    "CoarseStageTest": STAGE,
    "FineStageTest": STAGE,
    "BiasedStageTest": STAGE,
    "SemanticTokenizerTest": {
        "test_model_get_set_embeddings": NO_EMBEDDINGS,
        "test_internal_model_config_and_subconfig_are_same": "the network is cut, and so is the copy of its config",
        "test_capture_outputs_decorator": "long audio goes through HuBERT in chunks: no attentions of the whole",
        "test_hidden_states_output": TOKENS,
        "test_model_outputs_equivalence": TOKENS,
        "test_retain_grad_hidden_states_attentions": "tokens are data: no gradient reaches the network",
    },
    "SeparatorTest": AUDIO,
    "SpectralCodecTest": {**AUDIO, "test_init_weights_can_init_buffers": "codebooks begin as random vectors"},
    "ListenerTest": {
        "test_model_get_set_embeddings": NO_EMBEDDINGS,
        "test_hidden_states_output": LOGITS,
        "test_model_outputs_equivalence": LOGITS,
        "test_retain_grad_hidden_states_attentions": LOGITS,
    },
}
