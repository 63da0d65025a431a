"""HAFM for the Hugging Face ecosystem: a singing voice in, its accompaniment out."""
