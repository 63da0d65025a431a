# SPDX-License-Identifier: Apache-2.0
"""How the bundled model is made, from MIDI songs to a composite model; used by the recipes, not installed."""
