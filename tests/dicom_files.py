"""Small DICOM files for the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

VALUES = np.array([[0, 500, 1000], [1500, 2000, 4000]], np.int16)


def write(path: Path, values: np.ndarray = VALUES, **elements: object) -> Path:
    """Write a DICOM file of [H, W], [F, H, W] or [H, W, 3] values."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = elements.pop("syntax", ExplicitVRLittleEndian)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    colour = values.ndim == 3 and values.dtype == np.uint8
    data.SamplesPerPixel = 3 if colour else 1
    if colour:
        data.PlanarConfiguration = 0
    elif values.ndim == 3:
        data.NumberOfFrames = len(values)
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    data.Rows, data.Columns = values.shape[:2] if colour else values.shape[-2:]
    data.BitsAllocated = data.BitsStored = 8 * values.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(values.dtype.kind == "i")
    data.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    data["PixelData"].VR = "OW" if values.itemsize > 1 else "OB"
    for name, value in elements.items():
        setattr(data, name, value)
    syntax = data.file_meta.TransferSyntaxUID
    data.save_as(
        path, enforce_file_format=True, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian
    )
    return path
