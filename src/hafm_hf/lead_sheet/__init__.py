"""Beats and chords of a song, told by the user or estimated from the voice."""
