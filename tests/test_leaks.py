"""A run remembers whom it was trained on, without saying who they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from medmoe.data.sources.base import content_of
from medmoe.data.sources.concat import ConcatSource
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.phantom import PhantomSource
from medmoe.errors import ModelError
from medmoe.leaks import RECORD, Overlap, overlap, read_record, recall, remember
from medmoe.types import Sample
from micro import image_rows, truncate, write_manifest
from small_runs import Memory


def sample(number: int, patient: str | None, source: str | None = "set", **more: object) -> Sample:
    image = np.random.default_rng(number).integers(0, 255, (4, 5), np.uint8)
    return Sample(key=f"k{number}", image=image, patient=patient, source=source, **more)  # type: ignore[arg-type]


TRAINED = Memory([sample(1, "Ada Byron"), sample(2, "Ada Byron"), sample(3, "p3"), sample(4, None)])


def remembered(folder: Path, source: Memory = TRAINED, **init: str) -> Path:
    folder.mkdir(exist_ok=True)
    remember(folder, source, init=init)
    return folder


def compared(folder: Path, *judged: Sample) -> Overlap:
    trained = recall(folder)
    assert trained is not None
    return overlap(trained, Memory(judged))


def test_shared_patients_are_counted_with_their_images(tmp_path: Path):
    found = compared(remembered(tmp_path), sample(7, "Ada Byron"), sample(8, "Ada Byron"), sample(9, "p4"))
    assert found == Overlap(patients=2, images=3, shared_patients=1, their_images=2, copies=0)


def test_a_copy_under_another_patient_is_found_and_one_under_its_own_counts_once(tmp_path: Path):
    folder = remembered(tmp_path)
    assert compared(folder, sample(3, "p9"), sample(4, None), sample(3, "p3")) == Overlap(2, 3, 1, 1, 2)


def test_of_more_images_than_can_be_read_only_the_patients_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medmoe.leaks.MOST_IMAGES", 3)
    found = compared(remembered(tmp_path), sample(3, "p9"), sample(7, "p3"))
    assert found == Overlap(patients=2, images=2, shared_patients=1, their_images=1, copies=0)


def test_one_changed_pixel_is_no_copy(tmp_path: Path):
    image = TRAINED[2].image.copy()
    image[0, 0] ^= 1
    assert compared(remembered(tmp_path), dataclasses.replace(sample(3, "p9"), image=image)).copies == 0


def test_the_same_id_in_another_data_set_is_another_patient_unless_a_side_is_unnamed(tmp_path: Path):
    folder = remembered(tmp_path)
    assert compared(folder, sample(7, "p3", "other")).shared_patients == 0
    assert compared(folder, sample(7, "p3", None)).shared_patients == 1
    unnamed = remembered(tmp_path / "unnamed", Memory([sample(1, "p3", None)]))
    assert compared(unnamed, sample(7, "p3", "other")).shared_patients == 1


def test_the_record_holds_no_id_and_no_hash_that_another_run_has(tmp_path: Path):
    one, other = (remembered(tmp_path / name) / RECORD for name in ("one", "other"))
    assert "Ada" not in one.read_text(encoding="utf-8")
    (mine,), (theirs,) = (read_record(path).records for path in (one, other))
    assert mine.key != theirs.key
    for name in ("patients", "ids", "images"):
        assert getattr(mine, name).isdisjoint(getattr(theirs, name))
    assert (len(mine.patients), len(mine.ids), len(mine.images)) == (2, 2, 4)


def test_a_run_that_goes_on_adds_to_its_record(tmp_path: Path):
    remembered(tmp_path)
    key = json.loads((tmp_path / RECORD).read_text(encoding="utf-8"))["records"][0]["key"]
    remembered(tmp_path, Memory([sample(5, "p5")]))
    assert json.loads((tmp_path / RECORD).read_text(encoding="utf-8"))["records"][0]["key"] == key
    assert compared(tmp_path, sample(8, "p5"), sample(9, "p3")).shared_patients == 2


def test_what_the_weights_were_trained_on_before_counts_too(tmp_path: Path):
    first = remembered(tmp_path / "first")
    (first / "model").mkdir()
    second = remembered(tmp_path / "second", Memory([sample(5, "p5")]), model=str(first / "model"), text="somewhere")
    found = recall(second)
    assert found is not None
    assert found.unknown == ("text",)
    assert compared(second, sample(8, "p5"), sample(9, "p3"), sample(6, "p6")).shared_patients == 2


def test_a_runs_model_and_checkpoints_know_and_a_copy_elsewhere_does_not(tmp_path: Path):
    run = remembered(tmp_path / "run")
    for name in ("model", "checkpoints/step-00000006"):
        (run / name).mkdir(parents=True)
        assert recall(run / name) == recall(run)
    (tmp_path / "model").mkdir()
    assert recall(tmp_path / "model") is None
    (run / "export").mkdir()
    assert recall(run / "export") is None


def test_a_spoilt_record_is_told_in_one_line(tmp_path: Path):
    path = remembered(tmp_path) / RECORD
    spoilt = json.loads(path.read_text(encoding="utf-8"))
    spoilt["records"][0]["images"] = "?"
    path.write_text(json.dumps(spoilt), encoding="utf-8")
    with pytest.raises(ModelError, match=r"trained_on.json: is no record of what was trained on \(.*; delete it to"):
        recall(tmp_path)


def test_findings_are_remembered_in_lower_case(tmp_path: Path):
    found = recall(remembered(tmp_path, Memory([sample(1, "a", labels=("Mass", "nodule")), sample(2, "b")])))
    assert found is not None
    assert found.labels == {"mass", "nodule"}


def test_content_of_a_manifest_is_its_files_bytes_and_a_bad_one_is_left_out(tmp_path: Path):
    path = write_manifest(tmp_path, image_rows(tmp_path, 3))
    source = ManifestSource(path)
    assert content_of(ConcatSource([source, source]), 4) == (tmp_path / "image-2.jpg").read_bytes()
    truncate(tmp_path / "image-1.jpg")
    (tmp_path / "image-3.jpg").unlink()
    run = tmp_path / "run"
    run.mkdir()
    remember(run, source)
    assert len(read_record(run / RECORD).records[0].images) == 2


def test_content_of_phantoms_is_equal_exactly_where_their_pixels_are():
    few, more, others = PhantomSource(6, size=32), PhantomSource(12, size=32), PhantomSource(6, size=32, seed=1)
    assert [content_of(few, index) for index in range(len(few))] == [
        content_of(more, index) for index in range(len(few))
    ]
    assert all((few[index].image == more[index].image).all() for index in range(len(few)))
    assert len({content_of(few, index) for index in range(len(few))}) == len(few)
    assert content_of(few, 0) != content_of(others, 0)
    assert content_of(few, 0) != content_of(PhantomSource(6, size=64), 0)
