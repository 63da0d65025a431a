# SPDX-License-Identifier: Apache-2.0
"""From songs to training data: vocals and accompaniments as tokens, in shards."""
