"""NIfTI volumes: which slice, which way up, which values; nothing invented."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from medmoe.data.images import image_size, read_image, read_mask
from medmoe.data.nifti import is_nifti, read_nifti_facts, read_nifti_values
from medmoe.data.reading import Reading
from medmoe.errors import DataError, MissingDependencyError

nibabel = pytest.importorskip("nibabel", reason="nibabel isn't installed")

# A patient of 5 × 4 × 3 places: each value tells how far right, front and up it is.
PATIENT = np.add.outer(np.add.outer(100 * np.arange(5), 10 * np.arange(4)), np.arange(3)).astype(np.int16)
LEADS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None, **header: object) -> Path:
    image = nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def stored_as(codes: str, path: Path, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Path:
    """Store the patient with axes that lead where `codes` says; `spacing` is along right, front and up."""
    order = [LEADS[code] for code in codes]
    data = PATIENT.transpose([axis for axis, _ in order])
    affine = np.zeros((4, 4))
    for stored, (axis, sign) in enumerate(order):
        data = np.flip(data, stored) if sign < 0 else data
        affine[axis, stored], affine[axis, 3] = sign * spacing[axis], 0 if sign > 0 else PATIENT.shape[axis] - 1
    affine[3, 3] = 1
    return save(path, data, affine)


def values(path: Path, **reading: object) -> np.ndarray:
    with path.open("rb") as file:
        return read_nifti_values(file, where=str(path), reading=Reading(**reading))


def seen(plane: str, at: int) -> np.ndarray:
    """Say voxel by voxel what a radiologist sees: right at the left, front or head on top, front at a side's left."""
    right, front, up = (range(side) for side in PATIENT.shape)
    rows, columns, pick = {
        "axial": (front, right, lambda row, column: PATIENT[column, row, at]),
        "coronal": (up, right, lambda row, column: PATIENT[column, at, row]),
        "sagittal": (up, front, lambda row, column: PATIENT[at, column, row]),
    }[plane]
    return np.array([[pick(row, column) for column in reversed(columns)] for row in reversed(rows)])


EVERY_ORIENTATION = [
    "".join(code) for axes in itertools.permutations(("RL", "AP", "SI")) for code in itertools.product(*axes)
]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_slice_looks_the_same_however_the_volume_is_stored(tmp_path, plane):
    for codes in EVERY_ORIENTATION:
        path = stored_as(codes, tmp_path / f"{codes}.nii")
        np.testing.assert_array_equal(values(path, plane=plane, frame=1), seen(plane, 1), err_msg=codes)
        assert image_size(path, reading=Reading(plane=plane)) == seen(plane, 1).shape[::-1]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_compressed_volume_gives_the_same_slice(tmp_path, plane):
    for codes in ("LAS", "PIR", "SAL"):
        path = stored_as(codes, tmp_path / f"{codes}.nii.gz")
        np.testing.assert_array_equal(
            values(path, plane=plane),
            seen(plane, (PATIENT.shape[{"axial": 2, "coronal": 1, "sagittal": 0}[plane]] - 1) // 2),
        )


def test_the_acquired_plane_has_the_finest_pixels(tmp_path):
    for spacing, plane in {(1, 1, 5): "axial", (1, 5, 1): "coronal", (5, 1, 1): "sagittal", (1, 1, 1): "axial"}.items():
        path = stored_as("PIR", tmp_path / "a.nii", spacing)
        np.testing.assert_array_equal(values(path, frame=2), seen(plane, 2))
        with path.open("rb") as file:
            assert read_nifti_facts(file, where="a").plane == plane


def test_one_slice_is_its_own_plane(tmp_path):
    path = save(tmp_path / "a.nii", PATIENT[:, 2:3], np.diag([1.0, 1.0, 4.0, 1.0]))
    np.testing.assert_array_equal(values(path), PATIENT[::-1, 2, ::-1].T)


def test_the_middle_slice_is_the_default_and_others_are_counted_from_0(tmp_path):
    path = stored_as("LAS", tmp_path / "a.nii")
    np.testing.assert_array_equal(values(path), seen("axial", 1))
    with pytest.raises(DataError, match=r"a\.nii: no slice 3; the volume has 3"):
        values(path, frame=3)


def test_header_facts_keep_affine_and_spacing(tmp_path):
    path = stored_as("PIR", tmp_path / "a.nii", (0.5, 2.0, 3.0))
    with path.open("rb") as file:
        facts = read_nifti_facts(file, where="a")
    assert facts.shape == (4, 3, 5)
    assert facts.spacing == (2.0, 3.0, 0.5)
    assert facts.codes == ("P", "I", "R")
    np.testing.assert_array_equal(facts.affine, nibabel.load(path).affine)
    assert (facts.dtype, facts.slope, facts.intercept, facts.labels) == ("int16", 1.0, 0.0, False)


def test_slope_and_intercept_count_once(tmp_path):
    path = tmp_path / "a.nii"
    image = nibabel.Nifti1Image(PATIENT, np.eye(4))
    image.header.set_slope_inter(2.0, -1000.0)
    image.to_filename(path)
    raw = np.asarray(nibabel.load(path).dataobj.get_unscaled())
    slope, intercept = nibabel.load(path).dataobj.slope, nibabel.load(path).dataobj.inter
    np.testing.assert_allclose(values(path), (raw[::-1, ::-1, 1] * slope + intercept).T)
    assert (slope, intercept) == (2.0, -1000.0)


def test_minimum_to_maximum_unless_the_file_gives_a_display_range(tmp_path):
    path = save(tmp_path / "a.nii", PATIENT)
    expected = seen("axial", 1)
    np.testing.assert_allclose(read_image(path), (expected - 1) / 430, atol=1e-6)
    path = save(tmp_path / "b.nii", PATIENT, cal_min=100, cal_max=200)
    np.testing.assert_allclose(read_image(path), np.clip((expected - 100) / 100, 0, 1), atol=1e-6)
    np.testing.assert_allclose(read_image(path, reading=Reading("full")), (expected - 1) / 430, atol=1e-6)


def test_8_bit_values_stay_as_they_are(tmp_path):
    read = read_image(save(tmp_path / "a.nii", (PATIENT // 2).astype(np.uint8)))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, seen("axial", 1) // 2)


def test_named_windows_count_where_the_volume_has_air(tmp_path):
    hounsfield = PATIENT - 200
    lung = np.clip((seen("axial", 1) - 200 + 600 + 0.5) / 1499 + 0.5, 0, 1)
    plain = read_image(save(tmp_path / "a.nii", hounsfield))
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii", reading=Reading("lung")), plain)
    hounsfield[0, 0, 0] = -1000  # air, in another slice than is read
    path = save(tmp_path / "b.nii", hounsfield)
    np.testing.assert_allclose(read_image(path, reading=Reading("lung")), lung, atol=1e-6)
    three = read_image(path, reading=Reading("bone+lung+brain"))
    assert three.shape == (4, 5, 3)
    np.testing.assert_allclose(three[..., 1], lung, atol=1e-6)
    usual = read_image(path, reading=Reading("usual"))
    np.testing.assert_allclose(usual, np.clip((seen("axial", 1) - 200 - 39.5) / 399 + 0.5, 0, 1), atol=1e-6)


def test_label_maps_are_masks_and_known_as_such(tmp_path):
    labels = np.zeros((16, 16, 3), np.uint8)
    labels[4:9, 2:12] = 7
    path = save(tmp_path / "a.nii.gz", labels)
    mask = read_mask(path)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, (labels[::-1, ::-1, 1] > 0).T)
    with path.open("rb") as file:
        assert read_nifti_facts(file, where="a").labels
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    with save(tmp_path / "b.nii", noise).open("rb") as file:
        assert not read_nifti_facts(file, where="b").labels
    with save(tmp_path / "c.nii", noise, intent_code=1002).open("rb") as file:
        assert read_nifti_facts(file, where="c").labels


def test_several_volumes_are_refused_and_one_of_four_dimensions_is_read(tmp_path):
    with pytest.raises(DataError, match=r"a\.nii: 4-D, 5 × 4 × 3 × 2 voxels; one volume"):
        read_image(save(tmp_path / "a.nii", np.stack([PATIENT, PATIENT], -1)))
    np.testing.assert_array_equal(values(save(tmp_path / "b.nii", PATIENT[..., None])), seen("axial", 1))


def test_an_affine_is_not_invented(tmp_path):
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(PATIENT, None), path)
    image = nibabel.load(path)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (0, 0)
    with pytest.raises(DataError, match="doesn't say where its axes lead"):
        values(path, plane="coronal")
    np.testing.assert_array_equal(values(path), seen("axial", 1))
    with path.open("rb") as file:
        facts = read_nifti_facts(file, where="a")
    assert facts.codes is None
    assert facts.affine is None


def test_what_cannot_be_read_is_refused_in_words(tmp_path):
    bad = PATIENT.astype(np.float32)
    bad[2, 2, 1] = np.nan
    with pytest.raises(DataError, match=r"a\.nii: the slice has NaN"):
        read_image(save(tmp_path / "a.nii", bad))
    read_image(tmp_path / "a.nii", reading=Reading(frame=0))  # other slices are fine
    with pytest.raises(DataError, match=r"axal.*axial"):
        values(tmp_path / "a.nii", plane="axal")
    whole = save(tmp_path / "b.nii", PATIENT).read_bytes()
    (tmp_path / "b.nii").write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"b\.nii: a volume of 5 × 4 × 3 voxels needs 472 bytes, the file has 471"):
        read_image(tmp_path / "b.nii")
    (tmp_path / "c.nii").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"c\.nii: not a NIfTI volume"):
        read_image(tmp_path / "c.nii")
    packed = save(tmp_path / "d.nii.gz", np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16))
    packed.write_bytes(packed.read_bytes()[:700])
    with pytest.raises(DataError, match=r"d\.nii\.gz: the NIfTI volume can't be read"):
        read_image(packed)
    with pytest.raises(DataError, match="voxels of type complex64"):
        read_image(save(tmp_path / "e.nii", PATIENT.astype(np.complex64)))
    with pytest.raises(DataError, match="no such image file"):
        read_image(tmp_path / "none.nii")


def test_a_volume_larger_than_its_file_is_refused_before_room_is_made(tmp_path):
    path = save(tmp_path / "a.nii", PATIENT)
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.array([3000, 3000, 3000], "<i2").tobytes()
    path.write_bytes(raw)
    with pytest.raises(DataError, match="bytes, the file has"):
        read_image(path)


def test_without_nibabel_the_line_to_install_it_is_said(tmp_path, monkeypatch):
    path = save(tmp_path / "a.nii", PATIENT)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'medmoe\[nifti\]'"):
        read_image(path)


def test_names_tell_volumes():
    assert [is_nifti(name) for name in ("a.nii", "A.NII.GZ", "a.gz", "a.nii.png")] == [True, True, False, False]
