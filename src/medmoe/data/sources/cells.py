"""What is written about an image, in a manifest's row or a shard's JSON, as the fields of a sample."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from medmoe.data.preprocess import NO_PIXELS
from medmoe.data.templates import report_from_labels
from medmoe.errors import DataError
from medmoe.types import Box, Sample

NO_FINDING = "no_finding"

_LOG = logging.getLogger(__name__)
_OVERHANG = 0.02  # of a side: the rounding of annotation tools, not another image's frame
_SIDES = ("x0", "y0", "x1", "y1")


def sample_of(
    cell: Mapping[str, str | None],
    *,
    key: str,
    where: str,
    modality: str | None,
    boxes: tuple[Box, ...] | None,
    prior: str | None = None,
    wording: tuple[int, int] | None = None,
) -> Sample:
    """Gather a sample's facts, without pixels: `image` is empty (0, 0), mask and gaze None.

    Args:
        cell: Text of each column of `medmoe.data.sources.manifest_table.COLUMNS` that is there.
        key: The sample's key.
        where: `file:row`, for errors.
        modality: The library's name of its modality.
        boxes: Its boxes, placed.
        prior: Key of the earlier image.
        wording: Seed and number of the row, which choose the wording of a report made from the labels where there is
            no text; None makes none.

    Raises:
        DataError: If a number isn't one.
    """
    labels = parse_labels(cell.get("label"))
    report, made = cell.get("text"), False
    if report is None and labels is not None and wording is not None:
        part, view = cell.get("body_part"), cell.get("view")
        seed, row = wording
        report = report_from_labels(labels, modality=modality, body_part=part, view=view, seed=seed, row=row)
        made = True
    return Sample(
        key=key,
        image=NO_PIXELS,
        report=report,
        from_template=made,
        modality=modality,
        labels=labels,
        boxes=boxes,
        view=cell.get("view"),
        offset_days=parse_number(cell.get("offset_days"), "offset_days", where=where),
        prior=prior,
        question=cell.get("question"),
        answer=cell.get("answer"),
        domain=cell.get("domain"),
        patient=cell.get("patient_id"),
        study=cell.get("study_id"),
        source=cell.get("source"),
    )


def parse_labels(text: str | None) -> tuple[str, ...] | None:
    """Split the labels of a cell.

    >>> parse_labels("edema; mass;edema"), parse_labels("No Finding"), parse_labels(None)
    (('edema', 'mass'), (), None)
    """
    if text is None:
        return None
    labels = tuple(dict.fromkeys(filter(None, (label.strip() for label in text.split(";")))))
    if not labels:
        return None
    return () if len(labels) == 1 and "_".join(labels[0].lower().split()) == NO_FINDING else labels


def parse_number(text: str | None, name: str, *, where: str) -> float | None:
    """Parse a number; NaN is None.

    Raises:
        DataError: If it isn't a finite number.
    """
    try:
        value = math.nan if text is None else float(text)
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise DataError(f"{name} {text!r} is not a number", where=where, remedy="correct or empty it")
    return None if math.isnan(value) else value


def place_boxes(text: str, size: tuple[int, int], *, where: str, told: set[str]) -> tuple[Box, ...] | None:
    """Place boxes in an image of size (width, height).

    A box that sticks out by at most 2 % of a side is cut off there.

    Args:
        text: As for `parse_boxes`.
        size: (width, height) of the image in pixels.
        where: `file:row`.
        told: Places that were logged already; this one is added when it is.

    Returns:
        The boxes; None, once logged, where one sticks out further: it was measured on another image.

    Raises:
        DataError: If the JSON or a box is wrong.
    """
    boxes = parse_boxes(text, size, where=where)
    if any(min(b.x0, b.y0) < -_OVERHANG or max(b.x1, b.y1) > 1 + _OVERHANG for b in boxes):
        if where not in told:
            level = logging.INFO if told else logging.WARNING
            _LOG.log(level, "%s: boxes reach beyond the %dx%d pixels; left out (more such rows: INFO)", where, *size)
        told.add(where)
        return None
    cut = (dataclasses.replace(b, **{side: min(max(getattr(b, side), 0.0), 1.0) for side in _SIDES}) for b in boxes)
    return tuple(b for b in cut if b.x0 < b.x1 and b.y0 < b.y1)


def parse_boxes(text: str, size: tuple[int, int], *, where: str) -> tuple[Box, ...]:
    """Parse the boxes of a cell.

    Args:
        text: JSON list of {"label", "xyxy": [x0, y0, x1, y1] in pixels, "phrase" (optional)}.
        size: (width, height) of the image in pixels.
        where: `file:row`, for the error.

    Returns:
        Boxes as fractions of the image, below 0 or above 1 where they reach beyond it.

    Raises:
        DataError: If the JSON or a box is wrong.
    """
    if min(size) < 1:
        raise DataError(f"an image of {size[0]}x{size[1]} pixels has no boxes", where=where, remedy="correct the size")
    remedy = 'write [{"label": "mass", "xyxy": [x0, y0, x1, y1]}], in pixels, x0 < x1 and y0 < y1'
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"boxes are not valid JSON ({error})", where=where, remedy=remedy) from error
    if not isinstance(rows, list):
        raise DataError(f"boxes are a JSON {type(rows).__name__}, not a list", where=where, remedy=remedy)
    boxes = []
    for number, row in enumerate(rows, 1):
        what, box = _box(row, size)
        if box is None:
            raise DataError(f"box {number} {what}", where=where, remedy=remedy)
        boxes.append(box)
    return tuple(boxes)


def _box(row: Any, size: tuple[int, int]) -> tuple[str, Box | None]:
    """Make a box of a JSON value, or say what is wrong with it."""
    label, corners, phrase = (row.get(k) for k in ("label", "xyxy", "phrase")) if isinstance(row, dict) else (None,) * 3
    if not isinstance(label, str) or not isinstance(phrase, str | None):
        return "has no label or a phrase that isn't text", None
    if not isinstance(corners, list) or len(corners) != 4 or not all(map(_is_number, corners)):
        return f"has xyxy {corners!r}, not four numbers", None
    x0, y0, x1, y1 = (float(c) / size[axis % 2] for axis, c in enumerate(corners))
    if x0 >= x1 or y0 >= y1:
        return f"has xyxy {corners!r}, corners in the wrong order or an empty area", None
    return "", Box(label, x0, y0, x1, y1, phrase)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9  # not NaN, and no integer that floats can't hold
