"""What reading does to each modality, as a picture: python benchmarks/preprocessing_pictures.py [OUT.png].

Files: pydicom's and pydicom-data's (MIT licence, https://github.com/pydicom), and phantoms. Each row shows one file as
its stored values lie, and then as the library reads it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.data import get_testdata_file

from medmoe.data.images import read_image
from medmoe.data.preprocess import Preprocess
from medmoe.data.reading import Reading
from medmoe.data.sources.phantom import PhantomSource
from medmoe.types import Sample

SIDE, GAP, LINE = 140, 4, 13
OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "preprocessing.png"


def stretched(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Show numbers from their least to their greatest, as a careless reader would."""
    low, high = float(values.min()), float(values.max())
    return np.rint((values - low) * (255.0 / max(high - low, 1e-9))).astype(np.uint8)


def as_stored(name: str) -> NDArray[np.uint8]:
    """Give the numbers of a file's middle frame as they lie, whatever they mean."""
    data = pydicom.dcmread(get_testdata_file(name))
    count = int(data.get("NumberOfFrames") or 1)
    values = pydicom.pixels.pixel_array(data, index=(count - 1) // 2 if count > 1 else None, raw=True)
    return stretched(values.astype(np.float64))


def tile(image: NDArray[Any]) -> Image.Image:
    """Fit an image into a black square."""
    levels = image if image.dtype == np.uint8 else np.rint(image * 255).astype(np.uint8)
    square = Image.new("RGB", (SIDE, SIDE))
    small = Image.fromarray(levels).convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    square.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return square


def dicom_row(name: str, *readings: tuple[str, Reading]) -> list[tuple[str, NDArray[Any]]]:
    """Give a file as stored, and by each reading."""
    path = get_testdata_file(name)
    return [("as stored", as_stored(name)), *((words, read_image(path, reading=how)) for words, how in readings)]


def phantom_row() -> list[tuple[str, NDArray[Any]]]:
    """Give phantoms of other modalities as a model of 96 pixels gets them."""
    source, prepare, row = PhantomSource(40, seed=3, size=128), Preprocess(96), []
    for modality in ("fundus", "pathology", "xray", "mri", "ct"):
        sample = next(each for each in (source[at] for at in range(len(source))) if each.modality == modality)
        pixels = sample.image[:, 8:-24] if modality == "xray" else sample.image
        image, _ = prepare(Sample(key="a", image=np.ascontiguousarray(pixels)))
        levels = image.numpy().transpose(1, 2, 0) * np.array(prepare.std) + np.array(prepare.mean)
        row.append((f"{modality} phantom", levels.clip(0, 1).astype(np.float32)))
    return row


def rows() -> list[tuple[str, list[tuple[str, NDArray[Any]]]]]:
    header, full = ("window of the header", Reading()), ("full", Reading("full"))
    ct = [(name, Reading(name)) for name in ("brain", "bone")]
    three = ("three windows as channels", Reading("brain+soft_tissue+bone"))
    colours = [*dicom_row("examples_palette.dcm", ("palette looked up", Reading()))]
    colours += dicom_row("color3d_jpeg_baseline.dcm", ("YBR to RGB, middle frame", Reading()))
    return [
        ("CT, Hounsfield units (693_UNCR.dcm)", dicom_row("693_UNCR.dcm", header, *ct, three)),
        ("X-ray, MONOCHROME1 (RG3_UNCR.dcm)", dicom_row("RG3_UNCR.dcm", header, full)),
        ("MRI (MR-SIEMENS-DICOM-WithOverlays.dcm)", dicom_row("MR-SIEMENS-DICOM-WithOverlays.dcm", header, full)),
        ("Ultrasound (examples_palette.dcm, color3d_jpeg_baseline.dcm)", colours),
        ("Picture files, as a model gets them: aspect kept, padded", phantom_row()),
    ]


def main() -> None:
    every = rows()
    columns = max(len(tiles) for _, tiles in every)
    step = SIDE + 2 * LINE + GAP
    sheet = Image.new("RGB", (GAP + columns * (SIDE + GAP), GAP + len(every) * step), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (title, tiles) in enumerate(every):
        top = GAP + row * step
        pen.text((GAP, top), title, fill="black")
        for column, (words, image) in enumerate(tiles):
            left = GAP + column * (SIDE + GAP)
            sheet.paste(tile(image), (left, top + LINE))
            pen.text((left, top + LINE + SIDE), words, fill="black")
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    sheet.quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"{out}: {sheet.width} × {sheet.height}, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
