# SPDX-License-Identifier: Apache-2.0
"""Names that lead sheets, stages and songs share; nothing is imported here."""

# what a coarse or fine stage with the stream `stem` may be asked to play: the whole band, or a part of it by itself
STEMS = ("mix", "drums", "bass", "chords", "colour")
# what a stage may be told of a lead sheet and of what to play, in the order in which it embeds them
STREAMS = ("chord", "beat", "bar", "energy", "style", "stem")
# how much a band plays in a section of a song
ENERGIES = ("sparse", "normal", "full")
