"""Figures of open-access articles with their captions: ROCOv2 and PMC-OA.

Layouts: ROCOv2 (https://zenodo.org/records/10821435; Rückert et al., 2024,
https://doi.org/10.1038/s41597-024-03496-6): `{train,valid,test}_captions.csv` (ID, Caption), `…_concepts.csv` and
`…_concepts_manual.csv` (ID, CUIs joined by `;`), `license_information.csv` (ID, PMCID, Attribution, Link), images in
`train/`, `train_images/` or `train_images/train/`. PMC-OA (https://huggingface.co/datasets/axiong/pmc_oa; Lin et al.,
2023, https://arxiv.org/abs/2303.07240): `pmc_oa.jsonl` or `{train,valid,test}.jsonl` with `image` and `caption`,
images in `caption_T060_filtered_top4_sep_v0_subfigures/`, which may lie in `images/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medmoe.data.importers.common import (
    Found,
    Importer,
    Job,
    base_of,
    first_there,
    read_csv,
    read_jsonl,
    table_at,
    wordings,
)
from medmoe.errors import DataError

_SPLITS = {"train": "train", "valid": "val", "test": "test"}
_SUBFIGURES = "caption_T060_filtered_top4_sep_v0_subfigures"


def read_roco(job: Job) -> Iterator[Found]:
    """Give the images of ROCOv2; the concept of the kind of image tells its modality, `article` the article."""
    base = base_of(job.folder, *(f"{split}_captions.csv" for split in _SPLITS), what="ROCOv2")
    about = {}
    licences = table_at(base, "license_information.csv")
    if licences is None:
        job.notes.append("no license_information.csv: no licence and no article of each image")
    else:
        for _, row in read_csv(licences, "ID", "PMCID", "Attribution"):
            about[row["ID"]] = (row["PMCID"], row["Attribution"])
    for theirs, split in _SPLITS.items():
        table = table_at(base, f"{theirs}_captions.csv")
        if table is None:
            continue
        modalities = _modalities(base, theirs)
        folders = (base / theirs, base / f"{theirs}_images" / theirs, base / f"{theirs}_images")
        folder = next((place for place in folders if place.is_dir() and any(place.glob("*.jpg"))), folders[0])
        for where, row in read_csv(table, "ID", "Caption"):
            article, attribution = about.get(row["ID"], (None, None))
            cells = {
                "text": row["Caption"] or None,
                "modality": modalities.get(row["ID"]),
                "study_id": article,
                "article": article,
                "split": split,
                "license": attribution or None,
            }
            yield Found(where, folder / f"{row['ID']}.jpg", cells)


def _modalities(base: Path, split: str) -> dict[str, str]:
    """Give the modality of each image whose concepts name just one."""
    known: dict[str, str] = wordings()["umls"]
    table = table_at(base, f"{split}_concepts_manual.csv", f"{split}_concepts.csv")
    found = {}
    for _, row in read_csv(table, "ID", "CUIs") if table else ():
        named = {known[concept.strip()] for concept in row["CUIs"].split(";") if concept.strip() in known}
        if len(named) == 1:
            found[row["ID"]] = named.pop()
    return found


def read_pmc_oa(job: Job) -> Iterator[Found]:
    """Give the panels of PMC-OA; an article's panels belong together, so it counts as a patient."""
    base = base_of(job.folder, "pmc_oa.jsonl", "train.jsonl", "valid.jsonl", "test.jsonl", what="PMC-OA")
    parts = {split: base / f"{theirs}.jsonl" for theirs, split in _SPLITS.items()}
    tables: dict[str | None, Path] = {split: path for split, path in parts.items() if path.is_file()}
    if not tables:
        tables = {None: base / "pmc_oa.jsonl"}
    folder = first_there(base / _SUBFIGURES, base / "images" / _SUBFIGURES, base / "images")
    for split, table in tables.items():
        for where, row in read_jsonl(table):
            image, caption = row.get("image"), row.get("caption")
            if not isinstance(image, str) or not isinstance(caption, str | None):
                raise DataError("no 'image' and 'caption' of text", where=where, remedy="use the file as published")
            article = re.match(r"(PMC\d+)_", image)
            own = article[1] if article else None
            cells = {"text": (caption or "").strip() or None, "patient_id": own, "study_id": own, "split": split}
            yield Found(where, folder / image, cells)


ROWS = (
    Importer(
        name="rocov2",
        title="ROCOv2",
        url="https://zenodo.org/records/10821435",
        terms="CC BY or CC BY-NC, by image: license_information.csv",
        modality="several",
        needs="train_captions.csv …, train/*.jpg or train_images/train/*.jpg …; license_information.csv, _concepts.csv",
        splits="official, by image; the column `article` says which images are of one article",
        read=read_roco,
    ),
    Importer(
        name="pmc-oa",
        title="PMC-OA",
        url="https://huggingface.co/datasets/axiong/pmc_oa",
        terms="Open Access subset of PubMed Central: the licence of each article; OpenRAIL for the collection",
        modality="several",
        needs=f"pmc_oa.jsonl or train.jsonl, valid.jsonl, test.jsonl; {_SUBFIGURES}/*.jpg",
        splits="official where no article is in several, else `official_split`; the article stands for the patient",
        read=read_pmc_oa,
    ),
)
