"""`python -m hafm_hf.cli`, where the `hafm` script is not on the path."""

from . import main

main()
