"""Damaged pictures: JPEG, PNG and the other formats that Pillow reads, by bytes and by their structure."""

from __future__ import annotations

import io
import struct
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from fuzzing.damage import Case, damage, deflated_zeros, pick

SIDES = (0, 1, 2, 255, 256, 4096, 9999, 13_000, 20_000, 65_500, 65_535)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def make_jpeg(rng: np.random.Generator, folder: Path) -> Case:
    """Write a damaged JPEG."""
    data = pick(rng, seeds("jpg"))
    way = pick(rng, (_jpeg_sides, _jpeg_length, _jpeg_scans, _jpeg_exif, None, None, None))
    if way is None:
        data, how = damage(data, rng, pick(rng, seeds("jpg")), head=700)
    else:
        data, how = way(data, rng), way.__name__.strip("_")
    return _write(folder, pick(rng, ("case.jpg", "case.jpeg", "case.JPG", "case.img")), data, how)


def make_png(rng: np.random.Generator, folder: Path) -> Case:
    """Write a damaged PNG."""
    data = pick(rng, seeds("png"))
    way = pick(rng, (_png_sides, _png_length, _png_bomb, _png_text, _png_order, _png_header, _png_whole, None, None))
    if way is None:
        data, how = damage(data, rng, pick(rng, seeds("png")), head=120)
    else:
        data, how = way(data, rng), way.__name__.strip("_")
    return _write(folder, pick(rng, ("case.png", "case.PNG", "case.img")), data, how)


def make_other(rng: np.random.Generator, folder: Path) -> Case:
    """Write a damaged TIFF, GIF, WebP, BMP, PPM or JPEG 2000."""
    kind = pick(rng, ("tif", "tif", "gif", "webp", "bmp", "ppm", "jp2"))
    data = pick(rng, seeds(kind))
    sides = {"tif": _tiff_entry, "gif": _gif_sides, "bmp": _bmp_sides, "ppm": _ppm_sides, "jp2": _jp2_sides}.get(kind)
    if sides is not None and rng.random() < 0.4:
        data, how = sides(data, rng), sides.__name__.strip("_")
    else:
        data, how = damage(
            data, rng, pick(rng, seeds(pick(rng, ("tif", "gif", "webp", "bmp", "ppm", "jp2")))), head=200
        )
    return _write(folder, f"case.{kind}", data, how)


def _write(folder: Path, name: str, data: bytes, how: str) -> Case:
    path = folder / name
    path.write_bytes(data)
    return Case(path, how)


@lru_cache(maxsize=16)
def seeds(kind: str) -> tuple[bytes, ...]:
    """Make small whole pictures of a kind, of every mode and compression it has."""
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(45), np.arange(59))[..., None] * (2, 1, 1) + rng.integers(0, 60, (45, 59, 3))
    rgb = Image.fromarray(smooth.astype(np.uint8))
    deep = Image.fromarray((smooth[..., 0] * 300).astype(np.uint16))
    exif = Image.Exif()
    exif[274], exif[305] = 6, "x" * 40
    return tuple(_saved(kind, rgb, deep, exif))


def _saved(kind: str, rgb: Image.Image, deep: Image.Image, exif: Image.Exif) -> list[bytes]:
    grey, clear, palette = rgb.convert("L"), rgb.copy(), rgb.convert("P")
    clear.putalpha(128)
    ways: dict[str, list[tuple[Image.Image, dict[str, object]]]] = {
        "jpg": [
            (rgb, {}), (grey, {}), (rgb, {"progressive": True}), (rgb, {"exif": exif}), (rgb.convert("CMYK"), {}),
            (rgb, {"subsampling": 0, "quality": 95}), (rgb, {"restart_marker_blocks": 1}), (rgb,
                {"icc_profile": b"x" * 300}),
        ],
        "png": [(rgb, {}), (grey, {}), (clear, {}), (palette, {}), (deep, {}), (rgb.convert("1"), {}), (rgb,
            {"exif": exif})],
        "tif": [
            (image, {"compression": how})
            for image in (rgb, grey, deep, rgb.convert("1"), Image.fromarray(np.asarray(grey, np.float32)))
            for how in (None, "tiff_lzw", "tiff_deflate")
        ] + [(rgb, {"compression": "jpeg"}), (rgb.convert("1"), {"compression": "group4"}), (clear,
            {"compression": "packbits"})],
        "gif": [(palette, {}), (grey, {}), (palette, {"save_all": True, "append_images": [palette] * 3})],
        "webp": [(rgb, {}), (clear, {}), (rgb, {"lossless": True}), (rgb, {"save_all": True,
            "append_images": [clear] * 3})],
        "bmp": [(rgb, {}), (grey, {}), (palette, {}), (rgb.convert("1"), {})],
        "ppm": [(rgb, {}), (grey, {}), (rgb.convert("1"), {}), (deep.convert("I"), {})],
        "jp2": [(rgb, {}), (grey, {}), (deep, {}), (rgb, {"no_jp2": True}), (rgb, {"tile_size": (16, 16)}),
            (clear, {})],
    }  # fmt: skip
    formats = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "gif": "GIF", "webp": "WEBP", "bmp": "BMP", "ppm": "PPM"}
    saved = []
    for image, how in ways[kind]:
        file = io.BytesIO()
        image.save(file, formats.get(kind, "JPEG2000"), **how)
        saved.append(file.getvalue())
    if kind == "png":
        saved.append(png(59, 45, 16, 2, zlib.compress(bytes(45 * (1 + 59 * 6)))))
        saved.append(png(59, 45, 16, 6, zlib.compress(bytes(45 * (1 + 59 * 8)))))
        saved.append(png(59, 45, 16, 4, zlib.compress(bytes(45 * (1 + 59 * 4)))))
    return saved


def chunk(name: bytes, data: bytes) -> bytes:
    """Give a PNG's chunk with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, bits: int, colour: int, packed: bytes, more: bytes = b"") -> bytes:
    """Give a PNG of packed pixels, with chunks between its header and them."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return _SIGNATURE + chunk(b"IHDR", header) + more + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Take a whole PNG apart: name and content of each chunk."""
    at, found = len(_SIGNATURE), []
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def _joined(parts: list[tuple[bytes, bytes]]) -> bytes:
    return _SIGNATURE + b"".join(chunk(name, data) for name, data in parts)


def _png_sides(data: bytes, rng: np.random.Generator) -> bytes:
    """Claim other sides, under a right checksum."""
    (_, header), *rest = chunks_of(data)
    sides = struct.pack(">II", *(pick(rng, (*SIDES, 2**31 - 1, 2**32 - 1)) for _ in range(2)))
    return _joined([(b"IHDR", sides + header[8:]), *rest])


def _png_header(data: bytes, rng: np.random.Generator) -> bytes:
    """Claim other bits, colours, compression or interlacing, under a right checksum."""
    (_, header), *rest = chunks_of(data)
    changed = bytearray(header)
    changed[8 + int(rng.integers(5))] = int(pick(rng, (0, 1, 2, 3, 4, 6, 8, 16, 255)))
    return _joined([(b"IHDR", bytes(changed)), *rest])


def _png_length(data: bytes, rng: np.random.Generator) -> bytes:
    """Give a chunk another length than it has."""
    parts = chunks_of(data)
    at = int(rng.integers(len(parts)))
    start = 8 + sum(12 + len(content) for _, content in parts[:at])
    size = int(pick(rng, (0, 1, 2**31 - 1, 2**32 - 1, len(parts[at][1]) + 1, max(len(parts[at][1]) - 1, 0))))
    return data[:start] + struct.pack(">I", size) + data[start + 4 :]


def _png_bomb(data: bytes, rng: np.random.Generator) -> bytes:
    """Pack far more pixels than the file is long: those that are claimed, or more."""
    side = int(pick(rng, (64, 64, 3000, 13_000)))
    bits, colour = pick(rng, ((8, 0), (8, 2), (8, 6), (16, 2), (16, 0), (1, 0), (8, 3)))
    more = chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    return png(side, side, bits, colour, deflated_zeros(600, wrapped=True), more)


def _png_text(data: bytes, rng: np.random.Generator) -> bytes:
    """Pack a comment or a colour profile that unpacks to a hundred million bytes, once or many times."""
    packed = deflated_zeros(int(pick(rng, (1, 100))), wrapped=True)
    name, head = pick(rng, ((b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0"), (b"eXIf", b"MM\0*")))
    first, *rest = chunks_of(data)
    extra = [(name, head + packed)] * int(pick(rng, (1, 100)))
    return _joined([first, *extra, *rest] if rng.random() < 0.5 else [first, *rest[:-1], *extra, rest[-1]])


def _png_order(data: bytes, rng: np.random.Generator) -> bytes:
    """Shuffle, leave out or double chunks."""
    parts = chunks_of(data)
    if rng.random() < 0.3:
        parts += [
            (
                pick(rng, (b"acTL", b"fcTL", b"fdAT", b"tRNS", b"PLTE", b"gAMA", b"pHYs", b"sRGB")),
                b"\0" * int(rng.integers(30)),
            )
        ]
    order = rng.integers(0, len(parts), len(parts)) if rng.random() < 0.5 else rng.permutation(len(parts))
    return _joined(
        [parts[0], *(parts[int(at)] for at in order)] if rng.random() < 0.7 else [parts[int(at)] for at in order]
    )


def _png_whole(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage the content of a chunk and give it a right checksum."""
    parts = chunks_of(data)
    at = int(rng.integers(len(parts)))
    return _joined([*parts[:at], (parts[at][0], damage(parts[at][1], rng, b"\0" * 99)[0]), *parts[at + 1 :]])


def _markers(data: bytes) -> list[int]:
    """Find where a JPEG's segments begin, up to its pixels."""
    at, found = 2, []
    while at + 4 < len(data) and data[at] == 0xFF:
        found.append(at)
        if data[at + 1] == 0xDA:
            break
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return found


def _jpeg_sides(data: bytes, rng: np.random.Generator) -> bytes:
    """Claim other sides, or another number of colours."""
    at = next(at for at in _markers(data) if data[at + 1] in (0xC0, 0xC1, 0xC2))
    sides = struct.pack(">HH", *(pick(rng, SIDES) for _ in range(2)))
    changed = data[: at + 5] + sides + data[at + 9 :]
    return changed if rng.random() < 0.8 else changed[: at + 9] + bytes([int(rng.integers(6))]) + changed[at + 10 :]


def _jpeg_length(data: bytes, rng: np.random.Generator) -> bytes:
    """Give a segment another length, or leave one out."""
    at = pick(rng, _markers(data))
    size = int.from_bytes(data[at + 2 : at + 4], "big")
    if rng.random() < 0.3:
        return data[:at] + data[at + 2 + size :]
    return data[: at + 2] + struct.pack(">H", int(pick(rng, (0, 1, 2, size - 1, size + 1, 65_535)))) + data[at + 4 :]


def _jpeg_scans(data: bytes, rng: np.random.Generator) -> bytes:
    """Claim a large progressive picture and repeat a scan without end: each costs a pass over all pixels."""
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    frame = next(at for at in _markers(whole) if whole[at + 1] == 0xC2)
    whole = whole[: frame + 5] + struct.pack(">HH", *[int(pick(rng, (64, 3000)))] * 2) + whole[frame + 9 :]
    first = whole.index(b"\xff\xda")
    second = whole.index(b"\xff\xda", first + 2)
    return whole[:second] + whole[first:second] * int(pick(rng, (3, 300, 5000))) + whole[second:]


def _jpeg_exif(data: bytes, rng: np.random.Generator) -> bytes:
    """Put in metadata that lie: an EXIF block of loops, of huge counts, or cut short."""
    entry = struct.pack(
        ">HHII", 274, int(rng.integers(14)), int(pick(rng, (1, 2**31, 2**32 - 1))), int(rng.integers(2**32))
    )
    body = (
        b"Exif\0\0MM\0*\0\0\0\x08"
        + struct.pack(">H", int(pick(rng, (1, 2, 65_535))))
        + entry * int(rng.integers(1, 400))
    )
    body += struct.pack(">I", int(pick(rng, (0, 8, 2**32 - 1))))
    name, body = pick(
        rng,
        (
            (0xE1, body),
            (0xE1, body[:9]),
            (0xE2, b"ICC_PROFILE\0\x01\xff" + body),
            (0xEE, b"Adobe" + body),
            (0xE2, b"MPF\0" + body[6:]),
        ),
    )
    return data[:2] + bytes([0xFF, name]) + struct.pack(">H", len(body) + 2) + body + data[2:]


def _tiff_entry(data: bytes, rng: np.random.Generator) -> bytes:
    """Change one or two entries of a TIFF's folder: sides, bits, strips, compression, the next folder."""
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack(f"{order}I", data[4:8])[0]
    count = struct.unpack(f"{order}H", data[at : at + 2])[0]
    for _ in range(int(rng.integers(1, 3))):
        entry = at + 2 + 12 * int(rng.integers(count))
        field = pick(rng, ((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "I"), (8, "H")))
        value = int(pick(rng, (0, 1, 2, 3, 5, 7, 8, 16, 32, 64, at, *SIDES, 2**31 - 1, 2**32 - 1)))
        size = struct.calcsize(field[1])
        value %= 2 ** (8 * size)
        data = data[: entry + field[0]] + struct.pack(order + field[1], value) + data[entry + field[0] + size :]
    return data


def _gif_sides(data: bytes, rng: np.random.Generator) -> bytes:
    sides = struct.pack("<HH", *(pick(rng, SIDES) for _ in range(2)))
    if rng.random() < 0.5:
        return data[:6] + sides + data[10:]
    at = data.rindex(b"\x2c\0\0\0\0") if b"\x2c\0\0\0\0" in data else 6
    return data[: at + 5] + sides + data[at + 9 :]


def _bmp_sides(data: bytes, rng: np.random.Generator) -> bytes:
    sides = struct.pack("<ii", *(pick(rng, (*SIDES, -1, -45, 2**31 - 1, -(2**31))) for _ in range(2)))
    bits = struct.pack("<H", int(pick(rng, (0, 1, 2, 4, 8, 16, 24, 32, 64))))
    data = data[:18] + sides + data[26:] if rng.random() < 0.6 else data
    return data[:28] + bits + data[30:] if rng.random() < 0.5 else data


def _ppm_sides(data: bytes, rng: np.random.Generator) -> bytes:
    magic = pick(rng, (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"PF", b"P7"))
    numbers = (*(b"%d" % side for side in SIDES), b"-3", b"1e9", b"9" * 30, b"")
    body = data[12:] if rng.random() < 0.5 else bytes(4096)
    top = pick(rng, (b"255", b"65535", b"0", b"65536", b"1", b"-1", b"nan"))
    return magic + b"\n%s %s\n%s\n" % (pick(rng, numbers), pick(rng, numbers), top) + body


def _jp2_sides(data: bytes, rng: np.random.Generator) -> bytes:
    """Change the sizes of a JPEG 2000 codestream: of the picture, its tiles, its parts."""
    at = data.index(b"\xff\x51") + 6
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        field = at + 4 * int(rng.integers(8))
        changed[field : field + 4] = struct.pack(">I", int(pick(rng, (*SIDES, 2**31 - 1, 2**32 - 1))))
    if rng.random() < 0.2:
        changed[at + 32 : at + 34] = struct.pack(">H", int(pick(rng, (0, 1, 2, 3, 255, 16_384))))
    whole = bytes(changed)
    if b"ihdr" in whole and rng.random() < 0.6:  # the box round it says the same
        box = whole.index(b"ihdr") + 4
        sizes = struct.unpack(">IIII", whole[at : at + 16])
        whole = (
            whole[:box]
            + struct.pack(">II", (sizes[1] - sizes[3]) % 2**32, (sizes[0] - sizes[2]) % 2**32)
            + whole[box + 8 :]
        )
    return whole
