# SPDX-License-Identifier: Apache-2.0
"""Names shared by lead sheets, stages and corpora; this module imports nothing.

How many values each lead-sheet row has is in `lead_sheet.ROW_SIZES`.
"""

# the separator's outputs, also of the songs rendered for hafm-tiny; "pads" is pads, strings and counter-melodies
STEMS = ("drums", "bass", "chords", "pads")
# lead-sheet rows (called streams in config files) that can condition a stage, in the order in which they are embedded
LEAD_SHEET_ROWS = ("chord", "beat", "bar", "energy", "style")
# how densely the band plays in a section
ENERGIES = ("sparse", "normal", "full")
# as a style: one that suits the song
AUTO_STYLE = "auto"
# beats per bar
METRES = (3, 4)
# those of a song of which nothing else is known
USUAL_METRE = 4
