"""Networks that are kept as `config.json` and `model.safetensors`, in a folder or on the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file
from torch import nn

from skdcgn_pipeline.artifacts.store import ArtifactWriter, write_aside, write_json
from skdcgn_pipeline.networks.rounded_weights import restore_state
from skdcgn_pipeline.networks.weights_file import first_line, write_state
from skdcgn_pipeline.runtime.compute import place, sizes_alone
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.extensions import UntrustedCodeError
from skdcgn_pipeline.runtime.libraries import import_library

HUB = "huggingface_hub"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PAGE_FILE = "README.md"
TASKS = {"students": "image-generation", "classifier": "image-classification"}


def front_matter(kind: str) -> str:
    """Return the lines that tell the Hugging Face Hub what a card is of: `students` or a `classifier`."""
    return f"---\nlibrary_name: skdcgn_pipeline\nlicense: mit\ntags:\n- counterfactual\n- {TASKS[kind]}\n---\n"


class PretrainedModel(nn.Module):
    """A network that is built from its `CONFIG_KEYS` alone.

    Attributes:
        KIND: What messages call it.
        CONFIG_KEYS: Arguments of the constructor, which are attributes too and can be written as JSON.
    """

    KIND: ClassVar[str]
    CONFIG_KEYS: ClassVar[tuple[str, ...]]

    def save_pretrained(self, folder: Path | str, bits: int | None = None) -> None:
        """Write `config.json`, `model.safetensors` and, where there is none, a card into a folder.

        Args:
            folder: Where to.
            bits: Of each weight, 3 to 8, see `rounded_weights`; None writes float32.

        Raises:
            SettingError: If weights cannot be rounded so.
        """
        self._save(Path(folder), "this folder", bits)

    def _save(self, folder: Path, name: str, bits: int | None) -> None:
        """Write the files, with a card that says by which name they are loaded."""
        write_aside(folder / WEIGHTS_FILE, partial(write_state, self, bits=bits))
        write_json(folder / CONFIG_FILE, self._config())
        if not (folder / PAGE_FILE).exists():
            made = type(self).__name__
            code = f'from skdcgn_pipeline import {made}\n\n{self.KIND} = {made}.from_pretrained("{name}")'
            text = f"{front_matter(self.KIND)}\n```python\n{code}\n```\n"
            write_aside(folder / PAGE_FILE, lambda path: path.write_text(text, encoding="utf-8"))

    def write_into(self, writer: ArtifactWriter, prefix: str = "", bits: int | None = None) -> None:
        """Write the same two files into an artifact, behind a prefix such as `students/`."""
        writer.write_json(prefix + CONFIG_FILE, self._config())
        writer.write(prefix + WEIGHTS_FILE, partial(write_state, self, bits=bits))

    def _config(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self.CONFIG_KEYS}

    @classmethod
    def from_pretrained(
        cls, name: Path | str, *, arguments: Mapping[str, Any] | None = None, **hub_options: Any
    ) -> Self:
        """Load what `save_pretrained` or `push_to_hub` wrote; frozen and in eval mode.

        Args:
            name: A folder, or the id of a repository on the Hub, such as `owner/name`, where there is no such
                folder.
            arguments: Of the constructor, beside those of the file.
            hub_options: For the Hub: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`.

        Raises:
            SettingError: If a file is missing, unreadable or of another architecture, or the repository
                cannot be had.
        """
        folder = Path(name)
        if not folder.exists() and isinstance(name, str) and _HUB_ID.fullmatch(name):
            folder = _download(cls.KIND, name, hub_options)
        remedy = "Give a folder with config.json and model.safetensors, as `save_pretrained` writes it."
        what = f"pretrained {cls.KIND} in {folder}"
        return cls._load(folder / CONFIG_FILE, folder / WEIGHTS_FILE, what, remedy, **(arguments or {}))

    def push_to_hub(self, repo_id: str, *, bits: int | None = None, **options: Any) -> str:
        """Upload to a repository on the Hugging Face Hub, which is made where there is none.

        Args:
            repo_id: Such as `owner/name`.
            bits: As in `save_pretrained`.
            options: Those of huggingface_hub's `ModelHubMixin.push_to_hub`, such as `private`, `token`,
                `branch`, `commit_message`.

        Returns:
            The address of the commit.

        Raises:
            SettingError: If huggingface_hub is not installed.
        """
        model, hub = self, import_library(HUB, "hub", "push_to_hub")

        # Made here, for the library is optional; as a base class it would also write what we do not.
        class Pushed(hub.ModelHubMixin):  # type: ignore[misc, name-defined]
            def _save_pretrained(self, save_directory: Path) -> None:
                model._save(save_directory, repo_id, bits)

        return Pushed().push_to_hub(repo_id, **options)

    @classmethod
    def _load(cls, config_path: Path, weights_path: Path, what: str, remedy: str, **given: Any) -> Self:
        try:
            config = json.loads(config_path.read_text(encoding="utf-8"))
            arguments = {key: config[key] for key in cls.CONFIG_KEYS if key in config}  # a later one may be absent
            arguments |= given
            state = load_file(weights_path)
            with sizes_alone():  # sizes that the weights do not have are found before memory is taken for them
                sizes = cls(**arguments)
                state = restore_state(state, sizes)
                sizes.load_state_dict(state, assign=True)
            model = cls(**arguments)
            model.load_state_dict(state)
        except UntrustedCodeError:
            raise
        except Exception as error:  # of many kinds, for sizes and options that make no network
            raise SettingError(cls.KIND, what, first_line(error), remedy) from error
        # Channels last is the faster layout of these convolutions on a CPU.
        return place(model, "cpu", torch.channels_last).requires_grad_(False).eval()


def _download(kind: str, repo_id: str, options: dict[str, Any]) -> Path:
    """Return the folder of a repository's files, fetched from the Hub or its cache."""
    hub = import_library(HUB, "hub", kind)
    try:
        paths = [Path(hub.hf_hub_download(repo_id, name, **options)) for name in (CONFIG_FILE, WEIGHTS_FILE)]
    except Exception as error:  # of many kinds: absent, private, offline, misspelt
        got = f"{type(error).__name__}: {first_line(error)}"
        remedy = "Correct the name of the folder or of the repository; a private one needs a token."
        raise SettingError(kind, f"a folder, or the repository '{repo_id}' on the Hub", got, remedy) from error
    return paths[0].parent
