# SPDX-License-Identifier: Apache-2.0
"""Names that lead sheets, stages and songs share; nothing is imported here."""

# what a separator takes a band apart into; the songs of hafm-tiny are rendered from them
STEMS = ("drums", "bass", "chords", "colour")
# what a stage may be told of a lead sheet, in the order in which it embeds them
STREAMS = ("chord", "beat", "bar", "energy", "style")
# how much a band plays in a section of a song
ENERGIES = ("sparse", "normal", "full")
