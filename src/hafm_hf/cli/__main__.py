# SPDX-License-Identifier: Apache-2.0
"""`python -m hafm_hf.cli`, where the `hafm` script is not on the path."""

from . import main

main()
