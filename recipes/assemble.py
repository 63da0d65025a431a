# SPDX-License-Identifier: Apache-2.0
"""Joins a semantic tokenizer, three stages and a codec into one composite folder: `hafm assemble` as a script.

python recipes/assemble.py OUT --semantic-tokenizer DIR --semantic DIR --coarse DIR --fine DIR --codec DIR
"""

import typer

from hafm_hf.cli.training import assemble, run_recipe

if __name__ == "__main__":
    run_recipe(lambda: typer.run(assemble))
