"""JPEG of 12 bits (Extended, process 4), by GDCM itself: pydicom's plug-ins don't offer it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PIXEL_DATA = (0x7FE0, 0x0010)


def decode_12_bits(code: bytes, height: int, width: int, bits: int) -> NDArray[np.uint16]:
    """Decode one grey frame.

    Args:
        code: The frame's codestream.
        height: Its rows.
        width: Its columns.
        bits: Bits that carry a value, 9 to 12.

    Returns:
        [H, W].

    Raises:
        RuntimeError: If GDCM isn't installed.
        ValueError: If it can't decode the frame.
    """
    try:
        import gdcm
    except ImportError as error:
        raise RuntimeError("12-bit JPEG needs GDCM") from error
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(code)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(*_PIXEL_DATA))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((width, height, 1))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, bits, bits - 1, 0))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetDataElement(element)
    decoded = image.GetBuffer()
    data = decoded.encode("utf-8", "surrogateescape") if isinstance(decoded, str) else bytes(decoded or b"")
    if len(data) != 2 * height * width:
        raise ValueError("GDCM can't decode the 12-bit JPEG")
    return np.frombuffer(data, "<u2").reshape(height, width)
