# SPDX-License-Identifier: Apache-2.0
"""The pipeline: every kind of input, songs as long as their vocals, loaded with and without hafm_hf imported."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import hafm_hf
from hafm_hf import audio
from hafm_hf.accompaniment.pipeline_hafm import unwrapped
from hafm_hf.computing import drawn_seed, seeded_torch
from programs import run_program
from vocals import CODEC_RATE, file_bytes, glide


@pytest.fixture(scope="module")
def song(accompany: Any) -> dict[str, Any]:
    """What the pipeline returns for `glide()` with seed 1."""
    return accompany(glide(), sampling_rate=CODEC_RATE, seed=1)


def test_song_is_as_long_as_the_vocal_and_does_not_clip(song: dict[str, Any]) -> None:
    assert song["sampling_rate"] == CODEC_RATE
    for key in ("audio", "mix", "vocals"):
        assert song[key].dtype == np.float32
        assert song[key].shape == glide().shape
        assert 0.0 < np.abs(song[key]).max() < 1.0
    assert np.array_equal(song["vocals"], glide())


def test_mix_is_the_sum_of_its_parts(song: dict[str, Any]) -> None:
    sum_of_both = audio.mix_audio(song["vocals"], song["audio"])
    assert np.allclose(song["mix"], audio.fade_edges(sum_of_both, CODEC_RATE), atol=1e-6)


@pytest.mark.parametrize(("length", "rate"), [(44_117, 44_100), (8_003, 8_000), (100_001, 96_000)])
def test_song_output_has_input_length_at_any_rate(accompany: Any, length: int, rate: int) -> None:
    vocal = glide(2.0, rate)[:length]
    song = accompany({"array": np.stack([vocal, vocal], axis=1), "sampling_rate": rate}, seed=1, skip_fine=True)
    # samples at the vocal's own rate, or the model's if that is higher
    expected = max(length, round(length * 24_000 / rate))
    assert song["audio"].shape == (expected,)
    assert song["mix"].shape == song["vocals"].shape == (expected, 2)
    assert song["sampling_rate"] == max(rate, 24_000)


def test_every_kind_of_input_is_the_same_vocal(accompany: Any, tmp_path: Path) -> None:
    sixteen_bit = np.round(glide() * 32768).astype(np.int16)
    content = file_bytes(sixteen_bit)
    path = tmp_path / "vocal.wav"
    path.write_bytes(content)
    expected = accompany.preprocess(path)["prepared"].samples
    assert np.allclose(expected, audio.resample(glide(), CODEC_RATE, 16_000), atol=1e-4)
    kinds: list[Any] = [
        str(path),
        content,
        memoryview(content),
        {"array": sixteen_bit, "sampling_rate": CODEC_RATE},
        {"raw": sixteen_bit / 32768, "sampling_rate": CODEC_RATE},
        {"bytes": content, "path": None},
        {"bytes": None, "path": str(path)},
    ]
    for kind in kinds:
        assert np.array_equal(accompany.preprocess(kind)["prepared"].samples, expected), kind
    with path.open("rb") as file:
        assert np.array_equal(accompany.preprocess(file)["prepared"].samples, expected)
    for array in (sixteen_bit, torch.from_numpy(sixteen_bit), (sixteen_bit / 32768).tolist()):
        assert np.array_equal(accompany.preprocess(array, sampling_rate=CODEC_RATE)["prepared"].samples, expected)


def test_a_list_gives_the_same_songs_as_single_calls_at_any_batch_size(accompany: Any, song: dict[str, Any]) -> None:
    vocals = [{"array": glide(1.0), "sampling_rate": CODEC_RATE}, {"array": glide(), "sampling_rate": CODEC_RATE}]
    for batch_size in (1, 2):
        songs = accompany(vocals, seed=1, batch_size=batch_size)
        assert [each["audio"].shape[0] for each in songs] == [24_000, 28_800]
        assert np.array_equal(songs[1]["audio"], song["audio"])
    assert accompany([]) == []


def test_the_instrumental_of_an_earlier_song_is_kept(accompany: Any, song: dict[str, Any]) -> None:
    known = {"sampling_rate": CODEC_RATE, "instrumental": song, "keep": [(0.0, 0.5)]}
    regenerated = accompany(glide(), seed=2, **known)
    # most of the first 0.5 s, 12,000 samples
    assert np.allclose(regenerated["audio"][:11_000], song["audio"][:11_000], atol=1e-4)
    with pytest.raises(ValueError, match="belongs to one vocal, and 2"):
        accompany([glide(), glide()], **known)


def test_seconds_limits_the_vocal_to_its_start(accompany: Any) -> None:
    sounds = accompany.preprocess(file_bytes(glide(3.0), subtype="FLOAT"), seconds=1.1)
    assert np.array_equal(sounds["vocal"], glide(3.0)[: round(1.1 * CODEC_RATE)])
    # 1.1 s at 16 kHz
    assert sounds["prepared"].samples.shape == (17_600,)


def test_unknown_parameters_and_those_without_effect_are_refused(accompany: Any) -> None:
    with pytest.raises(TypeError, match="guidance_scale"):
        accompany(glide(), sampling_rate=CODEC_RATE, guidance=3.0)
    with pytest.raises(ValueError, match="give the instrumental"):
        accompany(glide(), sampling_rate=CODEC_RATE, keep=[(0, 1)])


def test_options_of_a_call_take_precedence_over_those_of_the_pipeline(tiny_model: Path, song: dict[str, Any]) -> None:
    defaults = {"seed": 1, "vocal_gain_db": -12.0}
    with_defaults = transformers.pipeline("vocal-accompaniment", model=str(tiny_model), device="cpu", **defaults)
    vocal = {"array": glide(), "sampling_rate": CODEC_RATE}
    assert np.array_equal(with_defaults(vocal)["audio"], song["audio"])
    assert not np.allclose(with_defaults(vocal)["mix"], song["mix"])
    assert np.array_equal(with_defaults(vocal, vocal_gain_db=0.0)["mix"], song["mix"])
    assert not np.array_equal(with_defaults(vocal, seed=2)["audio"], song["audio"])


def test_a_stream_obeys_options_of_the_pipeline_and_of_the_call(tiny_model: Path) -> None:
    defaults = {"seed": 1, "skip_fine": True, "seconds": 1.0, "sampling_rate": CODEC_RATE, "tail": 0.5}
    with_defaults = transformers.pipeline(
        "vocal-accompaniment", model=str(tiny_model), device="cpu", balance=3.0, **defaults
    )
    for given in ({}, {"seed": 2, "tail": 0.0, "files": False}):
        streamed = np.concatenate([chunk["audio"] for chunk in with_defaults.stream(glide(), **given)])
        whole = with_defaults(glide(), balance=0.0, **given)["audio"]
        assert np.allclose(audio.turned_down(streamed), whole, atol=1e-5), given
    joined = with_defaults.join(list(with_defaults.stream(glide())))
    assert np.allclose(joined["mix"], with_defaults(glide())["mix"], atol=1e-4)
    with pytest.raises(ValueError, match="beats is 'absent.txt'; give seconds"):
        next(with_defaults.stream(glide(), beats="absent.txt", files=False))
    for useless in ({"loudness": -16.0}, {"keep": [(0.0, 0.5)]}):
        with pytest.raises(TypeError, match=f"A stream has no use for '{next(iter(useless))}'"):
            next(with_defaults.stream(glide(), **useless))


def test_lead_sheet_options_of_a_call_join_the_pipelines(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_defaults = transformers.pipeline("vocal-accompaniment", model=str(tiny_model), lead_sheet={"key": "Am"})
    _, known, _ = with_defaults._sanitize_parameters(tempo=np.float32(92))
    assert known["lead_sheet"] == hafm_hf.LeadSheet(tempo=92.0, key="A:min")
    with_defaults(glide(), sampling_rate=CODEC_RATE)
    assert "The key changes no chords" in caplog.text
    closed = transformers.pipeline("vocal-accompaniment", model=str(tiny_model), files=False)
    with pytest.raises(ValueError, match="beats is 'absent.txt'; give seconds"):
        closed(glide(), sampling_rate=CODEC_RATE, beats="absent.txt")


def test_a_lead_sheet_given_as_a_dict_is_checked(accompany: Any) -> None:
    vocal = {"array": glide(), "sampling_rate": CODEC_RATE}
    for known, said in (
        ({"tempo": 92}, "no beat line"),
        ({"mood": "calm"}, "lead_sheet has no .mood."),
        (["C"], "lead_sheet is a list; give a LeadSheet or a dict"),
    ):
        with pytest.raises(ValueError, match=said):
            accompany(vocal, lead_sheet=known)
        with pytest.raises(ValueError, match=said):
            next(accompany.stream(vocal, lead_sheet=known))


def test_saved_pipeline_loads_without_trusting_code(accompany: Any, song: dict[str, Any], tmp_path: Path) -> None:
    accompany.save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    loaded = transformers.pipeline("vocal-accompaniment", model=str(tmp_path), device="cpu")
    assert np.array_equal(loaded(glide(), sampling_rate=CODEC_RATE, seed=1)["audio"], song["audio"])


def test_without_importing_hafm_hf_remote_code_is_enough(
    tiny_model: Path, song: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "vocal.wav").write_bytes(file_bytes(glide(), subtype="FLOAT"))
    script = f"""
import numpy, sys, transformers
assert "hafm_hf" not in sys.modules
transformers.dynamic_module_utils.HF_MODULES_CACHE = "modules"
model = {str(tiny_model)!r}
accompany = transformers.pipeline("vocal-accompaniment", model=model, trust_remote_code=True, device="cpu")
numpy.save("song.npy", accompany("vocal.wav", seed=1)["audio"])
"""
    run_program([sys.executable, "-c", script], cwd=tmp_path, fresh=True, check=True)
    assert np.allclose(np.load(tmp_path / "song.npy"), song["audio"], atol=1e-6)


def test_the_bundled_model_is_the_default_and_loads_without_warning_or_progress_bar(bundled_model: Path) -> None:
    accompany = transformers.pipeline("vocal-accompaniment", device="cpu")
    assert Path(accompany.model.name_or_path) == bundled_model
    song = accompany(glide(), sampling_rate=CODEC_RATE, seed=1)
    assert song["audio"].shape == (len(glide()) * song["sampling_rate"] // CODEC_RATE, 2)
    assert audio.rms_dbfs(song["audio"]) > -40.0
    script = "import hafm_hf, transformers; transformers.pipeline('vocal-accompaniment', device='cpu')"
    done = run_program([sys.executable, "-c", script], fresh=True, check=True)
    assert "No model was supplied" not in done.stderr, done.stderr
    assert "Loading weights" not in done.stderr, done.stderr


def test_streamed_chunks_are_the_song(accompany: Any) -> None:
    vocal = {"array": glide(3.5), "sampling_rate": CODEC_RATE}
    chunks = list(accompany.stream(vocal, seed=1))
    assert len(chunks) > 1
    whole = accompany(vocal, seed=1)
    assert np.array_equal(np.concatenate([chunk["vocals"] for chunk in chunks]), whole["vocals"])
    together = np.concatenate([chunk["audio"] for chunk in chunks])
    assert np.allclose(audio.turned_down(together), whole["audio"], atol=1e-5)
    with pytest.raises(ValueError, match="num_samples is 2; a stream is one sample"):
        next(accompany.stream(vocal, num_samples=2))
    with pytest.raises(ValueError, match="A stream takes one vocal, and 2 were given"):
        next(accompany.stream([vocal["array"]] * 2, sampling_rate=CODEC_RATE))
    assert np.array_equal(next(accompany.stream((vocal,), seed=1))["audio"], chunks[0]["audio"])


def test_the_rate_beside_nested_audio_is_used() -> None:
    sound = glide(1.0, 32_000)
    named = {"audio": sound, "sampling_rate": 32_000}
    assert unwrapped(named)[1] == unwrapped(named, 44_100)[1] == 32_000
    inner = {"vocal": {"array": sound, "sampling_rate": 16_000}, "sampling_rate": 32_000}
    assert unwrapped(inner)[1] == 16_000
    assert unwrapped({"audio": sound}, 44_100)[1] == 44_100


def test_seeds_drawn_while_another_thread_generates_differ() -> None:
    cpu = torch.device("cpu")
    before = torch.get_rng_state()
    drawn = []
    begun = threading.Event()
    ends = threading.Event()

    def generate() -> None:
        """Holds torch's generators, seeded, until `ends`."""
        with seeded_torch(cpu, 1, None):
            begun.set()
            ends.wait(60)

    for _ in range(3):
        begun.clear()
        ends.clear()
        thread = threading.Thread(target=generate)
        thread.start()
        begun.wait(60)
        drawn.append(drawn_seed())
        with seeded_torch(cpu, 2, None):
            # ends first, and must not leave this block's state behind
            ends.set()
            thread.join()
    assert len(set(drawn)) == 3
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    first = drawn_seed()
    torch.manual_seed(5)
    assert drawn_seed() == first
