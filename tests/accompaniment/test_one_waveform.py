# SPDX-License-Identifier: Apache-2.0
"""A voice is analysed once, as one waveform: every interface gives it the same lead sheet and tokens."""

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import transformers
from typer.testing import CliRunner

import listening
from accompaniment.test_conditioned_songs import reading_composite
from commands import hafm
from hafm_hf import HAFMFeatureExtractor, LeadSheet, audio
from hafm_hf.audio import feature_extraction_hafm
from hafm_hf.cli import app
from hafm_hf.corpus.tokenizing import TokenizerOptions, Tokenizers
from hafm_hf.lead_sheet.bars import on_the_beat, with_bars_throughout
from hafm_hf.tokenizers import pitch_contour
from hafm_hf.tokenizers.pitch_contour import VocalAnalyser
from tiny_models import encoded, tiny_composite, tiny_listener, tiny_rhythmic_tokenizer
from vocals import CODEC_RATE, glide

REAL = ("singing-female.wav", "vignesh.wav", "vocadito_10.wav", "vocadito_14.wav")
SECONDS = 6.0
# parts that estimate beats and chords
BEATS: dict[str, Any] = {"semantic_tokenizer": tiny_rhythmic_tokenizer(), "listener": tiny_listener()}


@pytest.fixture(scope="module")
def accompany(bundled_model: Path) -> Any:
    """The pipeline of the bundled model."""
    return transformers.pipeline("vocal-accompaniment", model=str(bundled_model), device="cpu")


@pytest.mark.parametrize("name", REAL)
def test_a_real_voice_has_one_lead_sheet_in_command_pipeline_and_space(
    accompany: Any, shared_data: Path, name: str
) -> None:
    path = shared_data / "real" / name
    song = accompany(str(path), seconds=SECONDS, seed=1, skip_fine=True, top_k=1, guidance_scale=1.0)
    seconds = len(song["vocals"]) / song["sampling_rate"]
    sheet = with_bars_throughout(song["lead_sheet"], seconds)
    shown = json.loads(hafm("lead-sheet", path, "--seconds", SECONDS, "--json", check=True).stdout)
    assert shown["beats"] == list(sheet.beats or ())
    assert [tuple(span) for span in shown["chords"]] == list(sheet.chords)
    assert shown["key"] == sheet.key
    drawn = listening.listen(str(path), "hafm-tiny", SECONDS, LeadSheet())["sheet"]
    snapped = on_the_beat(sheet, seconds)
    # the space draws changes of chords on the nearest beats
    assert drawn["beats"] == list(snapped.beats or ())
    assert [tuple(span) for span in drawn["chords"]] == list(snapped.chords)
    assert drawn["beats_per_bar"] == shown["beats_per_bar"]


@pytest.mark.parametrize("name", REAL)
def test_a_real_voice_has_the_tokens_that_a_corpus_holds_of_it(accompany: Any, shared_data: Path, name: str) -> None:
    samples, rate = audio.read_audio(shared_data / "real" / name, seconds=SECONDS)
    # segments of a corpus begin and end with frames of both rates
    seconds = int(len(samples) / rate * 25) / 25
    samples = samples[: round(seconds * rate)]
    (segment,) = Tokenizers(TokenizerOptions(device="cpu")).encode([samples], [samples], rate, seconds, [7])
    song = encoded(accompany.model, samples, rate, seed=7)
    assert song.tokens.tolist() == segment.vocal_semantic.tolist()


@pytest.mark.parametrize(
    "bars", [{}, {"intro_bars": 1, "outro_bars": 1}, {"intro_bars": 1, "tail": 1.0}, {"tempo": 96}], ids=str
)
def test_a_voice_is_analysed_and_resampled_once_a_call(monkeypatch: pytest.MonkeyPatch, bars: Any) -> None:
    band = transformers.pipeline("vocal-accompaniment", model=reading_composite(**BEATS), device="cpu")
    measured = Mock(side_effect=VocalAnalyser.measure)
    monkeypatch.setattr(VocalAnalyser, "measure", lambda *given, **how: measured(*given, **how))
    resampled = Mock(side_effect=feature_extraction_hafm.resample)
    monkeypatch.setattr(feature_extraction_hafm, "resample", resampled)
    band(glide(2.0, 44_100), sampling_rate=44_100, seed=1, skip_fine=True, **bars)
    assert measured.call_count == 1
    assert [call.args[2] for call in resampled.call_args_list] == [16_000]


@pytest.mark.parametrize("given", [{}, {"beats": [0.5, 1.0, 1.5, 2.0], "chords": [(0.0, 9.0, "C:maj")]}])
def test_the_pitch_of_a_voice_is_measured_once(
    bundled: Any, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    (vocal,) = bundled.feature_extractor().vocals(glide(9.0, 16_000), 16_000)
    measured = Mock(side_effect=pitch_contour._yin)
    monkeypatch.setattr(pitch_contour, "_yin", measured)
    song = bundled.encoder(vocal, LeadSheet.given(given))
    assert song.suiting_styles
    frames = sum(len(call.args[0]) for call in measured.call_args_list)
    # 9 s at 100 Hz, in two blocks that overlap by their context
    assert 900 <= frames < 950
    heard = bundled.encoder.hear(vocal)
    transcribed = pitch_contour.sung_notes(vocal.samples, 16_000)
    # (start, MIDI pitch) without the stop: the last note may stop a frame later, as there is one frame more
    assert [note[::2] for note in heard.notes] == [note[::2] for note in transcribed]


@pytest.mark.parametrize("where", ["command", "space"])
def test_command_and_space_measure_the_pitch_of_a_voice_once(
    bundled_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = audio.write_audio(tmp_path / "voice.wav", glide(9.0, 44_100), 44_100)
    measured = Mock(side_effect=pitch_contour._yin)
    monkeypatch.setattr(pitch_contour, "_yin", measured)
    if where == "command":
        assert CliRunner().invoke(app, ["lead-sheet", str(path), "--json"]).exit_code == 0
    else:
        pitches = listening.listen(str(path), "hafm-tiny", None, LeadSheet())["pitch"]
        # 25 a second
        assert len(pitches) == 225
        assert all(pitch is not None for pitch in pitches[5:-5])
    assert 900 <= sum(len(call.args[0]) for call in measured.call_args_list) < 950


def test_a_song_is_as_long_as_the_recording_to_the_sample() -> None:
    model = tiny_composite()
    for rate, length in ((44_100, 30_003), (48_000, 24_001), (8_000, 5_001), (22_050, 13_337)):
        features = HAFMFeatureExtractor(min_seconds=0.1)(glide(2.0, rate)[:length], sampling_rate=rate)
        (song,) = model.generate(**features, seed=1, skip_fine=True).audio
        assert len(song) == round(Fraction(length * CODEC_RATE, rate))


def test_a_feature_extractor_at_the_codecs_rate_loads_and_is_corrected(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "old")
    path = tmp_path / "old" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sampling_rate": CODEC_RATE}))
    old = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "old")
    assert old.sampling_rate == CODEC_RATE
    songs = []
    for given in ({"model": str(tiny_model)}, {"model": str(tmp_path / "old"), "feature_extractor": old}):
        band = transformers.pipeline("vocal-accompaniment", device="cpu", **given)
        assert band.feature_extractor.sampling_rate == 16_000
        songs.append(band(glide(1.0), sampling_rate=CODEC_RATE, seed=1, skip_fine=True)["audio"])
    assert songs[0].tobytes() == songs[1].tobytes()
    with pytest.raises(ValueError, match="input_values are at 24000 Hz, but this model listens at 16000 Hz"):
        band.model.generate(**old(glide(1.0), sampling_rate=CODEC_RATE), seed=1)
