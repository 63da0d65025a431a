# SPDX-License-Identifier: Apache-2.0
"""Server side of the timeline: estimates of a voice's beats, chords and key, and the user's corrections.

`listen` fills the timeline, the user corrects it there, and `lead_sheet_of` reads what the timeline sends back.

Dimensions: N samples, T frames, K tempi that the listener distinguishes.
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

# At most this many voices are analysed at the same time; others wait.
LISTENING = threading.Semaphore(2)
# Values of the pitch line per second.
LINE_RATE = 25
# Estimates that are less probable than this are shown with a question mark.
SURE_TEMPO = 0.75
SURE_METRE = 0.85
SURE_KEY = 0.7
# Prior probability of each number of beats in a bar, and how often chords begin with a bar.
METRE_PRIOR = {3: 0.2, 4: 0.8}
ON_FIRST = 0.7


def listen(
    vocal: str | None, model: str, seconds: float | None, known: LeadSheet, metre: int | None = None
) -> dict[str, Any]:
    """Analyses a voice for the timeline.

    Args:
        vocal: the file; None if there is none, which is an error.
        model: one of OFFERED.
        seconds: how much of the vocal is used; None or 0: all.
        known: may hold the tempo or the beats, chords of parts of the voice, and its key.
        metre: beats in a bar; None: estimated.

    Returns:
        "vocal" (the file), "seconds", "pitch" (MIDI note numbers at 25 Hz, None where nothing is sung), "energies"
        that the model can play, "sheet", whose beats and chords cover the voice from start to end (without beats if
        the model estimates none), "gain" (dB by which a quiet voice is raised), "remarks" (sentences for the singer),
        and the entries of `doubts`.

    Raises:
        ValueError: says what cannot be used.
    """
    with LISTENING:
        recording = read_recording(vocal, seconds)
        rate = recording.sampling_rate
        plain = audio.with_channels(recording.samples, 1)
        samples = audio.turned_up(plain, rate)
        sheet, unsure, pitch = estimate(model, samples, rate, known, metre)
    # JSON has no NaN
    pitch_line = [None if np.isnan(note) else round(float(note), 2) for note in pitch[:: FRAME_RATE // LINE_RATE]]
    energies: tuple[str, ...] = ()
    if "energy" in load_pipeline(model).model.encoder.lead_sheet_rows_read:
        energies = ENERGIES
    return {
        "vocal": vocal,
        "seconds": len(samples) / rate,
        "pitch": pitch_line,
        "energies": energies,
        "gain": audio.quiet_gain_db(recording.samples, rate),
        "remarks": remarks(plain, rate, pitch),
        "sheet": sheet.to_dict(),
        **unsure,
    }


@on_gpu
def estimate(
    model: str, samples: audio.Samples, rate: int, known: LeadSheet, metre: int | None = None
) -> tuple[LeadSheet, dict[str, Any], np.ndarray]:
    """Completes what is known of a voice by estimates.

    Args:
        model: one of OFFERED.
        samples (float32 [N]): the voice.
        rate: in Hz.
        known: its chords stay, and those around them are estimated to suit them and the key.
        metre: beats in a bar; None: estimated.

    Returns:
        The lead sheet, `doubts` about its estimates (`known` and {} if the model estimates no beats), and MIDI note
        numbers, float [T] at 100 Hz, NaN where nothing is sung.
    """
    pipeline = load_pipeline(model)
    encoder = pipeline.model.encoder
    frame_rate = encoder.semantic_tokenizer.config.frame_rate
    vocal = pipeline.feature_extractor.prepare(samples, rate)
    if not encoder.semantic_tokenizer.config.beat_line:
        return known, {}, midi_pitch(fundamental_frequency(vocal.samples, LISTENING_RATE))
    heard = encoder.hear(vocal)
    sheet = encoder.lead_sheet(vocal, known, heard)
    seconds = len(samples) / rate
    if known.chords and encoder.listener is not None:
        phase = sheet.beat_phase(len(heard.contour), frame_rate)
        # without beats there are no chords
        if phase is not None:
            # float [T, 25]: no chord, 24 triads
            likely = encoder.listener.chord_probabilities(heard.contour, phase, known)
            estimates = LeadSheet.from_estimates(phase, likely, frame_rate).spelled(known.key)
            sheet = replace(sheet, chords=known.chords).with_chords_in_gaps(estimates, gaps_between(known.chords))
    if sheet.has_beats:
        sheet = with_bars_throughout(sheet, seconds, metre, notes=heard.notes)
        sheet = on_the_beat(sheet, seconds)
    if known.has_beats and "beats" not in known.estimated:
        # given beats were only continued to the end
        sheet = replace(sheet, estimated=[name for name in sheet.estimated if name != "beats"])
    return sheet, doubts(encoder, heard, sheet, known, seconds), midi_pitch(heard.pitches)


def gaps_between(chords: Sequence[Span]) -> list[tuple[float, float]]:
    """The spans (start s, stop s) without a chord; the last one, after all chords, stops at infinity."""
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
    """Finds the estimates of a lead sheet that may well be wrong, and alternatives to them.

    Args:
        encoder: the model's.
        heard: what it hears of the voice.
        sheet: `known`, completed by estimates.
        known: what was given.
        seconds: length of the voice.

    Returns:
        "unsure", names of the fields that may well be wrong; "others", beats (s) at the likeliest other tempo, if the
        beats are estimates; "other_key", the runner-up of an estimated key; "choices" (`chord_choices`) of chords.
        {} if the model has no listener or there are no beats.
    """
    tokenizer = encoder.semantic_tokenizer
    listener = encoder.listener
    if listener is None or sheet.beats is None:
        return {}
    frame_rate = tokenizer.config.frame_rate
    alternatives: dict[str, Any] = {}
    unsure = []
    if "beats" in sheet.estimated:
        tempo = 60 / float(np.diff(sheet.beats).mean())
        logits = listener.tempo_logits_of(heard.contour)
        # another one than `tempo`
        second_tempo = likeliest_tempo(listener.tempi, logits, tempo)
        phase = tokenizer.track_beats(heard.phase_vectors, near_tempo=second_tempo)
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
        phase_of_sheet = sheet.beat_phase(len(heard.contour), frame_rate)
        assert phase_of_sheet is not None  # it has beats
        likely = listener.chord_probabilities(heard.contour, phase_of_sheet, replace(sheet, chords=known.chords))
        alternatives["choices"] = chord_choices(likely, sheet.chords, frame_rate)
    return alternatives | {"unsure": unsure}


def tempo_probability(tempi: torch.Tensor, logits: torch.Tensor, tempo: float) -> float:
    """How probable it is that a song's tempo is within 10 % of a given one.

    Args:
        tempi (float [K]): the listener's, in beats a minute.
        logits (float [K]): of these tempi, by the listener (`tempo_logits_of`).
        tempo: in beats a minute.
    """
    candidates = tempi.cpu().double().numpy()
    log_weights = logits.cpu().double().numpy() + tempo_prior(candidates)
    # less the highest, so that exp does not overflow
    weights = np.exp(log_weights - log_weights.max())
    is_near = np.abs(candidates / tempo - 1) < TEMPO_RANGE
    return float(weights[is_near].sum() / weights.sum())


def metre_probability(sheet: LeadSheet) -> float:
    """Probability (0 to 1) of a lead sheet's metre among those of METRE_PRIOR: chords tend to begin with a bar.

    Args:
        sheet: has at least two beats, unless it has at most one chord.
    """
    # the first chord begins with the song, whichever beat that is
    starts = np.array([start for start, *_ in sheet.chords[1:]])
    beat_numbers = np.round(beats_passed(sheet.beats or (), starts)).astype(int)
    weights = {}
    for metre, prior in METRE_PRIOR.items():
        # first beats of bars are those on which most chords begin
        count_on_first = int(np.bincount(beat_numbers % metre, minlength=metre).max())
        count_elsewhere = len(beat_numbers) - count_on_first
        # the other beats are equally likely
        on_other_beat = (1 - ON_FIRST) / (metre - 1)
        weights[metre] = prior * ON_FIRST**count_on_first * on_other_beat**count_elsewhere
    return weights[sheet.beats_per_bar or USUAL_METRE] / sum(weights.values())


def key_probability(sheet: LeadSheet) -> tuple[float, str]:
    """Compares the likeliest key of a lead sheet's chords with the runner-up.

    Returns:
        The probability (0.5 to 1) of the likeliest key, given that it is one of the two; and the runner-up's name
        ("D:min").
    """
    weights = np.exp(KEY_SHARPNESS * key_fit(note_seconds(sheet)))
    second, first = np.argsort(weights)[-2:]
    return float(weights[first] / (weights[first] + weights[second])), key_name(int(second))


def lead_sheet_of(timeline: dict[str, Any] | None, vocal: str | None) -> LeadSheet | None:
    """The lead sheet on a timeline; a ValueError if it is invalid.

    Args:
        timeline: the timeline's value; None if it is empty.
        vocal: the file that the lead sheet must be for.

    Returns:
        None if it is for another vocal, or has no beats, chords, sections or style.
    """
    if not timeline or not vocal or timeline.get("vocal") != vocal:
        return None
    sheet = LeadSheet.given(timeline.get("sheet") or {})
    if sheet.has_beats or sheet.chords or sheet.sections or sheet.style:
        return sheet
    return None


def set_chords(sheet: LeadSheet, spans: Any) -> list[Span]:
    """Finds the chords of a lead sheet that the user has set.

    Args:
        sheet: of the timeline.
        spans: in which the user has set chords, as the timeline has noted them ([start s, stop s] each). If it is no
            list, all chords are the user's, or none if the lead sheet's chords are estimates.
    """
    if not isinstance(spans, list):
        return [] if "chords" in sheet.estimated else [*sheet.chords]
    edges = [(float(start), float(stop)) for start, stop, *_ in spans]
    chosen = []
    for start, stop, label in sheet.chords:
        # seconds of the chord that are in one of the spans
        seconds_inside = sum(max(min(stop, last) - max(start, first), 0.0) for first, last in edges)
        # more than half is enough: beats, and chords with them, may have moved a little
        if seconds_inside > (stop - start) / 2:
            chosen.append((start, stop, label))
    return chosen


def at_tempo(sheet: LeadSheet, tempo: Any, spans: Any) -> LeadSheet:
    """Prepares a lead sheet for other beats: without its beats and its estimated chords and key, but with a tempo.

    Args:
        sheet: of the timeline.
        tempo: of the other beats, in beats a minute.
        spans: in which the user has set chords, as for `set_chords`.
    """
    key = None if "key" in sheet.estimated else sheet.key
    estimated = [name for name in sheet.estimated if name in ("sections", "style")]
    chords = set_chords(sheet, spans)
    kept = LeadSheet(chords=chords, key=key, sections=sheet.sections, style=sheet.style, form=sheet.form)
    return replace(kept, tempo=tempo, estimated=estimated)


def write_sheet(timeline: dict[str, Any], request: Request) -> Path:
    """Writes the lead sheet for a generation, with the style and energy of its request.

    Args:
        timeline: the timeline's value; its "ask" has the "format", "json" or one with bars.
        request: of the generation.

    Returns:
        The file's path.

    Raises:
        ValueError: the lead sheet is empty, or there is no such format.
    """
    file_format = (timeline.get("ask") or {}).get("format")
    sheet = lead_sheet_of(timeline, request.vocal)
    samples, rate = read_vocal(request.vocal, request.seconds)
    samples = audio.with_channels(samples, 1)
    vocal = load_pipeline(request.model).feature_extractor.prepare(samples, rate)
    style = request.options.style
    energy = request.options.energy
    if sheet is not None or style != AUTO_STYLE or energy:
        sheet = with_style_and_energy(sheet or LeadSheet(), style, energy, vocal.samples, LISTENING_RATE)
    if sheet is None or file_format not in {*IN_BARS, "json"}:
        raise ValueError("There are no beats or chords to write yet; listen to a voice, or tap along.")
    melody = sung_notes(vocal.samples, LISTENING_RATE) if file_format == "midi" else []
    bars = chart(sheet, len(samples) / rate) if file_format in IN_BARS else None
    folder = Path(tempfile.mkdtemp(dir=JOBS))
    (path,) = write_lead_sheet(sheet, folder, Path(str(request.vocal)).stem, [file_format], bars, melody)
    return path


def uploaded(path: Any, known: Sequence[Path] = ()) -> Path:
    """The path of an uploaded or known file; a ValueError for any other: clients must not read arbitrary files."""
    found = Path(str(path)).resolve()
    allowed = found.is_relative_to(JOBS.resolve()) or found in [example.resolve() for example in known]
    if not allowed or not found.is_file():
        raise ValueError("This recording has been removed from the server; record it again.")
    return found
