# SPDX-License-Identifier: Apache-2.0
"""Reading, checking and writing audio.

HAFM works in float32 throughout; only this file deals with integer samples. Audio is validated here, on entry
(`read_audio`, `check_sound`), and trusted from then on. Formats of files are read by `decoding` (with `containers` and
`ffmpeg`), and rates converted by `samples`. Shapes: `[N]` is mono, N samples; `[N, C]` has C channels. A frame is one
sample of each channel.
"""

import io
import logging
import math
import os
import re
import reprlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import numpy as np
import soundfile
from numpy.typing import NDArray

from ..atomic_files import replacing
from .decoding import LOST_SECONDS, Sound, opened
from .errors import HAFMAudioError, LongAudioError, NotFiniteAudioError
from .samples import ChannelLevels, Samples, channel_levels, mean_of_channels, resample, to_mono

logger = logging.getLogger(__name__)

AudioSource = str | os.PathLike[str] | bytes | BinaryIO

MIN_SAMPLING_RATE = 8_000
MAX_SAMPLING_RATE = 192_000
MIN_SECONDS = 1.0
MAX_SECONDS = 3600.0
# largest sample that is taken as it is: MP3 decoders and resamplers overshoot full scale, 1, a little
HEADROOM = 2.0
# a file whose peak lies between the two comes from a recorder without headroom, or holds integers (of up to 32 bits)
# stored as floats
LARGEST_SAMPLE = 2.0**31
# per channel: an hour at 48 kHz, 0.7 GB of memory
MAX_SAMPLES = 48_000 * round(MAX_SECONDS)
MAX_CHANNELS = 32
# formats that can be written, and their MIME types
FILE_FORMATS = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg"}
MP3_RATES = tuple(sorted(rate // part for rate in (32_000, 44_100, 48_000) for part in (1, 2, 4)))
# names of files that hold sound, in folders; the last line's can only be refused, with the reason
AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
    *(".mp3", ".mp2", ".mpga", ".mpeg", ".mpg", ".ogg", ".oga", ".opus", ".spx"),
    *(".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".3gpp", ".3g2", ".aac", ".amr", ".awb"),
    *(".webm", ".weba", ".mka", ".mkv", ".wma"),
    *(".ape", ".wv", ".tta", ".mpc", ".ra", ".ac3", ".dsf", ".dff"),
)
# samples of a sound, or bytes of a remote file, that are read at a time
_BLOCK = 1 << 20
# limits on downloads from URLs that users name
URL_MAX_BYTES = 200_000_000
URL_TIMEOUT_SECONDS = 60.0
# limit of a file that can't be sought in: an hour of two channels in 32 bits
_MAX_BYTES = 8 * MAX_SAMPLES
_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Recording:
    """A sound that was read from a file.

    Attributes:
        samples: float32 [N], or [N, C] if several channels were kept.
        sampling_rate: in Hz.
        remarks: what the user should know about it, one sentence each: a wrong length in the header, channels that
            cancel each other, a level that had to be lowered.
        missing_seconds: by how much the sound is shorter than its header says; 0 if it is not shorter.
    """

    samples: Samples
    sampling_rate: int
    remarks: tuple[str, ...] = ()
    missing_seconds: float = 0.0


def read_audio(
    source: AudioSource,
    *,
    sampling_rate: int | None = None,
    seconds: float | None = None,
    min_seconds: float = MIN_SECONDS,
    max_seconds: float = MAX_SECONDS,
    name: str | None = None,
    mono: bool = True,
) -> tuple[Samples, int]:
    """Reads audio of any sampling rate and channel count as float32, mixed down to mono by default.

    Where the sound differs from what the file's header says, or had to be changed, a warning is logged.

    Args:
        source: path, http(s) URL, path for fsspec (`fetch`), the bytes of a file, or a binary file object, which is
            read from its beginning. WAV, FLAC, MP3, OGG, AIFF, AU or CAF, 8 to 32 bits; where ffmpeg is installed also
            M4A, 3GP, WebM, AMR and WMA.
        sampling_rate: rate in Hz to resample to; the source's own rate when None.
        seconds: how many seconds to read from the start, at most; None for all.
        min_seconds, max_seconds: accepted length in seconds of the part that is read.
        name: name of the source in error messages; derived from `source` when None.
        mono: whether to average two channels; more are always averaged. Where channels cancel each other, the loudest
            one is used.

    Returns:
        samples (float32 [N], or [N, 2] of a stereo file with `mono=False`) and their rate in Hz.

    Raises:
        HAFMAudioError: missing, empty, not audio, beyond a limit, too short or long, an unsupported rate, NaN or
            infinite samples, or invalid `seconds`. A file can be refused on its header alone.
    """
    recording = read_recording(
        source, seconds=seconds, min_seconds=min_seconds, max_seconds=max_seconds, name=name, keep=1 if mono else 2
    )
    for remark in recording.remarks:
        logger.warning(remark)
    sound = recording.samples
    rate = recording.sampling_rate
    if sampling_rate is not None:
        sound = resample(sound, rate, sampling_rate)
        rate = sampling_rate
    return sound, rate


def read_recording(
    source: AudioSource,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    min_seconds: float = MIN_SECONDS,
    max_seconds: float = MAX_SECONDS,
    name: str | None = None,
    keep: int = 1,
) -> Recording:
    """Reads a sound like `read_audio`, and returns remarks about it instead of logging them.

    The sound is read to its actual end, whatever length the header states; a remark reports a difference.

    Args:
        source, seconds, min_seconds, max_seconds, name: as for `read_audio`.
        start: seconds to leave out at the start.
        keep: largest number of channels that stay as they are; more are mixed down to mono, their mean, or the loudest
            one where they cancel each other.

    Raises:
        HAFMAudioError: as for `read_audio`; one of its subclasses (`LongAudioError` and so on) where one applies.
    """
    name = name or source_name(source)
    _check_seconds(seconds)
    if isinstance(source, str) and is_url(source):
        source = download(source)
    elif isinstance(source, str) and is_remote(source):
        source = fetch(source)
    elif hasattr(source, "read"):
        source = rewound(source, name)
    longest = max_seconds
    if seconds is not None:
        longest = min(seconds, max_seconds)
    # decode a second more than allowed, to notice a longer sound
    with opened(source, name, seconds=start + longest + 1.0) as sound:
        rate = sound.sampling_rate
        check_sampling_rate(rate, name)
        if sound.channels > MAX_CHANNELS:
            raise HAFMAudioError(
                f"{name} has {sound.channels} channels; the limit is {MAX_CHANNELS}: save it as mono."
            )
        first = round(start * rate)
        most = _frames_to_read(sound, first, seconds, max_seconds)
        samples, remarks = _read_channels(sound, first, most, keep)
        length = first + len(samples)
        # negative if there is more than the header says; stays 0 if reading stopped before the end
        missing_seconds = 0.0
        if sound.claimed is not None and len(samples) < most:
            missing_seconds = (sound.claimed - length) / rate
        remarks += sound.remarks
    if abs(missing_seconds) > LOST_SECONDS:
        consequence = "all of it is used"
        if missing_seconds > 0:
            consequence = "what is missing is lost"
        remarks.append(
            f"{name} is {length / rate:.1f} s long, though its header says {length / rate + missing_seconds:.1f} s; "
            f"{consequence}."
        )
    samples = _within_full_scale(samples, name, remarks)
    if len(samples) > MAX_SAMPLES:
        raise _too_many(len(samples), rate, name)
    check_duration(len(samples), rate, name, min_seconds=min_seconds, max_seconds=max_seconds)
    return Recording(samples, rate, tuple(remarks), max(missing_seconds, 0.0))


def _frames_to_read(sound: Sound, first: int, seconds: float | None, max_seconds: float) -> int:
    """The largest number of frames to read of a sound.

    Args:
        sound: the open sound.
        first: index of the first frame to read.
        seconds: how many seconds are asked for; None for all.
        max_seconds: how long the part that is read may be. If more is asked for, the result is one frame above that,
            so that too long a sound is noticed although its header does not say so.

    Raises:
        HAFMAudioError: by its header the sound is longer than allowed.
    """
    name = sound.name
    rate = sound.sampling_rate
    # from `first` on, by the length that limits apply to
    available = math.inf
    if sound.length_for_limits is not None:
        available = max(sound.length_for_limits - first, 0)
    most_frames = math.inf
    if seconds is None or seconds > max_seconds:
        if available < math.inf:
            check_duration(round(available), rate, name, min_seconds=0.0, max_seconds=max_seconds)
        if max_seconds < math.inf:
            most_frames = math.floor(max_seconds * rate) + 1
    else:
        most_frames = round(seconds * rate)
    if available < math.inf and min(most_frames, available) > MAX_SAMPLES:
        raise _too_many(round(min(most_frames, available)), rate, name)
    return round(min(most_frames, MAX_SAMPLES + 1))


def _too_many(frames: int, rate: int, name: str) -> LongAudioError:
    """The error for a sound, called `name`, of more than `MAX_SAMPLES` frames at its rate in Hz."""
    return LongAudioError(
        f"{name} declares {frames / rate:.0f} s at {rate} Hz; HAFM reads at most "
        f"{MAX_SAMPLES / rate:.0f} s at that rate, so save it at a lower one or cut it."
    )


def _read_channels(sound: Sound, first: int, most: int, keep: int) -> tuple[Samples, list[str]]:
    """Reads up to `most` frames of a sound from frame `first` on.

    `keep` is the largest number of channels that stay as they are; more are mixed down to mono.

    Returns:
        float32 [N], or [N, C] of C = 2 to `keep` channels; and a list with the remark that the channels cancel each
        other, or without one. In a mix-down, the loudest of cancelling channels replaces their mean.
    """
    sound.skip(first)
    if sound.channels == 1:
        return sound.read(most)[:, 0], []
    if sound.channels <= keep:
        samples = sound.read(most)
        levels = channel_levels(samples)
    else:
        levels = ChannelLevels(sound.channels)
        samples = _read_mono(sound, most, levels)
    channel = levels.channel_instead_of_mean()
    if channel is None:
        return samples, []
    if sound.channels > keep:
        # only now is it known that the mean cannot be used
        sound.rewind()
        sound.skip(first)
        samples = _read_mono(sound, most, None, channel)
    return samples, [cancelling(sound.name, levels, channel)]


def cancelling(name: str, levels: ChannelLevels, channel: int) -> str:
    """The remark, for the user, that the channels of a sound cancel each other.

    Args:
        name: of the sound.
        levels: of its channels.
        channel: index, from 0, of the channel that is used; the remark counts from 1.
    """
    return (
        f"The channels of {name} cancel each other (their mean is {levels.below():.0f} dB below channel "
        f"{channel + 1}); HAFM follows channel {channel + 1}."
    )


def _read_mono(sound: Sound, most: int, levels: ChannelLevels | None, channel: int | None = None) -> Samples:
    """Reads up to `most` frames as mono: float32 [N].

    Args:
        sound: read from its current position on.
        most: largest number of frames to read.
        levels: collects the levels of the channels, unless None.
        channel: index of the one to return; None for the mean of all.
    """
    block = np.empty((max(_BLOCK // sound.channels, 1), sound.channels), dtype=np.float32)
    first_length = len(block)
    if sound.frames is not None:
        # a header that overstates the length costs no memory: untouched pages are never allocated
        first_length = min(sound.frames, most)
    mono = np.empty(first_length, dtype=np.float32)
    done = 0
    while done < most:
        wanted = min(len(block), most - done)
        count = sound.read_into(block[:wanted])
        if done + count > len(mono):
            mono.resize(min(max(2 * len(mono), done + count), most), refcheck=False)
        if levels is not None:
            levels.add(block[:count])
        if channel is None:
            mono[done : done + count] = mean_of_channels(block[:count])
        else:
            mono[done : done + count] = block[:count, channel]
        done += count
        if count < wanted:
            break
    mono.resize(done, refcheck=False)
    return mono


def _within_full_scale(samples: Samples, name: str, remarks: list[str]) -> Samples:
    """Turns a file's samples down to a peak of 1 if they lie far above full scale (`HEADROOM`).

    Args:
        samples: float32 [N] or [N, C]; turned down in place.
        name: of the file in messages.
        remarks: what the user should know about the sound; a remark is added if the samples are turned down.

    Returns:
        The samples.

    Raises:
        HAFMAudioError: they are not finite, or above what integers of 32 bits can hold.
    """
    peak = _peak(samples)
    if HEADROOM < peak <= LARGEST_SAMPLE:
        samples /= np.float32(peak)
        quieter = 20.0 * math.log10(peak)
        remarks.append(f"{name} reaches {peak:.3g}, where full scale is 1; it is turned down by {quieter:.1f} dB.")
        return samples
    _check_values(samples, name)
    return samples


def check_sound(
    samples: Any,
    sampling_rate: Any,
    *,
    seconds: float | None = None,
    min_seconds: float = MIN_SECONDS,
    max_seconds: float = MAX_SECONDS,
    name: str = "the vocal",
    mono: bool = True,
) -> tuple[Samples, int]:
    """Validates and converts an array to what `read_audio` returns for a file.

    Args:
        samples, name, mono: as for `to_samples`.
        sampling_rate: in Hz.
        seconds, min_seconds, max_seconds: as for `read_audio`.

    Returns:
        samples (float32 [N], or [N, C] with `mono=False`) and their rate in Hz.

    Raises:
        HAFMAudioError: as for `to_samples`; a missing or unsupported sampling rate; too short or too long.
    """
    _check_seconds(seconds)
    sound = to_samples(samples, name=name, mono=mono)
    rate = check_sampling_rate(sampling_rate, name)
    if seconds is not None:
        sound = sound[: round(seconds * rate)]
    check_duration(len(sound), rate, name, min_seconds=min_seconds, max_seconds=max_seconds)
    return sound, rate


def _check_seconds(seconds: Any) -> None:
    """Raises HAFMAudioError unless `seconds` is None or a finite number above 0."""
    if seconds is None:
        return
    is_number = isinstance(seconds, Real) and not isinstance(seconds, bool)
    if not (is_number and 0 < seconds < math.inf):
        raise HAFMAudioError(f"seconds is {seconds!r}; it must be a number above 0.")


def source_name(source: object) -> str:
    """Name of an audio source in error messages: the last component of its path or URL, else "the vocal"."""
    if isinstance(source, str) and is_url(source):
        # decoded first: %2F is a separator, too
        file_name = Path(unquote(urlsplit(source).path)).name
        return "".join(filter(str.isprintable, file_name)) or source
    if isinstance(source, str) and is_remote(source):
        # the name of FILE in a chain FILE::ARCHIVE
        return source.partition("::")[0].rpartition("/")[2] or source
    if isinstance(source, (str, os.PathLike)):
        return Path(source).name or str(source)
    name = getattr(source, "name", None)
    if isinstance(name, str):
        return Path(name).name
    return "the vocal"


def is_url(source: str) -> bool:
    """Whether `source` is an http(s) URL."""
    return source.lower().startswith(("http://", "https://"))


def download(url: str, *, max_bytes: int = URL_MAX_BYTES, timeout: float = URL_TIMEOUT_SECONDS) -> bytes:
    """Fetches `url`, giving up beyond `max_bytes` or after `timeout` seconds in all.

    Raises:
        HAFMAudioError: unreachable, not an http(s) URL, too large or too slow.
    """
    # the HTTP library of huggingface_hub, whose own client would refuse every URL under HF_HUB_OFFLINE
    import httpx2

    too_slow = HAFMAudioError(f"{url} took longer than {timeout:g} s; download it yourself first.")
    end = time.monotonic() + timeout
    received = bytearray()
    try:
        with httpx2.stream("GET", url, timeout=timeout, follow_redirects=True) as response:
            response.raise_for_status()
            for block in response.iter_bytes():
                received += block
                if len(received) > max_bytes:
                    raise HAFMAudioError(f"{url} is larger than {max_bytes / 1e6:g} MB; cut it first.")
                if time.monotonic() > end:
                    raise too_slow
    except httpx2.TimeoutException as error:
        raise too_slow from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise HAFMAudioError(f"{url} cannot be fetched: {why}; check the address.") from error
    return bytes(received)


def is_remote(source: str) -> bool:
    """Whether `source` is a path for fsspec, as streamed data sets have them: hf://…, or zip://FILE::ARCHIVE."""
    return _PROTOCOL.match(source) is not None and not is_url(source)


def fetch(path: str, *, max_bytes: int = URL_MAX_BYTES, timeout: float = URL_TIMEOUT_SECONDS) -> bytes:
    """Reads the bytes of a file by fsspec, giving up beyond `max_bytes` or after `timeout` seconds in all.

    Args:
        path: `PROTOCOL://…`, possibly chained (`zip://song.wav::hf://datasets/USER/NAME/songs.zip`).

    Raises:
        HAFMAudioError: no such file, a protocol whose package is not installed, too large or too slow.
    """
    import fsspec

    end = time.monotonic() + timeout
    received = bytearray()
    try:
        with fsspec.open(path, "rb") as file:
            while block := file.read(_BLOCK):
                received += block
                if len(received) > max_bytes:
                    raise HAFMAudioError(f"{path} is larger than {max_bytes / 1e6:g} MB; cut it first.")
                if time.monotonic() > end:
                    raise HAFMAudioError(f"{path} took longer than {timeout:g} s; download it yourself first.")
    except HAFMAudioError:
        raise
    # file systems of other packages raise errors of their own
    except Exception as error:
        why = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise HAFMAudioError(f"{path} cannot be opened ({why}); check the path.") from error
    return bytes(received)


def rewound(file: Any, name: str) -> BinaryIO:
    """A binary file object at its beginning, wherever it was before; one that can't be sought in is read as a whole.

    Raises:
        HAFMAudioError: it is closed, a text file, or larger than an hour of audio.
    """
    if getattr(file, "closed", False):
        raise HAFMAudioError(f"{name} is a closed file; open it again.")
    if isinstance(file, io.TextIOBase):
        raise HAFMAudioError(f'{name} is a text file; open it with the mode "rb".')
    try:
        file.seek(0)
        # libsndfile needs `tell`, too
        file.tell()
        return cast(BinaryIO, file)
    except (AttributeError, OSError):
        # a pipe, or the response of a server
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise HAFMAudioError(f"{name} is larger than {_MAX_BYTES / 1e9:g} GB; cut it first.")
    return io.BytesIO(content)


def soundfile_name(path: str | os.PathLike[str]) -> str | bytes:
    """A path as soundfile takes it: text, as it must be on Windows, or bytes where the name is not valid UTF-8."""
    name = os.fspath(path)
    try:
        name.encode(sys.getfilesystemencoding())
    except UnicodeEncodeError:
        return os.fsencode(name)
    return name


def to_samples(samples: Any, *, name: str = "the vocal", mono: bool = True) -> Samples:
    """Converts an array of floats, or of integers of 8 to 32 bits, with channels on either axis, to float32.

    Args:
        samples (array, tensor or sequence: [N], [N, C] or [C, N]): the longer axis is time. Integers are scaled by
            the range of their type (int16: 1/32768; unsigned ones are centred first); floats are taken as they are.
        name: name of the samples in error messages.
        mono: whether to average the channels.

    Returns:
        float32 [N], or [N, C] for a 2-D input with `mono=False`.

    Raises:
        HAFMAudioError: another shape, not numbers, NaN or infinite samples, or floats far above full scale.
    """
    check_is_array(samples, name)
    if hasattr(samples, "detach"):
        samples = samples.detach().cpu()
        if samples.is_floating_point():
            # NumPy has no bfloat16; integers must keep their type, which sets their scale
            samples = samples.float()
        samples = samples.numpy()
    try:
        array = np.asarray(samples)
    except ValueError as error:
        raise HAFMAudioError(f"{name} is not an array of numbers ({error}); give [N] or [N, channels].") from error
    if array.ndim not in (1, 2):
        raise HAFMAudioError(f"{name} has shape {array.shape}; HAFM takes [samples] or [samples, channels].")
    # int64 is refused: no audio uses its range, but lists of Python integers become it
    if array.dtype.kind in "iu" and array.dtype.itemsize < 8:
        info = np.iinfo(array.dtype)
        scale = (int(info.max) - int(info.min) + 1) / 2
        # the value of silence: unsigned integers have theirs in the middle of their range
        middle = 0.0
        if array.dtype.kind == "u":
            middle = scale
        array = (array - middle) / scale
    elif array.dtype.kind != "f":
        raise HAFMAudioError(f"{name} holds {array.dtype}; HAFM takes floats up to 1 or integers of 8 to 32 bits.")
    if array.ndim == 2:
        # the longer axis is time
        if 0 < array.shape[0] < array.shape[1]:
            array = array.T
        if array.shape[1] > MAX_CHANNELS:
            raise HAFMAudioError(f"{name} has {array.shape[1]} channels; give several vocals as a list, not an array.")
        if mono:
            array = to_mono(np.asarray(array, dtype=np.float32))
    sound: Samples = np.ascontiguousarray(array, dtype=np.float32)
    _check_values(sound, name)
    return sound


def _check_values(samples: Samples, name: str) -> None:
    """Raises HAFMAudioError, with the sound's `name`, unless all samples are finite and within ±`HEADROOM`."""
    peak = _peak(samples)
    if not math.isfinite(peak):
        raise NotFiniteAudioError(f"{name} has NaN or infinite samples; export it again, as 16-bit WAV for example.")
    if peak > HEADROOM:
        raise HAFMAudioError(f"{name} reaches {peak:.3g}, where full scale is 1; divide it by its full scale first.")


def _peak(samples: Samples) -> float:
    """Largest absolute sample of float32 [N] or [N, C]; NaN or infinite if one is."""
    return max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))


def check_is_array(samples: Any, name: str = "the vocal") -> None:
    """Checks that `samples` may be an array, and not the path or contents of a file.

    Raises:
        HAFMAudioError: a string, bytes, a path, a dict or None.
    """
    if samples is None or isinstance(samples, (str, bytes, bytearray, os.PathLike, Mapping)):
        raise HAFMAudioError(
            f"{name} is {reprlib.repr(samples)}, not an array of samples; read a file with hafm_hf.audio.read_audio, "
            "which returns samples and sampling rate, or use the pipeline, which reads files itself."
        )


def check_sampling_rate(sampling_rate: Any, name: str = "the vocal") -> int:
    """Returns `sampling_rate` (Hz; may be a 0-D tensor) as an int; raises HAFMAudioError if it is unsupported."""
    if sampling_rate is None:
        raise HAFMAudioError("An array needs its sampling_rate; pass sampling_rate=44100, for example.")
    if getattr(sampling_rate, "ndim", None) == 0:
        sampling_rate = sampling_rate.item()
    # NaN and infinity have no remainder of 0
    is_whole = isinstance(sampling_rate, Real) and float(sampling_rate) % 1 == 0
    if not is_whole:
        raise HAFMAudioError(f"sampling_rate is {sampling_rate!r}; it must be a whole number of Hz, such as 44100.")
    rate = float(sampling_rate)
    if not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        raise HAFMAudioError(
            f"{name} has a sampling rate of {sampling_rate} Hz; "
            f"HAFM takes {MIN_SAMPLING_RATE} to {MAX_SAMPLING_RATE} Hz."
        )
    return int(rate)


def check_duration(
    length: int,
    sampling_rate: int,
    name: str = "the vocal",
    *,
    min_seconds: float = MIN_SECONDS,
    max_seconds: float = MAX_SECONDS,
) -> None:
    """Raises HAFMAudioError unless `length` samples at `sampling_rate` Hz last `min_seconds` to `max_seconds`."""
    if length < min_seconds * sampling_rate:
        # rounded down to hundredths, so that 0.999 s is never called "1 s"
        shown = length * 100 // sampling_rate / 100
        raise HAFMAudioError(f"{name} is {shown:g} s long; HAFM needs at least {min_seconds:g} s.")
    if length > max_seconds * sampling_rate:
        raise LongAudioError(
            f"{name} is longer than {max_seconds:g} s; cut it, or use only its start with the option seconds."
        )


def to_integers(samples: Samples) -> NDArray[np.int16]:
    """Converts float32 [N] or [N, C] to 16-bit integers that read back within half a quantisation step.

    libsndfile itself would multiply floats by 32767 but divide by 32768 when reading them, so that every round trip
    through a file would make them a little quieter.
    """
    limits = np.iinfo(np.int16)
    # −limits.min is 32768
    scaled = samples * np.float32(-limits.min)
    # in place: an hour of 24 kHz mono takes a third of a gigabyte
    return scaled.round(out=scaled).clip(limits.min, limits.max, out=scaled).astype(np.int16)


def _encode(file: BinaryIO, samples: Samples, sampling_rate: int, file_format: str) -> None:
    """Writes float32 [N] or [N, C] in one of `FILE_FORMATS`: 16 bits, or VBR MP3 (about 190 kbit/s in stereo).

    For MP3, sound at a rate that the format lacks is resampled to 48 kHz.
    """
    if file_format != "mp3":
        soundfile.write(file, to_integers(samples), sampling_rate, subtype="PCM_16", format=file_format.upper())
        return
    if sampling_rate not in MP3_RATES:
        samples = resample(samples, sampling_rate, MP3_RATES[-1])
        sampling_rate = MP3_RATES[-1]
    quality: dict[str, Any] = {"subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.2}
    soundfile.write(file, samples, sampling_rate, format="MP3", **quality)


def encode_audio(samples: Samples, sampling_rate: int, file_format: str) -> bytes:
    """Returns float32 [N] or [N, C] as the bytes of a file in one of `FILE_FORMATS`."""
    file = io.BytesIO()
    _encode(file, samples, sampling_rate, file_format)
    return file.getvalue()


def write_audio(path: str | os.PathLike[str], samples: Samples, sampling_rate: int) -> Path:
    """Atomically writes float32 [N] or [N, C] in the format that the file's suffix names.

    The file is written under a temporary name next to `path` and then renamed, so that it is never seen half written.
    WAV and FLAC are 16-bit, not float: libsndfile puts a timestamp into float WAV files, and equal seeds must give
    equal bytes. For MP3, sound at a rate that the format lacks is resampled to 48 kHz.

    Raises:
        HAFMAudioError: the folder cannot be written to, or the suffix is not a known format.
    """
    path = Path(path)
    file_format = path.suffix.lstrip(".").lower()
    if file_format not in FILE_FORMATS:
        raise HAFMAudioError(f"{path.name} is not in a format that HAFM writes; end it in .wav, .flac or .mp3.")
    try:
        with replacing(path) as file:
            _encode(file, samples, sampling_rate, file_format)
    except (OSError, soundfile.LibsndfileError) as error:
        raise HAFMAudioError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}.") from error
    return path
