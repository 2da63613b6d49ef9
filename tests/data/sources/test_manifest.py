"""A manifest must give what its rows say, and refuse what can't be true in one line with file, row and remedy."""

from __future__ import annotations

import csv
import json
import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from medmoe.data.sources.base import ChangedSource, Source, facts_fingerprint, place_of, reduced
from medmoe.data.sources.cells import parse_labels
from medmoe.data.sources.concat import ConcatSource
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.phantom import PhantomSource
from medmoe.data.sources.rows import Rows
from medmoe.errors import DataError
from medmoe.tasks.features import of_samples
from medmoe.types import Box

BOXES = json.dumps([{"label": "mass", "xyxy": [2, 1, 4, 4], "phrase": "a mass"}])
ROWS = [
    {"image": "a.png", "text": 'One, "two"\nthree.', "modality": "CXR", "label": "mass;edema", "patient_id": "007",
     "study_id": "s1", "view": "PA", "offset_days": "1.5", "mask": "mask.png", "boxes": BOXES, "split": "train",
     "source": "here", "license": "CC0-1.0", "gaze": "gaze.png", "prior": "b.png", "question": "What?",
     "answer": "This.", "domain": "site 1"},
    {"image": "b.png", "text": "NA", "modality": "xray", "label": "no_finding", "patient_id": "007",
     "offset_days": "nan", "boxes": "[]", "split": "train"},
    {"image": "c.jpg", "modality": "ct", "label": "mass", "patient_id": "8", "split": "test", "body_part": "chest"},
    {"image": "c.jpg", "text": "   ", "patient_id": "9"},
]  # fmt: skip
GREY = np.arange(32, dtype=np.uint8).reshape(4, 8)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "mask.png", "gaze.png"):
        Image.fromarray(GREY).save(tmp_path / name)
    Image.fromarray(np.dstack([GREY, GREY.T.reshape(4, 8), GREY])).save(tmp_path / "c.jpg")
    return tmp_path


def write(folder: Path, rows: list[dict[str, object]], kind: str = "csv") -> Path:
    path = folder / f"manifest.{kind}"
    names = list(dict.fromkeys(name for row in rows for name in row))
    if kind == "parquet":
        pa.parquet.write_table(pa.table({n: pa.array([row.get(n) for row in rows]) for n in names}), path)
    elif kind == "jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    return path


def message(call: object) -> str:
    """Give the one line of the error that a call raises."""
    with pytest.raises(DataError) as caught:
        call()  # type: ignore[operator]
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.remedy
    return text


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_every_column_arrives(folder, kind):
    source = ManifestSource(write(folder, ROWS, kind))
    assert isinstance(source, Source)
    first = source[0]
    np.testing.assert_array_equal(first.image, GREY)
    np.testing.assert_array_equal(first.mask, GREY > 0)
    np.testing.assert_allclose(first.gaze, GREY / 255.0, atol=1e-6)
    assert first.key == f"manifest.{kind}:1"
    assert first.report == 'One, "two"\nthree.'
    assert (first.modality, first.labels) == ("xray", ("mass", "edema"))
    assert first.boxes == (Box("mass", 0.25, 0.25, 0.5, 1.0, "a mass"),)
    assert (first.patient, first.study, first.view, first.offset_days) == ("007", "s1", "PA", 1.5)
    assert (first.source, first.domain, first.question, first.answer) == ("here", "site 1", "What?", "This.")
    assert first.prior == f"manifest.{kind}:2"
    assert not first.from_template


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_what_is_absent_is_none_and_none_found_is_empty(folder, kind):
    source = ManifestSource(write(folder, ROWS, kind), report_templates=False)
    second, last = source[1], source[3]
    assert (second.report, second.labels, second.boxes, second.offset_days) == ("NA", (), (), None)
    assert (last.report, last.labels, last.boxes, last.mask, last.modality, last.prior) == (None,) * 6


def test_facts_are_the_sample_without_pixels(folder):
    source = ManifestSource(write(folder, ROWS))
    for index in range(len(source)):
        facts, sample = source.facts(index), source[index]
        assert facts.image.shape == (0, 0)
        assert facts.mask is None
        assert facts.gaze is None
        for name in ("key", "report", "modality", "labels", "boxes", "prior", "patient", "from_template"):
            assert getattr(facts, name) == getattr(sample, name)


def test_facts_take_the_size_from_the_columns_where_they_are(folder):
    row = {"image": "a.png", "boxes": BOXES, "width": 16, "height": 8}
    source = ManifestSource(write(folder, [row]))
    assert source.facts(0).boxes == (Box("mass", 0.125, 0.125, 0.25, 0.5, "a mass"),)
    assert "manifest.csv:1: the columns width and height say 16x8, the image has 8x4 pixels" in message(
        lambda: source[0]
    )


def test_boxes_are_placed_in_the_upright_image(folder):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GREY).save(folder / "a.png", exif=exif)
    source = ManifestSource(write(folder, [{"image": "a.png", "boxes": BOXES}]))
    assert source[0].image.shape == (8, 4)
    assert source[0].boxes == source.facts(0).boxes == (Box("mass", 0.5, 0.125, 1.0, 0.5, "a mass"),)


def test_json_lists_do_for_labels_and_boxes(folder):
    row = {"image": "a.png", "label": ["mass", "edema"], "boxes": json.loads(BOXES), "offset_days": 3, "patient_id": 12}
    for kind in ("jsonl", "parquet"):
        sample = ManifestSource(write(folder, [row], kind))[0]
        assert (sample.labels, sample.offset_days, sample.patient) == (("mass", "edema"), 3.0, "12")
        assert sample.boxes == (Box("mass", 0.25, 0.25, 0.5, 1.0, "a mass"),)


def test_a_split_is_chosen_and_rows_keep_their_numbers(folder):
    path = write(folder, ROWS)
    assert [ManifestSource(path, split="test").facts(i).key for i in range(1)] == ["manifest.csv:3"]
    assert len(ManifestSource(path, split="train")) == 2
    assert len(ManifestSource(path)) == 4
    assert ManifestSource(path).splits == {"test": 1, "train": 2}


def test_a_folder_means_the_manifest_in_it(folder):
    write(folder, ROWS[:1])
    assert len(ManifestSource(folder)) == 1
    write(folder, ROWS[:2], "parquet")
    assert len(ManifestSource(folder)) == 2
    (folder / "empty").mkdir()
    assert "has none of manifest.parquet" in message(lambda: ManifestSource(folder / "empty"))


def test_columns_can_be_mapped(folder):
    path = write(folder, [{"file": "a.png", "caption": "Words.", "text": "Not these."}])
    assert ManifestSource(path, columns={"image": "file", "text": "caption"})[0].report == "Words."


def test_labels_without_text_become_marked_reports_unless_turned_off(folder):
    path = write(folder, ROWS)
    sample = ManifestSource(path).facts(2)
    assert sample.from_template
    assert "mass" in sample.report.lower()
    assert "ct scan of the chest" in sample.report.lower()
    assert ManifestSource(path, split="test").facts(0).report == sample.report
    off = ManifestSource(path, report_templates=False).facts(2)
    assert (off.report, off.from_template) == (None, False)


def test_parquet_dictionaries_and_empty_columns_are_read(folder):
    table = pa.table(
        {
            "image": pa.array(["a.png", "b.png"]).dictionary_encode(),
            "text": pa.nulls(2),
            "label": pa.array(["mass", ""], pa.string()),
        }
    )
    pa.parquet.write_table(table, folder / "manifest.parquet")
    source = ManifestSource(folder, report_templates=False)
    assert [source.facts(i).labels for i in range(2)] == [("mass",), None]


def test_a_byte_order_mark_is_no_part_of_a_name(folder):
    path = folder / "manifest.csv"
    path.write_text("image,text\na.png,Words.\n", encoding="utf-8-sig")
    assert ManifestSource(path)[0].report == "Words."
    (folder / "manifest.jsonl").write_text('{"image": "a.png"}', encoding="utf-8-sig")
    assert len(ManifestSource(folder / "manifest.jsonl")) == 1


def test_indices_count_from_the_end_and_stop(folder):
    source = ManifestSource(write(folder, ROWS))
    assert source[-1].key == "manifest.csv:4"
    with pytest.raises(IndexError):
        source[4]


def test_a_missing_manifest_is_told(folder):
    assert "none.csv: no such manifest; check the path" in message(lambda: ManifestSource(folder / "none.csv"))


def test_an_unknown_or_broken_file_is_told(folder):
    (folder / "a.xlsx").touch()
    assert "unknown kind of manifest '.xlsx'; allowed: .parquet" in message(lambda: ManifestSource(folder / "a.xlsx"))
    (folder / "a.parquet").write_text("no table")
    assert "a.parquet: the manifest can't be read as parquet" in message(lambda: ManifestSource(folder / "a.parquet"))
    (folder / "a.csv").write_bytes("image,text\na.png,größer\n".encode("latin-1"))
    assert "UTF" in message(lambda: ManifestSource(folder / "a.csv"))
    (folder / "a.jsonl").write_bytes('{"image": "größer"}'.encode("latin-1"))
    assert "isn't UTF-8" in message(lambda: ManifestSource(folder / "a.jsonl"))
    (folder / "b.jsonl").write_text('{"image": "a.png"}\n{broken')
    assert "b.jsonl:2: not valid JSON" in message(lambda: ManifestSource(folder / "b.jsonl"))
    (folder / "c.jsonl").write_text("[1]")
    assert "c.jsonl:1: a JSON list where an object" in message(lambda: ManifestSource(folder / "c.jsonl"))


@pytest.mark.parametrize("text", ["image,text\n", "image,text"])
def test_a_manifest_without_rows_is_told(folder, text):
    (folder / "a.csv").write_text(text)
    assert "the manifest has no rows" in message(lambda: ManifestSource(folder / "a.csv"))


def test_a_csv_row_with_too_many_values_is_named_and_not_quoted(folder):
    (folder / "a.csv").write_text('image,text\na.png,"one\ntwo"\nb.png,Secret, words\n')
    told = message(lambda: ManifestSource(folder / "a.csv"))
    assert "a.csv:2: 3 values where the header has 2 columns; put quotes around" in told
    assert "Secret" not in told


def test_a_missing_image_column_lists_what_is_there(folder):
    told = message(lambda: ManifestSource(write(folder, [{"images": "a.png", "caption": "x"}])))
    assert "no column 'image'" in told
    assert "did you mean 'images'?" in told
    assert "the file has: caption, images" in told
    assert "image=" in told


def test_a_mapped_column_that_is_not_there_is_told(folder):
    path = write(folder, ROWS)
    told = message(lambda: ManifestSource(path, columns={"patient_id": "patient_idd"}))
    assert "unknown column 'patient_idd' (did you mean 'patient_id'?)" in told
    assert "manifest column 'pateint'" in message(lambda: ManifestSource(path, columns={"pateint": "patient_id"}))


def test_a_column_that_is_there_twice_is_told(folder):
    (folder / "a.csv").write_text("image,text,text\na.png,x,y\n")
    assert "the column 'text' is there twice" in message(lambda: ManifestSource(folder / "a.csv"))
    (folder / "b.csv").write_text("image,other,other\na.png,x,y\n")
    assert len(ManifestSource(folder / "b.csv")) == 1


@pytest.mark.parametrize("column", ["image", "mask", "gaze"])
def test_missing_files_are_found_when_the_manifest_is_opened(folder, column):
    rows = [{"image": "a.png"}, {"image": "b.png", column: "gone.png"}, {"image": "b.png", column: "too.png"}]
    path = write(folder, rows)
    told = message(lambda: ManifestSource(path))
    assert f"manifest.csv:2: the {column} file 'gone.png' (and of 1 more rows) does not exist" in told
    later = ManifestSource(path, check_files=False)
    assert later[0].key == "manifest.csv:1"
    assert f"manifest.csv:2: {column} gone.png: no such image file" in message(lambda: later[1])


def test_a_truncated_image_is_told_with_its_row(folder):
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:50])
    source = ManifestSource(write(folder, ROWS))
    assert "manifest.csv:2: image b.png: the image is truncated or damaged" in message(lambda: source[1])


def test_an_empty_image_cell_is_told(folder):
    told = message(lambda: ManifestSource(write(folder, [{"image": "a.png", "text": "x"}, {"image": "", "text": "y"}])))
    assert "manifest.csv:2: the image path is empty" in told


def test_an_unknown_modality_is_told_with_its_row(folder):
    path = write(folder, [{"image": "a.png", "modality": "CT"}, {"image": "b.png", "modality": "xrey"}])
    assert "manifest.csv:2: unknown modality 'xrey' (did you mean 'xray'?)" in message(lambda: ManifestSource(path))


def test_a_patient_in_two_splits_is_told_by_rows_and_not_by_name(folder):
    rows = [
        {"image": "a.png", "patient_id": "Ann", "split": "train"},
        {"image": "a.png", "patient_id": "Bob"},
        {"image": "a.png", "patient_id": "Bob", "split": "train"},
        {"image": "a.png", "patient_id": "Bob", "split": "test"},
        {"image": "a.png", "patient_id": "", "split": "test"},
    ]
    told = message(lambda: ManifestSource(write(folder, rows), split="train"))
    assert "manifest.csv:4: the patient of row 4 (split 'test') is also in row 3 (split 'train'); put all" in told
    assert "Bob" not in told
    rows.append({"image": "a.png", "patient_id": "Ann", "split": "val"})
    assert "(2 such patients)" in message(lambda: ManifestSource(write(folder, rows)))
    assert len(ManifestSource(write(folder, rows[:3] + rows[4:5]))) == 4


def test_the_same_id_in_two_data_sets_is_two_patients(folder):
    rows = [
        {"image": "a.png", "patient_id": "1", "split": "train", "source": "here"},
        {"image": "b.png", "patient_id": "1", "split": "test", "source": "there"},
        {"image": "b.png", "patient_id": "1", "split": "val"},
    ]
    assert len(ManifestSource(write(folder, rows))) == 3
    rows.append({"image": "a.png", "patient_id": "1", "split": "val", "source": "there"})
    told = message(lambda: ManifestSource(write(folder, rows)))
    assert "the patient of row 4 (split 'val') is also in row 2 (split 'test'); put" in told


def test_an_unknown_split_lists_those_there_are(folder):
    told = message(lambda: ManifestSource(write(folder, ROWS), split="valid"))
    assert "no split 'valid'; the manifest has: test (1 rows), train (2 rows)" in told
    path = write(folder, [{"image": "a.png"}])
    assert "the manifest has: none; fill in a column 'split'" in message(lambda: ManifestSource(path, split="train"))


def test_a_manifest_without_splits_gives_all_rows_only_when_asked_to(folder):
    assert len(ManifestSource(write(folder, [{"image": "a.png"}]), split="train", fallback=True)) == 1
    assert "no split 'val'" in message(lambda: ManifestSource(write(folder, ROWS), split="val", fallback=True))


def test_an_empty_report_is_told_where_one_is_required(folder):
    path = write(folder, ROWS)
    told = message(lambda: ManifestSource(path, require_report=True))
    assert "manifest.csv:4: the report is empty; write it in the column 'text'" in told
    told = message(lambda: ManifestSource(path, require_report=True, report_templates=False))
    assert "manifest.csv:3: the report (and of 1 more rows) is empty" in told
    assert len(ManifestSource(path, require_report=True, split="train")) == 2
    assert "the report is empty" in message(
        lambda: ManifestSource(write(folder, [{"image": "a.png"}]), require_report=True)
    )


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ("[{", "boxes are not valid JSON"),
        ('{"label": "a"}', "boxes are a JSON dict, not a list"),
        ("[3]", "box 1 has no label"),
        ('[{"xyxy": [0, 0, 1, 1]}]', "box 1 has no label"),
        ('[{"label": "a", "xyxy": [0, 0, 1, 1], "phrase": 3}]', "a phrase that isn't text"),
        ('[{"label": "a", "xyxy": [0, 0, 1]}]', "not four numbers"),
        ('[{"label": "a", "xyxy": [0, 0, 1, true]}]', "not four numbers"),
        ('[{"label": "a", "xyxy": [0, 0, 1, NaN]}]', "not four numbers"),
        ('[{"label": "a", "xyxy": [0, 0, 1, 1]}, {"label": "a", "xyxy": [3, 0, 1, 1]}]', "box 2 has xyxy [3, 0, 1, 1]"),
    ],
)
def test_bad_boxes_are_told_with_their_row(folder, boxes, words):
    source = ManifestSource(write(folder, [{"image": "a.png", "boxes": boxes}]))
    told = message(lambda: source.facts(0))
    assert "manifest.csv:1: box" in told
    assert words in told


def test_boxes_just_over_the_edge_are_cut_off(folder):
    row = {"image": "a.png", "boxes": '[{"label": "a", "xyxy": [-0.1, 1, 8.1, 4]}]'}
    assert ManifestSource(write(folder, [row]))[0].boxes == (Box("a", 0.0, 0.25, 1.0, 1.0),)


def test_boxes_of_another_frame_are_left_out_and_logged_once(folder, caplog):
    row = {"image": "a.png", "boxes": '[{"label": "a", "xyxy": [0, 0, 90, 90]}]'}
    source = ManifestSource(write(folder, [row, row]))
    with caplog.at_level(logging.INFO):
        assert [source.facts(i).boxes for i in (0, 1, 0, 1)] == [None] * 4
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "manifest.csv:1: boxes reach beyond the 8x4 pixels" in caplog.records[0].getMessage()


@pytest.mark.parametrize("value", ["soon", "inf"])
def test_a_day_that_is_no_number_is_told(folder, value):
    source = ManifestSource(write(folder, [{"image": "a.png", "offset_days": value}]))
    assert f"manifest.csv:1: offset_days '{value}' is not a number" in message(lambda: source.facts(0))


@pytest.mark.parametrize(("column", "words"), [("mask", "the mask has 8x4 pixels"), ("gaze", "the gaze map has 8x4")])
def test_masks_and_gaze_maps_must_fit_the_image(folder, column, words):
    Image.fromarray(GREY.T.copy()).save(folder / "tall.png")
    source = ManifestSource(write(folder, [{"image": "tall.png", column: f"{column}.png"}]))
    told = message(lambda: source[0])
    assert f"{words}" in told
    assert "the image 4x8" in told


def test_a_prior_that_is_no_image_is_told(folder):
    source = ManifestSource(write(folder, [{"image": "a.png", "prior": "gone.png"}]))
    assert "manifest.csv:1: the prior 'gone.png' is no image of this manifest" in message(lambda: source.facts(0))


def test_labels_are_split_trimmed_and_kept_once():
    assert parse_labels(" a ;b;;a") == ("a", "b")
    assert parse_labels("normal") == ("normal",)
    assert parse_labels("No Finding") == ()
    assert parse_labels("no_finding;a") == ("no_finding", "a")
    assert parse_labels(";") is None


def test_a_real_corpus_opens_and_reads():
    path = os.environ.get("MEDMOE_CORPUS")
    if path is None:
        pytest.skip("MEDMOE_CORPUS doesn't name the manifest of a real corpus")
    source = ManifestSource(path)
    for index in range(0, len(source), max(1, len(source) // 20)):
        assert min(source[index].image.shape[:2]) > 0


def test_a_reduced_source_reads_jpegs_smaller_unless_boxes_or_maps_need_their_pixels(tmp_path):
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 64, 3), np.uint8))
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.png"):
        whole.save(tmp_path / name)
    whole.convert("L").save(tmp_path / "mask.png")
    boxes = json.dumps([{"label": "mass", "xyxy": [0, 0, 32, 48]}])
    rows = [{"image": name} for name in ("a.jpg", "b.jpg", "c.jpg", "d.png")]
    rows[1]["boxes"], rows[2]["mask"] = boxes, "mask.png"
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = ManifestSource(tmp_path)
    small = reduced(source, 40)
    assert [small[index].image.shape[:2] for index in range(4)] == [(48, 32), (96, 64), (96, 64), (96, 64)]
    assert [source[index].image.shape[:2] for index in range(4)] == [(96, 64)] * 4
    assert small[1].boxes == source[1].boxes
    assert small.facts(1).boxes == source.facts(1).boxes
    assert reduced(ManifestSource(tmp_path, maps=False), 40)[2].image.shape == (48, 32, 3)
    several = reduced(Rows(ConcatSource([source, source]), [4, 1]), 40)
    assert [several[index].image.shape[:2] for index in range(2)] == [(48, 32), (96, 64)]


def test_two_slices_of_a_volume_are_two_images(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"volume")
    (tmp_path / "manifest.csv").write_text("image,frame,plane\na.nii,1,\na.nii,2,\na.nii,1,axial\na.nii,1,\na.nii,,\n")
    source = ManifestSource(tmp_path)
    told = [source.content(index) for index in range(5)]
    assert told[0] == told[3]
    assert len(set(told)) == 4
    assert {source.file(index) for index in range(5)} == {told[4]}
    shuffled = ChangedSource(Rows(ConcatSource([source, source]), [6, 4, 2]), lambda index, sample: sample)
    assert [place_of(shuffled, index) for index in range(3)] == [" frame 2 plane None", "", " frame 1 plane axial"]


def test_data_of_other_slices_have_another_fingerprint(tmp_path):
    prints = []
    for frame in (1, 2):
        (tmp_path / "manifest.csv").write_text(
            "image,frame\n" + "a.nii,3\n" * 20 + f"a.nii,{frame}\n" + "a.nii,3\n" * 20
        )
        source = ManifestSource(tmp_path, check_files=False)
        prints.append((of_samples(source), facts_fingerprint(source)))
    assert prints[0][0] != prints[1][0]
    assert prints[0][1] != prints[1][1]


def test_a_source_that_cannot_reduce_is_given_as_it_is():
    phantoms = PhantomSource(1, size=32)
    assert reduced(phantoms, 8) is phantoms
