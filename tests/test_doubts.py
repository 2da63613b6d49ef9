"""An evaluation of something wrong says so in its first lines, in its JSON and on the run's page, or stops."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import medmoe as library
from medmoe.data.contract import fingerprint_of
from micro import Said, image_rows, medmoe, truncate, write_manifest

LABELS = ("mass", "nodule")


@dataclass(frozen=True)
class Judged:
    """An evaluation: what was said, its JSON, and the run it is kept in."""

    said: Said
    json: Path
    run: Path

    @property
    def results(self) -> dict[str, dict[str, dict[str, object]]]:
        assert self.said.code == 0, self.said
        found: dict[str, dict[str, dict[str, object]]] = json.loads(self.json.read_text(encoding="utf-8"))
        return found

    @property
    def warning(self) -> str:
        """The one warning, after looking that it is everywhere it should be."""
        (told,) = self.results["about"]["warnings"]  # type: ignore[misc]
        assert self.said.out.startswith(f"warning: {told}\n")
        assert next(iter(self.results)) == "about"
        assert next(iter(self.results["about"])) == "warnings"
        shown = (told[:1].upper() + told[1:]).replace("'", "&#x27;")
        page = (self.run / "report.html").read_text(encoding="utf-8")
        assert 0 < page.index(shown) < page.index("<nav>")
        assert (self.run / "summary.md").read_text(encoding="utf-8").splitlines()[2] == f"**Warning:** {told}"
        return str(told)


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """Give a run to write to."""
    return Path(shutil.copytree(run, tmp_path / "own"))


def judge(run: Path, data: object, *more: object, tasks: str = "zeroshot_classification", split: str = "all") -> Judged:
    out = run.parent / "results.json"
    words = ("--split", split, "--tasks", tasks, "--workers", 0, "--resamples", 5, "--json", out)
    return Judged(medmoe("eval", run, "--data", data, *words, *more), out, run)


def findings(folder: Path, labels: Sequence[str] = LABELS) -> Path:
    """Write a manifest of 24 images: twelve of each of two modalities, six of each of two labels there."""
    rows = image_rows(folder, 24)
    for number, row in enumerate(rows):
        row["label"] = labels[number // 2 % len(labels)]
    return write_manifest(folder, rows)


def prompts(folder: Path, findings: Mapping[str, Sequence[str]], **more: object) -> Path:
    path = folder / "prompts.json"
    path.write_text(json.dumps({"groups": [{"findings": findings}], **more}), encoding="utf-8")
    return path


# Shared patients and images


def test_nothing_shared_is_no_warning(own: Path, phantoms: Path):
    found = judge(own, phantoms, split="test", tasks="routing")
    about = found.results["about"]
    assert about["warnings"] == []
    assert about["leak_check"] == "0 of 6 patients and 0 copied images of 6 images were trained on"
    assert found.results["details"]["audit"]["shared_patients"] == 0
    assert "warning" not in found.said.out


def test_patients_of_training_are_counted(own: Path, phantoms: Path):
    rows = len(library_rows(phantoms))
    found = judge(own, phantoms, tasks="routing")
    audit = found.results["details"]["audit"]
    told = (
        f"{audit['shared_patients']} of 36 judged patients ({audit['images_of_shared_patients']} images) "
        "were trained on: figures on them say nothing of new patients"
    )
    assert found.warning == told
    assert audit["shared_patients"] == len({patient for split, patient in library_rows(phantoms) if split == "train"})
    assert audit["judged_images"] == rows


def library_rows(folder: Path) -> list[tuple[str, str]]:
    from pyarrow.parquet import read_table

    table = read_table(folder / "manifest.parquet").to_pydict()
    return list(zip(table["split"], table["patient_id"], strict=True))


def test_copies_under_other_patients_are_counted(own: Path, phantoms: Path, tmp_path: Path):
    from pyarrow.parquet import read_table

    rows = [row for row in read_table(phantoms / "manifest.parquet").to_pylist() if row["split"] == "train"][:8]
    new = []
    for number, row in enumerate(rows):
        (tmp_path / f"{number}.png").write_bytes((phantoms / row["image"]).read_bytes())
        new.append({"image": f"{number}.png", "modality": row["modality"], "patient_id": f"new{number}"})
    found = judge(own, write_manifest(tmp_path, new), tasks="routing")
    assert found.warning == "8 images of 8 are copies of images that were trained on, under other patients"
    assert found.results["details"]["audit"]["shared_patients"] == 0


def test_the_report_of_a_leak_warns_once_and_shows_the_audit(own: Path, phantoms: Path, tmp_path: Path):
    judge(own, phantoms, tasks="routing")
    said = medmoe("report", own, "--out", tmp_path / "page.html", "--heatmaps", 0)
    assert [line for line in said.out.splitlines() if "trained on" in line and "warning" in line] == [
        said.out.splitlines()[0]
    ]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.index("were trained on") < page.index("<nav>")
    assert "Data-leak audit" in page


def test_a_model_saved_without_its_run_says_that_it_can_not_be_looked_at(run: Path, phantoms: Path, tmp_path: Path):
    alone = tmp_path / "alone"
    library.from_pretrained(run).save_pretrained(alone)
    found = judge(alone, phantoms, tasks="routing").results
    assert found["about"]["warnings"] == []
    assert found["about"]["leak_check"] == (
        f"not possible: {alone}, which lies in no run that has one, keeps no record of what it was trained on"
    )
    assert "audit" not in found["details"]


def test_a_spoilt_record_stops(own: Path, phantoms: Path):
    truncate(own / "trained_on.json")
    told = judge(own, phantoms).said.mistake
    assert told.startswith(f"{own.resolve() / 'trained_on.json'}: isn't JSON: ")


# Prompts and labels


def test_a_class_without_prompts_is_left_out_and_chance_counts_the_others(own: Path, tmp_path: Path):
    labels = ("mass", "nodule", "effusion")
    rows = image_rows(tmp_path, 36)
    for number, row in enumerate(rows):
        row["label"] = labels[number // 2 % 3]
    path = write_manifest(tmp_path, rows)
    mine = prompts(tmp_path, {name: [f"There is {name}."] for name in labels[:2]})
    found = judge(own, path, "--prompts", mine)
    (xray, ct) = found.results["about"]["warnings"]
    assert xray == (
        f"the prompts of {mine} lack classes of ct: 'effusion' (6 images). "
        "They are left out, and chance counts the remaining classes only (mass, nodule)"
    )
    assert "lack classes of xray: 'effusion' (6 images)" in ct
    figure = found.results["tasks"]["zeroshot_classification"]["balanced_accuracy"]
    assert figure["controls"]["chance"] == 0.5
    assert figure["n"] == 24
    (group, _) = found.results["details"]["zeroshot_classification"]["groups"]
    assert group["classes"] == {"mass": 6, "nodule": 6}
    whole = prompts(tmp_path, {name: [f"There is {name}."] for name in labels})
    full = judge(own, path, "--prompts", whole).results
    assert full["about"]["warnings"] == []
    assert full["tasks"]["zeroshot_classification"]["balanced_accuracy"]["controls"]["chance"] == pytest.approx(1 / 3)


def test_a_modality_without_prompts_is_not_judged(own: Path, tmp_path: Path):
    mine = prompts(tmp_path, {f"ct/{name}": [f"There is {name}."] for name in LABELS})
    found = judge(own, findings(tmp_path), "--prompts", mine)
    assert found.warning == (
        f"the prompts of {mine} lack classes of xray: 'mass' (6 images), 'nodule' (6 images). "
        "Too few are left to tell apart: its images aren’t judged"
    )
    figures = found.results["tasks"]["zeroshot_classification"]
    assert "accuracy/xray" not in figures
    assert figures["accuracy"]["n"] == 12  # type: ignore[index]


def test_no_class_with_prompts_stops(own: Path, tmp_path: Path):
    mine = prompts(tmp_path, {"cyst": ["A cyst."], "mri/stone": ["A stone."]})
    told = judge(own, findings(tmp_path), "--prompts", mine).said.mistake
    assert told == (
        f"{mine}: none of the 2 labels of the data (mass, nodule) has a prompt; labels with prompts: cyst; "
        "give prompts for these labels, or correct the column of labels (--column label=NAME)"
    )


def test_a_class_that_only_general_sentences_word_is_named(own: Path, tmp_path: Path):
    found = judge(own, findings(tmp_path, ("mass", "left_hook")))
    first, second = found.results["about"]["warnings"]
    assert first == (
        "the built-in prompts lack classes of ct: 'left_hook' (6 images). "
        "General sentences stand in for what isn’t listed"
    )
    assert "of xray: 'left_hook' (6 images)" in second
    assert found.said.out.startswith(f"warning: {first}\nwarning: {second}\n")
    page = (own / "report.html").read_text(encoding="utf-8")
    assert page.count("no wording for") == 0


def test_labels_of_another_set_are_named_beside_the_known_ones(own: Path, tmp_path: Path):
    found = judge(own, findings(tmp_path, ("C34.1", "J18.9")))
    first, second = found.results["about"]["warnings"]
    assert first.startswith(
        "none of the 2 labels of the data (C34.1, J18.9) are listed in the built-in prompts (which list "
    )
    assert first.endswith(": labels of another data set? General sentences stand in for what isn’t listed")
    assert second.startswith("none of the 2 labels of the data (C34.1, J18.9) occurred in training (which had ")


def test_labels_are_not_looked_at_where_no_task_reads_them(own: Path, tmp_path: Path):
    assert judge(own, findings(tmp_path, ("C34.1", "J18.9")), tasks="routing").results["about"]["warnings"] == []


# Preprocessing


def rewrite(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def edit_step(path: Path, step: str, **values: object) -> None:
    steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
    rewrite(path, steps=[{**one, **values} if one["step"] == step else one for one in steps])


@pytest.mark.parametrize("change", ["step", "fingerprint"])
def test_an_edited_declaration_of_preprocessing_names_both_fingerprints(own: Path, phantoms: Path, change: str):
    path = own / "model" / "preprocess.json"
    if change == "step":
        edit_step(path, "resize", interpolation="bicubic")
    else:
        rewrite(path, fingerprint="0123456789abcdef")
    declared = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
    found = judge(own, phantoms, tasks="routing", split="test")
    used = found.results["about"]["preprocess_fingerprint"]
    assert used != declared
    assert found.warning.startswith(
        f"the model’s preprocess.json bears the fingerprint {declared}, but what it says has "
    )
    said = medmoe("report", own, "--out", own / "page.html", "--heatmaps", 0)
    assert said.out.count(declared) == 1


def test_a_machine_that_prepares_images_otherwise_is_told_with_the_step(own: Path, phantoms: Path):
    path = own / "model" / "preprocess.json"
    rewrite(path, libraries={"torch": "1", "pydicom": "3"})
    rewrite(path, fingerprint=fingerprint_of(json.loads(path.read_text(encoding="utf-8"))))
    found = judge(own, phantoms, tasks="routing", split="test")
    assert found.warning.startswith("this machine prepares images otherwise than the model’s did (")
    assert found.warning.endswith("): library torch: release 1 and 2")


def test_preprocessing_of_another_image_size_stops(own: Path, phantoms: Path):
    edit_step(own / "model" / "preprocess.json", "resize", longest_side=48)
    edit_step(own / "model" / "preprocess.json", "pad", side=48)
    assert judge(own, phantoms).said.mistake == (
        f"{own / 'model' / 'preprocess.json'}: image_size 48, but that of config.json is 32; "
        "restore the file that was edited, or save the model again"
    )


# Modalities that the model lacks, and which data it was


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    """Give 24 images, of which six are of a modality that the model lacks."""
    rows = image_rows(tmp_path, 24)
    for row in rows[:6]:
        row["modality"] = "oct"
    return write_manifest(tmp_path, rows)


def test_foreign_modalities_are_for_the_gate_and_refused_without_it(own: Path, strangers: Path):
    assert judge(own, strangers, tasks="routing").said.mistake.startswith("manifest.csv:1: unknown modality 'oct'")
    found = judge(own, strangers, tasks="routing,ood,zeroshot_retrieval").results
    assert found["details"]["ood"]["unknown"]["modalities"] == 6
    assert found["details"]["routing"]["outside"] == {"oct": 6}
    assert found["tasks"]["zeroshot_retrieval"]["overall_report_to_image_recall@1"]["n"] == 18
    assert found["details"]["zeroshot_retrieval"]["foreign"] == {"oct": 6}
    assert "modalities that the model doesn’t know: oct (6 images)" in (own / "report.html").read_text("utf-8").replace(
        "Modalities", "modalities"
    )


def test_foreign_modalities_are_admitted_by_the_flag(own: Path, strangers: Path):
    found = judge(own, strangers, "--foreign", tasks="routing").results
    assert found["tasks"]["routing"]["image_router_accuracy"]["n"] == 18
    assert found["about"]["images"] == 24


def test_the_fingerprint_of_the_data_tells_whether_two_results_are_of_the_same(own: Path, tmp_path: Path):
    path = findings(tmp_path)
    first, again = (judge(own, path, tasks="routing").results["about"]["data_fingerprint"] for _ in range(2))
    other = judge(own, findings(tmp_path, ("nodule", "mass")), tasks="routing").results["about"]["data_fingerprint"]
    assert first == again != other
    assert str(other) in (own / "report.html").read_text(encoding="utf-8")
