"""Subsets: the same tasks with the same controls within each value of a column, each data set by itself for example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from medmoe.errors import ConfigError, unknown
from medmoe.metrics import Ints
from medmoe.modalities import in_order
from medmoe.tasks.base import Context, Evidence, Task, evaluate_all
from medmoe.types import Sample

# Facts of a sample that subsets are made by. Any column of a manifest can be mapped to `domain`.
COLUMNS = ("source", "modality", "view", "domain")

# A value with fewer images says nothing and is left out.
FEWEST = 10


def check_column(name: str) -> None:
    """Raise a ConfigError unless a column can be used."""
    if name not in COLUMNS:
        remedy = f"map yours to one of these, for example --column domain={name} --by domain"
        raise ConfigError(unknown("column", name, COLUMNS), where="--by", remedy=remedy)


def take(evidence: Evidence, rows: Sequence[int] | Ints) -> Evidence:
    """Keep the evidence of some images, in the order of `rows`."""
    places = torch.as_tensor(list(rows), dtype=torch.long)
    kept: dict[str, Any] = {
        item.name: value[places]
        for item in fields(Evidence)
        if isinstance(value := getattr(evidence, item.name), torch.Tensor) and item.name != "candidate_regions"
    }
    every = evidence.candidate_regions
    return replace(
        evidence,
        **kept,
        samples=tuple(evidence.samples[row] for row in places.tolist()),
        candidate_regions=None if every is None else every[:, places],
        features={name: feature[places] for name, feature in evidence.features.items()},
    )


def rows_by(evidence: Evidence, column: str) -> dict[str | None, list[int]]:
    """Sort the images by the value of a column."""
    check_column(column)
    members: dict[str | None, list[int]] = {}
    for row, sample in enumerate(evidence.samples):
        members.setdefault(getattr(sample, column), []).append(row)
    return dict(sorted(members.items(), key=lambda own: (own[0] is None, own[0] or "")))


def evaluate_by(
    evidence: Evidence,
    context: Context,
    names: Sequence[str],
    column: str,
    *,
    ready: Mapping[str, Task] | None = None,
    others: Mapping[str, Evidence] | None = None,
    fewest: int = FEWEST,
) -> dict[str, Any]:
    """Run tasks within each value of a column: candidates, classes and shuffles are of that value alone.

    What is fitted or chosen on other splits still sees all of them; tasks that run the model again are skipped.

    Args:
        evidence: What the model said of a split.
        context: What tasks need beside it.
        names: Names of tasks.
        column: One of `COLUMNS`.
        ready: Tasks with settings of their own, by name.
        others: Stand-ins for the model on the same images.
        fewest: Images that a value needs.

    Returns:
        `{"column": …, "fewest": …, "values": {VALUE: {"images", "patients", "modalities": {NAME: {"images",
        "patients"}}, "tasks", "details"}}, "left_out": {VALUE: reason}}`. An image without a patient counts as one.

    Raises:
        ConfigError: If the column isn't one of these.
    """
    found: dict[str, Any] = {"column": column, "fewest": fewest, "values": {}, "left_out": {}}
    for value, rows in rows_by(evidence, column).items():
        if value is None:
            found["left_out"]["unknown"] = f"{len(rows)} images have no value"
        elif len(rows) < fewest:
            found["left_out"][value] = f"{len(rows)} images, fewer than {fewest}"
        else:
            own = take(evidence, rows)
            alike = {name: take(other, rows) for name, other in (others or {}).items()}
            judged = evaluate_all(own, replace(context, again=None), names, ready=ready, others=alike)
            found["values"][value] = {**_counts(own.samples), "modalities": _per_modality(own.samples), **judged}
    return found


def _counts(samples: Sequence[Sample]) -> dict[str, int]:
    return {"images": len(samples), "patients": len({sample.person or sample.key for sample in samples})}


def _per_modality(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    names = in_order([sample.modality or "" for sample in samples])
    return {name: _counts([sample for sample in samples if sample.modality == name]) for name in names}
