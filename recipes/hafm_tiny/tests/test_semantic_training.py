# SPDX-License-Identifier: Apache-2.0
"""Training the small HuBERT: targets, the constant-Q front end, steps and resuming, on synthetic songs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import HubertModel

from fit_kmeans import tokenizer_from_hubert
from hafm_tiny.hubert import SemanticTrainer, SemanticTrainingArguments, draw_crop
from hafm_tiny.song_pool import SongPool
from hafm_tiny.state import load_state, save_state
from hafm_tiny.targets import IGNORED, LOWEST_NOTE, chord_targets, note_targets, start_front_end, tiny_hubert_config
from programs import RECIPES, run_program
from synthetic_songs import tone, write_song

RATE = 16_000
# samples per frame at 50 Hz
HOP = 320


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> SongPool:
    """Two rendered songs of five seconds."""
    root = tmp_path_factory.mktemp("songs")
    for index in range(2):
        write_song(root / "train" / f"song_{index}", RATE, seconds=5.0, seed=index)
    pool = SongPool(root, "train", RATE)
    pool.refresh()
    return pool


def tiny_hubert() -> HubertModel:
    """A tiny HuBERT with the front end as at the start of its training."""
    torch.manual_seed(0)
    hubert = HubertModel(tiny_hubert_config(hidden_size=32, num_hidden_layers=2))
    start_front_end(hubert, RATE)
    return hubert.train()


def arguments() -> SemanticTrainingArguments:
    """Arguments of a training of a few seconds."""
    return SemanticTrainingArguments(
        steps=40,
        batch_seconds=4.0,
        crop_seconds=[1.0, 2.0],
        crop_shares=[0.5, 0.5],
        warmup_steps=4,
        learning_rate=4e-3,
        start_batches=6,
        clusters={"harmony": 12, "texture": 8},
    )


def test_training_lowers_the_pitch_and_chord_losses(pool: SongPool) -> None:
    trainer = SemanticTrainer(tiny_hubert(), pool, arguments())
    reports = [trainer.train_step() for _ in range(40)]
    for name in ("pitch", "chord"):
        losses = [report[name] for report in reports if name in report]
        assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:4]), name


def test_a_resumed_run_takes_the_same_steps(pool: SongPool, tmp_path: Path) -> None:
    trainer = SemanticTrainer(tiny_hubert(), pool, arguments())
    for _ in range(3):
        trainer.train_step()
    save_state(tmp_path / "state.pt", trainer.state_dict())
    wanted = [trainer.train_step() for _ in range(3)]
    resumed = SemanticTrainer(tiny_hubert(), pool, arguments())
    resumed.load_state_dict(load_state(tmp_path / "state.pt"))
    assert [resumed.train_step() for _ in range(3)] == wanted


def test_a_saved_hubert_becomes_a_tokenizer_with_the_trained_features(pool: SongPool, tmp_path: Path) -> None:
    trainer = SemanticTrainer(tiny_hubert(), pool, arguments())
    trainer.train_step()
    trainer.save_hubert(tmp_path)
    tokenizer = tokenizer_from_hubert(tmp_path, layer=2)  # the last one
    samples = torch.from_numpy(tone(60, np.arange(RATE) / RATE, 4)).float()
    normalised = (samples - samples.mean()) / samples.std(correction=0)
    padded = torch.nn.functional.pad(normalised, (trainer.pad, trainer.pad))
    trainer.hubert.eval()
    with torch.no_grad():
        wanted = trainer.hubert(padded[None]).last_hidden_state[0]
    torch.testing.assert_close(tokenizer.extract_features(samples), wanted, atol=1e-4, rtol=1e-4)


def test_targets_are_the_transposed_labels_at_the_middle_of_each_frame() -> None:
    # one second; notes and chords with start and end in seconds
    labels = {
        "notes": [[0.1, 0.5, 60], [0.5, 0.8, 62.2]],
        "chords": [[0.0, 0.5, "A:min7"], [0.5, 1.0, "N"]],
        "beats": [0.0, 0.4, 0.8],
    }
    times = (np.arange(50) + 0.5) / 50  # the middle of each frame
    notes = note_targets(labels, times, shift=2)
    # the notes have frames 5 to 24 and 25 to 39
    assert notes["pitch"][4] == 0
    assert notes["pitch"][5] == 62 - LOWEST_NOTE + 1
    assert notes["pitch"][25] == 64 - LOWEST_NOTE + 1
    assert notes["pitch"][40] == 0
    # none, onset, first part, rest of the first note; onset of the second
    assert notes["onset"][[4, 5, 8, 20, 25]].tolist() == [0, 1, 2, 3, 1]
    chords = chord_targets(labels, times, shift=2)
    # A minor, two semitones higher: 1 + pitch class 11 (B), and 12 for minor
    assert set(chords["chord"][:25]) == {1 + 11 + 12}
    assert set(chords["chord"][25:]) == {0}
    # quarters of a beat of 20 frames; after the last beat there is none
    assert chords["beat"][[0, 5, 10, 15, 20]].tolist() == [0, 1, 2, 3, 0]
    assert set(chords["beat"][40:]) == {IGNORED}


def test_transposed_crops_have_transposed_labels(pool: SongPool) -> None:
    """The pitch in the spectrum agrees with the label in nearly all frames, whatever the transposition."""
    options = arguments()
    # only vocals, exactly in tune
    options.vocal_share = 1.0
    options.noise_std = 0.0
    options.vocal_cents = 0.0
    rng = np.random.default_rng(0)
    agreed = total = 0  # numbers of frames
    for _ in range(20):
        samples, targets = draw_crop(pool, options, rng, 1.0, 0, HOP)
        assert len(samples) == RATE
        assert len(targets["pitch"]) == 50
        for frame in range(4, 46):
            steady = targets["pitch"][frame - 3 : frame + 4]
            if steady[0] == 0 or len(set(steady)) > 1:
                continue
            # the frame, and two frames on each side
            window = samples[(frame - 2) * HOP : (frame + 3) * HOP]
            # the fundamental is the strongest partial of these voices
            spectrum = np.abs(np.fft.rfft(window * np.hanning(len(window)), n=RATE))  # bins of 1 Hz
            pitch = 69 + 12 * np.log2(int(spectrum.argmax()) / 440)
            total += 1
            agreed += abs(pitch - (steady[0] + LOWEST_NOTE - 1)) < 0.5
    assert total > 100
    assert agreed / total > 0.9


def test_the_recipe_trains_and_resumes_from_the_command_line(pool: SongPool, tmp_path: Path) -> None:
    def run(steps: int) -> list[int]:
        """Runs the recipe up to a number of steps; returns the logged step numbers of all runs."""
        flags = {"corpus": pool.folder.parent, "out": tmp_path, "steps": steps, "sampling_rate": RATE, "log_every": 1}
        flags |= {"hidden_size": 32, "num_hidden_layers": 1, "batch_seconds": 2.0, "start_batches": 8}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        words += ["--crop_seconds", "1.0", "2.0", "--crop_shares", "0.5", "0.5"]
        run_program([RECIPES / "pretrain_semantic.py", *words], check=True)
        return [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    assert run(1) == [1]
    assert run(2) == [1, 2]
    assert HubertModel.from_pretrained(tmp_path / "hubert").config.hidden_size == 32
