"""Published PyTorch checkpoints to stages of this package, matched by structure."""
