# SPDX-License-Identifier: Apache-2.0
"""Source separation with published models, each through its own library (extra `separate`).

`audio-separator` runs MDX-Net models such as KUIELab's, which the paper used; `demucs` (4.1 or later) its own.
"""

import functools
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import torch

from hafm_hf.audio import Samples, with_channels
from hafm_hf.corpus.reading import decode
from hafm_hf.corpus.stems import DEFAULT_MAX_SECONDS, Stems, align
from hafm_hf.corpus.tokenizing import torch_device
from hafm_hf.corpus.tracks import HAFMCorpusError, Reason, TrackError
from hafm_hf.pretrained.redaction import first_line

# KUIELab's MDX-Net for vocals, as in the paper; audio-separator obtains the instrumental by subtraction
DEFAULT_MDX_MODEL = "kuielab_b_vocals.onnx"
DEFAULT_DEMUCS_MODEL = "htdemucs"
MODEL_CACHE = Path("~/.cache/audio-separator")


@dataclass(frozen=True)
class SeparatorOptions:
    """Which separator to use, with which model.

    Attributes:
        name (str): audio-separator or demucs.
        model (str): name of the model; the separator's default if empty.
        model_dir (str): folder of model files; the separator's default if empty.
        device (str): auto, cpu or cuda.
        max_seconds (float): longer files are rejected.
    """

    name: str = "audio-separator"
    model: str = ""
    model_dir: str = ""
    device: str = "auto"
    max_seconds: float = DEFAULT_MAX_SECONDS


class Separator(Protocol):
    """The interface that separate.py needs."""

    def separate(self, mix: Path) -> Stems:
        """Vocal and instrumental of a mix; raises TrackError if it can't be separated."""


class AudioSeparator:
    """audio-separator: MDX-Net and other models, given by file name.

    Args:
        options: model, folder and device; the separator's own defaults where they are empty.

    Raises:
        HAFMCorpusError: the model is neither in `model_dir` nor downloadable.
    """

    def __init__(self, options: SeparatorOptions) -> None:
        from audio_separator.separator import Separator as Library

        self.options = options
        self.model = options.model or DEFAULT_MDX_MODEL
        folder = Path(options.model_dir or MODEL_CACHE).expanduser()
        self.output = tempfile.TemporaryDirectory(prefix="hafm-separated-")
        self.library: Any = Library(
            log_level=logging.ERROR,
            model_file_dir=str(folder),
            output_dir=self.output.name,
            output_format="WAV",
            # so that stems are not attenuated separately: the corpus filter compares their levels
            normalization_threshold=1.0,
            use_soundfile=True,
        )
        self._choose_device(torch_device(options.device))
        try:
            self.library.load_model(model_filename=self.model)
        except Exception as error:
            raise HAFMCorpusError(
                f"The model {self.model} can't be loaded from {folder} ({first_line(error)[:200]}); put its "
                f"file there, or run once with a network: audio-separator --download_model_only -m {self.model}"
            ) from error

    def _choose_device(self, device: str) -> None:
        """Forces the device: the library uses any visible GPU, or silently the CPU if onnxruntime lacks CUDA."""
        if device == "cpu":
            self.library.torch_device = torch.device("cpu")
            self.library.onnx_execution_provider = ["CPUExecutionProvider"]
        elif self.model.endswith(".onnx") and self.library.onnx_execution_provider != ["CUDAExecutionProvider"]:
            raise HAFMCorpusError(
                "onnxruntime has no CUDA here; run: pip install onnxruntime-gpu, or separate on the device cpu."
            )

    def separate(self, mix: Path) -> Stems:
        """Vocal and instrumental of a mix, through temporary files, as the library requires.

        Raises:
            TrackError: the mix cannot be read, or is longer than `max_seconds`.
            HAFMCorpusError: the model does not separate vocals.
        """
        samples, rate = decode(mix, self.options.max_seconds)
        copy = os.path.join(self.output.name, "mix.wav")
        # 24 bits, because libsndfile writes a time stamp into float WAV files
        soundfile.write(copy, with_channels(samples, 2), rate, subtype="PCM_24")
        written: list[str] = []
        try:
            written = [os.path.join(self.output.name, os.path.basename(name)) for name in self.library.separate(copy)]
            stems = {role: _written(written, role) for role in ("vocals", "instrumental")}
        finally:
            for name in (copy, *written):
                Path(name).unlink(missing_ok=True)
        return align(*stems["vocals"], *stems["instrumental"])


def _written(paths: Sequence[str], role: str) -> tuple[Samples, int]:
    """Reads the stem that audio-separator wrote as NAME_(Role)_MODEL.wav.

    Args:
        paths: all files that it wrote.
        role: "vocals" or "instrumental".

    Returns:
        Samples (float32 [N, C]) and rate in Hz.

    Raises:
        HAFMCorpusError: there is none.
    """
    for path in paths:
        if f"({role})" in os.path.basename(path).lower():
            return decode(path, np.inf)
    names = ", ".join(map(os.path.basename, paths))
    raise HAFMCorpusError(f"The model wrote {names or 'nothing'} and no ({role}); choose one that separates vocals.")


class DemucsSeparator:
    """Demucs 4.1 or later; the instrumental is the sum of all stems but the vocals.

    Args:
        options: model, folder and device; Demucs's own defaults where they are empty.

    Raises:
        HAFMCorpusError: the model can't be loaded.
    """

    def __init__(self, options: SeparatorOptions) -> None:
        from demucs.api import Separator as Library

        self.options = options
        model = options.model or DEFAULT_DEMUCS_MODEL
        folder = Path(options.model_dir) if options.model_dir else None
        if folder is not None and not folder.is_dir():
            raise HAFMCorpusError(f"{folder} is not a folder; name the one with the model's .th files.")
        try:
            # without random shifts, so that equal songs give equal stems
            self.library: Any = Library(model, repo=folder, device=torch_device(options.device), shifts=0)
        except (Exception, SystemExit) as error:
            # demucs exits the process if a model is missing
            raise HAFMCorpusError(
                f"The demucs model {model} can't be loaded from {folder or 'the hub'} ({str(error)[:200]}); put its "
                ".th file into a folder and name that as the model folder, or run once with a network."
            ) from error

    def separate(self, mix: Path) -> Stems:
        """Vocal and instrumental of a mix at the model's rate.

        Raises:
            TrackError: the mix cannot be read, is empty, or is longer than `max_seconds`.
            HAFMCorpusError: the model does not separate vocals.
        """
        samples, rate = decode(mix, self.options.max_seconds)
        if len(samples) == 0:
            raise TrackError(Reason.TOO_SHORT, "no samples")
        _, sources = self.library.separate_tensor(torch.from_numpy(with_channels(samples, 2).T.copy()), rate)
        if "vocals" not in sources:
            raise HAFMCorpusError(f"The demucs model gives {', '.join(sources)} and no vocals; choose another one.")
        band = sum(sound for name, sound in sources.items() if name != "vocals")
        rate = self.library.samplerate
        vocal, band = (sound.cpu().numpy().T for sound in (sources["vocals"], band))  # float32 [N, 2]
        return align(vocal, rate, band, rate)


SEPARATORS: dict[str, Callable[[SeparatorOptions], Separator]] = {
    "audio-separator": AudioSeparator,
    "demucs": DemucsSeparator,
}


@functools.lru_cache(maxsize=1)
def make_separator(options: SeparatorOptions) -> Separator:
    """This process's separator, cached so that its model is loaded once."""
    if options.name not in SEPARATORS:
        raise HAFMCorpusError(f"There is no separator {options.name!r}; choose {' or '.join(SEPARATORS)}.")
    return SEPARATORS[options.name](options)
