# SPDX-License-Identifier: Apache-2.0
"""The paper's protocol: loads the test songs of MUSDB18 in their original layout; lists published results."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..corpus.stem_names import BAND_NAMES
from .datasets import Clip, Part, flat
from .statistics import HAFMEvaluationError

CLIP_SECONDS = 10.0
# of what a failing program has written, the end is shown
SHOWN_ERROR_CHARACTERS = 300
# in the order of the audio streams of a .stem.mp4
STEMS = ("mixture", *BAND_NAMES, "vocals")
UNPACK = "ffmpeg -v error -i {mix}" + "".join(f" -map 0:a:{i} {{folder}}/{stem}.wav" for i, stem in enumerate(STEMS))
# commands that write the vocals of a mix into a folder; audio-separator's runs MDX-Net, as in the paper
SEPARATIONS = {
    "audio-separator": "audio-separator {mix} -m kuielab_b_vocals.onnx --single_stem Vocals --normalization 1 "
    "--output_format WAV --use_soundfile --output_dir {folder}",
    "demucs": "demucs {mix} --two-stems vocals --shifts 0 -o {folder}",
}
# Table 2 of the paper, and the abstract of its version 4: FAD_i, FAD_s and Δ
PUBLISHED: dict[str, Any] = {
    "Retrieval": (3.85, 3.40, 0.45), "SingSong-Base": (1.36, 1.17, 0.19), "SingSong-XL": (1.28, 0.96, 0.32),
    "HAFM-Base": (2.08, 2.30, 0.33),
    "HAFM, three stages (abstract, June 2026)": (1.71, None, None),
    "HAFM, two stages (abstract, June 2026)": (2.10, None, None),
    "note": "Table 2 of the paper, as printed, and the abstract of version 4, where listeners prefer three stages to "
    "the true accompaniments in 51.5 % of pairs; their tool and clips are not known: compare orders of magnitude. "
    "FAD_i of HAFM-Base is 2.02 in version 1 and 2.08 in version 2, and its Δ is not the difference of its columns.",
}  # fmt: skip


def load_musdb18(folder: Path, out: Path, separation: str) -> list[Clip]:
    """Loads MUSDB18's test songs: SONG/{vocals,drums,bass,other,mixture}.wav, or SONG.stem.mp4.

    Args:
        folder: folder of MUSDB18-HQ or MUSDB18; its subfolder test is used if there is one.
        out: folder for unpacked and separated songs, which are reused.
        separation: a key of `SEPARATIONS`, a command with {mix} and {folder}, or "none".

    Raises:
        HAFMEvaluationError: no songs, a missing stem, or a failing program.
    """
    root = folder
    if (folder / "test").is_dir():
        root = folder / "test"
    packed = {path.name.removesuffix(".stem.mp4"): path for path in root.glob("*.stem.mp4")}
    unpacked = {path.parent.name for path in root.glob("*/vocals.wav")}
    clips = []
    for name in sorted(unpacked | packed.keys()):
        folder_of_song = root / name
        if name in packed:
            folder_of_song = _folder_written_by(UNPACK, packed[name], out / "stems" / name)
        files = {stem: folder_of_song / f"{stem}.wav" for stem in ("vocals", "mixture", *BAND_NAMES)}
        if missing := [path for path in files.values() if not path.is_file()]:
            raise HAFMEvaluationError(f"{missing[0]} is missing; a song of MUSDB18 has {', '.join(STEMS)}.")
        separated = None
        if separation != "none":
            command = SEPARATIONS.get(separation, separation)
            separated_folder = _folder_written_by(command, files["mixture"], out / "separated" / name)
            # programs name the file differently: "vocals.wav", "mixture_(Vocals)_MODEL.wav"
            vocals = [path for path in separated_folder.rglob("*ocals*") if "no_vocals" not in path.name]
            if len(vocals) != 1:
                raise HAFMEvaluationError(
                    f"{separated_folder} should hold one file of vocals, not {len(vocals)}; delete it."
                )
            separated = Part(vocals[0])
        # the reference is the sum of the band's stems
        band = [files[stem] for stem in BAND_NAMES]
        reference = Part(band[0], also=tuple(band[1:]))
        clips.append(Clip(flat(name), flat(name), Part(files["vocals"]), reference, separated))
    if not clips:
        raise HAFMEvaluationError(f"{root} holds no song of MUSDB18: neither SONG/vocals.wav nor SONG.stem.mp4.")
    return clips


def _folder_written_by(command: str, mix: Path, folder: Path) -> Path:
    """Runs a command that writes files into a new folder; if the folder exists, it is reused without running anything.

    The folder appears only once the command has succeeded.

    Args:
        command: the command line, in which {mix} stands for the file to read and {folder} for where to write.
        mix: the file to read.
        folder: the folder to create.

    Returns:
        `folder`.

    Raises:
        HAFMEvaluationError: the program is not installed, or fails.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        # inside, so that it can be moved away while `temporary` itself is deleted
        output = f"{temporary}/made"
        os.mkdir(output)
        words = [word.replace("{mix}", str(mix)).replace("{folder}", output) for word in shlex.split(command)]
        name, *arguments = words
        # first in this Python environment, which may not be activated
        places = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
        program = shutil.which(name, path=places)
        if program is None:
            raise HAFMEvaluationError(f"{name} is not installed; demucs and audio-separator: extra 'separate'.")
        done = subprocess.run([program, *arguments], capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            last_words = " ".join(done.stderr.split())[-SHOWN_ERROR_CHARACTERS:]
            raise HAFMEvaluationError(f"{name} failed on {mix} ({last_words}).")
        os.replace(output, folder)
    return folder
