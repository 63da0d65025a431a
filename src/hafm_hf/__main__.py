# SPDX-License-Identifier: Apache-2.0
"""`python -m hafm_hf`, where the `hafm` script is not on the path."""

from .cli import main

main()
