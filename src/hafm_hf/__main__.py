"""`python -m hafm_hf`, where the `hafm` script is not on the path."""

from .cli import main

main()
