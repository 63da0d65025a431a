# SPDX-License-Identifier: Apache-2.0
"""Lead sheets: what is known about a song besides the vocal (tempo, beats, chords, style, energy). No models here."""
