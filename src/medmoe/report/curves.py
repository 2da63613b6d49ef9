"""What the run's log shows over its steps: every loss term, the experts' load, speed and the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medmoe.report.charts import Series, line_chart
from medmoe.report.markup import Html, finite, tag

Row = Mapping[str, Any]

_TITLES = {
    "loss": "Loss (weighted sum)",
    "lr": "Learning rate",
    "grad_norm": "Gradient norm, before clipping",
    "logit_scale": "Logit scale",
    "router_entropy": "Router entropy (nats)",
    "image_router_accuracy": "Image router accuracy",
    "images_per_second": "Images per second",
    "data_wait": "Share of time waiting for data",
    "expert_agreement": "Images whose chosen expert is their modality's",
    "rss_mib": "Memory of the process (MiB)",
    "rss_peak_mib": "Memory of the process, most so far (MiB)",
    "cuda_allocated_peak_mib": "Memory allocated on the device, most so far (MiB)",
    "cuda_reserved_peak_mib": "Memory reserved on the device, most so far (MiB)",
}
_NOT_DRAWN = {"kind", "step", "loss", "terms", "load", "inactive", "images", "skipped"}


def curves(history: Sequence[Row], experts: Sequence[str]) -> Html:
    """Draw the section of curves.

    Args:
        history: Rows of `metrics.jsonl`; those of the kinds `train` and `val` are drawn.
        experts: Names of the experts, for the lines of their load.
    """
    history = [row for row in history if row.get("kind") in ("train", "val")]
    if not history:
        return tag("p", "Nothing was logged yet.", class_="empty")
    terms = list(dict.fromkeys(term for row in history for term in row.get("terms", {})))
    losses = [line_chart(_TITLES["loss"], _both(history, lambda row: row.get("loss")))]
    losses += [line_chart(_spoken(term), _both(history, _term(term))) for term in terms]
    others = dict.fromkeys(key for row in history for key, value in row.items() if _drawn(key, value))
    rest = [line_chart(_TITLES.get(key, _spoken(key)), _both(history, _value(key))) for key in others]
    shares = [chart for chart in (_load(history, experts), _norms(history)) if chart]
    return tag(
        "div",
        tag("div", *losses, class_="charts"),
        _inactive(history),
        tag("h3", "How the run went"),
        tag("div", *shares, *rest, class_="charts"),
    )


def last(history: Sequence[Row], kind: str) -> Row | None:
    """Give the newest row of a kind."""
    return next((row for row in reversed(history) if row.get("kind") == kind), None)


def _both(history: Sequence[Row], read: Any) -> list[Series]:
    """Give the line of training and, over it, the dotted one of validation."""
    made = []
    for kind, name, dots in (("train", "training", False), ("val", "validation", True)):
        points = [(float(row.get("step", 0)), read(row)) for row in history if row.get("kind") == kind]
        made.append(Series(name, [point for point in points if point[1] is not None], kind, dots))
    return made


def _term(name: str) -> Any:
    return lambda row: row.get("terms", {}).get(name)


def _value(name: str) -> Any:
    return lambda row: row.get(name)


def _drawn(key: str, value: object) -> bool:
    return key not in _NOT_DRAWN and isinstance(value, (int, float)) and not isinstance(value, bool)


def _load(history: Sequence[Row], experts: Sequence[str]) -> Html | None:
    rows = [row for row in history if row.get("kind") == "train" and row.get("load")]
    if not rows:
        return None
    count = max(len(row["load"]) for row in rows)
    names = [experts[k] if count == len(experts) else f"expert {k + 1}" for k in range(count)]
    lines = [
        Series(
            name, [(float(row["step"]), row["load"][k]) for row in rows if k < len(row["load"])], f"s{k % 8}", raw=False
        )
        for k, name in enumerate(names)
    ]
    return line_chart("Share of the images each expert gets", lines)


def _norms(history: Sequence[Row]) -> Html | None:
    """Draw the gradient's norm of each part of the model; a part that had none at a step has a gap there."""
    rows = [row for row in history if row.get("kind") == "train" and row.get("grad_norms")]
    if not rows:
        return None
    parts = dict.fromkeys(part for row in rows for part in row["grad_norms"])
    lines = [
        Series(part, [(float(row["step"]), row["grad_norms"].get(part)) for row in rows], f"s{k % 8}", raw=False)
        for k, part in enumerate(parts)
    ]
    return line_chart("Gradient norm by part, before clipping", lines)


def _inactive(history: Sequence[Row]) -> Html | None:
    """Name the terms that no logged batch had the fields for."""
    named = {term for row in history for term in row.get("inactive", ())}
    never = sorted(term for term in named if not any(finite(row.get("terms", {}).get(term)) for row in history))
    if not never:
        return None
    return tag("p", f"Inactive throughout, their fields being absent from the data: {', '.join(never)}.", class_="note")


def _spoken(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]
