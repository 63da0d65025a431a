# SPDX-License-Identifier: Apache-2.0
"""Measuring accompaniments: Fréchet and kernel distance, and whether they follow the singer. Last on the path."""
