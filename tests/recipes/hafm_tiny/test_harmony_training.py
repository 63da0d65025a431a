# SPDX-License-Identifier: Apache-2.0
"""The part that estimates chords is learnt: songs in symbols, a table from tokens, the network, and the recipe."""

import json
from pathlib import Path

import pytest
import torch

from hafm_hf import HAFMHarmonyModel
from hafm_tiny.harmony import HarmonyArguments, HarmonyTrainer, Melody, harmony_scores, melody_of, transposed
from hafm_tiny.targets import transposed_chords
from labelled_songs import run_recipe, song_of_roots
from tiny_models import CLUSTERS, tiny_harmony


def test_a_song_becomes_notes_and_one_chord_a_beat() -> None:
    notes = [(0.1, 0.5, 60), (0.7, 1.2, 64)]
    labels = {"beats": [0.1, 0.5, 0.9, 1.3], "notes": notes, "chords": [[0.1, 0.9, "C:maj"], [0.9, 2.0, "A:min"]]}
    melody = melody_of(labels)
    assert melody.chords.tolist() == [1, 1, 1 + 12 + 9]
    assert (melody.cells[0, :, 1] == 1).all() and melody.cells[0, :, -1].tolist() == [1, 0, 0, 0]
    assert (melody.cells[1, :2, 0] == 1).all() and (melody.cells[1, 2:, 5] == 1).all()
    assert melody.cells[1, :, -1].tolist() == [0, 0, 1, 0]
    assert len(melody_of({"beats": [0.5], "notes": [], "chords": []})) == 0
    for semitones in range(12):
        higher = {**labels, "notes": [[a, b, pitch + semitones] for a, b, pitch in notes]}
        assert torch.equal(melody_of(higher).cells, transposed(melody.cells, semitones))


def test_the_network_learns_chords_in_every_key() -> None:
    songs = [melody_of(song_of_roots(seed)) for seed in range(4)]
    model = tiny_harmony(channels=32)
    before = harmony_scores(model, songs, 16)
    arguments = HarmonyArguments(steps=150, beats_a_step=512, warmup_steps=10, learning_rate=5e-3, ema_decay=0.9)
    HarmonyTrainer(model, songs, arguments).train()
    assert not model.training
    # a key that no song was in
    unheard = [
        Melody(transposed(song.cells, 1), torch.from_numpy(transposed_chords(song.chords.numpy(), 1)))
        for song in songs
    ]
    after = harmony_scores(model, unheard, 16)
    assert after["root"] > 0.9 > before["root"] and after["chord_nats"] < 1.0 < before["chord_nats"]
    with pytest.raises(ValueError, match="48 beats"):
        harmony_scores(model, [melody_of(song_of_roots(0, beats=20))], 48)
    with pytest.raises(ValueError, match="has 4 beats"):
        HarmonyTrainer(model, [melody_of(song_of_roots(0, beats=3))], arguments)


def test_the_recipe_makes_a_part_from_songs_and_their_tokens(tmp_path: Path) -> None:
    done = run_recipe(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    model = HAFMHarmonyModel.from_pretrained(tmp_path / "run" / "harmony")
    assert (model.config.channels, model.config.num_layers, model.config.num_clusters) == (8, 2, CLUSTERS)
    assert model.config.semantic_tokenizer and model.notes.any()
    figures = json.loads((tmp_path / "run" / "harmony" / "figures.json").read_text())
    assert {"chord_nats_16", "chord_48", "root_48"} <= set(figures)
    assert "'train': '2 songs', 'validation': '1 songs'" in done.stderr
