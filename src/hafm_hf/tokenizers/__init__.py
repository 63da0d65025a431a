# SPDX-License-Identifier: Apache-2.0
"""Audio ⇄ codes (codecs) and audio → semantic tokens."""
