"""Measuring accompaniments: Fréchet and kernel distance, and whether they follow the singer. Last on the path."""
