"""Damaged and hostile manifests: CSV, JSONL and Parquet, odd cells in them, and paths to what isn't an image."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import os
from pathlib import Path

import numpy as np

from fuzzing.damage import Case, damage, pick
from fuzzing.pictures import seeds
from fuzzing.tars import CLASSES, DEEP, OBJECTS

GOOD: tuple[dict[str, str], ...] = (
    {"image": "img/a.png", "text": "A small nodule.", "modality": "ct", "label": "nodule", "patient_id": "p1",
        "split": "train",
     "boxes": '[{"label": "nodule", "xyxy": [1, 1, 9, 9]}]', "mask": "img/m.png", "width": "59", "height": "45"},
    {"image": "img/b.jpg", "text": 'Clear, "no" finding.', "modality": "xray", "label": "no_finding",
        "patient_id": "p2", "split": "val"},
    {"image": "img/c.tif", "text": "Räume frei.", "modality": "mri", "offset_days": "3", "prior": "img/a.png",
        "patient_id": "p3"},
)  # fmt: skip
PATHS = (
    "/dev/zero", "/dev/random", "/dev/stdin", "/dev/tty", "pipe.png", "pipe.jpg", "zero.jpg", "zero.png",
    "zero.dcm", "loop.png", "img", ".", "/", "..",
    "http://example.org/a.png", "s3://bucket/a.png", "file:///etc/passwd", "~/a.png", "../../../../etc/passwd",
    "/etc/passwd", "img/a.png/x", "a\0b.png",
    "x" * 300, "x/" * 3000 + "a.png", "\ud800.png", "a\nb.png", "\x1b[31m.png", "/proc/self/mem",
        "/proc/self/environ", "/proc/kmsg", "/dev/fd/0", "-", "*",
    "img/empty.png", "img/text.jpg", " ", "socket.png", "C:\\a.png", "img/a.png\r", "|ls", "/dev/null",
    "zero.tif", "zero.nii", "pipe.dcm", "pipe.nii.gz",
)  # fmt: skip
CELLS = (
    "", " ", "nan", "inf", "-1", "0", "0.5", "1e999", "9" * 5000, "x" * 200_000, "\0", "\ud800", "[]", "{}",
    "null", "-0", "1_0", "٣", "²", "a;b;;c",
    "\x1b[2J", '"', "'", "\r\n", ",", "=cmd()", *(each.decode("utf-8", "replace") for each in (*OBJECTS, *CLASSES)),
    '[{"label": "a", "xyxy": [0, 0, 1e400, 2]}]', f'[{{"label": "a", "xyxy": [0, 0, {"9" * 400}, 2]}}]',
    '[{"label": "a", "xyxy": [1, 1, 0.5, 9]}]',
    '[{"label": "a", "xyxy": [-1e308, 0, 1e308, 2]}]', '[{"label": "a", "xyxy": [0, 0, true, 2]}]', "[" * 3000
        + "]" * 3000,
)  # fmt: skip
COLUMNS = (
    "image", "text", "modality", "label", "patient_id", "study_id", "view", "offset_days", "mask", "boxes",
    "split", "source", "license", "gaze", "prior",
    "question", "answer", "domain", "body_part", "width", "height", "frame", "plane",
)  # fmt: skip


def make_manifest(rng: np.random.Generator, folder: Path) -> Case:
    """Write a damaged or hostile manifest, with some images beside it."""
    _images(folder)
    way = pick(rng, (_bytes, _bytes, _paths, _paths, _cells, _cells, _csv, _jsonl, _parquet, _parquet, _footer, _place))
    path = way(folder, rng)
    return Case(path, way.__name__.strip("_"))


def _images(folder: Path) -> None:
    """Write images, and what may stand where an image should: a pipe, devices, loops, text."""
    images = folder / "img"
    images.mkdir()
    for name, data in (
        ("a.png", seeds("png")[0]),
        ("b.jpg", seeds("jpg")[0]),
        ("c.tif", seeds("tif")[0]),
        ("m.png", seeds("png")[5]),
    ):
        (images / name).write_bytes(data)
    (images / "empty.png").touch()
    (images / "text.jpg").write_text("not a picture", encoding="utf-8")
    for name in ("pipe.png", "pipe.jpg", "pipe.dcm", "pipe.nii.gz"):
        os.mkfifo(folder / name)
    for name in ("zero.jpg", "zero.png", "zero.dcm", "zero.tif", "zero.nii"):
        (folder / name).symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")


def as_csv(rows: list[dict[str, str]]) -> bytes:
    """Write rows as CSV."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode("utf-8", "surrogatepass")


def as_jsonl(rows: list[dict[str, str]]) -> bytes:
    """Write rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows: list[dict[str, str]]) -> bytes:
    """Write rows as Parquet; text that isn't Unicode loses what isn't."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row))
    sound = {name: [str(row.get(name, "")).encode("utf-8", "replace").decode() for row in rows] for name in names}
    file = io.BytesIO()
    pq.write_table(pa.table(sound), file)
    return file.getvalue()


WRITERS = {"csv": as_csv, "jsonl": as_jsonl, "parquet": as_parquet}


def _write(folder: Path, rng: np.random.Generator, rows: list[dict[str, str]]) -> Path:
    kind = pick(rng, tuple(WRITERS))
    path = folder / f"case.{kind}"
    path.write_bytes(WRITERS[kind](rows))
    return path


def _bytes(folder: Path, rng: np.random.Generator) -> Path:
    path = _write(folder, rng, list(GOOD))
    path.write_bytes(damage(path.read_bytes(), rng, as_csv(list(GOOD)), head=300)[0])
    return path


def _paths(folder: Path, rng: np.random.Generator) -> Path:
    """Name what isn't an image."""
    rows = [dict(row) for row in GOOD]
    pick(rng, rows)[pick(rng, ("image", "image", "image", "mask", "gaze", "prior"))] = pick(rng, PATHS)
    return _write(folder, rng, rows)


def _cells(folder: Path, rng: np.random.Generator) -> Path:
    """Put odd values into some cells."""
    rows = [dict(row) for row in GOOD]
    for _ in range(int(rng.integers(1, 4))):
        pick(rng, rows)[pick(rng, COLUMNS)] = pick(rng, CELLS)
    return _write(folder, rng, rows)


def _csv(folder: Path, rng: np.random.Generator) -> Path:
    """Write a CSV file that isn't one, or a very wide or long one."""
    good = as_csv(list(GOOD))
    head, body = good.split(b"\r\n", 1)
    wide = b",".join(b"column%d" % number for number in range(20_000))
    data = pick(rng, (
        b"", b"\n", head, head + b"\r\n", good.replace(b'"', b""), good.replace(b"\r\n", b"\r"), good + b'"',
        good.decode().encode("utf-16"),
        good.decode().encode("latin-1"), good.replace(b"small", b"\0"), head + b",image\r\n" + body, b'"'
        + good, good * 2000, wide, wide + b"\n" + wide,
        b"image,text\n" + b"img/a.png," + b"x" * 200_000 + b"\n", b"image,text\nimg/a.png,ok\nimg/a.png,"
        + b"x" * 200_000 + b"\n", b"x" * 300_000 + b",image\n1,2",
        b"image,other\nimg/a.png," + b"x" * 200_000 + b"\n", b"image\n" + b"img/a.png\n" * 20_000,
        b"image,text\nimg/a.png,a,b,c\n", b"image,text\n\n\nimg/a.png,a,b",
        b"IMAGE,text\n1,2\n", b",".join([b"z" * 1000] * 3000), b"image,text\n" + b'img/a.png,"'
        + b"x\n" * 9_000_000, b";".join(head.split(b",")), b"image\n" + b"x" * 17_000_000,
        b"image,\xff\nimg/a.png,1\n", b"\xef\xbb\xbf" * 3 + good, b"image,text\nimg/a.png,\"a\"b\n",
        b"image,text\r\rimg/a.png,b\r",
    ))  # fmt: skip
    path = folder / "case.csv"
    path.write_bytes(data)
    return path


def _jsonl(folder: Path, rng: np.random.Generator) -> Path:
    """Write JSON lines that aren't objects, that nest, or that have ever new keys."""
    good = as_jsonl(list(GOOD))
    line = pick(rng, (
        *OBJECTS, *DEEP, b"[1]", b'"a"', b"null", b'{"image": 5}', b'{"image": ["img/a.png"]}',
        b'{"image": null}', b'{"image": {"path": "a"}}',
        b'{"image": "img/a.png", "image": "img/b.jpg"}', b'{"\\ud800": 1}', b'{"text": "\\ud800"}',
        b'{"extra": ' + b"[" * 800 + b"]" * 800 + b"}",
        b"{" + b",".join(b'"k%d": %d' % (number, number) for number in range(20_000)) + b"}", b"\0",
        b'{"image": "img/a.png", "x": ' + b"9" * 6000 + b"}",
        b"\n".join(b'{"key%d": "%s"}' % (number, b"y" * 500) for number in range(3000)), b"x" * 10**7,
        b'{"image": "' + b"x" * 10**7 + b'"}', b'{"image": true}',
    ))  # fmt: skip
    path = folder / "case.jsonl"
    path.write_bytes(pick(rng, (good + line + b"\n", line + b"\n" + good, line)))
    return path


def _parquet(folder: Path, rng: np.random.Generator) -> Path:
    """Write Parquet with columns of every type, some with bytes that aren't text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    day, nothing = datetime.datetime(2020, 1, 1), [None, None]
    bad = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 2, 4], np.int32)), pa.py_buffer(b"\xff\xfeab"))
    odd = pick(rng, (
        pa.array([[day], [day]]), pa.array([[b"\xff"], [b"a"]]), pa.array([{"a": 1}, {"a": 2}]),
        pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
        pa.array(["a", "a"]).dictionary_encode(), pa.array([decimal.Decimal("1.5"), None]), bad,
        bad.dictionary_encode(), pa.array([b"\xff", b"ok"]), pa.array([day, None]),
        pa.array([day - day, None]), pa.array(nothing), pa.array([[None], [[]]]), pa.array([1.5, float("nan")]),
        pa.array([True, False]), pa.array([[[day]], None]),
        pa.array([day.date(), None]), pa.array([day.time(), None]), pa.array([b"abcd", b"efgh"], pa.binary(4)),
        pa.array([np.float16(1), None], pa.float16()),
        pa.array([{"a": [day]}, None]), pa.array([["\0"], ["a"]]), pa.array([2**63, 1], pa.uint64()),
    ))  # fmt: skip
    columns = {
        "image": pa.array(["img/a.png", "img/b.jpg"]),
        "text": pa.array(["a", "b"]),
        "extra": pa.array(["a", "b"]),
    }
    columns[pick(rng, ("image", "text", "label", "boxes", "extra", "offset_days", "modality", "split"))] = odd
    path = folder / "case.parquet"
    packed = pick(rng, ("snappy", "gzip", "zstd", "none"))
    pq.write_table(pa.table(columns), path, compression=packed)
    if rng.random() < 0.3:
        path.write_bytes(damage(path.read_bytes(), rng, as_parquet(list(GOOD)))[0])
    return path


def _footer(folder: Path, rng: np.random.Generator) -> Path:
    """Damage a Parquet file's footer, or its pages, or claim another length of it."""
    data = as_parquet(list(GOOD))
    size = int.from_bytes(data[-8:-4], "little")
    start = len(data) - 8 - size
    change = pick(rng, ("length", "footer", "footer", "pages"))
    if change == "length":
        stated = int(pick(rng, (0, 1, size - 1, size + 1, len(data), 2**31 - 1, 2**32 - 1)))
        data = data[:-8] + stated.to_bytes(4, "little") + data[-4:]
    else:
        at = int(rng.integers(start, start + size)) if change == "footer" else int(rng.integers(4, start))
        value = (
            bytes(rng.integers(0, 256, int(rng.integers(1, 5)), np.uint8))
            if rng.random() < 0.5
            else b"\xff\xff\xff\xff\x0f"
        )
        data = data[:at] + value + data[at + len(value) :]
    path = folder / "case.parquet"
    path.write_bytes(data)
    return path


def _place(folder: Path, rng: np.random.Generator) -> Path:
    """Put something else where the manifest should be."""
    path = folder / f"case.{pick(rng, ('csv', 'jsonl', 'parquet', 'txt', 'json', 'CSV'))}"
    what = pick(rng, ("pipe", "zero", "loop", "folder", "inside", "nothing", "null", "other"))
    if what == "pipe":
        os.mkfifo(path)
    elif what in ("zero", "null"):
        path.symlink_to(f"/dev/{what}")
    elif what == "loop":
        path.symlink_to(path.name)
    elif what == "folder":
        path.mkdir()
    elif what == "inside":
        path.mkdir()
        (path / "manifest.csv").write_bytes(as_csv([{"image": pick(rng, PATHS)}]))
    elif what == "other":
        path.write_bytes(pick(rng, (as_csv, as_jsonl, as_parquet))(list(GOOD)))
    return path
