"""Loading that refuses weights which are not exactly those that a configuration asks for; telling weights apart.

Below every model on the path of the data: transformers' own loading reports such weights in the log and goes on with
random ones.
"""

import hashlib
import os
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

Model = TypeVar("Model", bound=PreTrainedModel)


def load_strictly(model_class: type[Model], source: str | os.PathLike[str], **options: Any) -> Model:
    """`from_pretrained` that refuses missing, unexpected and misshapen weights.

    Args:
        model_class: a class with `from_pretrained`.
        source: folder or hub id.
        options: as for `from_pretrained`.

    Raises:
        ValueError: naming the offending keys.
        OSError: the model or its weights are not there.
    """
    model, info = model_class.from_pretrained(source, output_loading_info=True, **options)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info.get(kind):
            where = "/".join(filter(None, (str(source), options.get("subfolder"))))
            keys = ", ".join(sorted(map(str, info[kind])))
            raise ValueError(f"{where} is not a {model_class.__name__}: {kind.replace('_', ' ')} {keys}.")
    return model


def fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 over a model's weights and their names, as long as a short commit id."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
