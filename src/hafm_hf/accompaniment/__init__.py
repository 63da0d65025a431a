# SPDX-License-Identifier: Apache-2.0
"""From a voice to its accompaniment: the composite, the run of a song and the pipeline."""
