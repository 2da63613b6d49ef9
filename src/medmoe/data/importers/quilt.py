"""Quilt-1M: histopathology images with text, most of them from videos.

Layout: the release on Zenodo (https://zenodo.org/records/8239942; Ikezogwo et al., 2023,
https://arxiv.org/abs/2306.11207): `quilt_1M_lookup.csv` (caption, image_path, subset, split, pathology, roi_text,
noisy_text, corrected_text, med_umls_ids, magnification, height, width) and the images of its archives, in `images/`,
`quilt_1m/`, or `images_part_1/quilt_1m/` ….
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from medmoe.data.importers.common import Found, Importer, Job, base_of, read_csv

_SPLITS = {"valid": "val", "validation": "val"}


def read(job: Job) -> Iterator[Found]:
    """Give the pairs of Quilt-1M; an image comes once for each of its captions, and a video counts as a patient."""
    base = base_of(job.folder, "quilt_1M_lookup.csv", what="Quilt-1M")
    places = [base / "images", base / "quilt_1m", base / "images" / "quilt_1m"]
    places += [path for part in sorted(base.glob("images_part_*")) for path in (part / "quilt_1m", part)]
    places = [path for path in places if path.is_dir()] or places[:1]
    last = places[0]
    for where, row in read_csv(base / "quilt_1M_lookup.csv", "caption", "image_path", "subset", "split"):
        name = row["image_path"].replace("\\", "/").rsplit("/")[-1]
        if not (last / name).is_file():
            last = next((place for place in places if (place / name).is_file()), last)
        video = re.match(r"(.+?)_image_", name)
        split = row["split"].lower()
        cells = {
            "text": row["caption"] or None,
            "modality": "pathology",
            "patient_id": video[1] if video else None,
            "study_id": video[1] if video else None,
            "split": _SPLITS.get(split, split) or None,
            "subset": row["subset"] or None,
        }
        yield Found(where, last / name, cells)


ROWS = (
    Importer(
        name="quilt-1m",
        title="Quilt-1M",
        url="https://quilt1m.github.io/",
        terms="non-commercial research, after a request on Zenodo",
        modality="pathology",
        needs="quilt_1M_lookup.csv; images/, quilt_1m/ or images_part_…/quilt_1m/",
        splits="official where no video is in several, else `official_split`; the video stands for the patient",
        read=read,
    ),
)
