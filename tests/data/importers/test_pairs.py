"""Images with captions or conversations: ROCOv2, PMC-OA, Quilt-1M, LLaVA-Med, RadImageNet and the fundus sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from importer_layouts import LAYOUTS, table
from medmoe.data.importers import IMPORTERS
from medmoe.data.importers.common import read_json_list
from medmoe.data.importers.run import Outcome, import_set
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.manifest_write import read_all
from medmoe.errors import DataError


def imported(name: str, folder: Path, **options: str) -> tuple[Outcome, list[dict[str, str | None]]]:
    if not folder.exists():
        LAYOUTS[name](folder)
    outcome = import_set(IMPORTERS[name], folder, folder.parent / "m.parquet", options=options)
    return outcome, list(read_all(outcome.manifest).to_pylist())


def test_roco_takes_modality_from_the_manual_concepts_and_each_images_licence(tmp_path: Path):
    _, found = imported("rocov2", tmp_path / "roco")
    assert [row["modality"] for row in found[:4]] == ["ct", "xray", "ultrasound", None]  # the last names two
    assert {row["split"] for row in found} == {"train", "val", "test"}
    assert found[0]["license"] == "CC BY [Doe et al. (2020)] 0"
    assert (found[1]["article"], found[1].get("patient_id")) == ("PMC1", None)


def test_roco_finds_its_images_in_either_place(tmp_path: Path):
    _, nested = imported("rocov2", tmp_path / "roco")
    for split in ("train", "valid", "test"):
        shutil.move(tmp_path / "roco" / f"{split}_images" / split, tmp_path / "roco" / split)
    _, flat = imported("rocov2", tmp_path / "roco")
    assert [row["text"] for row in flat] == [row["text"] for row in nested]
    assert flat[0]["image"] == "roco/train/ROCOv2_2023_train_000001.jpg"


def test_an_articles_panels_belong_together(tmp_path: Path):
    _, found = imported("pmc-oa", tmp_path / "pmc")
    assert [(row["patient_id"], row["split"]) for row in found] == [("PMC212319", "train")] * 2 + [
        ("PMC1064076", "test")
    ]
    assert "modality" not in found[0]


def test_splits_that_an_article_crosses_are_kept_apart_and_told(tmp_path: Path):
    LAYOUTS["pmc-oa"](tmp_path / "pmc")
    path = tmp_path / "pmc" / "test.jsonl"
    path.write_text(path.read_text() + (tmp_path / "pmc" / "train.jsonl").read_text())
    outcome, found = imported("pmc-oa", tmp_path / "pmc")
    assert {row.get("split") for row in found} == {None}
    assert [row["official_split"] for row in found] == ["train", "train", "test", "test", "test"]
    assert outcome.notes[0].startswith("1 patients are in several official splits")
    ManifestSource(outcome.manifest)  # which would refuse a patient in two


def test_pmc_oa_without_split_files(tmp_path: Path):
    LAYOUTS["pmc-oa"](tmp_path / "pmc")
    (tmp_path / "pmc" / "train.jsonl").rename(tmp_path / "pmc" / "pmc_oa.jsonl")
    (tmp_path / "pmc" / "test.jsonl").unlink()
    _, found = imported("pmc-oa", tmp_path / "pmc")
    assert len(found) == 2
    assert "split" not in found[0]


def test_a_line_that_is_no_json_is_refused_without_its_text(tmp_path: Path):
    LAYOUTS["pmc-oa"](tmp_path / "pmc")
    (tmp_path / "pmc" / "train.jsonl").write_text('{"image": "secret"')
    with pytest.raises(DataError, match="one JSON object a line") as error:
        imported("pmc-oa", tmp_path / "pmc")
    assert "secret" not in str(error.value)


def test_a_video_of_quilt_counts_as_a_patient_and_each_caption_is_a_row(tmp_path: Path):
    _, found = imported("quilt-1m", tmp_path / "quilt")
    assert [row["patient_id"] for row in found] == ["D1u1Ugr5XpY"] * 2 + ["rUqjNq8k0Pc", None, "D1u1Ugr5XpY"]
    assert [row["split"] for row in found] == ["train", "train", "val", "train", "train"]
    assert found[0]["image"] == found[4]["image"]
    assert found[0]["text"] != found[4]["text"]
    assert found[3]["subset"] == "openpath"


def test_captions_become_texts_and_conversations_questions_with_answers(tmp_path: Path):
    _, found = imported("llava-med", tmp_path / "llava")
    caption, first, second, other = found
    assert (caption["text"], caption["modality"], caption["patient_id"]) == ("A mass in the liver.", "ct", "PMC6149739")
    assert caption.get("question") is None
    assert (first["question"], first["answer"]) == ("What is shown?", "A chest X-ray.")
    assert (second["question"], second["answer"], second["image"]) == ("Where?", "On the left.", first["image"])
    assert (other["patient_id"], other.get("modality")) == ("17506892", None)  # a photograph is no modality of ours
    sample = ManifestSource(tmp_path / "m.parquet").facts(1)
    assert (sample.question, sample.answer) == ("What is shown?", "A chest X-ray.")


def test_files_of_llava_med_that_overlap_are_told_apart(tmp_path: Path):
    LAYOUTS["llava-med"](tmp_path / "llava")
    folder = tmp_path / "llava" / "instruct"
    shutil.copy(folder / "llava_med_instruct_10k.json", folder / "llava_med_instruct_60k.json")
    outcome, found = imported("llava-med", tmp_path / "llava")
    parts = [row["part"] for row in found]
    assert [parts.count(f"llava_med_{one}") for one in ("alignment_500k", "instruct_10k", "instruct_60k")] == [1, 3, 3]
    assert "same figures" in outcome.notes[0]


def test_a_json_list_is_read_object_by_object_wherever_the_pieces_end(tmp_path: Path):
    rows = [{"id": str(at), "text": "]},{[" * (at % 4000), "more": {"a": [1, 2]}} for at in range(0, 40000, 997)]
    for indent in (None, 1):
        (tmp_path / "list.json").write_text(json.dumps(rows, indent=indent))
        assert [row for _, row in read_json_list(tmp_path / "list.json")] == rows
    for broken in ('[{"a": 1}, {"b"', '{"a": 1}', '[{"a": 1}', "[1]", ""):
        (tmp_path / "list.json").write_text(broken)
        with pytest.raises(DataError, match=r"list.json"):
            list(read_json_list(tmp_path / "list.json"))


def test_radimagenet_takes_modality_and_region_from_the_path(tmp_path: Path):
    _, found = imported("radimagenet", tmp_path / "rad")
    assert [(row["modality"], row.get("body_part"), row["label"]) for row in found] == [
        ("mri", "ankle and foot", "plantar plate tear"),
        ("ct", "abdomen", "normal"),
        ("ultrasound", None, "liver"),
        ("mri", "knee", "acl tear"),
    ]
    assert [row["split"] for row in found] == ["train", "train", "val", "test"]
    report = ManifestSource(tmp_path / "m.parquet").facts(1).report
    assert "normal" in report.lower() or "no abnormality" in report.lower() or "without abnormal" in report.lower()


def test_radimagenet_without_tables_is_read_from_its_folders(tmp_path: Path):
    _, listed = imported("radimagenet", tmp_path / "rad")
    for path in (tmp_path / "rad").glob("*.csv"):
        path.unlink()
    outcome, walked = imported("radimagenet", tmp_path / "rad")
    assert sorted((row["image"], row["label"]) for row in walked) == sorted(
        (row["image"], row["label"]) for row in listed
    )
    assert "split" not in walked[0]
    assert "no splits" in outcome.notes[0]


def test_the_categories_and_attributes_of_flairs_tables_are_labels(tmp_path: Path):
    _, found = imported("flair", tmp_path / "flair")
    idrid, cataract, normal = found
    assert idrid["source"] == "03_IDRID"
    assert idrid["label"] == "severe diabetic retinopathy;noisy;hard exudates;few cotton wool spots"
    assert (cataract["label"], normal["label"], normal.get("text")) == ("cataract", "normal", None)


def test_flairs_tables_may_lie_elsewhere(tmp_path: Path):
    LAYOUTS["flair"](tmp_path / "flair")
    (tmp_path / "tables").mkdir()
    for path in (tmp_path / "flair").glob("*.csv"):
        path.rename(tmp_path / "tables" / path.name)
    _, found = imported("flair", tmp_path / "flair", tables=str(tmp_path / "tables"))
    assert len(found) == 3
    table(tmp_path / "tables" / "other.csv", ("image",), [("x.jpg",)])
    with pytest.raises(DataError, match=r"other.csv: no column 'categories' or 'caption'"):
        imported("flair", tmp_path / "flair", tables=str(tmp_path / "tables"))


def test_mm_retinal_gives_english_captions_by_kind(tmp_path: Path):
    _, found = imported("mm-retinal", tmp_path / "mm")
    assert [(row["modality"], row["kind"]) for row in found] == [("fundus", "CFP")] * 2 + [("oct", "OCT")] * 2
    assert found[0]["text"] == "Drusen at the macula, 0."
