"""A manifest's row as the files of a sample in a shard, from which the same sample is read again, bit by bit."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medmoe.data.contract import reading_contract
from medmoe.data.images import read_mask
from medmoe.data.sources.cells import NO_FINDING, parse_labels
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.shard_folder import FACTS
from medmoe.errors import DataError
from medmoe.types import Sample

# How images are stored: `copy` and `png` and `npy` keep every grey level, `jpg` doesn't.
IMAGES = ("copy", "png", "npy", "jpg")
JPEG_QUALITY = 95

_DICOM = (".dcm", ".dicom")  # files that are DICOM whatever they begin with
_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample's files.

    Attributes:
        files: Extension → bytes, the image first.
        deep: Whether the image is what the source made of a deep file: under another window it would be another.
    """

    files: dict[str, bytes]
    deep: bool


def encode(source: ManifestSource, index: int, *, images: str, prior: str | None = None) -> Encoded:
    """Give the files of a sample.

    Args:
        source: Opened with its maps.
        index: Of the sample; all of it is read, so that what is damaged isn't packed away unseen.
        images: One of `IMAGES`.
        prior: Where the earlier image lies, as `TAR:KEY`.

    Returns:
        `jpg`, `png` or `npy`; `txt`, the report, also where it is made from the label; `json`, the row's values; and
        where there are such, `mask.png`, and `gaze.png` or `gaze.npy`.

    Raises:
        DataError: If the sample can't be read.
    """
    sample, cells = source[index], source.cells(index)
    extension, data, copied = _image(source, index, sample, images)
    deep = not copied and sample.image.dtype != np.uint8
    about: dict[str, Any] = {name: cells[name] for name in FACTS if name != "text" and cells.get(name) is not None}
    if "boxes" in about:
        about["boxes"] = json.loads(about["boxes"])
    about["row"] = source.row(index)
    if prior is not None:
        about["prior"] = prior
    if extension == "npy" and deep:
        about["stretched"] = True
    files = {extension: data}
    if sample.report is not None:
        if sample.report.encode().decode("utf-8-sig").strip() == sample.report:
            files["txt"] = sample.report.encode()
        else:
            about["text"] = sample.report  # begins or ends with what a reader of text cuts off
        if sample.from_template:
            about["from_template"] = True
    files["json"] = json.dumps(about, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()
    return Encoded(files | _maps(source, sample, cells), deep)


def class_of(label: str | None) -> str | None:
    """Give the class that a cell of labels means: its only label, or that there is no finding.

    >>> class_of("edema"), class_of("No Finding"), class_of("edema;mass"), class_of(None)
    ('edema', 'no_finding', None, None)
    """
    labels = parse_labels(label)
    if labels is None or len(labels) > 1:
        return None
    return labels[0] if labels else NO_FINDING


def preprocess_of(source: ManifestSource) -> dict[str, Any]:
    """Say how a source makes grey levels of DICOM and other deep images; shards keep what it made of them."""
    return reading_contract(source.window)


def picture_kind(data: bytes, suffix: str = "") -> str | None:
    """Tell a JPEG or PNG file by its first bytes: `jpg`, `png` or None."""
    if suffix.lower() in _DICOM:
        return None
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)


def _image(source: ManifestSource, index: int, sample: Sample, images: str) -> tuple[str, bytes, bool]:
    """Give the image's extension and bytes, and whether they are those of its file."""
    pixels = sample.image
    if images == "copy":
        data = source.content(index)
        kind = picture_kind(data, Path(source.cells(index, ("image",))["image"] or "").suffix)
        if kind is not None:
            return kind, data, True
    if images == "jpg":
        grey = pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)
        return "jpg", _picture(grey, "JPEG", quality=JPEG_QUALITY, subsampling=0), False
    if pixels.dtype == np.uint8 and images != "npy":
        return "png", _picture(pixels, "PNG"), False
    return "npy", _stored(pixels), False


def _maps(source: ManifestSource, sample: Sample, cells: dict[str, str | None]) -> dict[str, bytes]:
    """Give the files of mask and gaze map: copied where they are PNG."""
    files = {}
    if sample.mask is not None:
        path = source.folder / str(cells["mask"])
        data = _bytes(path)
        # What is drawn is kept, not the region it means: the reader goes from one to the other as the manifest does.
        files["mask.png"] = data if picture_kind(data) == "png" else _picture(read_mask(path) * np.uint8(255), "PNG")
    if sample.gaze is not None:
        data = _bytes(source.folder / str(cells["gaze"]))
        if picture_kind(data) == "png":
            files["gaze.png"] = data
        else:
            files["gaze.npy"] = _stored(sample.gaze)
    return files


def _picture(pixels: NDArray[Any], kind: str, **more: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **more)
    return file.getvalue()


def _stored(pixels: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(pixels), allow_pickle=False)
    return file.getvalue()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"can't be read ({error.strerror})", where=str(path), remedy="check the file") from error
