# SPDX-License-Identifier: Apache-2.0
"""Evaluation of accompaniments: Fréchet and kernel distance, and how well they follow the singer."""
