"""A DICOM file's header: parsed once, its elements by number, and every way in which it can be wrong in one line.

Files without the preamble and file meta of PS3.10 are read where they plainly are data sets; see `is_dicom`.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, BinaryIO

from medmoe.errors import DataError

_PREAMBLE = 128
_OTHER_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_MOST_HEADER = 2_000_000  # bytes of a deflated header: more is a bomb
_MOST_INFLATED = 2**28  # it is in memory three times: inflated, as pixel data, as numbers
_ELEMENT = 12  # bytes before the pixel data's value
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
_VRS = (
    b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"LT", b"OB", b"PN", b"SH", b"SQ", b"ST", b"TM", b"UI",
    b"UL", b"UN", b"US", b"UT",
)  # fmt: skip

# Numbers of the elements that are read: asking for one that isn't there by its name takes far longer.
TAGS = {
    "SOPClassUID": 0x00080016, "Modality": 0x00080060, "ImageType": 0x00080008,
    "SamplesPerPixel": 0x00280002, "PhotometricInterpretation": 0x00280004, "PlanarConfiguration": 0x00280006,
    "NumberOfFrames": 0x00280008, "Rows": 0x00280010, "Columns": 0x00280011,
    "BitsAllocated": 0x00280100, "BitsStored": 0x00280101, "HighBit": 0x00280102, "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120, "PixelPaddingRangeLimit": 0x00280121,
    "FloatPixelPaddingValue": 0x00280122, "DoubleFloatPixelPaddingValue": 0x00280123,
    "FloatPixelPaddingRangeLimit": 0x00280124, "DoubleFloatPixelPaddingRangeLimit": 0x00280125,
    "WindowCenter": 0x00281050, "WindowWidth": 0x00281051, "RescaleIntercept": 0x00281052, "RescaleSlope": 0x00281053,
    "RescaleType": 0x00281054, "VOILUTFunction": 0x00281056, "ModalityLUTSequence": 0x00283000,
    "LUTDescriptor": 0x00283002, "ModalityLUTType": 0x00283004, "LUTData": 0x00283006, "VOILUTSequence": 0x00283010,
    "FloatPixelData": 0x7FE00008, "DoubleFloatPixelData": 0x7FE00009, "PixelData": 0x7FE00010,
    "DoseGridScaling": 0x3004000E, "SequenceOfUltrasoundRegions": 0x00186011,
    "PixelValueTransformationSequence": 0x00289145, "FrameVOILUTSequence": 0x00289132,
    "PixelMeasuresSequence": 0x00289110, "PlanePositionSequence": 0x00209113, "PlaneOrientationSequence": 0x00209116,
    "ImagePositionPatient": 0x00200032, "ImageOrientationPatient": 0x00200037,
    "PixelSpacing": 0x00280030, "ImagerPixelSpacing": 0x00181164, "NominalScannedPixelSpacing": 0x00182010,
    "SharedFunctionalGroupsSequence": 0x52009229, "PerFrameFunctionalGroupsSequence": 0x52009230,
}  # fmt: skip
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_REFUSALS = (
    AttributeError, KeyError, ValueError, TypeError, IndexError, NotImplementedError, RuntimeError, EOFError, OSError,
    OverflowError, ArithmeticError, MemoryError, AssertionError, struct.error, zlib.error,
)  # fmt: skip


def refusals() -> tuple[type[Exception], ...]:
    """Give what pydicom and what it uses raise on damaged files; to be asked for when something was raised."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (*_REFUSALS, BytesLengthException, InvalidDicomError)


def is_dicom(file: BinaryIO, suffix: str) -> bool:
    """Tell whether an open file is DICOM: by its name's suffix, or by what it begins with.

    That is `DICM` after the preamble, or, where both are missing, a first element of group 2 or 8 as only a data set
    has it.
    """
    if suffix.lower() in (".dcm", ".dicom"):
        return True
    if suffix.lower() in _OTHER_SUFFIXES:
        return False
    file.seek(0)
    head = file.read(_PREAMBLE + 4)
    return head[_PREAMBLE:] == b"DICM" or _begins_as_data_set(head)


def _begins_as_data_set(head: bytes) -> bool:
    """Tell whether bytes begin with an element as the first of a data set is: low number, short, a known VR or none."""
    if len(head) < 12 or head[:2] not in _FIRST_GROUPS or head[3] != 0:
        return False
    return head[4:6] in _VRS or int.from_bytes(head[4:8], "little") <= 1024


def read_header(file: BinaryIO, where: str, *, pixels: bool) -> Any:
    """Read a data set, with or without its pixel data.

    Args:
        file: The file, open.
        where: What to call it in an error.
        pixels: Whether the pixel data is wanted.

    Raises:
        DataError: If it isn't DICOM or is damaged.
    """
    import pydicom

    file.seek(0)
    head = file.read(512)
    bare = head[_PREAMBLE : _PREAMBLE + 4] != b"DICM"
    if bare and not _begins_as_data_set(head):
        what = "not a DICOM file (no DICM after the preamble, and it doesn't begin as a data set)"
        raise DataError(what, where=where, remedy="rewrite it with its file meta header")
    try:
        if _DEFLATED in head:
            return _inflated(file, where, pixels=pixels)
        file.seek(0)
        header = pydicom.dcmread(file, stop_before_pixels=not pixels, force=bare)
        if bare and not has(header, "SOPClassUID"):
            raise ValueError("it has no preamble, and says no SOP class")
        if pixels and syntax(header) is None:
            _assume_default(header)
    except refusals() as error:
        what = f"the DICOM header can't be read ({first_line(error)})"
        raise DataError(what, where=where, remedy="export it again, or take the row out") from error
    return header


def _inflated(file: BinaryIO, where: str, *, pixels: bool) -> Any:
    """Read a deflated data set, inflating no more of it than its own header asks for."""
    import pydicom

    file.seek(_PREAMBLE + 4)
    element, length = struct.unpack("<8sI", file.read(12))
    if element != b"\x02\0\0\0UL\x04\0" or length > 65536:
        raise ValueError("the file meta header doesn't say its length")
    # Once inflated, it is an explicit little-endian data set, and is called so.
    meta = file.read(length).replace(_DEFLATED, _DEFLATED[:-3] + b"\0\0\0")
    begin = b"\0" * _PREAMBLE + b"DICM" + struct.pack("<8sI", element, length) + meta
    deflated = file.read()
    stream = io.BytesIO(begin + zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated, _MOST_HEADER))
    header = pydicom.dcmread(stream, stop_before_pixels=True)
    if not pixels:
        return header
    wanted = stream.tell() - len(begin) + _ELEMENT + _length(header)
    if wanted > _MOST_INFLATED:
        raise ValueError(f"inflated, it would have {wanted:,} bytes")
    whole = zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated, wanted + wanted % 2)
    return pydicom.dcmread(io.BytesIO(begin + whole))


def _length(header: Any) -> int:
    """Give the bytes that uncompressed pixel data must have."""
    sides = [int(get(header, name) or 0) for name in ("Rows", "Columns", "BitsAllocated")]
    return (sides[0] * sides[1] * sides[2] * int(get(header, "SamplesPerPixel") or 1) * frames(header) + 7) // 8


def _assume_default(header: Any) -> None:
    """Take a data set that doesn't say its transfer syntax for implicit little endian, DICOM's default, if it fits.

    It fits where it parsed as that and its pixel data has just the length that the header asks for.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian

    data = get(header, "PixelData")
    expected = _length(header)
    if header.original_encoding == (True, True) and data is not None and len(data) == expected + expected % 2 > 0:
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def get(item: Any, name: str) -> Any:
    """Give an element's value; None where it is absent or empty."""
    return item[TAGS[name]].value if has(item, name) else None


def has(item: Any, name: str) -> bool:
    """Tell whether an element is there."""
    return TAGS[name] in item.keys()  # noqa: SIM118 - a data set's own `in` is slow


def short(header: Any, name: str) -> int | None:
    """Give an element of two bytes, as most that describe pixels are; None where it is absent or empty.

    pydicom takes far longer to convert them than this, as long as nobody has asked it to.
    """
    tag = TAGS[name]
    if tag not in header.keys():  # noqa: SIM118
        return None
    element = header.get_item(tag)
    value = element.value
    if isinstance(value, bytes) and len(value) == 2:
        return int.from_bytes(value, "little" if getattr(element, "is_little_endian", True) else "big")
    value = header[tag].value
    return None if value in (None, "", b"") else int(value)


def number(item: Any, name: str) -> float | None:
    """Give the first value of a number that may be several, or absent; None too for what is no number."""
    value = get(item, name)
    if value is None or isinstance(value, (str, bytes)):
        return None
    if hasattr(value, "__len__"):
        value = value[0] if len(value) else None
    return None if value is None else float(value)


def frames(header: Any) -> int:
    """Give the number of frames, 1 where it isn't said."""
    count = get(header, "NumberOfFrames")
    return int(count) if count is not None else 1


def group(header: Any, name: str, frame: int) -> Any:
    """Find a functional group's item in an enhanced multi-frame file: the frame's own, else the shared one."""
    per_frame = get(header, "PerFrameFunctionalGroupsSequence") or ()
    shared = get(header, "SharedFunctionalGroupsSequence") or ()
    for groups in (*per_frame[frame : frame + 1], *shared[:1]):
        if get(groups, name):
            return get(groups, name)[0]
    return None


def syntax(header: Any) -> Any:
    """Give the transfer syntax; None where the file doesn't say it."""
    meta = getattr(header, "file_meta", None)
    return meta.get("TransferSyntaxUID") if meta is not None else None


def first_line(error: Exception) -> str:
    """Give the first line of an error's message, cut to what a line holds; its type where it has none."""
    lines = str(error).splitlines()
    return lines[0][:160] if lines else type(error).__name__
