"""The kinds of files in the campaign: how a case of each is made, and all the ways in which the library reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.damage import Case, pick

Reading = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file.

    Attributes:
        make: Writes a case into a folder.
        readings: Gives the ways in which the library reads a file, each of which raises what the library raises.
        warm: Imports what reading needs, so that a case isn't charged for it.
    """

    make: Callable[[np.random.Generator, Path], Case]
    readings: Callable[[Path], Sequence[Reading]]
    warm: Callable[[], object]


class BrokenPromiseError(AssertionError):
    """A file was read, and what came isn't what the library promises."""


def promise(kept: bool, what: str) -> None:
    """Say that something has to hold for what was read."""
    if not kept:
        raise BrokenPromiseError(what)


def look(pixels: Any) -> None:
    """Hold pixels against what `read_image` promises."""
    promise(pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3), f"shape {pixels.shape}")
    promise(pixels.size > 0, f"shape {pixels.shape}")
    promise(pixels.dtype in (np.uint8, np.float32), f"dtype {pixels.dtype}")
    if pixels.dtype == np.float32:
        low, high = float(pixels.min()), float(pixels.max())
        promise(0.0 <= low <= high <= 1.0, f"values from {low} to {high}")


def read_picture(path: Path) -> list[Reading]:
    """Read an image file as an image of each use, and its size."""
    from medmoe.data.curation.scan_file import read_record
    from medmoe.data.images import image_size, read_gaze, read_image, read_image_bytes, read_mask

    def agree() -> None:
        pixels = read_image(path)
        look(pixels)
        width, height = image_size(path)
        promise(pixels.shape[:2] == (height, width), f"size {width}x{height}, pixels {pixels.shape}")

    def mask() -> None:
        promise(read_mask(path).dtype == np.bool_, "a mask that isn't bool")

    def gaze() -> None:
        values = read_gaze(path)
        promise(values.ndim == 2 and 0 <= float(values.min()) <= float(values.max()) <= 1, "a gaze map beyond [0, 1]")

    return [
        lambda: image_size(path),
        agree,
        lambda: look(read_image(path, at_least=16)),
        lambda: look(read_image_bytes(path.read_bytes(), name=path.name, where=str(path))),
        mask,
        gaze,
        lambda: read_record(str(path)),
    ]


def clean(path: Path) -> list[Reading]:
    """De-identify a DICOM file, a picture or a volume, with burned-in letters reported and blanked."""
    from medmoe.data.curation.deidentify_one import Way, clean_file
    from medmoe.data.curation.deidentify_rules import Options
    from medmoe.errors import DataError

    def way(burned_in: str) -> Reading:
        def cleaned() -> None:
            record, _ = clean_file(
                path, path.name, path.parent / "clean", Way(bytes(32), Options(), burned_in=burned_in)
            )
            if record.reason is not None:  # it never raises, and names a file by its pseudonym
                raise DataError(record.reason, where=path.name)

        return cleaned

    return [way("report"), way("blank")]


def make_to_clean(rng: np.random.Generator, folder: Path) -> Case:
    """Write a damaged DICOM file, JPEG, PNG or volume."""
    from fuzzing import dicoms, pictures, volumes

    return pick(rng, (dicoms.make_dicom,) * 3 + (pictures.make_jpeg, pictures.make_png, volumes.make_volume))(
        rng, folder
    )


def read_dicom(path: Path) -> list[Reading]:
    """Read a DICOM file as an image, its values, its geometry, its report, and under other windows and frames."""
    from medmoe.data.curation.scan_file import read_record
    from medmoe.data.dicom import dicom_geometry, read_dicom_values
    from medmoe.data.dicom.facts import read_facts
    from medmoe.data.dicom.reports import report_text
    from medmoe.data.images import image_size, read_image, read_mask
    from medmoe.data.reading import Reading as How

    def agree() -> None:
        pixels = read_image(path)
        look(pixels)
        width, height = image_size(path)
        promise(pixels.shape[:2] == (height, width), f"size {width}x{height}, pixels {pixels.shape}")

    def opened(reader: Callable[..., object]) -> Reading:
        def reading() -> None:
            with path.open("rb") as file:
                reader(file, where=str(path))

        return reading

    return [
        lambda: image_size(path),
        agree,
        lambda: look(read_image(path, reading=How(window="lung+soft_tissue+bone", frame=0))),
        lambda: look(read_image(path, reading=How(window="full"))),
        lambda: look(read_image(path, reading=How(window="usual"))),
        lambda: read_mask(path),
        opened(read_dicom_values),
        opened(dicom_geometry),
        lambda: read_facts(path),
        lambda: report_text(path),
        lambda: read_record(str(path)),
    ]


def read_volume(path: Path) -> list[Reading]:
    """Read a NIfTI volume: slices of each plane, a mask, its facts."""
    from medmoe.data.curation.scan_file import read_record
    from medmoe.data.images import image_size, read_image, read_mask
    from medmoe.data.nifti import read_nifti_facts
    from medmoe.data.reading import Reading as How

    def agree() -> None:
        pixels = read_image(path)
        look(pixels)
        width, height = image_size(path)
        promise(pixels.shape[:2] == (height, width), f"size {width}x{height}, pixels {pixels.shape}")

    def facts() -> None:
        with path.open("rb") as file:
            read_nifti_facts(file, where=str(path))

    return [
        lambda: image_size(path),
        agree,
        lambda: look(read_image(path, reading=How(plane="sagittal", frame=0, window="lung"))),
        lambda: look(read_image(path, reading=How(plane="coronal", window="usual"))),
        lambda: read_mask(path),
        facts,
        lambda: read_record(str(path)),
    ]


def _warm_cleaning() -> None:
    from medmoe.data.curation.deidentify_one import clean_file  # noqa: F401

    _warm_medical()


def _warm_medical() -> None:
    import nibabel  # noqa: F401
    import pydicom
    from pydicom.pixels.decoders.base import get_decoder

    from fuzzing import dicom_files, volumes

    _warm_pictures()
    dicom_files.packed()
    volumes.seeds()
    for syntax in (pydicom.uid.JPEG2000, pydicom.uid.JPEGLSLossless, pydicom.uid.RLELossless):
        get_decoder(syntax).available_plugins  # noqa: B018 - imports them


def each_of(count: int, *readings: Callable[[int], object]) -> None:
    """Read every sample in some ways; a refused one doesn't keep others from being read, and the first is raised."""
    from medmoe.errors import DataError

    refused = None
    for index in range(min(count, 40)):
        for reading in readings:
            try:
                reading(index)
            except DataError as error:
                refused = refused or error
    if refused is not None:
        raise refused


def look_at_facts(sample: Any) -> None:
    """Hold what is known of a sample against what it may be: text that can be written, finite numbers."""
    for text in (sample.report, sample.key, sample.question, sample.answer, sample.patient, *(sample.labels or ())):
        promise(text is None or bool(text.encode("utf-8") or True), "text")
    for box in sample.boxes or ():
        promise(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1, f"a box beyond the image: {box}")
    promise(sample.offset_days is None or bool(np.isfinite(sample.offset_days)), "offset_days")


def read_tar(path: Path) -> list[Reading]:
    """Read a tar's samples: their facts, their pixels, their bytes."""
    from medmoe.data.sources.concat import open_source
    from medmoe.data.sources.shards import ShardSource

    def facts() -> None:
        source = ShardSource([path])
        each_of(len(source), lambda index: look_at_facts(source.facts(index)))

    def pixels() -> None:
        source = ShardSource([path])
        each_of(len(source), lambda index: look(source[index].image), lambda index: look_at_facts(source[index]))

    def content() -> None:
        source = open_source(str(path))
        promise(isinstance(source, ShardSource), "a tar opened as something else")
        each_of(len(source), source.files, source.content)  # type: ignore[attr-defined]

    return [facts, pixels, content]


def read_manifest(path: Path) -> list[Reading]:
    """Read a manifest as a source and as commands pass it on."""
    from medmoe.data.sources.concat import open_source
    from medmoe.data.sources.manifest import ManifestSource
    from medmoe.data.sources.manifest_write import read_all, write_manifest

    def facts() -> None:
        source = ManifestSource(path)
        each_of(len(source), lambda index: look_at_facts(source.facts(index)))

    def pixels() -> None:
        source = ManifestSource(path, check_files=False)
        each_of(len(source), lambda index: look(source[index].image), source.content)

    def passed_on() -> None:
        table = read_all(path)
        for suffix in ("csv", "jsonl", "parquet"):
            again = read_all(write_manifest(table, path.parent / f"again-{path.name}.{suffix}"))
            promise(again.num_rows == table.num_rows, f"{table.num_rows} rows became {again.num_rows}")

    return [facts, pixels, passed_on, lambda: open_source(str(path))]


def _warm_sources() -> None:
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401

    from medmoe.data.sources.concat import open_source  # noqa: F401
    from medmoe.data.sources.manifest_write import read_all  # noqa: F401

    _warm_pictures()


def _warm_pictures() -> None:
    from PIL import Image

    from medmoe.data.images import read_image  # noqa: F401
    from medmoe.data.jpeg import fast_decoder

    Image.init()
    fast_decoder()


def _kinds() -> dict[str, Kind]:
    from fuzzing.dicoms import make_dicom
    from fuzzing.manifests import make_manifest
    from fuzzing.pictures import make_jpeg, make_other, make_png
    from fuzzing.tars import make_tar
    from fuzzing.volumes import make_volume

    return {
        "dicom": Kind(make_dicom, read_dicom, _warm_medical),
        "jpeg": Kind(make_jpeg, read_picture, _warm_pictures),
        "png": Kind(make_png, read_picture, _warm_pictures),
        "other pictures": Kind(make_other, read_picture, _warm_pictures),
        "tar": Kind(make_tar, read_tar, _warm_sources),
        "manifest": Kind(make_manifest, read_manifest, _warm_sources),
        "nifti": Kind(make_volume, read_volume, _warm_medical),
        "to de-identify": Kind(make_to_clean, clean, _warm_cleaning),
    }


KINDS = _kinds()
