"""Ultrasound of the breast (BUSI) and of the thyroid (DDTI, TN3K), with masks.

Layouts: BUSI (https://scholar.cu.edu.eg/?q=afahmy/pages/dataset; Al-Dhabyani et al., 2020,
https://doi.org/10.1016/j.dib.2019.104863): `Dataset_BUSI_with_GT/benign/benign (1).png` with `benign (1)_mask.png`
and, of several lesions, `…_mask_1.png`. DDTI (http://cimalab.intec.co/applications/thyroid/; Pedraza et al., 2015,
https://doi.org/10.1117/12.2073532; Kaggle's `ddti-thyroid-ultrasound-images`): `1.xml` with `number`, `tirads` and
`mark` (`image`, `svg`: a JSON list of outlines) and `1_1.jpg`, `1_2.jpg`. TN3K
(https://github.com/haifangong/TRFE-Net-for-thyroid-nodule-segmentation; Gong et al., ISBI 2021):
`trainval-image/0000.jpg`, `trainval-mask/0000.jpg`, `test-image/`, `test-mask/`, `tn3k-trainval-fold0.json`;
`label4trainval.csv` and `label4test.csv` (0 benign, 1 malignant) are of https://github.com/chenghui-666/ACL.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medmoe.data.images import image_size, read_image, read_mask
from medmoe.data.importers.common import (
    Found,
    Importer,
    Job,
    base_of,
    images_below,
    put_png,
    read_csv,
    read_xml,
    unreadable,
    worded,
)
from medmoe.errors import DataError

_BUSI = ("benign", "malignant", "normal")


def read_busi(job: Job) -> Iterator[Found]:
    """Give the images of BUSI; masks of several lesions are merged into one, empty ones of normal images left out."""
    base = base_of(job.folder, *_BUSI, what="BUSI")
    for kind in _BUSI:
        folder = base / kind
        names = sorted(folder.glob("*.png"), key=_by_number)
        for path in (path for path in names if "_mask" not in path.stem):
            masks = sorted(folder.glob(f"{glob.escape(path.stem)}_mask*.png"))
            mask = None if kind == "normal" else _merged(job, path, masks)
            cells = {
                "modality": "ultrasound",
                "body_part": "breast",
                "label": kind,
                "mask": mask,
            }
            yield Found(str(path), path, cells)


def _merged(job: Job, image: Path, masks: Sequence[Path]) -> Path:
    """Give the mask of an image: its only one, or all of them in one."""
    if len(masks) < 2:
        return masks[0] if masks else image.with_name(f"{image.stem}_mask.png")
    read = [read_mask(mask) > 0 for mask in masks]
    if len({mask.shape for mask in read}) > 1:
        raise DataError("its masks differ in size", where=str(image), remedy="download it again")
    whole: NDArray[Any] = np.logical_or.reduce(read).astype(np.uint8) * 255
    return put_png(job.made / f"{image.stem}_mask.png", whole)


def _by_number(path: Path) -> tuple[int, str]:
    digits = re.search(r"\d+", path.stem)
    return (int(digits[0]) if digits else 0), path.stem


def read_ddti(job: Job) -> Iterator[Found]:
    """Give the images of DDTI; outlines of nodules become a mask and boxes, the TI-RADS category a label."""
    base = base_of(job.folder, "[0-9]*.xml", what="DDTI")
    for path in sorted(base.glob("[0-9]*.xml"), key=_by_number):
        case = read_xml(path, "one of DDTI's cases")
        tirads = (case.findtext("tirads") or "").strip().lower()
        marks: dict[str, list[list[tuple[float, float]]]] = {}
        for mark in case.iter("mark"):
            own = marks.setdefault((mark.findtext("image") or "").strip(), [])
            own += _outlines(mark.findtext("svg") or "", str(path))
        pictures = {name.stem.split("_")[-1]: name for name in base.glob(f"{path.stem}_*.jpg")}
        for number in sorted(marks.keys() | pictures.keys(), key=lambda text: (len(text), text)):
            image = pictures.get(number, base / f"{path.stem}_{number}.jpg")
            cells: dict[str, object] = {
                "modality": "ultrasound",
                "body_part": "thyroid",
                "label": worded(tirads, "ddti", str(path)) if tirads else None,
                "patient_id": path.stem,
                "study_id": path.stem,
            }
            yield Found(str(path), image, cells | _drawn(job, image, marks.get(number, [])))


def _outlines(svg: str, where: str) -> list[list[tuple[float, float]]]:
    """Read the outlines [(x, y), …] of a mark, in pixels."""
    if not svg.strip():
        return []
    try:
        regions = json.loads(svg)
        found = [[(float(p["x"]), float(p["y"])) for p in region["points"]] for region in regions]
    except (ValueError, TypeError, KeyError):
        raise DataError("a mark's svg isn't a list of points", where=where, remedy="download it again") from None
    return [points for points in found if len(points) > 2]


def _drawn(job: Job, image: Path, outlines: list[list[tuple[float, float]]]) -> dict[str, object]:
    """Draw outlines as a mask, and put boxes around them."""
    if not outlines or not image.is_file():
        return {}
    canvas = Image.new("L", image_size(image), 0)
    boxes = []
    for points in outlines:
        ImageDraw.Draw(canvas).polygon(points, fill=255)
        xs, ys = zip(*points, strict=True)
        corners = [min(xs), min(ys), max(xs), max(ys)]
        if corners[0] < corners[2] and corners[1] < corners[3]:
            boxes.append({"label": "thyroid nodule", "xyxy": corners})
    mask = put_png(job.made / f"{image.stem}_mask.png", np.asarray(canvas))
    return {"mask": mask, "boxes": json.dumps(boxes) if boxes else None}


def read_tn3k(job: Job) -> Iterator[Found]:
    """Give the images of TN3K."""
    base = base_of(job.folder, "trainval-image", "test-image", what="TN3K")
    for part in ("trainval", "test"):
        pictures = sorted(images_below(base / f"{part}-image").values(), key=_by_number)
        splits = _fold(base, len(pictures)) if part == "trainval" else ["test"] * len(pictures)
        table = base / f"label4{part}.csv"
        labels = (
            {row["name"]: row["label"] for _, row in read_csv(table, names=("name", "label"))} if table.exists() else {}
        )
        if not labels and pictures:
            job.notes.append(f"no label4{part}.csv: its images are labelled as a thyroid nodule only")
        for picture, split in zip(pictures, splits, strict=True):
            kind = labels.get(picture.name, "")
            mask = base / f"{part}-mask" / picture.name
            cells = {
                "modality": "ultrasound",
                "body_part": "thyroid",
                "label": worded(kind, "tn3k", str(table)),
                "mask": _cleaned(job, mask, part),
                "split": split,
            }
            yield Found(str(picture), picture, cells)


def _cleaned(job: Job, mask: Path, part: str) -> Path:
    """Write a mask anew as a PNG: those of TN3K are JPEGs, whose black isn't quite black."""
    if not mask.is_file():
        return mask
    inside = read_image(mask)
    inside = inside if inside.ndim == 2 else inside.max(axis=2)
    return put_png(job.made / part / f"{mask.stem}_mask.png", (inside > 127).astype(np.uint8) * 255)


def _fold(base: Path, count: int) -> list[str]:
    """Give the split of each image of trainval in numerical order: validation is the published fold 0."""
    path = base / "tn3k-trainval-fold0.json"
    splits = ["train"] * count
    if path.is_file():
        try:
            for at in json.loads(path.read_text(encoding="utf-8"))["val"]:
                splits[int(at)] = "val"
        except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
            raise unreadable(path, f"a fold of the {count} images of trainval", error) from None
    return splits


ROWS = (
    Importer(
        name="busi",
        title="BUSI, breast ultrasound",
        url="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
        terms="as its page says; Kaggle's copy is given as CC0",
        modality="ultrasound",
        needs="Dataset_BUSI_with_GT/{benign,malignant,normal}/benign (1).png, benign (1)_mask.png …",
        splits="none; no patients",
        read=read_busi,
    ),
    Importer(
        name="ddti",
        title="DDTI, thyroid ultrasound",
        url="https://doi.org/10.1117/12.2073532",
        terms="open access for research, as its article says",
        modality="ultrasound",
        needs="1.xml …, 1_1.jpg …",
        splits="none; a case counts as a patient",
        read=read_ddti,
    ),
    Importer(
        name="tn3k",
        title="TN3K, thyroid ultrasound",
        url="https://github.com/haifangong/TRFE-Net-for-thyroid-nodule-segmentation",
        terms="MIT, as its authors' copy on Hugging Face says",
        modality="ultrasound",
        needs="trainval-image/, trainval-mask/, test-image/, test-mask/; tn3k-trainval-fold0.json, label4trainval.csv",
        splits="official; the set names no patients, so that can't be checked",
        read=read_tn3k,
    ),
)
