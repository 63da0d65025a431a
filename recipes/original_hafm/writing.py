# SPDX-License-Identifier: Apache-2.0
"""Writes the converted model as one composite, with a card that says whose its parts are and what was assumed."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModel

from hafm_hf.accompaniment.assemble import assemble_composite
from hafm_hf.accompaniment.parts import stage_parts
from hafm_hf.modeling.modeling_stage import HAFMStageForCausalLM
from hafm_hf.pretrained.loading import codec_fingerprint, tokenizer_fingerprint
from hafm_hf.pretrained.model_card import CardFacts, model_card
from hafm_hf.tokenizers.codecs import load_codec
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel

from .download import PUBLISHED

# what the stages are called in the card
STAGES = "stages and k-means"
# as their pages state them
LICENCES = {
    PUBLISHED: "apache-2.0",
    "facebook/hubert-base-ls960": "apache-2.0",
    "facebook/hubert-large-ll60k": "apache-2.0",
}
STATE = (
    "Built from published facts and tested on checkpoints of the same layout; never run on the published files "
    "themselves."
)


def write_model(
    out: Path, tokenizer: HAFMSemanticTokenizerModel, codec: str, stages: Mapping[str, HAFMStageForCausalLM]
) -> None:
    """Writes the composite, atomically.

    Args:
        out: folder; an existing composite is replaced, other files never are.
        tokenizer: with its centroids.
        codec: hub id or folder.
        stages: by name; their configurations get the fingerprints of tokenizer and codec.

    Raises:
        ValueError: the parts' vocabularies or rates do not match, or the folder holds other files.
        OSError: the codec cannot be found.
    """
    loaded = load_codec(codec)
    fingerprints = {"semantic_tokenizer": tokenizer_fingerprint(tokenizer), "codec": codec_fingerprint(loaded.model)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{out.name}.parts-", dir=out.parent) as scratch:
        folders = {name: f"{scratch}/{name}" for name in ("semantic_tokenizer", "codec", *stages)}
        tokenizer.save_pretrained(folders["semantic_tokenizer"])
        loaded.model.save_pretrained(folders["codec"])
        del loaded
        for name, stage in stages.items():
            stage.config.tokenizers = {part: fingerprints[part] for part in stage_parts()[name].tokenizers}
            stage.save_pretrained(folders[name])
        assemble_composite(folders, out, stage_dtype="float32")


def write_card(out: Path, sources: Mapping[str, str], facts: CardFacts) -> None:
    """Writes README.md.

    Args:
        out: folder of the composite.
        sources: hub id or folder of the stages, the HuBERT and the codec, by what they are.
        facts: sections and training; licences and models are added.
    """
    licences = {part_name: licence(source) for part_name, source in sources.items()}
    facts.license = licences[STAGES]
    facts.base_models = list(sources.values())
    facts.attribution = [
        f"{part_name}: {source}, {licences[part_name] or 'whose licence its own page states'}"
        for part_name, source in sources.items()
    ]
    config = AutoConfig.from_pretrained(out, trust_remote_code=False)
    # on the meta device, parameters can be counted without allocating memory
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    model_card(model, str(out), facts).save(out / "README.md")


def licence(source: str) -> str | None:
    """The licence of a folder or repository, as a hub identifier; None if it is not known.

    A folder's own card states it, and `LICENCES` those of the usual repositories; the hub is not asked.
    """
    if source in LICENCES:
        return LICENCES[source]
    card = Path(source) / "README.md"
    if card.is_file():
        return ModelCard.load(card).data.get("license")
    return None
