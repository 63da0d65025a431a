# SPDX-License-Identifier: Apache-2.0
"""k-means for the semantic tokenizer: a fair and bounded sample, and a recipe that can be resumed."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import HubertModel

import feature_clusters
import fit_kmeans
from corpus.karaoke import write_karaoke
from feature_clusters import Reservoir, SamplingOptions, sample_features
from hafm_hf import HAFMSemanticTokenizerModel
from hafm_hf.corpus.filtering import FilterOptions
from hafm_hf.corpus.stems import StemOptions, StemReader
from hafm_hf.corpus.tracks import HAFMCorpusError, SplitOptions, identify_tracks
from tiny_models import tiny_semantic_tokenizer


def test_the_reservoir_samples_a_long_stream_evenly_within_its_size() -> None:
    counts = np.zeros(40)
    for seed in range(600):
        reservoir = Reservoir(8, seed)
        for begin in range(0, 40, 7):
            reservoir.add(np.arange(begin, min(begin + 7, 40), dtype=np.float32)[:, None])
        assert reservoir.rows.shape == (8, 1)
        assert len(set(reservoir.rows[:, 0])) == 8
        assert reservoir.seen == 40
        counts[reservoir.rows[:, 0].astype(int)] += 1
    # 8 of 40 is a fifth, so 120 of 600; 4 standard deviations are 39
    assert np.abs(counts - 120).max() < 40


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two songs, of 3 s each, of four artists called a to d: a_0.wav, a_1.wav, b_2.wav, …"""
    folder = tmp_path_factory.mktemp("songs")
    write_karaoke(folder, 8, seconds=3.0)
    for number, song in enumerate(sorted(folder.iterdir())):
        song.rename(folder / f"{'abcd'[number // 2]}_{number}.wav")
    return folder


@pytest.mark.parametrize("separate", [False, True])
def test_the_recipe_fits_a_tokenizer_to_the_training_songs_only(
    songs: Path, tmp_path: Path, separate: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    HubertModel(tiny_semantic_tokenizer().config.hubert_config).save_pretrained(tmp_path / "hubert")
    splits = SplitOptions(validation=0.3, test=0.2, artist_pattern="^(.)_")
    groupings, _ = StemReader(StemOptions("right")).group([p.name for p in songs.iterdir()])
    tracks = identify_tracks(songs, groupings, {}, splits)[0]
    training = {track.name for track in tracks if track.split == "train"}
    assert 0 < len(training) < 8
    assert all(len([name for name in training if name[0] == artist]) in (0, 2) for artist in "abcd")
    fit_kmeans.main(
        songs, tmp_path / "out", str(tmp_path / "hubert"), layer=1, clusters=9, vocal_channel="right", frames=300,
        validation=0.3, test=0.2, artist_pattern="^(.)_", separate=separate,
    )  # fmt: skip
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads((tmp_path / "out/figures.json").read_text())
    assert figures["tracks"] == len(training)
    assert not list(tmp_path.glob("out/sample*"))
    for name in ("vocal_", "instrumental_") if separate else ("",):
        assert figures[f"{name}frames"] == 300 < figures[f"{name}frames_seen"]
        assert figures[f"{name}used_clusters"] > 4
    tokenizer = HAFMSemanticTokenizerModel.from_pretrained(tmp_path / "out")
    assert tokenizer.config.num_clusters == 9
    assert bool(tokenizer.centroids.any())
    assert tokenizer.config.separate_centroids == separate


def test_interrupted_sampling_resumes_exactly(songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_clusters, "SAVE_SECONDS", 0.0)
    tokenizer = tiny_semantic_tokenizer()
    separator = StemReader(StemOptions("right"))

    def sample(seed: int, state: Path | None, stop_after: int = 99) -> tuple[list[np.ndarray], list[int]]:
        """Samples features of eight songs, which can be interrupted and resumed.

        Args:
            seed: of the sample.
            state: file from which to resume, and in which progress is saved; None: there is none.
            stop_after: track after which a KeyboardInterrupt is raised.

        Returns:
            features of voices and of bands (float32 [100, width] each), and the numbers of tracks reported as done.
        """
        vocals = Reservoir(100, seed)
        bands = Reservoir(100, seed)
        seen = list[int]()

        def progress(done: int, total: int) -> None:
            """Notes the number of tracks done, and interrupts."""
            seen.append(done)
            if done == stop_after:
                raise KeyboardInterrupt

        used = sample_features(
            tokenizer, songs, separator, vocals, bands, SamplingOptions(segment_seconds=3.0, seed=seed),
            SplitOptions(validation=0, test=0), FilterOptions(), progress, state,
        )  # fmt: skip
        assert used == 8
        return [vocals.rows, bands.rows], seen

    whole, _ = sample(1, None)
    with pytest.raises(KeyboardInterrupt):
        sample(1, tmp_path / "sample.npz", stop_after=5)
    again, seen = sample(1, tmp_path / "sample.npz")
    # the fifth track had not been saved when its report was interrupted
    assert seen[0] == 5, "four tracks were saved"
    for rows, same in zip(whole, again, strict=True):
        np.testing.assert_array_equal(rows, same)
    with pytest.raises(HAFMCorpusError, match="begun with other songs, options or weights"):
        sample(2, tmp_path / "sample.npz")
