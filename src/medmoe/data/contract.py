"""Preprocessing as a contract: what decides the pixels, declared with a fingerprint; two that differ don't mix.

A model, the shards it may read, the embeddings it made and an index of them each keep the contract they were made
under. Comparing two names the step that differs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medmoe.data.images import read_image_bytes
from medmoe.data.preprocess import Preprocess, read_step
from medmoe.errors import DataError
from medmoe.types import Sample

# Those whose next major release may decode or resample differently in ways that the probe is too small to show.
LIBRARIES = ("torch", "pydicom")
DECLARED = ("libraries", "probe", "fingerprint")  # what a contract says beside version and steps
TOLERANCE = 1  # grey levels of 255 by which two probes may differ: rounding on another processor

# A JPEG of 32 × 24 px with halved colour and strong compression: decoders that differ show here.
_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5a"
    "YVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//wAAR"
    "CAAYACADASIAAhEBAxEB/8QAFwABAQEBAAAAAAAAAAAAAAAABQADBv/EACAQAAEEAAcBAAAAAAAAAAAAABEAAwQSAhMhMTJBcYH/xAAXAQEA"
    "AwAAAAAAAAAAAAAAAAAFAgQH/8QAJxEAAAUDAwIHAAAAAAAAAAAAAAECAxEEElEhMWFBgSIjMkJSYnH/2gAMAwEAAhEDEQA/AOIjsZAxcjoN"
    "kpHYsHtux4so7GQMXI6DZKR2LB7bseJF5UeXbtrbO32nr+CdRRdRrHazxpWv1Kx8FgyB0fFjHazxpWv1KR8FgyB0fEU89PimbtJ+fEe3E9wJ"
    "UUXA5GPHyBi5HQbJWOxYPbdjxSlcfQknlMF6UlcRc5yNBfbTEhSO1njStfqUj4LhkDo+KUhHHFKQ24e7hwrkpjtpgC1DKNSwP//Z"
)


def declare(preprocess: Preprocess) -> dict[str, Any]:
    """Give the whole contract of a preprocessing, JSON-ready.

    Returns:
        `version` and `steps` as `Preprocess.to_dict` gives them; `libraries`, the major versions that matter;
        `probe`, grey levels that the steps make of two test images here; and `fingerprint`, 16 hex digits of the
        SHA-256 of all these.
    """
    return dict(_declared(preprocess))


def fingerprint_of(contract: Mapping[str, Any]) -> str:
    """Give the fingerprint that a contract should bear, from what else it says."""
    said = {name: value for name, value in contract.items() if name != "fingerprint"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def reading_contract(window: str) -> dict[str, Any]:
    """Give the contract of pictures that were read but not resized, as shards hold them."""
    return {"steps": [read_step(window)]}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Say where two contracts differ, step by step; empty where they give the same pixels.

    Steps that only one of them has come after those of both where a contract is of pictures that were only read.

    >>> differences(reading_contract("header"), reading_contract("lung"))
    ["step 'read': window 'header' and 'lung'"]
    """
    told = []
    first, second = ({step["step"]: step for step in contract.get("steps", [])} for contract in (one, other))
    both = [name for name in first if name in second]
    for name in both:
        for key in {**first[name], **second[name]}:
            a, b = first[name].get(key), second[name].get(key)
            if a != b:
                told.append(f"step {name!r}: {key} {a!r} and {b!r}")
    if "version" in one and "version" in other:  # both are whole
        told += [f"step {name!r}: only one of them has it" for name in {**first, **second} if name not in both]
        if not told and _names(one) != _names(other):
            told.append(f"the order of the steps: {', '.join(_names(one))} and {', '.join(_names(other))}")
        told += _other_libraries(one, other)
    return told if both or told else ["they have no step in common"]


def _names(contract: Mapping[str, Any]) -> list[str]:
    return [step["step"] for step in contract.get("steps", [])]


def refuse_mixed(one: Mapping[str, Any], other: Mapping[str, Any], *, what: str, where: str, remedy: str) -> None:
    """Refuse to go on with two things that were preprocessed differently.

    Args:
        one: The contract of what is there.
        other: The contract of what is to join it.
        what: What is there and what is to join it, such as `the index and the model`.
        where: The file or folder that is there.
        remedy: What to do about it.

    Raises:
        DataError: If they differ; the step that does is named.
    """
    told = differences(one, other)
    if told:
        raise DataError(f"{what} don't share their preprocessing ({'; '.join(told)})", where=where, remedy=remedy)


def _other_libraries(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Say where whole contracts of the same steps were made by libraries that do them differently."""
    first, second = one.get("libraries", {}), other.get("libraries", {})
    told = [
        f"library {name}: release {first.get(name)} and {second.get(name)}"
        for name in {**first, **second}
        if first.get(name) != second.get(name)
    ]
    same_steps = one.get("steps") == other.get("steps")
    if not same_steps or told:
        return told
    a, b = (np.frombuffer(base64.b64decode(contract.get("probe", "")), np.uint8) for contract in (one, other))
    if a.shape != b.shape or int(np.abs(a.astype(int) - b.astype(int)).max(initial=0)) > TOLERANCE:
        return ["the same steps give other pixels of the test images (another decoder or resizer?)"]
    return []


@lru_cache(maxsize=16)
def _declared(preprocess: Preprocess) -> dict[str, Any]:
    contract = {**preprocess.to_dict(), "libraries": _versions(), "probe": _probe(preprocess)}
    return {**contract, "fingerprint": fingerprint_of(contract)}


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name).partition(".")[0]
        except PackageNotFoundError:  # a library that isn't there decides nothing
            continue
    return found


def _probe(preprocess: Preprocess) -> str:
    """Give grey levels of two prepared test images, a picture and a JPEG, as base64 of bytes."""
    row, column = np.mgrid[0:61, 0:47]
    channels = [row * 4 + column, row * column // 11, (row // 5 + column // 7) % 2 * 255]
    picture = np.stack(channels, axis=-1).astype(np.uint8)
    decoded = read_image_bytes(_JPEG, name="probe.jpg", where="probe")
    return base64.b64encode(b"".join(_levels(preprocess, image).tobytes() for image in (picture, decoded))).decode()


def _levels(preprocess: Preprocess, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Prepare an image and give 8 × 8 of its pixels in levels of 255, all three channels."""
    pixels, _ = preprocess(Sample(key="probe", image=image))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    places = torch.linspace(0, preprocess.size - 1, 8).round().long()
    few = (pixels * std + mean)[:, places][:, :, places] * 255
    levels: NDArray[np.uint8] = few.round().clamp(0, 255).to(torch.uint8).numpy()
    return levels
