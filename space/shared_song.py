# SPDX-License-Identifier: Apache-2.0
"""A song in one HTML file that plays without a network: voice and band as a track each, bars and chords.

The file holds each track twice: as Ogg Opus, and as a smaller MP3 for browsers that do not decode that. Rates are
constant, so that a minute takes at most 1.5 MB in base64. Its content is in shared/: song.html, song.css, song.js.
"""

import html
import io
import json
import math
import tempfile
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hafm_hf import audio
from hafm_hf.audio.levels import CEILING_DBFS
from opus_pieces import RATE
from takes import JOBS, Job, channels_of, placed

SHARED = Path(__file__).parent / "shared"
# kbit/s of each track
OPUS_KILOBITS = {"voice": 28, "band": 60}
MP3_KILOBITS = 24
MP3_RATE = 22_050
# Two channels are one if no sample of either is further from their mean.
SAME_CHANNEL = 1e-4
# libsndfile's compression levels from 0 to 1 are these kbit/s a channel, in equal steps, of Opus and of MP3 at 22 kHz
OPUS_RANGE = (256, 6)
MP3_RANGE = (160, 8)


def write_song(job: Job, mixer: dict[str, Any]) -> Path:
    """Writes a song as one HTML file, with the mixer's levels and without what is muted.

    Args:
        job: the take.
        mixer: the mixer's value; the "song" of its "ask" has title, bars and chords (static/share.js).

    Returns:
        The file's path.

    Raises:
        ValueError: everything is muted, or the job has expired.
    """
    about = (mixer.get("ask") or {}).get("song")
    if not isinstance(about, dict):
        about = {}
    voice, band, rate = placed(job, channels_of(job, mixer))
    sounds = {"voice": voice, "band": band}
    tracks = {name: sound for name, sound in sounds.items() if not audio.is_silent(sound)}
    if not tracks:
        raise ValueError("Voice and band are muted; turn one of them on to share the song.")
    gain = together(voice, band, rate, mixer.get("loudness"))
    with ThreadPoolExecutor() as pool:
        files = pool.map(lambda name: encode(name, tracks[name] * gain, rate), tracks)
    encoded = dict(zip(tracks, files, strict=True))
    path = Path(tempfile.mkdtemp(dir=JOBS)) / f"{job.name}_song.html"
    path.write_text(page({**about, "seconds": len(voice) / rate}, encoded), encoding="utf-8")
    return path


def together(voice: audio.Samples, band: audio.Samples, rate: int, lufs: Any) -> np.float32:
    """One factor for both tracks, with which their sum is as loud as asked and does not clip.

    Args:
        voice (float32 [N] or [N, 2]): the voice.
        band (like it): the band.
        rate: in Hz.
        lufs: loudness asked for; anything but a number: as it is.
    """
    mix = voice + band
    room_db = CEILING_DBFS - audio.true_peak_dbtp(mix)
    gain_db = 0.0
    if isinstance(lufs, int | float):
        gain_db = lufs - audio.loudness(mix, rate)
    # the loudness of a sound that is too short or silent is not finite
    if not math.isfinite(gain_db):
        gain_db = 0.0
    return np.float32(audio.decibels_to_gain(min(gain_db, room_db)))


def encode(name: str, sound: audio.Samples, rate: int) -> dict[str, bytes]:
    """Encodes a track twice.

    Args:
        name: of the track: "voice" or "band".
        sound (float32 [N] or [N, 2]): its samples.
        rate: in Hz.

    Returns:
        {"opus": an Ogg file, "mp3": a mono file}.
    """
    mono = audio.with_channels(sound, 1)
    # a voice in the middle needs no second channel
    if sound.ndim > 1 and np.allclose(sound, mono[:, None], atol=SAME_CHANNEL):
        sound = mono
    opus = audio.resample(sound, rate, RATE)
    mp3 = audio.resample(mono, rate, MP3_RATE)
    return {
        "opus": file_of(opus, RATE, OPUS_RANGE, OPUS_KILOBITS[name], format="OGG", subtype="OPUS"),
        "mp3": file_of(
            mp3, MP3_RATE, MP3_RANGE, MP3_KILOBITS, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="CONSTANT"
        ),
    }


def file_of(sound: audio.Samples, rate: int, levels: tuple[int, int], kilobits: int, **kind: Any) -> bytes:
    """Encodes a sound at a constant bit rate.

    Args:
        sound (float32 [N] or [N, C]): its samples.
        rate: in Hz.
        levels: kbit/s a channel of libsndfile's compression levels 0 and 1.
        kilobits: a second, of all channels.
        kind: libsndfile's names of the format.
    """
    most, least = levels
    file = io.BytesIO()
    channels = 1 if sound.ndim == 1 else sound.shape[1]
    level = (most - kilobits / channels) / (most - least)
    with soundfile.SoundFile(file, "w", rate, channels, compression_level=level, **kind) as encoder:
        # libsndfile takes a few seconds at a time
        for start in range(0, len(sound), rate):
            encoder.write(sound[start : start + rate])
    return file.getvalue()


def page(about: dict[str, Any], tracks: dict[str, dict[str, bytes]]) -> str:
    """The HTML of a song. Names are data: nothing in them is read as HTML, and only our own script may run.

    Args:
        about: title, bars and chords (static/share.js), and "seconds", the song's length.
        tracks: files by kind (`encode`), by track.
    """
    style = (SHARED / "song.css").read_text(encoding="utf-8")
    script = (SHARED / "song.js").read_text(encoding="utf-8")
    sounds = "".join(
        f"<script type='application/octet-stream' id='{name}-{kind}'>{b64encode(content).decode()}</script>\n"
        for name, files in tracks.items()
        for kind, content in files.items()
    )
    parts = {
        "TITLE": html.escape(str(about.get("title") or "Song")),
        "STYLE": style,
        "SCRIPT": script,
        # no name can end the script
        "SONG": json.dumps(about).replace("<", "\\u003c"),
        "SOUNDS": sounds,
        "POLICY": f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}",
    }
    # split once, so that a title cannot hold the name of another part
    pieces = (SHARED / "song.html").read_text(encoding="utf-8").split("%")
    return "".join(parts.get(piece, piece) for piece in pieces)


def digest(text: str) -> str:
    """What a content security policy calls a script or style."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
