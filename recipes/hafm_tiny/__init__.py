# SPDX-License-Identifier: Apache-2.0
"""How the bundled model is made, from songs in MIDI to a composite; used by the recipes, not installed."""
