"""Compressed pictures without what isn't picture: comments and application data of JPEG, JPEG-LS and JPEG 2000, tails.

The coded picture stays as it is, bit by bit. JPEG: ISO/IEC 10918-1 Annex B; JPEG-LS: ISO/IEC 14495-1 Annex C;
JPEG 2000: ISO/IEC 15444-1 Annex A.
"""

from __future__ import annotations

import struct

_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length: TEM, RST, SOI
_J2K = b"\xff\x4f\xff\x51"
_JP2 = b"\x00\x00\x00\x0cjP  \r\n\x87\n"


def clean_stream(data: bytes) -> bytes:
    """Take out of one coded picture what isn't needed to decode it.

    Args:
        data: A whole JPEG, JPEG-LS or JPEG 2000 picture (codestream or JP2).

    Returns:
        The same picture. JPEG: without comments, application data (but for the short Adobe, JFIF and JPEG-LS colour
        marks, which decoders need) and whatever follows its end. JPEG 2000: with comments blanked, the codestream only.

    Raises:
        ValueError: If it is none of these, or broken.
    """
    if data[:4] == _J2K:
        return _clean_j2k(data)
    if data[:12] == _JP2:
        return _clean_j2k(_codestream(data))
    if data[:2] == b"\xff\xd8":
        return _clean_jpeg(data)
    raise ValueError("neither JPEG, JPEG-LS nor JPEG 2000")


def _clean_jpeg(data: bytes) -> bytes:
    """Copy the segments that matter, each scan's coded bytes, and stop at the end of the image."""
    kept, at = [data[:2]], 2
    while True:
        while data[at : at + 2] == b"\xff\xff":
            at += 1  # fill bytes
        if at + 2 > len(data):
            break  # no end marker: what there is
        if data[at] != 0xFF:
            raise ValueError("a marker is missing")
        marker = data[at + 1]
        if marker == 0xD9:
            break
        if marker in _ALONE:
            at += 2
            continue
        end = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
        if end > len(data):
            raise ValueError("a segment is cut off")
        kept.append(_segment(marker, data[at:end]))
        at = end
        if marker == 0xDA:
            end = _scan_end(data, at)
            kept.append(data[at:end])
            at = end
    return b"".join(kept) + b"\xff\xd9"


def _segment(marker: int, segment: bytes) -> bytes:
    """Give a segment as it is kept: comments and application data go, but for what changes the colours."""
    body = segment[4:]
    if marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
        return b"\xff\xee\x00\x0e" + body[:5] + bytes(6) + body[11:12]
    if marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 14:
        return b"\xff\xe0\x00\x10" + body[:12] + b"\0\0"
    if marker == 0xE8 and body[:4] == b"mrfx" and len(body) >= 5:
        return b"\xff\xe8\x00\x07" + body[:5]
    return b"" if marker == 0xFE or 0xE0 <= marker <= 0xEF else segment


def _scan_end(data: bytes, at: int) -> int:
    """Find the marker that ends a scan: after FF neither a stuffed byte (JPEG: 0; JPEG-LS: below 80) nor a restart."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return len(data)
        following = data[at + 1]
        if following >= 0x80 and following != 0xFF and not 0xD0 <= following <= 0xD7:
            return at
        at += 1


def _codestream(data: bytes) -> bytes:
    """Find the codestream in the boxes of a JP2 file."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        head = 8
        if length == 1:
            length, head = struct.unpack(">Q", data[at + 8 : at + 16])[0], 16
        if kind == b"jp2c":
            return data[at + head : at + length if length else len(data)]
        if length < head:
            break
        at += length
    raise ValueError("a JP2 file without a codestream")


def _clean_j2k(data: bytes) -> bytes:
    """Blank the comments of the main header and of each tile-part's, and cut what follows the end."""
    fresh, at = bytearray(data), 2
    while at + 4 <= len(data):
        marker = struct.unpack(">H", data[at : at + 2])[0]
        if marker == 0xFFD9:
            return bytes(fresh[: at + 2])
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        if marker == 0xFF64:
            _blank(fresh, at, length)
        if marker == 0xFF90:
            at = _tile_part(fresh, data, at)
            continue
        at += 2 + length
    if data[at : at + 2] == b"\xff\xd9":
        return bytes(fresh[: at + 2])
    return bytes(fresh)  # without its end, as some encoders leave it


def _tile_part(fresh: bytearray, data: bytes, start: int) -> int:
    """Blank the comments of a tile-part's header, and give where the tile-part ends."""
    length = struct.unpack(">I", data[start + 6 : start + 10])[0]
    end = start + length if length else len(data) - (2 if data.endswith(b"\xff\xd9") else 0)
    at = start + 12
    while at + 4 <= min(end, len(data)):
        marker, size = struct.unpack(">HH", data[at : at + 4])
        if marker == 0xFF93:
            return end
        if marker == 0xFF64:
            _blank(fresh, at, size)
        at += 2 + size
    raise ValueError("a tile-part without data")


def _blank(fresh: bytearray, at: int, length: int) -> None:
    """Write spaces over the text of a comment, whose length stays."""
    fresh[at + 6 : at + 2 + length] = b" " * max(length - 4, 0)
