"""A folder tree to a manifest: every file is found and accounted for, each is read once, and nothing stops the scan."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from crashing import crashing
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from medmoe.data.curation.label import decide
from medmoe.data.curation.label_rules import DATASET, FAMILIES
from medmoe.data.curation.scan import Scan, scan
from medmoe.data.curation.scan_file import Record, hash_of, read_record
from medmoe.data.curation.scan_links import mask_paths
from medmoe.data.curation.scan_rows import Choice, clues_of
from medmoe.data.curation.scan_walk import walk
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.manifest_write import read_all, rows_of
from medmoe.errors import DataError
from micro import medmoe, truncate

ROOT = "1.2.840.10008.5.1.4.1.1."


def picture(path: Path, size: tuple[int, int] = (24, 16), seed: int = 0) -> Path:
    """Write noise of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, size[::-1], np.uint8)).save(path)
    return path


def dicom(path: Path, *, frames: int = 1, sop_class: str = f"{ROOT}2", **elements: object) -> Path:
    """Write a DICOM file of 4 × 6 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = sop_class
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"1.2.{zlib.crc32(path.name.encode())}"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 4, 6, 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    if frames > 1:
        data.NumberOfFrames = frames
    data.PixelData = np.random.default_rng(0).integers(0, 255, frames * 24, np.uint8).tobytes()
    data["PixelData"].VR = "OB"
    for name, value in elements.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def report(path: Path, study: str, text: str) -> Path:
    """Write a structured report."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = f"{ROOT}88.11"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.9"
    data.Modality, data.StudyInstanceUID, data.ValueType = "SR", study, "CONTAINER"
    item = Dataset()
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", text
    data.ContentSequence = Sequence([item])
    data.save_as(path, enforce_file_format=True)
    return path


def volume(path: Path, shape: tuple[int, ...] = (6, 5, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def rows_by_image(done: Scan) -> dict[str, dict[str, str | None]]:
    assert done.manifest is not None
    return {row["image"] or "": row for row in rows_of(read_all(done.manifest))}


def left_out(done: Scan) -> dict[str, dict[str, str]]:
    return {row["path"]: row for row in map(json.loads, done.quarantine.read_text(encoding="utf-8").splitlines())}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write a little of everything."""
    root = tmp_path / "tree"
    slices = ((0.0, "b", 3), (5.0, "c", 1), (10.0, "a", 2))
    for place, name, number in slices:
        dicom(
            root / f"pacs/{name}", Modality="CT", PatientID="p1", StudyInstanceUID="1.1", SeriesInstanceUID="1.2",
            InstanceNumber=number, ImagePositionPatient=[0, 0, place], ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            StudyDate="20200101", PixelSpacing=[0.5, 0.5],
        )  # fmt: skip
    dicom(root / "pacs/later.dcm", Modality="CR", PatientID="p1", StudyInstanceUID="1.9", StudyDate="20200111",
          ViewPosition="PA", sop_class=f"{ROOT}1")  # fmt: skip
    dicom(root / "pacs/cine", frames=9, Modality="US", PatientID="p2", sop_class=f"{ROOT}3.1")
    dicom(root / "pacs/dose", Modality="RTDOSE", sop_class=f"{ROOT}481.2")
    report(root / "pacs/report", "1.1", "There is a nodule on CT.")
    volume(root / "brains/sub-01/anat/sub-01_T1w.nii.gz")
    picture(root / "fundus/images/1.jpg", seed=1)
    picture(root / "fundus/masks/1.png")
    picture(root / "loose.png", seed=2)
    (root / "loose.txt").write_text("A chest radiograph.")
    (root / "README.txt").write_text("about")
    (root / "manifest.csv").write_text("image,modality\nloose.png,pet\n")
    (root / "notes.docx").write_bytes(b"PK\3\4....")
    return root


def test_every_file_is_found_and_accounted_for(tree: Path, tmp_path: Path):
    done = scan(tree, tmp_path / "out/manifest.csv")
    assert done.summary["found"] == sum(path.is_file() for path in tree.rglob("*")) == 15
    assert sum(done.summary["files"].values()) == 15
    assert done.summary["files"] == {"image": 8, "mask": 1, "report": 2, "left out": 4}
    assert {path: row["kind"] for path, row in left_out(done).items()} == {
        "README.txt": "text",
        "manifest.csv": "table",
        "notes.docx": "other file",
        "pacs/dose": "dose",
    }


def test_a_manifest_of_the_tree_is_never_believed(tree: Path, tmp_path: Path):
    done = scan(tree, tmp_path / "out/manifest.csv")
    assert rows_by_image(done)["../tree/loose.png"]["modality"] == "xray"  # by its text


def test_rows_say_what_headers_names_and_reports_say(tree: Path, tmp_path: Path):
    rows = rows_by_image(scan(tree, tmp_path / "out/manifest.parquet"))
    first = rows["../tree/pacs/b"]
    assert (first["modality"], first["patient_id"], first["study_id"], first["series_id"]) == ("ct", "p1", "1.1", "1.2")
    assert (first["plane"], first["spacing"], first["width"], first["height"]) == ("axial", "[0.5, 0.5]", "6", "4")
    assert (first["offset_days"], first["text"], first["source"]) == ("0", "There is a nodule on CT.", "pacs")
    assert (first["modality_rule"], first["frame"]) == ("header-code", None)
    assert first["sha"] == hash_of(str(tree / "pacs/b"))
    later = rows["../tree/pacs/later.dcm"]
    assert (later["offset_days"], later["view"], later["modality"], later["text"]) == ("10", "PA", "xray", None)
    assert (rows["../tree/fundus/images/1.jpg"]["mask"], rows["../tree/loose.png"]["source"]) == (
        "../tree/fundus/masks/1.png",
        "tree",
    )
    brain = rows["../tree/brains/sub-01/anat/sub-01_T1w.nii.gz"]
    assert (brain["modality"], brain["plane"], brain["width"], brain["height"]) == ("mri", "axial", "6", "5")
    assert (brain["patient_id"], brain["thickness"]) == ("01", "3.0")


def test_slices_are_in_the_order_of_their_places(tree: Path, tmp_path: Path):
    rows = rows_by_image(scan(tree, tmp_path / "out/manifest.csv"))
    order = [Path(image).name for image in rows if Path(image).name in "abc"]
    assert order == ["b", "c", "a"]
    assert [rows[f"../tree/pacs/{name}"]["instance"] for name in order] == ["0", "1", "2"]


def test_the_manifest_opens_as_a_source_and_every_image_in_it_reads(tree: Path, tmp_path: Path):
    done = scan(tree, tmp_path / "out/manifest.parquet")
    assert done.manifest is not None
    source = ManifestSource(done.manifest)
    assert len(source) == 8
    stated = [(int(row["height"] or 0), int(row["width"] or 0)) for row in rows_of(read_all(done.manifest))]
    assert [source[index].image.shape[:2] for index in range(len(source))] == stated


def test_frames_and_slices_are_chosen(tree: Path, tmp_path: Path):
    def frames(name: str, choice: Choice) -> list[str | None]:
        done = scan(tree, tmp_path / "out/manifest.csv", choice=choice)
        assert done.manifest is not None
        rows = [row for row in rows_of(read_all(done.manifest)) if (row["image"] or "").endswith(name)]
        return [row.get("frame") for row in rows]

    assert frames("cine", Choice()) == [None]
    assert frames("cine", Choice(frames="all")) == [str(at) for at in range(9)]
    assert frames("cine", Choice(frames="4")) == ["1", "5"]
    assert frames("T1w.nii.gz", Choice(frames="2")) == ["0", "2"]
    chosen = scan(tree, tmp_path / "out/manifest.csv", choice=Choice(slices="middle"))
    assert [name for name in rows_by_image(chosen) if Path(name).name in "abc"] == ["../tree/pacs/c"]
    assert left_out(chosen)["pacs/a"]["reason"].endswith("(--slices)")
    assert sum(chosen.summary["files"].values()) == 15


def test_a_second_scan_reads_no_file_again(tree: Path, tmp_path: Path):
    out = tmp_path / "out/manifest.csv"
    first = scan(tree, out)
    before = out.read_bytes()
    for path in tree.rglob("*"):  # other bytes of the same size and time would show it
        if path.is_file():
            facts = path.stat()
            path.write_bytes(b"\0" * facts.st_size)
            os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    second = scan(tree, out)
    assert (first.summary["reading"], second.summary["reading"]) == ({"read": 15, "known": 0}, {"read": 0, "known": 15})
    assert out.read_bytes() == before
    again = scan(tree, out, again=True)
    assert again.summary["reading"] == {"read": 15, "known": 0}
    assert (again.manifest, again.summary["rows"]) == (None, 0)


def test_only_new_and_changed_files_are_read(tree: Path, tmp_path: Path):
    out = tmp_path / "out/manifest.csv"
    scan(tree, out)
    picture(tree / "new.png")
    picture(tree / "loose.png", (30, 30))
    (tree / "pacs/dose").unlink()
    done = scan(tree, out)
    assert done.summary["reading"] == {"read": 2, "known": 13}
    assert rows_by_image(done)["../tree/loose.png"]["width"] == "30"


def test_a_scan_of_headers_is_read_again_when_pixels_are_wanted_and_not_the_reverse(tree: Path, tmp_path: Path):
    out = tmp_path / "out/manifest.csv"
    quick = scan(tree, out, pixels=False)
    assert {row["sha"] for row in rows_by_image(quick).values()} == {None}
    assert scan(tree, out).summary["reading"]["read"] == 15
    assert scan(tree, out, pixels=False).summary["reading"]["read"] == 0


class StoppedError(Exception):
    """A kill, as far as the scan can see."""


def test_a_stopped_scan_goes_on_and_ends_the_same(tree: Path, tmp_path: Path):
    whole = scan(tree, tmp_path / "out/manifest.csv").manifest
    out = tmp_path / "out/other.csv"

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise StoppedError

    with pytest.raises(StoppedError):
        scan(tree, out, tell=stop)
    kept = out.with_name("other.csv.scan.jsonl")
    kept.write_bytes(kept.read_bytes()[:-9])  # the last line is cut off, as a kill may do
    done = scan(tree, out)
    assert done.summary["reading"] == {"read": 9, "known": 6}
    assert whole is not None
    assert out.read_bytes() == whole.read_bytes()
    assert scan(tree, out).summary["reading"]["read"] == 0


def test_a_killed_scan_goes_on_and_leaves_no_process_behind(tree: Path, tmp_path: Path):
    whole = scan(tree, tmp_path / "out/manifest.csv").manifest
    out, pids = tmp_path / "out/other.csv", tmp_path / "pids"
    program = (
        "from crashing import waiting; from medmoe.data.curation.scan import scan; "
        f"scan({str(tree)!r}, {str(out)!r}, workers=2, reader=waiting)"
    )
    places = [str(Path(__file__).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "WAITING": str(pids)}
    killed = subprocess.Popen([sys.executable, "-c", program], env=environment)
    while not pids.exists():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    started = [int(line) for line in pids.read_text().splitlines()]
    for pid in started:
        for _ in range(200):
            if not Path(f"/proc/{pid}/status").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"process {pid} is still there")
    assert scan(tree, out).manifest == out
    assert whole is not None
    assert out.read_bytes() == whole.read_bytes()


def test_a_file_that_crashes_its_process_is_left_out_and_the_others_are_read(tree: Path, tmp_path: Path):
    picture(tree / "crash.png")
    done = scan(tree, tmp_path / "out/manifest.csv", workers=2, reader=crashing)
    one = scan(tree, tmp_path / "out/one.csv")
    assert left_out(done)["crash.png"]["kind"] == "unreadable"
    assert "crashed" in left_out(done)["crash.png"]["reason"]
    assert rows_by_image(done).keys() == rows_by_image(one).keys() - {"../tree/crash.png"}


def test_damaged_files_are_listed_with_their_reason_and_stop_nothing(tmp_path: Path):
    root = tmp_path / "tree"
    picture(root / "good.png")
    truncate(picture(root / "cut.jpg", (300, 300)))
    (root / "empty.dcm").write_bytes(b"")
    (root / "named.png").write_text("not a picture")
    (root / "bad.json").write_text("{")
    dicom(root / "short.dcm", Modality="MR", Rows=999)
    volume(root / "four.nii", (4, 4, 4, 3))
    packed = gzip.compress((root / "four.nii").read_bytes())
    (root / "cut.nii.gz").write_bytes(packed[: len(packed) // 2])
    done = scan(root, tmp_path / "manifest.csv")
    listed = left_out(done)
    assert list(rows_by_image(done)) == ["tree/good.png"]
    assert listed.keys() == {"cut.jpg", "empty.dcm", "named.png", "bad.json", "short.dcm", "four.nii", "cut.nii.gz"}
    assert {name for name, row in listed.items() if row["kind"] == "unreadable"} == listed.keys() - {"bad.json"}
    assert listed["empty.dcm"]["reason"] == "the file is empty"
    assert "4-D" in listed["four.nii"]["reason"]
    assert listed["short.dcm"]["modality_code"] == "MR"
    assert str(tmp_path) not in done.quarantine.read_text()


@pytest.mark.parametrize("name", ["a.dcm", "b", "c.nii", "d.nii.gz", "e.png", "f.jpg"])
def test_no_damage_stops_a_scan(tmp_path: Path, name: str):
    path = tmp_path / name
    if name in ("a.dcm", "b"):
        dicom(
            path,
            Modality="CT",
            PatientID="1",
            ImagePositionPatient=[0, 0, 1],
            StudyDate="20200101",
            PixelSpacing=[1, 1],
        )
    elif name.startswith(("c", "d")):
        volume(path, (5, 4, 3))
    else:
        picture(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for at in rng.integers(0, len(damaged), rng.integers(1, 9)):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        for pixels in (True, False):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                record = read_record(str(path), pixels=pixels)
            assert record.is_image or record.reason
            again = Record.from_dict(json.loads(json.dumps(record.as_dict())))
            assert json.dumps(again.as_dict()) == json.dumps(record.as_dict())
            assert again.header == record.header


def test_weird_names_are_read_or_listed(tmp_path: Path):
    root = tmp_path / "tree"
    good = ["a #1.png", "ü, ö;.png", "-o.png", "x" * 200 + ".png", "%41\n.png", "NO_ENDING"]
    for name in good:
        picture(root / "a.png").rename(root / name)
    picture(root / "a.png").rename(root / " blank.png")
    odd = os.fsencode(root) + b"/\xff.png"
    os.rename(picture(root / "a.png"), odd)  # noqa: PTH104 - a name that is no text
    done = scan(root, tmp_path / "manifest.parquet")
    assert set(rows_by_image(done)) == {f"tree/{name}" for name in good}
    assert {row["reason"].split(";")[0] for row in left_out(done).values()} == {
        "its name begins or ends with a blank",
        "its name isn't UTF-8 text",
    }
    assert done.manifest is not None
    assert len(ManifestSource(done.manifest)) == len(good)


def test_circles_of_links_end_and_folders_that_cant_be_read_are_told(tmp_path: Path):
    root = tmp_path / "tree"
    picture(root / "a/1.png")
    picture(tmp_path / "elsewhere/2.png")
    (root / "a/up").symlink_to(root, target_is_directory=True)
    (root / "far").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "gone").symlink_to(tmp_path / "none")
    found = {one.path: one.trouble for one in walk(str(root))}
    assert found["a/1.png"] is found["far/2.png"] is None
    assert "already" in (found["a/up"] or "")
    assert "can't be read" in (found["gone"] or "")
    os.mkfifo(root / "pipe")
    done = scan(root, tmp_path / "manifest.csv")
    assert left_out(done).keys() == {"a/up", "gone", "pipe"}
    if os.geteuid() != 0:  # the superuser may read all
        (root / "a").chmod(0)
        assert "the folder can't be read" in left_out(scan(root, tmp_path / "manifest.csv"))["a"]["reason"]
        (root / "a").chmod(0o755)


def test_a_dicom_file_needs_neither_ending_nor_a_good_name(tmp_path: Path):
    dicom(tmp_path / "tree/IM.0001", Modality="MR")
    dicom(tmp_path / "tree/wrong.txt", Modality="MR")
    rows = rows_by_image(scan(tmp_path / "tree", tmp_path / "manifest.csv"))
    assert [row["modality"] for row in rows.values()] == ["mri", "mri"]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/ct/7.jpg", "masks/ct/7.png"),
        ("ct/images/7.jpg", "ct/masks/7.png"),
        ("benign (1).png", "benign (1)_mask.png"),
        ("x/7.png", "x/7_segmentation.png"),
        ("img/7.png", "Ground Truth/7.png"),
        ("images/kvasir-seg-0001.jpg", "masks/kvasir-seg-0001.png"),
        ("DRIVE/images/21_training.tif", "DRIVE/1st_manual/21_training.tif"),
    ],
)
def test_masks_are_told_from_images_by_their_place_or_name(image: str, mask: str):
    assert mask_paths([image, mask, "other/1.png"]) == {mask: image}


def test_a_mask_without_its_image_stays_one_where_its_neighbours_have_theirs():
    paths = ["images/1.png", "images/2.png", "masks/1.png", "masks/2.png", "masks/3.png", "labels/9.png"]
    assert mask_paths(paths) == {"masks/1.png": "images/1.png", "masks/2.png": "images/2.png", "masks/3.png": None}


def test_words_of_masks_in_the_middle_of_a_name_are_those_of_a_data_set():
    assert mask_paths(["kvasir-seg-0001.jpg", "mask-7.png", "segments/1.png", "gt-3.png"]) == {}
    assert mask_paths(["labels/1.png", "labels/2.png"]) == {}


def test_a_name_that_two_images_share_links_neither():
    assert mask_paths(["a/images/7.png", "a/7.png", "a/masks/7.png"]) == {"a/masks/7.png": None}


def test_masks_of_another_size_and_second_ones_are_not_linked(tmp_path: Path):
    root = tmp_path / "tree"
    for name, size in (
        ("1.png", (9, 9)),
        ("1_mask.png", (9, 9)),
        ("1_mask_1.png", (9, 9)),
        ("2.png", (9, 9)),
        ("2_mask.png", (8, 9)),
    ):
        picture(root / name, size)
    done = scan(root, tmp_path / "manifest.csv")
    rows = rows_by_image(done)
    assert rows.keys() == {"tree/1.png", "tree/2.png"}
    assert (rows["tree/1.png"]["mask"], rows["tree/2.png"]["mask"]) == ("tree/1_mask.png", None)
    assert "another size" in left_out(done)["2_mask.png"]["reason"]
    assert "a further mask" in left_out(done)["1_mask_1.png"]["reason"]


def test_reports_are_found_where_people_put_them(tmp_path: Path):
    root = tmp_path / "tree"
    for name in ("own/1.png", "own/2.jpg", "p1/s50/a.png", "q/study/b.png", "none/c.png"):
        picture(root / name)
    (root / "own/1.txt").write_text("By name.")
    (root / "own/2.json").write_text(json.dumps({"Findings": "Found.", "impression": "Good.", "age": 3}))
    (root / "p1/s50.txt").write_text("Of the folder.")
    (root / "q/report.txt").write_text("Of the study.")
    (root / "none/README.txt").write_text("Nothing.")
    rows = rows_by_image(scan(root, tmp_path / "manifest.csv"))
    assert {image: row["text"] for image, row in rows.items()} == {
        "tree/own/1.png": "By name.",
        "tree/own/2.jpg": "FINDINGS: Found.\nIMPRESSION: Good.",
        "tree/p1/s50/a.png": "Of the folder.",
        "tree/q/study/b.png": "Of the study.",
        "tree/none/c.png": None,
    }


def test_a_report_that_is_no_whole_text_is_written_as_far_as_it_is(tmp_path: Path):
    picture(tmp_path / "tree/1.png")
    (tmp_path / "tree/1.json").write_text('{"text": "half \\ud800 a letter"}')
    (row,) = rows_by_image(scan(tmp_path / "tree", tmp_path / "manifest.parquet")).values()
    assert row["text"] == "half ? a letter"


def test_a_file_that_no_scan_wrote_is_not_overwritten(tree: Path):
    before = (tree / "manifest.csv").read_bytes()
    with pytest.raises(DataError, match="no scan wrote it"):
        scan(tree, tree / "manifest.csv")
    assert (tree / "manifest.csv").read_bytes() == before


def test_a_scan_into_its_own_tree_doesnt_find_itself(tree: Path):
    first = scan(tree, tree / "new.csv")
    second = scan(tree, tree / "new.csv")
    assert first.summary["found"] == second.summary["found"] == 15


def test_the_command_prints_a_summary_and_writes_it(tree: Path, tmp_path: Path):
    out, counts = tmp_path / "out/manifest.csv", tmp_path / "counts.json"
    done = medmoe("data", "scan", tree, "--out", out, "--json", counts, "--source", "mine", "--workers", 2)
    assert done.code == 0, done
    assert "15 files: 15 read, 0 known from an earlier scan" in done.out
    assert "  ct: mine 3" in done.out
    assert "header-code" in done.out
    summary = json.loads(counts.read_text())
    assert summary["modalities"]["ct"] == {"mine": 3}
    assert summary["series"]["ordered_by"] == {"position": 1}
    serial = scan(tree, tmp_path / "out/serial.csv", choice=Choice(source="mine"))
    assert serial.manifest is not None
    assert serial.manifest.read_bytes() == out.read_bytes()


def test_mistakes_are_told_in_one_line(tmp_path: Path):
    (tmp_path / "tree").mkdir()
    assert "no such folder" in medmoe("data", "scan", tmp_path / "none").mistake
    assert "unknown kind of manifest" in medmoe("data", "scan", tmp_path / "tree", "--out", tmp_path / "a.xls").mistake
    assert "--frames: got 'some'" in medmoe("data", "scan", tmp_path / "tree", "--frames", "some").mistake
    assert "--slices: got '0'" in medmoe("data", "scan", tmp_path / "tree", "--slices", "0").mistake
    empty = medmoe("data", "scan", tmp_path / "tree", "--out", tmp_path / "new/manifest.csv")
    assert (empty.code, "no image found" in empty.out) == (0, True)


def test_a_real_corpus_is_found_and_named():
    """At least 98 in 100 of the images of a corpus get its manifest's modality; of its file names alone, too."""
    manifest = os.environ.get("MEDMOE_CORPUS")
    if not manifest:
        pytest.skip("MEDMOE_CORPUS doesn't name the manifest of a real corpus")
    folder = Path(manifest).parent
    rows = [row for row in rows_of(read_all(Path(manifest))) if row["image"]][::67]
    right: Counter[str] = Counter()
    for row in rows:
        record = read_record(str(folder / str(row["image"])))
        clues = clues_of(str(row["image"]), record, record.header, None)
        families = tuple(name for name in FAMILIES if name != DATASET)
        right["with"] += decide(clues).modality == row["modality"]
        right["without"] += decide(clues, families).modality == row["modality"]
    assert min(right.values()) >= 0.98 * len(rows)
