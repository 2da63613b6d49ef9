"""From what is known of each file of a tree to the rows of a manifest, and the list of files that aren't in it."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from medmoe.data.curation.label import Decision, Tally, columns_of, decide
from medmoe.data.curation.label_rules import Clues, identify, report_type
from medmoe.data.curation.scan_file import DICOM, PICTURE, TEXT, UNREADABLE, VOLUME, Record
from medmoe.data.curation.scan_links import Reports, mask_paths
from medmoe.data.dicom.facts import REPORT, HeaderFacts
from medmoe.data.dicom.series import Stack, stacks_of

MASK = "mask"
ALL, MIDDLE = "all", "middle"


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes a row.

    Attributes:
        frames: Of a volume or multi-frame file: `middle` (one row without a frame, which is read as the middle one),
            `all`, or every how many-eth.
        slices: Of a DICOM series of one-frame files: `all`, `middle` or every how many-eth.
        source: Value of the column `source`; None takes the name of the topmost folder below the root.
    """

    frames: str = MIDDLE
    slices: str = ALL
    source: str | None = None


@dataclass
class Listing:
    """What a scan found.

    Attributes:
        rows: Of the manifest.
        left_out: Path, kind and reason of each file that is neither an image of a row, nor its mask, nor its report.
        used: How many files are images of rows, masks of rows and reports of rows.
        stacks: DICOM series as they lie in the patient.
        tally: What the rules said.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    stacks: list[Stack[str]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


def list_tree(records: Mapping[str, Record], *, root: str, out: str, choice: Choice) -> Listing:
    """Make rows of a tree's records.

    Args:
        records: Path below the root → record, of every file.
        root: The folder; its name is the source of files that lie in no folder below it.
        out: The folder that the manifest's paths are relative to.
        choice: What becomes a row.
    """
    listing = Listing()
    masks = _find_masks(records)
    linked = _link_masks(records, masks, listing)
    headers = {path: facts for path, record in records.items() if record.kind == DICOM and (facts := record.header)}
    listing.stacks = stacks_of(headers.items())
    reports, read = Reports(records), set[str]()
    first_days = _first_days(headers)
    for path, rank in _ordered(records, masks, listing, choice):
        record, facts = records[path], headers.get(path)
        text, files = reports.of(path, facts.study if facts else None)
        read.update(files)
        decision = decide(clues_of(path, record, facts, text))
        listing.tally.add(path, decision)
        row = _row(path, record, facts, decision, text, choice, os.path.basename(root))  # noqa: PTH119
        row = {name: _clean(value) for name, value in row.items()}
        row |= {"image": _relative(root, path, out), "instance": rank if facts else None}
        if path in linked:
            row["mask"] = _relative(root, linked[path], out)
        if facts is not None and facts.day is not None and facts.patient is not None:
            row["offset_days"] = (facts.day - first_days[facts.patient]).days
        listing.rows += [row | {"frame": frame} for frame in _frames(record, choice.frames)]
        listing.used["image"] += 1
    listing.used |= {MASK: len(linked), "report": len(read)}
    _leave_out_others(records, read, listing)
    listing.left_out.sort(key=lambda one: one["path"])
    return listing


def clues_of(path: str, record: Record, facts: HeaderFacts | None, text: str | None) -> Clues:
    """Gather what the rules of `medmoe.data.curation.label` may look at."""
    return Clues(
        path=path,
        code=facts.code if facts else None,
        sop_class=facts.sop_class if facts else None,
        regions=facts.ultrasound_regions if facts else 0,
        description=facts.description if facts else None,
        text=text,
        measures=record.measures,
    )


def _row(
    path: str,
    record: Record,
    facts: HeaderFacts | None,
    decision: Decision,
    text: str | None,
    choice: Choice,
    root: str,
) -> dict[str, Any]:
    """Give a row's values, those of frames, masks and days apart."""
    patient, study = identify(path)
    top = path.split("/")[0] if "/" in path else root
    kind = report_type(text)
    row: dict[str, Any] = {
        "text": text,
        **columns_of(decision),
        "patient_id": patient,
        "study_id": study,
        "width": record.width,
        "height": record.height,
        "plane": record.plane,
        "spacing": record.spacing,
        "thickness": record.thickness,
        "source": choice.source or top,
        "report_type": kind and kind[0],
        "report_type_rule": kind and kind[1],
        "sha": record.sha,
    }
    if facts is None:
        return row
    return row | {
        "patient_id": facts.patient or patient,
        "study_id": facts.study or study,
        "series_id": facts.series,
        "view": _view(facts),
        "body_part": facts.body_part,
        "domain": facts.domain,
        "modality_code": facts.code,
        "image_type": _image_type(facts),
        "burned_in": None if facts.burned_in is None else ("yes" if facts.burned_in else "no"),
    }


def _view(facts: HeaderFacts) -> str | None:
    """Say from where the image was taken: `PA`, `left`, `left CC`."""
    parts = [facts.laterality] if facts.laterality and (facts.code == "MG" or not facts.view) else []
    return " ".join([*parts, *([facts.view] if facts.view else [])]) or None


def _image_type(facts: HeaderFacts) -> str:
    if facts.is_localiser:
        return "localiser"
    if facts.is_secondary_capture:
        return "secondary capture"
    return "derived" if facts.is_derived else "original"


def _find_masks(records: Mapping[str, Record]) -> dict[str, str | None]:
    """Tell masks from pictures and volumes by name, and volumes of labels by their header too."""
    named = {path for path, record in records.items() if record.kind in (PICTURE, VOLUME)}
    masks = mask_paths(named)
    return masks | {path: None for path in sorted(named) if records[path].labels and path not in masks}


def _link_masks(records: Mapping[str, Record], masks: Mapping[str, str | None], listing: Listing) -> dict[str, str]:
    """Pair images with their masks: one each, of the same kind and size; say why others aren't linked."""
    linked: dict[str, str] = {}
    for path, image in masks.items():
        record = records[path]
        if image is None:
            reason = "looks like a mask, by its name or header; no one image has its name"
        elif image in linked:
            reason = f"a further mask of {image}"
        elif record.kind != records[image].kind:
            reason = f"a mask of {image}, but a {record.kind} where that is a {records[image].kind}"
        elif _shape(record) != _shape(records[image]):
            reason = f"a mask of {image}, but of another size"
        else:
            linked[image] = path
            continue
        listing.left_out.append({"path": path, "kind": MASK, "reason": reason})
    return linked


def _shape(record: Record) -> tuple[int | None, int | None, int]:
    return record.width, record.height, record.slices


def _ordered(
    records: Mapping[str, Record], masks: Mapping[str, str | None], listing: Listing, choice: Choice
) -> list[tuple[str, int]]:
    """Give images in the order of their rows, slices of a stack together in the patient's order, each with its rank."""
    places: list[tuple[str, int, str]] = []
    for stack in listing.stacks:
        single = [key for key in stack.keys if records[key].slices == 1]
        chosen = {single[at] for at in every(len(single), choice.slices)} if len(single) > 1 else set(single)
        first = min(stack.keys)
        for rank, key in enumerate(stack.keys):
            if key in chosen or records[key].slices > 1:
                places.append((first, rank, key))
            else:
                reason = "a slice of a series of which not all are taken (--slices)"
                listing.left_out.append({"path": key, "kind": DICOM, "reason": reason})
    places += [(path, 0, path) for path, record in records.items() if record.is_image and record.kind != DICOM]
    return [(path, rank) for _, rank, path in sorted(places) if path not in masks]


def every(count: int, choice: str) -> list[int]:
    """Choose among frames or slices: `all`, the `middle` one, or every n-th around the middle of the first n.

    >>> every(7, "middle"), every(7, "3"), every(2, "5")
    ([3], [1, 4], [0])
    """
    if choice == ALL:
        return list(range(count))
    middle = (count - 1) // 2
    if choice == MIDDLE:
        return [middle]
    step = int(choice)
    return list(range((step - 1) // 2, count, step)) or [middle]


def _frames(record: Record, choice: str) -> list[int | None]:
    """Choose the frames of a file; None is the middle one, whose number needn't be known."""
    if record.slices == 1 or choice == MIDDLE:
        return [None]
    return list(every(record.slices, choice))


def _first_days(headers: Mapping[str, HeaderFacts]) -> dict[str, date]:
    """Find each patient's first day."""
    days: defaultdict[str, list[date]] = defaultdict(list)
    for facts in headers.values():
        if facts.patient is not None and facts.day is not None:
            days[facts.patient].append(facts.day)
    return {patient: min(found) for patient, found in days.items()}


def _leave_out_others(records: Mapping[str, Record], read: set[str], listing: Listing) -> None:
    """List what isn't an image and no report of one."""
    for path, record in records.items():
        if record.is_image or path in read:
            continue
        kind, reason = record.kind, record.reason
        if record.kind in (TEXT, REPORT) and reason is None:
            reason = "no image that it is the report of" if record.text else "no text of a report in it"
        facts = record.header
        said = {"modality_code": facts.code} if facts is not None and facts.code is not None else {}
        listing.left_out.append({"path": path, "kind": kind, "reason": reason or UNREADABLE} | said)


def _clean(value: Any) -> Any:
    """Give a text that UTF-8 can hold."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _relative(root: str, path: str, out: str) -> str:
    return os.path.relpath(os.path.join(root, path), out).replace(os.sep, "/")  # noqa: PTH118


def as_line(found: Mapping[str, str]) -> dict[str, str]:
    """Make an entry of the list of what was left out safe to write: names that aren't UTF-8 get their bytes escaped."""
    return {name: value.encode("utf-8", "backslashreplace").decode() for name, value in found.items()}


def summarise(listing: Listing) -> dict[str, Any]:
    """Count rows by modality and source, files by what became of them, and what is odd about series."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for row in listing.rows:
        table[row["modality"] or "(undecided)"][row["source"]] += 1
    stacks = [dataclasses.replace(stack, keys=()) for stack in listing.stacks if len(stack.keys) > 1]
    return {
        "rows": len(listing.rows),
        "with_text": sum(row["text"] is not None for row in listing.rows),
        "with_mask": sum("mask" in row for row in listing.rows),
        "files": {"image": 0, MASK: 0, "report": 0} | dict(listing.used)
        | {"left out": len(listing.left_out)},
        "left_out": dict(Counter(one["kind"] for one in listing.left_out).most_common()),
        "modalities": {name: dict(counts.most_common()) for name, counts in sorted(table.items())},
        "series": {
            "stacks": len(stacks),
            "ordered_by": dict(Counter(stack.ordered_by for stack in stacks)),
            "with_gaps": sum(stack.missing > 0 for stack in stacks),
            "with_doubled_places": sum(stack.doubled > 0 for stack in stacks),
            "localisers": sum(stack.localiser for stack in stacks),
        },
        "labels": listing.tally.as_dict(),
    }  # fmt: skip
