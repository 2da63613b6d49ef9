"""How often `medmoe data scan` names an image's modality as its manifest does, with all its rules and with few.

    python benchmarks/scan_agreement.py --corpus CORPUS --json FILE

CORPUS holds images/, masks/ and manifest.parquet, and native/ with manifest.csv, whose modalities are DICOM's codes.
The tree is scanned without its manifests; then they are the truth. Rules are also judged without what makes it easy:
names of folders (which may be those of modalities), names of public data sets, any name at all; and under the paths
that the files had where they were found (column origin_path), which nobody sorted by modality.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from medmoe.data.curation.label import Tally, decide
from medmoe.data.curation.label_rules import DATASET, FAMILIES, HEADER, LAYOUT, PIXELS, TEXT, Clues
from medmoe.data.curation.scan import scan
from medmoe.data.curation.scan_file import Record
from medmoe.data.curation.scan_read import Memory
from medmoe.data.curation.scan_rows import clues_of
from medmoe.data.curation.scan_walk import walk
from medmoe.modalities import MODALITIES
from medmoe.rundir import git_commit, machine

# Data sets that the thresholds of the pixels' rules were set on; the others are the test of those.
SEEN = {
    "srahim-dr", "lc25000-lung", "monusac", "busi", "hc18", "nih-pancreas-ct", "medpix-2.0", "kermany-pediatric-cxr",
    "kvasir-seg", "bccd", "isic",
}  # fmt: skip
Cases = Mapping[str, tuple[Clues, str, str]]  # path → (clues, truth, data set)
OF_CODE = {code: row.name for row in MODALITIES.values() for code in row.dicom}


def whole(clues: Clues) -> Clues:
    return clues


def without_folders(clues: Clues) -> Clues:
    """Leave the file's own name."""
    return dataclasses.replace(clues, path=clues.path.rsplit("/", 1)[-1])


def without_names(clues: Clues) -> Clues:
    return dataclasses.replace(clues, path="")


SETTINGS: dict[str, tuple[tuple[str, ...], Callable[[Clues], Clues]]] = {
    "all rules": (FAMILIES, whole),
    "without names of data sets": ((HEADER, TEXT, LAYOUT, PIXELS), whole),
    "without folders": (FAMILIES, without_folders),
    "without folders and names of data sets": ((HEADER, TEXT, LAYOUT, PIXELS), without_folders),
    "original paths": (FAMILIES, whole),
    "original paths, without names of data sets": ((HEADER, TEXT, LAYOUT, PIXELS), whole),
    "original paths, without pixels": ((HEADER, TEXT, LAYOUT, DATASET), whole),
    "names of data sets alone": ((DATASET,), without_folders),
    "pixels alone": ((PIXELS,), without_names),
    "captions alone": ((TEXT,), without_names),
    "captions and pixels": ((TEXT, PIXELS), without_names),
}
ORIGINAL = tuple(name for name in SETTINGS if name.startswith("original paths"))
WITH_CAPTIONS = ("captions alone", "captions and pixels")


def judge(cases: Cases, setting: str) -> dict[str, Any]:
    """Judge one setting."""
    families, hide = SETTINGS[setting]
    tally, confusion = Tally(), defaultdict[str, Counter[str]](Counter)
    by_source: dict[str, Counter[str]] = defaultdict(Counter)
    for path, (clues, truth, source) in cases.items():
        decision = decide(hide(clues), families)
        tally.add(path, decision, truth=truth)
        confusion[truth][decision.modality or "(undecided)"] += 1
        outcome = "undecided" if decision.modality is None else ("right" if decision.modality == truth else "wrong")
        by_source[f"{source} ({truth})"][outcome] += 1
    right = sum(row[truth] for truth, row in confusion.items())
    return {
        "images": len(cases),
        "right": right,
        "decided": tally.decided,
        "right_of_all": right / max(len(cases), 1),
        "right_of_decided": right / max(tally.decided, 1),
        "confusion": {truth: dict(row.most_common()) for truth, row in sorted(confusion.items())},
        "by_source": {source: dict(row) for source, row in sorted(by_source.items())},
        "rules": tally.as_dict()["rules"],
        "conflicts": len(tally.conflicts),
    }


def pictures(corpus: Path, records: Mapping[str, Record]) -> tuple[Cases, Cases, Cases]:
    """Give the cases of the manifest; those with a caption, with it; and all under the paths they were found at."""
    columns = ["image", "modality", "source", "text", "origin_path"]
    table = pq.read_table(corpus / "manifest.parquet", columns=columns).to_pylist()
    cases, captioned, original = {}, {}, {}
    for row in table:
        record = records.get(row["image"])
        if record is None or not record.is_image:
            continue
        clues, truth = clues_of(row["image"], record, record.header, None), (row["modality"], row["source"])
        cases[row["image"]] = (clues, *truth)
        original[row["image"]] = (dataclasses.replace(clues, path=row["origin_path"] or ""), *truth)
        if row["text"]:
            captioned[row["image"]] = (dataclasses.replace(clues, text=row["text"]), *truth)
    return cases, captioned, original


def native(
    corpus: Path, records: Mapping[str, Record], rows: Mapping[str, Any], left: Mapping[str, Any]
) -> dict[str, Any]:
    """Judge the DICOM files whose manifest gives a code: ours must be named, another must be told and nothing named."""
    counts: Counter[str] = Counter()
    wrong = []
    with (corpus / "native/manifest.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            path, code = f"native/{row['path']}", row["modality"]
            place = "row" if path in rows else ("left out" if path in left else "lost")
            counts[f"{place}"] += 1
            if not code:
                counts["no code in the manifest"] += 1
                continue
            record = records[path]
            told = record.header.code if record.header is not None else None
            named = rows[path]["modality"] if path in rows else OF_CODE.get(told or "")
            good = told == code and named == OF_CODE.get(code)
            counts["right" if good else "wrong"] += 1
            if not good:
                wrong.append({"path": path, "code": code, "told": told, "named": named})
    return dict(counts) | {"errors": wrong}


def masks(corpus: Path, rows: Mapping[str, Any]) -> dict[str, int]:
    """Count the masks that the manifest knows and the scan linked alike."""
    table = pq.read_table(corpus / "manifest.parquet", columns=["image", "mask"]).to_pylist()
    known = {row["image"]: row["mask"] for row in table if row["mask"]}
    found = {path: row["mask"] for path, row in rows.items() if row.get("mask")}
    return {
        "known": len(known),
        "linked": len(found),
        "alike": sum(found.get(path) == mask for path, mask in known.items()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="folder for the scan's files, to go on from; by default a new one")
    parser.add_argument("--workers", type=int, default=2)
    wanted = parser.parse_args()
    corpus = Path(os.path.realpath(wanted.corpus))
    with tempfile.TemporaryDirectory() as scratch:
        out = (wanted.work or Path(scratch)) / "manifest.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        done = scan(corpus, out, workers=wanted.workers)
        with Memory(out.with_name(f"{out.name}.scan.jsonl"), thorough=True) as memory:
            records = {one.path: record for one in walk(str(corpus)) if (record := memory.get(one)) is not None}
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        left = {row["path"]: row for row in map(json.loads, done.quarantine.read_text(encoding="utf-8").splitlines())}

    def below(path: str) -> str:
        return os.path.relpath(os.path.join(os.path.realpath(out.parent), path), corpus)  # noqa: PTH118

    rows = {below(row["image"]): row | ({"mask": below(row["mask"])} if row.get("mask") else {}) for row in lines}
    rows = {path: {"modality": None} | row for path, row in rows.items()}
    cases, captioned, original = pictures(corpus, records)
    used = dict.fromkeys(SETTINGS, cases) | dict.fromkeys(WITH_CAPTIONS, captioned) | dict.fromkeys(ORIGINAL, original)
    results = {name: judge(used[name], name) for name in SETTINGS}
    unseen = {path: case for path, case in cases.items() if case[2] not in SEEN}
    results["pixels alone, data sets not looked at"] = judge(unseen, "pixels alone")
    report = {
        "files": done.summary["found"],
        "accounted": sum(done.summary["files"].values()),
        "pictures_in_manifest": pq.read_metadata(corpus / "manifest.parquet").num_rows,
        "pictures_found": sum(path in rows for path in cases),
        "native": native(corpus, records, rows, left),
        "masks": masks(corpus, rows),
        "left_out": done.summary["left_out"],
        "settings": results,
        "commit": git_commit(),
        "machine": machine(),
    }
    wanted.json.parent.mkdir(parents=True, exist_ok=True)
    wanted.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    tell(report)


def tell(report: Mapping[str, Any]) -> None:
    print(f"{report['files']} files, {report['accounted']} of them accounted for; left out: {report['left_out']}")
    print(f"pictures of the manifest found: {report['pictures_found']} of {report['pictures_in_manifest']}")
    print(f"native: {report['native']}")
    print(f"masks: {report['masks']}")
    print(f"\n{'rules':40} {'images':>7} {'decided':>8} {'right':>7} {'of all':>8} {'of decided':>10}")
    for name, row in report["settings"].items():
        shares = f"{row['right_of_all']:8.2%} {row['right_of_decided']:10.2%}"
        print(f"{name:40} {row['images']:7} {row['decided']:8} {row['right']:7} {shares}")
    for name in (
        "all rules",
        "original paths",
        "without folders and names of data sets",
        "pixels alone",
        "captions alone",
    ):
        print(f"\n{name}")
        for truth, row in report["settings"][name]["confusion"].items():
            print(f"  {truth:12} " + ", ".join(f"{said} {count}" for said, count in row.items()))
        for rule, count in report["settings"][name]["rules"].items():
            share = count["right"] / max(count["judged"], 1)
            print(f"    {rule:28} fired {count['fired']:5}, right {count['right']:5} ({share:.1%})")


if __name__ == "__main__":
    main()
