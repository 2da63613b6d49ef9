"""How an evaluation's figures are named, grouped and judged against their controls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medmoe.modalities import MODALITIES, in_order
from medmoe.report.markup import finite, number

# (task, metric) that the page shows first, in this order.
HEADLINES = (
    ("routing", "image_router_accuracy"),
    ("routing", "text_router_accuracy"),
    ("zeroshot_retrieval", "report_to_image_recall@5"),
    ("zeroshot_retrieval", "image_to_report_recall@5"),
    ("zeroshot_classification", "balanced_accuracy"),
    ("zeroshot_classification", "auroc"),
    ("grounding", "pointing"),
)

# task → (title, what is asked)
TASKS = {
    "routing": ("Routing", "Does each router send an image or a report to its own modality's expert?"),
    "zeroshot_retrieval": (
        "Zero-shot retrieval",
        "Does a report find its own image among those of its modality, and an image its report? R@k is the share "
        "found among the first k candidates.",
    ),
    "zeroshot_classification": (
        "Zero-shot classification",
        "Does a finding's name, put into prompts, pick the images that show it?",
    ),
    "grounding": (
        "Grounding",
        "Does a phrase's heatmap point at the finding it names? Pointing is the share of heatmaps whose hottest "
        "place lies in the true box.",
    ),
}

# prefix of a metric's name → how that reading of it is called; the longest prefix that fits counts
_VARIANTS = {
    "overall_global_": "global similarity, all modalities together",
    "overall_local_": "local similarity, all modalities together",
    "overall_": "all modalities together",
    "global_": "global similarity alone",
    "local_": "local similarity alone",
    "attention_": "heatmap by attention among the report's words",
    "prompt_": "heatmap of the phrase alone, without its report",
}
_NAMES = {
    "auroc": "AUROC",
    "report_to_image_median_rank": "Report → image, median rank",
    "image_to_report_median_rank": "Image → report, median rank",
    "pointing": "Pointing game",
}
_SHOWN_CONTROLS = ("chance", "majority", "centre", "shuffled")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of an evaluation; what isn't finite is None.

    Attributes:
        name: Its metric's name, without the modality.
        value: The figure.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n: Items it was computed from.
        controls: The figure by chance, for a constant answer or for shuffled pairs, by name.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    controls: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, found: Mapping[str, Any]) -> Figure:
        """Read a figure as it stands in the results."""
        controls = {key: finite(value) for key, value in (found.get("controls") or {}).items()}
        known = {key: value for key, value in controls.items() if value is not None}
        n = found.get("n")
        value, low, high = (finite(found.get(key)) for key in ("value", "low", "high"))
        return cls(name, value, low, high, n, known)

    @property
    def interval(self) -> str:
        """The interval in brackets, or nothing where there is none."""
        return "" if self.low is None or self.high is None else f"[{number(self.low)}, {number(self.high)}]"

    @property
    def compared(self) -> str:
        """The controls in words."""
        said = [
            f"{name}\N{NO-BREAK SPACE}{number(self.controls[name])}"
            for name in _SHOWN_CONTROLS
            if name in self.controls
        ]
        if "shuffled_low" in self.controls and "shuffled_high" in self.controls and "shuffled" in self.controls:
            ends = f"{number(self.controls['shuffled_low'])} to {number(self.controls['shuffled_high'])}"
            said[-1] += f" ({ends})"
        return " · ".join(said)

    @property
    def in_unit_range(self) -> bool:
        """Whether the figure can be drawn as a share."""
        return self.value is not None and 0 <= self.value <= 1 and "rank" not in self.name

    def verdict(self) -> tuple[bool, str] | None:
        """Tell whether the interval clears every control, and which one it doesn't; None without either.

        Shuffled pairs count by the far end of their own interval.
        """
        lower_is_better = self.name.endswith("_rank")
        skip = {"shuffled_high"} if lower_is_better else {"shuffled_low"}
        bars = {key: value for key, value in self.controls.items() if key not in skip}
        end = self.high if lower_is_better else self.low
        if end is None or not bars:
            return None
        hardest = (min if lower_is_better else max)(bars, key=lambda key: bars[key])
        clear = end < bars[hardest] if lower_is_better else end > bars[hardest]
        spoken = hardest.removesuffix("_high").removesuffix("_low")
        return (True, "clear of every control") if clear else (False, f"not clear of {spoken}")


def by_metric(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Figure]]:
    """Sort a task's figures: metric → group → figure, the group `""` being the figure without a suffix."""
    sorted_: dict[str, dict[str, Figure]] = {}
    for key, found in metrics.items():
        name, _, group = key.partition("/")
        sorted_.setdefault(name, {})[group] = Figure.read(name, found)
    return sorted_


def groups(figures: Mapping[str, Mapping[str, Figure]]) -> list[str]:
    """Give the groups in order: the figure of all, modalities as in their table, then the rest."""
    found = list(dict.fromkeys(group for own in figures.values() for group in own))
    heads = [group.split("/")[0] for group in found]
    order = ["", *in_order(heads), *dict.fromkeys(head for head in heads if head and head not in MODALITIES)]
    return [group for head in order for group in found if group.split("/")[0] == head]


def variants(names: Sequence[str]) -> dict[str, list[str]]:
    """Sort metric names by the reading they belong to; `""` is the plain one and comes first."""
    found: dict[str, list[str]] = {"": []}
    for name in names:
        found.setdefault(_prefix(name), []).append(name)
    return {prefix: own for prefix, own in found.items() if own}


def variant_title(prefix: str) -> str:
    """Word a reading."""
    return _VARIANTS.get(prefix, "as evaluated")


def metric_title(name: str) -> str:
    """Word a metric, without its reading.

    >>> metric_title("local_report_to_image_recall@5")
    'Report → image, R@5'
    """
    plain = name.removeprefix(_prefix(name))
    recall = re.fullmatch(r"(report_to_image|image_to_report)_recall@(\d+)", plain)
    if recall:
        return f"{'Report → image' if recall[1] == 'report_to_image' else 'Image → report'}, R@{recall[2]}"
    words = plain.replace("_", " ")
    return _NAMES.get(plain, words[:1].upper() + words[1:])


def task_title(task: str) -> str:
    """Word a task."""
    return TASKS[task][0] if task in TASKS else task.replace("_", " ").capitalize()


def _prefix(name: str) -> str:
    return next((prefix for prefix in _VARIANTS if name.startswith(prefix)), "")
