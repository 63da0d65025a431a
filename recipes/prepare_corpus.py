# SPDX-License-Identifier: Apache-2.0
"""From a folder of songs to a token corpus: the same as `hafm prepare`, for those who work from a checkout.

    python recipes/prepare_corpus.py SONGS TOKENS --separator stems --split-by folder --segment-seconds 90 --workers 2
    python recipes/prepare_corpus.py FMA CORPUS --separator audio-separator --codec facebook/encodec_24khz \\
        --semantic-tokenizer TOKENIZER --device cuda --dtype float16 --engine ray --address auto

The first line is for songs that recipes/build_song_corpus.py rendered, the second is the paper's corpus on a cluster.
"""

import sys

import typer

from hafm_hf.cli.console import HAFMCommandError, report_error
from hafm_hf.cli.prepare import prepare

if __name__ == "__main__":
    try:
        typer.run(prepare)
    except HAFMCommandError as error:
        report_error(error)
        sys.exit(1)
