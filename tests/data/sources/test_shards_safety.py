"""Tars that mean harm or are broken: refused or left out with a word, and nothing allocated for what isn't there."""

from __future__ import annotations

import io
import json
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_shards import picture, samples, write

from medmoe.data import images
from medmoe.data.loader import Loader
from medmoe.data.preprocess import Preprocess
from medmoe.data.sources import shard_members, tar_index
from medmoe.data.sources.concat import open_source
from medmoe.data.sources.shards import ShardSource
from medmoe.data.sources.tar_index import open_index
from medmoe.errors import DataError


def header(shape: str, descr: str = "'<f8'", order: str = "False", version: int = 1) -> bytes:
    """Give the beginning of a `.npy` that claims a shape."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 * version, "little") + text


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header("(1000000, 1000000)"), "claims more than 178,956,970 pixels"),
        (header("(9999, 9999)"), "0 bytes, 799,840,008 claimed"),
        (header("(3, 4)") + bytes(95), "95 bytes, 96 claimed"),
        (header("(-3, 4)"), r"shape \(-3, 4\)"),
        (header("(99999999999999999999, 99999999999999999999)"), "claims more than"),
        (header("(2, 2)", "'|O'") + bytes(64), "Python objects"),
        (header("(2, 2)", "[('a', '<f8')]") + bytes(64), "allowed: numbers"),
        (header("(2, 2)", "'<U9'") + bytes(999), "allowed: numbers"),
        (header("(2, 2)", "__import__('os').system('true')"), "not an array of pixels"),
        (header("(" * 500), "not an array of pixels"),
        (header("(2, 2)" + " " * 20000, version=2) + bytes(32), "not an array of pixels"),
        (b"\x93NUMPY\x03\x00", "version 3.0"),
        (b"\x93NUMPY", "not an array of pixels"),
        (b"", "not an array of pixels"),
    ],
)
def test_an_array_that_claims_what_it_has_not_is_refused_before_room_is_made(tmp_path: Path, data: bytes, words: str):
    source = open_source(write(tmp_path / "a.tar", [("a.npy", data)]))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"a\.tar:a\.npy: .*{words}"):
            source[0]
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_arrays_of_any_order_and_number_are_read_as_numpy_reads_them(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 1000, (5, 7))
    arrays = {
        "a": np.asfortranarray(values.astype("<u2")), "b": values.astype(">i4"), "c": values.astype(np.float16),
        "d": np.asfortranarray(values.astype(np.uint8)),
    }  # fmt: skip
    files = []
    for name, array in arrays.items():
        file = io.BytesIO()
        np.save(file, array)
        files.append((f"{name}.npy", file.getvalue()))
    source = open_source(write(tmp_path / "a.tar", files))
    for index, array in enumerate(arrays.values()):
        found = source[index].image
        if array.dtype == np.uint8:
            np.testing.assert_array_equal(found, array)
        else:
            exact = array.astype(np.float64)
            np.testing.assert_allclose(found, (exact - exact.min()) / np.ptp(exact), atol=1e-6)
        assert found.flags.writeable


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([[0.0, 1.5]], np.float32), "grey levels of float32 from 0.0 to 1.5"),
        (np.array([[0.0, np.nan]], np.float32), "grey levels"),
        (np.array([[0.0, 1.0]]), "grey levels of float64"),
    ],
)
def test_grey_levels_that_are_said_to_be_stretched_must_be(tmp_path: Path, values: np.ndarray, words: str):
    file = io.BytesIO()
    np.save(file, values)
    files = [("a.npy", file.getvalue()), ("a.json", b'{"stretched": true}')]
    with pytest.raises(DataError, match=words):
        open_source(write(tmp_path / "a.tar", files))[0]


@pytest.mark.parametrize("size", [(20000, 20000), (178_956_971, 1)])
def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, size: tuple[int, int]):
    file = io.BytesIO()
    Image.new("1", (1, 1)).save(file, "PNG")
    bomb = bytearray(file.getvalue())
    bomb[16:24] = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big")
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    files = [("a.png", bytes(bomb)), ("b.png", picture(1)), ("b.mask.png", bytes(bomb))]
    source = open_source(write(tmp_path / "a.tar", files))
    for index, name in enumerate((r"a\.png", r"b\.mask\.png")):
        with pytest.raises(DataError, match=rf"a\.tar:{name}: the image claims more than {images.MAX_PIXELS:,} pixels"):
            source[index]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"offset_days": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"offset_days": 1e999}', "offset_days 'Infinity' is not a number"),
        ('{"boxes": ' + "[" * 400 + "]" * 400 + ', "width": 9, "height": 9}', "box"),
        ('{"boxes": 3, "width": 9, "height": 9}', "boxes are a JSON int"),
    ],
)
def test_json_that_no_writer_means_is_told(tmp_path: Path, text: str, words: str):
    source = open_source(write(tmp_path / "a.tar", [("a.png", picture(1)), ("a.json", text.encode())]))
    for read in (source.facts, source.__getitem__):
        with pytest.raises(DataError, match=rf"a\.tar:a.*{words}"):
            read(0)


def test_text_without_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shard_members, "MAX_TEXT", 1000)
    for name in ("a.txt", "a.json", "a.cls"):
        source = open_source(write(tmp_path / f"{name}.tar", [("a.png", picture(1)), (name, b"9" * 1001)]))
        with pytest.raises(DataError, match=r"1,001 bytes of text; allowed: 1,000"):
            source.facts(0)


def test_a_class_number_without_end_is_told(tmp_path: Path):
    (tmp_path / "shards.json").write_text('{"classes": ["a"]}')
    for number in ("9" * 5000, "²"):
        source = open_source(write(tmp_path / "a.tar", [("a.png", picture(1)), ("a.cls", number.encode())]))
        if number == "²":
            assert source.facts(0).labels == ("²",)
        else:
            with pytest.raises(DataError, match="names 1 classes"):
                source.facts(0)


def test_names_that_are_no_text_are_refused(tmp_path: Path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tarfile.TarInfo("größe.png"))
    with pytest.raises(DataError, match="bytes that are no UTF-8 text"):
        open_index(path)
    with pytest.raises(DataError, match="can't be printed"):
        open_index(write(path, [("a\x1b[2J.png", b"")]))


def test_names_full_of_dots_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tar_index, "_EXTENSIONS", 3)
    with pytest.raises(DataError, match=r"a\.tar:1\.2\.843\.png: more than 3 kinds of files"):
        open_index(write(tmp_path / "a.tar", [(f"1.2.84{number}.png", b"") for number in range(9)]))


def cut(path: Path, row: int, name: str, keep: int = 5) -> None:
    """Cut a tar within a file of a sample."""
    begin = open_index(path).files(row)[name][0]
    path.write_bytes(path.read_bytes()[: begin + keep])


def test_of_a_cut_tar_the_whole_samples_are_used_where_bad_ones_are_skipped(tmp_path: Path):
    write(tmp_path / "00.tar", samples(range(5)))
    write(tmp_path / "01.tar", samples(range(5, 8)))
    cut(tmp_path / "00.tar", 3, "txt")
    with pytest.raises(DataError, match=r"00\.tar:case003\.txt: .* is truncated; .* --on-bad-sample skip"):
        open_source(tmp_path)
    source = open_source(tmp_path, salvage=True)
    assert isinstance(source, ShardSource)
    assert [source.paths[number].name for number in source.shards()] == ["00.tar"] * 4 + ["01.tar"] * 3
    assert [source[index].report for index in (0, 2, 4, 6)] == [f"Report {n}." for n in (0, 2, 5, 7)]
    for read in (source.facts, source.__getitem__, source.content):
        with pytest.raises(DataError, match=r"00\.tar:case003\.txt: .*truncated.*; .*the samples before"):
            read(3)
    with pytest.raises(DataError, match="is truncated"):  # with an index that was made for less, too
        open_source(tmp_path)
    cut(write(tmp_path / "02.tar", samples([1])), 0, "txt")
    with pytest.raises(DataError, match="is truncated"):  # nothing of it is whole
        open_source(tmp_path / "02.tar", salvage=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_broken_is_counted_and_written_down(tmp_path: Path, workers: int):
    files = samples(range(8))
    files[3 * 3] = ("case003.png", picture(3)[:70])
    files[5 * 3 + 2] = ("case005.json", b"{")
    write(tmp_path / "00.tar", files)
    write(tmp_path / "01.tar", samples(range(8, 13)))
    cut(tmp_path / "01.tar", 4, "png")
    for train in (True, False):
        note = tmp_path / f"{train}.jsonl"
        loader = Loader(
            open_source(tmp_path, salvage=True), Preprocess(16), None, modalities=("ct",), batch_size=4, train=train,
            workers=workers, on_bad_sample="skip", quarantine=note,
        )  # fmt: skip
        seen = {key for batch, _ in zip(loader, range(4), strict=False) for key in batch.keys}
        loader.close()
        good = {f"{n > 7:02}.tar:case{n:03}" for n in range(12) if n not in (3, 5)}
        assert seen == good if not train else seen <= good
        told = [json.loads(line) for line in note.read_text().splitlines()]
        assert {line["key"].split(":")[-1].split("/")[-1][:7] for line in told} == {"case003", "case005", "case012"}
        assert loader.skipped == 3 if not train else loader.skipped >= 3


def test_links_are_refused_even_where_bad_samples_are_skipped(tmp_path: Path):
    path = write(tmp_path / "a.tar", [("ok.png", b"1"), ("odd.png", b"")], type=tarfile.SYMTYPE, linkname="/etc/passwd")
    with pytest.raises(DataError, match="the tar holds a link"):
        open_index(path, salvage=True)
