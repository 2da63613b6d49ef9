"""Public data sets in small: each exact layout, written image by image without the library's help."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from medmoe.benchmarks import load_set

# Head of each table as published (or None), and what makes the cells of image number i of class `label`.
HEADS: dict[str, Sequence[str] | None] = {
    "rsna": ("", "filename", "Target"),
    "thyroid_us": ("img_dir", "label"),
    "breast_us": ("filename", "label"),
    "acl_mri": ("filename", "acl_label"),
    "meniscal_mri": ("img_dir", "label"),
    "organs_axial": ("filepath", "split", "tasks/organ label", "organ label"),
    "dr_regular": ("filepath", "split", "tasks/DR level", "DR level"),
    "refuge": ("", "image", "atributes", "categories"),
    "bach": None,
    "osteo": ("image", "label"),
    "skin_cancer": ("", "file", "class", "set"),
}
for _plane in ("coronal", "sagittal"):
    HEADS[f"organs_{_plane}"] = HEADS["organs_axial"]
for _name in ("fives", "odir_200x3"):
    HEADS[_name] = HEADS["refuge"]
HEADS["skin_tumor"] = HEADS["skin_cancer"]


def image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 24), np.uint8)).save(path)


def table(path: Path, head: Sequence[str] | None, rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([head] if head is not None else [])
        writer.writerows(rows)


def write(name: str, root: Path, *, each: int = 3) -> Path:
    """Write a data set with `each` images of each class under root/NAME."""
    folder = root / name
    labels = load_set(name).labels
    told = [(number, label) for number, label in enumerate(label for label in labels for _ in range(each))]
    if name.startswith("lc25000"):
        for number, label in told:
            image(folder / label / f"{label}{number}.jpeg", number)
        image(folder / ("colon_n" if name == "lc25000_lung" else "lung_n") / "other.jpeg", 0)
    elif name == "nct_crc":
        for number, label in told:
            image(folder / "CRC-VAL-HE-7K" / label / f"{label}-TCGA-{number}.tif", number)
        image(folder / "CRC-VAL-HE-7K" / "BACK" / "BACK-TCGA-1.tif", 0)
    elif name == "pcam":
        for number, label in told:
            image(folder / "PCam_Test_preprocessed" / f"{number}_{label}.png", number)
    elif name == "chexpert_5x200":
        paths = [f"CheXpert-v1.0-small/train/patient{number // 2:05}/study1/view1_frontal.jpg" for number, _ in told]
        paths = [path.replace("view1", f"view{number % 2 + 1}") for number, path in enumerate(paths)]
        head = ("", "imgpath", "Sex", *labels, "Pleural Other", "Report Impression")
        rows = [
            (number, path, "Male", *(float(label == own) for own in labels), "", "Two\nlines, one cell.")
            for (number, label), path in zip(told, paths, strict=True)
        ]
        table(folder / "chexpert-5x200.csv", head, rows)
        for number, path in enumerate(paths):
            image(folder / path, number)
    else:
        _write_table(name, folder, told)
    return folder


def _write_table(name: str, folder: Path, told: Sequence[tuple[int, str]]) -> None:
    kind = {"odir_200x3": "refuge", "fives": "refuge", "skin_tumor": "skin_cancer"}.get(name, name).split("_")[0]
    rows: list[Sequence[object]] = []
    for number, label in told:
        cells = {
            "rsna": (number, f"images/{number}.png", label),
            "thyroid": (f"images/{number // 2}_{number % 2 + 1}.jpg", label),
            "breast": (f"images/{label} ({number}).png", label),
            "acl": (f"images/{number // 2:04}_sagittal_{number}.000000.png", label),
            "meniscal": (f"images/{number // 2:04}_sagittal_{number}.000000.png", label),
            "organs": (f"images/{number:06}.tiff", "test", label, "an organ"),
            "dr": (f"images/{number:06}.tiff", "test", label, "a grade"),
            "refuge": (number, f"REFUGE-Training400/g{number:04}.jpg", "[]", f"['{label}']"),
            "bach": (f"{label[0].lower()}{number:03}.tif", label),
            "osteo": (f"Case-{number}.jpg", label),
            "skin": (number, f"data/tiles/{label}/{label}_{number}.jpg", label, "Test"),
        }[kind]
        rows.append(cells)
        place = 0 if kind in ("thyroid", "breast", "acl", "meniscal", "organs", "dr", "bach", "osteo") else 1
        inner = f"{label}/" if kind == "bach" else ""
        image(folder / f"{inner}{cells[place]}", number)
    if kind in ("organs", "dr"):  # a row of another split, whose image isn't there
        rows.append(("images/999999.tiff", "train", "0", "an organ"))
    if kind == "skin":
        rows.append((999, "data/tiles/absent.jpg", "tumor_skin_naevus_naevus", "Train"))
    layout = load_set(name).layout
    table(folder / layout["file"], HEADS[name], rows)
