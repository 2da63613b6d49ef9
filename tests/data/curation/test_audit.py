import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmoe.data.curation.audit import Audit, Options, audit, joined_rows, rows_of, summary, to_json
from medmoe.data.curation.hashes import grey
from medmoe.data.curation.prints import Picture, take_prints
from medmoe.data.curation.sheet import read_sheet
from medmoe.data.sources.phantom import PhantomSource
from medmoe.errors import DataError
from medmoe.report.details import audit as audit_of_report
from medmoe.report.details import leaks
from micro import medmoe, write_manifest

REPORT = "There is a spiculated nodule of 9 mm in the apex of the right lung, new since the study of 2019-03-02."
OTHER = "A cyst of the left kidney measures 3 cm; its wall is thin, it takes no contrast and needs no follow-up at all."


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """One picture of each of six modalities: none is like another."""
    source = PhantomSource(patients=6, size=128, seed=1)
    return [grey(source[index].image) for index in {source.facts(i).patient: i for i in range(len(source))}.values()]


class Folder:
    """A folder of images with a manifest."""

    def __init__(self, path: Path, pictures: list[np.ndarray]) -> None:
        self.path, self.pictures = path, pictures
        self.rows: list[dict[str, str]] = []
        path.mkdir(exist_ok=True)

    def add(self, image: np.ndarray | int, split: str = "train", suffix: str = ".png", **more: str) -> str:
        """Write an image and its row."""
        pixels = self.pictures[image] if isinstance(image, int) else image
        name = f"{len(self.rows)}{suffix}"
        Image.fromarray(pixels).save(self.path / name)
        self.rows.append({"image": name, "split": split, "patient_id": f"p{len(self.rows)}"} | more)
        return name

    def write(self) -> Path:
        return write_manifest(self.path, [{k: v for k, v in row.items() if v is not None} for row in self.rows])

    def audit(self, *against: Path, **how) -> Audit:
        sheets = [read_sheet(self.write()), *map(read_sheet, against)]
        return audit(rows_of(sheets, within=how.get("within", False)), Options(**how))


@pytest.fixture
def folder(tmp_path: Path, pictures: list[np.ndarray]) -> Folder:
    return Folder(tmp_path / "data", pictures)


def told(found: Audit) -> list[tuple[str, int, int]]:
    """Give kind and the two rows, from 1, of each leak."""
    at = found.rows.places
    return [(pair.kind, at[pair.one][1] + 1, at[pair.other][1] + 1) for pair in found.pairs if pair.leak]


def test_splits_of_different_patients_and_pictures_share_nothing(folder: Folder):
    for number in range(6):
        folder.add(
            number, ("train", "val", "test")[number % 3], text=f"{REPORT} {OTHER}" if number == 0 else OTHER[:20]
        )
    found = folder.audit()
    assert found.pairs == []
    assert not found.leaks
    assert found.compared == 12


def test_a_patient_and_a_study_in_two_splits_are_found_by_their_rows(folder: Folder):
    folder.add(0, patient_id="Smith", study_id="s1")
    folder.add(1, patient_id="Jones")
    folder.add(2, "test", patient_id="Smith", study_id="s1")
    found = folder.audit()
    assert told(found) == [("shared patient", 1, 3), ("shared study", 1, 3)]


def test_one_id_in_two_data_sets_is_two_patients_but_without_a_name_it_is_one(folder: Folder):
    folder.add(0, patient_id="1", source="a")
    folder.add(1, "test", patient_id="1", source="b")
    assert told(folder.audit()) == []
    folder.add(2, "test", patient_id="1", source="")
    assert told(folder.audit()) == [("shared patient", 1, 3)]


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_the_same_pixels_are_found_however_they_are_stored(folder: Folder, suffix: str):
    folder.add(0)
    folder.add(1)
    folder.add(0, "test", suffix=suffix)
    assert told(folder.audit()) == [("identical image", 1, 3)]


def test_a_flipped_cropped_recoded_copy_is_found_and_how_it_lies(folder: Folder):
    image = folder.pictures[2]
    folder.add(0)
    folder.add(2)
    folder.add(1, "test")
    folder.add(np.ascontiguousarray(image[3:, ::-1][:, :-4]), "test", suffix=".jpg")
    found = folder.audit()
    assert told(found) == [("near-duplicate image", 2, 4)]
    assert found.pairs[0].orientation == "flipped left-right"
    assert found.pairs[0].likeness >= 0.8


def test_pictures_of_one_patient_are_told_as_the_patient_alone(folder: Folder):
    folder.add(0, patient_id="p", text=REPORT)
    folder.add(0, "test", patient_id="p", text=REPORT)
    assert told(folder.audit()) == [("shared patient", 1, 2)]


def test_pictures_without_patients_are_compared(folder: Folder):
    folder.add(0, patient_id="")
    folder.add(0, "test", patient_id="")
    assert told(folder.audit()) == [("identical image", 1, 2)]


def test_every_copy_in_the_test_split_is_listed_once(folder: Folder):
    folder.add(0)
    folder.add(0)
    folder.add(0, "test")
    folder.add(0, "test")
    assert told(folder.audit()) == [("identical image", 1, 3), ("identical image", 1, 4)]


def test_black_frames_are_no_copies(folder: Folder):
    folder.add(np.zeros((90, 90), np.uint8))
    folder.add(np.zeros((90, 90), np.uint8), "test")
    found = folder.audit()
    assert told(found) == []
    assert found.plain == 2


def test_a_copied_report_is_found_through_case_and_dates(folder: Folder):
    folder.add(0, text=REPORT)
    folder.add(1, text=OTHER)
    folder.add(2, "test", text=REPORT.upper().replace("2019-03-02", "1.1.2018").replace("  ", " "))
    folder.add(3, "test", text=OTHER.replace("thin", "thick"))
    found = folder.audit(overlap=0.7)
    assert sorted(told(found)) == [("near-duplicate report", 1, 3), ("near-duplicate report", 2, 4)]
    assert sorted(pair.likeness for pair in found.pairs)[1] == 1.0


def test_short_reports_and_templates_are_counted_and_left_out(folder: Folder):
    for number in range(7):
        text = "CT scan showing a cyst." if number == 6 else OTHER
        folder.add(np.roll(folder.pictures[0], 17 * number, 0), "train" if number else "test", text=text)
    found = folder.audit(likeness=1.0)
    assert [kind for kind, _, _ in told(found) if "report" in kind] == []
    assert (found.short, found.common) == (1, 6)


def test_an_evaluation_manifest_is_held_against_all_but_the_test_split(folder: Folder, tmp_path: Path):
    folder.add(0, "train")
    folder.add(1, "val")
    folder.add(2, "test")
    folder.add(3, None)
    other = Folder(tmp_path / "bench", folder.pictures)
    for number in (3, 2, 1, 0):
        other.add(number, None, patient_id=f"q{number}")
    found = folder.audit(other.write())
    assert sorted(told(found)) == [("identical image", n + 1, 4 - n) for n in (0, 1, 3)]


def test_pairs_within_a_split_are_listed_when_asked_for_and_are_no_leaks(folder: Folder):
    folder.add(0)
    folder.add(0)
    folder.add(np.ascontiguousarray(np.rot90(folder.pictures[0])))
    folder.rows = [{k: v for k, v in row.items() if k != "split"} for row in folder.rows]
    with pytest.raises(DataError, match="nothing to hold against each other: no splits"):
        folder.audit()
    found = folder.audit(within=True)
    assert not found.leaks
    pairs = {(pair.kind, pair.one, pair.other) for pair in found.pairs}
    assert pairs >= {("identical image", 0, 1), ("near-duplicate image", 0, 2)}


def test_an_image_that_cannot_be_read_is_told_and_the_rest_is_compared(folder: Folder):
    folder.add(0)
    folder.add(1)
    folder.add(0, "test")
    path = folder.write()
    (folder.path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (folder.path / "2.png").unlink()
    found = audit(rows_of([read_sheet(path)]))
    assert list(found.problems) == [1, 2]
    assert told(found) == []


def test_what_the_report_reads_counts_only_leaks(folder: Folder):
    folder.add(0)
    folder.add(0)
    folder.add(0, "test")
    found = folder.audit(within=True)
    plain = to_json(found, Options(within=True))
    assert json.loads(json.dumps(plain)) == plain
    read = audit_of_report(plain)
    assert read == summary(found)
    assert leaks(read) == [("identical images", 1.0)]
    assert len(plain["pairs"]) == 2


def test_joined_rows_are_those_of_this_manifest_that_share_a_picture(folder: Folder, tmp_path: Path):
    folder.add(0, text=REPORT)
    folder.add(1, text=REPORT)
    folder.add(0, "test")
    found = folder.audit(within=True)
    sheet, plain = found.rows.sheets[0], to_json(found, Options(within=True))
    assert [set(pair) for pair in joined_rows(plain, sheet, where="a.json")] == [{0, 2}]
    with pytest.raises(DataError, match="is no audit"):
        joined_rows({"pairs": []}, sheet, where="a.json")
    folder.add(2)
    grown = read_sheet(folder.write())
    with pytest.raises(DataError, match="with 3 rows, not of"):
        joined_rows(plain, grown, where="a.json")


# Prints


def test_a_second_audit_reads_no_image(folder: Folder, tmp_path: Path):
    for number in range(6):
        folder.add(number)
    pictures = [Picture(folder.path / row["image"]) for row in folder.rows]
    cache = tmp_path / "deep" / "prints.parquet"
    first, again = take_prints(pictures, cache=cache), take_prints(pictures, cache=cache)
    assert (first.cached, again.cached) == (0, 6)
    assert first.digests == again.digests
    assert np.array_equal(first.hashes, again.hashes)
    assert np.array_equal(first.thumbnails, again.thumbnails)


def test_a_file_that_changed_is_read_again_and_new_ones_are_added(folder: Folder, tmp_path: Path):
    folder.add(0)
    folder.add(1)
    pictures = [Picture(folder.path / row["image"]) for row in folder.rows]
    cache = tmp_path / "prints.parquet"
    before = take_prints(pictures[:1], cache=cache)
    Image.fromarray(folder.pictures[2]).save(pictures[0].path)
    os.utime(pictures[0].path, ns=(1, 1))
    after = take_prints(pictures, cache=cache)
    assert after.cached == 0
    assert after.digests[0] != before.digests[0]
    assert take_prints(pictures, cache=cache).cached == 2


def test_an_image_that_is_there_twice_is_read_once_and_printed_twice(folder: Folder):
    folder.add(0)
    picture = Picture(folder.path / "0.png")
    found = take_prints([picture, picture])
    assert found.digests[0] == found.digests[1]
    assert np.array_equal(found.thumbnails[0], found.thumbnails[1])


def test_processes_make_the_same_prints(folder: Folder, tmp_path: Path):
    for number in range(6):
        folder.add(number)
    for copy in range(70):
        shutil.copy(folder.path / f"{copy % 6}.png", folder.path / f"c{copy}.png")
    pictures = [Picture(folder.path / f"c{copy}.png") for copy in range(70)]
    assert take_prints(pictures, workers=2).digests == take_prints(pictures).digests


def test_another_file_is_not_taken_for_a_cache(folder: Folder, tmp_path: Path):
    folder.add(0)
    picture = Picture(folder.path / "0.png")
    (tmp_path / "other.parquet").write_text("hello")
    with pytest.raises(DataError, match="is no cache of an audit"):
        take_prints([picture], cache=tmp_path / "other.parquet")
    assert (tmp_path / "other.parquet").read_text() == "hello"
    with pytest.raises(DataError, match=r"isn't a \.parquet file"):
        take_prints([picture], cache=tmp_path / "cache.npz")


# The command


@pytest.mark.parametrize("name", ["audit", "split"])
def test_the_commands_explain_themselves(name: str):
    said = medmoe("data", name, "--help")
    assert said.code == 0
    assert "--json" in said.out


def test_the_command_exits_with_1_on_a_leak_and_names_rows_not_people(folder: Folder, tmp_path: Path):
    folder.add(0, patient_id="Smith", text=REPORT)
    folder.add(1, "test", patient_id="Smith")
    folder.add(0, "test", patient_id="Jones", text=REPORT)
    path, out = folder.write(), tmp_path / "audit.json"
    said = medmoe("data", "audit", path, "--json", out)
    assert said.code == 1
    assert f"shared patient: {path}:1 and {path}:2" in said.out
    assert f"identical image: {path}:1 and {path}:3" in said.out
    assert f"near-duplicate report: {path}:1 and {path}:3" in said.out
    for hidden in ("Smith", "Jones", "spiculated"):
        assert hidden not in said.out + out.read_text()
    assert json.loads(out.read_text())["audit"]["shared_patients"] == 1


def test_the_command_exits_with_0_without_a_leak_and_with_2_on_a_mistake(folder: Folder, tmp_path: Path):
    folder.add(0, name="x")
    folder.add(1, "test")
    path = folder.write()
    said = medmoe("data", "audit", path, "--cache", tmp_path / "c.parquet", "--workers", 2)
    assert said.code == 0, said
    assert "no leak was found; 2 rows, 1 pairs of images" in said.out
    assert "no such manifest" in medmoe("data", "audit", tmp_path / "no.csv").mistake
    assert "up to 1" in medmoe("data", "audit", path, "--likeness", 1.5).mistake
    assert "0 or more" in medmoe("data", "audit", path, "--distance", -1).mistake
    assert "unknown column" in medmoe("data", "audit", path, "--column", "split=fold").mistake


def test_columns_of_other_names_are_mapped(folder: Folder):
    folder.add(0, patient_id="a")
    folder.add(1, "test", patient_id="a")
    path = folder.write()
    with path.open(newline="") as file:
        rows = [{"file": r["image"], "fold": r["split"], "who": r["patient_id"]} for r in csv.DictReader(file)]
    mapped = ("--column", "image=file", "--column", "split=fold", "--column", "patient_id=who")
    assert medmoe("data", "audit", write_manifest(folder.path, rows), *mapped).code == 1


def test_splitting_by_an_audit_keeps_copies_together(folder: Folder, tmp_path: Path):
    for number in range(12):
        folder.add(number % 6, "")
    path = folder.write()
    out, splits = tmp_path / "a.json", tmp_path / "data" / "split.csv"
    assert medmoe("data", "audit", path, "--within", "--json", out).code == 0
    args = ("--fractions", "train=0.5,test=0.5", "--joined", out)
    assert medmoe("data", "split", path, "--out", splits, *args).code == 0
    assert medmoe("data", "audit", splits).code == 0
    with splits.open(newline="") as file:
        found = [row["split"] for row in csv.DictReader(file)]
    assert found[:6] == found[6:]
    assert set(found) == {"train", "test"}
