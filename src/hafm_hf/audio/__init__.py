# SPDX-License-Identifier: Apache-2.0
"""Audio: reading and writing files, resampling, levels, and mixing."""

from .files import (
    FILE_FORMATS,
    MAX_SAMPLING_RATE,
    MIN_SAMPLING_RATE,
    MP3_RATES,
    HAFMAudioError,
    Samples,
    check_duration,
    check_sampling_rate,
    check_sound,
    encode_audio,
    is_url,
    pad_end,
    read_audio,
    resample,
    resample_pieces,
    source_name,
    to_samples,
    with_channels,
    write_audio,
)
from .levels import (
    balance_gain_db,
    decibels_to_gain,
    fade_band,
    fade_edges,
    is_silent,
    limit_peak,
    loudness,
    mix_audio,
    paste,
    peak_dbfs,
    rms_dbfs,
    to_loudness,
    true_peak_dbtp,
)
