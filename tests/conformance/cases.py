# SPDX-License-Identifier: Apache-2.0
"""transformers' own tests of models, configurations and training, applied to every model class of HAFM.

python tests/conformance/run.py
"""

import copy
import os
import unittest
from typing import Any

import torch
from transformers import initialization as init

import hafm_hf
import tiny_models
from conformance.reasons import REASONS
from conformance.upstream import ConfigTester, GenerationStandIn, ModelTesterMixin, TrainingTesterMixin
from hafm_hf.tokenizers.pitch_contour import TIME_FEATURES
from tiny_models import SIZES, STAGES, VOCABULARIES

# sequences, and frames of each
BATCH, FRAMES = 3, 6


class Reasoned(unittest.TestCase):
    """Skips the tests that cannot hold, with the reason."""

    def setUp(self) -> None:
        """Skips the test if reasons.py lists it."""
        for name, reason in REASONS.get(type(self).__name__, {}).items():
            if self._testMethodName.startswith(name) and "HAFM_CONFORMANCE_ALL" not in os.environ:
                self.skipTest(reason)


class StageTester:
    """The interface that the mixins expect of a model tester: a configuration and inputs."""

    is_training = True
    num_hidden_layers = SIZES["num_hidden_layers"]
    num_attention_heads = SIZES["num_attention_heads"]
    hidden_size = SIZES["hidden_size"]
    batch_size = BATCH

    def __init__(self, name: str, config_class: Any, model_class: Any, options: dict[str, Any]) -> None:
        """Takes the stage's name and classes, and options of its configuration."""
        self.name, self.config_class, self.causal_lm_class = name, config_class, model_class
        self.options = options
        config = self.get_config()
        self.tokens = config.target_length(FRAMES)
        # of the whole sequence: hidden states and attentions cover the conditioning too
        self.seq_length = config.num_conditioning_sources * FRAMES + self.tokens

    def get_config(self) -> Any:
        """A tiny configuration without dropout, so that two passes in training mode agree."""
        return self.config_class(
            **{
                **SIZES,
                **VOCABULARIES[self.name],
                **self.options,
                "conditioning_dropout": 0.0,
                "initializer_range": 0.02,
            }
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        """The configuration, and random token and conditioning ids."""
        config = self.get_config()
        generator = torch.Generator().manual_seed(1)
        shape = (BATCH, config.num_conditioning_streams, FRAMES)
        return config, {
            "input_ids": torch.randint(config.vocab_size, (BATCH, self.tokens), generator=generator),
            "conditioning_ids": torch.randint(min(config.conditioning_sizes), shape, generator=generator),
        }


class StageCase(ModelTesterMixin, TrainingTesterMixin, GenerationStandIn):
    """A stage."""

    test_resize_embeddings = False
    additional_model_inputs = ["conditioning_ids"]
    # for training on one sequence as long as its conditioning
    training_overfit_steps = 150
    training_overfit_learning_rate = 1e-2
    name: str
    config_class: Any
    model_class: Any
    options: dict[str, Any] = {}

    def setUp(self) -> None:
        """Makes the testers, or skips."""
        super().setUp()
        self._tester = StageTester(self.name, self.config_class, self.model_class, self.options)
        self.all_model_classes = (self.model_class,)

    @property
    def model_tester(self) -> Any:
        """The tester of this stage."""
        return self._tester

    def test_config(self) -> None:
        """The configuration's own tests, all of them."""
        sizes: dict[str, Any] = {**SIZES, **VOCABULARIES[self.name], **self.options}
        ConfigTester(self, config_class=self.config_class, **sizes).run_common_tests()

    def _prepare_for_class(self, inputs_dict: Any, model_class: Any, return_labels: bool = False) -> Any:
        """A copy of the inputs, if wanted with the tokens as labels."""
        inputs = copy.deepcopy(inputs_dict)
        if return_labels:
            inputs["labels"] = inputs["input_ids"].clone()
        return inputs

    def _create_text_training_batch(self, batch_size: int, seq_length: int, vocab_size: int) -> dict[str, Any]:
        """The same pattern for every row, shifted right after BOS, on the same conditioning."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        length = self.model_tester.tokens
        pattern = torch.arange(length) % (min(config.codebook_sizes) - 1) + 1
        labels = pattern.expand(batch_size, -1).clone()
        bos = torch.full((batch_size, 1), config.bos_token_id)
        shifted = torch.cat([bos, labels[:, :-1]], dim=1)
        conditioning = inputs["conditioning_ids"][:1].expand(batch_size, -1, -1).clone()
        return {"input_ids": shifted, "labels": labels, "conditioning_ids": conditioning}

    def _get_trainable_model_class(self) -> Any:
        """The model class of the mixin's training test, which then generates with `generate(inputs)`."""
        conditioning = self.model_tester.prepare_config_and_inputs_for_common()[1]["conditioning_ids"][:1]

        class Conditioned(self.model_class):  # type: ignore[name-defined]
            """The stage with fixed conditioning."""

            def generate(self, inputs: torch.Tensor, **options: Any) -> Any:
                """Generates with the conditioning of the training batch, which the mixin does not pass."""
                return super().generate(inputs, conditioning_ids=conditioning, guidance_scale=1.0, **options)

        return Conditioned


class SemanticStageTest(StageCase, Reasoned):
    """Vocal semantic tokens → instrumental semantic tokens."""

    name, (config_class, model_class) = "semantic", STAGES["semantic"]


class CoarseStageTest(StageCase, Reasoned):
    """Semantic tokens → codebooks 1–4."""

    name, (config_class, model_class) = "coarse", STAGES["coarse"]


class FineStageTest(StageCase, Reasoned):
    """Codebooks 1–4 → codebooks 5–8."""

    name, (config_class, model_class) = "fine", STAGES["fine"]


class BiasedStageTest(StageCase, Reasoned):
    """A stage with the biases of the published weights."""

    name, (config_class, model_class) = "coarse", STAGES["coarse"]
    options = {"feed_forward_bias": True, "head_bias": True}


class PartTester:
    """Configuration and inputs of a part that is not a language model."""

    is_training = False
    batch_size = BATCH

    def __init__(self, config: Any, inputs: dict[str, torch.Tensor], **sizes: int) -> None:
        """Takes the configuration, inputs of the forward pass, and sizes that the mixin reads as attributes."""
        self.config, self.inputs = config, inputs
        vars(self).update(sizes)

    def get_config(self) -> Any:
        """A copy of the configuration, which a test may change."""
        return copy.deepcopy(self.config)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        """Copies of configuration and inputs, which a test may change."""
        return self.get_config(), copy.deepcopy(self.inputs)


class PartCase(ModelTesterMixin):
    """A part."""

    test_resize_embeddings = False
    has_attentions = False
    config_class: Any
    model_class: Any
    config_arguments: dict[str, Any]

    def setUp(self) -> None:
        """Makes the tester, or skips."""
        super().setUp()
        self.model_tester = self.tester()
        self.all_model_classes = (self.model_class,)

    def tester(self) -> PartTester:
        """The tester of this part."""
        raise NotImplementedError

    def test_config(self) -> None:
        """The configuration's own tests, all of them."""
        tester = ConfigTester(
            self, self.config_class, has_text_modality=False, common_properties=[], **self.config_arguments
        )
        tester.run_common_tests()


class ClusteredTokenizer(hafm_hf.HAFMSemanticTokenizerModel):
    """A tokenizer that is initialised with centroids, without which it has no tokens."""

    def __init__(self, config: hafm_hf.HAFMSemanticTokenizerConfig) -> None:
        """Initialises the centroids too."""
        super().__init__(config)
        self._init_weights(self)

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        """Initialises a module; of the whole tokenizer, the centroids, to different values from −1 to 1."""
        super()._init_weights(module)
        if module is self:
            init.copy_(self.centroids, torch.linspace(-1, 1, self.centroids.numel()).view_as(self.centroids))


class SemanticTokenizerTest(PartCase, Reasoned):
    """Audio → semantic tokens."""

    config_class, model_class = hafm_hf.HAFMSemanticTokenizerConfig, ClusteredTokenizer
    config_arguments = {"num_clusters": 7, "layer": 2, "noise_std": 0.5}

    def tester(self) -> PartTester:
        """Half a second of noise at 16 kHz, which is 25 frames."""
        config = tiny_models.tiny_semantic_tokenizer().config
        inputs = {"input_values": 0.1 * torch.randn(BATCH, 8000, generator=torch.Generator().manual_seed(0))}
        sizes = {"num_hidden_layers": config.layer, "hidden_size": config.hubert_config.hidden_size, "seq_length": 25}
        return PartTester(config, inputs, **sizes)


class ListenerTest(PartCase, Reasoned):
    """Cells of a pitch contour → chords and tempo."""

    config_class, model_class = hafm_hf.HAFMListenerConfig, hafm_hf.HAFMListenerModel
    config_arguments = {"num_clusters": 7, "harmony_channels": 5, "harmony_layers": 2}
    config_arguments |= {"time_channels": 7, "time_layers": 1}

    def tester(self) -> PartTester:
        """Eleven cells of harmony and thirteen of time."""
        drawn = torch.Generator().manual_seed(0)
        inputs = {
            "harmony_cells": torch.rand((BATCH, 11, 54), generator=drawn),
            "time_cells": torch.rand((BATCH, 13, TIME_FEATURES), generator=drawn),
        }
        return PartTester(tiny_models.tiny_listener(dropout=0.0).config, inputs)


class SeparatorTest(PartCase, Reasoned):
    """A band → its stems."""

    config_class, model_class = hafm_hf.HAFMSeparatorConfig, hafm_hf.HAFMSeparatorModel
    config_arguments = {"channels": 7, "num_layers": 2}

    def tester(self) -> PartTester:
        """An eighth of a second of noise at 24 kHz."""
        inputs = {"input_values": 0.1 * torch.randn(BATCH, 3000, generator=torch.Generator().manual_seed(0))}
        return PartTester(tiny_models.tiny_separator().config, inputs)


class SpectralCodecTest(PartCase, Reasoned):
    """Audio → audio, by way of the codes."""

    config_class, model_class = hafm_hf.HAFMSpectralConfig, hafm_hf.HAFMSpectralModel
    config_arguments = {"encoder_width": 7, "decoder_layers": 2}

    def tester(self) -> PartTester:
        """An eighth of a second of noise at 24 kHz."""
        return PartTester(tiny_models.tiny_spectral_codec().config, {"audio": 0.1 * torch.randn(BATCH, 1, 3000)})


class AccompanimentConfigTest(Reasoned):
    """The composite's configuration; the composite itself has no forward pass to test."""

    def test_config(self) -> None:
        """The configuration's own tests, all of them."""
        ConfigTester(self, hafm_hf.HAFMConfig, has_text_modality=False, common_properties=[]).run_common_tests()
