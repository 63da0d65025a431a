# SPDX-License-Identifier: Apache-2.0
"""Training of one stage on token shards: crops, inputs of a step, and the loop that the recipes share."""
