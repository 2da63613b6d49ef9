"""Tars of other programs, and ours in theirs: webdataset both ways, and every kind of header that tars have."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medmoe.data.sources.concat import open_source
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.manifest_write import write_manifest
from medmoe.data.sources.shard_write import write_shards
from medmoe.data.sources.tar_index import open_index
from medmoe.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore")  # webdataset leaves tars open


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (6, 9, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def theirs(path: object, *, decode: bool = False) -> Iterator[dict[str, Any]]:
    wds = pytest.importorskip("webdataset")
    found = wds.WebDataset(str(path), shardshuffle=False)
    return iter(found.decode("rgb8") if decode else found)


def write(path: Path, names: list[str], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name.encode())
            tar.addfile(info, io.BytesIO(name.encode()))
    return path


def test_webdataset_reads_what_is_written_here(tmp_path: Path):
    labels = ["edema", "mass", None]
    rows: list[dict[str, Any]] = []
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
        rows.append({"image": f"{number}.png", "modality": "ct", "label": labels[number % 3]})
        rows[-1] |= {"text": f"Größer {number}."} if number % 3 == 2 else {}
    write_manifest(rows, tmp_path / "manifest.csv")
    write_shards(tmp_path, tmp_path / "out", samples_per_shard=3)
    source = ManifestSource(tmp_path)
    found = list(theirs(f"{tmp_path}/out/{{000000..000002}}.tar", decode=True))
    assert [sample["__key__"] for sample in found] == [f"{number:08}" for number in range(1, 8)]
    for index, sample in enumerate(found):
        np.testing.assert_array_equal(sample["png"], source[index].image)
        assert sample["txt"] == source.facts(index).report
        assert sample.get("cls") == (None if index % 3 == 2 else index % 3)
        assert (sample["json"]["modality"], sample["json"]["row"]) == ("ct", index + 1)


def test_several_tars_of_its_shard_writer_are_read(tmp_path: Path):
    wds = pytest.importorskip("webdataset")
    with wds.ShardWriter(f"{tmp_path}/set-%03d.tar", maxcount=2, verbose=0) as writer:
        for number in range(5):
            writer.write({"__key__": f"site/{number:04}", "png": picture(number), "txt": f"{number}", "npy": np.eye(3)})
    source = open_source(tmp_path)
    assert len(source) == 5
    assert [source.facts(index).key for index in (0, 4)] == ["set-000.tar:site/0000", "set-002.tar:site/0004"]
    assert [source[index].report for index in range(5)] == list("01234")


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_are_taken_apart_as_webdataset_does(tmp_path: Path, kind: int):
    deep = "eine-lange-mappe/" * (3 if kind == tarfile.USTAR_FORMAT else 20)
    names = [
        "./a.png", "./a.txt", "b.x/c.png", "b.x/c.seg.png", "b.x/d.PNG", "größe.png", "größe.left.png",
        f"{deep}e.png", f"{deep}e.json", "__meta__/f.txt", "no-dot", "g h.png", "__g.png",
    ]  # fmt: skip
    path = write(tmp_path / "a.tar", names, kind)
    index = open_index(path)
    own = {index.keys[row].as_py(): set(index.files(row)) for row in range(len(index))}
    other = {sample["__key__"]: {name for name in sample if not name.startswith("__")} for sample in theirs(path)}
    assert own == other
    data = path.read_bytes()
    begin, end = index.files(own_row(index.keys.to_pylist(), "größe"))["left.png"]
    assert data[begin:end] == "größe.left.png".encode()


def own_row(keys: list[str], key: str) -> int:
    return keys.index(key)


def test_headers_of_old_tars_without_a_magic_are_read(tmp_path: Path):
    path = write(tmp_path / "a.tar", ["a.png", "a.txt"], tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    for begin in (0, 1024):
        data[begin + 257 : begin + 512] = bytes(255)  # as before 1988: nothing after the name of a link
        data[begin + 148 : begin + 156] = b" " * 8
        data[begin + 148 : begin + 156] = b"%06o\0 " % sum(data[begin : begin + 512])
    path.write_bytes(data)
    assert set(open_index(path).files(0)) == {"png", "txt"}


def test_files_beyond_eight_gigabytes_have_their_size_in_another_base(tmp_path: Path):
    path, size = tmp_path / "a.tar", 9 << 30
    info = tarfile.TarInfo("a.npy")
    info.size = size
    header = info.tobuf(tarfile.GNU_FORMAT)
    assert header[124] == 0x80
    after = tarfile.TarInfo("b.png").tobuf(tarfile.GNU_FORMAT)
    with path.open("wb") as file:  # a file with a hole: it takes no room on the disk
        file.write(header)
        file.seek(512 + size)
        file.write(after + bytes(1024))
    index = open_index(path)
    assert index.files(0) == {"npy": (512, 512 + size)}
    assert index.files(1) == {"png": (size + 1024, size + 1024)}


def test_what_is_compressed_is_refused_with_what_to_do(tmp_path: Path):
    wds = pytest.importorskip("webdataset")
    with wds.TarWriter(f"{tmp_path}/a.tar") as tar:
        tar.write({"__key__": "a", "png": picture(1), "txt.gz": "A report."})
    with pytest.raises(DataError, match=r"a\.tar: the tar holds compressed files \.txt\.gz; write it again without"):
        open_source(tmp_path / "a.tar")
    with wds.TarWriter(f"{tmp_path}/b.tar.gz", compress=True) as tar:
        tar.write({"__key__": "a", "png": picture(1)})
    with pytest.raises(DataError, match="the tar is compressed; unpack it once, with gunzip"):
        open_source(tmp_path / "b.tar.gz")


def test_an_image_under_another_name_is_missed(tmp_path: Path):
    source = open_source(write(tmp_path / "a.tar", ["a.left.png", "a.txt"]))
    with pytest.raises(DataError, match=r"a\.tar:a: the sample has no image; .*; it has left\.png, txt"):
        source[0]
