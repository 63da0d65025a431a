# SPDX-License-Identifier: Apache-2.0
"""`python -m hafm_hf`: the `hafm` command, if the script is not on the PATH."""

from .cli import main

main()
