# SPDX-License-Identifier: Apache-2.0
"""From songs to training data: rendered songs here, tokens of real ones in the modules beside it."""
