# SPDX-License-Identifier: Apache-2.0
"""Fitting the vocal's clusters: they encode note, onset and beat, and nothing else in the tokenizer changes."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from hafm_hf.lead_sheet.lead_sheet import phase_vectors
from hafm_hf.tokenizers.beat_tracker import BEAT_PARTS, HAFMRhythmNetwork
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from hafm_hf.tokenizers.pitch_contour import DESCRIPTORS
from hafm_tiny.rhythm import RhythmTrainer, rhythm_scores
from hafm_tiny.targets import IGNORED
from hafm_tiny.vocal_space import RhythmicFrames, SungFrames, VocalSpaceArguments, fit_vocal_space
from tiny_models import tiny_semantic_tokenizer

FRAME_RATE = 50
# width of HuBERT's features, number of different notes that are sung, and of clusters
WIDTH = 16
NOTES = 6
CLUSTERS = 40
# index of the descriptor that shows onsets
ONSET_DESCRIPTOR = 6
QUICK = VocalSpaceArguments(
    note_dimensions=5,
    channels=16,
    layers=7,
    steps=120,
    crop_seconds=[4.0, 6.0],
    batch_seconds=96.0,
    ema_decay=0.9,
    warmup_steps=10,
    learning_rate=5e-3,
)
# the tokenizer before and after fitting, and its figures
Fitted = tuple[HAFMSemanticTokenizerModel, HAFMSemanticTokenizerModel, dict[str, float]]


def sung_song(seed: int, seconds: float = 30.0, width: int = WIDTH) -> SungFrames:
    """Notes on half beats at a random tempo, in features with loud noise in irrelevant dimensions.

    The first NOTES features show the note, the next one its onset, as does ONSET_DESCRIPTOR. The first second has no
    labels.

    Args:
        seed: draws the song.
        seconds: its length.
        width: number of features.
    """
    rng = np.random.default_rng(seed)
    frames = round(seconds * FRAME_RATE)
    phase = (np.arange(frames) / FRAME_RATE * rng.uniform(1.2, 2.2) + rng.random()) % 1.0
    on_half_beat = np.diff(np.floor(2 * phase), prepend=0) != 0
    onset = on_half_beat & (rng.random(frames) < 0.7)
    # each note is held until the next onset
    latest_onset = np.maximum.accumulate(np.where(onset, np.arange(frames), 0))
    note = 1 + rng.integers(0, NOTES, frames)[latest_onset]
    features = 4.0 * rng.normal(size=(frames, width))
    features[:, :NOTES] = 0.3 * rng.normal(size=(frames, NOTES)) + np.eye(NOTES)[note - 1]
    features[:, NOTES] = 0.3 * rng.normal(size=frames) + 1.5 * onset
    # nothing is labelled in the first second
    beat = np.where(np.arange(frames) < FRAME_RATE, IGNORED, (phase * BEAT_PARTS).astype(np.int64))
    note[:FRAME_RATE] = 0
    descriptors = rng.normal(size=(frames, DESCRIPTORS))
    descriptors[:, ONSET_DESCRIPTOR] = 0.3 * rng.normal(size=frames) + 3.0 * onset
    rhythm = RhythmicFrames(descriptors.astype(np.float32), beat)
    return SungFrames(features.astype(np.float16), note, onset, rhythm)


def tokenizer_with_centroids(separate: bool = True, clusters: int = CLUSTERS) -> HAFMSemanticTokenizerModel:
    """A tiny tokenizer with random centroids; `separate`: of vocals and of instrumentals."""
    plain = tiny_semantic_tokenizer()
    config = copy.deepcopy(plain.config)
    config.num_clusters = clusters
    config.separate_centroids = separate
    tokenizer = HAFMSemanticTokenizerModel(config).eval()
    tokenizer.hubert.load_state_dict(plain.hubert.state_dict())
    torch.manual_seed(0)
    tokenizer.centroids.normal_()
    return tokenizer


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    """A tokenizer before and after fitting its vocal space, and the figures of the fit."""
    before = tokenizer_with_centroids()
    return before, *fit(before, QUICK)


def fit(
    tokenizer: HAFMSemanticTokenizerModel, arguments: VocalSpaceArguments
) -> tuple[HAFMSemanticTokenizerModel, dict[str, float]]:
    """Fits a vocal space to six songs, with two more for validation; returns the new tokenizer and its figures."""
    songs = [sung_song(seed, width=tokenizer.centroids.shape[-1]) for seed in range(8)]
    return fit_vocal_space(tokenizer, songs[:6], songs[6:], arguments, frames=5000)


def test_the_rhythm_network_finds_beats_in_unseen_songs_and_tempos() -> None:
    def labelled(seeds: range) -> list[tuple[np.ndarray, np.ndarray]]:
        """Descriptors and parts of the beat of a song for each seed."""
        return [(song.rhythm.descriptors, song.rhythm.beat) for song in map(sung_song, seeds)]

    torch.manual_seed(0)
    network = HAFMRhythmNetwork(DESCRIPTORS, QUICK.channels, QUICK.layers)
    unseen = labelled(range(90, 94))
    before = rhythm_scores(network, unseen, frames=300)
    assert RhythmTrainer(network, labelled(range(12)), QUICK, FRAME_RATE).train() < before["beat_nats"] - 0.3
    after = rhythm_scores(network, unseen, frames=300)
    assert abs(before["half_beat_agreement"]) < 0.3, (before, after)
    assert after["half_beat_agreement"] > 0.8, (before, after)
    with pytest.raises(ValueError, match="No song is longer than 4.8 s"):
        song = (np.zeros((200, DESCRIPTORS), np.float32), np.zeros(200, np.int64))
        RhythmTrainer(network, [song], QUICK, FRAME_RATE)


def test_fitting_changes_only_vocal_tokens(fitted: Fitted) -> None:
    before, after, figures = fitted
    sound = 0.1 * torch.randn(16_000 * 2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(before.encode(sound), after.encode(sound))
    assert not torch.equal(before.encode(sound, vocal=True, seed=1), after.encode(sound, vocal=True, seed=1))
    assert figures["half_beat_agreement"] > 0.5
    assert figures["vocal_used_clusters"] > CLUSTERS / 2
    assert before.config.vocal_projection_size == 0, "the given tokenizer is unchanged"


@pytest.mark.parametrize(
    ("clusters", "beat_line"),
    # a beat track uses all parts of the beat equally: one cluster for each note and part
    [(CLUSTERS, False), (NOTES * BEAT_PARTS, True)],
)
def test_vocal_clusters_keep_notes_despite_loud_noise(clusters: int, beat_line: bool) -> None:
    after, _ = fit(tokenizer_with_centroids(clusters=clusters), replace(QUICK, beat_line=beat_line))
    # its features have loud noise in all dimensions that show neither a note nor an onset
    song = sung_song(50, width=after.centroids.shape[-1])
    descriptors = torch.from_numpy(song.rhythm.descriptors)
    tokens = after.quantize(torch.from_numpy(song.features).float(), vocal=True, descriptors=descriptors).numpy()
    # by cluster, the note that is sung in most of its frames
    commonest_note = np.zeros(clusters, np.int64)
    for cluster in np.unique(tokens):
        commonest_note[cluster] = np.bincount(song.note[tokens == cluster]).argmax()
    sung = song.note > 0
    assert (commonest_note[tokens] == song.note)[sung].mean() > 0.8


def test_tokens_follow_one_beat_track(fitted: Fitted) -> None:
    _, after, _ = fitted
    song = sung_song(51, width=after.centroids.shape[-1])
    features = torch.from_numpy(song.features).float()
    descriptors = torch.from_numpy(song.rhythm.descriptors)
    # the last four dimensions encode the phase in the beat and in the half beat
    rhythm = after.vocal_space(features, descriptors)[:, -4:] / after.rhythm_scale
    line = phase_vectors(after.track_beats(after.rhythm.expected_phase_vectors(descriptors[None])[0]))
    assert torch.allclose(rhythm, after.line_scale * line, atol=1e-5)
    # without the beat track, frames keep the network's own estimates, which have a smaller radius
    config = copy.deepcopy(after.config)
    config.beat_line = False
    untracked = HAFMSemanticTokenizerModel(config).eval()
    untracked.load_state_dict({name: value for name, value in after.state_dict().items() if name != "line_scale"})
    estimates = untracked.vocal_space(features, descriptors)[:, -4:] / untracked.rhythm_scale
    assert float(estimates[:, :2].norm(dim=1).mean()) < float(rhythm[:, :2].norm(dim=1).mean())
    true = phase_vectors((torch.from_numpy(song.rhythm.beat).float() + 0.5) / BEAT_PARTS)
    first = after.config.vocal_projection_size
    tokens = after.quantize(features, vocal=True, descriptors=descriptors)
    phases = after.centroids[0, :, first : first + 4][tokens]
    # of the half beat only, as notes begin on every half beat; nothing is labelled in the first second
    assert float(torch.nn.functional.cosine_similarity(phases[:, 2:], true[:, 2:])[FRAME_RATE:].mean()) > 0.5


def test_tokens_do_not_depend_on_chunks_batches_or_saving(fitted: Fitted, tmp_path: Path) -> None:
    _, tokenizer, _ = fitted
    sound = 0.1 * torch.randn(2, 16_000 * 5, generator=torch.Generator().manual_seed(2))
    features = tokenizer.extract_features(sound[0], noise=True, seed=3)
    with pytest.raises(ValueError, match="estimates the beat from descriptors"):
        tokenizer.quantize(features, vocal=True)
    whole = tokenizer.quantize(features, vocal=True, descriptors=tokenizer.describe(sound[0]))
    assert torch.equal(tokenizer.encode(sound[0], vocal=True, seed=3), whole)
    batch = tokenizer(sound, vocal=True, seed=[3, 4]).ids
    assert torch.equal(batch[0], whole)
    assert torch.equal(batch[1], tokenizer.encode(sound[1], vocal=True, seed=4))
    tokenizer.save_pretrained(tmp_path)
    again = HAFMSemanticTokenizerModel.from_pretrained(tmp_path).eval()
    assert torch.equal(again.encode(sound[0], vocal=True, seed=3), whole)
    chunked = HAFMSemanticTokenizerModel.from_pretrained(tmp_path, chunk_seconds=2.0, context_seconds=0.5).eval()
    parts = chunked.extract_features(sound[0], noise=True, seed=3)
    # the beat is estimated from the whole clip even if HuBERT reads it in chunks
    once = chunked.quantize(parts, vocal=True, descriptors=chunked.describe(sound[0]))
    assert torch.equal(chunked.encode(sound[0], vocal=True, seed=3), once)
    assert chunked.encode(sound[0, :0], vocal=True).shape == (0,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocal_projection_size": 5}, "needs separate_centroids"),
        ({"rhythm_channels": 8, "separate_centroids": True}, "needs vocal_projection_size"),
        ({"beat_line": True}, "needs rhythm_channels"),
        ({"vocal_projection_size": -1}, "between 0 and"),
        ({"rhythm_layers": 40}, "between 1 and 12"),
    ],
)
def test_invalid_configurations_are_refused(changes: dict[str, object], said: str) -> None:
    config = tiny_semantic_tokenizer().config
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=said):
        type(config)(**(config.to_dict() | changes))
