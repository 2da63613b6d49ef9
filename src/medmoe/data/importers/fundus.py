"""Fundus sets as FLAIR's tables describe them, and MM-Retinal's images with captions.

Layouts: FLAIR's (https://github.com/jusiro/FLAIR; Silva-Rodríguez et al., 2025,
https://doi.org/10.1016/j.media.2024.103357): CSV files such as `08_ODIR200x3.csv` with `image` (relative to the
folder of all sets), `atributes` (so spelled; `attributes` in some copies) and `categories`, both Python lists of
texts, or with `caption`. MM-Retinal's (https://github.com/lxirich/MM-Retinal; Wu et al., 2024,
https://arxiv.org/abs/2405.11793): `CFP_translated_v1.csv`, and the same of FFA and OCT, with `Image_ID` and
`en_caption`, images in `CFP/`, `FFA/`, `OCT/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medmoe.data.importers.common import (
    Found,
    Importer,
    Job,
    Option,
    base_of,
    join_labels,
    listed,
    read_csv,
)
from medmoe.errors import DataError

_RETINAL = {"CFP": "fundus", "FFA": "fundus", "OCT": "oct"}


def read_flair(job: Job) -> Iterator[Found]:
    """Give the images of FLAIR's tables, categories and attributes as labels; each table is a source of its own."""
    said = job.options["tables"]
    folder = Path(said) if said else job.folder
    tables = [folder] if folder.is_file() else sorted(folder.glob("*.csv"))
    if not tables:
        what = "this isn't a folder of FLAIR's tables: found none of *.csv"
        raise DataError(what, where=str(folder), remedy="say where the tables lie: --option tables=FOLDER")
    for table in tables:
        for where, row in read_csv(table, "image"):
            if "categories" not in row and "caption" not in row:
                raise DataError("no column 'categories' or 'caption'", where=str(table), remedy="take the file out")
            labels = [*listed(row.get("categories", "")), *listed(row.get("atributes", row.get("attributes", "")))]
            text = row.get("caption") or None
            cells = {"text": text, "modality": "fundus", "label": join_labels(labels), "source": table.stem}
            yield Found(where, job.folder / row["image"], cells)


def read_mm_retinal(job: Job) -> Iterator[Found]:
    """Give the images of MM-Retinal."""
    base = base_of(job.folder, *(f"{kind}_translated*.csv" for kind in _RETINAL), what="MM-Retinal")
    for kind, modality in _RETINAL.items():
        for table in sorted(base.glob(f"{kind}_translated*.csv")):
            for where, row in read_csv(table, "Image_ID", "en_caption"):
                cells = {"text": row["en_caption"] or None, "modality": modality, "kind": kind}
                yield Found(where, base / kind / row["Image_ID"], cells)


ROWS = (
    Importer(
        name="flair",
        title="Fundus sets by FLAIR's tables",
        url="https://github.com/jusiro/FLAIR",
        terms="as each of the sets",
        modality="fundus",
        needs="*.csv with image, atributes, categories; the images relative to the folder",
        splits="none; no patients",
        read=read_flair,
        options={"tables": Option("", "folder of the tables, or one table, where they lie elsewhere")},
    ),
    Importer(
        name="mm-retinal",
        title="MM-Retinal",
        url="https://github.com/lxirich/MM-Retinal",
        terms="not stated with the data: ask its authors",
        modality="several",
        needs="CFP_translated_v1.csv (FFA, OCT alike), CFP/, FFA/, OCT/",
        splits="none; no patients",
        read=read_mm_retinal,
    ),
)
