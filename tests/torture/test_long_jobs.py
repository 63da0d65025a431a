# SPDX-License-Identifier: Apache-2.0
"""prepare, train and evaluate survive kills, second processes and full disks without partial output."""

import json
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile

from chaos import Digest, digest_files, kill_repeatedly
from corpus.karaoke import save_tokenizers, write_karaoke
from faults import Tally
from hafm_hf.corpus.locks import locked
from integration.training_runs import losses, read_metrics, words
from little_band import RATE, song
from programs import ForkedWork, hafm, start_fork_server, train
from training.toy_corpus import write_toy_corpus
from vocals import file_bytes, glide


@dataclass
class Job:
    """A long job.

    Args:
        function: runs it with command-line words.
        words: the words for an output folder.
        digest: what must be equal of two finished output folders.
    """

    function: Callable[[list[str]], None]
    words: Callable[[Path], list[str]]
    digest: Digest

    def start(self, output: Path, log: Path) -> ForkedWork:
        """Starts the job in its own process, with its output in a folder and its messages in the file `log`."""
        return ForkedWork(self.function, self.words(output), log=log)


@pytest.fixture(scope="module")
def jobs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """prepare, train, evaluate and accompany, on inputs so small that one run takes seconds."""
    start_fork_server()
    folder = tmp_path_factory.mktemp("jobs")
    write_karaoke(folder / "songs", 8)
    tokenizers = save_tokenizers(folder / "tokenizers")
    prepare_words = ["--vocal-channel", "right", "--tracks-per-shard", "1", "--min-seconds", "1"]
    prepare_words += ["--semantic-tokenizer", tokenizers["semantic_tokenizer"], "--codec", tokenizers["codec"]]
    write_toy_corpus(folder / "corpus")
    quick: dict[str, Any] = {"max_steps": 12, "validation_steps": 6, "save_steps": 2, "warmup_steps": 3}
    for number in range(4):
        place = folder / "pairs" / f"song{number}"
        place.mkdir(parents=True)
        for name, sound in zip(("vocal", "instrumental"), song(number, 2.0), strict=True):
            soundfile.write(place / f"{name}.wav", sound, RATE)
    evaluate_words = ["--pairs", str(folder / "pairs"), "--model", str(tiny_model), "--clip-seconds", "2"]
    (folder / "vocal.wav").write_bytes(file_bytes(glide(1.0)))
    accompany_words = [str(folder / "vocal.wav"), "--model", str(tiny_model), "--seed", "1", "--skip-fine"]
    return {
        "prepare": Job(hafm, lambda out: ["prepare", str(folder / "songs"), str(out), *prepare_words], digest_files),
        "train": Job(train, lambda out: words(folder / "corpus", out, **quick), digest_run),
        "evaluate": Job(
            hafm,
            lambda out: ["evaluate", *evaluate_words, "--out", str(out)],
            partial(digest_files, compared=("report.*", "clips.jsonl", "rendered/*.wav")),
        ),
        "accompany": Job(hafm, lambda out: ["accompany", *accompany_words, "--out", str(out)], digest_files),
    }


def digest_run(folder: Path) -> dict[str, str]:
    """Digests of the finished and the best stage of a training run by file, and every loss."""
    found = digest_files(folder, compared=("final/*", "best/*"))
    return found | {"losses": json.dumps(losses(read_metrics(folder)))}


KILLED = [
    pytest.param(name, marks=pytest.mark.fault(f"killed {name}", cut=cut, full=50))
    for name, cut in (("prepare", 3), ("train", 3), ("evaluate", 3))
]


@pytest.mark.parametrize("name", KILLED)
def test_a_job_killed_at_random_times_ends_with_the_same_output(
    name: str, tally: Tally, jobs: dict[str, Job], tmp_path: Path
) -> None:
    report = kill_repeatedly(
        lambda output: jobs[name].start(output, tmp_path / "log.txt"), tmp_path, jobs[name].digest, tally.tries
    )
    for _ in range(report.kills - len(report.lost)):
        tally.survived()
    for sentence in report.lost:
        tally.lose(f"{sentence} {(tmp_path / 'log.txt').read_text()[-2000:]}")


@pytest.mark.fault("two processes, one output folder")
@pytest.mark.parametrize("name", ["prepare", "train", "evaluate"])
def test_a_second_process_in_one_folder_is_refused(name: str, jobs: dict[str, Job], tmp_path: Path) -> None:
    output = tmp_path / "output"
    with locked(output):
        before = digest_files(output)
        second = jobs[name].start(output, tmp_path / "log.txt")
        assert second.wait(None) == 1
    (said,) = second.said()
    assert str(output) in said
    assert "another process" in said
    assert digest_files(output) == before


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """An empty folder on a read-only disk; skips if mounting is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a disk")
    (disk / "output").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    yield disk / "output"
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.fault("read-only output")
@pytest.mark.parametrize("name", ["prepare", "train", "evaluate", "accompany"])
def test_an_unwritable_folder_is_named_in_one_sentence(
    name: str, jobs: dict[str, Job], read_only: Path, tmp_path: Path
) -> None:
    work = jobs[name].start(read_only, tmp_path / "log.txt")
    assert work.wait(None) == 1
    (said,) = work.said()
    assert str(read_only) in said, said
    assert "ead-only" in said or "written" in said, said


def limited(function: Callable[[list[str]], None], arguments: list[str], size: int) -> None:
    """Runs a job whose files cannot exceed `size` bytes, so that writing fails as on a full disk."""
    # otherwise this signal would end the process
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    function(arguments)


@pytest.mark.fault("full disk")
@pytest.mark.parametrize(
    ("name", "size"), [("prepare", 4_000), ("train", 30_000), ("evaluate", 20_000), ("accompany", 20_000)]
)
def test_a_full_disk_gives_one_sentence_and_the_same_command_resumes(
    name: str, size: int, jobs: dict[str, Job], tmp_path: Path
) -> None:
    job = jobs[name]
    output = tmp_path / "output"
    work = ForkedWork(limited, job.function, job.words(output), size, log=tmp_path / "log.txt")
    assert work.wait(None) == 1, work.said()
    assert len(work.said()) == 1, work.said()
    assert not list(output.rglob("*.part"))
    # with equal folder names, since a corpus's card contains the name
    folders = (output, tmp_path / "whole" / "output")
    again, whole = (job.start(folder, tmp_path / f"{number}.txt") for number, folder in enumerate(folders))
    assert again.wait(None) == whole.wait(None) == 0
    assert job.digest(output) == job.digest(folders[1])
    shutil.rmtree(output)
