# SPDX-License-Identifier: Apache-2.0
"""Singer-following scores: they prefer true accompaniments, and every fool (degenerate one) fails some score."""

import math
import threading
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest
import soundfile

from hafm_hf.audio.librosa_loading import librosa_lock, load_librosa
from hafm_hf.evaluation import retrieval
from hafm_hf.evaluation.datasets import Clip, Part
from hafm_hf.evaluation.features import ANALYSIS_RATE as RATE
from hafm_hf.evaluation.features import FRAME_RATE, Features, extract, onset_strength
from hafm_hf.evaluation.fools import FOOLS
from hafm_hf.evaluation.retrieval import build_bank, retrieved
from hafm_hf.evaluation.scores import SCORES, score_pair
from hafm_hf.evaluation.timing import beat_agreement, beat_f_measure, tempo_agreement


@pytest.mark.parametrize("score", [score.name for score in SCORES])
def test_every_score_prefers_the_true_band_to_that_of_another_song(measured: list, score: str) -> None:
    if score.startswith("tempo"):
        # all synthetic bands play at 120 BPM
        measured = [
            (voice, replace(band, beats=band.beats * (0.8 + 0.1 * index)))
            for index, (voice, band) in enumerate(measured)
        ]
    true = [score_pair(voice, band, band)[score] for voice, band in measured]
    # each voice with the bands of two other songs
    shuffled = [
        score_pair(voice, band, measured[(index + shift) % len(measured)][1])[score]
        for index, (voice, band) in enumerate(measured)
        for shift in (1, 3)
    ]
    assert np.mean(true) > np.mean(shuffled) + 0.1


def test_onsets_are_found_where_they_sound_and_each_beat_is_matched_once() -> None:
    clicks = np.zeros(6 * RATE, np.float32)
    ticks = np.arange(1, 11) / 2
    for tick in ticks:
        clicks[round(tick * RATE) :][:200] = np.sin(np.arange(200)) * np.exp(-np.arange(200) / 40)
    curve = onset_strength(clicks)
    for tick in ticks:
        # the largest value from 0.2 s before the tick to 0.2 s after it
        first = round((tick - 0.2) * FRAME_RATE)
        peak = first + np.argmax(curve[first:][: round(0.4 * FRAME_RATE)])
        assert abs(peak / FRAME_RATE - tick) <= 0.02
    beats = extract(clicks).beats
    assert np.abs(beats[:, None] - ticks).min(axis=1).max() <= 0.03
    wanted = np.arange(1.0, 9.0)
    # two beats near each reference beat: half of them are false positives
    doubled = np.sort(np.concatenate([wanted - 0.03, wanted + 0.03]))
    assert beat_f_measure(wanted, doubled) == pytest.approx(2 / 3)
    # the tolerance is 70 ms
    assert beat_f_measure(wanted, wanted + 0.06) == 1.0
    assert beat_f_measure(wanted, wanted + 0.08) == 0.0
    assert math.isnan(beat_f_measure(wanted[:0], wanted))
    assert beat_f_measure(wanted, wanted[:0]) == 0.0


def test_half_and_double_tempo_count_only_in_octave_tolerant_scores(measured: list) -> None:
    steady = replace(measured[0][1], beats=np.arange(0.2, 11.5, 0.5))
    half = replace(steady, beats=np.arange(0.7, 11.5, 1.0))
    double = replace(steady, beats=np.arange(0.2, 11.5, 0.25))
    # half a beat late
    off = replace(steady, beats=steady.beats + 0.25)
    faster = replace(steady, beats=np.arange(0.2, 11.5, 0.45))
    for other in (half, double):
        assert beat_agreement(steady, other) == pytest.approx(2 / 3, abs=0.02)
        assert beat_agreement(steady, other, octaves=True) == pytest.approx(1.0, abs=0.02)
        assert (tempo_agreement(steady, other), tempo_agreement(steady, other, octaves=True)) == (0.0, 1.0)
    assert beat_agreement(steady, off) == 0.0
    assert beat_agreement(steady, off, octaves=True) < 0.7
    assert tempo_agreement(steady, off) == 1.0
    assert tempo_agreement(steady, faster, octaves=True) == 0.0
    nothing = replace(steady, beats=steady.beats[:0])
    assert math.isnan(tempo_agreement(nothing, steady))
    assert tempo_agreement(steady, nothing, octaves=True) == 0.0


def test_known_beats_and_chords_score_high_if_followed_and_low_if_not(measured: list) -> None:
    voice, band = measured[0]
    beats = np.array(voice.lead_sheet.beats)
    # 0.06 and 0.2 s late: within the tolerance of 70 ms, and outside
    on, off = (score_pair(voice, band, replace(band, beats=beats + late))["followed_beats"] for late in (0.06, 0.2))
    assert on == 1.0
    assert off < 0.1
    half = replace(band, beats=beats[::2])
    assert score_pair(voice, band, half)["followed_beats"] == pytest.approx(2 / 3, abs=0.02)
    right, wrong = (
        score_pair(voice, band, replace(band, chroma=np.roll(band.chroma, shift, axis=0)))["followed_chords"]
        for shift in (0, 1)
    )
    assert right > 0.4 > 0.1 > wrong
    unknown = score_pair(replace(voice, lead_sheet=None), band, band)
    assert math.isnan(unknown["followed_beats"])
    assert math.isnan(unknown["followed_chords"])


def test_transposing_by_a_semitone_lowers_every_harmony_score(measured: list) -> None:
    def higher(features: Features) -> Features:
        """The features of a band, transposed up by a semitone."""
        return replace(features, chroma=np.roll(features.chroma, 1, axis=0))

    for score in (score for score in SCORES if score.aspect == "harmony"):
        true = np.mean([score.function(voice, band, band) for voice, band in measured])
        wrong = np.mean([score.function(voice, band, higher(band)) for voice, band in measured])
        assert wrong < true - 0.2, score.name


def test_copying_the_voice_scores_low_on_what_is_shared_with_the_reference(measured: list, songs: list) -> None:
    for (voice, band), (vocal, _) in zip(measured, songs, strict=True):
        scores = score_pair(voice, band, extract(vocal))
        assert abs(scores["chord_changes_shared"]) < 0.05
        assert scores["onsets_shared"] < 0.3


@pytest.mark.parametrize("fool", FOOLS)
def test_each_fool_fails_some_score(songs: list, measured: list, fool: str) -> None:
    lowest = {score.name: [] for score in SCORES}  # type: ignore[var-annotated]
    for (vocal, reference), (voice, band) in zip(songs[:4], measured[:4], strict=True):
        scores = score_pair(voice, band, extract(FOOLS[fool](vocal, voice, reference)))
        for name, values in lowest.items():
            values.append(scores[name] / score_pair(voice, band, band)[name])
    assert min(np.mean(values) for values in lowest.values()) < 0.25


def test_the_reference_scores_1_silence_0_and_any_band_of_a_silent_voice_nan(songs: list, measured: list) -> None:
    voice, band = measured[0]
    names = ("chord_changes_shared", "onsets_shared", "beat_agreement")
    itself = score_pair(voice, band, band)
    assert [itself[name] for name in names] == pytest.approx([1.0] * 3)
    scores = score_pair(voice, band, extract(np.zeros_like(songs[0][0])))
    assert scores == pytest.approx(dict.fromkeys(scores, 0.0), abs=1e-9)
    scores = score_pair(extract(np.zeros_like(songs[0][0]), voice=True), band, band)
    assert all(math.isnan(scores[name]) for name in ("pitch_class_share", "key_agreement", "onset_agreement"))
    # without a reference, only scores against the voice exist
    scored = {name for name, value in score_pair(voice, None, band).items() if not math.isnan(value)}
    assert scored == {score.name for score in SCORES if not score.needs_reference}


def test_the_retrieval_bank_is_limited_and_spread_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = []
    for number in range(5):
        tone = np.sin(2 * np.pi * 220 * 2 ** (number / 12) * np.arange(3 * RATE) / RATE).astype(np.float32)
        soundfile.write(tmp_path / f"{number}.wav", 0.3 * tone, RATE)
        part = Part(tmp_path / f"{number}.wav")
        clips.append(Clip(str(number), str(number), part, part))
    assert [item.song for item in build_bank(clips, [])] == list("01234")
    monkeypatch.setattr(retrieval, "BANK_SIZE", 2)
    monkeypatch.setattr(retrieval, "BANK_SECONDS", 1.5)
    bank = build_bank(clips, [])
    assert [item.song for item in bank] == ["0", "2"]
    assert {item.part.seconds for item in bank} == {1.5}


# seconds of the first beat of the voice
@pytest.mark.parametrize("entry", [0.3, 2.3, 3.0, 4.4, 9.0])
# as the clicks are, within a frame; and stretched to another tempo, which smears clicks over a window
@pytest.mark.parametrize(("beat_seconds", "tolerance_seconds"), [(0.6, 0.011), (0.5, 0.06)])
def test_retrieved_audio_is_aligned_to_the_voices_beats_wherever_it_enters(
    tmp_path: Path, entry: float, beat_seconds: float, tolerance_seconds: float
) -> None:
    clicks = np.zeros(round(8.0 * RATE), np.float32)
    sample = np.arange(400)
    click = np.sin(sample / 4) * np.exp(-sample / 80)
    # every 0.6 s
    for start in np.round(np.arange(0.1, 7.9, 0.6) * RATE).astype(int):
        clicks[start : start + 400] = click
    soundfile.write(tmp_path / "clicks.wav", clicks, RATE)
    part = Part(tmp_path / "clicks.wav")
    voice = replace(extract(clicks), beats=np.arange(entry, entry + 2.0, beat_seconds, dtype=np.float32))
    sound = retrieved(build_bank([Clip("clicks", "clicks", part, part)], []), voice, 12 * RATE)
    assert sound.shape == (12 * RATE,)
    onsets = np.flatnonzero(onset_strength(sound) > 10.0) / FRAME_RATE
    # the first beat shows the phase, the second the tempo
    assert max(np.abs(onsets - beat).min() for beat in voice.beats[:2]) < tolerance_seconds


def test_loading_librosa_waits_for_the_lock_of_its_compile_cache() -> None:
    loader = threading.Thread(target=load_librosa.__wrapped__)
    with filelock.FileLock(librosa_lock()):
        loader.start()
        loader.join(timeout=0.5)
        waits = loader.is_alive()
    loader.join(timeout=600)
    assert waits
    assert not loader.is_alive()
