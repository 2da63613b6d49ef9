"""A run as one self-contained HTML page: curves, figures with their controls, and heatmaps over images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medmoe.folder import write_text_atomically
from medmoe.report.by_value import by_value
from medmoe.report.checks import warnings
from medmoe.report.curves import curves, last
from medmoe.report.document import Section, document, warned
from medmoe.report.figures import MINIMUM
from medmoe.report.gallery import GalleryItem, heatmaps
from medmoe.report.markdown import write_markdown
from medmoe.report.markup import DASH, Html, join, number, tag
from medmoe.report.results import bars, confusions, headlines, tables
from medmoe.report.review import write_review
from medmoe.report.runs import Run, read_runs

__all__ = ["GalleryItem", "Run", "read_runs", "write_markdown", "write_report", "write_review"]

_HOW_TO_READ = (
    "Each figure stands with its 95 % interval, bootstrapped over patients, and with its controls: chance, the most "
    "frequent answer (majority), and the same figure after pairs were shuffled within their modality. A figure whose "
    "interval doesn’t clear every control shows nothing, and is marked so."
)


def write_report(
    path: Path | str,
    *,
    title: str,
    history: Sequence[Mapping[str, Any]],
    results: Mapping[str, Any] | None,
    gallery: Sequence[GalleryItem],
    about: Mapping[str, Any],
) -> Path:
    """Write a run's page; it loads nothing from elsewhere and runs no script.

    Args:
        path: The file to write; its folder is made if missing.
        title: The page's title.
        history: Rows of `metrics.jsonl` (`kind` is `train` or `val`), oldest first.
        results: An evaluation as `medmoe eval --json` writes it, or None.
        gallery: Heatmaps to show.
        about: What made the run; nested mappings are shown key by key.

    Returns:
        The file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(target, page(title, history, results, gallery, about))
    return target


def page(
    title: str,
    history: Sequence[Mapping[str, Any]],
    results: Mapping[str, Any] | None,
    items: Sequence[GalleryItem],
    about: Mapping[str, Any],
) -> str:
    """Build the page's text from the arguments of `write_report`."""
    sections = [Section(*section) for section in _sections(history, results or {}, items, about)]
    return document(title, _in_short(history, results or {}), sections, first=_box(title, results, about))


def _box(title: str, results: Mapping[str, Any] | None, about: Mapping[str, Any]) -> Html | None:
    """Write what makes the evaluation doubtful; None where there is none or nothing was found."""
    if results is None:
        return None
    parts = {key: results.get(key, {}) for key in ("tasks", "details", "about")}
    found = warnings([Run(title, Path(), **parts, made=about)])
    return warned([said[:1].upper() + said[1:] for said in found]) if found else None


def _sections(
    history: Sequence[Mapping[str, Any]],
    results: Mapping[str, Any],
    items: Sequence[GalleryItem],
    about: Mapping[str, Any],
) -> Iterator[tuple[str, str, str, Html]]:
    """Give (anchor, heading, lead, content) of every section that has something to show."""
    empty = tag(
        "p", "Not evaluated yet: ", tag("code", "medmoe eval RUN --data MANIFEST"), " fills this in.", class_="empty"
    )
    yield "summary", "Summary", _HOW_TO_READ, headlines(results) or empty
    by_modality = bars(results)
    if by_modality is not None:
        yield "modalities", "By modality", "", by_modality
    experts = list(results.get("details", {}).get("routing", {}).get("modalities", []))
    lead = "Noisy lines are smoothed, their raw values behind them; validation is over the whole validation set."
    yield "curves", "Curves", lead, curves(history, experts)
    if results.get("tasks"):
        yield "results", "Results", "Value, 95 % interval, controls and number of items.", tables(results)
    within = by_value(results, minimum=MINIMUM)
    if within is not None:
        lead = "The same tasks with the same controls within each value alone."
        yield "by-value", f"By {results['by']['column']}", lead, within
    matrices = confusions(results)
    if matrices is not None:
        yield "confusion", "Router confusion", "Counts; the colour is the share of a row.", matrices
    if items:
        lead = "Report words looked for in the image: left as it is, right under the words’ heatmap."
        yield "gallery", "Heatmaps", lead, heatmaps(items)
    yield "about", "About this run", "", tag("dl", *_facts(about))


def _in_short(history: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> str:
    newest = last(history, "train")
    parts = [f"{newest.get('step', 0):,} steps"] if newest else ["no step logged"]
    for kind, name in (("train", "training"), ("val", "validation")):
        row = last(history, kind)
        if row is not None:
            parts.append(f"{name} loss {number(row.get('loss'))}")
    images = results.get("about", {}).get("images")
    if images is not None:
        parts.append(f"evaluated on {number(images)} images")
    return " · ".join(parts)


def _facts(about: Mapping[str, Any], above: str = "") -> Iterator[Html]:
    """Write facts as terms and descriptions; a nested mapping's short values share one line."""
    for key, value in about.items():
        if key == "warnings":  # stand before everything else
            continue
        name = f"{above}{key.replace('_', ' ')}"
        if isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values()):
            yield from _facts(value, f"{name}: ")
        else:
            yield join([tag("dt", name), tag("dd", _fact(key, value))])


def _fact(key: str, value: object) -> str:
    if value is None or value == {} or value == "":
        return DASH
    if isinstance(value, Mapping):
        return ", ".join(f"{inner.replace('_', ' ')} {fact}" for inner, fact in value.items())
    return tag("code", str(value)) if key in {"command", "git_commit"} else str(value)
