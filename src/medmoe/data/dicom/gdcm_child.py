"""The process in which GDCM decodes: it reads requests from its input until that ends, and ends when GDCM does.

Run as a script by `gdcm_decoder.py`. A request is the length of a JSON object (4 bytes, little endian), the object, and
as many bytes of codestream as its `bytes` says. The answer is the length of the decoded frame (8 bytes), 0 if it can't
be decoded, and the frame.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from typing import Any, BinaryIO

MOST_MEMORY = 4 * 2**30


def decode(asked: dict[str, Any], code: bytes) -> bytes:
    """Decode one frame to its numbers, row by row, colours beside each other."""
    import gdcm

    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(code)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((asked["width"], asked["height"], 1))
    bits = asked["bits"]
    form = gdcm.PixelFormat(asked["samples"], asked["allocated"], bits, bits - 1, int(asked["signed"]))
    image.SetPixelFormat(form)
    kind = gdcm.PhotometricInterpretation.GetPIType(asked["photometric"])
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(asked["syntax"])))
    image.SetDataElement(element)
    decoded = image.GetBuffer()
    return decoded.encode("utf-8", "surrogateescape") if isinstance(decoded, str) else bytes(decoded or b"")


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    while len(head := requests.read(4)) == 4:
        asked = json.loads(requests.read(struct.unpack("<I", head)[0]))
        frame = decode(asked, requests.read(asked["bytes"]))
        answers.write(struct.pack("<Q", len(frame)) + frame)
        answers.flush()


def main() -> None:
    """Serve on standard input and output, with bounded memory where the system can bound it."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what GDCM prints is no answer
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
