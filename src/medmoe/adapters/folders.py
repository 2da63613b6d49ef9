"""What lies in a folder of another library's model: its files, configuration and weights, without running any of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from medmoe.errors import ModelError
from medmoe.folder import read_json, read_weights

CONFIG = "config.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONVERT = (
    "only safetensors is read, because the other formats can run code: convert it once, where you trust it, with "
    "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
)
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")


@dataclass(frozen=True)
class Folder:
    """A folder that may hold a model.

    Attributes:
        path: Where it is.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            what = "is a file, not a folder" if self.path.exists() else "no such folder"
            raise ModelError(what, where=str(self.path), remedy="give the local folder of a model")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of its files."""
        return tuple(sorted(file.name for file in self.path.iterdir() if file.is_file()))

    @cached_property
    def config(self) -> dict[str, Any]:
        """What `config.json` says; empty where there is none."""
        return read_json(self.path / CONFIG) if CONFIG in self.names else {}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of its safetensors files; no tensor is read for it.

        Raises:
            ModelError: If a file can't be read.
        """
        found: dict[str, tuple[int, ...]] = {}
        for name in self._safetensors:
            try:
                with safe_open(self.path / name, framework="pt") as file:
                    found.update({key: tuple(file.get_slice(key).get_shape()) for key in file.keys()})  # noqa: SIM118
            except SafetensorError as error:
                where = str(self.path / name)
                raise ModelError(f"can't be read ({error})", where=where, remedy="copy or convert it again") from None
        return found

    @property
    def _safetensors(self) -> list[str]:
        return [name for name in self.names if name.endswith(".safetensors")]

    @property
    def pickled(self) -> list[str]:
        """Names of weight files in a format that can run code."""
        return [name for name in self.names if Path(name).suffix in PICKLED and not name.startswith("training_args")]

    def require_tokenizer(self, of: str) -> None:
        """Make sure that the tokenizer lies in the folder too.

        Raises:
            ModelError: If none of the files of a tokenizer does.
        """
        if not any(name in self.names for name in TOKENIZERS):
            raise ModelError(
                f"no tokenizer ({', '.join(TOKENIZERS[:3])})",
                where=str(self.path),
                remedy=f"put the tokenizer files of {of} there",
            )

    def bad_tokenizer(self, error: Exception) -> ModelError:
        """Say that the tokenizer's files can't be read, and why."""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = "fetch its files again; a sentencepiece one may need pip install sentencepiece"
        return ModelError(f"the tokenizer can't be read ({reason})", where=str(self.path), remedy=remedy)

    def weight_file(self, preferred: Sequence[str] = ()) -> Path:
        """Find its only safetensors file, or the first of the preferred names.

        Raises:
            ModelError: If there is none, or it isn't clear which; the message says what is there.
        """
        files = self._safetensors
        for name in preferred:
            if name in files:
                return self.path / name
        if len(files) == 1:
            return self.path / files[0]
        if files:
            one = preferred[0] if preferred else "the right one"
            raise ModelError(
                f"several weight files ({', '.join(files)})", where=str(self.path), remedy=f"leave only {one}"
            )
        raise self.without_weights()

    def without_weights(self) -> ModelError:
        """Say that there is no safetensors file, and what there is instead."""
        if self.pickled:
            what = f"weights in the {Path(self.pickled[0]).suffix} format ({', '.join(self.pickled)}) are not loaded"
            return ModelError(what, where=str(self.path), remedy=CONVERT)
        return ModelError("no .safetensors file", where=str(self.path), remedy="put the model's weights there")

    def weights(self) -> dict[str, Tensor]:
        """Read every tensor of its safetensors files.

        Raises:
            ModelError: If there is no such file, or one can't be read.
        """
        if not self._safetensors:
            raise self.without_weights()
        found: dict[str, Tensor] = {}
        for name in self._safetensors:
            found.update(read_weights(self.path / name))
        return found


def fill(module: nn.Module, weights: Mapping[str, Tensor], where: Path, *, unused: str = "") -> None:
    """Put weights into a module whose names they bear.

    Args:
        module: The module, built for these weights.
        weights: Every one of its tensors.
        where: The folder they are from, for the error.
        unused: Pattern of names that the module has no place for and need not have.

    Raises:
        ModelError: If a tensor is missing, has another shape, or has no place.
    """
    wanted = module.state_dict()
    counters = [name for name in wanted if name.endswith("num_batches_tracked")]
    given = {name: weights[name] for name in wanted if name in weights}
    missing = [name for name in wanted if name not in given and name not in counters]
    wrong = [name for name, value in given.items() if value.shape != wanted[name].shape]
    spare = [name for name in weights if name not in wanted and not (unused and re.search(unused, name))]
    for what, names in (("lacks", missing), ("has another shape for", wrong), ("has unknown tensors", spare)):
        if names:
            raise ModelError(f"the weight file {what}: {some(names)}", where=str(where), remedy="convert it again")
    with torch.no_grad():
        module.load_state_dict({**{name: wanted[name] for name in counters}, **given})


def some(names: Sequence[str], limit: int = 4) -> str:
    """List the first few names."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
