# SPDX-License-Identifier: Apache-2.0
"""A process that reads hostile audio, so that native crashes, hangs and excessive memory are seen from outside.

Reads paths from stdin, one per line, and answers each with one line: "read", "refused: SENTENCE" or "lost: WHAT".
"""

import resource
import select
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np

GIBIBYTE = 1 << 30
# how long a file may take
SECONDS = 5.0
# how much of a file the feature extractor gets
EXTRACTED_SECONDS = 3.0


class Reader:
    """The test's handle of the child process, which is restarted after each crash or hang."""

    def __init__(self) -> None:
        """The child starts with the first file."""
        self.process: subprocess.Popen[str] | None = None

    def outcome(self, path: Path) -> str:
        """The child's answer for a file; "lost: …" if none comes within `SECONDS`, after which the child is killed."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            self._answer(patience=120.0)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n")
        answer = self._answer(SECONDS)
        if answer.startswith("lost"):
            self.stop()
        return answer

    def _answer(self, patience: float) -> str:
        """The child's next line; "lost: …" if it has ended, or none comes within `patience` seconds."""
        assert self.process is not None
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], patience)[0]:
            return f"lost: no answer for {patience:g} s"
        line = self.process.stdout.readline()
        return line.strip() if line else f"lost: the process ended with {self.process.wait()}"

    def stop(self) -> None:
        """Kills the child."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def read(path: str) -> str:
    """Reads a file as `hafm accompany` and the pipeline's feature extractor do, and returns the answer."""
    from hafm_hf import HAFMFeatureExtractor
    from hafm_hf.audio import HAFMAudioError, read_audio

    outcomes = []
    for source in (path, Path(path).read_bytes()):
        try:
            samples, rate = read_audio(source)
            HAFMFeatureExtractor()(samples[: round(EXTRACTED_SECONDS * rate)], rate)
        except HAFMAudioError as error:
            sentence = str(error)
            if "\n" in sentence or not sentence.endswith("."):
                return f"lost: {sentence!r} is not a sentence"
            outcomes.append(f"refused: {sentence}")
        else:
            if samples.dtype != np.float32 or not np.isfinite(samples).all():
                return "lost: read samples that are not finite"
            outcomes.append("read")
    if outcomes[0].split(":")[0] != outcomes[1].split(":")[0]:
        return f"lost: the path is {outcomes[0]}, its bytes {outcomes[1]}"
    return outcomes[0]


def main() -> None:
    """Answers paths until stdin ends."""
    from hafm_hf import HAFMFeatureExtractor, audio
    from vocals import file_bytes, glide

    HAFMFeatureExtractor()(audio.read_audio(file_bytes(glide(1.0)))[0], 24_000)
    # address space in use so far
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = in_use + GIBIBYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            print(read(line.rstrip("\n")), flush=True)
        except BaseException:
            print("lost:", traceback.format_exc().replace("\n", " | "), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
