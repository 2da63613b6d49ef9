"""Samples of tars: the same as their files, in any order, and nothing taken from a tar that isn't whole."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medmoe.data.loader import Loader
from medmoe.data.preprocess import Preprocess
from medmoe.data.sources import tar_index
from medmoe.data.sources.base import Source, by_shard, content_of, shards_of, sizes_of
from medmoe.data.sources.concat import ConcatSource, open_source
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.rows import Rows
from medmoe.data.sources.shard_paths import find_shards
from medmoe.data.sources.shards import ShardSource
from medmoe.data.sources.tar_index import open_index
from medmoe.errors import DataError


def picture(number: int, kind: str = "PNG", size: tuple[int, int] = (9, 6)) -> bytes:
    """Encode a picture of size (width, height) that is told by its number."""
    file = io.BytesIO()
    values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


def write(path: Path, files: Iterable[tuple[str, bytes]], **more: Any) -> Path:
    """Write a tar of named files; `more` goes into the header of the last."""
    files = list(files)
    with tarfile.open(path, "w") as tar:
        for number, (name, data) in enumerate(files):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if number == len(files) - 1:
                for key, value in more.items():
                    setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(numbers: Iterable[int], **facts: Any) -> list[tuple[str, bytes]]:
    """Give a picture, a report and facts for each number."""
    return [
        file
        for number in numbers
        for file in (
            (f"case{number:03}.png", picture(number)),
            (f"case{number:03}.txt", f"Report {number}.".encode()),
            (f"case{number:03}.json", json.dumps({"modality": "CT", "patient_id": f"p{number}", **facts}).encode()),
        )
    ]


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Give a folder with two tars of three and four samples."""
    write(tmp_path / "00.tar", samples(range(3)))
    write(tmp_path / "01.tar", samples(range(3, 7)))
    return tmp_path


def test_samples_are_their_files_in_any_order(tars: Path):
    source = open_source(tars)
    assert isinstance(source, ShardSource)
    assert isinstance(source, Source)
    assert len(source) == 7
    for index in (6, 0, 3, 2, -1):
        number = index % 7
        sample = source[index]
        np.testing.assert_array_equal(sample.image, np.asarray(Image.open(io.BytesIO(picture(number)))))
        assert (sample.report, sample.modality, sample.patient) == (f"Report {number}.", "ct", f"p{number}")
        assert sample.key == f"0{int(number > 2)}.tar:case{number:03}"
        assert content_of(source, index) == picture(number)
        assert source.files(index)["txt"] == f"Report {number}.".encode()
    with pytest.raises(IndexError):
        source[7]


def test_facts_need_no_image(tmp_path: Path):
    source = open_source(
        write(tmp_path / "a.tar", [("x.png", b"no picture"), ("x.txt", b"Words."), ("x.cls", b"cyst")])
    )
    facts = source.facts(0)
    assert (facts.report, facts.labels, facts.image.size) == ("Words.", ("cyst",), 0)
    with pytest.raises(DataError, match=r"a\.tar:x\.png: not a readable image"):
        source[0]


def test_a_shard_and_a_manifest_of_the_same_say_the_same(tmp_path: Path):
    told = {
        "modality": "mr", "label": "mass;cyst", "patient_id": "7", "study_id": "s", "view": "PA", "offset_days": 3,
        "source": "here", "domain": "site", "question": "Where?", "answer": "There.", "body_part": "lung",
        "boxes": [{"label": "mass", "xyxy": [1, 1, 4, 3]}],
    }  # fmt: skip
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"image": "a.png", **told}))
    tar = write(tmp_path / "a.tar", [("a.png", picture(1)), ("a.json", json.dumps(told).encode())])
    one, other = ManifestSource(tmp_path), ShardSource([tar])
    for left, right in ((one[0], other[0]), (one.facts(0), other.facts(0))):
        np.testing.assert_array_equal(left.image, right.image)
        assert right.from_template
        assert right.report
        names = [
            "modality",
            "labels",
            "patient",
            "study",
            "view",
            "offset_days",
            "source",
            "domain",
            "question",
            "answer",
            "boxes",
        ]
        assert [getattr(left, name) for name in names] == [getattr(right, name) for name in names]


def test_what_a_json_lacks_comes_from_the_folder(tmp_path: Path):
    (tmp_path / "shards.json").write_text(
        json.dumps({"modality": "xray", "source": "set", "classes": ["normal", "mass"]})
    )
    files = [
        ("a.png", picture(1)),
        ("a.cls", b"1"),
        ("b.png", picture(2)),
        ("b.json", b'{"modality": "ct"}'),
        ("b.cls", b"0"),
    ]
    source = open_source(write(tmp_path / "a.tar", files))
    assert [source.facts(i).modality for i in range(2)] == ["xray", "ct"]
    assert [source.facts(i).labels for i in range(2)] == [("mass",), ("normal",)]
    assert source.facts(0).source == "set"


def test_a_class_number_without_names_says_nothing(tmp_path: Path):
    assert open_source(write(tmp_path / "a.tar", [("a.png", b""), ("a.cls", b"3")])).facts(0).labels is None


def test_keys_of_a_json_can_be_mapped(tmp_path: Path):
    files = [("a.png", picture(1)), ("a.json", b'{"caption": "Words.", "text": "Not these."}')]
    source = open_source(write(tmp_path / "a.tar", files), columns={"text": "caption"})
    assert source.facts(0).report == "Words."


def test_arrays_of_pixels_are_read_without_unpickling(tmp_path: Path):
    def stored(array: np.ndarray) -> bytes:
        file = io.BytesIO()
        np.save(file, array, allow_pickle=True)
        return file.getvalue()

    deep = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100
    bytes_ = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    arrays = {"a": deep, "b": bytes_, "c": np.array([{"x": 1}]), "d": np.zeros((2, 2, 2, 2)), "e": np.zeros((0, 4))}
    source = open_source(write(tmp_path / "a.tar", [(f"{name}.npy", stored(array)) for name, array in arrays.items()]))
    np.testing.assert_allclose(source[0].image, deep / deep.max())
    np.testing.assert_array_equal(source[1].image, bytes_)
    for index, words in ((2, "not an array of pixels"), (3, r"shape \(2, 2, 2, 2\)"), (4, "without pixels")):
        with pytest.raises(DataError, match=words):
            source[index]


def test_names_and_notes_that_are_no_samples_are_passed_over(tmp_path: Path):
    files = [
        ("__meta__/note.txt", b"x"),
        ("README", b"x"),
        (".hidden.png", b"x"),
        ("d.e/x.y.PNG", b"1"),
        ("d.e/x.png", b"2"),
    ]
    index = open_index(write(tmp_path / "a.tar", files))
    assert index.keys.to_pylist() == ["d.e/x"]
    assert set(index.files(0)) == {"y.png", "png"}


def test_an_index_is_made_once_and_again_when_the_tar_changes(tars: Path, monkeypatch: pytest.MonkeyPatch):
    path = tars / "00.tar"
    first = open_index(path)
    assert (tars / "00.tar.index").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(tar_index, "_table", lambda *_: pytest.fail("made again"))
        again = open_index(path)
    assert again.keys.equals(first.keys)
    assert [again.files(row) for row in range(3)] == [first.files(row) for row in range(3)]
    write(path, samples([8, 9]))
    assert open_index(path).keys.to_pylist() == ["case008", "case009"]
    state = path.stat()
    write(path, samples([6, 7]))  # of the same size
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert open_index(path).keys.to_pylist() == ["case006", "case007"]


def test_a_damaged_or_strange_index_is_made_again(tars: Path):
    path, place = tars / "00.tar", tars / "00.tar.index"
    good = [open_index(path).files(row) for row in range(3)]
    data = place.read_bytes()
    for bad in (b"", b"rubbish", data[: len(data) // 2]):
        place.write_bytes(bad)
        assert [open_index(path).files(row) for row in range(3)] == good
    table = tar_index._table(path, {"version": 1, "size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns})
    far = table.set_column(2, "offset", tar_index.pa.array([[1 << 40] * 3] * 3))
    tar_index._write(far, place)
    assert [open_index(path).files(row) for row in range(3)] == good


def test_the_index_of_a_folder_nobody_may_write_to_lies_in_the_cache(tars: Path, monkeypatch: pytest.MonkeyPatch):
    cache, own = tars / "cache", tar_index._write
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))

    def refuse(table: Any, place: Path) -> None:
        if place.parent == tars:
            raise PermissionError(13, "Permission denied")
        own(table, place)

    monkeypatch.setattr(tar_index, "_write", refuse)
    open_index(tars / "00.tar")
    monkeypatch.setattr(tar_index, "_table", lambda *_: pytest.fail("made again"))
    assert len(open_index(tars / "00.tar")) == 3
    assert [path.suffix for path in (cache / "medmoe" / "shards").iterdir()] == [".index"]
    assert not list(tars.glob("*.index"))


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "x/../../a.png", "x\\a.png"])
def test_a_name_that_leads_out_of_the_tar_is_refused(tmp_path: Path, name: str):
    with pytest.raises(DataError, match=r"a\.tar:.*a\.png: a name that leads out of the tar"):
        open_index(write(tmp_path / "a.tar", [("ok.png", b"1"), (name, b"2")]))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes):
    path = write(tmp_path / "a.tar", [("ok.png", b"1"), ("odd.png", b"")], type=kind, linkname="/etc/passwd")
    with pytest.raises(DataError, match=r"a\.tar:odd\.png: the tar holds a link"):
        open_index(path)


def test_a_truncated_tar_names_the_file_that_is_cut_off(tars: Path):
    path = tars / "00.tar"
    data, files = path.read_bytes(), open_index(path).files(2)
    path.write_bytes(data[: files["png"][1] - 20])
    with pytest.raises(DataError, match=r"00\.tar:case002\.png: this file of the tar is truncated"):
        open_index(path)
    path.write_bytes(data[: files["json"][0] + 512])
    with pytest.raises(DataError, match=r"00\.tar: after case002\.json: the tar ends without its end mark"):
        open_index(path)


def test_no_cut_of_a_tar_is_taken_for_a_whole_one(tars: Path):
    path = tars / "00.tar"
    data = path.read_bytes()
    end = max(end for _, end in open_index(path).files(2).values())
    for length in range(0, end, 257):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"00\.tar"):
            open_index(path)


def test_a_broken_header_is_not_the_end_of_the_tar(tars: Path):
    path = tars / "00.tar"
    data, begin = bytearray(path.read_bytes()), open_index(path).files(1)["png"][0]
    data[begin - 512 : begin - 400] = b"\xff" * 112
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"00\.tar: after case000\.json: the tar has a broken header"):
        open_index(path)


def test_what_is_no_plain_tar_is_told(tmp_path: Path):
    import gzip

    plain = write(tmp_path / "a.tar", samples([1]))
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "c.tar").write_bytes(b"words " * 500)
    (tmp_path / "d.tar").mkdir()
    write(tmp_path / "e.tar", [("README", b"x")])
    for name, words in {
        "b.tar.gz": "the tar is compressed; unpack it", "c.tar": "truncated or damaged after its beginning",
        "d.tar": "is a folder", "e.tar": "no sample in the tars", "f.tar": "no such tar",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=words):
            open_source(tmp_path / name)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("a.png", b""), ("b.png", b""), ("a.txt", b"")], r"a\.tar:a\.txt: the files of sample 'a' don't follow"),
        ([("a.png", b""), ("a.PNG", b"")], r"a\.tar:a\.PNG: sample 'a' has two files \.png"),
    ],
)
def test_samples_that_are_not_in_one_piece_are_refused(tmp_path: Path, files: list[tuple[str, bytes]], words: str):
    with pytest.raises(DataError, match=words):
        open_index(write(tmp_path / "a.tar", files))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("a.txt", b"x")], r"a\.tar:a: the sample has no image; allowed: jpg, jpeg, png, npy; it has txt"),
        ([("a.png", b""), ("a.json", b"[1]")], r"a\.tar:a\.json: a JSON list, not an object"),
        ([("a.png", b""), ("a.json", b"{")], r"a\.tar:a\.json: not valid JSON"),
        ([("a.png", b""), ("a.txt", b"\xff\xfe")], r"a\.tar:a\.txt: not UTF-8"),
        ([("a.png", picture(1)), ("a.json", b'{"modality": "xrey"}')], r"a\.tar:a: unknown modality 'xrey'"),
    ],
)
def test_a_bad_sample_is_named(tmp_path: Path, files: list[tuple[str, bytes]], words: str):
    with pytest.raises(DataError, match=words):
        open_source(write(tmp_path / "a.tar", files))[0]


def test_a_bad_common_file_is_told(tars: Path):
    for text, words in {
        '{"modalty": "ct"}': "unknown key 'modalty'",
        '{"classes": "a"}': "isn't a list of names",
    }.items():
        (tars / "shards.json").write_text(text)
        with pytest.raises(DataError, match=words):
            open_source(tars)
    (tars / "shards.json").write_text('{"classes": ["a"]}')
    with pytest.raises(DataError, match=r"b\.tar:x\.cls: class 1, but shards\.json names 1"):
        open_source(write(tars / "b.tar", [("x.png", b""), ("x.cls", b"1")])).facts(0)


def test_a_report_that_must_be_there_is_missed(tmp_path: Path):
    source = open_source(write(tmp_path / "a.tar", [("a.png", picture(1))]), require_report=True)
    with pytest.raises(DataError, match=r"a\.tar:a: the report is empty"):
        source.facts(0)


def test_patterns_folders_and_manifests_are_told_apart(tars: Path):
    assert find_shards(f"{tars}/{{00..01}}.tar") == [tars / "00.tar", tars / "01.tar"]
    assert find_shards(f"{tars}/{{a,b}}-{{8..9}}.tar") == [tars / f"{a}-{n}.tar" for a in "ab" for n in (8, 9)]
    assert find_shards(str(tars)) == [tars / "00.tar", tars / "01.tar"]
    assert find_shards(f"{tars}/a.csv") is None
    (tars / "manifest.csv").write_text("image\n")
    assert find_shards(str(tars)) is None
    with pytest.raises(DataError, match="counts down"):
        find_shards("{3..1}.tar")


def test_tars_of_one_name_have_keys_that_tell_them_apart(tars: Path):
    (tars / "more").mkdir()
    write(tars / "more" / "00.tar", samples([0]))
    both = open_source(f"{tars}/00.tar::{tars}/more::phantom:patients=2,size=32")
    assert isinstance(both, ConcatSource)
    assert both.facts(0).key == f"{tars}/00.tar:case000"
    assert both.facts(3).key == f"{tars}/more/00.tar:case000"


def test_a_split_of_tars_is_refused_where_it_was_asked_for(tars: Path):
    assert len(open_source(tars, split="train", fallback=True)) == 7
    with pytest.raises(DataError, match="no split 'train': tars have none"):
        open_source(tars, split="train")


def test_a_copy_for_a_worker_reads_the_same(tars: Path):
    source = open_source(tars)
    np.testing.assert_array_equal(source[4].image, pickle.loads(pickle.dumps(source))[4].image)


def test_more_tars_than_are_held_open_are_read(tars: Path, monkeypatch: pytest.MonkeyPatch):
    from medmoe.data.sources import shards

    monkeypatch.setattr(shards, "_OPEN", 1)
    source = open_source(tars)
    assert [source[index].report for index in (0, 6, 1, 5)] == [f"Report {number}." for number in (0, 6, 1, 5)]
    assert len(source._maps) == 1


def test_a_tar_cut_while_in_use_is_told(tars: Path):
    source = open_source(tars)
    data = (tars / "01.tar").read_bytes()
    (tars / "01.tar").write_bytes(data[:2000])
    with pytest.raises(DataError, match=r"01\.tar: the tar was cut while it was in use"):
        source[5]


def test_training_batches_are_the_same_with_workers_and_from_any_step(tars: Path):
    def batches(start: int, workers: int) -> list[tuple[tuple[str, ...], torch.Tensor]]:
        loader = Loader(
            open_source(tars), Preprocess(16), None, modalities=("ct",), batch_size=3, train=True, start=start,
            workers=workers, seed=5,
        )  # fmt: skip
        steps = iter(loader)
        found = [(batch.keys, batch.image) for batch, _ in zip(steps, range(5 - start), strict=False)]
        loader.close()
        return found

    whole = batches(0, 0)
    for start, workers in ((0, 2), (3, 0), (2, 1)):
        for (keys, image), (expected, pixels) in zip(batches(start, workers), whole[start:], strict=True):
            assert keys == expected
            assert torch.equal(image, pixels)


def test_jpegs_of_tars_are_read_at_a_reduced_scale_unless_they_have_boxes(tmp_path: Path):
    boxed = json.dumps({"boxes": [{"label": "mass", "xyxy": [0, 0, 32, 48]}]}).encode()
    jpeg = picture(1, "JPEG", (64, 96))
    source = open_source(write(tmp_path / "a.tar", [("a.jpg", jpeg), ("b.jpg", jpeg), ("b.json", boxed)])).reduced(40)
    assert source[0].image.shape == (48, 32, 3)
    assert source[1].image.shape == (96, 64, 3)
    assert (source[1].boxes[0].x1, source[1].boxes[0].y1) == (0.5, 0.5)
    assert source.facts(1).boxes == source[1].boxes


@pytest.mark.filterwarnings("ignore")  # webdataset leaves the tar open
def test_tars_that_webdataset_writes_are_read_as_it_reads_them(tmp_path: Path):
    wds = pytest.importorskip("webdataset")
    long = "a-rather-long-folder-name/" * 5
    path = tmp_path / "a.tar"
    with wds.TarWriter(str(path)) as tar:
        for number in range(5):
            key = f"{long if number % 2 else ''}case{number}"
            facts = {"modality": "ct", "label": "cyst", "größe": number}
            tar.write(
                {"__key__": key, "png": picture(number), "txt": f"Befund {number}: größer.", "json": facts, "cls": 1}
            )
    source = open_source(path)
    theirs = list(wds.WebDataset(str(path), shardshuffle=False))
    assert len(source) == len(theirs) == 5
    for index, sample in enumerate(theirs):
        own = source.files(index)
        assert own == {name: data for name, data in sample.items() if not name.startswith("__")}
        assert source.facts(index).key == f"a.tar:{sample['__key__']}"
        assert source[index].report == f"Befund {index}: größer."


def test_tars_read_through_before_their_samples_give_the_same(tars: Path):
    plain, whole = open_source(f"{tars}::phantom:patients=2,size=32"), open_source(tars).by_shard()
    for index in (6, 0, 3):
        np.testing.assert_array_equal(whole[index].image, plain[index].image)
    assert open_source(tars).shards().tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert shards_of(plain)[:8].tolist() == [0, 0, 0, 1, 1, 1, 1, 2]  # what lies in no tar is one by itself
    assert len(set(shards_of(plain)[7:].tolist())) == len(plain) - 7
    assert sizes_of(plain) == (7, len(plain) - 7)
    assert sizes_of(open_source(tars)) == (7,)
    assert shards_of(open_source("phantom:patients=2,size=32")) is None
    assert shards_of(Rows(plain, [6, 0])).tolist() == [1, 0]
    np.testing.assert_array_equal(by_shard(Rows(plain, [6]))[0].image, plain[6].image)
