# SPDX-License-Identifier: Apache-2.0
"""Loading that trusts nothing: whole safetensors files only, of the size and the names that a configuration asks for.

transformers' own loading also reads pickles, takes whatever numbers a file holds, and, when weights are missing, says
so in the log and continues with random ones.
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
# checks of configurations that are transformers' own, by class; `tokenizers.configuration_codec` adds the codecs'
CONFIG_CHECKS: dict[type[PreTrainedConfig], Callable[[Any], None]] = {}
# as `sha256sum` writes it, so that `sha256sum -c SHA256SUMS` checks a model without us
SUMS_FILE = "SHA256SUMS"
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
LOADING_FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
PLAIN_NAME = re.compile(r"[\w][\w.-]*\.safetensors")
# a configuration may ask for a little more than a file holds: older files name weights otherwise, and some are made
SPARE_FACTOR, SPARE_VALUES = 1.5, 1_000_000
# how long the hub may take for its first answer
HUB_SECONDS = 10.0
_hub_answered = False


class SafeLoadingMixin:
    """`from_pretrained` that looks at the files before anything is made of them."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As of any model, but from safetensors files only, and after `model_source` and `check_checkpoint`."""
        model_class: Any = super()
        source = pretrained_model_name_or_path
        if source is not None:
            source = model_source(source, **kwargs)
            check_checkpoint(cls, source, **kwargs)
            kwargs["use_safetensors"] = True
        return model_class.from_pretrained(source, *args, **kwargs)


def model_source(source: str | os.PathLike[str] | None, **options: Any) -> str | os.PathLike[str]:
    """Where a model is loaded from: the bundled one for None and for its name, otherwise what was given.

    Where the hub cannot be reached, it is the folder that an earlier download left: huggingface_hub would ask five
    times for every file, which takes minutes.

    Args:
        source: folder or hub id. A folder of the bundled model's name takes precedence.
        options: as for `from_pretrained`; `cache_dir`, `revision` and `local_files_only` are used.

    Raises:
        FileNotFoundError: there is no such folder, and no hub id is written like that or none that can be had.
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
    where = {name: options[name] for name in ("cache_dir", "revision") if options.get(name) is not None}
    try:
        return snapshot_download(str(source), **where, local_files_only=True)
    except LocalEntryNotFoundError:
        raise FileNotFoundError(
            f"there is no folder {source}, none of that name was downloaded before, and the hub cannot be reached"
        ) from None


def _hub_answers() -> bool:
    """Whether the hub can be reached, asked once; a yes is remembered."""
    global _hub_answered
    if not _hub_answered and not is_offline_mode():
        with suppress(Exception):
            # any answer will do
            get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
            _hub_answered = True
    return _hub_answered and not is_offline_mode()


def load_strictly(model_class: type[Model], source: str | os.PathLike[str], **options: Any) -> Model:
    """`from_pretrained` that refuses damaged files, and missing, unexpected and misshapen weights.

    Args:
        model_class: a class with `from_pretrained`.
        source: folder or hub id.
        options: as for `from_pretrained`.

    Raises:
        ValueError: naming the file or the offending keys.
        OSError: the model or its weights are not there.
    """
    source = model_source(source, **options)
    if not issubclass(model_class, SafeLoadingMixin):
        check_checkpoint(model_class, source, **options)
    model, info = model_class.from_pretrained(source, output_loading_info=True, **{**options, "use_safetensors": True})
    for kind in LOADING_FAULTS:
        if info.get(kind):
            keys = ", ".join(sorted(map(str, info[kind])))
            found = f"{kind.replace('_', ' ')} {keys}"
            raise ValueError(f"{_where(source, options)} is not a {model_class.__name__}: {found}.")
    return model


def check_checkpoint(model_class: Any, source: str | os.PathLike[str], **options: Any) -> None:
    """Refuses weights that cannot be those that were saved, before a model is allocated.

    A file must be whole safetensors, agree with SHA256SUMS beside it where there is one, hold finite numbers, and
    hold about as many of them as the configuration asks for. It says nothing where there are no weights at all.

    Args:
        model_class: the class to be loaded.
        source: folder or hub id.
        options: as for `from_pretrained`; `config` and HUB_OPTIONS are used.

    Raises:
        ValueError: naming the file and the way out.
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
    sums = find_file(source, SUMS_FILE, hub)
    held = sum(_checked_values(file, sums) for file in files)
    with torch.device("meta"), no_init_weights():
        # a model may change the configuration that it is made with
        wanted = sum(value.numel() for value in model_class(deepcopy(config)).state_dict().values())
    if wanted > SPARE_FACTOR * held + SPARE_VALUES:
        raise ValueError(
            f"{_where(source, options)} asks for {wanted:,} values in its configuration, but its weights are {held:,}."
        )


def write_checksums(folder: str | os.PathLike[str], only_again: bool = False) -> None:
    """Writes SHA256SUMS beside the safetensors files in `folder` and below it; `only_again`: where there is one."""
    for place in sorted({file.parent for file in Path(folder).rglob("*.safetensors")}):
        if not only_again or (place / SUMS_FILE).exists():
            lines = [f"{_sha256(file)}  {file.name}\n" for file in sorted(place.glob("*.safetensors"))]
            (place / SUMS_FILE).write_text("".join(lines))


def tokenizer_fingerprint(tokenizer: torch.nn.Module) -> str:
    """`fingerprint` of the weights that decide what a semantic tokenizer's tokens mean: with another rhythm network it
    hears the beat otherwise, and stages that have learnt its tokens still fit."""
    return fingerprint(tokenizer, without="rhythm.")


def codec_fingerprint(codec: torch.nn.Module) -> str:
    """`fingerprint` of the weights that decide a codec's codes: with another decoder they sound different, and stages
    that have learnt them still fit."""
    return fingerprint(codec, without="decoder.")


def fingerprint(model: torch.nn.Module, without: str | None = None) -> str:
    """SHA-256 over a model's weights and their names, 16 hexadecimal digits.

    Weights whose names begin with `without` don't count.

    Numbers count, not how they are held: a model that was saved in half precision is the same one when it is loaded in
    float32.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if without is not None and name.startswith(without):
            continue
        digest.update(name.encode())
        values = tensor.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        digest.update(values.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _where(source: str | os.PathLike[str], options: dict[str, Any]) -> str:
    return "/".join(filter(None, (str(source), options.get("subfolder"))))


def find_file(source: str | os.PathLike[str], name: str, hub: Mapping[str, Any]) -> Path | None:
    """A file of a model, downloaded if it must be; None where there is none."""
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found = cached_file(str(source), name, **hub, **quiet)
    return None if found is None else Path(found)


def _weight_files(source: str | os.PathLike[str], hub: dict[str, Any]) -> list[Path]:
    if (single := find_file(source, SAFE_WEIGHTS_NAME, hub)) is not None:
        return [single]
    if (index := find_file(source, SAFE_WEIGHTS_INDEX_NAME, hub)) is None:
        return []
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    for name in names:
        if not PLAIN_NAME.fullmatch(name):
            raise ValueError(f"{index} names {name!r}, which is no file beside it.")
    found = [find_file(source, name, hub) for name in names]
    return [file for file in found if file is not None]


def _check_sum(file: Path, path: Path) -> None:
    """Refuses a weights file that is not what SHA256SUMS at `path` says."""
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if not all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in sums.values()):
        raise ValueError(f"{path} is damaged; get it again, or delete it if the weights can be trusted without.")
    if sums.get(file.name) in (None, _sha256(file)):
        return
    raise ValueError(
        f"{file} is damaged: it is not what {SUMS_FILE} says; get it again, or delete {SUMS_FILE} if you changed the "
        "weights yourself."
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _checked_values(file: Path, sums: Path | None) -> int:
    """How many values a safetensors file holds, which is as it was saved and has finite numbers only."""
    if sums is not None:
        _check_sum(file, sums)
    count = 0
    try:
        with safe_open(str(file), framework="pt") as content:
            for name in content.keys():
                tensor = content.get_tensor(name)
                # a finite sum has finite terms, and takes one pass; the sum of finite terms can still overflow
                if tensor.is_floating_point() and not (tensor.sum().isfinite() or tensor.isfinite().all()):
                    raise ValueError(f"{file} is damaged: {name} holds NaN or infinite numbers; get it again.")
                count += tensor.numel()
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged ({error}); get it again.") from error
    return count
