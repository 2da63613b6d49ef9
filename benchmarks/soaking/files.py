"""Images to read for a long time: phantoms as PNG, JPEG and DICOM files in a folder, and the same as tars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medmoe.data.sources.manifest_write import write_manifest
from medmoe.data.sources.phantom import PhantomSource
from medmoe.data.sources.shard_write import write_shards

KINDS = ("png", "jpg", "dcm")


def make(folder: Path, *, patients: int, size: int) -> tuple[Path, Path]:
    """Write a manifest of files, one of them broken, and the good ones as tars; a fifth is for validation."""
    (folder / "images").mkdir(parents=True)
    source, rows = PhantomSource(patients, size=size, seed=0), []
    for number in range(len(source)):
        sample, kind = source[number], KINDS[number % len(KINDS)]
        path = folder / "images" / f"{number:06}.{kind}"
        if kind == "dcm":
            _write_dicom(path, sample.image)
        else:
            Image.fromarray(sample.image).save(path)
        row: dict[str, Any] = {"image": f"images/{path.name}", "text": sample.report, "modality": sample.modality}
        row |= {"label": ";".join(sample.labels or ()) or "no_finding", "patient_id": sample.patient}
        rows.append(row | {"split": "val" if hash_of(sample.patient) == 0 else "train"})
    sound = write_manifest(rows, folder / "sound.parquet")
    tars = folder / "tars"
    write_shards(sound, tars, samples_per_shard=100)
    broken = next(row for row in rows if row["split"] == "train" and row["image"].endswith("png"))
    whole = (folder / broken["image"]).read_bytes()
    (folder / "images" / "broken.png").write_bytes(whole[: len(whole) // 2])
    return write_manifest([*rows, {**broken, "image": "images/broken.png"}], folder / "manifest.parquet"), tars


def hash_of(patient: str | None) -> int:
    """Deal patients into five parts."""
    return sum((patient or "").encode()) % 5


def _write_dicom(path: Path, image: np.ndarray) -> None:
    """Write an image as an uncompressed grey DICOM file."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    values = np.asarray(Image.fromarray(image).convert("L"), np.uint16) * 16
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.Rows, data.Columns = values.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.WindowCenter, data.WindowWidth = 2048, 4096
    data.PixelData = values.tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(path, enforce_file_format=True)
