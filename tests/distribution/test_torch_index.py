# SPDX-License-Identifier: Apache-2.0
"""A new environment gets PyTorch's CPU build where there is one, and its origin is reported."""

import runpy
from collections.abc import Iterator

import pytest

from loopback import Quiet, serving
from programs import REPOSITORY

torch_index = runpy.run_path(str(REPOSITORY / "requirements/torch_index.py"))["torch_index"]


@pytest.fixture
def index() -> Iterator[str]:
    """A server with a page at /whl/cpu/ and nothing else."""

    class Handler(Quiet):
        """Knows one page."""

        def do_HEAD(self) -> None:
            """Answers 200 for that page, 404 for others."""
            self.send_response(200 if self.path == "/whl/cpu/" else 404)
            self.end_headers()

    with serving(Handler) as url:
        yield url


@pytest.mark.parametrize(
    ("system", "chosen", "page", "options", "said"),
    [
        ("Linux", None, "/whl/cpu/", "--extra-index-url {url}", "from the CPU builds at {url}"),
        ("Linux", None, "/moved/", "", "several gigabytes: {url} can't be reached"),
        ("Darwin", None, "/whl/cpu/", "", "from pip's own index"),
        ("Linux", "--index-url https://mirror/", "/whl/cpu/", "--index-url https://mirror/", "with --index-url"),
        ("Linux", "", "/whl/cpu/", "", "from pip's own index"),
    ],
)
def test_torch_comes_from_the_cpu_index_if_it_answers(
    system: str, chosen: str | None, page: str, options: str, said: str, index: str
) -> None:
    url = index + page
    found, where = torch_index(system, chosen, url)
    assert found == options.format(url=url)
    assert said.format(url=url) in where


def test_set_up_continues_without_the_cpu_index() -> None:
    options, where = torch_index("Linux", None, "http://127.0.0.1:1/whl/cpu/")
    assert options == ""
    assert "can't be reached" in where


def test_make_asks_for_the_index_before_it_installs_torch() -> None:
    recipe = (REPOSITORY / "Makefile").read_text().split("/.core: ")[1].split("\n\n")[0]
    assert "requirements/torch_index.py) torch" in recipe
    assert "(CPU)" not in recipe
