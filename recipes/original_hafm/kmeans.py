# SPDX-License-Identifier: Apache-2.0
"""Reads scikit-learn's k-means from a pickle or a joblib file without running pickle code.

The pickle's classes and functions are replaced by those below, which hold plain numbers; any other name is refused.
"""

import io
import pickle
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

# what arrays may hold: booleans, signed and unsigned integers, floats
PLAIN = "[biuf][1248]"
# no published k-means is near it; a compressed file could unpack to anything
MAX_BYTES = 256_000_000


@dataclass(frozen=True)
class KMeans:
    """A fitted k-means.

    Args:
        centroids (float32 [clusters, width of the features]).
        distance: squared distance of a frame to its centroid, averaged over the frames that it was fitted to; None if
            the file does not say.
        frames: number of frames that it was fitted to; None if the file does not say.
    """

    centroids: np.ndarray
    distance: float | None
    frames: int | None


class _Dtype:
    """numpy's dtype, of plain numbers only, in place of the class that a pickle names."""

    def __init__(self, name: Any, *flags: Any) -> None:
        """Takes what numpy.dtype does: the name, and two flags for aligned fields and copying, without effect here."""
        if re.fullmatch(PLAIN, str(name)) is None:
            raise ValueError(f"an array of {name}")
        self.dtype = np.dtype(str(name))

    def __setstate__(self, state: Any) -> None:
        """Takes numpy's state of a dtype, (version, byte order, …)."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """numpy's array: shape and bytes.

    Attributes:
        values: the array, as soon as its state has been set.
    """

    values: np.ndarray

    def __init__(self, *args: Any) -> None:
        """Ignores numpy's arguments: an array is described by its state."""

    def __setstate__(self, state: Any) -> None:
        """Takes numpy's state of an array, (version, shape, dtype, whether by columns, bytes)."""
        _, shape, dtype, by_columns, data = state
        if isinstance(data, str):
            data = data.encode("latin1")
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise ValueError("an array of objects")
        order: Literal["F", "C"] = "F" if by_columns else "C"
        self.values = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


class _Stored:
    """joblib's array: its numbers follow in the file. Its attributes are those that the pickle sets."""

    def __init__(self, *args: Any) -> None:
        """Ignores joblib's arguments; `_Unpickler.load_build` sets the attributes."""
        self.__dict__ = {}

    def read(self, file: io.BytesIO) -> _Array:
        """Reads the array's numbers, which follow in the file; moves the file behind them.

        Raises:
            ValueError: it is an array of objects.
        """
        description = self.__dict__  # joblib's attributes, from the pickle
        if description.get("numpy_array_alignment_bytes") is not None:
            # a byte says how many bytes of padding follow
            file.seek(file.read(1)[0], io.SEEK_CUR)
        dtype = description["dtype"]
        shape = tuple(int(size) for size in description["shape"])
        if not isinstance(dtype, _Dtype):
            raise ValueError("an array of objects")
        size = dtype.dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        array = _Array()
        # numpy's state of an array: version, shape, dtype, whether by columns, bytes
        array.__setstate__((1, shape, dtype, description.get("order") == "F", file.read(size)))
        return array


class _Inert:
    """Any other object that scikit-learn leaves in a k-means, such as a generator of random numbers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Ignores all arguments."""

    def __setstate__(self, state: Any) -> None:
        """Ignores the state."""


class _Estimator:
    """scikit-learn's k-means: its attributes by name, such as "cluster_centers_"."""

    def __init__(self, *args: Any) -> None:
        """Ignores scikit-learn's arguments: its attributes are its state."""
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        """Takes the attributes by name."""
        self.attributes = dict(state)


def _reconstruct(*args: Any) -> _Array:
    """Stands in for numpy's constructor of an empty array, whose state follows in the pickle."""
    return _Array()


def _scalar(dtype: Any, data: Any = b"") -> Any:
    """Stands in for numpy's constructor of a scalar while a pickle is read: the number, of its dtype and bytes."""
    array = _Array()
    # numpy's state of an array without axes: version, shape, dtype, whether by columns, bytes
    array.__setstate__((1, (), dtype, False, data))
    return array.values[()]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Stands in for `codecs.encode`, with which pickles up to protocol 2 hold bytes; always latin1."""
    return str(text).encode("latin1")


MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
ESTIMATORS = ("sklearn.cluster._kmeans", "sklearn.cluster.k_means_")
STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _Stored,
    ("numpy.random._pickle", "__randomstate_ctor"): _Inert,
    ("numpy.random._pickle", "__bit_generator_ctor"): _Inert,
    ("numpy.random._mt19937", "MT19937"): _Inert,
    **{(module, "_reconstruct"): _reconstruct for module in MULTIARRAY},
    **{(module, "scalar"): _scalar for module in MULTIARRAY},
    **{(module, name): _Estimator for module in ESTIMATORS for name in ("KMeans", "MiniBatchKMeans")},
}


class _Unpickler(pickle._Unpickler):
    """Builds stand-ins only; where joblib's array is described, its numbers are read.

    Args:
        file: the content of a pickle or of a joblib file.
    """

    dispatch: ClassVar[dict[int, Callable[..., Any]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")
        self.source = file
        self.stack: list[Any] = []

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a class or function that a pickle names.

        Raises:
            pickle.UnpicklingError: there is none.
        """
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return STAND_INS[module, name]

    def get_extension(self, code: int) -> Any:
        """Refuses names by number."""
        raise pickle.UnpicklingError(f"extension {code}")

    def persistent_load(self, pid: Any) -> Any:
        """Refuses objects outside the file."""
        raise pickle.UnpicklingError("an object outside the file")

    def load_build(self) -> None:
        """Sets the state of the object on the stack, or reads the array that it describes, which takes its place.

        Raises:
            pickle.UnpicklingError: it is not a stand-in.
        """
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Stored):
            target.__dict__.update(state)
            self.stack[-1] = target.read(self.source)
        elif isinstance(target, (_Dtype, _Array, _Inert, _Estimator)):
            target.__setstate__(state)
        else:
            raise pickle.UnpicklingError(f"a state for {type(target).__name__}")

    dispatch[pickle.BUILD[0]] = load_build


def read_kmeans(path: Path) -> KMeans:
    """Reads a pickled KMeans or MiniBatchKMeans, as `pickle` or `joblib` (also compressed by zlib) wrote it.

    Raises:
        ValueError: the file names anything but a k-means of plain numbers, or is damaged.
    """
    content = path.read_bytes()
    # a file by zlib begins so, and a pickle does not
    if content[:1] == b"\x78":
        content = zlib.decompressobj().decompress(content, MAX_BYTES)
    try:
        unpickled = _Unpickler(io.BytesIO(content)).load()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} names {error}, which is no part of a k-means and could run code when it is read; it is not read."
        ) from error
    except (ValueError, TypeError, LookupError, EOFError, AttributeError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a pickled k-means of plain numbers ({error}).") from error
    attributes = unpickled.attributes if isinstance(unpickled, _Estimator) else {}
    centroids = attributes.get("cluster_centers_")
    if not isinstance(centroids, _Array) or centroids.values.ndim != 2 or not np.isfinite(centroids.values).all():
        raise ValueError(f"{path} holds no fitted k-means: it has no cluster_centers_ of finite numbers.")
    # scikit-learn's label of each frame, and the sum of the squared distances
    labels = attributes.get("labels_")
    inertia = attributes.get("inertia_")
    frames = None
    if isinstance(labels, _Array):
        frames = len(labels.values)
    if frames and isinstance(inertia, (float, np.floating)):
        distance = float(inertia) / frames
    else:
        distance = None
    return KMeans(np.array(centroids.values, dtype=np.float32), distance, frames)
