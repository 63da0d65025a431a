# SPDX-License-Identifier: Apache-2.0
"""Networks and trackers that estimate the contents of a lead sheet."""
