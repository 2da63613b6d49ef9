"""Writing a source as a manifest folder: PNG images, masks and gaze maps, one Parquet row an image."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from medmoe.data.sources.base import Source
from medmoe.errors import DataError
from medmoe.types import Sample

COLUMNS = pa.schema(
    [
        ("image", pa.string()),
        ("text", pa.string()),
        ("modality", pa.string()),
        ("label", pa.string()),
        ("patient_id", pa.string()),
        ("study_id", pa.string()),
        ("view", pa.string()),
        ("offset_days", pa.float64()),
        ("mask", pa.string()),
        ("boxes", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("gaze", pa.string()),
        ("prior", pa.string()),
        ("domain", pa.string()),
    ]
)


def write_folder(
    source: Source, out: Path, *, splits: Mapping[str, float], seed: int, licence: str, readme: str, workers: int = 1
) -> Path:
    """Write every sample of a fully annotated source: files, `manifest.parquet` and `README.txt`.

    Args:
        source: Its samples have all of: report, labels, boxes, mask, gaze, patient; keys are file names.
        out: A folder that is empty or doesn't exist yet.
        splits: Share of each split; patients are dealt out within each modality.
        seed: Of the split.
        licence: Value of the column `license`.
        readme: Text of `README.txt`.
        workers: Processes that paint and write.

    Returns:
        The manifest's path.

    Raises:
        DataError: If `out` is in use or the shares don't add up to 1.
    """
    shares = list(splits.values())
    if not shares or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise DataError(
            f"split shares {dict(splits)} don't add up to 1", remedy="give shares such as train 0.8, test 0.2"
        )
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise DataError("the output folder is in use", where=str(out), remedy="choose a new folder or empty this one")
    for name in ("images", "masks", "gaze"):
        (out / name).mkdir(parents=True, exist_ok=True)
    chunks = np.array_split(np.arange(len(source)), max(workers, 1))
    save = partial(_save, source, out)
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            parts = list(pool.map(save, chunks))
    else:
        parts = [save(chunk) for chunk in chunks]
    rows = [row for part in parts for row in part]
    _deal(rows, splits, seed)
    for row in rows:
        row["license"] = licence
    (out / "README.txt").write_text(readme, encoding="utf-8")
    manifest = out / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), manifest)
    return manifest


def _save(source: Source, out: Path, indices: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Write the files of some samples and give their rows."""
    return [_save_one(source[int(index)], out) for index in indices]


def _save_one(sample: Sample, out: Path) -> dict[str, Any]:
    """Write one sample's image, mask and gaze map and give its row."""
    if sample.mask is None or sample.gaze is None or sample.labels is None:
        raise DataError("mask, gaze or labels are missing", where=sample.key, remedy="write a fully annotated source")
    height, width = sample.mask.shape
    images = {
        "image": ("images", sample.image),
        "mask": ("masks", sample.mask.astype(np.uint8) * 255),
        "gaze": ("gaze", np.round(sample.gaze * 255).astype(np.uint8)),
    }
    row: dict[str, Any] = {}
    for column, (folder, pixels) in images.items():
        row[column] = f"{folder}/{sample.key}.png"
        Image.fromarray(pixels).save(out / row[column], compress_level=1)
    boxes = [
        {
            "label": box.label,
            "xyxy": [round(box.x0 * width), round(box.y0 * height), round(box.x1 * width), round(box.y1 * height)],
            "phrase": box.phrase,
        }
        for box in sample.boxes or ()
    ]
    return row | {
        "text": sample.report,
        "modality": sample.modality,
        "label": ";".join(sample.labels) or "no_finding",
        "patient_id": sample.patient,
        "study_id": sample.study,
        "view": sample.view,
        "offset_days": sample.offset_days,
        "boxes": json.dumps(boxes),
        "source": sample.source,
        "prior": None if sample.prior is None else f"images/{sample.prior}.png",
        "domain": sample.domain,
    }


def _deal(rows: list[dict[str, Any]], splits: Mapping[str, float], seed: int) -> None:
    """Set each row's split: whole patients, the shares kept within each modality."""
    rng = np.random.default_rng((seed, 0x5B))
    bounds = np.cumsum(list(splits.values()))
    names = list(splits)
    for modality in sorted({row["modality"] for row in rows}):
        patients = sorted({row["patient_id"] for row in rows if row["modality"] == modality})
        places = (rng.permutation(len(patients)) + 0.5) / len(patients)
        chosen = {
            p: names[min(int(np.searchsorted(bounds, x)), len(names) - 1)]
            for p, x in zip(patients, places, strict=True)
        }
        for row in rows:
            if row["patient_id"] in chosen:
                row["split"] = chosen[row["patient_id"]]
