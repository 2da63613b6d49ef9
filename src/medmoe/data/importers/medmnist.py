"""MedMNIST: small images of many kinds in NumPy archives, written out as PNGs.

Layout: MedMNIST v2 and MedMNIST+ (https://zenodo.org/records/10519652; Yang et al., 2023,
https://doi.org/10.1038/s41597-022-01721-8): `pathmnist.npz`, `pathmnist_64.npz`, `_128`, `_224` with `train_images`
[n, H, W] or [n, H, W, 3], `train_labels` [n, L], and the same of `val` and `test`; 3-D sets hold volumes [n, D, H,
W]. What the labels mean is in medmnist.json, as https://github.com/MedMNIST/MedMNIST states it in version 3.0.2.
Archives are read image by image, and nothing in them is unpickled.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from medmoe.data.importers.common import (
    NO_ARRAY,
    NO_FINDING,
    Found,
    Importer,
    Job,
    base_of,
    join_labels,
    put_png,
    unreadable,
)
from medmoe.errors import DataError, unknown

_SPLITS = ("train", "val", "test")


@lru_cache(maxsize=1)
def known() -> dict[str, dict[str, Any]]:
    """Load medmnist.json, once: set → its modality, licence, body part and labels."""
    text = files("medmoe.data.importers").joinpath("medmnist.json").read_text(encoding="utf-8")
    return cast("dict[str, dict[str, Any]]", json.loads(text))


def read(job: Job) -> Iterator[Found]:
    """Give the images of one archive or of all in a folder; of a volume its middle slice."""
    if job.folder.is_file():
        archives = [job.folder]
    else:
        archives = sorted(base_of(job.folder, "*mnist*.npz", what="MedMNIST").glob("*mnist*.npz"))
    for archive in archives:
        name = re.sub(r"_(64|128|224)$", "", archive.stem)
        if name not in known():
            remedy = "keep the published name, or add the set to medmnist.json"
            raise DataError(unknown("MedMNIST set", name, known()), where=str(archive), remedy=remedy)
        for split in _SPLITS:
            if job.wants(split):
                yield from _split(job, archive, name, split)
        if name.endswith("3d"):
            job.notes.append(f"{name} holds volumes: the middle slice of each was written")


def _split(job: Job, archive: Path, name: str, split: str) -> Iterator[Found]:
    """Give the images of one split."""
    about = known()[name]
    labels = np.stack(list(stream_array(archive, f"{split}_labels")))
    labels = labels.reshape(len(labels), -1)
    place = 0
    for place, pixels in enumerate(stream_array(archive, f"{split}_images"), 1):
        where = f"{archive}:{split}:{place}"
        if place > len(labels):
            raise DataError(f"only {len(labels)} labels", where=where, remedy="download it again")
        volume = pixels.ndim == 3 and pixels.shape[2] not in (3, 4)
        pixels = pixels[len(pixels) // 2] if volume else pixels
        cells = {
            "modality": about["modality"],
            "label": _label(about, labels[place - 1], where),
            "split": split,
            "source": name,
            "license": about["license"],
            "body_part": about.get("body_part"),
            "view": about.get("view"),
        }
        yield Found(where, put_png(job.made / archive.stem / split / f"{place:06d}.png", pixels), cells)
    if place != len(labels):
        raise DataError(
            f"{place} images, but {len(labels)} labels", where=f"{archive}:{split}", remedy="download it again"
        )


def _label(about: dict[str, Any], own: NDArray[Any], where: str) -> str | None:
    """Say an image's labels: columns of 0 and 1 where there are several, else the number of its class."""
    words = about["labels"]
    several = len(own) > 1
    numbers = np.flatnonzero(own) if several else own
    if several and not len(numbers):
        return NO_FINDING
    absent = [int(one) for one in numbers if not 0 <= int(one) < len(words)]
    if absent:
        raise DataError(f"label {absent[0]}, allowed: 0 to {len(words) - 1}", where=where, remedy="download it again")
    return join_labels([words[int(one)] for one in numbers])


def stream_array(archive: Path, name: str) -> Iterator[NDArray[Any]]:
    """Read an array of an `.npz` along its first axis, one item at a time.

    Args:
        archive: The file.
        name: The array, without `.npy`.

    Yields:
        Items [...] of the array [n, ...].

    Raises:
        DataError: If the archive or the array can't be read, or the array holds objects.
    """
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(file)
            if dtype.hasobject or fortran or not shape:
                raise ValueError("not a plain array")
            size = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
            for _ in range(shape[0]):
                held = file.read(size)
                if len(held) != size:
                    raise EOFError("the array ends early")
                yield np.frombuffer(held, dtype).reshape(shape[1:])
    except (*NO_ARRAY, KeyError, NotImplementedError, zlib.error, zipfile.BadZipFile) as error:
        raise unreadable(archive, f"a NumPy archive with {name}", error) from None


ROWS = (
    Importer(
        name="medmnist",
        title="MedMNIST v2 and MedMNIST+",
        url="https://medmnist.com/",
        terms="CC BY 4.0; DermaMNIST CC BY-NC 4.0",
        modality="several",
        needs="pathmnist.npz, chestmnist_224.npz … : one file, or a folder of them",
        splits="official; the archives name no patients, so that can't be checked",
        read=read,
    ),
)
