"""What was heard: a voice's beats, bars, chords and key for the timeline, without generating anything.

Between reading and generating on the path of the data: `listen` fills the timeline, a person mends it there, and
`lead_sheet_of` reads what the timeline sends back.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hafm_hf import LeadSheet, audio
from hafm_hf.audio.analysis import FRAME_RATE, fundamental_frequency, key_fit
from hafm_hf.lead_sheet.chords import MAJOR_ROOTS, MINOR_ROOTS, PITCH_CLASSES
from songs import load_pipeline, on_gpu, read_vocal
from takes import JOBS

# pitch is found at it in a fraction of the time, and as exactly as a line on a screen needs
PITCH_RATE = 8_000
# values of the pitch line a second
LINE_RATE = 25
A4_HZ, A4_MIDI = 440.0, 69
# until somebody says otherwise; the model estimates no bars
USUAL_METRE = 4


def listen(vocal: str | None, model: str, length: float | None, known: LeadSheet) -> dict[str, Any]:
    """What the timeline shows of a voice.

    Args:
        vocal, length: as for `read_vocal`.
        model: whose listening it is.
        known: tempo or beats, as far as they are known.

    Returns:
        "vocal" (the file), "seconds", "pitch" (MIDI numbers at 25 Hz, None where nothing is sung) and "sheet", whose
        beats and chords cover the voice from start to end; without beats where the model hears none.

    Raises:
        ValueError: a voice, model or tempo that cannot be used.
    """
    samples, rate = read_vocal(vocal, length)
    seconds, pitch = len(samples) / rate, pitch_line(samples, rate)
    heard = hear(model, samples, rate, known)
    if known.has_beats:
        heard = replace(heard, estimated=[name for name in heard.estimated if name != "beats"])
    if known.beats is not None:
        # of the estimate only the chords: what is known to the sample stays so
        heard = known.completed_by(replace(heard, beats=None))
    sheet = completed(heard, pitch, seconds)
    line = [None if np.isnan(note) else round(float(note), 2) for note in pitch]
    return {"vocal": vocal, "seconds": seconds, "pitch": line, "sheet": sheet.to_dict()}


@on_gpu
def hear(model: str, samples: audio.Samples, rate: int, known: LeadSheet) -> LeadSheet:
    """The model's estimate; nothing is estimated by a model that knows no beats."""
    composite = load_pipeline(model).model
    if not composite.semantic_tokenizer.config.beat_line:
        return known
    return composite.hear_lead_sheet(samples, rate, 0, known)


def pitch_line(samples: audio.Samples, rate: int) -> np.ndarray:
    """MIDI numbers of what is sung (float32 [N] at `rate` Hz): float64 [T] at 25 Hz, NaN where nothing is."""
    pitch = fundamental_frequency(audio.resample(samples, rate, PITCH_RATE), PITCH_RATE)[:: FRAME_RATE // LINE_RATE]
    return A4_MIDI + PITCH_CLASSES * np.log2(pitch / A4_HZ)


def completed(heard: LeadSheet, pitch: np.ndarray, seconds: float) -> LeadSheet:
    """An estimate with beats up to both ends of the voice, chords that change on them, a metre and the sung key."""
    key, guess = sung_key(pitch), heard.beats_per_bar is None
    sheet = replace(
        heard,
        key=key,
        beats_per_bar=heard.beats_per_bar or USUAL_METRE,
        estimated=sorted({*heard.estimated, *(["key"] if key else []), *(["beats_per_bar"] if guess else [])}),
    )
    if heard.beats is None:
        return sheet
    beats = np.asarray(heard.beats)
    first, last = beats[1] - beats[0], beats[-1] - beats[-2]
    before = beats[0] - first * np.arange(int(beats[0] / first), 0, -1)
    behind = beats[-1] + last * np.arange(1, int(max(seconds - beats[-1], 0.0) / last) + 1)
    beats = np.concatenate([before, beats, behind])
    edges = np.array([0.0, *beats[(beats > 0.0) & (beats < seconds)], seconds])
    chords = []
    for *span, label in heard.chords:
        start, stop = (float(edges[np.abs(edges - edge).argmin()]) for edge in span)
        if start < stop:
            chords.append((start, stop, label))
    return replace(sheet, beats=beats.tolist(), chords=chords, downbeat=heard.downbeat + len(before))


def sung_key(pitch: np.ndarray) -> str | None:
    """The key in which a line of MIDI numbers (float64 [T], NaN where nothing is sung) lies; None without notes."""
    notes = pitch[~np.isnan(pitch)]
    if not len(notes):
        return None
    classes = np.bincount(np.round(notes).astype(int) % PITCH_CLASSES, minlength=PITCH_CLASSES)
    mode, tonic = divmod(int(key_fit(classes.astype(np.float64)).argmax()), PITCH_CLASSES)
    return f"{(MINOR_ROOTS if mode else MAJOR_ROOTS)[tonic]}:{'min' if mode else 'maj'}"


def lead_sheet_of(timeline: dict[str, Any] | None, vocal: str | None) -> LeadSheet | None:
    """The lead sheet that a timeline shows of this vocal; None where it shows another one, or nothing that is known.

    Raises:
        ValueError: what the timeline sends makes no sense.
    """
    if not timeline or not vocal or timeline.get("vocal") != vocal:
        return None
    sheet = LeadSheet.told(timeline.get("sheet") or {})
    return sheet if sheet.has_beats or sheet.chords else None


def uploaded(path: Any) -> Path:
    """A file that the browser says it has uploaded.

    Raises:
        ValueError: it lies elsewhere: strangers don't choose which files of this machine are read.
    """
    found = Path(str(path)).resolve()
    if not found.is_relative_to(JOBS.resolve()) or not found.is_file():
        raise ValueError("This recording has been removed from the server; record it again.")
    return found
