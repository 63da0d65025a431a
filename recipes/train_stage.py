"""Trains one stage on token shards (recipes/tokenize_corpus.py makes them).

accelerate launch --config_file recipes/accelerate/gpu.yaml recipes/train_stage.py recipes/configs/coarse.yaml \\
    --corpus CORPUS --output_dir runs/coarse
accelerate launch --config_file recipes/accelerate/cpu.yaml recipes/train_stage.py \\
    recipes/configs/tiny/semantic.yaml --corpus CORPUS --output_dir runs/semantic
"""

import logging
import os
from pathlib import Path

import torch
from transformers import PreTrainedModel, set_seed

from hafm_hf.codec import load_encodec
from hafm_hf.modeling_hafm import HAFMCoarseForCausalLM, HAFMFineForCausalLM, HAFMSemanticForCausalLM
from hafm_hf.semantic_tokenizer_hafm import HAFMSemanticTokenizer
from hafm_hf.training.arguments import parse_arguments, stage_config
from hafm_hf.training.data import TokenCrops, load_token_corpus, unigram_entropy
from hafm_hf.training.initialization import initialise_from_codebooks
from hafm_hf.training.trainer import StageTrainer

MODELS = {"semantic": HAFMSemanticForCausalLM, "coarse": HAFMCoarseForCausalLM, "fine": HAFMFineForCausalLM}
logger = logging.getLogger("hafm_hf.recipes.train_stage")


def main() -> None:
    """Reads arguments, builds or loads the stage, trains it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for noisy in ("httpx", "datasets", "filelock", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    stage, data, run = parse_arguments()
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    set_seed(run.seed)
    corpus, info = load_token_corpus(data.corpus, "train", data.cache_dir)
    model: PreTrainedModel
    if stage.init_from:
        model = MODELS[stage.stage].from_pretrained(stage.init_from)
    else:
        model = MODELS[stage.stage](stage_config(stage, info, data.crop_seconds))
        if stage.codec and stage.semantic_tokenizer:
            centroids = HAFMSemanticTokenizer.from_pretrained(stage.semantic_tokenizer).centroids
            layers = load_encodec(stage.codec).quantizer.layers[: info.num_codebooks]
            initialise_from_codebooks(model, centroids, torch.stack([layer.codebook.embed for layer in layers]))
    crops = TokenCrops(corpus, info, model.config, data.crop_seconds, run.seed)
    held_out, held_out_info = load_token_corpus(data.corpus, data.validation_split, data.cache_dir)
    validation = TokenCrops(held_out, held_out_info, model.config, data.crop_seconds)
    logger.info(
        "%s stage, %.1f M parameters; %d excerpts, %.1f h; unigram entropy %.3f nats",
        stage.stage,
        model.num_parameters() / 1e6,
        len(corpus),
        crops.cells.sum() * float(info.grid) / 3600,
        unigram_entropy(validation, model.config),
    )
    trainer = StageTrainer(model, crops, validation, data, run)
    if run.validate_only:
        trainer.validate()
    else:
        trainer.train()
        logger.info("The finished stage is in %s.", Path(run.output_dir) / "final")


if __name__ == "__main__":
    main()
