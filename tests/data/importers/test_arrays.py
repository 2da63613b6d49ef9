"""Images that lie in arrays or in MedIMeta's form: MedMNIST, MRNet, MedIMeta."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from importer_layouts import LAYOUTS, archive
from medmoe.data.importers import IMPORTERS
from medmoe.data.importers.medmnist import known, stream_array
from medmoe.data.importers.run import import_set
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.manifest_write import read_all
from medmoe.errors import ConfigError, DataError
from medmoe.modalities import MODALITIES


def rows(name: str, folder: Path, **options: str) -> list[dict[str, str | None]]:
    if not folder.exists():
        LAYOUTS[name](folder)
    outcome = import_set(IMPORTERS[name], folder, folder.parent / "m.parquet", options=options)
    return list(read_all(outcome.manifest).to_pylist())


def test_pixels_of_medmnist_are_written_as_they_are(tmp_path: Path):
    archive(tmp_path / "pathmnist.npz", colour=True, labels=[[8], [0]])
    found = rows("medmnist", tmp_path / "pathmnist.npz")
    with np.load(tmp_path / "pathmnist.npz", allow_pickle=False) as held:
        for row, pixels in zip(found[:2], held["train_images"], strict=True):
            assert np.array_equal(np.asarray(Image.open(tmp_path / row["image"])), pixels)
    assert found[0]["image"] == "m_images/pathmnist/train/000001.png"
    assert (found[0]["label"], found[0]["source"]) == ("colorectal adenocarcinoma epithelium", "pathmnist")


def test_several_labels_are_joined_and_none_is_no_finding(tmp_path: Path):
    archive(tmp_path / "chestmnist_64.npz", colour=False, labels=[[0] * 14, [1, 0, 1, *[0] * 11]], shape=(64, 64))
    found = rows("medmnist", tmp_path / "chestmnist_64.npz")
    assert [row["label"] for row in found[:2]] == ["no_finding", "atelectasis;pleural effusion"]
    assert ManifestSource(tmp_path / "m.parquet")[0].image.shape == (64, 64)


def test_a_volumes_middle_slice_is_written(tmp_path: Path):
    archive(tmp_path / "organmnist3d.npz", colour=False, labels=[[3]], shape=(28, 28, 28))
    found = rows("medmnist", tmp_path / "organmnist3d.npz")
    with np.load(tmp_path / "organmnist3d.npz", allow_pickle=False) as held:
        assert np.array_equal(np.asarray(Image.open(tmp_path / found[0]["image"])), held["train_images"][0][14])


def test_only_the_splits_asked_for_are_written(tmp_path: Path):
    archive(tmp_path / "pathmnist.npz", colour=True, labels=[[8], [0]])
    outcome = import_set(IMPORTERS["medmnist"], tmp_path / "pathmnist.npz", tmp_path / "m.parquet", splits=["val"])
    assert outcome.splits == {"val": 2}
    assert [path.name for path in (tmp_path / "m_images" / "pathmnist").iterdir()] == ["val"]


@pytest.mark.parametrize("packed", [False, True])
def test_an_array_streams_to_what_numpy_loads(tmp_path: Path, packed: bool):
    values = np.random.default_rng(0).integers(0, 255, (7, 5, 4, 3), np.uint8)
    (np.savez_compressed if packed else np.savez)(tmp_path / "a.npz", x=values)
    assert np.array_equal(np.stack(list(stream_array(tmp_path / "a.npz", "x"))), values)


def test_an_archive_with_objects_is_never_unpickled(tmp_path: Path):
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "sprung"),)  # type: ignore[return-value]

    np.savez(tmp_path / "pathmnist.npz", train_images=np.zeros((1, 2, 2)), train_labels=np.array([Trap()], object))
    with pytest.raises(DataError, match="NumPy archive with train_labels"):
        rows("medmnist", tmp_path / "pathmnist.npz")
    assert not (tmp_path / "sprung").exists()


def test_damaged_archives_are_refused(tmp_path: Path):
    archive(tmp_path / "pathmnist.npz", colour=True, labels=[[8], [0]])
    archive(tmp_path / "a" / "pathmnist.npz", colour=True, labels=[[9]])
    with pytest.raises(DataError, match="label 9, allowed: 0 to 8"):
        rows("medmnist", tmp_path / "a" / "pathmnist.npz")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "pathmnist.npz").write_bytes((tmp_path / "pathmnist.npz").read_bytes()[:-300])
    with pytest.raises(DataError, match="can't be read as a NumPy archive"):
        rows("medmnist", tmp_path / "b" / "pathmnist.npz")
    (tmp_path / "c").mkdir()
    (tmp_path / "pathmnist.npz").rename(tmp_path / "c" / "catmnist.npz")
    with pytest.raises(DataError, match="unknown MedMNIST set 'catmnist'"):
        rows("medmnist", tmp_path / "c" / "catmnist.npz")


def test_fewer_images_than_labels_are_refused(tmp_path: Path):
    np.savez(tmp_path / "pathmnist.npz", train_images=np.zeros((1, 4, 4), np.uint8), train_labels=np.zeros((2, 1), int))
    with pytest.raises(DataError, match="1 images, but 2 labels"):
        rows("medmnist", tmp_path / "pathmnist.npz")


def test_every_set_of_medmnist_has_a_modality_of_ours_and_words_for_its_labels():
    for about in known().values():
        assert about["modality"] in MODALITIES
        assert len(set(about["labels"])) == len(about["labels"]) > 1


def test_an_examination_of_mrnet_is_a_study_of_three_views(tmp_path: Path):
    found = rows("mrnet", tmp_path / "MRNet-v1.0")
    first = found[:3]
    assert [row["view"] for row in first] == ["axial", "coronal", "sagittal"]
    assert {(row["study_id"], row["split"], row["label"]) for row in first} == {
        ("0000", "train", "abnormality of the knee")
    }
    assert [row["slice"] for row in first] == ["2", "2", "3"]  # of 5, 6 and 7
    volume = np.load(tmp_path / "MRNet-v1.0" / "train" / "axial" / "0000.npy")
    assert np.array_equal(np.asarray(Image.open(tmp_path / first[0]["image"])), volume[2])
    assert [row["label"] for row in found[3::3]] == ["acl tear;meniscus tear", "no_finding", "acl tear"]
    assert found[-1]["split"] == "val"


@pytest.mark.parametrize(("slices", "count"), [("middle", 1), ("3", 3), ("100", 5), ("all", 5)])
def test_slices_of_mrnet_are_as_many_as_asked_for(tmp_path: Path, slices: str, count: int):
    found = rows("mrnet", tmp_path / "MRNet-v1.0", slices=slices)
    axial = [row["slice"] for row in found if row["study_id"] == "0000" and row["view"] == "axial"]
    assert len(axial) == count
    assert axial == sorted(axial)


def test_slices_that_are_no_number_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="got 'few'; allowed: middle, all"):
        rows("mrnet", tmp_path / "MRNet-v1.0", slices="few")


def test_medimeta_reads_one_set_or_several_and_the_task_asked_for(tmp_path: Path):
    found = rows("medimeta", tmp_path / "medimeta")
    by_source = {row["source"]: row for row in found}
    assert set(by_source) == {"medimeta-organs_axial", "medimeta-cxr"}
    assert [row["label"] for row in found] == ["edema", "no_finding", "edema;hernia", "heart", "liver", "liver"]
    assert [row["split"] for row in found[:3]] == ["train", "val", "test"]
    assert [row["patient_id"] for row in found] == ["p0", "p1", "p2", None, None, None]
    assert (by_source["medimeta-cxr"]["modality"], by_source["medimeta-organs_axial"]["modality"]) == ("xray", "ct")
    one = rows("medimeta", tmp_path / "medimeta" / "organs_axial", task="organ label")
    assert [row["label"] for row in one] == ["heart", "liver", "liver"]
    with pytest.raises(ConfigError, match="organs_axial has no task 'side'; allowed: organ label"):
        rows("medimeta", tmp_path / "medimeta" / "organs_axial", task="side")


def test_medimeta_says_that_it_does_not_read_hdf5(tmp_path: Path):
    LAYOUTS["medimeta"](tmp_path / "medimeta")
    base = tmp_path / "medimeta" / "cxr"
    (base / "images").rename(tmp_path / "elsewhere")
    (base / "images.hdf5").write_bytes(b"")
    with pytest.raises(DataError, match=r"no folder images; images\.hdf5 is not read"):
        rows("medimeta", base)


def test_yaml_of_medimeta_runs_nothing(tmp_path: Path):
    LAYOUTS["medimeta"](tmp_path / "medimeta")
    base = tmp_path / "medimeta" / "cxr"
    (base / "info.yaml").write_text(f"!!python/object/apply:pathlib.Path.touch [{tmp_path}/sprung]")
    with pytest.raises(DataError, match=r"MedIMeta's info\.yaml"):
        rows("medimeta", base)
    assert not (tmp_path / "sprung").exists()


def test_a_member_of_an_archive_that_is_cut_off_is_told(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as held:
        held.writestr(
            "x.npy",
            b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (9, 9), }".ljust(128) + b"12",
        )
    with pytest.raises(DataError, match="NumPy archive with x"):
        list(stream_array(tmp_path / "a.npz", "x"))
