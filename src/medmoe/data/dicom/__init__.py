"""A simple DICOM read: one frame, modality values once, the header's window, to [0, 1].

The order is the standard's (DICOM PS3.3 C.11, https://dicom.nema.org/medical/dicom/current/output/chtml/part03/):
stored values, modality transform, window, polarity.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medmoe.data.reading import USUAL, Reading
from medmoe.errors import DataError
from medmoe.modalities import MODALITIES

_PREAMBLE = 128
_LITTLE_ENDIAN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")  # implicit and explicit VR, uncompressed
_GREY = ("MONOCHROME1", "MONOCHROME2")
# Numbers of the elements that are read: asking for one that isn't there by its name takes far longer.
_TAGS = {
    "SamplesPerPixel": 0x00280002, "PhotometricInterpretation": 0x00280004, "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010, "Columns": 0x00280011, "BitsAllocated": 0x00280100, "BitsStored": 0x00280101,
    "PixelRepresentation": 0x00280103, "PixelData": 0x7FE00010, "Modality": 0x00080060,
    "WindowCenter": 0x00281050, "WindowWidth": 0x00281051, "RescaleIntercept": 0x00281052, "RescaleSlope": 0x00281053,
    "VOILUTFunction": 0x00281056, "ModalityLUTSequence": 0x00283000, "VOILUTSequence": 0x00283010,
    "PixelValueTransformationSequence": 0x00289145, "FrameVOILUTSequence": 0x00289132,
    "SharedFunctionalGroupsSequence": 0x52009229, "PerFrameFunctionalGroupsSequence": 0x52009230,
}  # fmt: skip
_SHAPE = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")
_REFUSALS = (
    AttributeError, KeyError, ValueError, TypeError, IndexError, NotImplementedError, RuntimeError, EOFError, OSError,
    OverflowError, struct.error,
)  # fmt: skip


def is_dicom(file: BinaryIO, suffix: str) -> bool:
    """Tell whether an open file is DICOM, by its name's suffix or by the `DICM` after its preamble."""
    if suffix.lower() in (".dcm", ".dicom"):
        return True
    if suffix.lower() in (".jpg", ".jpeg", ".png", ".tif", ".tiff"):
        return False
    file.seek(0)
    return file.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"


def dicom_size(file: BinaryIO, *, where: str) -> tuple[int, int]:
    """Read (width, height) of a DICOM image from its header; `where` names the file in an error.

    Raises:
        DataError: If the file isn't a DICOM image.
    """
    header = _header(file, where, pixels=False)
    try:
        return int(header.Columns), int(header.Rows)
    except (AttributeError, TypeError) as error:
        raise DataError("the DICOM file has no image", where=where, remedy="take the row out") from error


def read_dicom(file: BinaryIO, *, where: str, reading: Reading = USUAL) -> NDArray[np.float32]:
    """Read one frame of a DICOM image as a reader would first see it.

    The window is the header's (the first, if several), else the modality's usual one where the values are
    Hounsfield units, else the frame's own minimum and maximum.

    Args:
        file: The file, open; it is read once.
        where: What to call it in an error.
        reading: The frame.

    Returns:
        [H, W] or [H, W, 3] float32 in [0, 1]; low is dark (MONOCHROME1 is inverted).

    Raises:
        DataError: If it isn't a DICOM image, or can't be decoded by what is installed.
    """
    header = _header(file, where, pixels=True)
    try:
        count = int(_get(header, "NumberOfFrames") or 1)
        frame = (count - 1) // 2 if reading.frame is None else reading.frame
        if not 0 <= frame < count:
            what = f"no frame {frame}; the file has {count}, counted from 0"
            raise DataError(what, where=where, remedy="correct the column 'frame'")
        stored = _stored(header, frame)
        shown = _colour(stored, header) if stored.ndim == 3 else _grey(stored, header, frame)
    except DataError:
        raise
    except _REFUSALS as error:
        raise _refusal(where, header, error) from error
    if not np.isfinite(shown).all():
        raise DataError("the image has NaN or infinite pixels", where=where, remedy="export it again")
    return shown.astype(np.float32)


def _header(file: BinaryIO, where: str, *, pixels: bool) -> Any:
    """Read a data set, with or without its pixel data."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    file.seek(0)
    try:
        return pydicom.dcmread(file, stop_before_pixels=not pixels)
    except InvalidDicomError as error:
        what = "not a DICOM file (no DICM after the preamble)"
        raise DataError(what, where=where, remedy="rewrite it with its file meta header") from error
    except _REFUSALS as error:
        what = f"the DICOM header can't be read ({_first_line(error)})"
        raise DataError(what, where=where, remedy="export it again, or take the row out") from error


def _get(item: Any, name: str) -> Any:
    """Give an element's value; None where it is absent or empty."""
    return item[_TAGS[name]].value if _has(item, name) else None


def _has(item: Any, name: str) -> bool:
    return _TAGS[name] in item.keys()  # noqa: SIM118 - a data set's own `in` is slow


def _stored(header: Any, frame: int) -> NDArray[Any]:
    """Decode one frame to [H, W], or [H, W, 3] RGB (palettes looked up, YBR converted)."""
    plain = _plain(header)
    if plain is not None:
        return plain
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    many = int(_get(header, "NumberOfFrames") or 1) > 1
    values = pixel_array(header, index=frame if many else None)
    if values.ndim > 2 and int(_get(header, "SamplesPerPixel") or 1) == 1:
        values = values[0]  # a single frame still stacked
    if _get(header, "PhotometricInterpretation") == "PALETTE COLOR":
        values = apply_color_lut(values, header)[..., :3]
    return np.asarray(values)


def _plain(header: Any) -> NDArray[Any] | None:
    """Take uncompressed little-endian grey, one frame, as it lies in the file: [H, W]; None for whatever is else.

    The general way checks and describes far more than such a file needs, which takes longer than reading it.
    """
    syntax = header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None
    if syntax not in _LITTLE_ENDIAN or _get(header, "PixelData") is None:
        return None
    if _get(header, "PhotometricInterpretation") not in _GREY or int(_get(header, "NumberOfFrames") or 1) != 1:
        return None
    raw = [header.get_item(_TAGS[name]) for name in _SHAPE]
    numbers: list[Any] = [
        getattr(element, "value", None) for element in raw
    ]  # two bytes each, which are quick to convert here
    if not all(isinstance(number, bytes) and len(number) == 2 for number in numbers):
        return None
    height, width, samples, allocated, stored, signed = struct.unpack("<6H", b"".join(numbers))
    if samples != 1 or min(height, width) < 1 or allocated not in (8, 16, 32) or signed not in (0, 1):
        return None
    count, data = height * width * allocated // 8, _get(header, "PixelData")
    if not 1 <= stored <= allocated or len(data) != count + count % 2:
        return None
    values = np.frombuffer(data, f"<{'ui'[signed]}{allocated // 8}", height * width).reshape(height, width)
    unused = allocated - stored
    return values << unused >> unused if unused else values  # PS3.5 8.1.1: those bits may hold anything


def _colour(values: NDArray[Any], header: Any) -> NDArray[Any]:
    """Scale RGB by the bits that carry it."""
    bits = 8 * values.itemsize
    if _get(header, "PhotometricInterpretation") != "PALETTE COLOR":
        bits = int(_get(header, "BitsStored") or bits)
    return np.clip(values / float(2**bits - 1), 0.0, 1.0)


def _grey(stored: NDArray[Any], header: Any, frame: int) -> NDArray[Any]:
    """Take stored values through the modality transform, the window and the polarity."""
    transform = _group(header, "PixelValueTransformationSequence", frame)
    rescale = transform if transform is not None else header
    values = _modality(stored, rescale)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return np.full(values.shape, np.nan)  # told as such by the caller
    shown = _window(values, header, frame, hounsfield=_has(rescale, "RescaleIntercept"))
    return 1.0 - shown if _get(header, "PhotometricInterpretation") == "MONOCHROME1" else shown


def _modality(stored: NDArray[Any], rescale: Any) -> NDArray[Any]:
    """Apply the modality transform: a look-up table, or else slope and intercept."""
    if _get(rescale, "ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        return np.asarray(apply_modality_lut(stored, rescale))
    if not (_has(rescale, "RescaleSlope") and _has(rescale, "RescaleIntercept")):
        return stored
    values = stored.astype(np.float64) * float(_get(rescale, "RescaleSlope"))
    values += float(_get(rescale, "RescaleIntercept"))
    return values


def _window(values: NDArray[Any], header: Any, frame: int, *, hounsfield: bool) -> NDArray[Any]:
    """Bring modality values to [0, 1]; a window that leaves nothing to see gives way to minimum and maximum."""
    voi = _group(header, "FrameVOILUTSequence", frame)
    voi = voi if voi is not None else header
    low, high = float(values.min()), float(values.max())
    if _get(voi, "VOILUTSequence") and float(np.abs(values - np.rint(values)).max()) == 0.0:
        return _lookup(values, voi)
    centre, width = _first(voi, "WindowCenter"), _first(voi, "WindowWidth")
    if centre is None or width is None or width <= 0:
        modality = _get(header, "Modality")
        usual = next((row.window for row in MODALITIES.values() if modality in row.dicom), None)
        centre, width = usual if usual and hounsfield else (None, None)
    if centre is not None and width is not None:
        shown = _curve(values, centre, width, str(_get(voi, "VOILUTFunction") or "LINEAR").upper())
        if shown.max() > shown.min() or high == low:
            return shown
    return (values - low) / (high - low) if high > low else np.zeros(values.shape)


def _curve(values: NDArray[Any], centre: float, width: float, function: str) -> NDArray[Any]:
    """Apply a window (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    offset = np.asarray(values, np.float64) - centre
    if function == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * offset / width, -60.0, 60.0))))
    if function == "LINEAR_EXACT" or width <= 1:
        return np.clip(offset / width + 0.5, 0.0, 1.0)
    return np.clip((offset + 0.5) / (width - 1.0) + 0.5, 0.0, 1.0)


def _lookup(values: NDArray[Any], voi: Any) -> NDArray[Any]:
    """Apply the first VOI look-up table; values beyond its ends take the end's value."""
    from pydicom.pixels.processing import apply_voi

    integers = np.rint(values).astype(np.int64 if values.min() < 0 else np.uint32)
    looked = np.asarray(apply_voi(integers, voi, index=0), np.float64)
    return np.clip(looked / float(2 ** int(voi.VOILUTSequence[0].LUTDescriptor[2]) - 1), 0.0, 1.0)


def _group(header: Any, name: str, frame: int) -> Any:
    """Find a functional group's item in an enhanced multi-frame file: the frame's own, else the shared one."""
    per_frame = _get(header, "PerFrameFunctionalGroupsSequence") or ()
    shared = _get(header, "SharedFunctionalGroupsSequence") or ()
    for groups in (*per_frame[frame : frame + 1], *shared[:1]):
        if _get(groups, name):
            return groups[name].value[0]
    return None


def _first(item: Any, name: str) -> float | None:
    """Give the first value of a number that may be several, or absent."""
    value = _get(item, name)
    if value is None or value == "":
        return None
    try:
        return float(value)
    except TypeError:
        return float(value[0]) if len(value) else None


def _refusal(where: str, header: Any, error: Exception) -> DataError:
    """Word why a file can't be decoded: its compression where no decoder is installed, else what went wrong."""
    from pydicom.pixels.decoders.base import get_decoder

    meta = getattr(header, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if syntax is None:
        what = "the DICOM file doesn't say its transfer syntax"
        return DataError(what, where=where, remedy="rewrite it with its file meta header")
    try:
        available = bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        available = False
    if syntax.is_compressed and not available:
        what = f"no decoder is installed for transfer syntax {syntax.name} ({syntax})"
        return DataError(what, where=where, remedy="install one with: pip install 'medmoe[dicom]'")
    what = f"the pixels, of transfer syntax {syntax.name} ({syntax}), can't be decoded ({_first_line(error)})"
    remedy = "export it again, or take the row out"
    if syntax.is_compressed:
        remedy = "export it uncompressed, or install more decoders with: pip install 'medmoe[dicom]'"
    return DataError(what, where=where, remedy=remedy)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:160] if lines else type(error).__name__
