# SPDX-License-Identifier: Apache-2.0
"""Server side of the timeline: estimates of a voice's beats, chords and key, and the user's corrections.

`listen` fills the timeline, the user corrects it there, and `lead_sheet_of` reads what the timeline sends back.
"""

import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hafm_hf import LeadSheet, audio
from hafm_hf.audio.feature_extraction_hafm import LISTENING_RATE
from hafm_hf.lead_sheet.bars import chart, completed, on_the_beat
from hafm_hf.lead_sheet.files import IN_BARS, write_lead_sheet
from hafm_hf.lead_sheet.vocabulary import AUTO_STYLE, ENERGIES
from hafm_hf.listening.encoder import HAFMVocalEncoder, Heard, with_style_and_energy
from hafm_hf.listening.modeling_listener import chord_choices
from hafm_hf.tokenizers.beat_line import likeliest_tempo
from hafm_hf.tokenizers.pitch_line import FRAME_RATE, fundamental_frequency, midi_pitch, sung_notes
from songs import Request, load_pipeline, on_gpu, read_vocal
from takes import JOBS

# At this sampling rate (Hz) pitch estimation takes a fraction of the time, and is precise enough for the screen.
PITCH_RATE = 8_000
# At most this many voices are analysed at the same time; others wait.
LISTENING = threading.Semaphore(2)
# Values of the pitch line per second.
LINE_RATE = 25


def listen(vocal: str | None, model: str, seconds: float | None, known: LeadSheet) -> dict[str, Any]:
    """Analyses a voice for the timeline; `known` may hold its tempo or beats.

    Returns:
        "vocal" (the file), "seconds", "pitch" (MIDI note numbers at 25 Hz, None where nothing is sung), "energies"
        that the model can play, "sheet", whose beats and chords cover the voice from start to end (without beats if
        the model estimates none), and the entries of `doubts`. A ValueError says what cannot be used.
    """
    samples, rate = read_vocal(vocal, seconds)
    samples = audio.with_channels(samples, 1)
    with LISTENING:
        sheet, unsure = estimate(model, samples, rate, known)
        pitch = [None if np.isnan(note) else round(float(note), 2) for note in pitch_line(samples, rate)]
    energies = ENERGIES if "energy" in load_pipeline(model).model.encoder.lead_sheet_streams else ()
    found = {"vocal": vocal, "seconds": len(samples) / rate, "pitch": pitch, "energies": energies}
    return found | {"sheet": sheet.to_dict(), **unsure}


@on_gpu
def estimate(model: str, samples: audio.Samples, rate: int, known: LeadSheet) -> tuple[LeadSheet, dict[str, Any]]:
    """Listens to a voice (float32 [N] at `rate` Hz): what is known completed by estimates, and `doubts` about these.

    What is known is returned unchanged if the model estimates no beats.
    """
    pipeline = load_pipeline(model)
    encoder = pipeline.model.encoder
    if not encoder.semantic_tokenizer.config.beat_line:
        return known, {}
    vocal = pipeline.feature_extractor.resampled(samples, rate)
    heard = encoder.listen(vocal)
    sheet = encoder.lead_sheet(vocal, known, heard)
    seconds = len(samples) / rate
    if sheet.has_beats:
        sheet = on_the_beat(completed(sheet, seconds, notes=sung_notes(samples, rate)), seconds)
    if known.has_beats:
        sheet = replace(sheet, estimated=[name for name in sheet.estimated if name != "beats"])
    return sheet, doubts(encoder, heard, sheet, seconds)


def doubts(encoder: HAFMVocalEncoder, heard: Heard, sheet: LeadSheet, seconds: float) -> dict[str, Any]:
    """Alternatives to estimates: "choices" (`chord_choices`), and "others", beats at the second likeliest tempo."""
    tokenizer, listener = encoder.semantic_tokenizer, encoder.listener
    if listener is None or sheet.beats is None:
        return {}
    frame_rate = tokenizer.config.frame_rate
    alternatives: dict[str, Any] = {}
    if "beats" in sheet.estimated:
        tempo = 60 / float(np.diff(sheet.beats).mean())
        near = likeliest_tempo(listener.tempi, listener.tempo_of(heard.line), tempo)
        phase = tokenizer.beat_phase(heard.places, near=near)
        other = completed(LeadSheet.from_estimates(phase, None, frame_rate), seconds)
        alternatives["others"] = other.beats or []
    if "chords" in sheet.estimated:
        listed = sheet.phase(len(heard.line), frame_rate)
        assert listed is not None
        likely = listener.chords(heard.line, listed, replace(sheet, chords=()))
        alternatives["choices"] = chord_choices(likely, sheet.chords, frame_rate)
    return alternatives


def pitch_line(samples: audio.Samples, rate: int) -> np.ndarray:
    """MIDI note numbers of the voice (float32 [N] at `rate` Hz): float64 [T] at 25 Hz, NaN where nothing is sung."""
    pitch = fundamental_frequency(audio.resample(samples, rate, PITCH_RATE), PITCH_RATE)[:: FRAME_RATE // LINE_RATE]
    return midi_pitch(pitch)


def lead_sheet_of(timeline: dict[str, Any] | None, vocal: str | None) -> LeadSheet | None:
    """The lead sheet on a timeline, None if it is empty or for another vocal; a ValueError if it is invalid."""
    if not timeline or not vocal or timeline.get("vocal") != vocal:
        return None
    sheet = LeadSheet.given(timeline.get("sheet") or {})
    return sheet if sheet.has_beats or sheet.chords or sheet.sections or sheet.style else None


def write_sheet(timeline: dict[str, Any], request: Request) -> Path:
    """Writes the lead sheet for a generation in the format of the timeline's "ask"; a ValueError if it is empty."""
    kind, sheet = (timeline.get("ask") or {}).get("format"), lead_sheet_of(timeline, request.vocal)
    samples, rate = read_vocal(request.vocal, request.seconds)
    samples = audio.with_channels(samples, 1)
    vocal = load_pipeline(request.model).feature_extractor.resampled(samples, rate)
    style, energy = request.options.style, request.options.energy
    if sheet is not None or style != AUTO_STYLE or energy:
        sheet = with_style_and_energy(sheet or LeadSheet(), style, energy, vocal.samples, LISTENING_RATE)
    if sheet is None or kind not in {*IN_BARS, "json"}:
        raise ValueError("There are no beats or chords to write yet; listen to a voice, or tap along.")
    melody = sung_notes(samples, rate) if kind == "midi" else []
    song = chart(sheet, len(samples) / rate) if kind in IN_BARS else None
    folder = Path(tempfile.mkdtemp(dir=JOBS))
    (path,) = write_lead_sheet(sheet, folder, Path(str(request.vocal)).stem, [kind], song, melody)
    return path


def uploaded(path: Any, known: Sequence[Path] = ()) -> Path:
    """The path of an uploaded or known file; a ValueError for any other: clients must not read arbitrary files."""
    found = Path(str(path)).resolve()
    there = found.is_relative_to(JOBS.resolve()) or found in [each.resolve() for each in known]
    if not there or not found.is_file():
        raise ValueError("This recording has been removed from the server; record it again.")
    return found
