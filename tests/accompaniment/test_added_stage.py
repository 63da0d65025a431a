# SPDX-License-Identifier: Apache-2.0
"""A stage that a user adds, the example of docs/architecture.md, is a part of the composite like any other."""

import re
import sys
from pathlib import Path

from programs import run_program

EXAMPLE = Path(__file__).parents[2] / "docs" / "architecture.md"
# Python that runs after the example and asserts what its stage can do; `model` and `tiny` are the example's
CLAIMS = """
from hafm_hf.cli.info import describe_model

steps = {}
def report(stage, done, total):
    steps[stage] = (done, total)


vocal = 0.1 * torch.ones(24_000)
again = model.generate(vocal, 24_000, seed=1, progress=report)
assert list(steps) == ["semantic", "coarse", "air"]
assert steps["air"][0] == steps["air"][1]
kept = model.generate(vocal, 24_000, seed=2, keep=[(0.0, 0.5)], instrumental=again.audio[0])
assert kept.codes[0].shape == (8, 75)
chunks = torch.cat(list(model.stream(vocal, 24_000, seed=1)))
torch.testing.assert_close(chunks, again.audio[0], atol=1e-5, rtol=0)

model.save_pretrained("saved")
loaded = HAFMForVocalAccompaniment.from_pretrained("saved")
assert list(loaded.stages) == ["semantic", "coarse", "air"]
assert type(loaded.air) is AirForCausalLM
assert torch.equal(loaded.generate(vocal, 24_000, seed=1).codes[0], again.codes[0])
assert "air" in describe_model("saved")["parts"]
assert not hasattr(tiny, "air")
assert tiny.config.air_config is None
"""


def test_the_example_of_a_stage_generates_streams_keeps_spans_saves_and_loads(tmp_path: Path) -> None:
    section = EXAMPLE.read_text().split("\n## Add a stage\n")[1]
    example = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    run_program([sys.executable, "-c", example + CLAIMS], cwd=tmp_path, fresh=True, check=True)
