# SPDX-License-Identifier: Apache-2.0
"""Networks and trackers that estimate what a lead sheet holds."""
