# SPDX-License-Identifier: Apache-2.0
"""Sound: files, levels, mixing, and what is measured of it."""

from .downloads import HAFMAudioError, download, is_url
from .files import (
    CEILING_DBFS,
    FILE_FORMATS,
    MAX_SAMPLING_RATE,
    MAX_SECONDS,
    MIN_SAMPLING_RATE,
    MIN_SECONDS,
    MP3_RATES,
    AudioSource,
    Samples,
    check_duration,
    check_is_array,
    check_sampling_rate,
    check_sound,
    decibels_to_gain,
    is_silent,
    limit_peak,
    pad_end,
    peak_dbfs,
    read_audio,
    resample,
    resample_pieces,
    rms_dbfs,
    source_name,
    to_samples,
    with_channels,
    write_audio,
    write_stream,
)
from .levels import balance_gain_db, fade_band, fade_edges, loudness, mix_audio, to_loudness, true_peak_dbtp
