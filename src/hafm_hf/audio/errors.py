# SPDX-License-Identifier: Apache-2.0
"""The errors of reading and writing audio."""


class HAFMAudioError(ValueError):
    """Unusable audio; the message is one sentence that names the source, the value and the way out."""


class UnreadableAudioError(HAFMAudioError):
    """A file that the system does not let HAFM read."""


class DamagedAudioError(HAFMAudioError):
    """Audio of a readable format whose samples cannot be decoded."""


class LongAudioError(HAFMAudioError):
    """Audio beyond the limit of its length."""


class NotFiniteAudioError(HAFMAudioError):
    """Audio with NaN or infinite samples."""
