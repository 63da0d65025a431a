# SPDX-License-Identifier: Apache-2.0
"""Melodies with chords and bars, in beats, from POP909 and from lead sheets, for the simulated singer.

Chords are triads, 0 to 24 (`triad_class`). Dimensions: N notes, C chords.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging

from hafm_hf.lead_sheet.chords import triad_class
from hafm_hf.lead_sheet.lead_sheet import beats_passed

from ..song_pool import load_labels

logger = logging.get_logger(__name__)
Array = NDArray[np.float64]
# sources of tunes
SONGS = "songs"
SHEETS = "sheets"
# of each metre, quarter notes per beat, and beats per bar
METRES = {"4/4": (1.0, 4), "2/2": (1.0, 4), "2/4": (1.0, 4), "3/4": (1.0, 3), "6/8": (1.5, 4), "12/8": (1.5, 4)}
# tunes with fewer notes are left out
LEAST_NOTES = 16
# lead sheets are repeated until they are at least this long
LEAST_BEATS = 360
# notes of a lead sheet whose onsets are at most this many beats apart are simultaneous
SIMULTANEOUS_BEATS = 0.05
# sizes of POP909's validation and test split, as in rendered corpora; number of lead sheets for test
VALIDATION_SONGS = 50
TEST_SONGS = 59
TEST_TUNES = 100


@dataclass(frozen=True)
class Tune:
    """A melody and its chords.

    Attributes:
        name (str): name of the song.
        split (str): train, validation or test.
        source (str): songs or sheets.
        notes (float64 [N, 3]): onset and length in beats, and MIDI pitch, of N notes; monophonic.
        chords (float64 [C, 3]): start and end in beats, and triad (`triad_class`), of C chords.
        tempo (float, *optional*): original tempo in BPM.
        metre (int): beats per bar; 0 if unknown.
        downbeat (int): index of a beat that starts a bar.
    """

    name: str
    split: str
    source: str
    notes: Array
    chords: Array
    tempo: float | None
    metre: int
    downbeat: int

    @property
    def beats(self) -> float:
        """Length in beats."""
        return float(max(self.notes[-1, :2].sum(), self.chords[-1, 1]))


def labelled_tune(name: str, split: str, source: str, labels: Mapping[str, Any]) -> Tune | None:
    """Makes a tune of a song's labels, with times in beats instead of seconds.

    Args:
        name: name of the song.
        split: train, validation or test.
        source: SONGS or SHEETS.
        labels: `notes` (start, end, MIDI pitch), `chords` (start, end, label), `beats`, and possibly `downbeats`; all
            times in seconds.

    Returns:
        The tune; None if there are too few beats or notes, or no chords.
    """
    beats = np.asarray(labels["beats"], np.float64)
    if len(beats) < 2 or len(labels["notes"]) < LEAST_NOTES or not labels["chords"]:
        return None
    notes = np.array(labels["notes"], np.float64)
    chords = np.array([(start, end, triad_class(label)) for start, end, label, *_ in labels["chords"]], np.float64)
    for spans in (notes, chords):
        # starts and ends, from seconds to beats
        spans[:, :2] = beats_passed(beats, spans[:, :2].ravel()).reshape(-1, 2)
    # from ends to lengths
    notes[:, 1] -= notes[:, 0]
    # indices of the beats that start a bar
    downbeat_times = np.asarray(labels.get("downbeats") or (), np.float64)
    bars = np.round(beats_passed(beats, downbeat_times)).astype(int)
    metre = 0
    downbeat = 0
    if len(bars) > 1:
        # may be 0, if the labels' downbeats are too close together
        metre = int(np.median(np.diff(bars)))
    if metre:
        # of a bar in the middle of the song
        downbeat = int(bars[len(bars) // 2]) % metre
    tempo = 60 / float(np.median(np.diff(beats)))
    return Tune(name, split, source, notes, chords, tempo, metre, downbeat)


def pop909_tunes(folder: Path, validation: int, test: int) -> Iterator[Tune]:
    """Yields the songs of POP909 (`…/NNN/NNN.mid`), in the same splits as in rendered corpora.

    Args:
        folder: folder of the songs.
        validation, test: number of songs in these splits.
    """
    from ..songs.midi_song import SongError, list_songs, read_song
    from ..songs.song_corpus import split_songs

    paths = {path.name: path for path in list_songs(folder)}
    for name, split in split_songs(list(paths), validation, test).items():
        try:
            song = read_song(paths[name])
        except SongError as error:
            logger.warning("skipped %s: %s", name, error)
            continue
        labels = {
            "notes": [(note.start, note.end, note.pitch) for note in song.melody],
            "chords": [(chord.start, chord.end, chord.label) for chord in song.chords],
            "beats": song.beats,
            "downbeats": song.downbeats,
        }
        if (tune := labelled_tune(name, split, SONGS, labels)) is not None:
            yield tune


def rendered_tunes(corpus: Path) -> Iterator[Tune]:
    """Yields the training and validation songs of a rendered corpus, from their labels."""
    for split in ("train", "validation"):
        for name, labels in load_labels(corpus, split).items():
            if (tune := labelled_tune(name, split, SONGS, labels)) is not None:
                yield tune


def lead_sheet_tunes(path: Path, test: int = TEST_TUNES) -> Iterator[Tune]:
    """Yields the tunes of lead sheets, repeated to at least `LEAST_BEATS`.

    Those with a metre that is not in METRES, too few notes or no chords are skipped.

    Args:
        path: gzipped file with one JSON object per line.
        test: number of tunes for testing, the first ones in the order of hashes of source and title; skipped ones
            count. All others are for training.
    """
    sheets = [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]
    ranked = sorted(sheets, key=lambda sheet: hashlib.sha256((sheet["source"] + sheet["title"]).encode()).hexdigest())
    for rank, sheet in enumerate(ranked):
        if sheet["metre"] not in METRES or len(sheet["notes"]) < LEAST_NOTES or not sheet["chords"]:
            continue
        quarters_per_beat, metre = METRES[sheet["metre"]]
        notes = np.array(sorted(sheet["notes"]), dtype=np.float64)
        chords = np.array([(start, length, triad_class(label)) for start, length, label in sheet["chords"]])
        # starts and lengths, from quarter notes to beats
        notes[:, :2] /= quarters_per_beat
        chords[:, :2] /= quarters_per_beat
        # from lengths to ends
        chords[:, 1] += chords[:, 0]
        split = "test" if rank < test else "train"
        notes, chords = _repeated(_one_voice(notes), chords, metre)
        yield Tune(sheet["title"], split, SHEETS, notes, chords, tempo=None, metre=metre, downbeat=0)


def _one_voice(notes: Array) -> Array:
    """Makes notes monophonic: keeps the highest of simultaneous ones, and ends each where the next one starts.

    Args:
        notes (float64 [N, 3]): onset and length in beats, MIDI pitch.

    Returns:
        The remaining notes in the same form, in order of onset.
    """
    # by onset, and the highest first
    notes = notes[np.lexsort((-notes[:, 2], notes[:, 0]))]
    is_new_onset = np.append(True, np.diff(notes[:, 0]) > SIMULTANEOUS_BEATS)
    notes = notes[is_new_onset]
    notes[:-1, 1] = np.minimum(notes[:-1, 1], np.diff(notes[:, 0]))
    return notes


def _repeated(notes: Array, chords: Array, metre: int) -> tuple[Array, Array]:
    """Repeats a tune until it has at least `LEAST_BEATS`, each time from a bar line.

    Args:
        notes (float64 [N, 3]): onset and length in beats, MIDI pitch.
        chords (float64 [C, 3]): start and end in beats, triad.
        metre: beats in a bar.

    Returns:
        Notes and chords of all repetitions, in the same form.
    """
    last_end = max(notes[-1, :2].sum(), chords[-1, 1])
    # whole bars, in beats; 0.01: an end just after a bar line does not start another bar
    length = np.ceil(last_end / metre - 0.01) * metre
    repetitions = max(int(np.ceil(LEAST_BEATS / length)), 1)
    shifts = np.arange(repetitions) * length
    return (
        np.concatenate([notes + [shift, 0, 0] for shift in shifts]),
        np.concatenate([chords + [shift, shift, 0] for shift in shifts]),
    )


def load_tunes(
    songs: str = "", sheets: str = "", corpus: str = "", validation: int = VALIDATION_SONGS, test: int = TEST_SONGS
) -> dict[str, list[Tune]]:
    """Loads all tunes, by split.

    Args:
        songs: folder of songs in POP909's layout; empty: none.
        sheets: file of lead sheets; empty: none.
        corpus: folder of rendered songs, used only if `songs` is empty.
        validation, test: number of `songs` in these splits; of the lead sheets, up to 2 · `test` are for testing.

    Returns:
        Tunes by split: "train", "validation" and "test".
    """
    by_split: dict[str, list[Tune]] = {"train": [], "validation": [], "test": []}
    tunes: list[Tune] = []
    if songs:
        tunes += pop909_tunes(Path(songs), validation, test)
    elif corpus:
        tunes += rendered_tunes(Path(corpus))
    if sheets:
        tunes += lead_sheet_tunes(Path(sheets), test=min(TEST_TUNES, 2 * test))
    for tune in tunes:
        by_split[tune.split].append(tune)
    return by_split


def of_source(tunes: Sequence[Tune], source: str) -> list[Tune]:
    """The tunes from a source, SONGS or SHEETS."""
    return [tune for tune in tunes if tune.source == source]
