"""Frozen features on disk: evidence saved with the fingerprint of what made it, and refused under any other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medmoe.data.contract import differences
from medmoe.data.sources.base import place_of
from medmoe.errors import DataError, unknown
from medmoe.folder import SavesItself
from medmoe.tasks.base import Evidence
from medmoe.types import Box, Sample

# What a file of this form is called in its own settings; another form is refused.
FORM = 3

# Images whose pixels count in the fingerprint of the data; all facts do.
_LOOKED_AT = 16

_NO_PIXELS = np.zeros((0, 0), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What evidence was made from; each part is hexadecimal digits of a SHA-256, or says more.

    Attributes:
        model: Weights, configuration and tokenizer.
        preprocess: How pixels become input: the contract as JSON, or digits.
        data: The samples.
        options: What else was asked for, such as features of every expert.
    """

    model: str
    preprocess: str
    data: str
    options: str = ""

    def file_name(self) -> str:
        """Give the name of the file that holds this evidence."""
        whole = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"features-{hashlib.sha256(whole.encode()).hexdigest()[:16]}.npz"


class Samples(Protocol):
    """Samples by index; see `medmoe.data.sources.base.Source`."""

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""
        ...

    def facts(self, index: int) -> Sample:
        """Give what is known of one without its pixels."""
        ...


def of_weights(weights: Mapping[str, Tensor], config: Mapping[str, Any], tokenizer: SavesItself | None = None) -> str:
    """Give the fingerprint of a model: every weight to the last bit, its configuration and its tokenizer."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    if tokenizer is not None:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(Path(folder))
            for path in sorted(Path(folder).iterdir()):
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def of_samples(source: Samples, *, masks: bool = False) -> str:
    """Give the fingerprint of samples: the facts of all, and the pixels of a few spread over them.

    An image file that changes while its row stays the same is noticed only if it is among those few.

    Args:
        source: The samples.
        masks: Whether the masks of those few count too, so that a source read without masks is told from one with them.
    """
    digest = hashlib.sha256(f"{len(source)}".encode())
    looked_at = set(np.linspace(0, len(source) - 1, _LOOKED_AT).astype(int).tolist())
    for index in range(len(source)):
        try:
            digest.update(json.dumps(_plain(source.facts(index)), sort_keys=True).encode())
            digest.update(place_of(source, index).encode())
            if index in looked_at:
                sample = source[index]
                for pixels in (sample.image, sample.mask if masks else None):
                    if pixels is not None:
                        digest.update(
                            f"{pixels.dtype} {pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()
                        )
        except DataError as error:  # a bad sample is left out of the evidence, or has stopped it
            digest.update(str(error).encode())
    return digest.hexdigest()[:16]


def save_evidence(path: Path, evidence: Evidence, fingerprint: Fingerprint) -> Path:
    """Write evidence aside, then rename it into place; tensors keep every bit."""
    arrays: dict[str, NDArray[Any]] = {}
    settings: dict[str, Any] = {"form": FORM, "fingerprint": dataclasses.asdict(fingerprint)}
    for item in dataclasses.fields(Evidence):
        value = getattr(evidence, item.name)
        if isinstance(value, Tensor):
            arrays[item.name] = value.cpu().numpy()
        elif item.name == "features":
            arrays |= {f"features/{name}": feature.cpu().numpy() for name, feature in value.items()}
        elif item.name == "samples":
            settings["samples"] = [_plain(sample) for sample in value]
        else:
            settings[item.name] = value
    arrays["settings"] = np.frombuffer(json.dumps(settings).encode(), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    aside.replace(path)
    return path


def load_evidence(path: Path, fingerprint: Fingerprint | None = None) -> Evidence:
    """Read evidence.

    Args:
        path: A file that `save_evidence` wrote.
        fingerprint: What it must have been made from; None: whatever it was made from.

    Raises:
        DataError: If the file isn't of this form, or was made from something else.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        settings = json.loads(arrays.pop("settings").tobytes())
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        what = "holds no saved features" if path.is_file() else "no such file"
        raise DataError(what, where=str(path), remedy="delete it to have them made anew") from error
    if settings.pop("form", None) != FORM:
        raise DataError("holds features in another form", where=str(path), remedy="delete it to have them made anew")
    made_from = settings.pop("fingerprint")
    if fingerprint is not None:
        _check_same(made_from, dataclasses.asdict(fingerprint), path)
    known = {item.name for item in dataclasses.fields(Evidence)}
    features = {name: torch.from_numpy(arrays.pop(name)) for name in list(arrays) if name.startswith("features/")}
    for name in (*arrays, *settings):
        if name not in known:
            raise DataError(unknown("field", name, known), where=str(path), remedy="delete it to have them made anew")
    whole: dict[str, Any] = {name: torch.from_numpy(value) for name, value in arrays.items()} | settings
    whole["samples"] = tuple(_sample(row) for row in settings["samples"])
    whole["modalities"] = tuple(settings["modalities"])
    whole["features"] = {name.partition("/")[2]: feature for name, feature in features.items()}
    return Evidence(**whole)


def _check_same(made_from: Mapping[str, str], wanted: Mapping[str, str], path: Path) -> None:
    differs = {name: (made_from.get(name), value) for name, value in wanted.items() if made_from.get(name) != value}
    if differs:
        raise DataError(
            f"these features are of another {' and '.join(differs)} "
            f"({', '.join(_said(name, *pair) for name, pair in differs.items())})",
            where=str(path),
            remedy="delete it to have them made anew",
        )


def _said(name: str, made_from: str | None, wanted: str) -> str:
    """Word a difference; of two contracts, the steps that differ."""
    try:
        steps = differences(json.loads(made_from or ""), json.loads(wanted))
    except (ValueError, AttributeError):
        steps = []
    return "; ".join(steps) or f"{name} {made_from}, now {wanted}"


def _plain(sample: Sample) -> dict[str, Any]:
    """Give a sample without its pixels as plain data."""
    row = {
        item.name: getattr(sample, item.name)
        for item in dataclasses.fields(Sample)
        if item.name not in ("image", "mask", "gaze")
    }
    if sample.boxes is not None:
        row["boxes"] = [dataclasses.asdict(box) for box in sample.boxes]
    return row


def _sample(row: Mapping[str, Any]) -> Sample:
    own = dict(row)
    if own["labels"] is not None:
        own["labels"] = tuple(own["labels"])
    if own["boxes"] is not None:
        own["boxes"] = tuple(Box(**box) for box in own["boxes"])
    return Sample(image=_NO_PIXELS, **own)
