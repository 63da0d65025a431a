# SPDX-License-Identifier: Apache-2.0
"""Measurements of speed, one module a subject; `hafm benchmark` runs them."""
