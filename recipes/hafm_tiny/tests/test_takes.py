# SPDX-License-Identifier: Apache-2.0
"""Training the listener's tempo on takes of rendered songs: crops at other speeds, gradients, and the recipe."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertModel

pytest.importorskip("pretty_midi", reason="pretty_midi is not installed")

from hafm_hf import HAFMForVocalAccompaniment
from hafm_hf.accompaniment.assemble import assemble_composite
from hafm_hf.listening.modeling_listener import HAFMListenerModel
from hafm_hf.tokenizers.pitch_contour import CONTOUR_RATE
from hafm_tiny.listening.takes import RATE, crop_of_takes, sung_takes
from hafm_tiny.listening.training import HarmonyTrainer, ListenerArguments, TimeTrainer
from hafm_tiny.listening.tunes import SONGS, Tune, labelled_tune
from hafm_tiny.steps import take_steps
from programs import RECIPES, run_program
from tiny_models import tiny_band, tiny_hubert, tiny_listener, tiny_rhythmic_tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of two songs of 30 s at 100 BPM, with a note of 0.4 s on each of 48 beats and one chord."""
    root = tmp_path_factory.mktemp("songs")
    beats = (0.5 + 0.6 * np.arange(48)).tolist()
    notes = [[beat, beat + 0.4, 57 + number % 5] for number, beat in enumerate(beats)]
    chords = [[bar, bar + 2.4, "A:min"] for bar in beats[::4]]
    labels = {"beats": beats, "downbeats": beats[::4], "notes": notes, "chords": chords, "tempo": 100.0}
    time = np.arange(30 * RATE) / RATE
    voice = np.zeros(len(time))
    for start, stop, midi in notes:
        hertz = 440 * 2 ** ((midi - 69) / 12)
        voice += ((time >= start) & (time < stop)) * np.sin(2 * np.pi * hertz * time)
    for name in ("001_1", "002_1"):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for stem in ("vocal", "instrumental"):
            soundfile.write(folder / f"{stem}.flac", 0.3 * voice, RATE)
        (folder / "labels.json").write_text(json.dumps(labels))
    return root


def tune_of(corpus: Path) -> Tune:
    """The tune of a corpus's first training song."""
    tune = labelled_tune("song", "train", SONGS, json.loads(next(corpus.glob("train/*/labels.json")).read_text()))
    assert tune is not None
    return tune


def test_crops_of_takes_keep_the_beat_at_another_speed(corpus: Path) -> None:
    rng = np.random.default_rng(0)
    takes = list(sung_takes(corpus, rng))
    assert len(takes) == 2
    assert [take.tempo for take in takes] == [100, 100]
    assert [len(take.contour) for take in takes] == [30 * CONTOUR_RATE] * 2
    for octave in (-0.5, 0.0, 0.5):
        crop = crop_of_takes(takes, 12.0, [octave, octave], rng)
        assert len(crop.contour) == 12 * CONTOUR_RATE
        assert crop.tempo == pytest.approx(100 * 2**octave)
        beats_passed = (np.diff(crop.parts, prepend=crop.parts[0]) < 0).sum()
        assert beats_passed == pytest.approx(12 / 60 * crop.tempo, abs=2)
        # notes are in the first two thirds of a beat, so the voice is louder there than in its last eighth
        in_notes = np.isin(crop.parts, (1, 2, 3))
        assert crop.contour.level[in_notes].mean() > crop.contour.level[crop.parts == 7].mean() + 3
    assert len(crop_of_takes(takes, 90.0, [0.0, 0.0], rng).contour) < 30 * CONTOUR_RATE, "the whole of a shorter song"


def test_training_the_time_tower_on_takes_keeps_the_harmony_weights(corpus: Path, tmp_path: Path) -> None:
    takes = list(sung_takes(corpus, np.random.default_rng(0)))
    tune = tune_of(corpus)
    model = tiny_listener()
    for takes_share, has_bars in ((0.0, True), (1.0, False)):
        trainer = TimeTrainer(model, [tune], ListenerArguments(takes_share=takes_share), takes)
        trainer.loss().backward()
        assert trainer.beat_head.weight.grad is not None
        assert bool(trainer.beat_head.weight.grad.any())
        assert trainer.bar_head.weight.grad is not None
        assert bool(trainer.bar_head.weight.grad.any()) == has_bars, "takes have no bar labels"
    model.zero_grad()
    model.save_pretrained(tmp_path / "before")
    words = [RECIPES / "train_listener.py", "--corpus", corpus, "--only_time", "true", "--steps", 2]
    done = run_program([*words, "--out", tmp_path])
    assert done.returncode == 1
    assert "name the listener that has it with --init_from" in done.stderr
    words += ["--time_batch", 20, "--learning_rate", 0.1, "--warmup_steps", 0, "--init_from", tmp_path / "before"]
    run_program([*words, "--out", tmp_path], check=True)
    after, before = (HAFMListenerModel.from_pretrained(tmp_path / name) for name in ("listener", "before"))
    is_kept = {}
    for name, values in before.half().state_dict().items():
        is_kept[name] = bool((values == after.state_dict()[name].half()).all())
    assert all(kept for name, kept in is_kept.items() if name.startswith(("harmony", "chord")))
    assert not is_kept["time.input.weight"]


def test_a_listener_learns_what_only_its_ear_hears(corpus: Path) -> None:
    rng = np.random.default_rng(0)
    # 1500 frames are 60 beats of 25 frames, each with a random chord, which is in the ear's features alone
    phase = torch.arange(1500) % 25 / 25
    take = next(sung_takes(corpus, rng))
    chords = np.repeat(rng.integers(1, 25, 60), 25)
    heard = np.eye(25, dtype=np.float32)[chords]
    contour = replace(take.contour, ear_features=heard)
    arguments = ListenerArguments(steps=80, pool=1, warmup_steps=5, takes_share=0.8, learning_rate=1e-2)
    trainer = HarmonyTrainer(
        tiny_listener(ear_size=25), [tune_of(corpus)], arguments, [replace(take, contour=contour, chords=chords)]
    )
    take_steps(trainer.model, trainer.loss, arguments)
    hearing = trainer.model.chord_probabilities(contour, phase).argmax(1).numpy()
    assert (hearing == chords).mean() >= 0.8
    deaf = trainer.model.chord_probabilities(replace(contour, ear_features=0 * heard), phase).argmax(1).numpy()
    assert (deaf == chords).mean() <= 0.3


def test_a_pretrained_ear_becomes_part_of_the_model(corpus: Path, tmp_path: Path) -> None:
    HubertModel(tiny_hubert(conv_dim=(8,) * 7)).save_pretrained(tmp_path / "hubert")
    words = [RECIPES / "train_listener.py", "--corpus", corpus, "--ear", tmp_path / "hubert", "--ear_layer", 1]
    words += "--steps 3 --pool 1 --harmony_batch 60 --time_batch 20 --harmony_channels 4 --time_channels 8".split()
    run_program([*words, "--out", tmp_path], check=True)
    tiny_band(semantic_tokenizer=tiny_rhythmic_tokenizer()).save_pretrained(tmp_path / "band")
    folders = [*filter(Path.is_dir, (tmp_path / "band").iterdir()), tmp_path / "listener"]
    parts = {folder.name: str(folder) for folder in folders}
    with pytest.raises(ValueError, match="ear_size of the listener is 12, but the other parts need 0"):
        assemble_composite(parts, tmp_path / "deaf")
    assemble_composite({**parts, "ear": str(tmp_path / "ear")}, tmp_path / "model")
    model = HAFMForVocalAccompaniment.from_pretrained(tmp_path / "model")
    voice = torch.from_numpy(soundfile.read(next(corpus.glob("train/*/vocal.flac")), dtype="float32")[0])
    (vocal,) = model.feature_extractor().vocals(voice, RATE)
    contour = model.encoder.hear(vocal).contour
    phase = torch.arange(1500) % 30 / 30  # beats of 30 frames
    assert contour.ear_features.shape == (1500, 12)
    assert model.complete_lead_sheet(voice.numpy(), RATE).chords
    # both towers depend on the features
    other = replace(contour, ear_features=contour.ear_features[::-1])
    listener = model.listener
    assert not torch.allclose(listener.chord_probabilities(contour, phase), listener.chord_probabilities(other, phase))
    assert not torch.allclose(listener.tempo_logits_of(contour), listener.tempo_logits_of(other))
