"""Chest X-rays: what MIMIC-CXR, CheXpert, Open-i, NIH and RSNA say becomes the manifest's cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from importer_layouts import LAYOUTS, table
from medmoe.data.importers import IMPORTERS
from medmoe.data.importers.chexpert import labels_of
from medmoe.data.importers.report_text import described
from medmoe.data.importers.run import import_set
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.manifest_write import read_all
from medmoe.errors import DataError


def rows(name: str, folder: Path, **options: str) -> list[dict[str, str | None]]:
    """Import a data set that lies in a folder, written there if it is empty."""
    if not folder.exists():
        LAYOUTS[name](folder)
    out = folder.parent / "m.parquet"
    import_set(IMPORTERS[name], folder, out, options=options)
    return list(read_all(out).to_pylist())


def test_mimic_joins_reports_labels_splits_views_and_days(tmp_path: Path):
    first, second, third, fourth, fifth = rows("mimic-cxr-jpg", tmp_path / "mimic")
    assert first["image"] == "mimic/files/p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg"
    assert first["text"].startswith("There is a small ")
    assert first["text"].endswith(" pleural effusion.")
    assert first["text"].count("pleural effusion") == 2  # findings, then impression
    assert (first["patient_id"], first["study_id"], first["view"], first["split"]) == (
        "p10000032",
        "s50414267",
        "PA",
        "train",
    )
    assert first["label"] == "support devices"  # devices stand beside `No Finding`
    assert (first["offset_days"], second["offset_days"], third["offset_days"]) == ("0", "0", "51")
    assert (third["label"], third["uncertain"]) == ("pleural effusion", "edema")
    assert (fourth["label"], fourth["uncertain"], fourth["split"]) == (None, "consolidation", "test")
    assert (fifth["label"], fifth["view"], fifth["split"]) == ("no_finding", "LATERAL", "val")


def test_mimic_reads_its_dicom_files_by_the_list_of_records(tmp_path: Path):
    found = rows("mimic-cxr", tmp_path / "mimic")
    assert all(row["image"].endswith(".dcm") for row in found)
    assert [row["view"] for row in found] == ["PA", "LATERAL", "AP", "AP", "LATERAL"]
    (tmp_path / "mimic" / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    (tmp_path / "mimic" / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    outcome = import_set(IMPORTERS["mimic-cxr"], tmp_path / "mimic", tmp_path / "bare.parquet")
    assert "view" not in read_all(outcome.manifest).column_names
    assert ["no views" in note or "no splits" in note for note in outcome.notes] == [True, True]


def test_mimic_takes_reports_from_another_folder_and_the_section_asked_for(tmp_path: Path):
    LAYOUTS["mimic-cxr-jpg"](tmp_path / "mimic")
    (tmp_path / "mimic" / "mimic-cxr-reports").rename(tmp_path / "texts")
    assert {row.get("text") for row in rows("mimic-cxr-jpg", tmp_path / "mimic")} == {None}
    found = rows("mimic-cxr-jpg", tmp_path / "mimic", reports=str(tmp_path / "texts"), sections="impression")
    assert found[0]["text"] in ("Small left pleural effusion.", "Small right pleural effusion.")
    with pytest.raises(DataError, match="no such folder of reports"):
        rows("mimic-cxr-jpg", tmp_path / "mimic", reports=str(tmp_path / "none"))


def test_mimic_reads_unpacked_tables_and_negbio_alike(tmp_path: Path):
    import gzip

    packed = rows("mimic-cxr-jpg", tmp_path / "mimic")
    for path in (tmp_path / "mimic").glob("*.csv.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert rows("mimic-cxr-jpg", tmp_path / "mimic") == packed
    assert rows("mimic-cxr-jpg", tmp_path / "mimic", labels="negbio")[3].get("label") is None


@pytest.mark.parametrize(
    ("policy", "label"),
    [("leave-out", "lung opacity"), ("positive", "lung opacity;edema"), ("possible", "lung opacity;possible edema")],
)
def test_uncertain_findings_go_by_the_policy_and_are_always_kept(policy: str, label: str):
    row = {"Edema": "-1.0", "Lung Opacity": "1.0", "Fracture": "0.0"}
    assert labels_of(row, policy, "here") == (label, "edema")


def test_a_strange_value_of_chexpert_is_refused_with_its_row():
    with pytest.raises(DataError, match=r"train.csv:7: got '2.0' for 'Edema'; allowed: 1, 0, -1 or blank"):
        labels_of({"Edema": "2.0"}, "leave-out", "train.csv:7")


def test_chexpert_gives_patients_studies_views_and_no_finding(tmp_path: Path):
    first, second, third, fourth = rows("chexpert", tmp_path / "CheXpert-v1.0-small")
    assert (first["label"], first["patient_id"], first["study_id"]) == (
        "no_finding",
        "patient00001",
        "patient00001/study1",
    )
    assert (second.get("label"), second["uncertain"], second["view"]) == (None, "edema", "AP")
    assert (third["label"], third["view"], third["split"]) == ("lung opacity;pleural effusion", "Lateral", "train")
    assert (fourth["label"], fourth["split"]) == ("cardiomegaly", "val")
    source = ManifestSource(tmp_path / "m.parquet")
    assert source.facts(0).labels == ()
    assert source.facts(0).from_template
    assert "lung opacity" in str(source.facts(2).report).lower()


def test_chexpert_is_found_from_the_folder_above(tmp_path: Path):
    LAYOUTS["chexpert"](tmp_path / "data" / "CheXpert-v1.0-small")
    assert len(rows("chexpert", tmp_path / "data")) == 4


@pytest.mark.parametrize("tables", [".", "CheXpert-v1.0 batch 1 (validate & csv)"])
def test_the_batches_of_chexpert_may_stay_as_they_come(tmp_path: Path, tables: str):
    LAYOUTS["chexpert"](tmp_path / "small")
    root = tmp_path / "chexpertchestxrays-u20210408"
    first, second = root / "CheXpert-v1.0 batch 1 (validate & csv)", root / "CheXpert-v1.0 batch 2 (train 1)"
    first.mkdir(parents=True)
    (tmp_path / "small" / "valid").rename(first / "valid")
    (tmp_path / "small" / "train").rename(second)
    for name in ("train.csv", "valid.csv"):
        (tmp_path / "small" / name).rename(root / tables / name)
    found = rows("chexpert", root)
    assert [row["image"].split("/")[1] for row in found] == [second.name] * 3 + [first.name]


def test_the_reports_of_chexpert_5x200_are_read_and_all_of_it_is_for_testing(tmp_path: Path):
    found = rows("chexpert-5x200", tmp_path / "set")
    assert [row["label"] for row in found] == [
        "atelectasis",
        "cardiomegaly",
        "consolidation",
        "edema",
        "pleural effusion",
    ]
    assert {row["split"] for row in found} == {"test"}
    assert found[0]["text"] == "1. One finding. 2. As before."


def test_iu_xray_gives_the_same_reports_from_the_tables_and_from_the_xml(tmp_path: Path):
    tables, xml = rows("iu-xray", tmp_path / "kaggle"), rows("openi", tmp_path / "openi")
    assert [row["text"] for row in tables[:2]] == ["The heart is normal. Normal chest."] * 2
    assert [row["label"] for row in tables] == ["no_finding"] * 2 + ["cardiomegaly;pulmonary artery"] * 2
    assert [row["view"] for row in tables] == ["Frontal", "Lateral"] * 2
    assert [row["text"] for row in xml] == ["The heart is normal. Normal chest."] * 2 + ["Cardiomegaly."]
    assert [(row["patient_id"], row["label"]) for row in xml] == [("1", "no_finding")] * 2 + [("2", "cardiomegaly")]


def test_xml_that_declares_entities_is_refused(tmp_path: Path):
    LAYOUTS["openi"](tmp_path / "openi")
    bomb = '<!DOCTYPE a [<!ENTITY x "xxxx">]><eCitation>&x;</eCitation>'
    (tmp_path / "openi" / "ecgen-radiology" / "1.xml").write_text(bomb)
    with pytest.raises(DataError, match=r"1\.xml: not one of Open-i's reports"):
        rows("openi", tmp_path / "openi")


def test_nih_boxes_are_corners_and_splits_are_those_of_the_lists(tmp_path: Path):
    first, second, third = rows("nih-cxr14", tmp_path / "nih")
    assert json.loads(first["boxes"]) == [{"label": "cardiomegaly", "xyxy": [2.5, 3.0, 12.5, 11.25]}]
    assert (second["label"], second["patient_id"], second["study_id"]) == ("cardiomegaly;pleural effusion", "1", "1_1")
    assert (third["label"], third["split"], third["view"]) == ("no_finding", "test", "AP")
    box = ManifestSource(tmp_path / "m.parquet")[0].boxes[0]
    assert (box.x0, box.y1) == pytest.approx((2.5 / 24, 11.25 / 20))


def test_nih_refuses_a_finding_that_it_does_not_have(tmp_path: Path):
    LAYOUTS["nih-cxr14"](tmp_path / "nih")
    path = tmp_path / "nih" / "Data_Entry_2017.csv"
    path.write_text(path.read_text().replace("No Finding", "Nofinding"))
    with pytest.raises(DataError, match=r"Data_Entry_2017.csv:3: unknown label 'Nofinding'"):
        rows("nih-cxr14", tmp_path / "nih")


def test_rsna_gathers_boxes_by_image_and_patients_by_the_mapping(tmp_path: Path):
    first, second, third = rows("rsna-pneumonia", tmp_path / "rsna")
    assert [row["label"] for row in (first, second, third)] == ["no lung opacity", "lung opacity", "normal"]
    assert [box["xyxy"] for box in json.loads(second["boxes"])] == [[26.0, 15.2, 35.0, 35.7], [5.0, 12.0, 13.0, 30.0]]
    assert (first["patient_id"], second["patient_id"], third["patient_id"]) == ("13774", "13774", "13775")
    assert first.get("boxes") is None
    (tmp_path / "rsna" / "pneumonia-challenge-dataset-mappings_2018.json").unlink()
    (tmp_path / "rsna" / "stage_2_detailed_class_info.csv").unlink()
    outcome = import_set(IMPORTERS["rsna-pneumonia"], tmp_path / "rsna", tmp_path / "bare.parquet")
    bare = read_all(outcome.manifest).to_pylist()
    assert [row["label"] for row in bare] == ["no lung opacity", "lung opacity", "no lung opacity"]
    assert "patient_id" not in bare[0]
    assert "patients unknown" in outcome.notes[0]


@pytest.mark.parametrize(
    ("report", "wanted", "text"),
    [
        ("FINDINGS: A.\nIMPRESSION: B.", "findings", "A."),
        ("FINDINGS AND IMPRESSION: Both.", "findings+impression", "Both."),
        ("FINAL REPORT\n\n HISTORY: pain.\n\n The lungs are clear.\n", "findings+impression", "The lungs are clear."),
        ("FINDINGS: \n\nIMPRESSION:\n", "impression", None),
        ("FINDINGS: size 3: 4 cm.\nNote: kept.", "findings", "size 3: 4 cm. Note: kept."),
        ("", "all", None),
    ],
)
def test_the_part_of_a_report_that_describes_the_image(report: str, wanted: str, text: str | None):
    assert described(report, wanted) == text


def test_a_column_that_is_missing_is_told_with_those_there(tmp_path: Path):
    table(tmp_path / "set" / "indiana_reports.csv", ("uid", "findings"), [(1, "x")])
    with pytest.raises(DataError, match=r"indiana_reports.csv: no column 'Problems'; the file has: uid, findings"):
        rows("iu-xray", tmp_path / "set")
