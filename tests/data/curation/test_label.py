"""Rules that name an image's modality: what each reads, how they become one decision, and what is counted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from medmoe.data.curation.label import Tally, decide
from medmoe.data.curation.label_pixels import measure
from medmoe.data.curation.label_rules import (
    DATASET,
    FAMILIES,
    HEADER,
    LAYOUT,
    PIXELS,
    TEXT,
    Clues,
    identify,
    report_type,
    rules,
)
from medmoe.data.curation.label_table import label_manifest
from medmoe.data.sources.manifest_write import read_all, rows_of
from medmoe.errors import DataError
from medmoe.modalities import MODALITIES
from micro import medmoe, write_manifest

WITHOUT_DATASETS = tuple(name for name in FAMILIES if name != DATASET)


def said(clues: Clues, *families: str) -> str | None:
    return decide(clues, families or FAMILIES).modality


def test_every_rule_names_a_modality_that_the_library_has_and_no_certainty():
    table = rules()
    named = [row["modality"] for row in table["text"]]
    named += [*table["header"][1]["classes"].values(), *table["layout"]["words"], *table["layout"]["folder_words"]]
    named += [*table["layout"]["endings"], *table["datasets"]["names"]]
    assert set(named) <= set(MODALITIES)
    sections = [*table["header"], *table["text"], *table["reports"], table["datasets"]["rule"]]
    sections += [table["layout"][name] for name in ("folder", "file", "suffix")]
    assert all(0.5 < row["confidence"] < 1 for row in sections)
    names = [row["name"] for row in sections]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("clues", "modality", "rule"),
    [
        (Clues(code="MG"), "xray", "header-code"),
        (Clues(sop_class="1.2.840.10008.5.1.4.1.1.4.1"), "mri", "header-class"),
        (Clues(sop_class="1.2.840.10008.5.1.4.1.1.77.1.6", code="OT"), "pathology", "header-class"),
        (Clues(regions=2), "ultrasound", "header-ultrasound-regions"),
        (Clues(description="T2 TSE sag | knee"), "mri", "header-description"),
    ],
)
def test_headers_are_read(clues: Clues, modality: str, rule: str):
    decision = decide(clues)
    assert (decision.modality, decision.rule) == (modality, rule)


def test_a_header_of_another_kind_of_image_stops_every_other_rule():
    decision = decide(Clues(code="NM", path="ct/xray.png", text="CT of the chest"))
    assert (decision.modality, decision.rule, decision.confidence) == (None, "header-code", 0.0)
    assert said(Clues(code="OT", path="ct/a.dcm")) == "ct"  # "other" says nothing


@pytest.mark.parametrize(
    ("text", "modality"),
    [
        ("Axial CT image with contrast.", "ct"),
        ("A hypodense lesion of the liver.", "ct"),
        ("T2-weighted image of the knee.", "mri"),
        ("High signal intensity in the marrow.", "mri"),
        ("Portable AP chest radiograph.", "xray"),
        ("An anechoic cyst with posterior acoustic enhancement.", "ultrasound"),
        ("H&E stain, spindle cells.", "pathology"),
        ("Color fundus photograph with drusen.", "fundus"),
        ("SD-OCT of the macula.", "oct"),
        ("Wright's stain of a blood smear.", "microscopy"),
        ("The US of the neck.", "ultrasound"),
        ("He was a US army veteran.", None),
        ("Seen by us in Oct 2019; a cat was noted.", None),
        ("MR. SMITH WAS SEEN", "mri"),
        ("No abnormality.", None),
    ],
)
def test_words_of_a_text_are_read(text: str, modality: str | None):
    assert said(Clues(text=text), TEXT) == modality


def test_a_text_that_names_two_modalities_alike_decides_nothing_by_itself():
    both = Clues(text="CT and MRI of the head.", path="scans/1.png")
    assert decide(both).modality is None
    assert said(Clues(text=both.text, path="mri/1.png")) == "mri"


@pytest.mark.parametrize(
    ("path", "modality"),
    [
        ("ct/0001.png", "ct"),
        ("Chest X-ray/0001.png", "xray"),
        ("study/US/0001", "ultrasound"),
        ("a/b/patient_mri_7.png", "mri"),
        ("sub-01/anat/sub-01_T1w.nii.gz", "mri"),
        ("case/t2.nii.gz", "mri"),
        ("case/t2.png", None),
        ("octopus/direct.png", None),
        ("us_citizens/letter.png", None),
        ("MR/0001", "mri"),
        ("mr_smith/0001", None),
    ],
)
def test_whole_words_of_names_are_read(path: str, modality: str | None):
    assert said(Clues(path=path), LAYOUT) == modality


@pytest.mark.parametrize(
    ("path", "modality"),
    [
        ("Dataset_BUSI_with_GT/benign/benign (1).png", "ultrasound"),
        ("busi-0001.jpg", "ultrasound"),
        ("ISIC_0013948.jpg", "dermoscopy"),
        ("brats2021/0/x.nii.gz", "mri"),
        ("DRIVE/21.tif", "fundus"),
        ("drive-7/21.tif", "fundus"),
        ("drive backup/21.tif", None),
        ("busines/1.png", None),
    ],
)
def test_names_of_data_sets_are_read_at_the_beginning_of_a_name(path: str, modality: str | None):
    assert said(Clues(path=path), DATASET) == modality
    assert said(Clues(path=path), *WITHOUT_DATASETS) is None


def test_agreement_makes_surer_and_conflict_less_sure():
    one = decide(Clues(path="ct/1.png"))
    two = decide(Clues(path="ct/1.png", text="CT of the head"))
    against = decide(Clues(path="ct/1.png", text="radiograph of the chest, costophrenic angle"))
    assert one.modality == two.modality == "ct"
    assert two.confidence > one.confidence > 0.85
    assert against.confidence < one.confidence


def test_a_confident_header_outweighs_a_folder_and_both_are_listed():
    tally = Tally()
    decision = decide(Clues(code="MR", path="ct/1.dcm"))
    tally.add("ct/1.dcm", decision, router="fundus")
    assert (decision.modality, decision.says(HEADER), decision.says(LAYOUT)) == ("mri", "mri", "ct")
    (row,) = tally.conflicts
    assert (row["header"], row["layout"], row["text"], row["router"], row["decided"]) == (
        "mri",
        "ct",
        None,
        "fundus",
        "mri",
    )


def test_the_confidence_is_that_of_bayes_over_all_modalities():
    """Held against the sum over modalities of the chance that just these votes come."""
    decision = decide(Clues(path="ct/1.png", text="MRI of the knee"))
    others = len(MODALITIES) - 1
    table = {("layout", "ct"): 0.9, ("text", "mri"): 0.9}
    chance = {}
    for name in MODALITIES:
        chance[name] = 1.0
        for (_, modality), confidence in table.items():
            chance[name] *= confidence if modality == name else (1 - confidence) / others
    best = max(chance.values()) / sum(chance.values())
    assert best < 0.5
    assert decision.modality is None  # two that are as sure cancel out
    surer = decide(Clues(code="MR", path="ct/1.png"))
    table = {("header", "mri"): 0.99, ("layout", "ct"): 0.9}
    chance = {
        name: np.prod([c if m == name else (1 - c) / others for (_, m), c in table.items()]) for name in MODALITIES
    }
    assert surer.confidence == pytest.approx(chance["mri"] / sum(chance.values()), abs=1e-4)


def test_counts_add_up_and_truth_judges_every_rule():
    tally = Tally()
    for path, truth in (("ct/1.png", "ct"), ("ct/2.png", "mri"), ("x/3.png", "ct")):
        tally.add(path, decide(Clues(path=path)), truth=truth)
    counted = tally.as_dict()
    assert (counted["decided"], counted["undecided"]) == (2, 1)
    assert counted["rules"]["layout-folder"] == {
        "fired": 2, "decided": 2, "agreed": 2, "contradicted": 0, "judged": 2, "right": 1
    }  # fmt: skip


def disc(colour: tuple[int, int, int]) -> np.ndarray:
    image = Image.new("RGB", (200, 200))
    ImageDraw.Draw(image).ellipse((10, 10, 190, 190), fill=colour)
    return np.asarray(image)


def test_pixels_tell_a_disc_a_stain_and_speckle_and_keep_silent_otherwise():
    rng = np.random.default_rng(0)
    stain = np.clip(np.array([190, 110, 190]) + rng.normal(0, 12, (150, 150, 1)), 0, 255).astype(np.uint8)
    fine_down = rng.uniform(40, 200, (200, 200)).astype(np.uint8)
    fine_down = np.asarray(Image.fromarray(fine_down[:, ::8]).resize((200, 200), Image.Resampling.BILINEAR))
    assert said(Clues(measures=measure(disc((200, 90, 40)))), PIXELS) == "fundus"
    assert said(Clues(measures=measure(stain)), PIXELS) == "pathology"
    assert said(Clues(measures=measure(fine_down)), PIXELS) == "ultrasound"
    assert said(Clues(measures=measure(np.full((50, 50), 128, np.uint8))), PIXELS) != "fundus"


def test_measures_mean_the_same_at_any_size_and_depth():
    small, large = measure(disc((200, 90, 40))), measure(np.kron(disc((200, 90, 40)), np.ones((3, 3, 1), np.uint8)))
    assert small.keys() == large.keys()
    assert all(abs(small[name] - large[name]) < 0.05 for name in small if name != "anisotropy")
    assert measure(disc((200, 90, 40)).astype(np.float32) / 255) == small


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1, 3), (3, 3)])
def test_tiny_images_can_be_measured(shape: tuple[int, ...]):
    assert all(np.isfinite(value) for value in measure(np.zeros(shape, np.uint8)).values())


def test_pixels_are_not_asked_where_a_header_speaks():
    assert decide(Clues(code="OT", measures=measure(disc((200, 90, 40))))).modality is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("FINDINGS: The lungs are clear.\nIMPRESSION: Normal.", "radiology report"),
        ("Specimen: skin.\nGross description: an ellipse.", "pathology report"),
        ("Figure 2. Axial CT (arrow).", "figure caption"),
        ("A 45-year-old man presented with cough.", "clinical note"),
        ("Atelectasis; Effusion", "label list"),
        ("Is there a fracture?", "question"),
        ("There is no evidence of a mass.", "radiology report"),
        ("", None),
        (None, None),
    ],
)
def test_kinds_of_text_are_told_apart(text: str | None, kind: str | None):
    found = report_type(text)
    assert (found and found[0]) == kind


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("files/p10/p10000032/s50414267/a.jpg", ("10000032", "50414267")),
        ("train/patient00001/study2/view1.jpg", ("00001", "2")),
        ("sub-x1/ses-2/anat/sub-x1_ses-2_T1w.nii.gz", ("x1", "2")),
        ("slides/TCGA-F9-A8NY-01Z-00-DX1_1.jpg", ("TCGA-F9-A8NY", None)),
        ("patients/1.png", (None, None)),
        ("ps/1.png", (None, None)),
    ],
)
def test_patients_and_studies_are_read_from_public_layouts(path: str, found: tuple[str | None, str | None]):
    assert identify(path) == found


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Write a manifest whose modalities are wrong on purpose in one row."""
    (tmp_path / "ct").mkdir()
    (tmp_path / "other").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for name, text, modality in (
        ("ct/1.png", "CT of the head.", "ct"),
        ("ct/2.png", "Figure 1. T2-weighted MR image.", "mri"),
        ("other/3.png", "Chest radiograph with costophrenic blunting.", "ultrasound"),
    ):
        Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(tmp_path / name)
        rows.append({"image": name, "text": text, "modality": modality, "mine": "kept"})
    return write_manifest(tmp_path, rows)


def test_label_never_looks_at_the_modality_unless_it_is_trusted(labelled: Path):
    blind = label_manifest(labelled, pixels=False).rows
    assert [row["modality"] for row in blind] == ["ct", None, "xray"]
    assert [row.get("modality_given") for row in blind] == [None, "mri", "ultrasound"]
    text = labelled.read_text()
    labelled.write_text(text.replace(",mri,", ",pet,").replace(",ultrasound,", ",ct,"))
    again = label_manifest(labelled, pixels=False).rows
    assert [row["modality"] for row in again] == [row["modality"] for row in blind]


def test_trusted_modalities_are_kept_and_judge_the_rules(labelled: Path):
    done = label_manifest(labelled, trust=True, pixels=False)
    assert [row["modality"] for row in done.rows] == ["ct", "mri", "ultrasound"]
    assert done.agreed == (1, 2)
    assert done.tally.as_dict()["rules"]["text-xray-named"]["right"] == 0
    labelled.write_text(labelled.read_text().replace(",mri,", ",sonar,"))
    with pytest.raises(DataError, match=r"manifest\.csv:2: unknown modality 'sonar'"):
        label_manifest(labelled, trust=True, pixels=False)


def test_the_command_writes_columns_conflicts_and_counts(labelled: Path, tmp_path: Path):
    conflicts, counts = tmp_path / "conflicts.csv", tmp_path / "counts.json"
    out = tmp_path / "elsewhere/new.csv"
    words = ("--out", out, "--conflicts", conflicts, "--json", counts, "--no-pixels")
    done = medmoe("data", "label", labelled, *words)
    assert done.code == 0, done
    rows = list(rows_of(read_all(out)))
    assert [row["mine"] for row in rows] == ["kept"] * 3
    assert [row["image"] for row in rows] == ["../ct/1.png", "../ct/2.png", "../other/3.png"]
    assert rows[0]["modality_rule"] in ("layout-folder", "text-ct-named")
    assert rows[1]["report_type"] == "figure caption"
    with conflicts.open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [(row["image"], row["layout"], row["text"]) for row in listed] == [("ct/2.png", "ct", "mri")]
    counted = json.loads(counts.read_text())
    assert counted["rules"]["layout-folder"]["fired"] == 2
    assert "layout-folder" in done.out
    assert "figure caption: report-figure 1" in done.out


def test_a_missing_file_is_counted_and_its_text_still_read(labelled: Path):
    (labelled.parent / "other/3.png").unlink()
    done = label_manifest(labelled)
    assert done.unreadable == 1
    assert done.rows[2]["modality"] == "xray"


def test_a_router_is_listed_where_it_differs(labelled: Path, run: Path, tmp_path: Path):
    conflicts = tmp_path / "conflicts.csv"
    done = medmoe("data", "label", labelled, "--model", run, "--conflicts", conflicts, "--no-pixels")
    assert done.code == 0, done
    with conflicts.open(newline="") as file:
        listed = {row["image"]: row["router"] for row in csv.DictReader(file)}
    assert listed["ct/2.png"] in MODALITIES


def test_mistakes_are_told_in_one_line(tmp_path: Path):
    assert "no such manifest" in medmoe("data", "label", tmp_path / "none.csv").mistake
    assert "--workers" in medmoe("data", "label", tmp_path, "--workers", 0).mistake
