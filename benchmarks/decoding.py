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
import shutil
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from decoding_routes import DCMTK, FFMPEG, VALUES, Array, CannotError, by_dcm2pnm, levels, shown, window_of
from pydicom.data import get_testdata_files
from pydicom.pixels.decoders.base import get_decoder

from medmoe.data.dicom import is_dicom, read_dicom, read_dicom_values
from medmoe.data.images import read_image
from medmoe.data.nifti import PLANES, is_nifti, read_nifti_values
from medmoe.data.reading import Reading
from medmoe.errors import UserError

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
LOSSY = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91"}
OURS_IS_GDCM = {f"1.2.840.10008.1.2.4.{number}" for number in (51, 57, 70, 80, 81)}
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
