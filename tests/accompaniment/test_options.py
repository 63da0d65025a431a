# SPDX-License-Identifier: Apache-2.0
"""The one table of generation options: limits, and that one row more is an option everywhere."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from hafm_hf.accompaniment.options import MIX_OPTIONS, OPTIONS, GenerationOptions, MixOptions, Option
from programs import run_program
from vocals import file_bytes, glide

REPOSITORY = Path(__file__).resolve().parents[2]
BEHIND = "    decoding: str | None = option("
ROW = '    swing: float = option(0.0, "How late the off-beats come.", "Swing", least=0.0, most=1.0)\n'
# asks for swing in every place, and tells what the composite was asked for; nothing is generated
PROGRAM = """
import json, sys
from pathlib import Path
import transformers
from typer.testing import CliRunner
import hafm_hf
from hafm_hf.accompaniment import song
from hafm_hf.cli import app
from hafm_hf.hub.endpoint import EndpointHandler
sys.path.insert(0, sys.argv[1])
import app as space, songs

model, vocal = sys.argv[2], Path(sys.argv[3])
seen = []
def note(self, model, options, given, progress):
    seen.append(hafm_hf.GenerationOptions.of(options, given).swing)
    raise ValueError("enough")
song.Generation.__init__ = note
def ask(function):
    try:
        function()
    except Exception as error:
        # of the Space it is a gradio.Error
        assert "enough" in str(error), repr(error)
    return seen.pop()
pipeline = transformers.pipeline("vocal-accompaniment", model=model, device="cpu")
sound, rate = hafm_hf.audio.read_audio(vocal)
handler = EndpointHandler(model)
def command(vocal, share, folder):
    words = ["accompany", str(vocal), "--model", model, "--out", str(folder), "--swing", str(share)]
    return lambda: CliRunner().invoke(app, words)
found = {
    "generate": ask(lambda: pipeline.model.generate(sound, rate, swing=0.1)),
    "stream": ask(lambda: list(pipeline.model.stream(sound, rate, swing=0.2))),
    "pipeline": ask(lambda: pipeline(str(vocal), swing=0.3)),
    "pipeline.stream": ask(lambda: list(pipeline.stream(str(vocal), swing=0.4))),
    "endpoint": ask(lambda: handler({"inputs": vocal.read_bytes(), "parameters": {"swing": 0.5}})),
    "command": ask(command(vocal, 0.6, Path(sys.argv[4]))),
    "batch": ask(command(vocal.parent, 0.7, Path(sys.argv[4]) / "many")),
}
songs.OFFERED[:] = [model]
parameters = space.build_page().get_api_info()["named_endpoints"]["/accompany"]["parameters"]
names = [each["parameter_name"] for each in parameters]
values = [each.get("parameter_default") for each in parameters]
values[0], values[1], values[names.index("swing")] = str(vocal), model, 0.8
found["space"] = ask(lambda: space.accompany(*values))
help = CliRunner().invoke(app, ["accompany", "--help"], env={"COLUMNS": "200"}).output
print(json.dumps({"found": found, "shown": [line for line in help.splitlines() if "--swing" in line],
                  "plan": json.loads((Path(sys.argv[4]) / "many" / "plan.json").read_text())["options"]["swing"],
                  "threads": "threads" in names}))
"""


@pytest.mark.slow
def test_one_row_of_the_table_is_an_option_in_all_five_places(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs the extra `space`")
    source = tmp_path / "src" / "hafm_hf"
    shutil.copytree(
        REPOSITORY / "src" / "hafm_hf", source, ignore=shutil.ignore_patterns("checkpoints", "__pycache__")
    )
    table = source / "accompaniment" / "options.py"
    text = table.read_text()
    assert text.count(BEHIND) == 1
    table.write_text(text.replace(BEHIND, ROW + BEHIND))
    vocal = tmp_path / "vocals" / "vocal.wav"
    vocal.parent.mkdir()
    vocal.write_bytes(file_bytes(glide()))
    paths = os.pathsep.join([str(source.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [REPOSITORY / "space", tiny_model, vocal, tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path)}
    done = run_program([sys.executable, "-c", PROGRAM, *words], environment, fresh=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    places = ("generate", "stream", "pipeline", "pipeline.stream", "endpoint", "command", "batch", "space")
    assert told["found"] == {place: pytest.approx(0.1 * number) for number, place in enumerate(places, start=1)}
    (line,) = told["shown"]
    assert "0.0<=x<=1.0" in line and "How late the off-beats come." in line
    assert told["plan"] == 0.7, "a folder is gone on with under the same options only"
    assert not told["threads"], "how the machine computes is not for strangers"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples is 0; it must be between 1 and 64"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0; it must be 0 or more"),
        ({"skip_fine": "no"}, "skip_fine is 'no'; it must be True or False"),
        ({"decoding": "fastest"}, "decoding is 'fastest'; choose 'fast' or 'reference'"),
        ({"threads": 0}, "threads is 0; it must be 1 or more"),
    ],
)
def test_values_out_of_range_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationOptions(**options)


def test_options_by_name_go_before_those_of_the_object_and_none_says_nothing() -> None:
    options = GenerationOptions(seed=3, top_k=7)
    assert GenerationOptions.of(options, {"top_k": 9, "seed": None, "num_samples": None}) == GenerationOptions(
        seed=3, top_k=9
    )
    with pytest.raises(TypeError, match="There is no option 'guidance'; a generation takes num_samples, seed, guid"):
        GenerationOptions.of(given={"guidance": 3.0})


@pytest.mark.parametrize("table", [OPTIONS, MIX_OPTIONS])
def test_every_row_has_a_type_a_help_and_a_label(table: dict[str, Option]) -> None:
    for name, row in table.items():
        assert row.name == name and row.kind in (bool, int, float, str) and row.help.endswith(".") and row.label
        assert table is OPTIONS or row.least is not None and row.most is not None


def test_a_number_may_be_a_word_where_the_table_says_so() -> None:
    assert MixOptions(balance="auto").balance == "auto" and MixOptions.of(given={"balance": 3}).balance == 3
    for wrong, said in (({"balance": "loud"}, "must be a number or 'auto'"), ({"tail": "2"}, "tail is '2'")):
        with pytest.raises(ValueError, match=said):
            MixOptions.of(given=wrong)
