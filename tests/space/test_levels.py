# SPDX-License-Identifier: Apache-2.0
"""The page says while one sings that a voice is too quiet or too loud."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hafm_hf import audio
from space import studio
from space.serving import Space, chromium
from space.studio import Page, expect
from vocals import EXAMPLE


@pytest.fixture
def recording(tmp_path: Path, space: Space, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page while it records the example voice, whose peak is the parameter; it is clipped at full scale, 1."""
    voice, rate = audio.read_audio(EXAMPLE)
    sound = np.clip(request.param * voice / np.abs(voice).max(), -1, 1)
    soundfile.write(tmp_path / "voice.wav", sound, rate, subtype="PCM_16")
    with chromium(tmp_path / "voice.wav") as browser:
        page = studio.open_page(browser, space)
        page.get_by_role("button", name="● Record").click()
        yield page
        page.context.close()


@pytest.mark.parametrize("recording", [0.02], indirect=True)
def test_a_voice_is_called_too_quiet_while_it_is_recorded(recording: Page) -> None:
    said = "· too quiet: sing closer to the microphone"
    expect(recording.locator("#recorder .status")).to_contain_text(said)
    expect(recording.locator("#recorder .status")).to_contain_text("Recording:")


@pytest.mark.parametrize("recording", [4.0], indirect=True)
def test_a_voice_is_called_too_loud_while_it_is_recorded(recording: Page) -> None:
    expect(recording.locator("#recorder .status")).to_contain_text("· too loud: it is clipped")
    expect(recording.locator("#recorder .status")).to_contain_text("Recording:")


@pytest.mark.parametrize("recording", [0.4], indirect=True)
def test_a_good_level_is_not_remarked_upon(recording: Page) -> None:
    expect(recording.locator("#recorder .status")).to_have_text("Recording: 5 s")


@pytest.mark.parametrize("recording", [0.02], indirect=True)
def test_a_count_in_is_not_called_too_quiet(recording: Page) -> None:
    recording.get_by_role("button", name="■ Stop").click()
    recording.locator("#recorder summary").click()
    recording.get_by_label("Tempo", exact=True).first.fill("55")
    recording.get_by_role("button", name="Record to the click").click()
    expect(recording.locator("#recorder .status")).to_have_text("Count-in: 4")
    expect(recording.locator("#recorder .status")).to_contain_text("too quiet")
