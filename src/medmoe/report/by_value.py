"""Figures within each value of a column, such as each data set, as rows of tables: for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medmoe.report.figures import Figure, by_metric, groups
from medmoe.report.markup import Html, join, tag
from medmoe.report.results import tables

# task → the figures that a short table shows of it, where they were evaluated
CHOSEN: dict[str, tuple[str, ...]] = {
    "routing": ("image_router_accuracy",),
    "zeroshot_retrieval": ("report_to_image_recall@10", "image_to_report_recall@10"),
    "zeroshot_classification": ("balanced_accuracy", "auroc"),
    "grounding": ("pointing", "mask_auroc"),
    "linear_probe": ("balanced_accuracy@100%", "auroc@100%"),
    "few_shot": ("balanced_accuracy@16-shot",),
}

EVERYTHING = "all together"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of one value, or of one modality of it.

    Attributes:
        value: The value of the column; `EVERYTHING` for the whole split.
        modality: The modality where the value has several with this figure, else "".
        images: Images of it.
        patients: Patients of these; an image of no known patient counts as one.
        figure: The figure.
    """

    value: str
    modality: str
    images: int | None
    patients: int | None
    figure: Figure


def rows(results: Mapping[str, Any], task: str) -> Iterator[Row]:
    """Give the chosen figures of a task, figure by figure: of the whole split, then of each value and modality.

    Retrieval among reports that were all made from label templates is left out: it would ask for the label.

    Args:
        results: An evaluation as `medmoe eval --by COLUMN --json` writes it.
        task: The task.
    """
    for name in CHOSEN.get(task, ()):
        whole = results.get("tasks", {}).get(task, {})
        if name in whole and task != "zeroshot_retrieval":
            images = results.get("about", {}).get("images")
            patients = results.get("about", {}).get("patients")
            yield Row(EVERYTHING, "", images, patients, Figure.read(name, whole[name]))
        for value, found in values(results).items():
            own = by_metric(found["tasks"].get(task, {})).get(name, {})
            single = [group for group in groups({name: own}) if group and "/" not in group]
            counts = found.get("modalities", {})
            for modality in single:
                if task == "zeroshot_retrieval" and _only_templates(found, modality):
                    continue
                of = counts.get(modality, found)
                yield Row(value, modality, of.get("images"), of.get("patients"), own[modality])
            if not single and "" in own:
                yield Row(value, "", found.get("images"), found.get("patients"), own[""])


def values(results: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Give what was found within each value; empty without `--by`."""
    found: Mapping[str, Mapping[str, Any]] = results.get("by", {}).get("values", {})
    return found


def silent(results: Mapping[str, Any], task: str) -> dict[str, str]:
    """Give the judged values without a figure of a task, and what the task said."""
    shown = {row.value for row in rows(results, task)}
    reasons = {}
    for value, found in values(results).items():
        if value in shown:
            continue
        said = found.get("details", {}).get(task, {}).get("skipped")
        if task == "zeroshot_retrieval" and found["tasks"].get(task):
            said = "all its reports were made from labels"
        if said or task in found["tasks"]:
            reasons[value] = said or "no such figure"
    return reasons


def by_value(results: Mapping[str, Any], *, minimum: int) -> Html | None:
    """Fold a table of every task for each value away under its name; None without `--by`."""
    by = results.get("by", {})
    parts = []
    for value, found in values(results).items():
        said = f"{value}: {found['images']:,} images of {found['patients']:,} patients"
        parts.append(tag("details", tag("summary", said), tables(found, minimum=minimum)))
    for value, reason in by.get("left_out", {}).items():
        parts.append(tag("p", f"{value}: left out, {reason}.", class_="empty"))
    return join(parts) if parts else None


def _only_templates(found: Mapping[str, Any], modality: str) -> bool:
    about = found.get("details", {}).get("zeroshot_retrieval", {}).get("candidates", {}).get(modality, {})
    return bool(about) and about.get("from_template") == about.get("pairs")
