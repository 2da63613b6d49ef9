from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_sets import image, table, write

from medmoe.benchmarks import SETS, load_set
from medmoe.benchmarks.layouts import Arrays, Row, read_rows
from medmoe.benchmarks.source import find_set, open_set, source_of
from medmoe.benchmarks.spec import parse_set
from medmoe.errors import DataError


def opened(name: str, root: Path):
    spec = load_set(name)
    folder = find_set(spec, root, spec.split())
    assert folder is not None
    return spec, open_set(spec, folder, spec.split())


@pytest.mark.parametrize("name", SETS)
def test_a_fixture_in_the_exact_layout_is_read(name: str, tmp_path: Path):
    write(name, tmp_path, each=2)
    spec, found = opened(name, tmp_path)
    assert [row.labels for row in found.rows].count((spec.labels[0],)) == 2
    assert {label for row in found.rows for label in row.labels} == set(spec.labels)
    assert len(found.rows) == 2 * len(spec.labels)
    source = source_of(spec, found.rows, modality=spec.modality)
    sample = source[len(source) - 1]
    assert sample.image.shape == (20, 24)
    names = {one.label: one.name for one in spec.classes}
    assert sample.labels == (names[found.rows[-1].labels[0]],)
    assert sample.key == f"{name}:{len(source)}"
    assert source.facts(0).image.size == 0
    assert source.facts(0).modality == spec.modality
    assert [one for one in found.warnings if one.endswith("not comparable as it is")] or spec.splits[0].n is None


@pytest.mark.parametrize(("name", "patients"), [("chexpert_5x200", 5), ("acl_mri", 2), ("thyroid_us", 2), ("bach", 0)])
def test_images_of_one_examination_are_known_as_such(name: str, patients: int, tmp_path: Path):
    write(name, tmp_path, each=2)
    _, found = opened(name, tmp_path)
    assert len({row.patient for row in found.rows} - {None}) == patients


def test_several_sets_may_lie_in_the_folder_of_the_published_archive(tmp_path: Path):
    write("lc25000_lung", tmp_path).rename(tmp_path / "LC25000_test")
    spec = load_set("lc25000_lung")
    assert find_set(spec, tmp_path, spec.split()) == tmp_path / "LC25000_test"
    fives = write("fives", tmp_path)
    for path in list(fives.iterdir()):
        path.rename(tmp_path / path.name)
    fives.rmdir()
    spec = load_set("fives")
    assert find_set(spec, tmp_path, spec.split()) == tmp_path / "."
    assert find_set(load_set("bach"), tmp_path, load_set("bach").split()) is None


def test_the_split_is_told_by_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spec = load_set("rsna")
    rows = [(number, "images/0.png", number % 2) for number in range(9006)]
    table(tmp_path / "rsna" / "RSNA_pneumonia_balanced_testfile.csv", ("", "filename", "Target"), rows)
    image(tmp_path / "rsna" / "images" / "0.png", 0)
    found = open_set(spec, tmp_path / "rsna", spec.split())
    assert found.split.name == "9006"
    assert not [note for note in found.warnings if "not comparable" in note]
    pinned = open_set(spec, tmp_path / "rsna", spec.split("8006"), pinned=True)
    assert pinned.warnings[-1] == "9,006 images on disk, 8,006 (8006) published: not comparable as it is"


def test_another_fold_is_read_from_its_own_table(tmp_path: Path):
    folder = write("thyroid_us", tmp_path)
    (folder / "thyroid_test_fold1.csv").rename(folder / "thyroid_test_fold2.csv")
    spec = load_set("thyroid_us")
    assert len(open_set(spec, folder, spec.split("fold2")).rows) == 6
    with pytest.raises(DataError, match=r"thyroid_us: the folder doesn't hold the data set; .*thyroid_test_fold1\.csv"):
        find_set(spec, tmp_path, spec.split())


def test_an_empty_folder_is_told_from_an_absent_one(tmp_path: Path):
    spec = load_set("nct_crc")
    assert find_set(spec, tmp_path, spec.split()) is None
    (tmp_path / "nct_crc").mkdir()
    with pytest.raises(DataError, match=r"nct_crc: the folder is empty; .*CRC-VAL-HE-7K/\{ADI,DEB,.*TUM\}/IMAGE"):
        find_set(spec, tmp_path, spec.split())
    (tmp_path / "nct_crc" / "CRC-VAL-HE-7K" / "ADI").mkdir(parents=True)
    folder = find_set(spec, tmp_path, spec.split())
    assert folder is not None
    with pytest.raises(DataError, match="no image of nct_crc is there"):
        open_set(spec, folder, spec.split())


def test_labels_of_another_set_are_named(tmp_path: Path):
    folder = write("thyroid_us", tmp_path)
    rows = [("images/0_1.jpg", "benign"), ("images/0_2.jpg", "normal"), ("images/1_1.jpg", "normal")]
    table(folder / "thyroid_test_fold1.csv", ("img_dir", "label"), rows)
    says = r"fold1\.csv:2: labels that thyroid_us doesn't have: 'normal' \(2\); its labels: 'benign', 'malignant'"
    with pytest.raises(DataError, match=says):
        opened("thyroid_us", tmp_path)


def test_a_class_folder_of_another_set_is_named(tmp_path: Path):
    folder = write("lc25000_colon", tmp_path)
    image(folder / "colon_polyp" / "a.jpeg", 0)
    with pytest.raises(DataError, match=r"a\.jpeg: labels that lc25000_colon doesn't have: 'colon_polyp' \(1\)"):
        opened("lc25000_colon", tmp_path)


def test_a_missing_image_is_named_before_anything_is_read(tmp_path: Path):
    folder = write("acl_mri", tmp_path)
    for path in sorted((folder / "images").iterdir())[:2]:
        path.unlink()
    with pytest.raises(
        DataError, match=r"test_fold1\.csv:1: the image file .*_0\.000000\.png \(and of 1 more rows\) does not"
    ):
        opened("acl_mri", tmp_path)


def test_a_damaged_image_is_named_with_its_row(tmp_path: Path):
    folder = write("osteo", tmp_path)
    (folder / "Case-4.jpg").write_bytes(b"no image")
    spec, found = opened("osteo", tmp_path)
    source = source_of(spec, found.rows, modality=None)
    with pytest.raises(DataError, match=r"annotations_final\.csv:5: image .*Case-4\.jpg: not a readable image"):
        source[4]


def test_a_class_without_an_image_is_noted(tmp_path: Path):
    folder = write("breast_us", tmp_path)
    image(folder / "images" / "a.png", 0)
    table(folder / "breast_test_fold1.csv", ("filename", "label"), [("images/a.png", "benign")])
    assert "no image of: malignant" in opened("breast_us", tmp_path)[1].warnings


@pytest.mark.parametrize(
    ("name", "file", "head", "row", "says"),
    [
        (
            "thyroid_us",
            "thyroid_test_fold1.csv",
            ("file", "label"),
            ("a.jpg", "benign"),
            "no column 'img_dir'; columns: 'file'",
        ),
        (
            "organs_axial",
            "annotations.csv",
            ("filepath", "split"),
            ("a.tiff", "test"),
            "no column 2; columns: 'filepath'",
        ),
        ("bach", "microscopy_ground_truth.csv", None, ("a.tif",), "no column 1; columns: 1 without names"),
        (
            "refuge",
            "25_REFUGE.csv",
            ("", "image", "atributes", "categories"),
            (0, "a.jpg", "[]", "glaucoma"),
            "a list of one name",
        ),
        ("chexpert_5x200", "chexpert-5x200.csv", ("imgpath", "Edema"), ("a.jpg", 1), "no column 'Atelectasis'"),
    ],
)
def test_a_table_that_is_not_as_published_is_refused(name, file, head, row, says, tmp_path: Path):
    table(tmp_path / name / file, head, [row])
    with pytest.raises(DataError, match=says):
        opened(name, tmp_path)


def test_one_image_has_exactly_one_of_the_classes(tmp_path: Path):
    labels = load_set("chexpert_5x200").labels
    file = tmp_path / "chexpert_5x200" / "chexpert-5x200.csv"
    table(file, ("imgpath", *labels), [("a.jpg", 1, 1, 0, 0, 0)])
    with pytest.raises(DataError, match="2 of the classes for one image"):
        opened("chexpert_5x200", tmp_path)
    table(file, ("imgpath", *labels), [("a.jpg", 0.5, 1, 0, 0, 0)])
    with pytest.raises(DataError, match=r"got '0\.5' for a class"):
        opened("chexpert_5x200", tmp_path)


def test_a_table_that_is_no_text_is_refused(tmp_path: Path):
    file = tmp_path / "osteo" / "annotations_final.csv"
    file.parent.mkdir()
    file.write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(DataError, match="not a CSV file in UTF-8"):
        opened("osteo", tmp_path)


def test_a_file_name_that_tells_no_class_is_refused(tmp_path: Path):
    folder = write("pcam", tmp_path)
    image(folder / "PCam_Test_preprocessed" / "cover.png", 0)
    with pytest.raises(DataError, match=r"cover\.png: the file's name tells no class"):
        opened("pcam", tmp_path)


def test_arrays_in_the_form_of_medmnist_are_read(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 255, (4, 28, 28, 3), np.uint8)
    np.savez(tmp_path / "one.npz", test_images=images, test_labels=np.array([[0], [2], [1], [0]], np.uint8))
    rows = read_rows(Arrays("one.npz"), tmp_path, ("0", "1", "2"))
    assert [row.labels for row in rows] == [("0",), ("2",), ("1",), ("0",)]
    np.savez(tmp_path / "many.npz", test_images=images[..., 0], test_labels=np.array([[0, 1], [1, 1], [0, 0], [1, 0]]))
    rows = read_rows(Arrays("many.npz", several=True), tmp_path, ("0", "1"))
    assert [row.labels for row in rows] == [("1",), ("0", "1"), (), ("0",)]
    spec = load_set("lc25000_colon")
    source = source_of(spec, [Row("one.npz:0", images[0], ("colon_n",))], modality=None)
    np.testing.assert_array_equal(source[0].image, images[0])


@pytest.mark.parametrize("case", ["absent", "text", "lacking", "lengths"])
def test_a_wrong_archive_is_refused(case: str, tmp_path: Path):
    file = tmp_path / "one.npz"
    if case == "text":
        file.write_bytes(b"no archive")
    elif case == "lacking":
        np.savez(file, train_images=np.zeros((1, 2, 2)))
    elif case == "lengths":
        np.savez(file, test_images=np.zeros((1, 2, 2)), test_labels=np.zeros((2, 1)))
    says = "1 images, but 2 labels" if case == "lengths" else "no archive with test_images and test_labels"
    with pytest.raises(DataError, match=says):
        read_rows(Arrays("one.npz"), tmp_path, ("0", "1"))


def test_what_is_expected_on_disk_is_said_for_arrays_and_file_names(tmp_path: Path):
    (tmp_path / "pcam").mkdir()
    spec = load_set("pcam")
    with pytest.raises(DataError, match=r"pcam/PCam_Test_preprocessed/IMAGE, the class in the file's name"):
        find_set(spec, tmp_path, spec.split())
    value = {
        "name": "mnist",
        "title": "Arrays",
        "modality": "xray",
        "sources": [],
        "license": "",
        "folders": [],
        "layout": {"kind": "arrays", "file": "mnist.npz"},
        "splits": [{"name": "test"}],
        "task": "single_label",
        "metric": "accuracy",
        "classes": [{"label": str(place), "name": f"class {place}", "phrases": ["a"]} for place in range(2)],
        "templates": ["{}"],
        "published": [],
    }
    spec = parse_set(json.dumps(value).encode(), "own.json")
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataError, match=r"mnist/mnist\.npz with test_images and test_labels"):
        find_set(spec, tmp_path, spec.split())
