"""The parts of an evaluation's `details` that the page draws, all optional; what doesn't fit its form is left out.

Of `details[TASK]`:

- `items`: outcomes item by item, for paired differences: one block or a list of blocks
  `{"patients": [n], "keys": [n], "groups": [n], METRIC: [n numbers or null], …}`. `patients` is needed; `keys` name
  the items, so that runs are matched by them; `groups` are what `METRIC/GROUP` and a mean over groups are made from,
  and may be nested (`ct/mass`: classes within modalities, as for balanced accuracy). null is an item that doesn't
  count in that metric. A metric is paired only where its items' mean, or that over groups, is the figure itself.
- `roc`, `pr`: `{LINE: [[x, y], …]}` or `{LINE: {"points": [[x, y], …], "area": number}}`; x and y are false and
  true positive rate, or recall and precision. A line can also be `{"x": [x, …], "y": [y, …]}` (`metrics.Curve`).
- `reliability`: `{LINE: [[mean confidence, share right, n], …]}`, with `points` and `ece` as above, or the
  list of `metrics.Reliability.to_json`.
- `curves`: `{TITLE: {"x": WORDS, "y": WORDS, "lines": {LINE: [[x, y] or [x, y, low, high], …]}}}`, or the lines at
  once; or, beside `levels: [x, …]`, `{TITLE: {METRIC: {"clean": y, "levels": [y, …], "groups": {GROUP: {"clean",
  "levels"}}}}}` as robustness gives them. `gate`: as the out-of-distribution task gives it.
- `subgroups`: `{COLUMN: {"metric": NAME, "rows": [{"group", "value", "low", "high", "n"}, …], "gap": {"value",
  "low", "high"}}}`, or a list of such tables for a column, or `{COLUMN: {METRIC: metrics.Subgroups.to_json()}}`.
- `missing_prompts`: classes that the prompts have no wording for.
- `prompts`: the fingerprint of the prompts; `groups`: the data sets with their classes (zero-shot classification).
- `modalities`, `image.confusion`, `text.confusion` (rows true, columns chosen), `image_by_text` (rows chosen by the
  pixels, columns by the report) and `findings`: routing.

Of `details` itself: `audit` (or `leaks`), the data-leak audit: a mapping of what was counted to numbers, such as
`shared_patients`, `shared_studies`, `identical_images`, `near_duplicates`, `identical_reports`; text and lists
(examples) are shown as they are. A count above 0 whose name speaks of something shared, identical, duplicate or leaked
is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from medmoe.report.markup import finite

Points = list[tuple[float, ...]]

_NOT_METRICS = ("patients", "keys", "groups")


@dataclass(frozen=True)
class Items:
    """Outcomes of one metric, item by item.

    Attributes:
        keys: Names of the items, or None.
        patients: The patient of each; None where unknown.
        groups: The group of each, or None.
        values: [n], NaN where the item doesn't count.
    """

    keys: tuple[str, ...] | None
    patients: tuple[str | None, ...]
    groups: tuple[str, ...] | None
    values: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64]) -> Items:
        """Give these rows, in this order."""
        return Items(
            None if self.keys is None else tuple(self.keys[row] for row in rows),
            tuple(self.patients[row] for row in rows),
            None if self.groups is None else tuple(self.groups[row] for row in rows),
            self.values[rows],
        )


def items(details: Mapping[str, Any], metric: str) -> Items | None:
    """Read the outcomes of a metric; None where the task kept none.

    `METRIC/GROUP` is read from the outcomes of `METRIC` where it has none of its own.

    Args:
        details: A task's details.
        metric: `NAME` or `NAME/GROUP`.
    """
    blocks = details.get("items")
    name, _, group = metric.partition("/")
    for block in blocks if isinstance(blocks, list) else [blocks]:
        if not isinstance(block, Mapping) or not _is_list(block.get("patients")):
            continue
        if metric in block and metric not in _NOT_METRICS:
            return _read(block, metric)
        if name in block and group and name not in _NOT_METRICS:
            whole = _read(block, name)
            if whole is None or whole.groups is None:
                continue
            rows = np.flatnonzero([own == group or own.startswith(f"{group}/") for own in whole.groups])
            if len(rows):
                return whole.take(rows)
    return None


def _read(block: Mapping[str, Any], metric: str) -> Items | None:
    patients, values = block["patients"], block[metric]
    if not _is_list(values) or len(values) != len(patients):
        return None
    known = [finite(float(value) if isinstance(value, bool) else value) for value in values]
    keys, groups = (
        tuple(map(str, block[key])) if _is_list(block.get(key)) and len(block[key]) == len(patients) else None
        for key in ("keys", "groups")
    )
    array = np.array([np.nan if value is None else value for value in known], dtype=np.float64)
    return Items(keys, tuple(None if p is None else str(p) for p in patients), groups, array)


def points(value: object) -> Points:
    """Read points; one that isn't at least two finite numbers is left out, further ones that aren't finite are dropped.

    >>> points([[0, 1], [0.5, None], [1, 2, 1.5, 2.5]])
    [(0.0, 1.0), (1.0, 2.0, 1.5, 2.5)]
    """
    if isinstance(value, Mapping):
        value = value["points"] if "points" in value else _columns(value)
    read: Points = []
    for point in value if _is_list(value) else ():
        if isinstance(point, Mapping):
            point = [point.get("confidence"), point.get("right"), point.get("n")]
        if not _is_list(point):
            continue
        numbers = [finite(part) for part in point]
        x, y = (numbers[0], numbers[1]) if len(numbers) > 1 else (None, None)
        if x is None or y is None:
            continue
        rest = [part for part in numbers[2:] if part is not None]
        read.append((x, y, *(rest if len(rest) == len(numbers) - 2 else ())))
    return read


def _columns(value: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    x, y = value.get("x"), value.get("y")
    return list(zip(x, y, strict=False)) if _is_list(x) and _is_list(y) else []


def lines(value: object) -> dict[str, Points]:
    """Read `{LINE: points}`; lines without a point are left out."""
    if not isinstance(value, Mapping):
        return {}
    read = {str(name): points(line) for name, line in value.items()}
    return {name: line for name, line in read.items() if line}


def curves(details: Mapping[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Points]]]:
    """Give (title, words of x, words of y, lines) of each chart of a task's `curves` and `gate` that has lines."""
    yield from (chart for chart in (*_curves(details), *_gates(details.get("gate"))) if chart[3])


def _curves(details: Mapping[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Points]]]:
    found = details.get("curves")
    for title, chart in found.items() if isinstance(found, Mapping) else ():
        if not isinstance(chart, Mapping):
            continue
        if "lines" in chart:
            yield str(title), str(chart.get("x", "level")), str(chart.get("y", "")), lines(chart["lines"])
        elif any(isinstance(own, Mapping) and "levels" in own for own in chart.values()):
            for metric, own in chart.items():
                yield f"{title}, {metric}", "level", str(metric), _levels(own, details.get("levels"))
        else:
            yield str(title), "level", "", lines(chart)


def _levels(found: object, levels: object) -> dict[str, Points]:
    """Read a figure at each level of a corruption, level 0 being none: the mean's line, then each group's."""
    if not isinstance(found, Mapping) or not _is_list(levels):
        return {}
    groups = found.get("groups")
    every = {"mean": found, **(groups if isinstance(groups, Mapping) else {})}
    read = {}
    for name, own in every.items():
        if isinstance(own, Mapping) and _is_list(own.get("levels")):
            read[str(name)] = points([*zip([0, *levels], [own.get("clean"), *own["levels"]], strict=False)])
    return {name: line for name, line in read.items() if line}


def _gates(found: object) -> Iterator[tuple[str, str, str, dict[str, Points]]]:
    """Read what gates on several scores let through at ever stricter thresholds."""
    every = {
        str(score): [at for at in steps if isinstance(at, Mapping)]
        for score, steps in (found.items() if isinstance(found, Mapping) else ())
        if _is_list(steps)
    }
    families = dict.fromkeys(family for steps in every.values() for at in steps for family in at.get("rejected") or {})
    for family in families:
        own = {s: [[at.get("coverage"), at.get("rejected", {}).get(family)] for at in every[s]] for s in every}
        yield f"Gate: unknown {family}", "share of known images let through", "share turned away", lines(own)
    own = {s: [[at.get("coverage"), at.get("balanced_accuracy")] for at in every[s]] for s in every}
    if own:
        yield "Gate: router", "share of known images let through", "balanced accuracy among these", lines(own)


def subgroups(details: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give (column, table) of each subgroup table that has rows."""
    found = details.get("subgroups")
    for column, given in found.items() if isinstance(found, Mapping) else ():
        tables = given if isinstance(given, list) else [given]
        if isinstance(given, Mapping) and not {"rows", "groups"} & set(given):
            tables = [{"metric": metric, **own} for metric, own in given.items() if isinstance(own, Mapping)]
        for table in tables:
            if isinstance(table, Mapping) and _is_list(table.get("rows")):
                yield str(column), table
            elif isinstance(table, Mapping) and isinstance(table.get("groups"), Mapping):
                yield str(column), {**table, "rows": list(_rows(table))}


def _rows(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the rows of `metrics.Subgroups.to_json`: figures, then those with too few patients for one."""
    for name, figure in table["groups"].items():
        if isinstance(figure, Mapping):
            yield {"group": name, **figure}
    few = table.get("too_few")
    for name, count in few.items() if isinstance(few, Mapping) else ():
        yield {"group": name, "too_few": count}


def audit(details: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Give the data-leak audit, or None where none was made."""
    found = details.get("audit", details.get("leaks"))
    return found if isinstance(found, Mapping) and found else None


def leaks(found: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Give what an audit counted of things that training and test share, where there is any.

    >>> leaks({"shared_patients": 2, "identical_images": 0, "test_images": 40})
    [('shared patients', 2.0)]
    """
    told = []
    for name, value in found.items():
        count = finite(value)
        if count and any(word in name for word in ("shared", "identical", "duplicate", "leak", "overlap")):
            told.append((name.replace("_", " "), count))
    return told


def missing_prompts(details: Mapping[str, Any]) -> list[str]:
    """Name the classes that the prompts have no wording for, and those worded by general templates."""
    found = details.get("missing_prompts")
    missing = [str(name) for name in found] if _is_list(found) else []
    groups = details.get("groups")
    for group in groups if _is_list(groups) else ():
        origins = group.get("origins") if isinstance(group, Mapping) else None
        for name, origin in origins.items() if isinstance(origins, Mapping) else ():
            if origin == "general templates":
                missing.append(str(name))
    return list(dict.fromkeys(missing))


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)
