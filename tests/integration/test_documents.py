# SPDX-License-Identifier: Apache-2.0
"""The documents' commands work: README's are run, in order, at the smallest size; the others' options are checked."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer.main

from commands import run_command
from hafm_hf.cli import app
from hafm_hf.cli.info import describe_model
from hafm_hf.lead_sheet.vocabulary import LEAD_SHEET_ROWS
from programs import REPOSITORY, run_program
from readme import Block, blocks, imported_names
from vocals import file_bytes, glide

WORKSHOP = REPOSITORY / "recipes" / "hafm_tiny" / "README.md"
PATTERNS = ("*.md", "docs/*.md", "[a-z]*/README.md")
DOCUMENTS = sorted(
    str(path.relative_to(REPOSITORY))
    for path in (WORKSHOP, *(path for pattern in PATTERNS for path in REPOSITORY.glob(pattern)))
)
ALL = [block for document in DOCUMENTS for block in blocks(document)]
SHELL = [block for block in ALL if block.language == "bash"]
PYTHON = [block for block in ALL if block.language == "python"]
# Appended to a documented command, these only make it faster.
SMALLER = {
    "recipes/train_stage.py": "--max_steps 2 --global_batch 2 --crop_seconds 1 --hidden_size 16 --num_hidden_layers 1 "
    "--num_attention_heads 2 --head_dim 8 --warmup_steps 1 --validation_crops 2 --validation_batch 2 --compile false",
    "evaluate": "--clip-seconds 1 --limit 2 --skip-fine --no-baselines",
}
# This recipe passes the options that it does not know to the other.
PASSES_ON = {"train_tiny_stage.py": "train_stage.py"}
PROGRAMS = {"hafm", "make", "pip", "python", "accelerate", "hf", "git", "cd", "curl", "."}
# Unmarked blocks of these documents are run.
RUN = ("README.md", "docs/architecture.md", "docs/evaluation.md")


def label(block: Block) -> str:
    """The name of a block in test reports: its document and section."""
    return f"{block.document}: {block.section}"


def test_blocks_that_are_not_run_are_marked() -> None:
    commands = [block for block in (*SHELL, *PYTHON) if block.runs and block.document not in RUN]
    assert not list(map(label, commands))


@pytest.mark.parametrize("block", SHELL, ids=label)
def test_every_command_names_files_options_and_extras_that_exist(block: Block) -> None:
    for words in block.commands:
        words = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
        assert words[0] in PROGRAMS, words
        if words[0] in ("python", "accelerate"):
            check_script(words)
        elif words[0] == "make":
            targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
            assert set(words[1:]) <= set(targets), words
        elif words[0] in CHECKS:
            CHECKS[words[0]](words)


def test_readme_shows_the_commands_of_a_fresh_machine_side_by_side() -> None:
    (install,) = [block for block in SHELL if block.document == "README.md" and ["make", "demo"] in block.commands]
    place = install.commands.index(["make", "demo"])
    assert install.commands[place : place + 2] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_options_in_running_text_exist(document: str) -> None:
    text = re.sub(r"^```.*?^```", "", (REPOSITORY / document).read_text(), flags=re.MULTILINE | re.DOTALL)
    known = options_of_hafm() | options_of_recipes()
    for words in map(shlex.split, re.findall(r"(?<!`)`((?:hafm |--)[^`]*)`(?!`)", text)):
        if words[0] == "hafm" and words[1].islower() and not words[1].startswith("-"):
            assert words[1] in typer.main.get_command(app).commands, words  # type: ignore[attr-defined]
        for option in [word for word in words if word.startswith("--") and word != "--help"]:
            assert option.split("=")[0].lstrip("-").replace("-", "_") in known, f"{document}: {option}"


def test_every_option_that_help_shows_is_documented() -> None:
    text = "".join((REPOSITORY / document).read_text() for document in DOCUMENTS)
    named = set(re.findall(r"(?<![\w-])--[\w-]+", text))
    # in Python, and as a word of its own in a table of options
    for words in re.findall(r"\b([a-z_]+)=|`([a-z_]+)`", text):
        named |= {f"--{word.replace('_', '-')}" for word in words}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    shown = {each.opts[0] for command in commands.values() for each in command.params if not each.hidden}
    assert not sorted(name for name in shown if name.startswith("--") and name not in named)


@lru_cache
def options_of_recipes() -> set[str]:
    """Options of all recipes, and those of the tests."""
    scripts = [path for path in (REPOSITORY / "recipes").glob("*.py") if "__main__" in path.read_text()]
    return {"torture"}.union(*map(options_of, scripts))


@lru_cache
def options_of_hafm() -> set[str]:
    """Options of all `hafm` commands and subcommands."""
    names = {"version"}
    commands = [typer.main.get_command(app)]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        names |= {
            name.lstrip("-").replace("-", "_")
            for each in command.params
            for name in (*each.opts, *each.secondary_opts)
        }
    return names


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_point_to_existing_files_and_headings(document: str) -> None:
    path = REPOSITORY / document
    for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", path.read_text()):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{document}: {link}"
        assert not anchor or anchor in anchors(target), f"{document}: {link}"


@lru_cache
def anchors(document: Path) -> set[str]:
    """The anchors that GitHub and the hub give to the headings of a document."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_architecture_describes_the_folders_in_the_order_of_their_imports() -> None:
    contract = (REPOSITORY / "pyproject.toml").read_text().split("\nlayers = [")[1].split("]")[0]
    layers = [name.removeprefix("hafm_hf.") for name in re.findall(r"[\w.]+", contract)]
    text = (REPOSITORY / "docs/architecture.md").read_text()
    described = re.findall(r"\*\*`(?:recipes/)?(\w+)(?:/|\.py)`\*\*", text)
    assert [name for name in described if name != "recipes"] == layers


@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_architecture_shows_the_settings_of_the_bundled_stages(stage: str) -> None:
    folder = REPOSITORY / "src/hafm_hf/checkpoints/hafm-tiny" / stage
    config = json.loads((folder / "config.json").read_text())
    settings = json.loads((folder / "generation_config.json").read_text())
    # config files lose the order of the rows
    rows = [name for name in LEAD_SHEET_ROWS if name in config["lead_sheet_streams"]]
    cells = [
        stage,
        config["codebook_pattern"],
        ", ".join(rows),
        f"{settings['window_seconds']:g}, {settings['overlap_seconds']:g}",
        f"{settings['guidance_scale']:g}",
        f"{settings['history_free_guidance']:g}",
        f"{settings['temperature']:g}",
    ]
    text = (REPOSITORY / "docs/architecture.md").read_text()
    assert f"| {' | '.join(cells)} |" in text.splitlines()
    # what the sentence above the table says of them
    assert settings["top_k"] == 250
    assert config["conditioning_fusion"] == "sum"
    assert config["position_scheme"] == "time"
    assert settings["independent_windows"] == (stage == "fine")


def test_readme_states_the_size_and_the_styles_of_the_bundled_model(bundled_model: Path) -> None:
    described = describe_model(str(bundled_model))
    readme = " ".join((REPOSITORY / "README.md").read_text().split())
    styles = sorted(described["styles"])
    listed = f"{', '.join(styles[:-1])} and {styles[-1]}"
    assert f"`hafm-tiny` ({described['parameters'] / 1e6:.1f} M parameters), plays {listed} in" in readme


def check_hafm(words: list[str]) -> None:
    """Parses `hafm …` without running it; raises what the command line does for words that it does not understand."""
    command = typer.main.get_command(app)
    context = command.make_context("hafm", words[1:])
    while hasattr(command, "resolve_command"):
        _, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(command.name, rest, parent=context)


def check_pip(words: list[str]) -> None:
    """Asserts that the package has the extras that are named in brackets."""
    project = (REPOSITORY / "pyproject.toml").read_text()
    for word in words:
        in_brackets = re.search(r"\[(.*)\]", word)
        for extra in in_brackets[1].split(",") if in_brackets else []:
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), f"{word}: there is no extra {extra!r}"


CHECKS = {"hafm": check_hafm, "pip": check_pip}


def check_script(words: list[str]) -> None:
    """Asserts that the files of the repository that a command names exist, and that its script has the options."""
    for word in words:
        if word.startswith(("recipes/", "space/", "src/")):
            assert (REPOSITORY / word).exists(), word
    script = next(word for word in words if word.endswith(".py"))
    for option in [word for word in words[words.index(script) :] if word.startswith("--")]:
        name = option.split("=")[0].lstrip("-").replace("-", "_")
        assert name in options_of(REPOSITORY / script), f"{script} has no {option}"


@lru_cache
def options_of(script: Path) -> set[str]:
    """The options that a script's --help lists, without dashes and with underscores."""
    wide = {**os.environ, "COLUMNS": "200"}
    listed = run_program([script, "--help"], env=wide, check=True).stdout
    options = {name.replace("-", "_") for name in re.findall(r"(?<![\w-])--([\w-]+)", listed)}
    if script.name in PASSES_ON:
        options |= options_of(script.with_name(PASSES_ON[script.name]))
    return options


@pytest.mark.parametrize("block", [each for each in PYTHON if not each.runs or each.document not in RUN], ids=label)
def test_every_python_block_parses_and_its_imports_exist(block: Block) -> None:
    for module, name in imported_names(block.text):
        found = importlib.import_module(module)
        assert not name or hasattr(found, name), f"{module} has no {name}"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A reader's folder: the clone's folders, a vocal, and songs as two files each."""
    for name in ("recipes", "src", "space", "examples"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "vocal.wav").write_bytes(file_bytes(glide(1.0)))
    rng = np.random.default_rng(0)
    for number in range(4):
        song = tmp_path / "my-songs" / f"song {number}"
        song.mkdir(parents=True)
        for name, samples in (("vocals", 0.5 * glide(3.2)), ("accompaniment", 0.2 * rng.standard_normal(76_800))):
            soundfile.write(song / f"{name}.wav", samples, 24_000)
        pair = tmp_path / "pairs" / song.name
        pair.mkdir(parents=True)
        for name, part in (("vocals", "vocal"), ("accompaniment", "instrumental")):
            (pair / f"{part}.wav").symlink_to(song / f"{name}.wav")
    return tmp_path


def run(words: list[str], folder: Path) -> None:
    """Runs a command of a document in a folder, at smaller sizes where it takes long, and asserts that it succeeds."""
    if words[0] in ("hafm", "accelerate"):
        smaller = next((more for script, more in SMALLER.items() if script in words), "")
        run_command([*words, *smaller.split()], folder)
        return
    program = shutil.which(words[0], path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "HF_HOME": str(folder / "cache")}
    result = subprocess.run([str(program), *words[1:]], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(words)}\n{result.stdout[-1000:]}\n{result.stderr[-3000:]}"


def run_python(code: str, folder: Path) -> None:
    """Runs Python code in a folder to its end, and asserts that it succeeds."""
    run_program([sys.executable, "-c", code], cwd=folder, check=True)


SECTIONS = list(dict.fromkeys(b.section for b in (*SHELL, *PYTHON) if b.document == "README.md" and b.runs))


@pytest.mark.parametrize("section", SECTIONS)
def test_readme_commands_run_and_write_the_files_they_name(workspace: Path, section: str) -> None:
    for block in [each for each in blocks("README.md") if each.section == section and each.runs]:
        if block.language == "python":
            run_python(block.text, workspace)
            continue
        for words in block.commands:
            run(words, workspace)
        for promised in re.findall(r"[\w/.-]+\.(?:wav|png)\b", block.text):
            assert (workspace / promised).is_file(), promised


def test_the_examples_of_the_documents_run(workspace: Path) -> None:
    examples = [b for b in PYTHON if b.runs and b.document != "README.md" and b.document in RUN]
    assert {block.document for block in examples} == set(RUN[1:])
    # one process, since imports take longer than the examples; each has its own namespace
    lines = [f"exec(compile({block.text!r}, {label(block)!r}, 'exec'), {{}})" for block in examples]
    run_python("\n".join(lines), workspace)


def test_the_documented_server_answers_with_the_mix(tmp_path: Path) -> None:
    (code,) = [block.text for block in blocks("docs/hub.md") if "FastAPI()" in block.text]
    (tmp_path / "vocal.wav").write_bytes(file_bytes(glide(1.0)))
    asking = """
from fastapi.testclient import TestClient

client = TestClient(app)
answer = client.post("/?seed=1", content=open("vocal.wav", "rb").read(), headers={"Content-Type": "audio/wav"})
assert answer.status_code == 200, answer.text
assert soundfile.info(io.BytesIO(answer.content)).duration == soundfile.info("vocal.wav").duration
refused = client.post("/", content=b"no audio")
assert refused.status_code == 400
assert "audio" in refused.json()["detail"]
"""
    run_python(code + asking, tmp_path)
