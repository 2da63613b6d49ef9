"""Ultrasound sets: masks merged, drawn and cleaned; categories as labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from importer_layouts import LAYOUTS, blob
from medmoe.data.images import read_mask
from medmoe.data.importers import IMPORTERS
from medmoe.data.importers.run import Outcome, import_set
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.manifest_write import read_all
from medmoe.errors import DataError


def imported(name: str, folder: Path) -> tuple[Outcome, list[dict[str, str | None]]]:
    if not folder.exists():
        LAYOUTS[name](folder)
    outcome = import_set(IMPORTERS[name], folder, folder.parent / "m.parquet")
    return outcome, list(read_all(outcome.manifest).to_pylist())


def test_the_masks_of_several_lesions_are_merged_and_those_of_normal_images_left_out(tmp_path: Path):
    _, found = imported("busi", tmp_path / "busi")
    one, two, malignant, normal = found
    assert [row["label"] for row in found] == ["benign", "benign", "malignant", "normal"]
    assert one["mask"] == "busi/Dataset_BUSI_with_GT/benign/benign (1)_mask.png"
    assert two["mask"] == "m_images/benign (2)_mask.png"
    merged = read_mask(tmp_path / two["mask"])
    assert merged[2:8, 2:8].all()
    assert merged[10:18, 12:20].all()
    assert merged.sum() == 36 + 64
    assert normal.get("mask") is None
    assert malignant["mask"]


def test_masks_of_two_sizes_are_refused(tmp_path: Path):
    LAYOUTS["busi"](tmp_path / "busi")
    blob(tmp_path / "busi" / "Dataset_BUSI_with_GT" / "benign" / "benign (2)_mask_2.png", (0, 0, 1, 1), size=(9, 9))
    with pytest.raises(DataError, match="its masks differ in size"):
        imported("busi", tmp_path / "busi")


def test_a_missing_mask_is_listed_and_its_image_kept(tmp_path: Path):
    LAYOUTS["busi"](tmp_path / "busi")
    (tmp_path / "busi" / "Dataset_BUSI_with_GT" / "benign" / "benign (1)_mask.png").unlink()
    outcome, found = imported("busi", tmp_path / "busi")
    assert (len(found), outcome.missing, found[0].get("mask")) == (4, 1, None)
    listed = json.loads(outcome.quarantine.read_text())
    assert listed["mask"].endswith("benign (1)_mask.png")


def test_outlines_of_ddti_become_masks_and_boxes_and_tirads_labels(tmp_path: Path):
    _, found = imported("ddti", tmp_path / "ddti")
    first, second, third, fourth = found
    assert [row["patient_id"] for row in found] == ["1", "1", "2", "3"]
    assert [row.get("label") for row in found] == ["TI-RADS 4a thyroid nodule"] * 2 + ["TI-RADS 2 thyroid nodule", None]
    assert json.loads(first["boxes"])[0]["xyxy"] == [4.0, 4.0, 14.0, 12.0]
    mask = read_mask(tmp_path / first["mask"])
    assert mask.shape == (20, 24)
    assert mask[6:10, 6:12].all()
    assert not mask[:3].any()
    assert second.get("mask") is None
    assert ManifestSource(tmp_path / "m.parquet")[0].mask.any()
    assert "TI-RADS 4a thyroid nodule" in ManifestSource(tmp_path / "m.parquet").facts(0).report
    assert third["mask"] != fourth["mask"]


def test_an_outline_that_is_no_list_of_points_is_refused(tmp_path: Path):
    LAYOUTS["ddti"](tmp_path / "ddti")
    path = tmp_path / "ddti" / "1.xml"
    path.write_text(path.read_text().replace('"points"', '"pints"'))
    with pytest.raises(DataError, match=r"1.xml: a mark's svg isn't a list of points"):
        imported("ddti", tmp_path / "ddti")


def test_masks_of_tn3k_lose_the_noise_of_their_jpegs(tmp_path: Path):
    _, found = imported("tn3k", tmp_path / "published")
    assert [row["split"] for row in found] == ["train", "val", "train", "test", "test"]
    kinds = ["benign thyroid nodule", "malignant thyroid nodule"]
    assert [row["label"] for row in found] == [kinds[0], kinds[1], kinds[0], kinds[0], kinds[1]]
    drawn = np.asarray(Image.open(tmp_path / "published" / "tn3k" / "trainval-mask" / "0000.jpg"))
    assert ((drawn > 0) & (drawn < 128)).any()  # else the test shows nothing
    mask = read_mask(tmp_path / found[0]["mask"])
    assert mask[13:30, 11:31].all()
    assert mask.sum() == 17 * 20


def test_tn3k_without_labels_says_so(tmp_path: Path):
    LAYOUTS["tn3k"](tmp_path / "published")
    for name in ("label4trainval.csv", "label4test.csv", "tn3k-trainval-fold0.json"):
        (tmp_path / "published" / "tn3k" / name).unlink()
    outcome, found = imported("tn3k", tmp_path / "published")
    assert {row["label"] for row in found} == {"thyroid nodule"}
    assert outcome.splits == {"test": 2, "train": 3}
    assert len(outcome.notes) == 2
