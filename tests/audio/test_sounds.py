# SPDX-License-Identifier: Apache-2.0
"""Unusual and damaged sound files: no audio in them is lost, and whatever is odd is reported."""

import io
import logging
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audio.encoders import decoded_lengths, encode, needs_ffmpeg, piped
from hafm_hf import audio
from hafm_hf.audio import HAFMAudioError, ffmpeg
from hafm_hf.audio.containers import find_sections
from hafm_hf.cli.options import read_vocal
from hafm_hf.corpus.reading import decode
from hafm_hf.corpus.tracks import find_audio
from hafm_hf.evaluation.datasets import Part
from vocals import EXAMPLE, file_bytes, glide

RATE = 24_000
# samples
MPEG_FRAME = 1152
# ffmpeg's options for constant, variable and average bit rate
MODES = {"cbr": ["-b:a", "64k"], "vbr": ["-q:a", "2"], "abr": ["-abr", "1", "-b:a", "96k"]}
VOICES = ("singing-female", "vignesh", "vocadito_10", "vocadito_14")


@pytest.fixture
def warnings_of() -> Iterator[Callable[[], str]]:
    """A function that returns what the package has logged since the start of the test."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("hafm_hf")
    logger.addHandler(handler)
    yield stream.getvalue
    logger.removeHandler(handler)


def seconds_read(source: Any) -> float:
    """The duration of a vocal as it is read, in seconds."""
    samples, rate = audio.read_audio(source)
    return len(samples) / rate


# --- lengths that no header states ---


@pytest.mark.parametrize("voice", VOICES)
def test_mp3_is_read_to_its_end_by_every_reader(voice: str, shared_data: Path, tmp_path: Path, accompany: Any) -> None:
    needs_ffmpeg()
    options_of_files = {
        tmp_path / f"{mode}_{rate}_{xing}.mp3": [*options, "-ar", str(rate), "-write_xing", str(xing)]
        for mode, options in MODES.items()
        for rate in (44_100, 24_000, 16_000)
        for xing in (0, 1)
    }
    encode(shared_data / "real" / f"{voice}.wav", options_of_files)
    paths = list(options_of_files)
    for whole in options_of_files:
        # starts in the middle of a frame, and after the frame that states the length
        cut = whole.with_name(f"cut_{whole.name}")
        cut.write_bytes(whole.read_bytes()[whole.stat().st_size // 3 :])
        paths.append(cut)
    for path, length in zip(paths, decoded_lengths(paths), strict=True):
        _check_readers(path, length, accompany)


def _check_readers(path: Path, length: int, accompany: Any) -> None:
    """Asserts that every reader reads as many samples as ffmpeg (`length`), within three frames."""
    rate = soundfile.info(path).samplerate
    lengths = {"command": len(_read_by_command(path))}
    for name, source in (("pipeline, path", str(path)), ("pipeline, bytes", path.read_bytes())):
        lengths[name] = accompany.preprocess(source)["prepared"].duration * rate
    lengths["corpus"] = len(decode(path, 60.0)[0])
    lengths["evaluation"] = len(Part(path).read()[0])
    lengths["evaluation, length"] = Part(path).duration() * rate
    wrong = {reader: found for reader, found in lengths.items() if abs(found - length) > 3 * MPEG_FRAME}
    assert not wrong, (path.name, length, wrong)


def _read_by_command(path: Path) -> audio.Samples:
    """The samples that the command line reads."""
    read = read_vocal(str(path), False)
    assert read is not None
    return read[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rate", [44_100, 16_000])
def test_mp3_out_of_a_pipe_is_as_long_as_its_source(mode: str, rate: int) -> None:
    needs_ffmpeg()
    content = piped(EXAMPLE, *MODES[mode], "-ar", str(rate), "-f", "mp3")
    samples, read_rate = audio.read_audio(content)
    assert read_rate == rate
    assert abs(len(samples) / rate - seconds_read(EXAMPLE)) < 3 * MPEG_FRAME / rate


def lame_file(seconds: float = 3.0) -> bytes:
    """VBR MP3 by LAME, whose first frame states the number of frames."""
    return file_bytes(glide(seconds, RATE), RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.2)


def with_frames(content: bytes, frames: int) -> bytes:
    """MP3 whose first frame states `frames` as the number of frames."""
    # behind the tag, of which there is one or the other, and its flags, four bytes each
    count_at = max(content.find(b"Xing"), content.find(b"Info")) + 8
    return content[:count_at] + struct.pack(">I", frames) + content[count_at + 4 :]


@pytest.mark.parametrize("frames", [0, 1, 20])
def test_mp3_is_read_to_its_end_though_its_first_frame_states_less(frames: int) -> None:
    assert seconds_read(with_frames(lame_file(), frames)) == pytest.approx(3.0, abs=0.01)


def test_bytes_between_the_frames_of_mp3_are_passed_over() -> None:
    whole = lame_file()
    third = len(whole) // 3
    # the header of an ID3 tag states its size in seven bits a byte
    id3_tag = b"ID3\x04\x00\x00\x00\x00\x1f\x00" + bytes(31 << 7)
    for junk in (bytes(5000), b"\xff" * 3000, id3_tag):
        assert seconds_read(whole[:third] + junk + whole[third:]) == pytest.approx(3.0, abs=0.1)


def test_flac_out_of_a_pipe_is_read_to_its_last_sample() -> None:
    for rate, channels in ((RATE, 1), (44_100, 2), (16_000, 1)):
        sound = np.tile(glide(3.0, rate)[:, None], channels)
        content = bytearray(file_bytes(sound, rate, format="FLAC", subtype="PCM_16"))
        # the last 36 of these 64 bits are the number of samples: 0, unknown
        fields = int.from_bytes(content[18:26], "big")
        content[18:26] = (fields >> 36 << 36).to_bytes(8, "big")
        samples, _ = audio.read_audio(bytes(content))
        assert len(samples) == 3 * rate


# --- sizes in headers ---


# by format: the name before the size of the samples, and how `struct` packs that size
SIZES = {"WAV": (b"data", "<I"), "AIFF": (b"SSND", ">I"), "AU": (b".snd", ">I"), "CAF": (b"data", ">q")}


def with_size(content: bytes, file_format: str, size: int) -> bytes:
    """A file whose header states that its samples have `size` bytes."""
    name, layout = SIZES[file_format]
    # AU: between its magic and the size is the samples' offset
    size_at = content.find(name) + (8 if file_format == "AU" else 4)
    return content[:size_at] + struct.pack(layout, size) + content[size_at + struct.calcsize(layout) :]


@pytest.mark.parametrize("file_format", SIZES)
def test_a_recording_whose_recorder_was_killed_is_read_to_its_end(file_format: str) -> None:
    content = file_bytes(glide(3.0, RATE), RATE, format=file_format, subtype="PCM_16")
    # the size is written when a recording is closed
    recording = audio.read_recording(with_size(content, file_format, 0))
    assert len(recording.samples) == 3 * RATE
    assert recording.remarks == ()


@pytest.mark.parametrize("file_format", SIZES)
def test_a_size_that_is_too_small_loses_nothing_and_is_mentioned(file_format: str) -> None:
    content = file_bytes(glide(3.0, RATE), RATE, format=file_format, subtype="PCM_16")
    # a second of 16 bits
    recording = audio.read_recording(with_size(content, file_format, 2 * RATE))
    assert len(recording.samples) == 3 * RATE
    assert recording.remarks[0] == "the vocal is 3.0 s long, though its header says 1.0 s; all of it is used."


@pytest.mark.parametrize("file_format", [*SIZES, "FLAC", "MP3"])
def test_a_sound_that_ends_early_is_used_with_a_warning_of_both_lengths(
    file_format: str, warnings_of: Callable[[], str], tmp_path: Path
) -> None:
    path = tmp_path / "vocal"
    whole = file_bytes(glide(6.0, RATE), RATE, format=file_format)
    path.write_bytes(whole[: len(whole) // 2])
    samples, _ = audio.read_audio(path)
    shown = f"{len(samples) / RATE:.1f}"
    assert 2.0 < len(samples) / RATE < 4.0
    assert f"vocal is {shown} s long, though its header says 6.0 s; what is missing is lost." in warnings_of()


def test_a_whole_sound_is_read_without_a_warning(warnings_of: Callable[[], str]) -> None:
    for file_format in ("WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"):
        assert seconds_read(file_bytes(glide(2.0, RATE), RATE, format=file_format)) == 2.0
    assert warnings_of() == ""


def test_chunks_after_the_samples_are_not_read_as_samples() -> None:
    content = file_bytes(glide(2.0, RATE), RATE, subtype="PCM_16")
    for after in (
        b"LIST" + struct.pack("<I", 400) + bytes(400),
        b"id3 " + struct.pack("<I", 99) + bytes(99),
        bytes(9),
    ):
        assert seconds_read(content + after) == 2.0


# --- several sounds in one file ---


@pytest.mark.parametrize("file_format", ["MP3", "OGG", "WAV", "FLAC", "AIFF", "AU", "CAF"])
def test_sounds_one_after_another_in_a_file_are_joined(file_format: str) -> None:
    parts = [glide(seconds, RATE) for seconds in (2.0, 1.5, 1.0)]
    content = b"".join(file_bytes(part, RATE, format=file_format) for part in parts)
    recording = audio.read_recording(content)
    assert len(recording.samples) == round(4.5 * RATE)
    assert recording.remarks == ("the vocal holds 3 sounds, one after another; they are joined.",)
    # the second sound, without its ends
    middle = slice(2 * RATE + 4000, round(3.5 * RATE) - 4000)
    assert np.abs(recording.samples[middle] - np.concatenate(parts)[middle]).max() < 0.1


def test_joined_sounds_may_differ_in_rate_and_channels() -> None:
    stereo = np.tile(glide(1.5, 44_100)[:, None], 2)
    for file_format in ("WAV", "MP3", "FLAC"):
        content = file_bytes(glide(2.0, RATE), RATE, format=file_format)
        content += file_bytes(stereo, 44_100, format=file_format)
        samples, rate = audio.read_audio(content, mono=False)
        assert rate == RATE
        assert len(samples) == pytest.approx(3.5 * RATE, abs=4)


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "AIFF", "AU", "CAF"])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_empty_sound_before_or_after_a_voice_does_no_harm(file_format: str, channels: int) -> None:
    # not the empty sound's rate, nor its number of channels, 1 or 2; WAV and AIFF pad an odd number of bytes
    other_channels = 3 - channels
    sung = np.tile(glide(1.5, 44_100)[:44_101, None], other_channels)
    subtype = "VORBIS" if file_format == "OGG" else "PCM_24"
    voice = file_bytes(sung, 44_100, format=file_format, subtype=subtype)
    empty = file_bytes(np.zeros((0, channels), np.float32), RATE, format=file_format)
    for content in (voice + empty, empty + voice, voice + empty + voice):
        samples, rate = audio.read_audio(content)
        assert len(samples) / rate == pytest.approx(content.count(voice) * 44_101 / 44_100, abs=0.001)


@pytest.mark.parametrize("file_format", ["WAV", "RF64", "AIFF", "CAF", "W64", "AU", "FLAC", "MP3"])
def test_a_header_that_is_cut_off_after_a_voice_does_no_harm(file_format: str) -> None:
    subtype = None if file_format == "MP3" else "PCM_24"
    voice = file_bytes(glide(1.5, RATE)[:24_001], RATE, format=file_format, subtype=subtype)
    whole, _ = audio.read_audio(voice)
    # 44 bytes: a whole header of WAV
    for size in range(44):
        samples, _ = audio.read_audio(voice + voice[:size])
        # a few bytes more may be samples
        assert len(samples) == pytest.approx(len(whole), abs=15), size


@pytest.mark.parametrize("file_format", ["WAV", "OGG", "AIFF", "AU", "CAF", "W64"])
def test_a_sound_without_samples_is_too_short(file_format: str) -> None:
    with pytest.raises(audio.HAFMAudioError, match="is 0 s long; HAFM needs at least 1 s"):
        audio.read_audio(file_bytes(np.zeros((0, 2), np.float32), RATE, format=file_format))


def test_a_file_that_states_an_impossible_size_is_read_from_its_path_as_from_its_bytes(tmp_path: Path) -> None:
    content = bytearray(file_bytes(glide(1.5, RATE), RATE, format="RF64"))
    # the size of the samples, in 64 bits
    content[28:36] = (1 << 60).to_bytes(8, "little")
    path = tmp_path / "vocal.wav"
    path.write_bytes(content)
    for source in (path, bytes(content)):
        samples, _ = audio.read_audio(source)
        assert len(samples) == round(1.5 * RATE)


def test_a_part_of_joined_sounds_is_read_from_any_place(tmp_path: Path) -> None:
    path = tmp_path / "vocal.ogg"
    parts = [glide(2.0, RATE), glide(2.0, RATE)[::-1].copy()]
    path.write_bytes(b"".join(file_bytes(part, RATE, format="OGG") for part in parts))
    whole, _ = Part(path).read()
    part, _ = Part(path, start=1.5, seconds=1.0).read()
    assert np.abs(part - whole[round(1.5 * RATE) : round(2.5 * RATE)]).max() < 1e-3


def test_the_beginning_of_another_sound_at_the_end_is_left_out_with_a_warning() -> None:
    for file_format, beginning in (("FLAC", b'fLaC\0\0\0"'), ("WAV", b"RIFF\xff\xff\xff\xffWAVE" + bytes(70))):
        recording = audio.read_recording(file_bytes(glide(2.0, RATE), RATE, format=file_format) + beginning)
        assert len(recording.samples) == 2 * RATE
        remark = f"the vocal holds {len(beginning)} bytes that are no sound; they are left out."
        assert recording.remarks == (remark,)


# --- what phones record ---


# ffmpeg's options by the name of the file
PHONE_FORMATS = {
    "song.m4a": ["-c:a", "aac"],
    "song.3gp": ["-c:a", "aac", "-ar", "16000"],
    "song.webm": ["-c:a", "libopus"],
    "song.aac": ["-c:a", "aac"],
    "song.wma": [],
    "song.mpeg": ["-c:a", "mp2", "-f", "mpeg"],
    "song.mp2": [],
    "song.oga": ["-c:a", "flac", "-f", "ogg"],
    "alac.caf": ["-c:a", "alac"],
    "song.caf": [],
    "song.au": [],
    "song.wave": ["-f", "wav"],
    "without_suffix": ["-f", "flac"],
    "odd.recording": ["-f", "ipod"],
}


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example voice in the formats of phones, and a lyric."""
    needs_ffmpeg()
    folder = tmp_path_factory.mktemp("phone")
    encode(EXAMPLE, {folder / name: options for name, options in PHONE_FORMATS.items()})
    (folder / "lyrics.txt").write_text("la la la")
    return folder


@pytest.mark.parametrize("name", PHONE_FORMATS)
def test_phone_recordings_are_read_from_path_and_bytes(name: str, phone: Path) -> None:
    whole = seconds_read(EXAMPLE)
    assert seconds_read(phone / name) == pytest.approx(whole, abs=0.15)
    assert seconds_read((phone / name).read_bytes()) == pytest.approx(whole, abs=0.15)


def test_no_sound_in_a_folder_is_ignored(phone: Path) -> None:
    paths, drops, others = find_audio(phone)
    assert paths == sorted(PHONE_FORMATS)
    assert drops == []
    assert others == 1, "the lyrics"


def test_phone_recordings_keep_their_voice(phone: Path) -> None:
    expected, _ = audio.read_audio(EXAMPLE, sampling_rate=16_000)
    for name in ("song.m4a", "song.webm", "alac.caf"):
        read, _ = audio.read_audio(phone / name, sampling_rate=16_000)
        length = min(len(read), len(expected))
        assert np.corrcoef(read[:length], expected[:length])[0, 1] > 0.95, name


def test_mp4_files_in_a_row_are_joined(phone: Path) -> None:
    content = (phone / "song.m4a").read_bytes()
    assert seconds_read(content + content) == pytest.approx(2 * seconds_read(EXAMPLE), abs=0.3)


def test_without_ffmpeg_a_phone_recording_is_refused_in_one_sentence_that_names_it(
    phone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    for name, kind in (("song.m4a", "MPEG-4"), ("song.webm", "WebM"), ("song.oga", "FLAC in Ogg")):
        with pytest.raises(HAFMAudioError, match=rf"^{name} is {kind}.*needs ffmpeg; install that.*\.$"):
            audio.read_audio(phone / name)


def test_limits_hold_for_what_ffmpeg_decodes(phone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HAFMAudioError, match="song.m4a is longer than 2 s"):
        audio.read_audio(phone / "song.m4a", max_seconds=2.0)
    samples, rate = audio.read_audio(phone / "song.m4a", seconds=1.5)
    assert len(samples) == round(1.5 * rate)
    monkeypatch.setattr(ffmpeg, "MAX_SECONDS", 0.0)
    with pytest.raises(HAFMAudioError, match="song.m4a takes ffmpeg longer than 0 s"):
        audio.read_audio(phone / "song.m4a")


# --- channels ---


def cancelling(rate: int = RATE) -> dict[str, audio.Samples]:
    """Sounds (float32 [N, channels]) whose channels have a mean far below the loudest of them, by name."""
    voice = glide(3.0, rate)
    noise = np.random.default_rng(0).standard_normal(len(voice)).astype(np.float32)
    return {
        "opposite": np.stack([voice, -voice], axis=1),
        "louder on the right": np.stack([-0.8 * voice, voice], axis=1),
        "with an offset": np.stack([voice + 0.2, 0.2 - voice], axis=1),
        "almost": np.stack([voice, -voice + 0.01 * noise], axis=1),
        "four": np.stack([voice, -voice, 0.5 * voice, -0.5 * voice], axis=1),
    }


@pytest.mark.parametrize("kind", cancelling())
def test_channels_that_cancel_leave_the_louder_one_and_a_warning(kind: str, warnings_of: Callable[[], str]) -> None:
    sound = cancelling()[kind]
    loudest = 2 if kind == "louder on the right" else 1
    expected = glide(3.0, RATE)
    samples, _ = audio.read_audio(file_bytes(sound, RATE, subtype="FLOAT"))
    samples = audio.without_offset(samples)
    assert np.abs(np.corrcoef(samples, expected)[0, 1]) > 0.99
    assert audio.rms_dbfs(samples) == pytest.approx(audio.rms_dbfs(expected), abs=0.1)
    assert "cancel each other" in warnings_of()
    # in the other two, the two loudest channels are about equal: either may be followed
    assert f"HAFM follows channel {loudest}." in warnings_of() or kind in ("almost", "four")


@pytest.mark.parametrize("kind", cancelling())
def test_the_model_listens_to_the_louder_channel_of_cancelling_arrays_and_files(kind: str, accompany: Any) -> None:
    sound = cancelling()[kind]
    for given in ({"array": sound, "sampling_rate": RATE}, file_bytes(sound, RATE, subtype="FLOAT")):
        read = accompany.preprocess(given)["prepared"].samples
        assert audio.rms_dbfs(read) == pytest.approx(audio.rms_dbfs(glide(3.0, RATE)), abs=0.2)


def test_channels_that_do_not_cancel_are_averaged_without_a_warning(warnings_of: Callable[[], str]) -> None:
    left = glide(3.0, RATE)
    right = glide(3.0, RATE)[::-1]
    for sound in ([left, 0 * left], [left, right], [left, -0.3 * left], [left, left]):
        stereo = np.stack(sound, axis=1)
        samples, _ = audio.read_audio(file_bytes(stereo, RATE, subtype="FLOAT"))
        assert np.allclose(samples, stereo.mean(axis=1), atol=1e-6)
    assert warnings_of() == ""


# --- levels ---


@pytest.mark.parametrize("offset", [0.4, -0.25, 0.05])
def test_a_constant_offset_of_a_voice_is_neither_listened_to_nor_mixed(offset: float, accompany: Any) -> None:
    voice = 0.5 * glide(3.0, RATE)
    voice -= voice.mean()
    content = file_bytes(voice + np.float32(offset), RATE, subtype="PCM_24")
    samples, _ = audio.read_audio(content)
    heard = accompany.feature_extractor(samples, sampling_rate=RATE)["input_values"][0]
    plain = accompany.feature_extractor(voice, sampling_rate=RATE)["input_values"][0]
    assert np.abs(np.asarray(heard) - np.asarray(plain)).max() < 1e-3
    song = accompany(content, seed=1, skip_fine=True)
    assert np.abs(song["vocals"] - voice).max() < 1e-3


def test_an_offset_of_one_channel_is_removed_from_it() -> None:
    voice = glide(3.0, RATE) / 2
    stereo = np.stack([voice, voice + np.float32(0.3)], axis=1)
    centred = audio.without_offset(stereo.astype(np.float32))
    assert np.abs(centred.mean(axis=0)).max() < 1e-4


def test_a_flac_that_ends_in_silence_is_read_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    # samples: a block of FLAC, and more
    for silent in (4096, 9000, 50_001):
        sound = np.concatenate([glide(3.0, RATE), np.zeros(silent, np.float32)])
        samples, _ = audio.read_audio(file_bytes(sound, RATE, format="FLAC"))
        assert len(samples) == len(sound)
    assert not caplog.messages


@pytest.mark.parametrize("peak", [2.5, 40.0, 32_768.0])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_float_files_above_full_scale_are_turned_down_with_a_warning(
    peak: float, channels: int, warnings_of: Callable[[], str]
) -> None:
    voice = glide(3.0, RATE)
    voice *= np.float32(peak) / np.abs(voice).max()
    sound = np.tile(voice[:, None], channels)
    samples, _ = audio.read_audio(file_bytes(sound, RATE, subtype="FLOAT"))
    assert np.allclose(samples, voice / peak, atol=1e-5)
    assert f"reaches {peak:.3g}, where full scale is 1; it is turned down by" in warnings_of()


def test_arrays_above_full_scale_are_refused() -> None:
    full_scale = glide(3.0, RATE, amplitude=0.4) / 0.4
    for peak in (2.5, 40.0, 32_768.0):
        with pytest.raises(HAFMAudioError, match="where full scale is 1; divide it by its full scale first"):
            audio.check_sound(peak * full_scale, RATE)


@pytest.mark.parametrize("stated_size", [0, 0xFFFF_FFFF, 5])
def test_the_search_for_au_sounds_ends_if_samples_begin_inside_of_a_header(stated_size: int) -> None:
    header = struct.pack(">4s5I", b".snd", 0, stated_size, 3, 8_000, 1)
    sections = find_sections(io.BytesIO(3 * (header + bytes(6))))
    starts = [section.extents[0][0] for section in sections]
    assert starts == [24, 54, 84]


@pytest.mark.parametrize("first_bytes", [b".snd\0\0\0\x18" + bytes(40), b"\0\0\0\x10ftypM4A " + bytes(40)])
def test_sounds_of_formats_without_id3_tags_behind_one_are_refused(first_bytes: bytes) -> None:
    # ID3v2.3, an empty tag
    tag = b"ID3\x03\0\0\0\0\0\0"
    with pytest.raises(audio.HAFMAudioError):
        audio.read_audio(tag + first_bytes)
