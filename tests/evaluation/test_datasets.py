# SPDX-License-Identifier: Apache-2.0
"""Evaluation sets in each of their layouts, and one-sentence errors for what is wrong with them."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hafm_hf.audio import HAFMAudioError
from hafm_hf.evaluation import datasets
from hafm_hf.evaluation.generating import RenderingOptions
from hafm_hf.evaluation.run import Evaluation, evaluate
from hafm_hf.evaluation.statistics import HAFMEvaluationError

RATE = 22050


def write(path: Path, seconds: float, channels: int = 1, rate: int = RATE, level: float = 0.1, seed: int = 0) -> Path:
    """Writes white noise with an RMS of `level`, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = level * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, sound, rate, subtype="PCM_16")
    return path


def test_pairs_in_folders_and_side_by_side_are_found_with_their_songs(tmp_path: Path) -> None:
    write(tmp_path / "a_0" / "vocal.flac", 3)
    write(tmp_path / "a_0" / "instrumental.flac", 3)
    (tmp_path / "a_0" / "labels.json").write_text(json.dumps({"song": "a"}))
    write(tmp_path / "deep" / "b_vocals.wav", 3)
    write(tmp_path / "deep" / "b_accompaniment.wav", 3)
    for name in ("vocals", "drums", "bass", "other"):
        write(tmp_path / "stems" / f"{name}.wav", 3)
    clips = datasets.load_pairs(tmp_path)
    assert [(clip.name, clip.song) for clip in clips] == [("a_0", "a"), ("deep__b", "deep__b"), ("stems", "stems")]
    assert all(clip.reference is not None for clip in clips)
    (tmp_path / "a_0" / "labels.json").write_text("[1]")
    with pytest.raises(HAFMEvaluationError, match="labels.json is not a JSON object"):
        datasets.load_pairs(tmp_path)


def test_vocals_alone_are_a_set_but_partial_references_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "vocal.wav", 2)
    write(tmp_path / "b" / "vocal.wav", 2)
    assert [clip.reference for clip in datasets.load_pairs(tmp_path)] == [None, None]
    write(tmp_path / "b" / "instrumental.wav", 2)
    with pytest.raises(HAFMEvaluationError, match=r"1 of 2 vocals .* lack their instrumental \(a "):
        datasets.load_pairs(tmp_path)
    with pytest.raises(HAFMEvaluationError, match="not a folder"):
        datasets.load_pairs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HAFMEvaluationError, match="holds no pairs"):
        datasets.load_pairs(tmp_path / "empty")


# instrumentals by their vocals
SEPARATED = {
    "1_a_(Vocals).wav": "1_a_(Instrumental).wav",
    "b_vocals_mdx.wav": "b_no_vocals_mdx.wav",
    "Vocals - c.wav": "Instrumental - c.wav",
    "d/vocals (1).wav": "d/accompaniment (1).wav",
}


def test_pairs_are_found_as_separators_name_them(tmp_path: Path) -> None:
    for vocal, instrumental in SEPARATED.items():
        write(tmp_path / vocal, 2)
        write(tmp_path / instrumental, 2)
    clips = datasets.load_pairs(tmp_path)
    paired = {clip.vocal.path: clip.reference and clip.reference.path for clip in clips}
    assert paired == {tmp_path / vocal: tmp_path / instrumental for vocal, instrumental in SEPARATED.items()}
    assert [clip.name for clip in clips] == ["1_a", "b_mdx", "c", "d (1)"]


def test_files_that_belong_to_no_pair_are_listed_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a/vocals", "a/accompaniment", "a/no_vocals", "a/mixture", "mix", "1_b_(Instrumental)"):
        write(tmp_path / f"{name}.wav", 2)
    assert [clip.name for clip in datasets.load_pairs(tmp_path)] == ["a"]
    (said,) = caplog.messages
    assert said.startswith(f"3 files of {tmp_path} left out: ")
    for reason in (
        "1_b_(Instrumental).wav has no vocal beside it",
        "a/no_vocals.wav has the same role as a/accompaniment.wav",
        "mix.wav is not named as a vocal or an instrumental",
    ):
        assert reason in said


def test_a_folder_without_pairs_says_why_each_file_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "mix.wav", 2)
    write(tmp_path / "b_(Instrumental).wav", 2)
    with pytest.raises(
        HAFMEvaluationError, match=r"b_\(Instrumental\).wav has no vocal beside it, mix.wav is not named"
    ):
        datasets.load_pairs(tmp_path)


def test_outputs_are_found_as_separators_name_them(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "set" / name / "vocal.wav", 2)
    clips = datasets.load_pairs(tmp_path / "set")
    for name in ("a_(Instrumental)", "Instrumental - b", "c_mdx"):
        write(tmp_path / "out" / f"{name}.wav", 2)
    with pytest.raises(HAFMEvaluationError, match="lacks 1 of 3 accompaniments, c.wav first"):
        datasets.find_outputs(tmp_path / "out", clips)
    write(tmp_path / "out" / "c" / "no_vocals.wav", 2)
    outputs = datasets.find_outputs(tmp_path / "out", clips)
    assert {name: part.path.name for name, part in outputs.items()} == {
        "a": "a_(Instrumental).wav", "b": "Instrumental - b.wav", "c": "no_vocals.wav"
    }  # fmt: skip


def test_the_karaoke_channels_are_vocal_and_reference(tmp_path: Path) -> None:
    sound = np.stack([np.full(RATE * 2, 0.25), np.full(RATE * 2, -0.5)], axis=1)
    soundfile.write(tmp_path / "anna_3_07.wav", sound, RATE)
    (clip,) = datasets.load_karaoke(tmp_path)
    assert clip.song == "anna_3"
    (tmp_path / "more").mkdir()
    soundfile.write(tmp_path / "more" / "anna_3_07.wav", sound, RATE)
    assert {each.name for each in datasets.load_karaoke(tmp_path)} == {"anna_3_07", "more__anna_3_07"}
    assert clip.reference is not None
    assert clip.vocal.read()[0].mean() == pytest.approx(-0.5, abs=1e-3)
    assert clip.reference.read()[0].mean() == pytest.approx(0.25, abs=1e-3)
    soundfile.write(tmp_path / "anna_3_07.flac", sound, RATE)
    with pytest.raises(HAFMEvaluationError, match=r"1 names are of two files each \(anna_3_07"):
        datasets.cut_clips(datasets.load_karaoke(tmp_path), None)
    write(tmp_path / "mono_1_01.wav", 2)
    with pytest.raises(HAFMEvaluationError, match="mono_1_01.wav has 1 channel"):
        datasets.load_karaoke(tmp_path)


def test_a_pair_is_cut_to_its_shorter_part_and_unequal_lengths_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "vocal.wav", 4.0)
    write(tmp_path / "a" / "instrumental.wav", 3.5, channels=2, rate=48000)
    (clip,) = datasets.cut_clips(datasets.load_pairs(tmp_path), None)
    assert clip.reference is not None
    for part in (clip.vocal, clip.reference):
        samples, rate = part.read()
        assert len(samples) / rate == 3.5
    write(tmp_path / "a" / "instrumental.wav", 2.0)
    with pytest.raises(HAFMEvaluationError, match=r"vocal 4.00 s, reference 2.00 s"):
        datasets.cut_clips(datasets.load_pairs(tmp_path), None)


def test_clips_are_cut_at_every_hop_spread_over_the_set_and_left_out_if_silent(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "vocal.wav", 7)
        write(tmp_path / name / "instrumental.wav", 7)
    clips = datasets.cut_clips(datasets.load_pairs(tmp_path), 2.0, 2.5)
    assert [clip.name for clip in clips] == ["a@0", "a@2.5", "a@5", "b@0", "b@2.5", "b@5"]
    assert [clip.name for clip in datasets.spread(clips, 3)] == ["a@0", "a@5", "b@2.5"]
    assert datasets.spread(clips, None) == clips
    for seconds, hop in ((2.0, 0.0), (None, 2.0)):
        with pytest.raises(HAFMEvaluationError, match="cannot be cut"):
            datasets.cut_clips(clips, seconds, hop)
    write(tmp_path / "quiet" / "loud" / "vocal.wav", 2)
    write(tmp_path / "quiet" / "quiet" / "vocal.wav", 2, level=0.001)
    assert [clip.name for clip in datasets.sung_clips(datasets.load_pairs(tmp_path / "quiet"))] == ["loud"]


def test_outputs_are_found_by_clip_or_by_song_and_missing_ones_counted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "set" / name / "vocal.wav", 4)
    clips = datasets.cut_clips(datasets.load_pairs(tmp_path / "set"), 2.0)
    write(tmp_path / "out" / "a.wav", 4)
    write(tmp_path / "out" / "b@0_instrumental.wav", 2)
    with pytest.raises(HAFMEvaluationError, match="lacks 1 of 4 accompaniments, b@2.wav"):
        datasets.find_outputs(tmp_path / "out", clips)
    write(tmp_path / "out" / "b@2" / "instrumental.wav", 2)
    outputs = datasets.find_outputs(tmp_path / "out", clips)
    assert (outputs["a@2"].start, outputs["a@2"].path.name) == (2.0, "a.wav")
    assert outputs["b@0"].start == 0.0


@pytest.mark.parametrize("name", ["reference", "random retrieval", "silence", "hafm-tiny"])
def test_a_system_named_like_a_baseline_or_the_model_is_refused(tmp_path: Path, name: str) -> None:
    clip = datasets.Clip("a", "a", datasets.Part(write(tmp_path / "a.wav", 2)))
    with pytest.raises(HAFMEvaluationError, match=f"'{name}' is the model's name or a baseline's"):
        evaluate(Evaluation((clip,), tmp_path / "out", RenderingOptions("hafm-tiny/x/.."), {name: (Path(),)}))
    with pytest.raises(HAFMEvaluationError, match=r"Two sets of outputs would be 'a \(1\)'"):
        evaluate(Evaluation((clip,), tmp_path / "out", None, {"a": (tmp_path, tmp_path), "a (1)": (tmp_path,)}))


def test_a_channel_of_a_sound_without_samples_is_empty(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2), np.float32), RATE)
    samples, rate = datasets.Part(tmp_path / "empty.wav", channel=1).read()
    assert samples.shape == (0,)
    assert rate == RATE


def test_damaged_missing_and_nan_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HAFMAudioError, match="does not exist"):
        datasets.Part(tmp_path / "nothing.wav").read()
    (tmp_path / "text.wav").write_text("not a sound")
    for read in (datasets.Part(tmp_path / "text.wav").read, lambda: datasets.load_karaoke(tmp_path)):
        with pytest.raises(HAFMAudioError, match=r"text.wav is not audio"):
            read()
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    with pytest.raises(HAFMAudioError, match="NaN"):
        datasets.Part(tmp_path / "nan.wav").read()
    write(tmp_path / "mono.wav", 1)
    with pytest.raises(HAFMAudioError, match="1 channel"):
        datasets.Part(tmp_path / "mono.wav", channel=1).read()
