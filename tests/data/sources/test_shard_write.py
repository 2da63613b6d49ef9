"""Manifests written as tars: the same samples come back, the same bytes each time, and nothing half done passes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medmoe.data.contract import reading_contract
from medmoe.data.loader import Loader
from medmoe.data.preprocess import Preprocess
from medmoe.data.sources import shard_write
from medmoe.data.sources.base import shown
from medmoe.data.sources.concat import open_source
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.manifest_write import write_manifest
from medmoe.data.sources.shard_folder import check_shards
from medmoe.data.sources.shard_write import write_shards
from medmoe.data.sources.shards import ShardSource
from medmoe.errors import ConfigError, DataError
from medmoe.types import Sample
from micro import medmoe

RNG = np.random.default_rng(0)
NAMES = ("a.jpg", "b.png", "c.tif", "d.png", "e.dcm", "f.bmp", "g.png", "h.jpeg")


def grey(depth: type = np.uint8, shape: tuple[int, ...] = (12, 16)) -> np.ndarray:
    return RNG.integers(0, np.iinfo(depth).max, shape).astype(depth)


def write_dicom(path: Path, values: np.ndarray, **elements: Any) -> None:
    """Write a DICOM file of one grey frame."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.Rows, data.Columns = values.shape
    data.BitsAllocated = data.BitsStored = 8 * values.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelData = values.tobytes()
    data["PixelData"].VR = "OW"
    for name, value in elements.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a manifest of eight kinds of image files, with every column somewhere."""
    place = tmp_path / "own"
    place.mkdir()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(grey(shape=(12, 16, 3))).save(place / "a.jpg", exif=exif)
    Image.fromarray(grey()).save(place / "b.png")
    Image.fromarray(grey(np.uint16)).save(place / "c.tif")
    Image.fromarray(grey(np.uint16)).save(place / "d.png")
    write_dicom(place / "e.dcm", np.arange(192, dtype=np.uint16).reshape(12, 16), WindowCenter=100, WindowWidth=80)
    Image.fromarray(grey(shape=(12, 16, 3))).save(place / "f.bmp")
    Image.fromarray(grey()).save(place / "g.png")
    Image.fromarray(grey()).save(place / "h.jpeg")
    Image.fromarray((grey() > 128).astype(np.uint8) * 3).save(place / "mask.png")
    Image.fromarray(grey() > 128).save(place / "mask.bmp")
    Image.fromarray(grey()).save(place / "gaze.png")
    Image.fromarray(grey(np.uint16)).save(place / "gaze.tif")
    box = [{"label": "mass", "xyxy": [1, 2.5, 8, 9.1], "phrase": "a größer mass"}]
    rows: list[dict[str, Any]] = [{"image": name, "modality": "CT", "patient_id": f"00{n}"} for n, name in
                                  enumerate(NAMES)]  # fmt: skip
    rows[0] |= {"text": "Befund: größer,\nsecond line.", "boxes": box, "view": "PA", "offset_days": 3.5}
    rows[1] |= {"label": "edema", "mask": "mask.png", "gaze": "gaze.png", "body_part": "lung", "source": "hc18"}
    rows[2] |= {"label": "edema;mass", "prior": "b.png", "mask": "mask.bmp", "gaze": "gaze.tif"}
    rows[3] |= {"label": "No Finding", "study_id": "s", "domain": "site", "license": "CC0"}
    rows[4] |= {"text": "\ufeffA report after a mark.", "question": "Where?", "answer": "There."}
    rows[5] |= {"label": "mass", "boxes": box, "width": 16, "height": 12}
    rows[6] |= {"label": "mass", "prior": "e.dcm"}
    write_manifest(rows, place / "manifest.csv")
    return place


def assert_same(ours: Sample, theirs: Sample) -> None:
    """Compare two samples bit by bit, keys aside."""
    for field in dataclasses.fields(Sample):
        one, other = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name in ("key", "prior"):
            continue
        if isinstance(one, np.ndarray):
            assert (one.dtype, one.shape) == (other.dtype, other.shape), field.name
            assert one.tobytes() == other.tobytes(), field.name
        else:
            assert one == other, field.name


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.*"))
            if path.suffix in (".tar", ".json")}  # fmt: skip


@pytest.mark.parametrize("images", ["copy", "png", "npy"])
def test_what_is_written_is_read_back_as_the_manifest_gives_it(folder: Path, tmp_path: Path, images: str):
    [done] = write_shards(folder, tmp_path / "out", samples_per_shard=3, images=images)
    assert (done.samples, done.shards, done.skipped) == (8, 3, 0)
    for seed in (0, 7):
        theirs = ManifestSource(folder, seed=seed)
        ours = open_source(tmp_path / "out", seed=seed)
        assert isinstance(ours, ShardSource)
        for index in range(8):
            assert_same(ours[index], theirs[index])
            assert_same(ours.facts(index), theirs.facts(index))
        assert ours[2].prior == ours[1].key
        assert ours[6].prior == ours[4].key
        assert ours.facts(0).prior is None


def test_without_template_reports_there_are_none(folder: Path, tmp_path: Path):
    write_shards(folder, tmp_path / "out")
    ours = open_source(tmp_path / "out", report_templates=False)
    theirs = ManifestSource(folder, report_templates=False)
    assert [ours.facts(i).report for i in range(8)] == [theirs.facts(i).report for i in range(8)]
    assert ours.files(1)["txt"].decode() == ManifestSource(folder).facts(1).report  # for other programs


def test_jpeg_and_png_files_are_copied_and_others_stored_without_loss(folder: Path, tmp_path: Path):
    write_shards(folder, tmp_path / "out")
    ours = open_source(tmp_path / "out")
    kinds = [next(kind for kind in ("jpg", "png", "npy") if kind in ours.files(i)) for i in range(8)]
    assert kinds == ["jpg", "png", "npy", "png", "npy", "png", "png", "jpg"]
    for index in (0, 1, 3, 6, 7):
        assert ours.files(index)[kinds[index]] == (folder / NAMES[index]).read_bytes()
    assert ours.files(1)["mask.png"] == (folder / "mask.png").read_bytes()


def test_jpg_is_eight_bits_and_close(folder: Path, tmp_path: Path):
    write_shards(folder, tmp_path / "out", images="jpg")
    ours, theirs = open_source(tmp_path / "out"), ManifestSource(folder)
    smooth = ours[4].image.astype(float) / 255 - theirs[4].image
    assert ours[4].image.dtype == np.uint8
    assert 0 < np.abs(smooth).max() < 0.1


def test_maps_stay_unread_where_nobody_wants_them(folder: Path, tmp_path: Path):
    write_shards(folder, tmp_path / "out")
    bare = open_source(tmp_path / "out", maps=False)
    assert bare[1].mask is None
    assert bare[1].gaze is None
    assert open_source(tmp_path / "out")[1].mask is not None


def test_the_same_manifest_gives_the_same_bytes_with_any_number_of_workers(folder: Path, tmp_path: Path):
    for name, workers in (("one", 1), ("two", 2)):
        write_shards(folder, tmp_path / name, samples_per_shard=3, shuffle=4, workers=workers)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) == 5
    keys = [open_source(tmp_path / "one").facts(index).key for index in range(8)]
    assert keys != sorted(keys)
    assert len(set(keys)) == 8


def test_a_stopped_run_goes_on_where_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_shards(folder, tmp_path / "whole", samples_per_shard=2)
    out, own, written = tmp_path / "out", shard_write._write, []

    def stop(work: Any, number: int) -> Any:
        if number == 2:
            raise KeyboardInterrupt
        return own(work, number)

    with monkeypatch.context() as patch:
        patch.setattr(shard_write, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            write_shards(folder, out, samples_per_shard=2)
    with pytest.raises(DataError, match="the shards aren't all written yet"):
        open_source(out)
    with pytest.raises(DataError, match="of another manifest, or with other options"):
        write_shards(folder, out, samples_per_shard=3)
    (out / "unfinished.jsonl").write_text((out / "unfinished.jsonl").read_text() + '{"number": 2, "na')
    with monkeypatch.context() as patch:
        patch.setattr(shard_write, "_write", lambda work, number: written.append(number) or own(work, number))
        [done] = write_shards(folder, out, samples_per_shard=2)
    assert (written, done.before, done.samples) == ([2, 3], 2, 8)
    assert digests(out) == digests(tmp_path / "whole")
    [again] = write_shards(folder, out, samples_per_shard=2)
    assert (again.samples, again.before) == (8, 4)
    with pytest.raises(DataError, match="the output folder is in use"):
        write_shards(folder, out, samples_per_shard=5)


def test_a_bad_sample_is_told_or_left_out_and_counted(folder: Path, tmp_path: Path):
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"manifest\.csv:2: image b\.png: the image is truncated"):
        write_shards(folder, tmp_path / "out", samples_per_shard=2, workers=2)
    [done] = write_shards(folder, tmp_path / "out", samples_per_shard=2, on_bad_sample="skip")
    assert (done.samples, done.shards, done.skipped) == (7, 4, 1)
    [line] = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "manifest.csv:2"
    assert "truncated" in json.loads(line)["reason"]
    assert len(open_source(tmp_path / "out")) == 7
    for name in NAMES:
        (folder / name).write_bytes(b"")
    with pytest.raises(DataError, match="none of 8 samples is good"):
        write_shards(folder, tmp_path / "none", on_bad_sample="skip")


def test_splits_have_folders_of_their_own_or_one_is_written(folder: Path, tmp_path: Path):
    rows = [{"image": name, "split": "val" if number > 4 else "train"} for number, name in enumerate(NAMES)]
    write_manifest(rows, folder / "manifest.csv")
    done = write_shards(folder, tmp_path / "all")
    assert [(Path(one.folder).name, one.samples) for one in done] == [("train", 5), ("val", 3)]
    assert [one.split for one in done] == ["train", "val"]
    [one] = write_shards(folder, tmp_path / "val", split="val")
    assert (one.folder, one.samples) == (str(tmp_path / "val"), 3)
    assert_same(open_source(tmp_path / "val")[2], ManifestSource(folder, split="val")[2])
    assert [len(open_source(tmp_path / "all", split=name)) for name in ("train", "val", None)] == [5, 3, 8]
    assert len({open_source(tmp_path / "all").facts(index).key for index in range(8)}) == 8
    assert [name for name, _, wrong in check_shards(tmp_path / "all") if not wrong] == [
        "train/000000.tar",
        "val/000000.tar",
    ]
    with pytest.raises(DataError, match="no split 'test'; the folder has: train, val"):
        open_source(tmp_path / "all", split="test", fallback=True)
    write_manifest([{"image": "a.jpg", "split": "../x"}], folder / "manifest.csv")
    with pytest.raises(DataError, match="can't name a folder"):
        write_shards(folder, tmp_path / "odd")


def test_a_tar_holds_no_more_than_so_many_megabytes(folder: Path, tmp_path: Path):
    sizes = [(folder / name).stat().st_size for name in ("a.jpg", "b.png")]
    [done] = write_shards(folder, tmp_path / "out", max_mb=(sum(sizes) + 1) / 1e6)
    assert done.shards > 3
    assert len(ShardSource([tmp_path / "out" / "000000.tar"])) == 2


def test_class_numbers_have_names_beside_the_tars(folder: Path, tmp_path: Path):
    write_shards(folder, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "shards.json").read_text()) == {
        "classes": ["edema", "mass", "no_finding"], "preprocess": reading_contract("header"),
    }  # fmt: skip
    ours = open_source(tmp_path / "out")
    assert [ours.files(index).get("cls") for index in range(8)] == [None, b"0", None, b"2", None, b"1", b"1", None]


def test_grey_levels_of_one_window_are_not_taken_for_those_of_another(folder: Path, tmp_path: Path):
    write_shards(folder, tmp_path / "out")
    tars = sorted((tmp_path / "out").glob("*.tar"))
    source = ShardSource(tars)
    assert source.preprocess == {tmp_path / "out": reading_contract("header")}
    assert shown(source, "header") is source
    with pytest.raises(DataError, match=r"don't share their preprocessing.*step 'read': window 'header' and 'lung'"):
        shown(source, "lung")


def test_a_tar_that_changed_is_found_by_its_checksum(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    write_shards(folder, out, samples_per_shard=2)
    assert [wrong for _, _, wrong in check_shards(out)] == [""] * 4
    tar = out / "000001.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    shutil.copy(out / "000000.tar", out / "more.tar")
    (out / "000002.tar").unlink()
    told = {name: wrong for name, _, wrong in check_shards(out)}
    assert "SHA-256 differs" in told["000001.tar"]
    assert (told["000000.tar"], told["000002.tar"], told["more.tar"]) == ("", "is missing", "not in checksums.json")
    shutil.copy(out / "000003.tar", tar)
    if tar.stat().st_size != len(data):
        with pytest.raises(DataError, match=r"000001\.tar: .* bytes and 2 samples; written were"):
            open_source(tar)
    with pytest.raises(DataError, match="nothing to compare"):
        list(check_shards(folder))


def test_training_batches_from_tars_are_those_from_the_manifest(folder: Path, tmp_path: Path):
    write_shards(folder, tmp_path / "out", samples_per_shard=3)
    batches = [
        next(iter(Loader(source, Preprocess(16), None, modalities=("ct",), batch_size=8, train=True, seed=2)))
        for source in (ManifestSource(folder), open_source(tmp_path / "out"))
    ]
    assert batches[0].image.numpy().tobytes() == batches[1].image.numpy().tobytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples_per_shard": 0}, "samples_per_shard: 0"),
        ({"images": "gif"}, "unknown images 'gif'"),
        ({"max_mb": 0.0}, "more than 0"),
        ({"on_bad_sample": "stop"}, "unknown on_bad_sample"),
        ({"shuffle": -1}, "shuffle: -1"),
    ],
)
def test_a_wrong_option_is_told(folder: Path, tmp_path: Path, options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        write_shards(folder, tmp_path / "out", **options)


def test_the_command_writes_and_checks(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    said = medmoe("data", "shard", folder, "--out", out, "--samples-per-shard", 3, "--json", tmp_path / "done.json")
    assert said.code == 0
    assert "8 samples in 3 tars" in said.out
    assert json.loads((tmp_path / "done.json").read_text())[0]["shards"] == 3
    assert medmoe("data", "shard", "--check", out).code == 0
    tar = out / "000001.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    said = medmoe("data", "shard", "--check", out)
    assert said.code == 1
    assert "000001.tar: has" in said.out
    assert "a manifest and --out" in medmoe("data", "shard", folder).mistake
    assert "writes nothing" in medmoe("data", "shard", folder, "--check", out).mistake
