# SPDX-License-Identifier: Apache-2.0
"""Published PyTorch checkpoints to stages of this package, matched by structure."""
