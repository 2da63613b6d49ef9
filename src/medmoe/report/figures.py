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
    "linear_probe": (
        "Linear probe",
        "How well does a linear classifier on the frozen image features do, by how many training labels it sees?",
    ),
    "few_shot": ("Few-shot adapters", "What do a few labelled images a class add to the prompts?"),
    "robustness": ("Robustness", "How much of a figure is left when images are made worse, level by level?"),
    "ood": ("Out-of-distribution gate", "Are images of an unknown modality, or no medical images at all, turned away?"),
    "calibration": ("Calibration", "Does a probability mean how often the answer is right?"),
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
_SHORT = {
    "auroc": "AUROC",
    "ap": "AP",
    "f1": "F1",
    "fpr": "FPR",
    "ece": "ECE",
    "map": "mAP",
    "iou": "IoU",
    "cnr": "CNR",
}
_NAMES = {
    "report_to_image_median_rank": "Report → image, median rank",
    "image_to_report_median_rank": "Image → report, median rank",
    "pointing": "Pointing game",
}
_FIRST_CONTROLS = ("chance", "majority", "centre", "shuffled")
_ENDS = ("_low", "_high")
_LOWER_IS_BETTER = re.compile(r"(^|_)(rank|ece|brier|nll|error|loss|drop|gap|fpr(_?at_?\d+|@\d+|\d+)?)$")

MINIMUM = 20  # items below which a figure is greyed: too few to say anything
UNDEFINED = "undefined"


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
    def said(self) -> str:
        """The value in digits, or that it is undefined."""
        return UNDEFINED if self.value is None else number(self.value)

    @property
    def compared(self) -> str:
        """Every control in words, those with an interval of their own with it."""
        names = [name for name in self.controls if self._base(name) == name]
        first = [name for name in _FIRST_CONTROLS if name in names]
        said = []
        for name in dict.fromkeys([*first, *names]):
            ends = [self.controls[name + end] for end in _ENDS if name + end in self.controls]
            spread = f" ({number(ends[0])} to {number(ends[1])})" if len(ends) == 2 else ""
            said.append(f"{name.replace('_', ' ')}\N{NO-BREAK SPACE}{number(self.controls[name])}{spread}")
        return " · ".join(said)

    def too_few(self, minimum: int = MINIMUM) -> bool:
        """Whether the figure comes from fewer items than a figure needs."""
        return self.n is not None and self.n < minimum

    def _base(self, control: str) -> str:
        """Give the control that one is an end of, or itself."""
        bases = (control.removesuffix(end) for end in _ENDS if control.endswith(end))
        return next((base for base in bases if base in self.controls), control)

    @property
    def in_unit_range(self) -> bool:
        """Whether the figure can be drawn as a share."""
        no_share = any(word in self.name for word in ("rank", "contrast"))
        return self.value is not None and 0 <= self.value <= 1 and not no_share

    def verdict(self) -> tuple[bool, str] | None:
        """Tell whether the interval clears every control, and which one it doesn't; None without either.

        A control with an interval (shuffled pairs) counts by the far end of it. A drop is judged by no control: its
        own say how much there was to lose.
        """
        if self.name.endswith("_drop"):
            return None
        lower_is_better = lower_wins(self.name)
        skip = "_high" if lower_is_better else "_low"
        bars = {name: value for name, value in self.controls.items() if not name.endswith(skip)}
        end = self.high if lower_is_better else self.low
        if end is None or not bars:
            return None
        hardest = (min if lower_is_better else max)(bars, key=lambda key: bars[key])
        clear = end < bars[hardest] if lower_is_better else end > bars[hardest]
        spoken = hardest.removesuffix("_high").removesuffix("_low").replace("_", " ")
        return (True, "clear of every control") if clear else (False, f"not clear of {spoken}")


def lower_wins(name: str) -> bool:
    """Tell whether less of a metric is better.

    >>> [lower_wins(x) for x in ("image_to_report_median_rank/ct", "ece", "fpr_at_95", "auroc")]
    [True, True, True, False]
    """
    return _LOWER_IS_BETTER.search(name.partition("/")[0]) is not None


def shown_first(tasks: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Give the (task, metric) that a page shows first: the headlines, and the first figure of every other task."""
    first = [(task, name) for task, name in HEADLINES if name in tasks.get(task, {})]
    named = {task for task, _ in HEADLINES}
    return first + [(task, next(iter(metrics))) for task, metrics in tasks.items() if task not in named and metrics]


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
    >>> metric_title("auroc@10%"), metric_title("pictures_energy_fpr@95")
    ('AUROC, 10%', 'Pictures energy FPR at 95 %')
    """
    plain = name.removeprefix(_prefix(name))
    recall = re.fullmatch(r"(report_to_image|image_to_report)_recall@(\d+)", plain)
    if recall:
        return f"{'Report → image' if recall[1] == 'report_to_image' else 'Image → report'}, R@{recall[2]}"
    if plain in _NAMES:
        return _NAMES[plain]
    name, _, budget = plain.partition("@")
    words = " ".join(_SHORT.get(word, word) for word in name.split("_"))
    if words.endswith("FPR") and budget:
        return f"{words[:1].upper()}{words[1:]} at {budget} %"
    return f"{words[:1].upper()}{words[1:]}{f', {budget}' if budget else ''}"


def task_title(task: str) -> str:
    """Word a task."""
    return TASKS[task][0] if task in TASKS else task.replace("_", " ").capitalize()


def _prefix(name: str) -> str:
    return next((prefix for prefix in _VARIANTS if name.startswith(prefix)), "")
