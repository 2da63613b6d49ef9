"""Small uncompressed DICOM files: ours, windowed and scaled, beside pydicom's stored values and its header alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from medmoe.data.images import read_image
from medmoe.speed.item import Call, Item, Size, Target, Way
from medmoe.speed.items.scratch import scratch

_COUNT = 300


@lru_cache(maxsize=2)
def slices(*, small: bool) -> list[Path]:
    """Write CT slices of 64² pixels of 16 bits with the usual elements of a header."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

    rng, paths = np.random.default_rng(0), []
    for number in range(5 if small else _COUNT):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = UID(f"1.2.3.{number}")
        data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = "1.2.3", "1.2.3", "CT"
        data.PatientID, data.StudyDate, data.InstanceNumber = "phantom", "20260101", number
        data.SliceThickness, data.PixelSpacing, data.ImagePositionPatient = 1.0, [1.0, 1.0], [0.0, 0.0, 0.0]
        data.Rows = data.Columns = 64
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.RescaleSlope, data.RescaleIntercept, data.WindowCenter, data.WindowWidth = 1, -1024, 40, 400
        data.PixelData = rng.integers(0, 4096, (64, 64), np.uint16).tobytes()
        data["PixelData"].VR = "OW"
        paths.append(scratch() / f"slice-{number}.dcm")
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def _every(function: Callable[[Path], Any], paths: Sequence[Path]) -> None:
    for path in paths:
        function(path)


def _pixel_array(path: Path) -> Any:
    import pydicom

    return pydicom.dcmread(path).pixel_array


def _header(path: Path) -> Any:
    import pydicom

    return pydicom.dcmread(path)


def _ways(size: Size) -> Mapping[str, Way]:
    def way(function: Callable[[Path], Any]) -> Way:
        def build() -> Call:
            return partial(_every, function, slices(small=size.small))

        return build

    return {"ours": way(read_image), "plain": way(_pixel_array), "floor": way(_header)}


ITEMS = (
    Item(
        name="dicom",
        about=f"{_COUNT} uncompressed DICOM files of 64²: read_image, which windows and scales; pydicom's stored "
        "values (dcmread(path).pixel_array); its parsing alone",
        ways=_ways,
        targets=[Target("rate", 0.95, at_most=False)],
        floor="pydicom's parsing of the header alone",
        unit=("files", _COUNT),
        devices=("cpu",),
    ),
)
