# SPDX-License-Identifier: Apache-2.0
"""What the modules of `evaluate` in metrics/ share: lists of recordings in, one result out.

Modules import this file and not the classes in it: `evaluate` takes the first metric that it finds in a module.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from ..audio import resample, to_samples
from .embedders import EmbedderOptions, make_embedder

EMBEDDER_INPUTS = """\
    predictions: list of recordings, float [N] each.
    references: list of recordings; their number may differ.
    sampling_rate: Hz of all of them.
    embedder: tokenizer (the bundled one, offline), vggish, or a transformers audio model.
    vggish_weights: file of VGGish's weights.
"""


class RecordingsMetric(evaluate.Metric):  # type: ignore[name-defined]
    """A metric of two lists of recordings, float [N] each, which need not be pairs nor of one length.

    Subclasses state `description`, `inputs` and `citation`, and implement `_compute`.
    """

    description = inputs = citation = ""

    def _info(self) -> evaluate.MetricInfo:  # type: ignore[name-defined]
        sequence = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(  # type: ignore[attr-defined]
            description=self.description,
            citation=self.citation,
            inputs_description=self.inputs,
            features=datasets.Features({"predictions": sequence}),
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The result; sets of different size are no pairs, so they bypass `evaluate`'s table of pairs."""
        return self._compute(predictions=predictions, references=references, **kwargs)


class DistanceMetric(RecordingsMetric):
    """A metric of the embeddings of two sets; subclasses implement `distance`."""

    def _compute(
        self,
        *,
        predictions: Any,
        references: Any,
        sampling_rate: int,
        embedder: str = "tokenizer",
        vggish_weights: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        loaded = make_embedder(EmbedderOptions(embedder, weights=vggish_weights))
        made, wanted = (
            [loaded.embed(each) for each in at_rate(recordings, sampling_rate, loaded.sampling_rate)]
            for recordings in (predictions, references)
        )
        sizes = {"n": sum(map(len, made)), "n_references": sum(map(len, wanted))}
        return self.distance(wanted, made, **options) | sizes | {"embedder": loaded.name}

    def distance(self, wanted: list[np.ndarray], made: list[np.ndarray], **options: Any) -> dict[str, Any]:
        """The result of embeddings by recording, float32 [n, D] each, of references and of predictions."""
        raise NotImplementedError


def at_rate(recordings: Any, rate: int, wanted_rate: int) -> list[np.ndarray]:
    """Recordings (sequence of [N] at `rate` Hz) as mono float32 [N'] at `wanted_rate` Hz.

    Raises:
        HAFMAudioError: NaN, infinite samples, or another shape.
    """
    sounds = [to_samples(np.asarray(recording, np.float32), name="a recording") for recording in recordings]
    return [resample(sound, rate, wanted_rate) for sound in sounds]
