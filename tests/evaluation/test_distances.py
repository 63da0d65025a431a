# SPDX-License-Identifier: Apache-2.0
"""Fréchet and kernel distance against values computed by hand, and VGGish against torchvggish."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from corpus.karaoke import save_embedder
from hafm_hf.evaluation import vggish
from hafm_hf.evaluation.distances import (
    density_and_coverage,
    fit_gaussian,
    frechet_audio_distance,
    frechet_distance,
    kernel_audio_distance,
    prompt_adherence,
)
from hafm_hf.evaluation.embedders import EmbedderOptions, VGGishEmbedder, make_embedder
from hafm_hf.evaluation.statistics import HAFMEvaluationError, bootstrap_mean, other_song_partners


def test_frechet_distance_of_known_gaussians_is_exact() -> None:
    # for covariances with the same axes, the distance is |μ₁ − μ₂|² + Σ (σ₁ − σ₂)²
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))
    # standard deviations along these axes
    first = np.array([1.0, 2.0, 3.0, 4.0, 0.5])
    second = np.array([2.0, 2.0, 1.0, 0.1, 0.5])
    shift = np.array([0.3, -0.2, 0.0, 1.0, 0.0])
    gaussians = [
        (mean, rotation @ np.diag(scale**2) @ rotation.T) for mean, scale in ((np.zeros(5), first), (shift, second))
    ]
    expected = shift @ shift + ((first - second) ** 2).sum()
    assert frechet_distance(*gaussians) == pytest.approx(expected, abs=1e-9)


def test_too_few_nan_and_unequal_embeddings_are_refused() -> None:
    with pytest.raises(HAFMEvaluationError, match="128 embeddings of width 128 are too few"):
        fit_gaussian(np.zeros((128, 128)))
    with pytest.raises(HAFMEvaluationError, match="NaN"):
        fit_gaussian(np.full((9, 3), np.nan))
    with pytest.raises(HAFMEvaluationError, match="width 3 and 4"):
        frechet_distance(fit_gaussian(np.eye(9, 3)), fit_gaussian(np.eye(9, 4)))


def test_kernel_distance_equals_the_unbiased_estimator() -> None:
    generator = np.random.default_rng(4)
    first = generator.standard_normal((7, 3))
    second = generator.standard_normal((5, 3)) + 0.5

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        """The Gaussian kernel of two embeddings, with a bandwidth of 1.3."""
        return float(np.exp(-((x - y) ** 2).sum() / (2 * 1.3**2)))

    # pairs of an embedding with itself do not count
    within_first = np.mean([kernel(x, y) for i, x in enumerate(first) for j, y in enumerate(first) if i != j])
    within_second = np.mean([kernel(x, y) for i, x in enumerate(second) for j, y in enumerate(second) if i != j])
    between = np.mean([kernel(x, y) for x in first for y in second])
    expected = 1000 * (within_first + within_second - 2 * between)
    assert kernel_audio_distance(first, second, 1.3) == pytest.approx(expected, rel=1e-9)


def test_density_and_coverage_count_the_balls_around_the_reference() -> None:
    # on a line, with two neighbours each: radii 2, 1, 1, 2 and, far away, 97
    reference = np.array([[0.0], [1.0], [2.0], [3.0], [100.0]])
    evaluated = np.array([[1.5], [1.6], [50.0]])
    density, coverage = density_and_coverage(reference, evaluated, neighbours=2)
    # 1.5 and 1.6 lie in the first four balls, 50 in the last one's
    assert density == pytest.approx((4 + 4 + 1) / (2 * 3))
    assert coverage == 1.0


def test_density_and_coverage_of_alike_narrow_and_distant_sets() -> None:
    generator = np.random.default_rng(1)
    reference = generator.standard_normal((800, 4))
    density, coverage = density_and_coverage(reference, generator.standard_normal((800, 4)))
    # the paper's expectation for equal distributions and k = 5 neighbours: density 1, coverage 1 − 2⁻ᵏ
    assert density == pytest.approx(1.0, abs=0.05)
    assert coverage == pytest.approx(1 - 2**-5, abs=0.02)
    narrow_density, narrow_coverage = density_and_coverage(reference, 0.2 * generator.standard_normal((800, 4)))
    assert narrow_density > density
    assert narrow_coverage < 0.5
    assert density_and_coverage(reference, reference + 50.0) == (0.0, 0.0)
    with pytest.raises(HAFMEvaluationError, match="5 reference and 800 evaluated embeddings are too few"):
        density_and_coverage(reference[:5], reference)


def test_prompt_adherence_is_one_for_true_mixes_zero_for_strangers_and_linear_in_the_distances() -> None:
    generator = np.random.default_rng(2)
    spread = generator.standard_normal((400, 6))
    matched, shuffled = (fit_gaussian(spread + offset) for offset in (0.0, 2.0))
    assert prompt_adherence(matched, matched, shuffled) == 1.0
    assert prompt_adherence(shuffled, matched, shuffled) == 0.0
    # equal covariances in 6 dimensions: distances are 6 · offset², here of 0.5 to the matched and 1.5 to the shuffled,
    # which are 2 apart, so the adherence is ½ + (1.5² − 0.5²) / (2 · 2²)
    assert prompt_adherence(fit_gaussian(spread + 0.5), matched, shuffled) == pytest.approx(0.75)
    assert prompt_adherence(fit_gaussian(spread - 3.0), matched, shuffled) == 1.0
    assert np.isnan(prompt_adherence(shuffled, matched, matched))


def one_each(count: int) -> list[str]:
    """Names of so many songs, for clips of which no two are of one song."""
    return [f"song {number}" for number in range(count)]


@pytest.mark.parametrize("songs", [8, 25])
def test_intervals_over_songs_keep_their_coverage_with_several_clips_a_song(songs: int) -> None:
    generator = np.random.default_rng(songs)
    names = np.repeat(one_each(songs), 5)
    # whether an interval covers the true mean, 1
    covered_by_song: list[bool] = []
    covered_by_clip: list[bool] = []
    for _ in range(400):
        values = 1.0 + np.repeat(generator.normal(0.0, 0.5, songs), 5) + generator.normal(0.0, 1.0, 5 * songs)
        for covered, song_of_clip in ((covered_by_song, list(names)), (covered_by_clip, one_each(5 * songs))):
            interval = bootstrap_mean(values, song_of_clip, resamples=200)
            covered.append(interval.low <= 1.0 <= interval.high)
    # intervals of 95 %
    assert 0.92 <= np.mean(covered_by_song) <= 0.98
    assert np.mean(covered_by_clip) < 0.88  # clips of one song are similar
    assert bootstrap_mean([1.0, 2.0, 3.0], ["one"] * 3).low == -np.inf


def test_intervals_of_distances_contain_them_and_resample_songs() -> None:
    generator = np.random.default_rng(4)
    # 24 clips of 6 songs with 15 embeddings of width 4 each
    reference = list(generator.standard_normal((24, 15, 4)))
    offsets = np.repeat(generator.standard_normal((6, 1, 4)), 4, axis=0)
    evaluated = list(generator.standard_normal((24, 15, 4)) + offsets)
    songs = [f"song {number // 4}" for number in range(24)]
    by_clip = frechet_audio_distance(reference, evaluated, one_each(24), resamples=100)
    by_song = frechet_audio_distance(reference, evaluated, songs, resamples=100)
    assert by_song.value == by_clip.value
    assert by_song.low < by_song.value < by_song.high
    assert by_song == frechet_audio_distance(reference, evaluated, songs, resamples=100)
    assert by_song.high - by_song.low > 1.3 * (by_clip.high - by_clip.low)


def test_partners_are_from_other_songs_and_similar_in_length() -> None:
    names = [f"clip{i}" for i in range(40)]
    songs = [f"song{i // 4}" for i in range(40)]
    seconds = [float(5 + i) for i in range(40)]
    partners = other_song_partners(names, songs, seconds, 3)
    for clip, partners_of_clip in enumerate(partners):
        assert len(set(partners_of_clip)) == 3
        assert all(songs[partner] != songs[clip] for partner in partners_of_clip)
        assert max(abs(seconds[partner] - seconds[clip]) for partner in partners_of_clip) <= 30
    with pytest.raises(HAFMEvaluationError, match="at least 2 songs"):
        other_song_partners(["a", "b"], ["one", "one"], [1.0, 1.0], 2)


def test_among_clips_of_equal_length_partners_come_from_all_songs() -> None:
    songs = [f"song {number // 10:02}" for number in range(500)]
    names = [f"{song}, {number % 10}" for number, song in enumerate(songs)]
    partners = other_song_partners(names, songs, [10.0] * 500, 4)
    uses = Counter(songs[partner] for chosen in partners for partner in chosen)
    # 40 of each song on average
    assert len(uses) == 50
    assert max(uses.values()) < 80


class TestVGGish:
    """The VGGish embedder against torchvggish, a port of the original network."""

    @pytest.fixture(scope="class")
    def torchvggish_network(self) -> Any:
        """The port of VGGish to torch by the package torchvggish, with random weights."""
        torchvggish = pytest.importorskip("torchvggish.torchvggish")
        torch.manual_seed(7)
        layers = torchvggish.make_layers()
        return torchvggish.VGG(layers, postprocess=False).eval()

    @pytest.fixture(scope="class")
    def sound(self) -> NDArray[np.float32]:
        """3 s of noise at 16 kHz."""
        return (np.random.default_rng(8).standard_normal(16000 * 3) * 0.1).astype(np.float32)

    def test_embeddings_equal_the_original_tools(
        self, torchvggish_network: Any, sound: NDArray[np.float32], tmp_path: Path
    ) -> None:
        frontend = pytest.importorskip("torchvggish.vggish_input")
        torch.save(torchvggish_network.state_dict(), tmp_path / "weights.pth")
        network = vggish.load_vggish(tmp_path / "weights.pth")
        before_relu = torch.nn.Sequential(*list(torchvggish_network.embeddings)[:-1])
        original = VGGishEmbedder(network)
        embeddings = {}
        # google-research's create_embeddings: sound / max(0.1, peak), 16,000 samples every 8,000, raw embeddings
        for level in (1.0, 0.001):
            samples = (level * sound / np.abs(sound).max()).astype(np.float32)
            scaled = (samples / max(0.1, float(np.abs(samples).max()))).astype(np.float64)
            windows = [scaled[start : start + 16_000] for start in range(0, len(scaled) - 16_000 + 1, 8_000)]
            examples = [frontend.waveform_to_examples(window, 16_000, False)[:1] for window in windows]
            with torch.no_grad():
                features = torchvggish_network.features(torch.from_numpy(np.concatenate(examples)).float()[:, None])
                expected = before_relu(features.permute(0, 2, 3, 1).flatten(1)).numpy()
            embeddings[level] = original.embed(samples)
            assert embeddings[level].shape == (5, 128)
            assert (embeddings[level] < 0).any()
            assert np.abs(embeddings[level] - expected).max() < 1e-4
        assert np.abs(embeddings[1.0] - embeddings[0.001]).max() > 1e-3  # quiet sounds stay quiet
        assert "before the last ReLU" in original.name

    def test_missing_or_damaged_weights_are_refused_with_a_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(HAFMEvaluationError, match="--vggish-weights"):
            make_embedder(EmbedderOptions("vggish"))
        (tmp_path / "wrong.pth").write_bytes(b"nothing")
        with pytest.raises(HAFMEvaluationError, match="wrong.pth"):
            make_embedder(EmbedderOptions("vggish", weights=str(tmp_path / "wrong.pth")))


def test_any_transformers_audio_model_can_be_an_embedder(tmp_path: Path) -> None:
    save_embedder(tmp_path, 24)
    sound = np.random.default_rng(10).standard_normal(40000).astype(np.float32)
    assert make_embedder(EmbedderOptions(str(tmp_path))).embed(sound).shape == (4, 24)
    with pytest.raises(HAFMEvaluationError, match="cannot be loaded"):
        make_embedder(EmbedderOptions(str(tmp_path / "nowhere")))


def test_bundled_tokenizer_embeds_offline(bundled_model: Path) -> None:
    embedder = make_embedder(EmbedderOptions())
    sound = np.random.default_rng(11).standard_normal(40000).astype(np.float32) * 0.1
    assert embedder.embed(sound).shape == (4, 192)
