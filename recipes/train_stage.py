# SPDX-License-Identifier: Apache-2.0
"""Trains one stage on token shards made by `hafm prepare`.

accelerate launch --config_file recipes/accelerate/gpu.yaml recipes/train_stage.py recipes/configs/coarse.yaml \\
    --corpus CORPUS --output_dir runs/coarse
accelerate launch --config_file recipes/accelerate/cpu.yaml recipes/train_stage.py \\
    recipes/configs/tiny/semantic.yaml --corpus CORPUS --output_dir runs/semantic
"""

from hafm_hf.training.recipe import train_stage
from running import run_recipe

if __name__ == "__main__":
    run_recipe(train_stage)
