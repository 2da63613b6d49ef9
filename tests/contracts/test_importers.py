"""What every row of `IMPORTERS` keeps: the published layout becomes a manifest that opens, by patient, with facts."""

from __future__ import annotations

import contextlib
import json
import random
from collections import defaultdict
from pathlib import Path

import pytest

from importer_layouts import LAYOUTS
from medmoe.data.importers import IMPORTERS
from medmoe.data.importers.run import Outcome, import_set
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.manifest_write import read_all
from medmoe.errors import DataError, UserError
from medmoe.modalities import MODALITIES, resolve

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "public-data.md"
NAMES = sorted(IMPORTERS)
SUFFIXES = {".jpg", ".jpeg", ".png", ".dcm", ".tiff", ".npy"}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    """Give, for each row, the data set's folder and what its import came to; the manifest lies elsewhere."""
    outcomes = {}
    for name in NAMES:
        root = tmp_path_factory.mktemp(name)
        LAYOUTS[name](root / "published")
        outcomes[name] = root / "published", import_set(IMPORTERS[name], root / "published", root / "out" / "m.parquet")
    return outcomes


def sources(imported: dict[str, tuple[Path, Outcome]], name: str) -> ManifestSource:
    return ManifestSource(imported[name][1].manifest, check_files=True)


def test_every_row_has_a_published_layout_and_every_layout_a_row():
    assert set(LAYOUTS) == set(IMPORTERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_says_where_its_data_come_from_and_what_one_may_do_with_them(name: str):
    row = IMPORTERS[name]
    assert row.name == name
    assert row.url.startswith(("https://", "http://"))
    assert row.modality in (*MODALITIES, "several")
    assert all((row.title, row.terms, row.needs, row.splits))
    assert all(not o.allowed or o.default in o.allowed for o in row.options.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_page_on_public_data_describes_a_row_as_it_is(name: str):
    row = IMPORTERS[name]
    needs = row.needs.replace("*", r"\*")  # else Markdown takes two for italics
    line = f"| `{name}` | [{row.title}]({row.url}) | {row.modality} | {needs} | {row.splits} | {row.terms} |"
    assert line in PAGE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_of_the_manifest_reads(name: str, imported: dict[str, tuple[Path, Outcome]]):
    source = sources(imported, name)
    assert len(source) == imported[name][1].rows > 0
    for sample in map(source.__getitem__, range(len(source))):
        assert sample.image.size > 0
        assert sample.mask is None or sample.mask.shape == sample.image.shape[:2]


@pytest.mark.parametrize("name", NAMES)
def test_no_patient_is_in_two_splits(name: str, imported: dict[str, tuple[Path, Outcome]]):
    splits = defaultdict(set)
    for row in read_all(imported[name][1].manifest).to_pylist():
        if row.get("patient_id") and row.get("split"):
            splits[row["source"], row["patient_id"]].add(row["split"])
            assert row["split"] in ("train", "val", "test")
    assert all(len(own) == 1 for own in splits.values())


@pytest.mark.parametrize("name", NAMES)
def test_modalities_are_ours_and_are_those_the_row_names(name: str, imported: dict[str, tuple[Path, Outcome]]):
    found = {row.get("modality") for row in read_all(imported[name][1].manifest).to_pylist()}
    assert {resolve(one) for one in found if one} == found - {None}
    if IMPORTERS[name].modality != "several":
        assert found == {IMPORTERS[name].modality}


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_reports_or_questions_and_labels_become_reports(
    name: str, imported: dict[str, tuple[Path, Outcome]]
):
    source = sources(imported, name)
    facts = [source.facts(at) for at in range(len(source))]
    assert any(one.report or one.question for one in facts)
    for one in facts:
        assert one.labels is None or one.report
        assert one.from_template == (one.labels is not None and read_text(source, one.key) is None)


def read_text(source: ManifestSource, key: str) -> str | None:
    row = read_all(source.path).to_pylist()[int(key.rsplit(":")[-1]) - 1]
    text: str | None = row.get("text")
    return text


@pytest.mark.parametrize("name", NAMES)
def test_each_row_says_its_source_and_licence(name: str, imported: dict[str, tuple[Path, Outcome]]):
    for row in read_all(imported[name][1].manifest).to_pylist():
        assert row["source"]
        assert row["license"]


@pytest.mark.parametrize("name", NAMES)
def test_another_folder_is_refused_with_what_was_looked_for(name: str, tmp_path: Path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "readme.txt").write_text("nothing of the kind")
    with pytest.raises(DataError, match=r"found none of \S|looked for \S"):
        import_set(IMPORTERS[name], tmp_path / "holiday", tmp_path / "m.parquet")
    assert not (tmp_path / "m.parquet").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_not_there_is_refused(name: str, tmp_path: Path):
    with pytest.raises(DataError, match=r"no such|found none of"):
        import_set(IMPORTERS[name], tmp_path / "nowhere", tmp_path / "m.parquet")


LISTED = sorted(set(NAMES) - {"medmnist", "busi"})  # there the images themselves are the list


@pytest.mark.parametrize("name", [name for name in LISTED if name != "tn3k"])
def test_a_missing_image_is_listed_with_its_row_and_left_out(name: str, tmp_path: Path):
    folder = tmp_path / "published"
    LAYOUTS[name](folder)
    whole = import_set(IMPORTERS[name], folder, tmp_path / "whole.parquet")
    gone = next(path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES and "label" not in str(path))
    gone.unlink()
    outcome = import_set(IMPORTERS[name], folder, tmp_path / "m.parquet")
    assert outcome.rows < whole.rows
    assert outcome.quarantine is not None
    listed = [json.loads(line) for line in outcome.quarantine.read_text().splitlines()]
    assert len(listed) == outcome.missing == whole.rows - outcome.rows
    assert {Path(row["image"]).name for row in listed} == {gone.name}
    assert all(Path(row["where"].rsplit(":", 1)[0]).exists() or Path(row["where"]).exists() for row in listed)
    ManifestSource(outcome.manifest, check_files=True)
    with pytest.raises(DataError, match="does not exist") as error:
        import_set(IMPORTERS[name], folder, tmp_path / "strict.parquet", strict=True)
    assert error.value.where == listed[0]["where"]
    assert not (tmp_path / "strict.parquet").exists()


TABLES = {".csv", ".gz", ".json", ".jsonl", ".xml", ".txt", ".npz", ".npy", ".yaml"}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "busi"])  # which has no table
def test_a_damaged_table_is_read_or_told_never_a_crash(name: str, tmp_path: Path):
    rng, folder = random.Random(name), tmp_path / "published"
    LAYOUTS[name](folder)
    tables = sorted(path for path in folder.rglob("*") if path.suffix in TABLES)
    for _ in range(12):
        path = rng.choice(tables)
        whole = path.read_bytes()
        at, more = rng.randrange(len(whole)), rng.choice((b"", b",", b'"', b"\n", b"\0", b"null", b"\xff", b"[", b"-"))
        path.write_bytes(whole[:at] + more + whole[at + rng.choice((0, 1, 20, len(whole))) :])
        with contextlib.suppress(UserError):
            import_set(IMPORTERS[name], folder, tmp_path / "m.parquet")
        path.write_bytes(whole)
    assert import_set(IMPORTERS[name], folder, tmp_path / "m.parquet").rows > 0
