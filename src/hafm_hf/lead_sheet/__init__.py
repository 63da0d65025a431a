# SPDX-License-Identifier: Apache-2.0
"""What is known of a song besides the voice: tempo, beats, chords, style, energy. Data and files only."""
