# SPDX-License-Identifier: Apache-2.0
"""One command from rendered songs to a complete model that accompanies a voice."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("pretty_midi", reason="pretty_midi is not installed")
pytest.importorskip("mir_eval", reason="mir_eval is not installed")

from hafm_hf.accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
from hafm_hf.audio import read_audio
from hafm_hf.pretrained.loading import codec_fingerprint, fingerprint
from hafm_hf.tokenizers.codecs import load_codec
from hafm_hf.training.arguments import parse_arguments
from hafm_tiny.songs.song_corpus import SongCorpusOptions, build_corpus, list_tasks
from hafm_tiny.whole_model import NEEDS, PRESETS, WholeModelOptions, part_commands
from programs import RECIPES, run_program


@pytest.fixture(scope="module")
def corpus(songs: Path, voices: Path, soundfont: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small rendered corpus in two styles."""
    folder = tmp_path_factory.mktemp("rendered")
    options = SongCorpusOptions(
        songs=songs, voices=voices, soundfonts=(soundfont,), output=folder, training_voices=("alto",),
        test_voices=("bass",), validation_songs=3, test_songs=1, seconds=(22.0, 23.0), styles=("folk", "pop"),
    )  # fmt: skip
    rendered = build_corpus(options, list_tasks(options, 0))
    assert all(seconds > 20 for _, seconds in rendered)
    return folder


@pytest.fixture(scope="module")
def small_recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the recipes whose configurations have smaller batches and fewer validation crops."""
    repository = tmp_path_factory.mktemp("repository")
    (repository / "examples").symlink_to(RECIPES.parent / "examples")
    folder = repository / "recipes"
    folder.mkdir()
    for path in RECIPES.iterdir():
        if path.name != "configs":
            (folder / path.name).symlink_to(path)
    (folder / "configs/tiny").mkdir(parents=True)
    for path in (RECIPES / "configs/tiny").iterdir():
        config = yaml.safe_load(path.read_text()) | {"global_batch": 4, "validation_crops": 4, "validation_batch": 4}
        (folder / "configs/tiny" / path.name).write_text(yaml.safe_dump(config))
    return folder


def test_every_part_follows_those_it_needs_and_gets_its_share_of_the_hours(corpus: Path, tmp_path: Path) -> None:
    options = WholeModelOptions(corpus, tmp_path / "out", RECIPES, hours=1.6)
    commands = part_commands(options, {"codec": 1000, "hubert": 500})
    assert list(commands) == list(NEEDS)
    for index, name in enumerate(commands):
        assert set(NEEDS[name]) <= set(list(commands)[:index]), name
        assert commands[name][0] == "hafm" or (RECIPES / commands[name][0]).is_file(), name
    hours = [float(words[words.index("--max_hours") + 1]) for words in commands.values() if "--max_hours" in words]
    assert sum(hours) == pytest.approx(1.0), "codec and HuBERT have the other 0.6 of 1.6 hours"
    steps = [int(commands[part][commands[part].index("--steps") + 1]) for part in ("codec", "decoder")]
    assert steps == [1320, 120], "1.32 and 0.12 times the 1000 steps with discriminators that fit into the time"
    options_of_steps = ("--quantize_from", "--adversarial_from", "--steps")
    starts = [int(commands["codec"][commands["codec"].index(name) + 1]) for name in options_of_steps]
    assert starts == sorted(starts), "an autoencoder, then quantised, then against discriminators"
    # with two workers, the coarse stage has half of the hours
    parallel = part_commands(dataclasses.replace(options, workers=2), {"codec": 1000, "hubert": 500})
    assert float(parallel["coarse"][parallel["coarse"].index("--max_hours") + 1]) == pytest.approx(0.8)


def test_stages_read_the_lead_sheet_parts_that_the_songs_have(corpus: Path, tmp_path: Path) -> None:
    options = WholeModelOptions(corpus, tmp_path / "out", RECIPES)
    commands = part_commands(options, {"codec": 1000, "hubert": 500})
    assert set(options.styles) <= {"folk", "pop"}
    assert options.styles
    for stage, is_acoustic in (("semantic", False), ("coarse", True), ("fine", True)):
        words = commands[stage][1:]
        if is_acoustic:
            # the options of train_tiny_stage.py alone come last
            words = words[: words.index("--codec")]
        architecture, _, _, optimization, _ = parse_arguments(words)
        assert ("energy" in architecture.lead_sheet_streams) == (stage != "fine")
        assert "style" in architecture.lead_sheet_streams
        assert architecture.styles == options.styles
        assert architecture.ranges_by_style()["pop"] == {"metres": [4], "tempo": [70.0, 134.0], "density": [1.8, 5.0]}
        assert (architecture.codebook_pattern == "delay") == is_acoustic, "one codebook has no pattern"
        assert architecture.conditioning_fusion == "sum"
        assert optimization.optimizer == "muon"
    assert "--separator" in commands["model"]


def test_parts_that_need_sections_styles_or_stems_are_left_out_without_them(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / split / "song").mkdir(parents=True)
        (tmp_path / split / "song/labels.json").write_text('{"beats": [0.1, 0.6], "sections": []}')
    commands = part_commands(WholeModelOptions(tmp_path, tmp_path / "out", RECIPES), {"codec": 1000, "hubert": 500})
    for stage in ("semantic", "coarse"):
        words = commands[stage][1:]
        if stage == "coarse":
            words = words[: words.index("--codec")]
        architecture, *_ = parse_arguments(words)
        assert architecture.lead_sheet_streams == ["chord", "beat", "bar", "style"]
        assert not architecture.styles
    assert "separator" not in commands


def test_the_tiny_preset_and_its_configurations_are_those_of_the_bundled_model(bundled_model: Path) -> None:
    parts = json.loads((bundled_model / "config.json").read_text())
    preset = PRESETS["tiny"]
    for stage in ("semantic", "coarse", "fine"):
        config = str(RECIPES / f"configs/tiny/{stage}.yaml")
        architecture, data, *_ = parse_arguments([config, "--corpus", "c", "--output_dir", "o"])
        theirs = parts[f"{stage}_config"]
        assert architecture.codebook_pattern in (theirs["codebook_pattern"], None)
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "position_scheme", "conditioning_fusion")
        for name in names:
            assert getattr(architecture, name) == theirs[name], (stage, name)
        assert set(architecture.lead_sheet_streams) == set(theirs["lead_sheet_streams"])
        assert data.crop_seconds == theirs["window_seconds"]
        sizes = architecture.hidden_size, architecture.num_hidden_layers, architecture.num_attention_heads
        assert getattr(preset, stage) == sizes
    codec = parts["codec_config"]
    hubert = parts["semantic_tokenizer_config"]["hubert_config"]
    assert preset.encoder == (codec["encoder_width"], codec["encoder_layers"])
    assert preset.decoder == (codec["decoder_width"], codec["decoder_layers"])
    assert preset.hubert == (hubert["hidden_size"], hubert["num_hidden_layers"])


def test_one_command_makes_a_model_that_accompanies_and_a_second_run_has_nothing_to_do(
    corpus: Path, songs: Path, voices: Path, soundfont: Path, small_recipes: Path, tmp_path: Path
) -> None:  # fmt: skip
    # all songs except those for test have been rendered already
    shutil.copytree(corpus, tmp_path / "songs")
    shutil.rmtree(tmp_path / "songs/test")
    rendered = f"--soundfont {soundfont} --training-voice alto --test-voice bass --validation-songs 3 --test-songs 1"
    smallest = ["--preset", "trial", "--hours", 0.002, "--workers", 2, "--clusters", 20]
    folders = [tmp_path / "songs", tmp_path / "out"]
    words = [*folders, "--songs", songs, "--voices", voices, "--render", rendered, *smallest]
    command = [sys.executable, str(small_recipes / "train_tiny.py"), *map(str, words)]
    run = run_program(command, timeout=1800, check=True)
    assert run.stdout.strip() == str(tmp_path / "out/model")
    model = HAFMForVocalAccompaniment.from_pretrained(tmp_path / "out/model")
    assert model.semantic_tokenizer.config.separate_centroids
    assert "recipes/train_tiny.py" in (tmp_path / "out/model/README.md").read_text()
    vocal = next((tmp_path / "songs/test").glob("*/vocal.flac"))
    samples, rate = read_audio(vocal, seconds=1.2)
    played = model.generate(samples, rate, seed=1, style=model.coarse.config.styles[0])
    assert len(played.audio[0]) == round(1.2 * model.sampling_rate)
    assert model.separator is not None
    assert json.loads((tmp_path / "out/decoder/figures.json").read_text())["clips"] > 1
    trained, kept = (load_codec(tmp_path / "out" / part / "codec").model for part in ("decoder", "codec"))
    assert codec_fingerprint(trained) == codec_fingerprint(kept) == codec_fingerprint(model.codec)
    assert fingerprint(trained) != fingerprint(kept)
    steps = json.loads((tmp_path / "out/plan.json").read_text())["steps"]
    assert min(steps.values()) >= 16, "at least twice as many as the timing runs have"
    logs = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.log")}
    run_program(command, check=True)
    assert logs == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.log")}
    other = run_program([*command, "--preset", "tiny"])
    assert other.returncode == 1
    assert "begun with other options" in other.stderr
