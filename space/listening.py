# SPDX-License-Identifier: Apache-2.0
"""Server side of the timeline: estimates of a voice's beats, chords and key, and the user's corrections.

`listen` fills the timeline, the user corrects it there, and `lead_sheet_of` reads what the timeline sends back.
"""

import math
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hafm_hf import LeadSheet, audio
from hafm_hf.audio.feature_extraction_hafm import LISTENING_RATE
from hafm_hf.lead_sheet.bars import KEY_SHARPNESS, USUAL_METRE, chart, note_seconds, on_the_beat, with_bars_throughout
from hafm_hf.lead_sheet.chords import key_fit
from hafm_hf.lead_sheet.files import IN_BARS, write_lead_sheet
from hafm_hf.lead_sheet.lead_sheet import Span, beats_passed
from hafm_hf.lead_sheet.spelling import key_name
from hafm_hf.lead_sheet.vocabulary import AUTO_STYLE, ENERGIES
from hafm_hf.listening.encoder import HAFMVocalEncoder, Heard, with_style_and_energy
from hafm_hf.listening.modeling_listener import chord_choices
from hafm_hf.tokenizers.beat_tracker import TEMPO_RANGE, likeliest_tempo, tempo_prior
from hafm_hf.tokenizers.pitch_contour import FRAME_RATE, fundamental_frequency, midi_pitch, sung_notes
from songs import Request, load_pipeline, on_gpu, read_recording, read_vocal
from takes import JOBS
from voice_check import remarks

# At this sampling rate (Hz) pitch estimation takes a fraction of the time, and is precise enough for the screen.
PITCH_RATE = 8_000
# At most this many voices are analysed at the same time; others wait.
LISTENING = threading.Semaphore(2)
# Values of the pitch line per second.
LINE_RATE = 25
# Estimates that are less probable than this are shown with a question mark.
SURE_TEMPO = 0.75
SURE_METRE = 0.85
SURE_KEY = 0.7
# Metres before anything is heard, and how often chords begin with a bar.
METRE_PRIOR = {3: 0.2, 4: 0.8}
ON_FIRST = 0.7


def listen(
    vocal: str | None, model: str, seconds: float | None, known: LeadSheet, metre: int | None = None
) -> dict[str, Any]:
    """Analyses a voice for the timeline; `known` may hold its tempo or beats, chords of parts of it, and its key.

    Returns:
        "vocal" (the file), "seconds", "pitch" (MIDI note numbers at 25 Hz, None where nothing is sung), "energies"
        that the model can play, "sheet", whose beats and chords cover the voice from start to end (without beats if
        the model estimates none), "gain" (dB by which a quiet voice is raised), "remarks" (sentences for the singer),
        and the entries of `doubts`. A ValueError says what cannot be used.
    """
    recording = read_recording(vocal, seconds)
    rate = recording.sampling_rate
    plain = audio.with_channels(recording.samples, 1)
    samples = audio.turned_up(plain, rate)
    with LISTENING:
        sheet, unsure = estimate(model, samples, rate, known, metre)
        pitch = pitch_line(samples, rate)
    line = [None if np.isnan(note) else round(float(note), 2) for note in pitch[:: FRAME_RATE // LINE_RATE]]
    energies = ENERGIES if "energy" in load_pipeline(model).model.encoder.lead_sheet_fields_read else ()
    return {
        "vocal": vocal,
        "seconds": len(samples) / rate,
        "pitch": line,
        "energies": energies,
        "gain": audio.quiet_gain_db(recording.samples, rate),
        "remarks": remarks(plain, rate, pitch),
        "sheet": sheet.to_dict(),
        **unsure,
    }


@on_gpu
def estimate(
    model: str, samples: audio.Samples, rate: int, known: LeadSheet, metre: int | None = None
) -> tuple[LeadSheet, dict[str, Any]]:
    """Listens to a voice (float32 [N] at `rate` Hz): what is known completed by estimates, and `doubts` about these.

    Known chords stay, and those around them are estimated to suit them and the key. What is known is returned
    unchanged if the model estimates no beats.
    """
    pipeline = load_pipeline(model)
    encoder = pipeline.model.encoder
    frame_rate = encoder.semantic_tokenizer.config.frame_rate
    if not encoder.semantic_tokenizer.config.beat_line:
        return known, {}
    vocal = pipeline.feature_extractor.prepared(samples, rate)
    heard = encoder.listen(vocal)
    sheet = encoder.lead_sheet(vocal, known, heard)
    seconds = len(samples) / rate
    if known.chords and encoder.listener is not None:
        phase = sheet.beat_phase(len(heard.contour), frame_rate)
        if phase is not None:
            likely = encoder.listener.chords(heard.contour, phase, known)
            estimates = LeadSheet.from_estimates(phase, likely, frame_rate).spelled(known.key)
            sheet = replace(sheet, chords=known.chords).with_chords_in_gaps(estimates, gaps_between(known.chords))
    if sheet.has_beats:
        sheet = on_the_beat(with_bars_throughout(sheet, seconds, metre, notes=sung_notes(samples, rate)), seconds)
    if known.has_beats and "beats" not in known.estimated:
        sheet = replace(sheet, estimated=[name for name in sheet.estimated if name != "beats"])
    return sheet, doubts(encoder, heard, sheet, known, seconds)


def gaps_between(chords: Sequence[Span]) -> list[tuple[float, float]]:
    """All spans (start s, stop s) without a chord, the last one without an end."""
    gaps = []
    end = 0.0
    for start, stop, _ in sorted(chords):
        if start > end:
            gaps.append((end, start))
        end = max(end, stop)
    return [*gaps, (end, math.inf)]


def doubts(
    encoder: HAFMVocalEncoder, heard: Heard, sheet: LeadSheet, known: LeadSheet, seconds: float
) -> dict[str, Any]:
    """Alternatives to estimates: "choices" (`chord_choices`), "others", beats at the second likeliest tempo, "unsure",
    names of the fields that may well be wrong, and "other_key", the runner-up of an estimated key."""
    tokenizer, listener = encoder.semantic_tokenizer, encoder.listener
    if listener is None or sheet.beats is None:
        return {}
    frame_rate = tokenizer.config.frame_rate
    alternatives: dict[str, Any] = {}
    unsure = []
    if "beats" in sheet.estimated:
        tempo = 60 / float(np.diff(sheet.beats).mean())
        logits = listener.tempo_of(heard.contour)
        near = likeliest_tempo(listener.tempi, logits, tempo)
        phase = tokenizer.track_beats(heard.phase_vectors, near=near)
        other = with_bars_throughout(LeadSheet.from_estimates(phase, None, frame_rate), seconds)
        alternatives["others"] = other.beats or []
        if tempo_probability(listener.tempi, logits, tempo) < SURE_TEMPO:
            unsure.append("beats")
    if "beats_per_bar" in sheet.estimated and metre_probability(sheet) < SURE_METRE:
        unsure.append("beats_per_bar")
    if "key" in sheet.estimated:
        probability, alternatives["other_key"] = key_probability(sheet)
        if probability < SURE_KEY:
            unsure.append("key")
    if "chords" in sheet.estimated or known.chords:
        listed = sheet.beat_phase(len(heard.contour), frame_rate)
        assert listed is not None
        likely = listener.chords(heard.contour, listed, replace(sheet, chords=known.chords))
        alternatives["choices"] = chord_choices(likely, sheet.chords, frame_rate)
    return alternatives | {"unsure": unsure}


def tempo_probability(tempi: torch.Tensor, logits: torch.Tensor, tempo: float) -> float:
    """How probable it is that a song's tempo is within 10 % of `tempo` (beats a minute), by a listener's logits."""
    known = tempi.cpu().double().numpy()
    likely = logits.cpu().double().numpy() + tempo_prior(known)
    shares = np.exp(likely - likely.max())
    return float(shares[np.abs(known / tempo - 1) < TEMPO_RANGE].sum() / shares.sum())


def metre_probability(sheet: LeadSheet) -> float:
    """How probable a lead sheet's metre is, by how many of its chords begin on a first beat of a bar, 3 or 4 long."""
    starts = np.array([start for start, *_ in sheet.chords[1:]])
    places = np.round(beats_passed(sheet.beats or (), starts)).astype(int)
    likely = {}
    for metre, prior in METRE_PRIOR.items():
        on_first = int(np.bincount(places % metre, minlength=metre).max())
        elsewhere = (1 - ON_FIRST) / (metre - 1)
        likely[metre] = prior * ON_FIRST**on_first * elsewhere ** (len(places) - on_first)
    return likely[sheet.beats_per_bar or USUAL_METRE] / sum(likely.values())


def key_probability(sheet: LeadSheet) -> tuple[float, str]:
    """The probability of the likeliest key if it is either that one or the runner-up, and the runner-up ("D:min")."""
    fit = np.exp(KEY_SHARPNESS * key_fit(note_seconds(sheet)))
    second, first = np.argsort(fit)[-2:]
    return float(fit[first] / (fit[first] + fit[second])), key_name(int(second))


def pitch_line(samples: audio.Samples, rate: int) -> np.ndarray:
    """MIDI note numbers of the voice (float32 [N] at `rate` Hz): float64 [T] at 100 Hz, NaN where nothing is sung."""
    return midi_pitch(fundamental_frequency(audio.resample(samples, rate, PITCH_RATE), PITCH_RATE))


def lead_sheet_of(timeline: dict[str, Any] | None, vocal: str | None) -> LeadSheet | None:
    """The lead sheet on a timeline, None if it is empty or for another vocal; a ValueError if it is invalid."""
    if not timeline or not vocal or timeline.get("vocal") != vocal:
        return None
    sheet = LeadSheet.given(timeline.get("sheet") or {})
    return sheet if sheet.has_beats or sheet.chords or sheet.sections or sheet.style else None


def set_chords(sheet: LeadSheet, spans: Any) -> list[Span]:
    """The chords of a lead sheet that the user has set.

    `spans` are those that the timeline has noted ([start s, stop s] each); without them, estimates are no chords of
    the user's, and all others are.
    """
    if not isinstance(spans, list):
        return [] if "chords" in sheet.estimated else [*sheet.chords]
    edges = [(float(start), float(stop)) for start, stop, *_ in spans]
    chosen = []
    for start, stop, label in sheet.chords:
        inside = sum(max(min(stop, last) - max(start, first), 0.0) for first, last in edges)
        # beats, and chords with them, may have moved a little
        if inside > (stop - start) / 2:
            chosen.append((start, stop, label))
    return chosen


def at_tempo(sheet: LeadSheet, tempo: Any, spans: Any) -> LeadSheet:
    """A lead sheet of which only what the user has set remains, for beats at another tempo (beats a minute)."""
    key = None if "key" in sheet.estimated else sheet.key
    estimated = [name for name in sheet.estimated if name in ("sections", "style")]
    chords = set_chords(sheet, spans)
    kept = LeadSheet(chords=chords, key=key, sections=sheet.sections, style=sheet.style, form=sheet.form)
    return replace(kept, tempo=tempo, estimated=estimated)


def write_sheet(timeline: dict[str, Any], request: Request) -> Path:
    """Writes the lead sheet for a generation in the format of the timeline's "ask"; a ValueError if it is empty."""
    kind, sheet = (timeline.get("ask") or {}).get("format"), lead_sheet_of(timeline, request.vocal)
    samples, rate = read_vocal(request.vocal, request.seconds)
    samples = audio.with_channels(samples, 1)
    vocal = load_pipeline(request.model).feature_extractor.prepared(samples, rate)
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
