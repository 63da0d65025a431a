# SPDX-License-Identifier: Apache-2.0
"""`/accompany`, called over HTTP as by a program; and the files that the process leaves on disk."""

import os
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import soundfile

from hafm_hf import audio
from hafm_hf.accompaniment.options import GenerationOptions, options_by_name
from hafm_hf.lead_sheet.vocabulary import STEMS
from readme import blocks
from space.serving import MAX_SECONDS, PATIENCE_SECONDS, Space, served
from vocals import file_bytes, glide

gradio_client = pytest.importorskip("gradio_client", reason="needs the extra `space`")


@pytest.fixture(scope="module")
def client(space: Space, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gradio_client.Client of the Space, which downloads what it is answered."""
    return gradio_client.Client(space.url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def accompany(client: Any, vocal: Path, **options: object) -> tuple[str, str, str, dict]:
    """Generates without the fine stage, and waits; returns paths of mix, instrumental and stems, and the report."""
    handle = gradio_client.handle_file(str(vocal))
    return client.predict(handle, skip_fine=True, api_name="/accompany", **options)


def test_the_endpoint_is_documented_and_takes_the_pipelines_options(client: Any) -> None:
    (name, endpoint), *others = client.view_api(return_format="dict")["named_endpoints"].items()
    assert name == "/accompany"
    assert not others
    assert "singing voice" in endpoint["description"]
    names = [each["parameter_name"] for each in endpoint["parameters"]]
    rows = options_by_name(GenerationOptions).items()
    options = [name for name, option in rows if not option.internal and name != "num_samples"]
    assert names[:2] == ["vocal", "model"]
    assert names[2 : 2 + len(options)] == options
    ends = ["intro_bars", "outro_bars", "tail"]
    assert names[2 + len(options) :] == ["seconds", "tempo", *ends, "lead_sheet", "instrumental_gain_db"]
    assert [each["parameter_has_default"] for each in endpoint["parameters"]] == [name != "vocal" for name in names]


def test_the_documented_example_works(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block.text for block in blocks("space/README.md") if "gradio_client" in block.text]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vocal.wav").write_bytes(file_bytes(glide(1.0)))
    scope: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:7860", space.url), scope)
    assert soundfile.info(scope["mix"]).frames == 44_100
    assert scope["report"]["seed"] == 1


def test_songs_are_as_long_as_the_vocal_and_reproducible_by_seed(client: Any, voices: Path) -> None:
    options = {"seed": 3, "seconds": 1.0, "style": "rock", "energy": "sparse", "stems": True}
    mix, instrumental, stems, report = accompany(client, voices / "song.wav", **options)
    # at the voice's own rate
    assert soundfile.info(mix).frames == soundfile.info(instrumental).frames == 44_100
    parts = ("instrumental", *STEMS)
    with zipfile.ZipFile(stems) as archive:
        first = archive.read("song_instrumental.wav")
        assert archive.namelist() == ["song_vocal.wav", *(f"song_{part}.wav" for part in parts)]
        assert first == Path(instrumental).read_bytes()
    assert report["seed"] == 3
    assert report["elapsed"] > 0
    again = accompany(client, voices / "song.wav", **options, instrumental_gain_db=-12)
    assert Path(again[1]).read_bytes() == first
    # the mixes differ, as the band is quieter in the second
    quieter, _ = audio.read_audio(again[0])
    louder, _ = audio.read_audio(mix)
    assert audio.rms_dbfs(quieter - louder) > -60.0


@pytest.mark.fault("paths and addresses sent to a Space")
def test_invalid_requests_are_refused_in_a_sentence_not_a_traceback(space: Space, client: Any, voices: Path) -> None:
    before = (space.temporary / "log.txt").read_text()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"vocal": "silent.wav"}, "silent.wav is silent; check the microphone"),
        ({"vocal": "short.wav"}, "short.wav is 0.3 s long; HAFM needs at least 1 s"),
        ({"vocal": "long.wav"}, f"long.wav is longer than {MAX_SECONDS} s; cut it, or set Seconds"),
        ({"vocal": "notes.wav"}, "notes.wav is not audio that HAFM can read"),
        ({"style": "polka"}, "no style 'polka'; it has ballad, folk"),
        ({"instrumental_gain_db": 99}, "instrumental_gain_db is 99; it must be between"),
        ({"seed": -1}, "seed is -1; it must be between 0 and 9223372036854775807"),
        ({"lead_sheet": {"tones": 1}}, "lead_sheet|0.1 s apart"),
        ({"lead_sheet": {"beats": [0.0, 1e-6]}}, "lead_sheet|0.1 s apart"),
        ({"lead_sheet": [1]}, "lead_sheet|0.1 s apart"),
        # folders on the server cannot be used as models
        *(({"model": model}, "There is no model") for model in ("/etc", "../models/tiny", "a/b")),
    ]
    for given, message in cases:
        vocal = voices / given.pop("vocal", "song.wav")
        with pytest.raises(gradio_client.exceptions.AppError, match=message):
            accompany(client, vocal, **given)
    assert "Traceback" not in (space.temporary / "log.txt").read_text()[len(before) :]


@pytest.mark.fault("files left behind by a Space")
def test_songs_expire_and_a_terminated_process_leaves_no_file(tiny_model: Path, voices: Path, tmp_path: Path) -> None:
    with served(str(tiny_model), tmp_path, HAFM_SPACE_KEEP_SECONDS="20") as space:
        client = gradio_client.Client(space.url, verbose=False, download_files=tmp_path / "downloads")
        accompany(client, voices / "song.wav", seconds=1.0)
        (folder,) = tmp_path.glob("hafm_space_*")
        # files expire 20 s after their last use
        deadline = time.monotonic() + PATIENCE_SECONDS
        assert any(path.is_file() for path in folder.rglob("*"))
        while len(list(folder.iterdir())) > 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        # the lock says that the process lives
        assert [path.name for path in folder.iterdir()] == [".lock"], "songs, uploads or their folders remain"
        accompany(client, voices / "song.wav", seconds=1.0)
        os.kill(space.process.pid, signal.SIGTERM)
        assert space.process.wait(PATIENCE_SECONDS) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["downloads", "log.txt"]
