"""Routes to a DICOM file's pixels that share no code with ours: GDCM, DCMTK, FFmpeg, bytes, and what each would show.

`benchmarks/decoding.py` holds them against the library.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.data import get_testdata_files

Array = NDArray[Any]
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
