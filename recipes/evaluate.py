# SPDX-License-Identifier: Apache-2.0
"""Evaluates accompaniments; the same as `hafm evaluate`, from a checkout.

python recipes/evaluate.py --karaoke MIR1K --retrieval-bank SONGS/train --out reports/mir1k
python recipes/evaluate.py --musdb MUSDB18 --separated-vocals SEPARATED --clip-seconds 10 --seeds 5 \\
    --embedder vggish-original --embedder vggish-port --device cuda --out reports/musdb18
"""

import sys

from hafm_hf.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
