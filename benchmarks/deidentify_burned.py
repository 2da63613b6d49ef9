"""How much burned-in text is found: text planted into real pictures, and what is taken for text where none was planted.

    python benchmarks/deidentify_burned.py MANIFEST [--dicom FOLDER] --json FILE

Text of four sizes and four contrasts is drawn, bright or dark, at a random place. `pixels` is the share of its pixels that lie
in a box, `regions` that of texts of which at least 80 % do. The pictures' own text isn't marked by anybody: what is found in them
as they are is counted as false, though in some sources it is text indeed (MedPix, VQA-RAD, scanners' screens).
"""

# ruff: noqa: E501 - rows of examples stay on one line
from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medmoe.data.curation.deidentify_burned import find_text
from medmoe.data.dicom import read_dicom_values
from medmoe.errors import DataError

SIZES, CONTRASTS = (9, 12, 16, 24), (48, 96, 160, 255)
TEXTS = ("DOE JANE", "12/03/1957", "MRN 0048213", "Dr. Smith", "St. Mary Hosp", "14:32:07")


def pictures(manifest: Path, dicom: Path | None, each: int, rng: np.random.Generator) -> Iterator[tuple[str, Any]]:
    """Give (source, pixels 0 to 255): some of each source of a manifest, and a folder's DICOM files."""
    import pyarrow.parquet as pq

    groups = defaultdict(list)
    for row in pq.read_table(manifest, columns=["image", "source", "modality"]).to_pylist():
        groups[f"{row['modality']}: {row['source']}"].append(row["image"])
    for source in sorted(groups):
        for place in rng.choice(len(groups[source]), min(each, len(groups[source])), replace=False):
            yield source, np.asarray(Image.open(manifest.parent / groups[source][place]).convert("RGB"))
    for path in sorted(dicom.rglob("*.dcm")) if dicom else ():
        try:
            with path.open("rb") as file:
                values = read_dicom_values(file, where=path.name)
        except DataError as error:
            print(f"left out: {error}")
            continue
        if values.ndim == 2 and min(values.shape) >= 64 and values.max() > values.min():
            low, high = float(values.min()), float(values.max())
            yield "DICOM files", np.stack([(255 * (values - low) / (high - low)).astype(np.uint8)] * 3, -1)


def planted(picture: Any, size: int, contrast: int, text: str, rng: np.random.Generator) -> tuple[Any, Any] | None:
    """Draw a text; give the picture and where its pixels are, or None where it is too wide."""
    font = ImageFont.load_default(size)
    height, width = picture.shape[:2]
    wide = int(font.getlength(text))
    if wide + 8 > width or size + 10 > height:
        return None
    at = (int(rng.integers(2, width - wide - 4)), int(rng.integers(2, height - size - 6)))
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).text(at, text, fill=255, font=font)
    share = np.asarray(mask)[..., None] / 255.0
    ground = float(picture[share[..., 0] > 0.5].mean())
    grey = np.clip(ground + contrast if ground < 128 else ground - contrast, 0, 255)
    return (picture * (1 - share) + grey * share).astype(np.uint8), share[..., 0] > 0.5


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--dicom", type=Path)
    parser.add_argument("--each", type=int, default=8, help="Pictures of a source.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(arguments.seed)
    false: dict[str, list[tuple[int, float]]] = defaultdict(list)
    hits: dict[str, list[float]] = defaultdict(list)
    seconds = []
    for number, (source, picture) in enumerate(pictures(arguments.manifest, arguments.dicom, arguments.each, rng)):
        start = time.perf_counter()
        boxes = find_text(picture)
        seconds.append(time.perf_counter() - start)
        area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) / picture.shape[0] / picture.shape[1]
        false[source].append((len(boxes), area))
        size, contrast = SIZES[number % 4], CONTRASTS[number // 4 % 4]
        drawn = planted(picture, size, contrast, TEXTS[int(rng.integers(len(TEXTS)))], rng)
        if drawn is None:
            continue
        inside = np.zeros(drawn[1].shape, bool)
        for x0, y0, x1, y1 in find_text(drawn[0]):
            inside[y0:y1, x0:x1] = True
        for name in ("all", f"size {size}", f"contrast {contrast}"):
            hits[name].append(float(inside[drawn[1]].mean()))
    report = {
        "planted": {
            name: {"n": len(v), "pixels": float(np.mean(v)), "regions": float(np.mean(np.array(v) >= 0.8))}
            for name, v in hits.items()
        },
        "as they are": {
            source: {
                "n": len(v),
                "boxes an image": float(np.mean([b for b, _ in v])),
                "share of area": float(np.mean([a for _, a in v])),
            }
            for source, v in false.items()
        },
        "median seconds": float(np.median(seconds)),
    }
    print(json.dumps(report, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
