# SPDX-License-Identifier: Apache-2.0
"""Renders training songs from MIDI: a singer, a band, and the mix."""
