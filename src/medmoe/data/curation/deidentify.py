"""A folder of files, or a manifest with its files and texts, copied without whom they are of, with a log of what went.

The source is never changed. Nothing is copied that wasn't cleaned: what can't be is left out and told.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from medmoe.data.curation.deidentify_one import Record, Way, clean_file
from medmoe.data.curation.deidentify_text import Known, clean_text
from medmoe.data.sources.manifest_write import SUFFIXES, read_all, rows_of, write_manifest
from medmoe.errors import ConfigError, DataError, unknown

LOG = "deidentify.jsonl"
TEXTS = ("text", "question", "answer")
_FILES = ("image", "mask", "gaze")
_IDS = ("patient_id", "study_id")
# Columns that say nothing of a person in any manifest that keeps to the format.
_KEPT = (
    "modality", "label", "view", "offset_days", "boxes", "split", "license", "body_part", "width", "height", "frame",
    "plane",
)  # fmt: skip
# Columns that tell rows apart, but may name whom they are of: a scan makes them of folders and of institutions.
_GROUPS = ("source", "domain")


@dataclass
class Result:
    """What a run did.

    Args:
        records: One a file, in the order of their paths' names.
        sources: Their paths, relative to the data's folder: for whoever may see the data, never for the log.
        dropped: Columns of the manifest that were left out.
        manifest: The manifest written.
    """

    records: list[Record]
    sources: list[str]
    dropped: list[str] = field(default_factory=list)
    manifest: Path | None = None

    @property
    def refused(self) -> list[tuple[str, str]]:
        """(path, reason) of the files that weren't written."""
        return [(name, str(r.reason)) for name, r in zip(self.sources, self.records, strict=True) if r.file is None]


def deidentify(
    source: Path,
    out: Path,
    way: Way,
    *,
    texts: Sequence[str] = TEXTS,
    keep_columns: Sequence[str] = (),
    workers: int = 1,
    resume: bool = False,
) -> Result:
    """Copy a folder's files, or a manifest with its files, without what names patients.

    Args:
        source: A folder of DICOM, JPEG, PNG and NIfTI files, or a manifest's file.
        out: A folder to write, new or empty, neither in the source nor around it.
        way: How.
        texts: The manifest's columns of text to clean by rule.
        keep_columns: Further columns to keep as they are; others that the format doesn't know are left out. `source`
            and `domain` become pseudonyms unless they are kept so (or `domain` by the option `institution`).
        workers: Processes.
        resume: Go on with a run of the same key and options that was stopped.

    Returns:
        What was done. It is in `out/deidentify.jsonl` too.

    Raises:
        DataError: If the source isn't there or `out` can't be written.
        ConfigError: If an option can't be.
    """
    if not source.exists():
        raise DataError("no such folder or manifest", where=str(source), remedy="check the path")
    path = _manifest_of(source)
    root = path.parent if path is not None else source
    check_place(root, out)
    if path is not None:
        table = read_all(path)
        for name in (*keep_columns, *(name for name in texts if name not in TEXTS)):
            if name not in table.column_names:
                raise ConfigError(unknown("column", name, table.column_names), where=str(path))
        done = _begin(out, way, resume=resume)
        return _manifest(path, table, out, way, done, texts=texts, keep_columns=keep_columns, workers=workers)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if not names:
        raise DataError("no file in the folder", where=str(source), remedy="check the path")
    done = _begin(out, way, resume=resume)
    jobs: list[Job] = [(name, None, True) for name in names]
    return Result([record for record, _ in _run(jobs, root, out, way, done, workers)], names)


def check_place(source: Path, out: Path) -> None:
    """Raise a DataError where the output would lie in the source, or around it."""
    inner, outer = out.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        remedy = "name a folder apart from the source"
        raise DataError("the output and the source lie in each other", where=str(out), remedy=remedy)


def _manifest_of(source: Path) -> Path | None:
    """Give the manifest that a path names; None for a folder, whose manifest, if it has one, is a file like others."""
    if source.is_file() and source.suffix.lower() not in SUFFIXES:
        what = f"neither a folder nor a manifest ({', '.join(SUFFIXES)})"
        raise DataError(what, where=str(source), remedy="name the folder that holds the files")
    return source if source.is_file() else None


def _begin(out: Path, way: Way, *, resume: bool) -> dict[str, dict[str, Any]]:
    """Open the output folder and its log; give the records of an earlier run that may be gone on with."""
    log, head = out / LOG, {"way": way.described()}
    if resume and log.is_file():
        lines = [json.loads(line) for line in _whole_lines(log)]
        if not lines or lines[0] != head:
            what = "it was begun with another key or other options"
            raise DataError(what, where=str(log), remedy="give the same ones, or write into a new folder")
        _write_lines(log, lines)
        return {row["source"]: row for row in lines[1:] if row.get("file")}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "the output isn't an empty folder"
        raise DataError(what, where=str(out), remedy="name a new folder, or go on with a stopped run: --resume")
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write_lines(log, [head])
    except OSError as error:
        raise DataError(f"can't be written ({error.strerror})", where=str(out), remedy="check the folder") from None
    return {}


def _whole_lines(log: Path) -> list[str]:
    """Read a log's lines, without one that a stopped run didn't finish."""
    text = log.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


def _write_lines(log: Path, rows: Iterable[dict[str, Any]]) -> None:
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


Job = tuple[str, str | None, bool]  # path relative to the folder, the patient's pseudonym, whether to look for text


def _one(job: Job, root: Path, out: Path, way: Way) -> tuple[Record, Known]:
    name, patient, look = job
    return clean_file(root / name, name, out, way, patient=patient, look=look)


def _run(
    jobs: list[Job], root: Path, out: Path, way: Way, done: dict[str, dict[str, Any]], workers: int
) -> Iterator[tuple[Record, Known]]:
    """Clean files in order, each logged once its copy is whole; those of the earlier run are taken from its log.

    A file that the earlier run wrote isn't read again, so the names of its header aren't known: where a manifest has
    texts, its copy is made anew.
    """
    key = way.key
    waiting = [job for job in jobs if not _is_done(done.get(key.name("path", job[0])), out)]
    work = partial(_one, root=root, out=out, way=way)
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) if workers > 1 else None
    try:
        fresh = pool.map(work, waiting, chunksize=4) if pool else map(work, waiting)
        with (out / LOG).open("a", encoding="utf-8") as log:
            for job in jobs:
                row = done.get(key.name("path", job[0]))
                if _is_done(row, out):
                    yield (
                        Record(**{**(row or {}), "changes": [tuple(c) for c in (row or {}).get("changes", [])]}),
                        Known(),
                    )
                    continue
                record, known = next(fresh)
                log.write(json.dumps(record.row()) + "\n")
                log.flush()
                yield record, known
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _is_done(row: dict[str, Any] | None, out: Path) -> bool:
    return row is not None and (out / row["file"]).is_file()


def _manifest(
    path: Path,
    table: pa.Table,
    out: Path,
    way: Way,
    done: dict[str, dict[str, Any]],
    *,
    texts: Sequence[str],
    keep_columns: Sequence[str],
    workers: int,
) -> Result:
    """Clean a manifest's files and texts."""
    rows = list(rows_of(table))
    jobs: dict[str, Job] = {}
    for row in rows:
        patient = way.key.patient(str(row["patient_id"])) if row.get("patient_id") else None
        for column in _FILES:
            if (name := row.get(column)) and name not in jobs:
                jobs[name] = (name, patient, column == "image")
    named = any(row.get(name) for row in rows for name in texts)
    if named and done:  # names of headers are needed again, for the texts
        _write_lines(out / LOG, [{"way": way.described()}])
    results = _run(list(jobs.values()), path.parent, out, way, {} if named else done, workers)
    cleaned = dict(zip(jobs, results, strict=True))
    of_patient: dict[str | None, Known] = {
        None: Known()
    }  # what the headers of a patient's files say, for all his texts
    for row in rows:
        if patient := row.get("patient_id"):
            of_patient[patient] = of_patient.get(patient, Known()).joined(cleaned[str(row["image"])][1])
    fresh: list[dict[str, object]] = []
    found: Counter[str] = Counter()
    for row in rows:
        if cleaned[str(row["image"])][0].file is not None:
            known = of_patient[row.get("patient_id") or None]
            fresh.append(_row(row, cleaned, known, way, texts, keep_columns, found))
    kept = {*_FILES, *_IDS, "prior", *_KEPT, *_GROUPS, *texts, *keep_columns}
    dropped = [name for name in table.column_names if name not in kept]
    with (out / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps({"texts": dict(found), "rows": len(fresh)}) + "\n")
    if not fresh:
        raise DataError("no row is left", where=str(path), remedy=f"see the reasons in {out / LOG}")
    written = write_manifest(fresh, out / f"manifest{path.suffix.lower()}")
    return Result([record for record, _ in cleaned.values()], list(cleaned), dropped, written)


def _row(
    row: dict[str, str | None],
    cleaned: dict[str, tuple[Record, Known]],
    of_patient: Known,
    way: Way,
    texts: Sequence[str],
    keep_columns: Sequence[str],
    found: Counter[str],
) -> dict[str, object]:
    """Make a row of the new manifest."""
    key = way.key
    record, known = cleaned[str(row["image"])]
    fresh: dict[str, object] = {name: row[name] for name in (*_KEPT, *keep_columns) if row.get(name)}
    for column in _GROUPS:
        if row.get(column) and column not in fresh:
            known_place = column == "domain" and "institution" in way.options.keep
            fresh[column] = row[column] if known_place else key.name(column, str(row[column]))
    for column in (*_FILES, "prior"):
        if (name := row.get(column)) and name in cleaned:
            fresh[column] = cleaned[name][0].file
    if row.get("patient_id"):
        fresh["patient_id"] = key.patient(str(row["patient_id"]))
    elif record.patient:
        fresh["patient_id"] = record.patient
    if row.get("study_id"):
        fresh["study_id"] = key.name("study", str(row["study_id"]))
    own = Known.of(ids=[str(row[name]) for name in _IDS if row.get(name)])
    known = known.joined(of_patient).joined(own)
    patient = str(row.get("patient_id") or "")
    days = key.days(patient) if way.options.dates == "shift" and patient else None
    for name in texts:
        if row.get(name):
            text = clean_text(str(row[name]), known, days=days)
            found.update(text.found)
            fresh[name] = text.text
    return fresh


def write_map(path: Path, result: Result) -> None:
    """Write which file became which, for whoever holds the key: one JSON object a line, readable by its owner only.

    Raises:
        DataError: If it can't be written.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            path.chmod(0o600)  # also where an earlier one was there for others to read
            for name, record in zip(result.sources, result.records, strict=True):
                file.write(json.dumps({"source": name, "file": record.file, "reason": record.reason}) + "\n")
    except OSError as error:
        raise DataError(f"can't be written ({error.strerror})", where=str(path), remedy="check the folder") from None
