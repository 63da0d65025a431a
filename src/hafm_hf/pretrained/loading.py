# SPDX-License-Identifier: Apache-2.0
"""Strict loading: undamaged safetensors files only, whose size and weight names match the configuration.

transformers' own loading also reads pickles, accepts any values in a file, and, if weights are missing, logs a warning
and continues with random ones.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import constants, is_offline_mode, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import HFValidationError, get_session, validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

Model = TypeVar("Model", bound=PreTrainedModel)
BUNDLED_MODEL = Path(__file__).parents[1] / "checkpoints" / "hafm-tiny"
# checks of transformers' own configurations, by class; `tokenizers.configuration_codec` adds those of the codecs
CONFIG_CHECKS: dict[type[PreTrainedConfig], Callable[[Any], None]] = {}
# in the format of `sha256sum`, so that `sha256sum -c SHA256SUMS` can check a model without this package
SUMS_FILE = "SHA256SUMS"
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
LOADING_FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
PLAIN_NAME = re.compile(r"[\w][\w.-]*\.safetensors")
# a configuration may need somewhat more values than its files hold: some weights are renamed or computed on loading
SPARE_FACTOR = 1.5
SPARE_VALUES = 1_000_000
# timeout of the first request to the hub
HUB_SECONDS = 10.0
# hexadecimal digits of a fingerprint, of the 64 of SHA-256
FINGERPRINT_DIGITS = 16
_hub_answered = False


class SafeLoadingMixin:
    """`from_pretrained` that checks the files before a model is created."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Loads a model as transformers does, but from safetensors files only, which `check_checkpoint` checks first.

        Args:
            pretrained_model_name_or_path: as for `model_source`, but None is passed on to transformers.
            args, kwargs: as for any `from_pretrained`.
        """
        parent: Any = super()
        source = pretrained_model_name_or_path
        if source is not None:
            source = model_source(source, **kwargs)
            check_checkpoint(cls, source, **kwargs)
            kwargs["use_safetensors"] = True
        return parent.from_pretrained(source, *args, **kwargs)


def model_source(source: str | os.PathLike[str] | None, **options: Any) -> str | os.PathLike[str]:
    """Resolves the source of a model: the bundled one for None and for its name, otherwise the source itself.

    If the hub cannot be reached, the cached snapshot of an earlier download stands in for a hub id: huggingface_hub
    would retry every file five times, which takes minutes.

    Args:
        source: folder or hub id. A folder with the bundled model's name takes precedence over that model.
        options: as for `from_pretrained`; `cache_dir`, `revision` and `local_files_only` are used.

    Returns:
        A folder, or the hub id if the hub can be reached.

    Raises:
        FileNotFoundError: if the source is neither a folder nor a valid hub id, or is not cached and the hub is out of
            reach.
    """
    if source is not None and os.path.isdir(source):
        return source
    if source is None or str(source) == BUNDLED_MODEL.name:
        return BUNDLED_MODEL
    try:
        validate_repo_id(str(source))
    except HFValidationError:
        raise FileNotFoundError(f"no such folder: {source}") from None
    if not options.get("local_files_only") and _hub_answers():
        return source
    snapshot = {name: options[name] for name in ("cache_dir", "revision") if options.get(name) is not None}
    try:
        return snapshot_download(str(source), **snapshot, local_files_only=True)
    except LocalEntryNotFoundError:
        if "revision" in snapshot:
            model = f"revision {snapshot['revision']} of that model"
        else:
            model = "model of that name"
        if options.get("local_files_only"):
            hub = "may not be asked (local_files_only)"
        else:
            hub = "cannot be reached"
        message = f"there is no folder {source}, no {model} was downloaded before, and the hub {hub}"
        raise FileNotFoundError(message) from None


def _hub_answers() -> bool:
    """Whether the hub can be reached; once it has answered, it is not asked again."""
    global _hub_answered
    if not _hub_answered and not is_offline_mode():
        with suppress(Exception):
            # any response will do, even an error
            get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
            _hub_answered = True
    return _hub_answered and not is_offline_mode()


def load_strictly(model_class: type[Model], source: str | os.PathLike[str], **options: Any) -> Model:
    """`from_pretrained` that refuses damaged files, and missing, unexpected or wrongly shaped weights.

    Args:
        model_class: a class with `from_pretrained`.
        source: folder or hub id.
        options: as for `from_pretrained`.

    Raises:
        ValueError: naming the file or the offending keys.
        OSError: if the model or its weights cannot be found.
    """
    source = model_source(source, **options)
    # our classes check the files themselves
    if not issubclass(model_class, SafeLoadingMixin):
        check_checkpoint(model_class, source, **options)
    model, info = model_class.from_pretrained(source, output_loading_info=True, **{**options, "use_safetensors": True})
    for fault in LOADING_FAULTS:
        if info.get(fault):
            keys = ", ".join(sorted(map(str, info[fault])))
            raise ValueError(
                f"{_where(source, options)} is not a {model_class.__name__}: {fault.replace('_', ' ')} {keys}."
            )
    return model


def check_checkpoint(model_class: Any, source: str | os.PathLike[str], **options: Any) -> None:
    """Refuses damaged weights, or weights of the wrong size, before a model is allocated.

    A file must be valid safetensors, match the SHA256SUMS next to it if there is one, and hold finite numbers only;
    together, the files must not hold far fewer numbers than the configuration needs. Having no files at all is not an
    error.

    Args:
        model_class: the class to load.
        source: folder or hub id.
        options: as for `from_pretrained`; `config` and HUB_OPTIONS are used.

    Raises:
        ValueError: naming the file and what to do.
    """
    hub = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    files = _weight_files(source, hub)
    if not files:
        return
    config = options.get("config")
    if not isinstance(config, PreTrainedConfig):
        config = model_class.config_class.from_pretrained(config or source, **hub)
    # our own configurations check themselves when made
    if check := CONFIG_CHECKS.get(type(config)):
        check(config)
    sums_path = find_file(source, SUMS_FILE, hub)
    values_in_files = sum(_checked_values(file, sums_path) for file in files)
    # only for the number of values: on "meta", weights take no memory
    with torch.device("meta"), no_init_weights():
        # a model may modify the configuration that it is created from
        model = model_class(deepcopy(config))
    values_needed = sum(value.numel() for value in model.state_dict().values())
    if values_needed > SPARE_FACTOR * values_in_files + SPARE_VALUES:
        raise ValueError(
            f"{_where(source, options)} needs {values_needed:,} values by its configuration, but its files hold "
            f"{values_in_files:,}."
        )


def write_checksums(folder: str | os.PathLike[str], only_existing: bool = False) -> None:
    """Writes SHA256SUMS next to all safetensors files in and below a folder.

    Args:
        folder: of a model.
        only_existing: whether to write it only where there is one already.
    """
    for subfolder in sorted({file.parent for file in Path(folder).rglob("*.safetensors")}):
        if not only_existing or (subfolder / SUMS_FILE).exists():
            lines = [f"{_sha256(file)}  {file.name}\n" for file in sorted(subfolder.glob("*.safetensors"))]
            (subfolder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def tokenizer_fingerprint(tokenizer: torch.nn.Module) -> str:
    """`fingerprint` of the weights that define the meaning of a semantic tokenizer's tokens.

    Those of the rhythm network are left out: another one estimates beats differently, but stages trained on the tokens
    still fit.
    """
    return fingerprint(tokenizer, without="rhythm.")


def codec_fingerprint(codec: torch.nn.Module) -> str:
    """`fingerprint` of the weights that define a codec's codes.

    Those of the decoder are left out: with another one, codes sound different, but stages trained on them still fit.
    """
    return fingerprint(codec, without="decoder.")


def fingerprint(model: torch.nn.Module, without: str | None = None) -> str:
    """The first FINGERPRINT_DIGITS hexadecimal digits of the SHA-256 of a model's weights and their names.

    It depends on the values, not on their precision: weights saved in half precision have the same fingerprint when
    loaded in float32.

    Args:
        model: any module.
        without: weights whose names begin with this are left out; None leaves out none.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if without is not None and name.startswith(without):
            continue
        digest.update(name.encode())
        values = tensor.detach().cpu()
        if values.is_floating_point():
            values = values.float()
        digest.update(values.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


def _where(source: str | os.PathLike[str], options: dict[str, Any]) -> str:
    """A model's folder or hub id, followed by "/" and `options["subfolder"]` if there is one, for messages."""
    return "/".join(filter(None, (str(source), options.get("subfolder"))))


def find_file(source: str | os.PathLike[str], name: str, hub: Mapping[str, Any]) -> Path | None:
    """The path of a model's file, downloaded if necessary; None if there is none.

    Args:
        source: folder or hub id of the model.
        name: of the file, relative to the repository or to the subfolder in `hub`.
        hub: keyword arguments among HUB_OPTIONS.
    """
    # `cached_file` returns None for a missing file instead of raising an exception
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(str(source), name, **hub, **quiet)
    return None if path is None else Path(path)


def _weight_files(source: str | os.PathLike[str], hub: dict[str, Any]) -> list[Path]:
    """The safetensors files of a model, downloaded if necessary; none if it has no such weights.

    Args:
        source: folder or hub id of the model.
        hub: keyword arguments among HUB_OPTIONS.

    Raises:
        ValueError: if the index of several files names anything but files next to it.
    """
    if (single := find_file(source, SAFE_WEIGHTS_NAME, hub)) is not None:
        return [single]
    if (index := find_file(source, SAFE_WEIGHTS_INDEX_NAME, hub)) is None:
        return []
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    for name in names:
        if not PLAIN_NAME.fullmatch(name):
            raise ValueError(f"{index} names {name!r}, which is not a file next to it.")
    shards = [find_file(source, name, hub) for name in names]
    return [file for file in shards if file is not None]


def _check_sum(file: Path, sums_path: Path) -> None:
    """Raises ValueError if a weights file does not match the SHA256SUMS at `sums_path`, or these are damaged.

    A file that they do not list is accepted.
    """
    digests: dict[str, str] = {}
    for line in sums_path.read_text(encoding="ascii", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        digests[name] = digest
    if not all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests.values()):
        raise ValueError(
            f"{sums_path} is damaged; download it again, or delete it if you trust the weights without it."
        )
    if digests.get(file.name) in (None, _sha256(file)):
        return
    raise ValueError(
        f"{file} is damaged: it does not match {SUMS_FILE}; download it again, or delete {SUMS_FILE} if you changed "
        "the weights yourself."
    )


def _sha256(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _checked_values(file: Path, sums_path: Path | None) -> int:
    """Number of values in a safetensors file, after checking that the file is undamaged and the values are finite.

    Args:
        file: the file.
        sums_path: the model's SHA256SUMS; None if it has none.

    Raises:
        ValueError: naming the file.
    """
    if sums_path is not None:
        _check_sum(file, sums_path)
    count = 0
    try:
        with safe_open(str(file), framework="pt") as content:
            for name in content.keys():
                tensor = content.get_tensor(name)
                # a finite sum has finite terms, and takes one pass; the sum of finite terms can still overflow
                if tensor.is_floating_point() and not (tensor.sum().isfinite() or tensor.isfinite().all()):
                    raise ValueError(f"{file} is damaged: {name} holds NaN or infinite numbers; download it again.")
                count += tensor.numel()
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged ({error}); download it again.") from error
    return count
