"""A manifest with four sites a pair of modalities, made of phantoms; nothing in it is a patient."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from medmoe.data.sources.phantom import PhantomSource

SITES = {"ct": ("north", "south", "both"), "ultrasound": ("east", "west", "both"), "fundus": ("alone",)}


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a manifest: 3 modalities, 6 sources, one of them of two modalities."""
    folder = tmp_path_factory.mktemp("sites")
    phantoms = PhantomSource(48, size=64, seed=3, modalities=tuple(SITES))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "text", "modality", "patient_id", "split", "source"])
        for row in range(len(phantoms)):
            sample = phantoms[row]
            assert sample.modality is not None
            names = SITES[sample.modality]
            name = f"{row:03}.png"
            Image.fromarray(sample.image).save(folder / name)
            split = ("train", "train", "val", "test")[row // len(SITES) % 4]
            source = names[row // (4 * len(SITES)) % len(names)]
            table.writerow([name, sample.report, sample.modality, f"p{row}", split, source])
    return folder
