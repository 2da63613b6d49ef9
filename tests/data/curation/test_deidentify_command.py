"""`medmoe data deidentify`: folders and manifests copied without whom they are of, told file by file without a value."""

# ruff: noqa: E501 - rows of examples stay on one line
from __future__ import annotations

import csv
import io
import json
import stat
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from medmoe.data.curation.deidentify import LOG
from micro import medmoe, write_manifest

FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a folder of two patients' files whose names name them, with files that can't be cleaned."""
    folder = tmp_path / "pacs" / "Quill_Ottoline"
    folder.mkdir(parents=True)
    for number in range(2):
        ds = pydicom.dcmread(FILES / "CT_small.dcm")
        ds.PatientName, ds.PatientID, ds.InstanceNumber = "Quill^Ottoline", "ID7741", number
        ds.SOPInstanceUID = f"1.2.3.{number}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(folder / f"quill-{number}.dcm")
    exif = Image.Exif()
    exif[0x010E] = "Quill"
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / "quill.jpg", exif=exif)
    (folder / "quill.txt").write_text("Ottoline Quill is well.")
    (folder / "quill.pdf").write_bytes(b"%PDF Ottoline Quill")
    return tmp_path / "pacs"


def everything(folder: Path) -> bytes:
    """Give the names and bytes of all files of a folder, lower case."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"\n".join(str(path.relative_to(folder)).encode() + b"\n" + path.read_bytes() for path in found).lower()


def test_a_folder_is_copied_without_a_name_in_any_byte_or_file_name(tree: Path, tmp_path: Path):
    said = medmoe("data", "deidentify", tree, "--out", tmp_path / "out", "--key", tmp_path / "keys" / "key")
    assert said.code == 1, said
    assert "2 dicom written" in said.out
    assert "1 jpeg written" in said.out
    assert said.out.count("left out: Quill_Ottoline/quill.") == 2
    assert b"quill" not in everything(tmp_path / "out")
    assert b"7741" not in everything(tmp_path / "out").replace(b"\n", b"")
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 2
    assert len({path.parent for path in (tmp_path / "out").rglob("*.dcm")}) == 1
    rows = [json.loads(line) for line in (tmp_path / "out" / LOG).read_text().splitlines()]
    assert sorted(bool(row.get("file")) for row in rows[1:]) == [False, False, True, True, True]
    assert ["00100010", "PatientName", "Z", 1] in next(row["changes"] for row in rows[1:] if row.get("kind") == "dicom")


def test_the_map_of_files_lies_with_the_key_for_its_owner_alone(tree: Path, tmp_path: Path):
    medmoe("data", "deidentify", tree, "--out", tmp_path / "out", "--key", tmp_path / "key")
    listed = tmp_path / "key.out.jsonl"
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    assert stat.S_IMODE(listed.stat().st_mode) == 0o600
    assert {row["source"] for row in rows} >= {"Quill_Ottoline/quill-0.dcm", "Quill_Ottoline/quill.pdf"}
    for row in rows:
        assert (row["file"] is None) == (row["reason"] is not None)
        assert row["file"] is None or (tmp_path / "out" / row["file"]).is_file()


def test_the_same_key_gives_the_same_files_and_another_key_others(tree: Path, tmp_path: Path):
    for out, key in (("a", "key"), ("b", "key"), ("c", "another")):
        medmoe("data", "deidentify", tree, "--out", tmp_path / out, "--key", tmp_path / key)
    assert everything(tmp_path / "a") == everything(tmp_path / "b")
    names = [{path.name for path in (tmp_path / out).rglob("*.dcm")} for out in "ac"]
    assert not names[0] & names[1]


def test_two_processes_write_what_one_does(tree: Path, tmp_path: Path):
    for out, workers in (("a", 1), ("b", 2)):
        medmoe("data", "deidentify", tree, "--out", tmp_path / out, "--key", tmp_path / "key", "--workers", workers)
    assert everything(tmp_path / "a") == everything(tmp_path / "b")


def test_a_stopped_run_is_gone_on_with(tree: Path, tmp_path: Path):
    words = ("data", "deidentify", tree, "--key", tmp_path / "key", "--out")
    medmoe(*words, tmp_path / "whole")
    medmoe(*words, tmp_path / "out")
    log = tmp_path / "out" / LOG
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:2]) + lines[2][:30])  # stopped while it wrote
    next((tmp_path / "out").rglob("*.jpg")).unlink()
    assert "isn't an empty folder" in medmoe(*words, tmp_path / "out").mistake
    assert medmoe(*words, tmp_path / "out", "--resume").code == 1
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")
    other = medmoe(*words, tmp_path / "out", "--resume", "--dates", "shift").mistake
    assert "begun with another key or other options" in other


def test_a_manifest_is_copied_with_its_texts_cleaned(tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    ds = pydicom.dcmread(FILES / "CT_small.dcm")
    ds.PatientName, ds.PatientID = "Quill^Ottoline", "ID7741"
    ds.save_as(data / "quill.dcm")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(data / "quill.png")
    rows = [
        {"image": "quill.dcm", "text": "Ottoline Quill (ID7741), seen 3/14/2019 by Dr. Smith: 5 mm nodule.", "patient_id": "ID7741",
         "study_id": "S-7741", "modality": "ct", "split": "train", "note": "told Ottoline Quill", "ward": "7"},
        {"image": "quill.png", "text": "Quill: normal.", "patient_id": "ID7741", "study_id": "S-7741", "modality": "ct", "split": "train"},
    ]  # fmt: skip
    manifest = write_manifest(data, rows)
    out = tmp_path / "out"
    said = medmoe(
        "data",
        "deidentify",
        manifest,
        "--out",
        out,
        "--key",
        tmp_path / "key",
        "--text",
        "note",
        "--json",
        tmp_path / "j",
    )
    assert said.code == 0, said
    assert "columns left out: ward" in said.out
    assert b"quill" not in everything(out)
    assert b"7741" not in everything(out)
    with (out / "manifest.csv").open(newline="") as file:
        fresh = list(csv.DictReader(file))
    assert fresh[0]["text"] == "[NAME] ([ID]), seen [DATE] by Dr. [NAME]: 5 mm nodule."
    assert fresh[0]["note"] == "told [NAME]"
    assert fresh[1]["text"] == "[NAME]: normal."  # by the header of another file of the patient
    assert fresh[0]["patient_id"] == fresh[1]["patient_id"]
    assert fresh[0]["study_id"] == fresh[1]["study_id"]
    assert all((out / row["image"]).is_file() for row in fresh)
    assert pydicom.dcmread(out / fresh[0]["image"]).PatientID == fresh[0]["patient_id"]
    assert json.loads((tmp_path / "j").read_text())["dropped"] == ["ward"]


def test_what_a_scan_makes_of_folders_and_institutions_names_nobody(tree: Path, tmp_path: Path):
    ds = pydicom.dcmread(tree / "Quill_Ottoline" / "quill-0.dcm")
    ds.InstitutionName = "Vellichor Infirmary"
    ds.save_as(tree / "Quill_Ottoline" / "quill-0.dcm")
    (tree / "Quill_Ottoline" / "quill.txt").unlink()
    medmoe("data", "scan", tree, "--out", tree / "manifest.csv")
    words = ("data", "deidentify", tree / "manifest.csv", "--key", tmp_path / "key", "--out")
    assert medmoe(*words, tmp_path / "out").code == 0
    assert b"quill" not in everything(tmp_path / "out")
    assert b"vellichor" not in everything(tmp_path / "out")
    with (tmp_path / "out" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert not {row["source"] for row in rows} & {"Quill_Ottoline", tree.name}
    assert len({row["domain"] for row in rows if row["domain"]}) == 2
    medmoe(*words, tmp_path / "kept", "--keep-column", "source", "--keep", "institution")
    with (tmp_path / "kept" / "manifest.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if "Vellichor" in row["domain"])
    assert row["source"] == tree.name


def test_a_column_is_kept_where_asked_for_and_a_wrong_one_is_told(tmp_path: Path):
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "a.png")
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "a.png").replace(data / "a.png")
    manifest = write_manifest(data, [{"image": "a.png", "ward": "7"}])
    words = ("data", "deidentify", manifest, "--out")
    assert medmoe(*words, tmp_path / "o", "--keep-column", "ward").code == 0
    with (tmp_path / "o" / "manifest.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["ward"] == "7"
    assert "unknown column 'wrad' (did you mean 'ward'?)" in medmoe(*words, tmp_path / "p", "--text", "wrad").mistake
    assert not (tmp_path / "p").exists()


def test_a_path_that_leads_out_of_the_manifests_folder_names_nobody(tmp_path: Path):
    (tmp_path / "data").mkdir()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "quill.png")
    manifest = write_manifest(tmp_path / "data", [{"image": "../quill.png"}])
    assert medmoe("data", "deidentify", manifest, "--out", tmp_path / "out").code == 0
    assert b"quill" not in everything(tmp_path / "out")


def test_wrong_places_are_refused_before_anything_is_written(tree: Path, tmp_path: Path):
    inside = medmoe("data", "deidentify", tree, "--out", tree / "out", "--key", tmp_path / "key").mistake
    assert "the output and the source lie in each other" in inside
    around = medmoe("data", "deidentify", tree, "--out", tree.parent).mistake
    assert "the output and the source lie in each other" in around
    key = medmoe("data", "deidentify", tree, "--out", tmp_path / "o", "--key", tmp_path / "o" / "key").mistake
    assert key.startswith("--key: the key would lie in the output")
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--burned-in", "blot"), "--burned-in: unknown way with burned-in text 'blot'"),
        (("--keep", "sex"), "--keep: unknown thing to keep 'sex'"),
        (("--dates", "keep"), "--dates: unknown way with dates 'keep'"),
        (("--reports", "keep"), "--reports: unknown way with reports 'keep'"),
        (("--resume",), "--resume: a run without a key can't be gone on with"),
        (("--workers", "0"), "--workers: got 0"),
    ],
)
def test_a_wrong_option_is_told(tree: Path, tmp_path: Path, words: tuple[str, ...], told: str):
    assert medmoe("data", "deidentify", tree, "--out", tmp_path / "o", *words).mistake.startswith(told)
    assert not (tmp_path / "o").exists()


def test_a_source_that_is_none_is_told(tmp_path: Path):
    assert (
        "no such folder or manifest" in medmoe("data", "deidentify", tmp_path / "no", "--out", tmp_path / "o").mistake
    )
    (tmp_path / "e").mkdir()
    assert "no file in the folder" in medmoe("data", "deidentify", tmp_path / "e", "--out", tmp_path / "o").mistake
    (tmp_path / "e" / "f.txt").write_text("x")
    assert (
        "neither a folder nor a manifest"
        in medmoe("data", "deidentify", tmp_path / "e" / "f.txt", "--out", tmp_path / "o").mistake
    )


def test_text_in_a_picture_is_told_in_the_log_and_blanked_where_asked_for(tmp_path: Path):
    from PIL import ImageDraw, ImageFont

    (tmp_path / "in").mkdir()
    picture = Image.new("L", (160, 80), 40)
    ImageDraw.Draw(picture).text((10, 20), "DOE JANE 1957", fill=255, font=ImageFont.load_default(14))
    picture.save(tmp_path / "in" / "a.jpg", quality=95)
    said = medmoe("data", "deidentify", tmp_path / "in", "--out", tmp_path / "o")
    assert "1 with regions that look like burned-in text (see the log)" in said.out
    assert medmoe("data", "deidentify", tmp_path / "in", "--out", tmp_path / "r", "--burned-in", "refuse").code == 1
    assert medmoe("data", "deidentify", tmp_path / "in", "--out", tmp_path / "b", "--burned-in", "blank").code == 0
    fresh = np.asarray(Image.open(io.BytesIO(next((tmp_path / "b").rglob("*.png")).read_bytes())))
    assert fresh.max() < 60
