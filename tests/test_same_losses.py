"""The same samples as DICOM files, as a manifest of pictures and as tars train the same model, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_files import write as write_dicom
from medmoe.data.sources.concat import open_source
from medmoe.data.sources.manifest_write import write_manifest
from medmoe.data.sources.shard_write import write_shards
from medmoe.rundir import RunFolder
from medmoe.train import fit
from small_runs import losses, micro, phantoms

STEPS = ("train.steps=10", "train.log_every=1", "data.augment=1")


def saved(folder: Path) -> tuple[Path, Path]:
    """Save phantoms as DICOM files and as PNG files, of 12 bits, of 8 bits and in colour; give both manifests."""
    rows: dict[str, list[dict[str, object]]] = {"dicom": [], "png": []}
    for number, sample in enumerate(phantoms().samples):
        grey = sample.image if sample.image.ndim == 2 else sample.image[..., 0]
        pixels = np.asarray(grey * 255 if grey.dtype.kind == "f" else grey).astype(np.uint8)
        facts = {"text": sample.report, "modality": sample.modality, "patient_id": sample.patient, "label": "mass"}
        deep = number % 2 == 0
        stored = pixels.astype(np.uint16) * 15 + number if deep else pixels
        write_dicom(folder / f"{number}.dcm", stored, BitsStored=12 if deep else 8, HighBit=11 if deep else 7)
        Image.fromarray(stored).save(folder / f"{number}.png")
        rows["dicom"].append({"image": f"{number}.dcm", **facts})
        rows["png"].append({"image": f"{number}.png", **facts})
    dicom, png = (write_manifest(rows[kind], folder / f"{kind}.csv") for kind in rows)
    return dicom, png


def ten_losses(spec: Path, run: Path, *settings: str) -> list[float]:
    config = micro(*STEPS, *settings)
    fit(config, train=open_source(spec), val=None, run=RunFolder(run))
    return losses(run)


def test_dicom_pictures_and_tars_give_the_same_ten_losses(tmp_path: Path):
    dicom, png = saved(tmp_path)
    write_shards(dicom, tmp_path / "tars", samples_per_shard=7)
    found = [ten_losses(spec, tmp_path / f"run-{place}") for place, spec in enumerate((dicom, png, tmp_path / "tars"))]
    assert len(found[0]) == 10
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("window", ["full", "lung", "lung+soft_tissue+bone"])
def test_a_window_of_ct_gives_the_same_ten_losses_from_tars(tmp_path: Path, window: str):
    rows = []
    for number, sample in enumerate(phantoms().samples):
        grey = np.asarray(sample.image if sample.image.ndim == 2 else sample.image[..., 0], np.float64)
        values = (grey / max(grey.max(), 1e-9) * 2000 + number).astype(np.int16)
        write_dicom(tmp_path / f"{number}.dcm", values, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
        rows.append({"image": f"{number}.dcm", "text": sample.report, "modality": sample.modality})
    manifest = write_manifest(rows, tmp_path / "manifest.csv")
    write_shards(manifest, tmp_path / "tars", window=window)
    one, other = (
        ten_losses(spec, tmp_path / name, f"model.vision.window={window}")
        for name, spec in (("a", manifest), ("b", tmp_path / "tars"))
    )
    assert one == other
    assert one != ten_losses(manifest, tmp_path / "c")
