# SPDX-License-Identifier: Apache-2.0
"""Training the listener on simulated singers: symbolic songs, their singing, the targets, scores, and the recipe."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pretty_midi", reason="pretty_midi is not installed")
pytest.importorskip("mir_eval", reason="mir_eval is not installed")

from hafm_hf import LeadSheet
from hafm_hf.listening.modeling_listener import HAFMListenerModel
from hafm_hf.tokenizers.pitch_contour import CONTOUR_RATE
from hafm_tiny.listening.measuring import reliability, simulated, simulated_scores
from hafm_tiny.listening.references import Recording
from hafm_tiny.listening.scores import key_score, majmin, score, tempo_is_right
from hafm_tiny.listening.simulated_singer import SimulatedSinger
from hafm_tiny.listening.training import HarmonyTrainer, ListenerArguments, TimeTrainer, tempo_targets
from hafm_tiny.listening.tunes import LEAST_BEATS, SHEETS, SONGS, Tune, labelled_tune, lead_sheet_tunes
from hafm_tiny.songs.midi_song import Note, change, excerpt, list_songs, one_voice, read_song
from hafm_tiny.steps import take_steps
from programs import RECIPES, run_program
from synthetic_songs import write_song
from tiny_models import tiny_listener

# roots of chords, and their MIDI pitch
ROOTS = {"C": 60, "F": 65, "G": 67, "A": 69}


def labels_of_roots(seed: int = 0, beats: int = 96, beat: float = 0.5) -> dict[str, Any]:
    """Labels of a song whose voice sings the root of the chord on every beat; chords last four beats.

    Args:
        seed: draws the chords.
        beats: number of beats.
        beat: length of one in seconds.
    """
    roots = np.random.default_rng(seed).choice(list(ROOTS), beats // 4)
    times = np.arange(beats + 1) * beat + 0.1
    return {
        "beats": times.tolist(),
        "downbeats": times[::4].tolist(),
        "notes": [[times[n], times[n + 1] - 0.05, ROOTS[roots[n // 4]]] for n in range(beats)],
        "chords": [[times[4 * bar], times[4 * bar + 4], f"{root}:maj"] for bar, root in enumerate(roots)],
    }


def tune_of_roots(seed: int = 0) -> Tune:
    """A tune of which each note is the root of its chord."""
    tune = labelled_tune(str(seed), "train", SONGS, labels_of_roots(seed))
    assert tune is not None
    return tune


def test_labels_in_seconds_become_a_tune_in_beats() -> None:
    tune = tune_of_roots()
    assert np.allclose(tune.notes[:, 0], np.arange(96))
    # 0.45 of 0.5 s
    assert np.allclose(tune.notes[:, 1], 0.9)
    assert np.allclose(tune.chords[:, 0], np.arange(0, 96, 4))
    # C, F, G and A major
    assert {*tune.chords[:, 2]} <= {1, 6, 8, 10}
    assert (tune.tempo, tune.metre, tune.downbeat) == (pytest.approx(120), 4, 0)
    assert labelled_tune("short", "train", SONGS, {"beats": [0.5], "notes": [], "chords": []}) is None


def write_sheets(path: Path, count: int = 3) -> Path:
    """Writes `count` lead sheets of 16 bars of three beats to a file; returns its path."""
    notes = [[float(beat), 1.0, 60 + beat % 5] for beat in range(48)]
    tune = {"source": "test", "metre": "3/4", "notes": notes, "chords": [[0.0, 24.0, "C:maj"], [24.0, 24.0, "A:min"]]}
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps({**tune, "title": str(number)}) + "\n" for number in range(count))
    return path


def test_lead_sheets_are_repeated_to_the_length_of_songs(tmp_path: Path) -> None:
    tunes = list(lead_sheet_tunes(write_sheets(tmp_path / "sheets.jsonl.gz"), test=1))
    assert [tune.split for tune in tunes].count("test") == 1
    assert {tune.source for tune in tunes} == {SHEETS}
    assert tunes[0].metre == 3
    assert tunes[0].beats >= LEAST_BEATS
    assert tunes[0].beats % 48 == 0
    # the second time 48 beats later, with the same lengths and pitches
    assert np.allclose(tunes[0].notes[48:96] - tunes[0].notes[:48], [48, 0, 0])


def test_simulated_singing_matches_its_labels() -> None:
    sung = SimulatedSinger(np.random.default_rng(0), own_tempo=1.0, joined=0.0).sing(tune_of_roots(), 30.0)
    assert len(sung.contour) == 30 * CONTOUR_RATE == len(sung.beats) == len(sung.chords)
    assert np.diff(sung.beats).mean() * CONTOUR_RATE == pytest.approx(sung.tempo / 60, rel=0.1)
    held = np.isfinite(sung.contour.held)
    classes = np.round(sung.contour.held[held] - sung.contour.tuning).astype(int) % 12
    roots = (sung.chords[held] - 1) % 12
    assert np.mean(classes == roots) > 0.7, "but for wrong and late notes"
    assert 0.3 < np.isfinite(sung.contour.midi).mean() < 0.95


def test_training_lowers_the_loss_of_both_towers() -> None:
    tunes = [tune_of_roots(seed) for seed in range(4)]
    arguments = ListenerArguments(
        steps=60, warmup_steps=5, pool=8, harmony_batch=150, harmony_cells=[25, 50], harmony_rate=1e-2,
        time_batch=60.0, time_seconds=[10.0, 20.0],
    )  # fmt: skip
    model = tiny_listener(harmony_channels=5, time_channels=16, time_layers=4)
    for trainer in (HarmonyTrainer(model, tunes, arguments), TimeTrainer(model, tunes, arguments)):
        with torch.no_grad():
            before = np.mean([float(trainer.loss()) for _ in range(4)])
        trained = model if isinstance(trainer, HarmonyTrainer) else trainer
        assert take_steps(trained, trainer.loss, replace(arguments, learning_rate=1e-2)) < before - 0.2
    assert HarmonyTrainer(model, tunes, arguments)._crop(25).prior.exp().sum() == pytest.approx(1)
    targets = tempo_targets(model, torch.tensor([60.0, 120.0]))
    assert torch.allclose(targets.sum(1), torch.ones(2))
    assert targets[1].argmax() > targets[0].argmax()
    for trainer_class in (HarmonyTrainer, TimeTrainer):
        with pytest.raises(ValueError, match="no tunes"):
            trainer_class(model, [], arguments)


def test_a_listener_is_scored_against_the_simulated_singing() -> None:
    scores = simulated_scores(tiny_listener(), simulated([tune_of_roots(seed) for seed in range(2)], 20.0))
    assert scores.keys() == {"chords", "beyond", "tempo"}
    assert all(-1 <= value <= 1 for value in scores.values())


def test_calibration_is_measured_in_confidence_bins() -> None:
    bins, error = reliability(torch.tensor([0.1, 0.4, 0.4]), torch.tensor([0.0, 1.0, 0.0]))
    assert [sure_bin.right for sure_bin in bins] == [0.0, 0.5]
    # of three frames, one is 0.1 too sure, and two are 0.1 too unsure on average
    assert error == pytest.approx((0.1 + 2 * 0.1) / 3)


def test_an_exact_singer_is_in_tune_and_a_faithful_one_is_not() -> None:
    pitches = [simulated([tune_of_roots(0)], 20.0, singer)[0].contour.midi for singer in ("exact", "faithful")]
    # mean distance from a semitone
    exact, faithful = (np.nanmean(np.abs(midi - np.round(midi))) for midi in pitches)
    assert exact < 1e-4
    assert faithful > 0.1


def test_scores_of_recordings_are_corrected_for_chance() -> None:
    recordings = []
    sheets = []
    # four songs of 20 s, each with one chord, and beats of its own
    for number, root in enumerate(("C", "D", "E", "F#")):
        beats = list(0.3 * number + np.arange(0.5, 20, 0.5 + 0.07 * number))
        chords = [(0.0, 20.0, f"{root}:maj")]
        recordings.append(Recording(root, root, np.zeros(20 * 16_000, np.float32), chords, f"{root}:maj", beats))
        sheets.append(LeadSheet(beats=beats, chords=[(0.0, 20.0, root)], key=f"{root}:maj"))
    right = score(sheets, recordings)
    wrong = score([*sheets[1:], sheets[0]], recordings)
    assert right.chords.value == right.chords_matched == right.key.value == right.tempo == right.beats_matched == 1.0
    assert wrong.chords.value < 0
    assert right.beats.value > 0.5 > 0.1 > wrong.beats.value
    with pytest.raises(ValueError, match="they need two songs"):
        score(sheets[:1], recordings[:1])


def test_chords_keys_and_tempi_are_compared_as_by_mir_eval() -> None:
    # 1 + pitch class of the root, and 12 more if minor
    assert [majmin(label) for label in ("N", "X", "C:maj7", "A:min7", "Bb", "F#m", "D:sus4(b7)", "B:dim")] == [
        0, -1, 1, 1 + 9 + 12, 11, 1 + 6 + 12, -1, -1
    ]  # fmt: skip
    assert [key_score(key, "C:maj") for key in ("C:maj", "G:maj", "A:min", "C:min", "D:maj", None)] == [
        1.0, 0.5, 0.3, 0.2, 0.0, 0.0
    ]  # fmt: skip
    assert tempo_is_right(62, 60)
    assert not tempo_is_right(63, 60)
    assert tempo_is_right(120, 60, (1, 2))


def test_the_recipe_trains_on_all_songs_but_those_held_out(songs: Path, tmp_path: Path) -> None:
    words = [RECIPES / "train_listener.py", "--songs", songs, "--validation_songs", 2]
    words += ["--test_songs", 1, "--sheets", write_sheets(tmp_path / "sheets.jsonl.gz"), "--steps", 3]
    words += "--harmony_channels 4 --time_channels 8 --pool 2 --harmony_batch 60 --time_batch 20".split()
    done = run_program([*words, "--out", tmp_path / "run"], check=True)
    # without two songs for validation and one for test, but with one of three lead sheets
    training_songs = len(list_songs(songs)) - 3 + 1
    assert f"'train': '{training_songs} songs', 'validation': '2 songs'" in done.stderr
    figures = json.loads((tmp_path / "run" / "listener" / "figures.json").read_text())
    assert {"harmony_nats", "time_nats", "chords", "beyond", "tempo"} == figures.keys()
    assert HAFMListenerModel.from_pretrained(tmp_path / "run" / "listener").config.harmony_channels == 4
    words += ["--init_from", tmp_path / "run" / "listener"]
    done = run_program([*words, "--out", tmp_path / "on"])
    assert HAFMListenerModel.from_pretrained(tmp_path / "on" / "listener").config.harmony_channels == 4, done.stderr
    done = run_program([*words, "--harmony_channels", 8, "--out", tmp_path / "other"])
    assert done.returncode == 1
    assert "harmony_channels" in done.stderr
    done = run_program([RECIPES / "train_listener.py", "--out", tmp_path])
    assert done.returncode == 1
    assert "--songs, --corpus or --sheets" in done.stderr


def test_listening_to_rendered_voices_is_evaluated_with_and_without_what_is_given(tmp_path: Path) -> None:
    for seed in range(3):
        write_song(tmp_path / "corpus" / "test" / f"{seed}_0", 24_000, 20.0, seed)
    words = ["--rendered", tmp_path / "corpus", "--given", "true", "--out", tmp_path / "figures.json"]
    run_program([RECIPES / "evaluate_listening.py", *words], check=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    conditions = [
        "",
        ", tempo given",
        ", beats given",
        ", key given",
        ", after 10 s",
        ", after 10 s, chords before given",
    ]
    assert figures.keys() == {f"rendered{condition}" for condition in (*conditions, ", sureness")}
    assert sum(sure_bin["share"] for sure_bin in figures["rendered, sureness"]["bins"]) == pytest.approx(1)
    with_tempo = figures["rendered, tempo given"]
    assert with_tempo["tempo"] == 1.0
    assert with_tempo["beats"]["songs"] == 3
    assert with_tempo["chords"]["n"] == 3


def test_overlapping_notes_become_one_voice() -> None:
    # start and end in seconds, MIDI pitch
    notes = [Note(0.0, 1.0, 60), Note(0.01, 2.0, 64), Note(0.5, 0.9, 62), Note(0.9, 0.92, 70), Note(1.5, 1.8, 61)]
    voice = one_voice(reversed(notes))
    assert [(note.start, note.end, note.pitch) for note in voice] == [(0.0, 0.5, 64), (0.5, 0.9, 62), (1.5, 1.8, 61)]


def test_a_song_is_read_with_all_its_parts(songs: Path) -> None:
    song = read_song(list_songs(songs)[2])  # of 16 bars at 100 BPM
    assert song.name == "003"
    assert set(song.tracks) == {"BRIDGE", "PIANO"}
    # 16 bars of 4 beats, all sung but every eighth
    assert len(song.melody) == 16 * 4 - 8
    assert song.tempo == pytest.approx(100)
    assert song.key == "C:maj"
    assert song.downbeats[1] == pytest.approx(4 * 0.6)
    assert [chord.label for chord in song.chords[:4]] == ["C:maj", "A:min", "F:maj", "G:maj"]


def test_transposition_moves_melody_chords_and_key_together(songs: Path) -> None:
    song = read_song(songs / "001")
    moved = change(song, semitones=3)
    assert moved.key == "D#:maj"
    assert [note.pitch for note in moved.melody] == [note.pitch + 3 for note in song.melody]
    for before, after in zip(song.chords, moved.chords, strict=True):
        assert {(pitch_class + 3) % 12 for pitch_class in before.pitch_classes} == set(after.pitch_classes)
        assert after.bass == ((before.bass or 0) + 3) % 12


def test_an_excerpt_is_shifted_to_its_start_and_cut_at_its_end(songs: Path) -> None:
    song = read_song(songs / "001")
    # from the second bar on
    part = excerpt(song, 2.4, 7.5)
    assert part.melody[0].start == pytest.approx(0, abs=2e-3)
    assert part.melody[0].pitch == song.melody[4].pitch
    assert part.beats[0] == part.downbeats[0] == part.chords[0].start == 0
    assert part.chords[0].label == "A:min"
    assert part.duration == pytest.approx(7.5 - 2.4)
    assert max(note.end for note in (*part.melody, *part.tracks["PIANO"])) <= part.duration
