"""A saved model: one self-contained folder, written aside and renamed, without pickle.

- config.json: the model's configuration
- model.safetensors: its weights
- preprocess.json: how pixels become input, with a fingerprint
- tokenizer.json and its settings: how reports become input
- gate.json: which images the model turns away, where that was set
- README.md: the model card
- manifest.json: in a checkpoint, every other file with its size and SHA-256
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from medmoe.errors import ModelError

CONFIG, WEIGHTS, PREPROCESS, CARD = "config.json", "model.safetensors", "preprocess.json", "README.md"
GATE, MANIFEST = "gate.json", "manifest.json"

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 22


class SavesItself(Protocol):
    """Something that writes its own files into a folder (the tokenizer)."""

    def save(self, folder: Path) -> None:
        """Write the files."""
        ...


@dataclass(frozen=True, slots=True)
class Assets:
    """What a model folder holds beside the weights.

    Attributes:
        config: The model's configuration as plain values.
        preprocess: Declared preprocessing as plain values, with its fingerprint.
        tokenizer: The tokenizer.
        gate: What the reject option needs, as plain values; None: the model has none.
    """

    config: dict[str, Any]
    preprocess: dict[str, Any]
    tokenizer: SavesItself
    gate: dict[str, Any] | None = None


def write_atomically(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Fill a folder aside, flush it to disk, then rename it into place.

    A reader sees the old folder, the new one, or none; never half of one.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    aside.mkdir()
    try:
        with system_errors(folder):
            fill(aside)
        for path in aside.iterdir():
            flush(path)
        flush(aside)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


@contextlib.contextmanager
def system_errors(folder: Path) -> Iterator[None]:
    """Take the system's errors out of those that safetensors and tokenizers wrap them in."""
    try:
        yield
    except Exception as error:
        number = re.search(r"(?:os error |code: )(\d+)", str(error))
        if isinstance(error, OSError) or number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error


def list_files(folder: Path, about: Mapping[str, Any]) -> None:
    """Write `manifest.json`: plain values, and every file that is there with its size and SHA-256, and its own."""
    listed = {**about, "files": {path.name: _facts(path) for path in sorted(folder.iterdir())}}
    text = json.dumps({**listed, "sha256": _digest(listed)}, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def check_files(folder: Path) -> None:
    """Make sure that the files of a folder are what its `manifest.json` says.

    Raises:
        ModelError: If one is missing, can't be read, or was changed.
    """
    listed = read_json(folder / MANIFEST)
    if listed.pop("sha256", None) != _digest(listed):
        raise ModelError("was changed or damaged after it was written", where=str(folder / MANIFEST))
    for name, facts in listed["files"].items():
        path = folder / name
        if not path.is_file():
            raise ModelError("is missing", where=str(path))
        try:
            same = _facts(path) == facts
        except OSError as error:
            raise ModelError(f"can't be read ({error.strerror or error})", where=str(path)) from error
        if not same:
            raise ModelError("was changed or damaged after it was written", where=str(path))


def _facts(path: Path) -> dict[str, Any]:
    """Give a file's size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_replaceable(folder: Path) -> None:
    """Make sure that writing a model here destroys nothing but an earlier model.

    Raises:
        ModelError: If something else is here.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.is_file() or (names and not {CONFIG, WEIGHTS, PREPROCESS} <= names):
        raise ModelError(
            "something other than a saved model is here", where=str(folder), remedy="give a new or empty folder"
        )


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file aside, then rename it into place."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(text, encoding="utf-8")
    flush(aside)
    aside.replace(path)


def fill_folder(folder: Path, weights: Mapping[str, Tensor], assets: Assets) -> None:
    """Write the files of a model folder into an existing folder."""
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(assets.config, indent=2) + "\n", encoding="utf-8")
    (folder / PREPROCESS).write_text(json.dumps(assets.preprocess, indent=2) + "\n", encoding="utf-8")
    assets.tokenizer.save(folder)
    if assets.gate is not None:
        (folder / GATE).write_text(json.dumps(assets.gate, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(model_card(weights, assets), encoding="utf-8")


def find_folder(path: Path | str) -> Path:
    """Find the model folder that a path means: itself, a run's `model`, or a run's newest checkpoint that is whole.

    Raises:
        ModelError: If there is none.
    """
    path = Path(path)
    candidates = [path, path / "model", *sorted(path.glob("checkpoints/step-*"), reverse=True)]
    for candidate in candidates:
        if (candidate / CONFIG).is_file() and (candidate / WEIGHTS).is_file():
            if (candidate / MANIFEST).is_file():
                try:
                    check_files(candidate)
                except ModelError as error:
                    if candidate == path:
                        raise
                    _LOG.warning("%s; looking for a checkpoint before it", error)
                    continue
            return candidate
    raise ModelError(
        "no model here" if path.is_dir() else "no such folder",
        where=str(path),
        remedy=f"give a run folder or one with {CONFIG} and {WEIGHTS}",
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: If the file is missing or isn't a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("no such file", where=str(path)) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"isn't JSON: {error}", where=str(path), remedy="save the model again") from None
    if not isinstance(value, dict):
        raise ModelError("isn't a JSON object", where=str(path))
    return value


def read_weights(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ModelError: If it is missing, truncated or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path, device=device))
    except FileNotFoundError:
        raise ModelError("no such file", where=str(path)) from None
    except SafetensorError as error:
        raise ModelError(f"can't be read ({error})", where=str(path), remedy="save or copy it again") from None


def fingerprint_of(weights: Mapping[str, Tensor], assets: Assets) -> str:
    """Hash everything that an embedding depends on: weights, configuration and preprocessing.

    Embeddings compare only where this is the same.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(assets.config, sort_keys=True).encode())
    # All of it: a preprocess.json that was edited may still bear its old fingerprint.
    digest.update(json.dumps(assets.preprocess, sort_keys=True).encode())
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def model_card(weights: Mapping[str, Tensor], assets: Assets) -> str:
    """Write a model card in Markdown: what it is, its input, its limits, how to load it."""
    count = sum(value.numel() for value in weights.values() if value.dtype != torch.bool)
    modalities = ", ".join(assets.config.get("modalities") or ())
    size = assets.config["vision"]["image_size"]
    return f"""---
library_name: medmoe
tags: [medical, vision-language, mixture-of-experts]
---
# A MedMoE model

A vision-language model with one expert for each imaging modality
([Chopra et al., 2025](https://arxiv.org/abs/2506.08356)), trained with `medmoe`.

| | |
| --- | --- |
| modalities | {modalities} |
| parameters | {count / 1e6:.1f} M |
| image encoder | {assets.config["vision"]["name"]}, {size} × {size} px |
| text encoder | {assets.config["text"]["name"]} |
| preprocessing fingerprint | {assets.preprocess.get("fingerprint")} |

```python
import medmoe

predictor = medmoe.Predictor.from_pretrained("this-folder")
predictor.zero_shot(images, ["pneumonia", "no finding"])
```

## Limits

Not a medical device; not checked for clinical use. It knows the modalities above and the sites and
patients of its training data only: measure it on your own data (`medmoe eval`) before you rely on it.
"""
