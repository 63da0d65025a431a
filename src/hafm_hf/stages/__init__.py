"""The three stages: one decoder, its positions, codebooks, generation and sampling."""
