# SPDX-License-Identifier: Apache-2.0
"""Writes what a hub repository needs besides weights: model card, auto-class shim, handler for Inference Endpoints.

The models get their `push_to_hub` from here.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, ModelCard
from transformers import PreTrainedConfig

from .loading import SafeLoadingMixin, find_file, write_checksums
from .model_card import STYLE_SOUND, model_card

# remote code of a repository: by importing hafm_hf, it registers our classes and the task with transformers
SHIM_NAME = "hafm_auto"
SHIM = (
    '"""Lets transformers find the classes and the task: importing hafm_hf registers them."""\n\n'
    "from hafm_hf import *  # noqa: F403\n"
)
# one line of code each, so that users can see at a glance what code they are asked to trust
REPOSITORY_FILES = {
    f"{SHIM_NAME}.py": SHIM,
    "handler.py": '"""For Inference Endpoints."""\n\nfrom hafm_hf.hub.endpoint import EndpointHandler  # noqa: F401\n',
    "requirements.txt": "# not on PyPI yet: replace hafm-hf with hafm-hf @ git+https://example.org/hafm_hf\nhafm-hf\n",
}
# largest style example: a web page loads all of them, and those of an untrusted repository could be of any size
STYLE_SOUND_BYTES = 300_000
PLAIN_STYLE = re.compile(r"\w[\w -]*")
# arguments of `save_pretrained(…, push_to_hub=True)` that are passed on to `push_to_hub`
UPLOAD_OPTIONS = ("token", "private", "commit_message", "commit_description", "revision", "create_pr", "tags")


class HAFMModelMixin(SafeLoadingMixin):
    """What our models add to `PreTrainedModel`: loading that checks files first, `push_to_hub` with a model card."""

    config: Any

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes the model to a folder; with `push_to_hub` also uploads it, with card and checksums.

        Args:
            save_directory: the folder.
            push_to_hub: whether to upload the model, too.
            repo_id: repository to upload to; the folder's name if not given.
            kwargs: as for any `save_pretrained`; when uploading, also those of `push_to_hub`.
        """
        upload: dict[str, Any] = {}
        if push_to_hub:
            upload = {name: kwargs.pop(name) for name in UPLOAD_OPTIONS if name in kwargs}
        self._save_files(Path(save_directory), **kwargs)
        if push_to_hub and kwargs.get("is_main_process", True):
            # an option of saving and of uploading
            if kwargs.get("max_shard_size"):
                upload["max_shard_size"] = kwargs["max_shard_size"]
            self.push_to_hub(repo_id or Path(save_directory).name, **upload)

    def _save_files(self, folder: Path, **kwargs: Any) -> None:
        """Writes the files of `save_pretrained` to a folder; `kwargs` are its options.

        The main process adds `auto_map` to config.json, and writes checksums again where there are any.
        """
        model: Any = super()
        model.save_pretrained(folder, **kwargs)
        if kwargs.get("is_main_process", True):
            write_auto_map(folder, self.config, type(self))
            write_checksums(folder, only_existing=True)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: ModelCard | None = None,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: Iterable[str] | str | None = None,
    ) -> CommitInfo:
        """Uploads everything that `save_pretrained` writes, and a model card as README.md.

        Args:
            repo_id: "org/name"; created if it does not exist.
            card: the model card. If not given: the existing card of the repository; else README.md of the folder that
                the model was loaded from, with `repo_id` in its examples; else one made from the configuration
                (`model_card`).
            commit_message, commit_description, private, token, revision, create_pr, max_shard_size, tags: as for any
                `push_to_hub` of transformers.

        Returns:
            The commit that the hub has made.

        Raises:
            HfHubHTTPError: if the hub refuses the upload.
        """
        model: Any = self
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        # a revision refs/pr/… is the branch of a pull request, which exists already
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        card = card or self._existing_card(api, repo_id, revision) or model_card(model, repo_id)
        if isinstance(tags, str):
            tags = [tags]
        all_tags: list[str] = []
        for tags_of_source in (card.data.get("tags"), model.model_tags, tags):
            all_tags += tags_of_source or ()
        # each tag once
        card.data["tags"] = list(dict.fromkeys(all_tags))
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            write_checksums(folder)
            card.save(Path(folder) / "README.md")
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )

    def _existing_card(self, api: HfApi, repo_id: str, revision: str | None) -> ModelCard | None:
        """The card in the repository, or else in the folder that the model was loaded from; None if there is none.

        Args:
            api: client of the hub.
            repo_id: the repository, for which the examples in the folder's card are changed.
            revision: branch or commit of the repository; None for its default branch.
        """
        if api.file_exists(repo_id, "README.md", revision=revision):
            return ModelCard(Path(api.hf_hub_download(repo_id, "README.md", revision=revision)).read_text("utf-8"))
        local = Path(getattr(self, "name_or_path", "") or ".") / "README.md"
        if local.parent == Path(".") or not local.is_file():
            return None
        # if a part was loaded from its composite's folder, the card there is the composite's
        model_type = PreTrainedConfig.get_config_dict(local.parent)[0].get("model_type")
        if model_type == self.config.model_type:
            return renamed(ModelCard.load(local), repo_id)
        return None


def renamed(card: ModelCard, repo_id: str) -> ModelCard:
    """Makes the code examples of a card load `repo_id`, whatever repository they were written for.

    The card is changed in place and returned.
    """
    # the first example names the repository
    written_for = re.search(r'(?:model=|from_pretrained\()"([^"]+)"', card.text)
    if written_for:
        card.text = re.sub(rf'(?<=[" ]){re.escape(written_for[1])}(?=["`])', lambda _: repo_id, card.text)
    return card


def write_auto_map(folder: Path, config: PreTrainedConfig, model_class: Any) -> None:
    """Adds `auto_map` to config.json, and the shim: `trust_remote_code=True` then works without importing hafm_hf.

    The shim is a Python file that imports hafm_hf. Does nothing for classes defined outside hafm_hf, which the shim
    could not import.

    Args:
        folder: of the model, with its config.json.
        config: the model's configuration.
        model_class: the model's class.
    """
    if not model_class.__module__.startswith(f"{__name__.partition('.')[0]}."):
        return
    names = {"AutoConfig": type(config).__name__, "AutoModel": model_class.__name__}
    if model_class.can_generate():
        names["AutoModelForCausalLM"] = model_class.__name__
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content["auto_map"] = {auto: f"{SHIM_NAME}.{name}" for auto, name in names.items()}
    (folder / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / f"{SHIM_NAME}.py").write_text(SHIM, encoding="utf-8")


def write_repository_files(folder: Path) -> None:
    """Writes the shim, the handler and the requirements that a composite's hub repository needs."""
    for name, content in REPOSITORY_FILES.items():
        (folder / name).write_text(content, encoding="utf-8")


def read_style_sounds(source: str | os.PathLike[str], styles: Iterable[str], **hub: Any) -> dict[str, bytes]:
    """Reads a composite's style examples: a few seconds of audio for each style, for a web page to play.

    `recipes/style_sounds.py` makes them.

    Args:
        source: folder or hub id.
        styles: names of the model's styles.
        hub: keyword arguments among HUB_OPTIONS.

    Returns:
        OGG files by the name of the style, without those that are missing, larger than STYLE_SOUND_BYTES, or of a
        style whose name is not a plain file name.
    """
    sounds = {}
    for style in filter(PLAIN_STYLE.fullmatch, styles):
        path = find_file(source, STYLE_SOUND.format(style), hub)
        if path is not None and path.stat().st_size <= STYLE_SOUND_BYTES:
            sounds[style] = path.read_bytes()
    return sounds


def write_style_sounds(folder: str | os.PathLike[str], sounds: Mapping[str, bytes]) -> None:
    """Writes style examples (OGG files by the name of the style) for `read_style_sounds`.

    Those of a style whose name is not a plain file name are left out.
    """
    for style in filter(PLAIN_STYLE.fullmatch, sounds):
        path = Path(folder) / STYLE_SOUND.format(style)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sounds[style])
