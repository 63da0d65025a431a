"""A stage through a song: windows, the fast loop and what makes a step quick."""
