# SPDX-License-Identifier: Apache-2.0
"""What a singer is told of a recording: one sentence each for what is no voice alone, and none for real singers."""

from pathlib import Path

import numpy as np
import pytest

import listening
import songs
import voice_check
from hafm_hf import LeadSheet, audio
from hafm_hf.audio.feature_extraction_hafm import LISTENING_RATE
from hafm_hf.tokenizers.pitch_contour import fundamental_frequency, midi_pitch
from space.studio import Page, expect, in_both_windows, upload
from space.test_desk import STATIC
from space.test_network import DESK
from vocals import EXAMPLE, glide

RATE = 44_100
# recordings of singers alone: whole files, and the right channels of karaoke clips
SINGERS = ("singing-female", "vignesh", "vocadito_10", "vocadito_14")
KARAOKE = ("Ani_1_01", "Kenshin_2_01", "titon_1_05")


def sentences(samples: np.ndarray, rate: int) -> list[str]:
    """What the page would say of a recording (float32 [N] at `rate` Hz), as a list of sentences."""
    listened = audio.resample(audio.turned_up(samples, rate), rate, LISTENING_RATE)
    pitch = midi_pitch(fundamental_frequency(listened, LISTENING_RATE))
    return voice_check.remarks(samples, rate, pitch)


def spoken(seconds: float = 8.0) -> np.ndarray:
    """Something like speech: syllables of 0.15 s whose pitch falls by a fifth, and pauses between the phrases.

    Returns:
        float32 [N] at `RATE`.
    """
    time = np.arange(round(seconds * RATE)) / RATE
    syllable = (time % 0.2) / 0.2
    pitch = 150 * 2 ** (0.6 * (0.5 - syllable)) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(number * phase) / number for number in range(1, 9))
    talks = (syllable < 0.75) & (time % 2.0 < 1.4)
    return (0.1 * voice * talks).astype(np.float32)


@pytest.mark.parametrize("name", SINGERS)
def test_a_real_singer_gets_no_remark(name: str, shared_data: Path) -> None:
    assert sentences(*audio.read_audio(shared_data / "real" / f"{name}.wav")) == []


@pytest.mark.parametrize("name", KARAOKE)
def test_a_karaoke_singer_is_a_voice_and_with_the_band_a_mix(name: str, shared_data: Path) -> None:
    clip, rate = audio.read_audio(shared_data / "mir1k_dev" / f"{name}.flac", mono=False)
    assert sentences(clip[:, 1].copy(), rate) == []
    assert sentences(clip.mean(axis=1), rate) in ([voice_check.MIX], [voice_check.NO_SINGING])


def test_an_accompanied_example_is_a_finished_mix() -> None:
    mix = EXAMPLE.with_name("vocal_accompanied.ogg")
    assert sentences(*audio.read_audio(mix)) == [voice_check.MIX]


def test_an_example_gets_no_remark() -> None:
    assert sentences(*audio.read_audio(EXAMPLE)) == []


def noise() -> np.ndarray:
    """6 s of white noise: float32 [N] at `RATE`."""
    return np.random.default_rng(0).normal(0, 0.1, 6 * RATE).astype(np.float32)


def test_noise_is_no_singing() -> None:
    assert sentences(noise(), RATE) == [voice_check.NO_SINGING]


def test_speech_is_not_singing() -> None:
    assert sentences(spoken(), RATE) == [voice_check.SPEECH]


def test_a_clipped_voice_is_called_clipped() -> None:
    voice, rate = audio.read_audio(EXAMPLE)
    assert sentences(np.clip(6 * voice, -1, 1), rate) == [voice_check.CLIPPED]


def test_silence_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = audio.write_audio(tmp_path / "silence.wav", glide(2.0, RATE) * 0, RATE)
    with pytest.raises(audio.HAFMAudioError, match="is silent; check the microphone"):
        songs.read_recording(str(path), None)


def quieter(voice: np.ndarray) -> np.ndarray:
    """A voice (float32 [N]) scaled to −42 dBFS."""
    return voice * np.float32(audio.decibels_to_gain(-42 - audio.rms_dbfs(voice)))


def test_a_quiet_voice_is_raised_and_listened_to_like_a_louder_one(bundled_model: Path, tmp_path: Path) -> None:
    voice, rate = audio.read_audio(EXAMPLE)
    quiet = quieter(voice)
    # in 24 bits, as a recorder writes it
    path = audio.write_audio(tmp_path / "quiet.flac", quiet, rate)
    heard = listening.listen(str(path), "hafm-tiny", None, LeadSheet())
    usual = listening.listen(str(EXAMPLE), "hafm-tiny", None, LeadSheet())
    assert heard["sheet"]["key"] == usual["sheet"]["key"]
    assert [label for *_, label in heard["sheet"]["chords"]] == [label for *_, label in usual["sheet"]["chords"]]
    assert heard["gain"] > 12
    (sentence,) = heard["remarks"]
    assert "very quiet" in sentence
    assert audio.rms_dbfs(songs.read_vocal(str(path), None)[0]) > -28


@in_both_windows
def test_the_page_says_one_sentence_which_is_in_view(page: Page, tmp_path: Path) -> None:
    remark = page.locator("#timeline .remark")
    voice, rate = audio.read_audio(EXAMPLE)
    mix, mix_rate = audio.read_audio(EXAMPLE.with_name("vocal_accompanied.ogg"))
    recordings = {
        "noise": (noise(), RATE, voice_check.NO_SINGING),
        "speech": (spoken(), RATE, voice_check.SPEECH),
        "mix": (mix, mix_rate, voice_check.MIX),
        "clipped": (np.clip(6 * voice, -1, 1), rate, voice_check.CLIPPED),
        "quiet": (quieter(voice), rate, "very quiet"),
    }
    for name, (sound, its_rate, sentence) in recordings.items():
        upload(page, audio.write_audio(tmp_path / f"{name}.flac", sound, its_rate))
        expect(remark).to_contain_text(sentence)
        expect(remark.locator("br")).to_have_count(0)
        expect(remark).to_be_in_viewport(ratio=1)
    upload(page, EXAMPLE)
    expect(remark).to_have_text("")
    upload(page, audio.write_audio(tmp_path / "silent.wav", 0 * voice, rate))
    refused = page.get_by_role("alert").filter(has_text="is silent; check the microphone")
    expect(refused).to_be_in_viewport(ratio=1)


@in_both_windows
def test_the_page_says_nothing_of_seven_real_singers(page: Page, shared_data: Path, tmp_path: Path) -> None:
    voices = [shared_data / "real" / f"{name}.wav" for name in SINGERS]
    for name in KARAOKE:
        clip, rate = audio.read_audio(shared_data / "mir1k_dev" / f"{name}.flac", mono=False)
        voices.append(audio.write_audio(tmp_path / f"{name}.wav", clip[:, 1], rate))
    page.evaluate(DESK, STATIC)
    for path in voices:
        upload(page, path)
        # the analysis of this one, not of the one before
        page.wait_for_function("name => desk.vocal?.includes(name)", arg=path.stem)
        expect(page.locator("#timeline .remark")).to_have_text("")
