# SPDX-License-Identifier: Apache-2.0
"""The stages: configurations, decoder, position bias, codebook patterns, generation, the fast loop, windows."""
