# SPDX-License-Identifier: Apache-2.0
"""MUSDB18 as distributed: folders of stems, or files that ffmpeg unpacks; vocals separated by demucs."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpus.karaoke import save_demucs
from hafm_hf.cli.evaluate import EvaluationSet, clip_set
from hafm_hf.evaluation.musdb18 import PUBLISHED, STEMS, load_musdb18
from hafm_hf.evaluation.statistics import HAFMEvaluationError

RATE = 44_100


def write_song(folder: Path, seed: int) -> dict[str, np.ndarray]:
    """Writes two-second stereo stems (float64 [N, 2]) in the layout of MUSDB18-HQ, and returns them."""
    folder.mkdir(parents=True)
    times = np.arange(2 * RATE)[:, None] / RATE
    # all but the mixture, which is their sum
    parts = {}
    for index, name in enumerate(STEMS[1:], 1):
        tone = 0.1 * np.sin(2 * np.pi * 220 * (seed + index) * times)
        parts[name] = np.repeat(tone, 2, axis=1)
    stems = {"mixture": sum(parts.values(), np.zeros((2 * RATE, 2))), **parts}
    for name, sound in stems.items():
        soundfile.write(folder / f"{name}.wav", sound, RATE)
    return stems


def test_stems_are_summed_and_vocals_are_separated_once(tmp_path: Path) -> None:
    stems = write_song(tmp_path / "MUSDB18/test/Band - Song", 1)
    write_song(tmp_path / "MUSDB18/train/Other - Song", 2)
    save_demucs(tmp_path)
    command = f"demucs {{mix}} -n tiny --repo '{tmp_path}' -d cpu --shifts 0 --two-stems vocals -o {{folder}}"
    (clip,) = load_musdb18(tmp_path / "MUSDB18", tmp_path / "out", command)
    assert clip.name == "Band - Song"
    assert clip.reference is not None
    assert clip.separated is not None
    instrumental = (stems["drums"] + stems["bass"] + stems["other"]).mean(axis=1)
    np.testing.assert_allclose(clip.reference.read()[0], instrumental, atol=1e-4)
    np.testing.assert_allclose(clip.vocal.read()[0], stems["vocals"].mean(axis=1), atol=1e-4)
    separated = clip.separated.read()[0]
    assert np.abs(separated).max() > 0
    # nothing is left to separate, so the command does not run
    assert load_musdb18(tmp_path / "MUSDB18", tmp_path / "out", "no such program") == [clip]
    clip_set(EvaluationSet(("musdb18", tmp_path / "MUSDB18"), "cp {mix} {folder}/vocals.wav"), tmp_path / "report")
    with pytest.raises(HAFMEvaluationError, match="false failed on"):
        clip_set(EvaluationSet(("musdb18", tmp_path / "MUSDB18"), "false {mix}"), tmp_path / "report")


def test_stem_files_with_five_streams_are_unpacked(tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    stems = write_song(tmp_path / "stems", 1)
    (tmp_path / "test").mkdir()
    inputs = [word for name in STEMS for word in ("-i", str(tmp_path / f"stems/{name}.wav"))]
    streams = [word for number in range(5) for word in ("-map", f"{number}:a")]
    packed = tmp_path / "test/Band - Song.stem.mp4"
    subprocess.run(["ffmpeg", "-v", "error", *inputs, *streams, "-c:a", "aac", "-f", "mp4", packed], check=True)
    (clip,) = load_musdb18(tmp_path, tmp_path / "out", "none")
    assert clip.separated is None
    assert clip.reference is not None
    for part, names in ((clip.vocal, ["vocals"]), (clip.reference, ["drums", "bass", "other"])):
        wanted = sum(stems[name] for name in names).mean(axis=1)  # type: ignore[union-attr]
        found = part.read()[0]
        assert np.corrcoef(found[RATE // 2 : RATE], wanted[RATE // 2 : RATE])[0, 1] > 0.95


def test_incomplete_sets_and_failed_separation_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(HAFMEvaluationError, match="holds no song of MUSDB18"):
        load_musdb18(tmp_path, tmp_path / "out", "none")
    write_song(tmp_path / "test/Band - Song", 1)
    with pytest.raises(HAFMEvaluationError, match="nowhere is not installed"):
        load_musdb18(tmp_path, tmp_path / "out", "nowhere {mix}")
    with pytest.raises(HAFMEvaluationError, match="demucs failed on .*mixture.wav"):
        load_musdb18(tmp_path, tmp_path / "out", "demucs {mix} -n {tiny} --repo /nowhere -o {folder}")
    assert not list((tmp_path / "out/separated").iterdir())
    (tmp_path / "test/Band - Song/bass.wav").unlink()
    with pytest.raises(HAFMEvaluationError, match="bass.wav is missing"):
        load_musdb18(tmp_path, tmp_path / "out", "none")
    assert PUBLISHED["HAFM-Base"] == (2.08, 2.30, 0.33)
    assert PUBLISHED["SingSong-XL"] == (1.28, 0.96, 0.32)
