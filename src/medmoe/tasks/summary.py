"""The results as rows of a table, for the screen and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADER = ("task", "metric", "value", "95 % interval", "n", "controls")


def table(results: Mapping[str, Any], *, per_modality: bool = True) -> list[tuple[str, ...]]:
    """Write the results of `evaluate_all` as rows under `HEADER`; a skipped task is a row with its reason.

    Args:
        results: What `evaluate_all` gave, or the JSON file of it.
        per_modality: Whether `NAME/MODALITY` has rows too.
    """
    rows: list[tuple[str, ...]] = []
    for task, metrics in results["tasks"].items():
        reason = results.get("details", {}).get(task, {}).get("skipped")
        if not metrics:
            rows.append((task, "skipped", "", "", "0", reason or "no metric"))
        for name, metric in metrics.items():
            if per_modality or "/" not in name:
                rows.append(_row(task, name, metric))
    return rows


def _row(task: str, name: str, metric: Mapping[str, Any]) -> tuple[str, ...]:
    digits = 1 if "median_rank" in name else 3
    controls = ", ".join(f"{control} {_number(value, digits)}" for control, value in metric["controls"].items())
    low, high = _number(metric["low"], digits), _number(metric["high"], digits)
    return task, name, _number(metric["value"], digits), f"{low} to {high}", str(metric["n"]), controls


def _number(value: float | None, digits: int) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"
