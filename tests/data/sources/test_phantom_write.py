"""A written phantom folder must hold the same truth as the source, in the manifest's form."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.phantom import PhantomSource, write_phantoms
from medmoe.data.sources.phantom_write import COLUMNS, write_folder
from medmoe.errors import DataError

PATIENTS = 60


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "out", patients=PATIENTS, size=40, seed=4)


@pytest.fixture(scope="module")
def rows(manifest):
    return pq.read_table(manifest).to_pylist()


@pytest.fixture(scope="module")
def source():
    return PhantomSource(PATIENTS, size=40, seed=4)


def test_the_manifest_has_the_columns_and_a_row_for_each_image(manifest, rows, source):
    assert pq.read_schema(manifest).names == COLUMNS.names
    assert len(rows) == len(source)
    assert len({row["image"] for row in rows}) == len(rows)


def test_files_hold_the_pixels_of_the_source(manifest, rows, source):
    for i in range(0, len(rows), 5):
        sample = source[i]
        assert np.array_equal(np.asarray(Image.open(manifest.parent / rows[i]["image"])), sample.image)
        assert np.array_equal(np.asarray(Image.open(manifest.parent / rows[i]["mask"])) > 0, sample.mask)
        gaze = np.asarray(Image.open(manifest.parent / rows[i]["gaze"])) / 255
        assert np.abs(gaze - sample.gaze).max() <= 0.5 / 255 + 1e-6


def test_rows_say_what_the_source_knows(rows, source):
    for i, row in enumerate(rows):
        fact = source.facts(i)
        assert row["text"] == fact.report
        assert row["label"] == (";".join(fact.labels) or "no_finding")
        columns = ("modality", "patient_id", "study_id", "view", "offset_days", "domain")
        known = (fact.modality, fact.patient, fact.study, fact.view, fact.offset_days, fact.domain)
        assert tuple(row[name] for name in columns) == known
        assert (row["source"], row["license"]) == ("phantom", "CC0-1.0 (generated)")
        boxes = json.loads(row["boxes"])
        assert [b["phrase"] for b in boxes] == [b.phrase for b in fact.boxes]
        assert [b["xyxy"] for b in boxes] == [[round(e * 40) for e in (b.x0, b.y0, b.x1, b.y1)] for b in fact.boxes]


def test_a_prior_is_the_image_of_the_same_patients_first_study(rows):
    by_image = {row["image"]: row for row in rows}
    later = [row for row in rows if row["prior"]]
    assert later
    assert all(by_image[row["prior"]]["patient_id"] == row["patient_id"] for row in later)


def test_splits_go_by_patient_and_keep_their_shares_in_each_modality(rows):
    split = {}
    for row in rows:
        assert split.setdefault((row["modality"], row["patient_id"]), row["split"]) == row["split"]
    for modality in {row["modality"] for row in rows}:
        own = [s for (m, _), s in split.items() if m == modality]
        assert {name: own.count(name) for name in ("train", "val", "test")} == {"train": 8, "val": 1, "test": 1}


def test_the_manifest_source_reads_back_the_same_samples(manifest, source):
    read = ManifestSource(manifest)
    assert len(read) == len(source)
    for i in range(0, len(source), 9):
        ours, theirs = source[i], read[i]
        assert np.array_equal(ours.image, theirs.image)
        assert np.array_equal(ours.mask, theirs.mask)
        assert (ours.report, ours.labels, ours.modality, ours.patient) == (
            theirs.report, theirs.labels, theirs.modality, theirs.patient,
        )  # fmt: skip
        for a, b in zip(ours.boxes, theirs.boxes, strict=True):
            assert (a.label, a.phrase) == (b.label, b.phrase)
            assert np.allclose([a.x0, a.y0, a.x1, a.y1], [b.x0, b.y0, b.x1, b.y1])


def test_the_folder_says_that_nothing_in_it_is_a_patient(manifest):
    assert "not patients" in (manifest.parent / "README.txt").read_text(encoding="utf-8")


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match=r"in use; choose a new folder"):
        write_phantoms(tmp_path, patients=2)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(DataError, match="in use"):
        write_phantoms(tmp_path / "mine.txt", patients=2)


@pytest.mark.parametrize("splits", [{}, {"train": 0.5}, {"train": 1.5, "test": -0.5}])
def test_shares_that_do_not_add_up_are_refused(tmp_path, splits):
    with pytest.raises(DataError, match="add up to 1"):
        write_phantoms(tmp_path / "out", patients=2, splits=splits)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_and_a_single_split_are_fine(tmp_path):
    manifest = write_phantoms(tmp_path, patients=3, size=32, splits={"test": 1.0}, modalities=("ct",))
    rows = pq.read_table(manifest).to_pylist()
    assert {row["split"] for row in rows} == {"test"}
    assert {row["modality"] for row in rows} == {"ct"}


def test_a_source_without_masks_is_refused(tmp_path):
    class Bare(PhantomSource):
        def __getitem__(self, index):
            return self.facts(index)

    with pytest.raises(DataError, match=r"^phantom0-000000-0: mask, gaze or labels are missing"):
        write_folder(Bare(1, size=32), tmp_path / "out", splits={"a": 1.0}, seed=0, licence="", readme="")


@pytest.mark.slow
def test_workers_change_nothing(tmp_path):
    one, two = (write_phantoms(tmp_path / str(n), patients=7, size=32, workers=n) for n in (1, 2))
    assert pq.read_table(one).equals(pq.read_table(two))
    for path in sorted((one.parent / "images").iterdir()):
        assert path.read_bytes() == (two.parent / "images" / path.name).read_bytes()
