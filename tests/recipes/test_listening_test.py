# SPDX-License-Identifier: Apache-2.0
"""A blind listening test from folders of songs to scores: the page in a browser, answers, the hidden reference."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hafm_hf import audio
from listening_test import LEVEL_DBFS, page, score, scores
from space.serving import BROWSER_FLAGS, CHROMIUM
from vocals import glide

RATE = 24_000
# amplitudes of the versions
LEVELS = {"old": 0.05, "new": 0.4, "band": 0.2}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Three versions of two songs at different levels; the first version has one more song."""
    found = {name: tmp_path / name for name in LEVELS}
    for name, level in LEVELS.items():
        found[name].mkdir()
        for song in ["a.wav", "b.wav", *(["c.wav"] if name == "old" else [])]:
            soundfile.write(found[name] / song, glide(1.0, RATE, level), RATE)
        # as `hafm accompany` writes next to a song whose seed it drew
        (found[name] / "a_take_wav.json").write_text("{}")
    return found


def write_test(folders: dict[str, Path], test: Path) -> dict[str, Any]:
    """Makes a listening test of "old" and "new", with "band" as the hidden reference; returns its key."""
    page(test, [f"{name}={folders[name]}" for name in ("old", "new")], f"band={folders['band']}")
    key: dict[str, Any] = json.loads((test / "key.json").read_text())
    return key


def answer(key: dict[str, Any], **given: int) -> dict[str, Any]:
    """A listener's answers: for every song the given score, 0 to 100, of each version."""
    songs = key["songs"].items()
    return {"scores": {song: {code: given[name] for code, name in codes.items()} for song, codes in songs}}


def test_sounds_have_one_level_and_the_page_does_not_reveal_versions(folders: dict[str, Path], tmp_path: Path) -> None:
    key = write_test(folders, tmp_path / "test")
    assert key["songs"].keys() == {"a.wav", "b.wav"}
    assert key["reference"] == "band"
    sounds = list((tmp_path / "test" / "page" / "sounds").iterdir())
    # two songs: two versions, the reference, and the reference hidden among the versions
    assert len(sounds) == 2 * 4
    assert all(abs(audio.rms_dbfs(soundfile.read(sound)[0]) - LEVEL_DBFS) < 0.1 for sound in sounds)
    shown = (tmp_path / "test" / "page" / "index.html").read_text()
    assert not any(f'"{name}"' in shown or str(folder) in shown for name, folder in folders.items())
    right = [f"{name}={folders[name]}" for name in ("old", "new")]
    wrongs = ((right[:1], "two versions"), (["old", "new"], "as NAME=FOLDER"), (right, "is a finished test"))
    for wrong, said in wrongs:
        with pytest.raises(ValueError, match=said):
            page(tmp_path / "test", wrong)


def test_only_listeners_who_recognised_the_reference_are_scored(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = write_test(folders, tmp_path / "test")
    # old, new, band; the third listener takes the reference for the worst
    given = ((30, 60, 100), (40, 80, 95), (99, 1, 5))
    answers = [answer(key, old=old, new=new, band=band) for old, new, band in given]
    means = scores(key, answers)
    assert {name: each.value for name, each in means.items()} == {"band": 97.5, "new": 70.0, "old": 35.0}
    (tmp_path / "one.json").write_text(json.dumps(answers[0]))
    score(tmp_path / "test", [tmp_path / "one.json"])
    assert "new: 60.0" in capsys.readouterr().out
    with pytest.raises(ValueError, match="No listener recognised"):
        scores(key, answers[2:])
    with pytest.raises(ValueError, match="another test"):
        scores(key, [{"scores": {"a.wav": {"0": 1}}}])


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium; install Debian's package of that name")
def test_a_listener_can_switch_rate_go_back_and_save(folders: dict[str, Path], tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `dev`")
    key = write_test(folders, tmp_path / "test")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=BROWSER_FLAGS)
        shown = browser.new_page(accept_downloads=True)
        shown.goto((tmp_path / "test" / "page" / "index.html").as_uri())
        for number in (1, 2):
            assert shown.locator("#title").inner_text() == f"Song {number} of 2"
            assert shown.locator("#next").is_disabled()
            for name in ("Reference", "A", "C"):
                shown.get_by_role("button", name=name, exact=True).click()
            # one player at a time
            playing = "() => Object.values(players).map((player) => !player.paused).filter(Boolean).length"
            assert shown.evaluate(playing) == 1
            for place, name in enumerate("ABC"):
                shown.get_by_label(f"Score of {name}").fill(str(10 * number + place))
            if number == 1:
                shown.get_by_role("button", name="Next").click()
        shown.get_by_role("button", name="Back").click()
        assert [shown.get_by_label(f"Score of {name}").input_value() for name in "ABC"] == ["10", "11", "12"]
        shown.get_by_role("button", name="Next").click()
        with shown.expect_download() as download:
            shown.get_by_role("button", name="Save answers").click()
        given = json.loads(Path(download.value.path()).read_text())
        browser.close()
    assert given["scores"].keys() == key["songs"].keys()
    scores = sorted(value for each in given["scores"].values() for value in each.values())
    assert np.array_equal(scores, [10, 11, 12, 20, 21, 22])
    assert all(each.keys() == key["songs"][song].keys() for song, each in given["scores"].items())
