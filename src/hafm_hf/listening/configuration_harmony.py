# SPDX-License-Identifier: Apache-2.0
"""Configuration of the network that estimates chords."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..pretrained.checks import MAX_DILATIONS, MAX_WIDTH, check_range


@strict
class HAFMHarmonyConfig(PreTrainedConfig):
    r"""The network that estimates which chords a vocal asks for, an optional part of the composite.

    Args:
        num_clusters (`int`): Of the semantic tokenizer, for vocals and for instrumentals.
        channels (`int`): Width of its convolutions.
        num_layers (`int`): Convolutions, with dilations of 1, 2, 4 … beats; six of them see ± 126 beats.
        dropout (`float`): In training.
        semantic_tokenizer (`str`): Fingerprint of the tokenizer whose tokens it has learnt, where known.
    """

    model_type = "hafm_harmony"
    role: ClassVar[str] = "the harmony network, which estimates the chords of a vocal beat by beat"

    num_clusters: int = 500
    channels: int = 128
    num_layers: int = 6
    dropout: float | int = 0.15
    semantic_tokenizer: str = ""

    def describe(self) -> dict[str, str]:
        """Rates, vocabulary and architecture in words, for `hafm info` and the model cards."""
        return {
            "rates": "one chord a beat",
            "vocabulary": f"{self.num_clusters} → 25 chords",
            "architecture": f"{self.num_layers} dilated convolutions × {self.channels} over beats",
        }

    def validate_sizes(self) -> None:
        """Refuses sizes out of range."""
        check_range("num_clusters", self.num_clusters, MAX_WIDTH)
        check_range("channels", self.channels, MAX_WIDTH)
        check_range("num_layers", self.num_layers, MAX_DILATIONS)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1.")
