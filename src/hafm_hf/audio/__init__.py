# SPDX-License-Identifier: Apache-2.0
"""Audio: reading and writing files, resampling, levels, and mixing."""

from .decoding import LOST_SECONDS, is_sound_file, opened
from .errors import DamagedAudioError, HAFMAudioError, LongAudioError, NotFiniteAudioError, UnreadableAudioError
from .files import (
    AUDIO_SUFFIXES,
    FILE_FORMATS,
    MAX_CHANNELS,
    MAX_SAMPLING_RATE,
    MIN_SAMPLING_RATE,
    MP3_RATES,
    Recording,
    check_duration,
    check_sampling_rate,
    check_sound,
    encode_audio,
    is_url,
    read_audio,
    read_recording,
    soundfile_name,
    source_name,
    to_samples,
    write_audio,
)
from .levels import (
    balance_gain_db,
    decibels_to_gain,
    fade_edges,
    fade_instrumental,
    is_silent,
    loudness,
    mix_audio,
    paste,
    peak_dbfs,
    quiet_gain_db,
    require_pyloudnorm,
    rms_dbfs,
    to_loudness,
    true_peak_dbtp,
    turned_down,
    turned_up,
)
from .samples import (
    Samples,
    in_columns,
    pad_end,
    resample,
    resample_pieces,
    to_mono,
    with_channels,
    without_offset,
)
