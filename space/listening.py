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
import torch

from hafm_hf import LeadSheet, audio
from hafm_hf.accompaniment.song import requested_lead_sheet
from hafm_hf.lead_sheet.bars import chart, completed, on_the_beat
from hafm_hf.lead_sheet.files import IN_BARS, write_lead_sheet
from hafm_hf.lead_sheet.vocabulary import ENERGIES
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
        sheet = estimate(model, samples, rate, known)
        if sheet.has_beats:
            sheet = on_the_beat(completed(sheet, len(samples) / rate), len(samples) / rate)
        if known.has_beats:
            sheet = replace(sheet, estimated=[name for name in sheet.estimated if name != "beats"])
        pitch = [None if np.isnan(note) else round(float(note), 2) for note in pitch_line(samples, rate)]
        unsure = doubts(model, samples, rate, sheet)
    energies = ENERGIES if "energy" in load_pipeline(model).model.known_streams else ()
    found = {"vocal": vocal, "seconds": len(samples) / rate, "pitch": pitch, "energies": energies}
    return found | {"sheet": sheet.to_dict(), **unsure}


@on_gpu
def estimate(model: str, samples: audio.Samples, rate: int, known: LeadSheet) -> LeadSheet:
    """Completes what is known by the model's estimates; returns it unchanged if the model estimates no beats."""
    composite = load_pipeline(model).model
    beats = composite.semantic_tokenizer.config.beat_line
    return composite.complete_lead_sheet(samples, rate, known) if beats else known


@on_gpu
def doubts(model: str, samples: audio.Samples, rate: int, sheet: LeadSheet) -> dict[str, Any]:
    """Alternatives to estimates: "choices" (`chord_choices`), and "others", beats at the second likeliest tempo."""
    composite = load_pipeline(model).model
    tokenizer, listener = composite.semantic_tokenizer, composite.listener
    if listener is None or sheet.beats is None or not {"beats", "chords"} & {*sheet.estimated}:
        return {}
    frame_rate, found = tokenizer.config.frame_rate, dict[str, Any]()
    waveform = torch.from_numpy(audio.resample(samples, rate, tokenizer.config.sampling_rate))
    line, places = composite.listen(waveform)
    if "beats" in sheet.estimated:
        own = 60 / float(np.diff(sheet.beats).mean())
        phase = tokenizer.beat_phase(places, near=likeliest_tempo(listener.tempi, listener.tempo_of(line), own))
        other = completed(LeadSheet.from_estimates(phase, None, frame_rate), len(samples) / rate)
        found["others"] = other.beats or []
    if "chords" in sheet.estimated:
        likely = listener.chords(line, sheet.phase(len(line), frame_rate), replace(sheet, chords=()))
        found["choices"] = chord_choices(likely, sheet.chords, frame_rate)
    return found


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
    sheet = requested_lead_sheet(samples, rate, sheet, request.options)
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
