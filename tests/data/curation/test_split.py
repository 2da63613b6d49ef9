import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medmoe.data.curation.sheet import Sheet, read_sheet
from medmoe.data.curation.split import check_fractions, deal, kept_from, units_of
from medmoe.data.sources.manifest import ManifestSource
from medmoe.errors import ConfigError, DataError
from micro import medmoe, write_manifest

HALVES = {"train": 0.5, "test": 0.5}
USUAL = {"train": 0.8, "val": 0.1, "test": 0.1}


def patients(count: int, *, first: int = 0, seed: int = 0) -> list[dict[str, str]]:
    """Make rows of patients with one to four images of one modality, and labels some of which are rare."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(first, first + count):
        modality = ("xray", "ct", "mri")[rng.integers(0, 3)]
        for image in range(rng.integers(1, 5)):
            label = ("normal", "mass", "mass;edema", "rare")[rng.choice(4, p=[0.5, 0.3, 0.15, 0.05])]
            name = f"{patient}-{image}.png"
            rows.append({"image": name, "modality": modality, "label": label, "patient_id": f"p{patient}"})
    return rows


def sheet(rows: list[dict[str, str]], path: Path = Path("m.csv")) -> Sheet:
    names = dict.fromkeys(name for row in rows for name in row)
    return Sheet(path, {name: [row.get(name) for row in rows] for name in names}, len(rows))


def dealt(rows: list[dict[str, str]], wanted: dict[str, float] = USUAL, **how) -> list[str]:
    kept = how.pop("kept", None)
    by_hash = how.pop("by_hash", False)
    one = sheet(rows)
    return deal(one, units_of(one, **how), wanted, kept=kept, by_hash=by_hash).splits


def by_patient(rows: list[dict[str, str]], splits: list[str]) -> dict[str, str]:
    return {row["patient_id"]: split for row, split in zip(rows, splits, strict=True)}


@pytest.mark.parametrize("by_hash", [False, True])
def test_a_patient_is_in_one_split(by_hash: bool):
    rows = patients(200)
    placed = set(zip((row["patient_id"] for row in rows), dealt(rows, by_hash=by_hash), strict=True))
    assert len(placed) == 200


def test_shares_are_kept_overall_and_within_each_modality_and_label():
    rows = patients(600)
    one = sheet(rows)
    table = deal(one, units_of(one), USUAL).table()
    for line in table:
        total = sum(line[name]["patients"] for name in USUAL)
        for name, share in USUAL.items():
            # A patient has up to five features, each pulling its own way: a few patients off is what that leaves.
            assert abs(line[name]["patients"] - share * total) <= 3 + 0.03 * total, line


def test_a_rare_label_reaches_the_test_split():
    rows = [{"image": f"{n}.png", "modality": "ct", "label": "rare" if n < 4 else "usual"} for n in range(100)]
    splits = dealt(rows, HALVES)
    assert Counter(splits[:4]) == {"train": 2, "test": 2}


def test_the_order_of_rows_does_not_matter():
    rows = patients(120)
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = [rows[at] for at in order]
    assert by_patient(shuffled, dealt(shuffled)) == by_patient(rows, dealt(rows))


def test_the_seed_decides():
    rows = patients(100)
    assert dealt(rows, seed=1) == dealt(rows, seed=1)
    assert dealt(rows, seed=1) != dealt(rows, seed=2)


def test_appended_patients_leave_the_others_where_they_are_and_even_the_shares_out():
    old = patients(60)
    before = dealt(old)
    rows = old + patients(240, first=60, seed=5)
    after = dealt(rows, kept=[*before, *[None] * (len(rows) - len(old))])
    assert after[: len(old)] == before
    shares = Counter(by_patient(rows, after).values())
    assert abs(shares["test"] / 300 - 0.1) < 0.02


def test_new_images_of_a_patient_of_the_test_split_go_there():
    rows = [{"image": "a", "patient_id": "p"}, {"image": "b", "patient_id": "p"}, {"image": "c", "patient_id": "q"}]
    assert dealt(rows, HALVES, kept=["test", None, "train"]) == ["test", "test", "train"]


def test_by_hash_nobody_moves_whatever_is_added():
    old = patients(80)
    rows = patients(300, first=80, seed=3) + old
    before, after = by_patient(old, dealt(old, by_hash=True)), by_patient(rows, dealt(rows, by_hash=True))
    assert {patient: after[patient] for patient in before} == before
    assert abs(Counter(after.values())["train"] / len(after) - 0.8) < 0.06


def test_an_id_is_a_patients_within_its_data_set():
    rows = [{"image": f"{n}.png", "patient_id": "1", "source": "ab"[n % 2]} for n in range(4)]
    units = units_of(sheet(rows))
    assert sorted(unit.rows for unit in units) == [(0, 2), (1, 3)]


def test_rows_without_a_patient_go_with_their_study_or_their_picture():
    rows = [{"image": "a", "study_id": "s"}, {"image": "b", "study_id": "s"}, {"image": "c"}, {"image": "c"}]
    assert sorted(unit.rows for unit in units_of(sheet(rows))) == [(0, 1), (2, 3)]


def test_joined_patients_and_equal_values_of_another_column_stay_together():
    rows = [{"image": str(n), "patient_id": str(n)} for n in range(6)]
    assert sorted(unit.rows for unit in units_of(sheet(rows), joined=[(0, 3), (3, 5)])) == [(0, 3, 5), (1,), (2,), (4,)]
    groups = ["x", None, "x", None, "y", "y"]
    assert sorted(unit.rows for unit in units_of(sheet(rows), by=groups)) == [(0, 2), (1,), (3,), (4, 5)]


def test_joined_patients_that_were_kept_apart_are_counted_and_stay():
    rows = [{"image": str(n), "patient_id": str(n)} for n in range(3)]
    one = sheet(rows)
    found = deal(one, units_of(one, joined=[(0, 1), (1, 2)]), HALVES, kept=["train", "test", None])
    assert found.splits[:2] == ["train", "test"]
    assert found.torn == 1


def test_a_patient_kept_in_two_splits_is_refused_by_rows():
    rows = [{"image": "a", "patient_id": "Smith"}, {"image": "b", "patient_id": "Smith"}]
    with pytest.raises(DataError, match=r"m\.csv:2: .* row 1 in 'train'") as caught:
        dealt(rows, HALVES, kept=["train", "test"])
    assert "Smith" not in str(caught.value)


def test_a_kept_split_that_is_not_wanted_is_refused():
    with pytest.raises(DataError, match=r"m\.csv:1: split 'dev' isn't among train, test"):
        dealt([{"image": "a"}], HALVES, kept=["dev"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train=0.8,test=0.3", "add up to 1.1, not 1"),
        ("train=1,test=0", "above 0"),
        ("train=-1,test=2", "above 0"),
        ("train=half,test=half", "NAME=SHARE"),
        ("train", "NAME=SHARE"),
        ("train=nan", "above 0"),
        ("train=0.5,train=0.5", "twice"),
    ],
)
def test_impossible_fractions_are_refused(text: str, said: str):
    with pytest.raises(ConfigError, match=said):
        check_fractions(text)


def test_splits_are_taken_over_from_an_earlier_manifest_by_patient_study_and_picture(tmp_path: Path):
    (tmp_path / "old").mkdir()
    old = [
        {"image": "../a.png", "patient_id": "p", "split": "test"},
        {"image": "../b.png", "study_id": "s", "split": "train"},
        {"image": "../c.png", "split": "test"},
    ]
    new = [
        {"image": "new.png", "patient_id": "p"},
        {"image": "c.png"},
        {"image": "d.png", "study_id": "s"},
        {"image": "e.png"},
    ]
    before, now = read_sheet(write_manifest(tmp_path / "old", old)), read_sheet(write_manifest(tmp_path, new))
    assert kept_from(before, now) == ["test", "test", "train", None]


# The command


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_a_manifest_that_opens_by_split_from_another_folder(tmp_path: Path):
    from micro import image_rows

    rows = [row | {"age": str(40 + n)} for n, row in enumerate(image_rows(tmp_path, 20))]
    manifest = write_manifest(tmp_path, rows)
    out = tmp_path / "splits" / "first.csv"
    said = medmoe("data", "split", manifest, "--out", out, "--json", tmp_path / "s.json")
    assert said.code == 0, said
    assert "80.0% wanted" in said.out
    written = table(out)
    assert [row["age"] for row in written] == [row["age"] for row in rows]
    train = ManifestSource(out, split="train")
    assert len(train) == 16
    assert train[0].image.shape == (32, 32)
    assert json.loads((tmp_path / "s.json").read_text())["table"][0]["train"] == {
        "patients": 16, "share": 0.8, "rows": 16
    }  # fmt: skip


def test_the_command_keeps_what_a_grown_manifest_has(tmp_path: Path):
    first = write_manifest(tmp_path, patients(50))
    assert medmoe("data", "split", first, "--out", tmp_path / "one.csv").code == 0
    old = table(tmp_path / "one.csv")
    grown = write_manifest(tmp_path, [*patients(30, first=50, seed=8), *patients(50)])
    assert medmoe("data", "split", grown, "--keep", tmp_path / "one.csv", "--out", tmp_path / "two.csv").code == 0
    now = {row["patient_id"]: row["split"] for row in table(tmp_path / "two.csv")}
    assert all(now[row["patient_id"]] == row["split"] for row in old)
    assert medmoe("data", "split", tmp_path / "two.csv", "--out", tmp_path / "three.csv").code == 0
    assert table(tmp_path / "three.csv") == table(tmp_path / "two.csv")
    assert medmoe("data", "split", tmp_path / "two.csv", "--afresh", "--seed", 9, "--out", tmp_path / "4.csv").code == 0
    assert table(tmp_path / "4.csv") != table(tmp_path / "two.csv")


def test_the_command_refuses_what_it_cannot_do(tmp_path: Path):
    manifest = write_manifest(tmp_path, patients(5))
    out = tmp_path / "out.csv"
    assert "is there already" in medmoe("data", "split", manifest, "--out", manifest).mistake
    assert "no such manifest" in medmoe("data", "split", tmp_path / "none.csv", "--out", out).mistake
    assert "no column 'group'" in medmoe("data", "split", manifest, "--by", "group", "--out", out).mistake
    assert "add up to" in medmoe("data", "split", manifest, "--fractions", "a=0.5", "--out", out).mistake
    assert "opposites" in medmoe("data", "split", manifest, "--afresh", "--keep", manifest, "--out", out).mistake
    assert "no splits to keep" in medmoe("data", "split", manifest, "--keep", manifest, "--out", out).mistake
    assert "kind of manifest" in medmoe("data", "split", manifest, "--out", tmp_path / "out.xlsx").mistake
    assert not out.exists()
