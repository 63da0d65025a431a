"""Measurements of speed, one module a subject; `hafm benchmark` runs them."""
