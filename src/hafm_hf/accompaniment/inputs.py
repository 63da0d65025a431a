# SPDX-License-Identifier: Apache-2.0
"""What people hand to the pipeline as a vocal: files, arrays, and rows, columns and data sets of `datasets`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import audio

# what a column of sound is called where a row has several
COLUMN_NAMES = ("vocal", "vocals", "audio")


def as_vocals(inputs: Any) -> Any:
    """The inputs of a pipeline as its base class takes them: one vocal, a list of them, or an iterator."""
    if isinstance(inputs, (list, tuple)):
        return list(inputs)
    examples = _examples(inputs)
    return inputs if examples is None else examples


def as_sound(vocal: Any, sampling_rate: Any = None) -> tuple[Any, Any, str]:
    """The file or the samples of a vocal, the rate of samples if it is known (Hz), and what errors call it.

    Args:
        vocal: as `HAFMPipeline.__call__` takes one.
        sampling_rate: of samples that come without one.

    Raises:
        HAFMAudioError: a dict without sound or with several, or a decoder that fails.
    """
    if hasattr(vocal, "get_all_samples"):
        return _decoded(vocal)
    if not isinstance(vocal, Mapping):
        source = np.asarray(vocal) if isinstance(vocal, (list, tuple)) else vocal
        return source, sampling_rate, audio.source_name(source)
    name = audio.source_name(vocal.get("path"))
    for key in ("array", "raw"):
        if vocal.get(key) is not None:
            return vocal[key], vocal.get("sampling_rate", sampling_rate), name
    if columns := [key for key, value in vocal.items() if _is_sound(key, value)]:
        chosen = [key for key in COLUMN_NAMES if key in columns][:1] or columns
        if len(chosen) > 1:
            raise audio.HAFMAudioError(f"There are several sounds: {', '.join(chosen)}; give one, row[{chosen[0]!r}].")
        return as_sound(vocal[chosen[0]], sampling_rate)
    for key in ("bytes", "path"):
        if vocal.get(key) is not None:
            return vocal[key], None, name
    raise audio.HAFMAudioError('A dict needs "array" and "sampling_rate", or "bytes" or "path", or such a dict in it.')


def is_file(source: Any) -> bool:
    """Whether a source is a path, URL, file or the bytes of one, rather than samples."""
    return isinstance(source, (str, os.PathLike, bytes, bytearray)) or hasattr(source, "read")


def _is_sound(column: str, value: Any) -> bool:
    """Whether a value of a row is sound as `datasets` hands it out, or a file in one of COLUMN_NAMES."""
    if isinstance(value, Mapping):
        return bool(value.keys() & {"array", "bytes", "path"})
    return hasattr(value, "get_all_samples") or (column in COLUMN_NAMES and is_file(value))


def _decoded(decoder: Any) -> tuple[np.ndarray, int, str]:
    """Samples of torchcodec's AudioDecoder (float32 [C, N]), their rate, and a name."""
    name = audio.source_name(getattr(getattr(decoder, "metadata", None), "path", None))
    try:
        samples = decoder.get_all_samples()
        return samples.data.numpy(), samples.sample_rate, name
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise audio.HAFMAudioError(
            f"{name} cannot be decoded by torchcodec ({reason}); cast its column to datasets.Audio(decode=False), and "
            "it is read without."
        ) from error


def _examples(inputs: Any) -> Iterator[Any] | None:
    """The examples of a data set or column of `datasets`, sound undecoded; None of anything else."""
    if "datasets" not in sys.modules:
        return None
    import datasets

    column = getattr(inputs, "column_name", getattr(inputs, "key", None))
    source = inputs if column is None else getattr(inputs, "source", getattr(inputs, "dataset", None))
    if not isinstance(source, (datasets.Dataset, datasets.IterableDataset)):
        return None
    for name, feature in (source.features or {}).items():
        if isinstance(feature, datasets.Audio):
            # torchcodec, which decodes them otherwise, need not be there
            source = source.cast_column(name, datasets.Audio(decode=False))
    return (each if column is None else each[column] for each in source)
