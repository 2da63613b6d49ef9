"""Every DICOM test file of pydicom, and a folder of others, decoded by the library and by routes that share no code.

    python benchmarks/decoding.py [--native FOLDER] [--json FILE] [--markdown FILE]

Ours is pydicom with its plug-ins, the modality transform and the window of `medmoe.data.dicom`. Held against it are

- `gdcm`: GDCM's own parser, codecs, slope and intercept, through its Python API. Where our own decoder is GDCM's (JPEG
  lossless, JPEG-LS, 12-bit JPEG), GDCM is no independent route and isn't counted as one.
- `dcmtk`: DCMTK's codecs (`dcmdjpeg`, `dcmdjpls`, `dcmdrle`), for the values; `dcm2pnm` for the grey levels that are
  shown, with its parser, modality transform, window and polarity. Needs Debian's package dcmtk.
- `ffmpeg`: FFmpeg's own JPEG 2000 decoder (GDCM's is OpenJPEG, as ours is). Needs ffmpeg.
- `twin`: the same image, stored uncompressed in another file of the collection, read byte by byte; `bytes`: floats,
  likewise.
- `nibabel`, for volumes: the whole volume turned to RAS by `as_closest_canonical`, then cut.

Two things are compared for each frame: what the pixels measure (equal; for lossy codecs within one grey level of the
window), and what is shown, within one grey level of 255. A file is `equal` when at least one independent route agrees
in what can be compared, and `differing` when none does. Routes that disagree with ours although another one agrees
are listed, none is hidden.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.data import get_testdata_files
from pydicom.pixels.decoders.base import get_decoder

from medmoe.data.dicom import is_dicom, read_dicom, read_dicom_values
from medmoe.data.images import read_image
from medmoe.data.nifti import PLANES, is_nifti, read_nifti_values
from medmoe.data.reading import Reading
from medmoe.errors import UserError

Array = NDArray[Any]
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
LOSSY = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91"}
OURS_IS_GDCM = {f"1.2.840.10008.1.2.4.{number}" for number in (51, 57, 70, 80, 81)}
DCMTK = {
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70)], "dcmdjpeg"),
    **dict.fromkeys(["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"], "dcmdjpls"),
    "1.2.840.10008.1.2.5": "dcmdrle",
}
FFMPEG = {"1.2.840.10008.1.2.4.90": "jpeg2000", "1.2.840.10008.1.2.4.91": "jpeg2000"}
# Compressed files and the file that holds the same pixels uncompressed.
TWINS = {
    "693_J2KR.dcm": "693_UNCR.dcm", "MR2_J2KR.dcm": "MR2_UNCR.dcm", "RG1_J2KR.dcm": "RG1_UNCR.dcm",
    "RG3_J2KR.dcm": "RG3_UNCR.dcm", "US1_J2KR.dcm": "US1_UNCR.dcm", "MR_small_RLE.dcm": "MR_small.dcm",
    "MR_small_jp2klossless.dcm": "MR_small.dcm", "MR_small_jpeg_ls_lossless.dcm": "MR_small.dcm",
    "emri_small_RLE.dcm": "emri_small.dcm", "emri_small_jpeg_2k_lossless.dcm": "emri_small.dcm",
    "emri_small_jpeg_ls_lossless.dcm": "emri_small.dcm", "SC_rgb_rle.dcm": "SC_rgb.dcm",
    "SC_rgb_rle_16bit.dcm": "SC_rgb_16bit.dcm", "SC_rgb_rle_32bit.dcm": "SC_rgb_32bit.dcm",
    "OBXXXX1A_rle.dcm": "OBXXXX1A.dcm", "rtdose_rle.dcm": "rtdose.dcm", "rtdose_rle_1frame.dcm": "rtdose_1frame.dcm",
    "rtdose_expb.dcm": "rtdose.dcm", "rtdose_expb_1frame.dcm": "rtdose_1frame.dcm",
}  # fmt: skip
WINDOW_TAGS = (0x00281050, 0x00281051, 0x00283010)
MOST_FRAMES = 15  # of a file that are all compared; of longer ones the first, the middle and the last


@dataclass
class Row:
    """What became of one file."""

    file: str
    kind: str
    frames: int = 0
    status: str = "equal"
    reason: str = ""
    routes: dict[str, str] = field(default_factory=dict)


class CannotError(Exception):
    """A route can't read a file, or isn't installed."""


# --- independent routes: values ---------------------------------------------------------------------------------


class Apart:
    """A process of its own for GDCM, which ends the process it is in when it meets what it didn't expect."""

    pool: ProcessPoolExecutor | None = None

    @classmethod
    def call(cls, path: Path, frame: int) -> tuple[Array, float, float, bool]:
        """Call `in_gdcm` there."""
        cls.pool = cls.pool or ProcessPoolExecutor(1, get_context("spawn"))
        try:
            return cls.pool.submit(in_gdcm, path, frame).result()
        except BrokenProcessPool as error:
            cls.pool = None
            raise CannotError("gdcm crashed") from error


def by_gdcm(path: Path, header: Any, frame: int) -> Array:
    """Give a frame's values: GDCM's parser, codec, palette, slope and intercept."""
    values, slope, intercept, signed = Apart.call(path, frame)
    if values.ndim == 3:
        return values
    if "ModalityLUTSequence" in header:
        return table(values, header.ModalityLUTSequence[0], signed=signed)
    return values * slope + intercept


def in_gdcm(path: Path, frame: int) -> tuple[Array, float, float, bool]:
    """Read a frame with GDCM: stored values or RGB, slope, intercept, and whether the values are signed."""
    import gdcm

    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise CannotError("gdcm can't read it")
    image = reader.GetImage()
    if image.GetPhotometricInterpretation().GetString().strip() == "PALETTE COLOR":
        lookup = gdcm.ImageApplyLookupTable()
        lookup.SetInput(image)
        if not lookup.Apply():
            raise CannotError("gdcm can't apply its palette")
        image = lookup.GetOutput()
    form = image.GetPixelFormat()
    names = {
        "UINT8": "u1", "INT8": "i1", "UINT16": "u2", "INT16": "i2", "UINT32": "u4", "INT32": "i4", "FLOAT32": "f4",
        "FLOAT64": "f8", "SINGLEBIT": "u1", "UINT12": "u2", "INT12": "i2",
    }  # fmt: skip
    kind, samples = form.GetScalarTypeAsString(), form.GetSamplesPerPixel()
    sides = [image.GetDimension(at) for at in range(image.GetNumberOfDimensions())]
    raw = image.GetBuffer().encode("utf-8", "surrogateescape")
    height, width, count = sides[1], sides[0], sides[2] if len(sides) > 2 else 1
    if kind == "SINGLEBIT":
        values = np.unpackbits(np.frombuffer(raw, "u1"), bitorder="little")[: count * height * width]
        values = values.reshape(count, height, width)[frame]
    else:
        whole = np.frombuffer(raw, names[kind], count * height * width * samples)
        if samples == 1:
            values = whole.reshape(count, height, width)[frame]
        elif image.GetPlanarConfiguration() == 1:
            values = whole.reshape(count, samples, height, width)[frame].transpose(1, 2, 0)
        else:
            values = whole.reshape(count, height, width, samples)[frame]
    if samples == 3:
        values = to_rgb(values, image.GetPhotometricInterpretation().GetString().strip())
    return np.array(values), image.GetSlope(), image.GetIntercept(), form.GetPixelRepresentation() == 1


def to_rgb(values: Array, photometric: str) -> Array:
    """Convert full-range YCbCr (ITU-R BT.601, as PS3.3 C.7.6.3.1.2 has it) to RGB."""
    if not photometric.startswith("YBR_FULL"):
        return values
    y, b, r = (values[..., at].astype(np.float64) for at in range(3))
    b, r = b - 128, r - 128
    rgb = np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=-1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def table(values: Array, item: Any, *, signed: bool) -> Array:
    """Look values up one by one in a table, as PS3.3 C.11.1.1 says."""
    count, first = int(item.LUTDescriptor[0]) or 65536, int(item.LUTDescriptor[1])
    if signed and first > 32767:
        first -= 65536
    data = item.LUTData
    entries = list(np.frombuffer(data, "<u2")) if isinstance(data, bytes) else [int(entry) for entry in data]
    mapped = {value: entries[min(max(int(value) - first, 0), count - 1)] for value in np.unique(values)}
    return np.vectorize(mapped.__getitem__, otypes=[np.float64])(values)


def by_dcmtk(path: Path, header: Any, frame: int) -> Array:
    """Give a frame's values: decompressed by DCMTK into a file whose bytes GDCM then hands over."""
    tool = DCMTK.get(str(header.file_meta.TransferSyntaxUID))
    if tool is None or shutil.which(tool) is None:
        raise CannotError("no decoder in dcmtk" if tool is None else "dcmtk isn't installed")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.dcm"
        run = subprocess.run([tool, str(path), str(out)], capture_output=True, check=False)
        if run.returncode or not out.exists():
            raise CannotError("dcmtk can't decompress it")
        return by_gdcm(out, pydicom.dcmread(out), frame)


def by_ffmpeg(path: Path, header: Any, frame: int) -> Array:
    """Give a frame's values: its codestream decoded by FFmpeg's own decoders, the sign as the header says."""
    syntax = str(header.file_meta.TransferSyntaxUID)
    if syntax not in FFMPEG or shutil.which("ffmpeg") is None:
        raise CannotError("no decoder in ffmpeg" if syntax not in FFMPEG else "ffmpeg isn't installed")
    samples, count = int(header.SamplesPerPixel), int(header.get("NumberOfFrames") or 1)
    code = pydicom.encaps.get_frame(header.PixelData, frame, number_of_frames=count)
    at = code.find(b"\xff\x4f\xff\x51") + 42  # the sign and depth of the first component
    bits, signed_code = (code[at] & 127) + 1, code[at] > 127
    form = {(1, True): "gray", (1, False): "gray16le", (3, True): "rgb24", (3, False): "rgb48le"}[samples, bits <= 8]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").write_bytes(code)
        demuxer = ["-f", "image2", "-c:v", FFMPEG[syntax]]
        command = ["ffmpeg", "-v", "error", *demuxer, "-i", f"{folder}/in", "-f", "rawvideo", "-pix_fmt", form, "-"]
        run = subprocess.run(command, capture_output=True, check=False)
    shape = (header.Rows, header.Columns, samples)
    values = np.frombuffer(run.stdout, "u1" if bits <= 8 else "<u2")
    if run.returncode or values.size != np.prod(shape):
        raise CannotError("ffmpeg can't decode it")
    if samples == 3:
        return values.reshape(shape)
    grey = values.reshape(shape[:2]).astype(np.int64) >> ((8 if bits <= 8 else 16) - bits)
    if signed_code:
        grey -= 2 ** (bits - 1)  # ffmpeg shifts signed samples up to begin at 0
    elif header.PixelRepresentation:
        grey = np.where(grey >= 2 ** (bits - 1), grey - 2**bits, grey)
    return grey * float(header.get("RescaleSlope") or 1) + float(header.get("RescaleIntercept") or 0)


def by_bytes(path: Path, header: Any, frame: int) -> Array:
    """Give the floats of a FloatPixelData element, found in the file's bytes."""
    if "FloatPixelData" not in header:
        raise CannotError("no floats")
    data, count = path.read_bytes(), int(header.Rows) * int(header.Columns)
    at = data.index(b"\xe0\x7f\x08\x00OF\x00\x00") + 12 + 4 * count * frame
    return np.frombuffer(data, "<f4", count, at).reshape(header.Rows, header.Columns)


def by_twin(path: Path, header: Any, frame: int) -> Array:
    """Give a frame's stored values from the uncompressed file of the same image, byte by byte, then scaled."""
    name = TWINS.get(path.name)
    found = next((each for each in map(Path, get_testdata_files()) if each.name == name), None)
    if found is None:
        raise CannotError("has no uncompressed twin")
    twin = pydicom.dcmread(found)
    count, samples = int(twin.get("NumberOfFrames") or 1), int(twin.SamplesPerPixel)
    kind = f"<{'ui'[int(twin.PixelRepresentation)]}{int(twin.BitsAllocated) // 8}"
    shape = (count, int(twin.Rows), int(twin.Columns), samples)
    values = np.frombuffer(twin.PixelData, kind, int(np.prod(shape))).reshape(shape)[frame]
    if samples == 3 or twin.PhotometricInterpretation == "PALETTE COLOR":
        if samples == 1:
            raise CannotError("a palette")
        return values
    slope = float(header.get("DoseGridScaling") or header.get("RescaleSlope") or 1)
    return values[..., 0] * slope + float(header.get("RescaleIntercept") or 0)


# --- independent routes: what is shown --------------------------------------------------------------------------


def window_of(header: Any, frame: int, values: Array) -> tuple[str, float, float, str]:
    """Choose the window anew from the header, as the documentation says: (which, centre, width, function)."""
    items = [header]
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups = header.get(name) or []
        group = groups[frame if name.startswith("Per") else 0] if groups else {}
        items = [*(group.get("FrameVOILUTSequence") or [])[:1], *items]
    if header.get("VOILUTSequence"):
        return "table", 0.0, 0.0, ""
    for item in items:
        centre, width = item.get("WindowCenter"), item.get("WindowWidth")
        if centre is not None and width is not None:
            first = [float(value[0] if hasattr(value, "__len__") else value) for value in (centre, width)]
            return "header", first[0], first[1], str(item.get("VOILUTFunction") or "LINEAR")
    if header.get("Modality") == "CT" and values.min() < 0:
        return "usual", 40.0, 400.0, "LINEAR"
    return "full", 0.0, 0.0, ""


def shown(values: Array, header: Any, frame: int) -> tuple[Array, tuple[str, float, float, str]]:
    """Show values as PS3.3 C.11.2 says, anew: [H, W] or [H, W, 3] in [0, 255]; and by which window."""
    chosen = window_of(header, frame, values)
    which, centre, width, function = chosen
    x = np.asarray(values, np.float64)
    if values.ndim == 3:
        bits = 8 if values.dtype == np.uint8 else int(header.BitsStored)
        return x * 255.0 / (2**bits - 1), chosen
    pad = np.zeros(x.shape, bool)
    if header.get("PixelPaddingValue") is not None:
        slope, intercept = float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)
        pad = x == float(header.PixelPaddingValue) * slope + intercept
    if which == "table":
        item = header.VOILUTSequence[0]
        y = table(x, item, signed=bool(header.PixelRepresentation)) / (2 ** int(item.LUTDescriptor[2]) - 1)
    elif which == "full" and header.get("BitsStored") and header.BitsStored <= 8 and values.min() >= 0:
        y = x / (2 ** int(header.BitsStored) - 1)
    elif which == "full":
        low, high = x[~pad].min(), x[~pad].max()
        y = (x - low) / (high - low) if high > low else np.zeros(x.shape)
    elif function == "SIGMOID":
        y = 1 / (1 + np.exp(-4 * (x - centre) / width))
    else:
        y = np.piecewise(
            x,
            [x <= centre - 0.5 - (width - 1) / 2, x > centre - 0.5 + (width - 1) / 2],
            [0.0, 1.0, lambda v: (v - (centre - 0.5)) / (width - 1) + 0.5],
        )
    y = np.clip(y, 0, 1)
    if which != "full" and y[~pad].max() == y[~pad].min() and x[~pad].max() > x[~pad].min():
        bare = pydicom.Dataset({tag: value for tag, value in header.items() if tag not in WINDOW_TAGS})
        bare.Modality = "OT"  # a window that leaves nothing to see gives way
        return shown(values, bare, frame)
    if header.PhotometricInterpretation == "MONOCHROME1":
        y = 1 - y
    return np.where(pad, 0.0, y) * 255, chosen


def by_dcm2pnm(path: Path, header: Any, frame: int, chosen: tuple[str, float, float, str], values: Array) -> Array:
    """Give a frame's grey levels or colours: DCMTK's parser, codecs, transforms, window and polarity."""
    if shutil.which("dcm2pnm") is None:
        raise CannotError("dcmtk isn't installed")
    which, centre, width, function = chosen
    bits = int(header.get("BitsStored") or 16)
    if values.ndim == 3 or (which == "full" and bits == 8):
        flags = ["-W"]
    elif which == "full":
        stored = values / float(header.get("DoseGridScaling") or 1)  # which dcmtk leaves to others
        low, high = (0.0, 2.0**bits - 1) if bits < 8 else (float(stored.min()), float(stored.max()))
        flags = ["+Ww", str((low + high) / 2 + 0.5), str(high - low + 1)]
    else:
        flags = {"table": ["+Wl", "1"], "header": ["+Wi", "1"], "usual": ["+Ww", str(centre), str(width)]}[which]
    if function == "SIGMOID":
        flags.append("+Wfs")
    tool = {"dcmdjpeg": "dcmj2pnm", "dcmdjpls": "dcml2pnm"}.get(
        DCMTK.get(str(header.file_meta.get("TransferSyntaxUID", "")), ""), "dcm2pnm"
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.pnm"
        command = [tool, "-q", "-O", "+F", str(frame + 1), *flags, "+op", str(path), str(out)]
        run = subprocess.run(command, capture_output=True, check=False)
        if run.returncode or not out.exists() or out.stat().st_size == 0:
            raise CannotError("dcmtk can't show it")
        data = out.read_bytes()
    found = re.match(rb"P([56])\s+(?:#.*\n)*(\d+)\s+(\d+)\s+(\d+)\s", data)
    if found is None:
        raise CannotError("dcmtk wrote no picture")
    samples, columns, rows = 1 if found[1] == b"5" else 3, int(found[2]), int(found[3])
    pixels = np.frombuffer(data, "u1", rows * columns * samples, found.end())
    return pixels.reshape(rows, columns, samples)[..., 0] if samples == 1 else pixels.reshape(rows, columns, 3)


# --- comparing --------------------------------------------------------------------------------------------------

VALUES: dict[str, Callable[[Path, Any, int], Array]] = {
    "gdcm": by_gdcm,
    "dcmtk": by_dcmtk,
    "ffmpeg": by_ffmpeg,
    "twin": by_twin,
    "bytes": by_bytes,
}


def levels(image: Array) -> Array:
    """Give 8-bit levels, as floats, of what the library reads."""
    return image.astype(np.float64) * (1.0 if image.dtype == np.uint8 else 255.0)


def agree(ours: Array, other: Array, most: float) -> str:
    """Word how two arrays agree: `equal`, or by how much they don't."""
    if ours.shape != other.shape:
        return f"DIFFERS: {other.shape} for {ours.shape}"
    most_apart = float(np.abs(ours.astype(np.float64) - other.astype(np.float64)).max())
    if most_apart <= most:
        return "equal" if most_apart <= 1e-6 * max(1.0, float(np.abs(ours).max())) else f"equal within {most_apart:.3g}"
    share = float((np.abs(ours.astype(np.float64) - other.astype(np.float64)) > most).mean())
    return f"DIFFERS by up to {most_apart:.4g} in {share:.2%}"


def compare(path: Path, frame: int) -> dict[str, str]:
    """Compare one frame by every route: route → how it agrees, or why it can't."""
    with path.open("rb") as file:
        ours = read_dicom_values(file, where=path.name, frame=frame)
        image = read_dicom(file, where=path.name, reading=Reading(frame=frame))
    header = pydicom.dcmread(path, force=True)
    if getattr(header, "file_meta", None) is None:
        header.file_meta = pydicom.dataset.FileMetaDataset()
    syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
    found: dict[str, str] = {}
    first = None
    for name, route in VALUES.items():
        try:
            other = route(path, header, frame)
        except CannotError as error:
            found[f"{name} values"] = f"can't: {error}"
            continue
        except Exception as error:  # another library's failure is a finding, not ours
            found[f"{name} values"] = f"can't: {type(error).__name__} {error}"[:120]
            continue
        if other.ndim == 3 and ours.dtype == np.uint8 and other.dtype == np.uint16:
            other = (other >> 8).astype(np.uint8)  # a palette's 8-bit colours in 16-bit entries
        expected, chosen = shown(other, header, frame)
        if name == "gdcm" and syntax in OURS_IS_GDCM:
            found["gdcm values"] = f"({agree(ours, other, 0)}: the same codec)"
        else:
            exact = 1e-6 * max(1.0, float(np.abs(other).max()))
            if syntax in LOSSY:
                exact = 1.0 if other.ndim == 3 else max(1.0, chosen[2] / 255)
            found[f"{name} values"] = agree(ours, other, exact)
            found[f"{name} shown"] = agree(levels(image), expected, 1.0)
        if found[f"{name} values"].strip("(").startswith("equal"):
            first = first or (chosen, other)
    if first is None:
        first = (window_of(header, frame, ours), ours)
    try:
        found["dcm2pnm shown"] = agree(np.rint(levels(image)), by_dcm2pnm(path, header, frame, *first), 1.0)
    except CannotError as error:
        found["dcm2pnm shown"] = f"can't: {error}"
    return found


def merged(every: list[dict[str, str]]) -> dict[str, str]:
    """Keep the worst of several frames for each route."""
    rank = lambda text: 3 if text.startswith("DIFF") else 2 if text.startswith("can't") else len(text) > 5  # noqa: E731
    return {route: max((found[route] for found in every if route in found), key=rank) for route in every[0]}


def dicom(path: Path) -> Row | None:
    """Compare a DICOM file; None where there are no pixels to compare."""
    with path.open("rb") as file:
        if not is_dicom(file, path.suffix):
            return None
    header, syntax, count = None, "unknown", 1
    with contextlib.suppress(Exception):
        header = pydicom.dcmread(path, force=True)
        if not any(name in header for name in PIXELS):
            return None
    with contextlib.suppress(Exception):
        syntax = header.file_meta.TransferSyntaxUID.name
    row = Row(path.name, syntax)
    try:
        count = int(header.get("NumberOfFrames") or 1)
    except Exception:
        count = 1
    chosen = range(count) if count <= MOST_FRAMES else sorted({0, (count - 1) // 2, count - 1})
    try:
        every = [compare(path, frame) for frame in chosen]
    except UserError as error:
        others = []
        for name, route in VALUES.items():
            with contextlib.suppress(Exception):
                route(path, header, 0)
                others.append(name)
        row.status, row.reason = "refused", str(error).removeprefix(f"{path.name}: ")
        row.routes = {"decoded by": ", ".join(others) or "none of the others"}
        return row
    row.frames, row.routes = len(every), merged(every)
    words = list(row.routes.values())
    if any(word.startswith("DIFF") for word in words):
        row.status = "routes disagree" if any(word.startswith("equal") for word in words) else "differing"
        agreeing = {route.split()[0] for route, word in row.routes.items() if word.startswith("equal")}
        differing = {route.split()[0] for route, word in row.routes.items() if word.startswith("DIFF")}
        if not agreeing - differing:
            row.status = "differing"
    elif not any(word.startswith("equal") for word in words):
        row.status = "unchecked"
    return row


def nifti(path: Path) -> Row:
    """Compare slices of a volume in three planes."""
    import nibabel

    row = Row(path.name, "NIfTI")
    volume = nibabel.load(path)
    try:
        read_image(path)
    except UserError as error:
        row.status, row.reason = "refused", str(error).removeprefix(f"{path}: ")
        return row
    whole = nibabel.as_closest_canonical(volume).get_fdata().reshape([*volume.shape, 1][:3])
    turned = nibabel.as_closest_canonical(volume).shape
    words = []
    for plane, axis in PLANES.items():
        for at in {0, (turned[axis] - 1) // 2, turned[axis] - 1}:
            with path.open("rb") as file:
                ours = read_nifti_values(file, where=path.name, reading=Reading(frame=at, plane=plane))
            other = np.take(whole.reshape(turned[:3]), at, axis)[::-1, ::-1].T
            words.append(agree(ours, other, 1e-6 * max(1.0, float(np.nanmax(np.abs(other))))))
    row.frames = len(words)
    row.routes = {"nibabel values": max(words, key=lambda word: word.startswith("DIFF"))}
    row.status = "differing" if any(word.startswith("DIFF") for word in words) else "equal"
    return row


def files(native: Path | None) -> Iterator[Path]:
    """Give every file once, by its content: pydicom's and its data package's, then the native folder's."""
    seen = set()
    folders = [*map(Path, get_testdata_files()), *([native] if native else [])]
    found = [path for top in folders for path in ([top] if top.is_file() else sorted(top.rglob("*")))]
    for path in found:
        if not path.is_file() or path.suffix in (".py", ".pyc"):
            continue
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest not in seen:
            seen.add(digest)
            yield path


def survey(paths: Iterable[Path]) -> tuple[list[Row], int]:
    """Compare each file; count those without pixels, too."""
    every = [nifti(path) if is_nifti(path.name) else dicom(path) for path in paths]
    rows = [row for row in every if row is not None]
    return rows, len(every) - len(rows)


def written(rows: list[Row], without: int) -> str:
    """Write the tables as Markdown."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        kinds[row.kind][row.status] += 1
        kinds[row.kind]["frames"] += row.frames
    lines = ["| transfer syntax | files tried | frames | equal | routes disagree | refused | differing |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    total: Counter[str] = sum(kinds.values(), Counter())
    columns = ("frames", "equal", "routes disagree", "refused", "differing")
    for name, counts in [*sorted(kinds.items()), ("**all**", total)]:
        tried = sum(counts.values()) - counts["frames"]
        cells = [str(counts[column] + (counts["unchecked"] if column == "differing" else 0)) for column in columns]
        lines.append(f"| {name} | {tried} | {' | '.join(cells)} |")
    lines += [
        "",
        f"{without} more files have no pixel data, or aren't DICOM or NIfTI.",
        "",
        "Refused:",
        "",
        "| file | reason | others |",
        "| --- | --- | --- |",
    ]
    for row in rows:
        if row.status == "refused":
            lines.append(f"| {row.file} | {row.reason} | {row.routes.get('decoded by', '')} |")
    lines += ["", "Not all routes agree:", "", "| file | routes |", "| --- | --- |"]
    for row in rows:
        if row.status not in ("refused", "equal"):
            told = "; ".join(f"{route}: {word}" for route, word in row.routes.items() if not word.startswith("can't"))
            lines.append(f"| {row.file} | {row.status}: {told} |")
    counted = Counter(
        f"{route}: {'equal' if word.startswith('equal') else 'differs' if word.startswith('DIFF') else 'not counted'}"
        for row in rows
        for route, word in row.routes.items()
        if row.status != "refused"
    )
    lines += ["", "Files by route: " + ", ".join(f"{name} {count}" for name, count in sorted(counted.items())) + "."]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--native", type=Path, help="a folder with more DICOM and NIfTI files")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, without = survey(files(given.native))
    text = written(rows, without)
    print(text)
    if given.json:
        plugins = {uid: get_decoder(uid).available_plugins for uid in (*DCMTK, *FFMPEG)}
        tools = [tool for tool in ("dcm2pnm", "ffmpeg") if shutil.which(tool)]
        record = {"decoders": plugins, "tools": tools, "without_pixels": without, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(record, indent=1), encoding="utf-8")
    if given.markdown:
        given.markdown.write_text(text, encoding="utf-8")
    return int(any(row.status in ("differing", "unchecked") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
