"""Several runs side by side: each figure with its interval and controls, and its difference from the first run's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from medmoe.report.charts import bar
from medmoe.report.differences import Comparison, compare, corrected
from medmoe.report.figures import (
    MINIMUM,
    TASKS,
    Figure,
    by_metric,
    groups,
    lower_wins,
    metric_title,
    shown_first,
    task_title,
    variant_title,
    variants,
)
from medmoe.report.markup import DASH, Html, join, number, tag
from medmoe.report.results import TOO_FEW, cell, legend, scrolling
from medmoe.report.runs import Run, titles

Figures = Mapping[str, Mapping[str, Figure]]


class Versus:
    """Figures of several runs, and their differences from the first one's.

    Args:
        runs: The runs, the one that the others are compared with first.
        letters: What columns and charts call each.
        minimum: Items below which a figure is greyed.
        resamples: Bootstrap resamples of a paired difference.
        seed: Of bootstrap and sign flips.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        letters: Sequence[str],
        *,
        minimum: int = MINIMUM,
        resamples: int = 1000,
        seed: int = 0,
    ) -> None:
        self.runs, self.letters, self.minimum = runs, letters, minimum
        self.resamples, self.seed = resamples, seed
        self.tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))

    def headlines(self) -> Html | None:
        """Draw a card for each first figure: a bar for each run, and the differences under them."""
        everything = {
            task: {name: found for run in self.runs for name, found in run.tasks.get(task, {}).items()}
            for task in self.tasks
        }
        cards = [self._card(task, metric) for task, metric in shown_first(everything)]
        return join([legend(), tag("div", *cards, class_="charts")]) if cards else None

    def tables(self) -> Html:
        """Write a table for each task: figures as rows, runs and differences as columns; other readings folded away."""
        parts = []
        for task in self.tasks:
            parts.append(tag("h3", task_title(task)))
            if task in TASKS:
                parts.append(tag("p", TASKS[task][1], class_="asked"))
            each = [by_metric(run.tasks.get(task, {})) for run in self.runs]
            names = list(dict.fromkeys(name for own in each for name in own))
            if not names:
                reasons = [str(run.of(task).get("skipped", "no figure")) for run in self.runs]
                parts.append(tag("p", f"Skipped: {'; '.join(dict.fromkeys(reasons))}.", class_="empty"))
            for prefix, chosen in variants(names).items():
                table = self._table(task, chosen, each, variant_title(prefix) if prefix else "")
                parts.append(_folded(variant_title(prefix), table) if prefix else table)
        return join(parts) if parts else tag("p", "No task was evaluated.", class_="empty")

    def _card(self, task: str, metric: str) -> Html:
        lines = []
        for letter, run in zip(self.letters, self.runs, strict=True):
            found = run.tasks.get(task, {}).get(metric)
            lines.append(self._line(letter, None if found is None else Figure.read(metric, found)))
        told = [self._compared(task, metric, other) for other in range(1, len(self.runs))]
        heading = tag("figcaption", tag("b", metric_title(metric)), tag("small", task_title(task)))
        return tag("figure", heading, tag("ul", *lines), *told, class_="chart bars versus")

    def _line(self, letter: str, figure: Figure | None) -> Html:
        if figure is None:
            return tag(
                "li", tag("span", letter, class_="name"), tag("span", "not judged", class_="note"), tag("span", DASH)
            )
        few = figure.too_few(self.minimum)
        drawn = tag("span")
        if figure.in_unit_range and figure.value is not None:
            drawn = bar(figure.value, figure.low, figure.high, figure.controls)
        small = [tag("small", line) for line in (figure.interval, TOO_FEW if few else "") if line]
        value = tag("span", tag("b", figure.said), *small, class_="value")
        name = tag("span", letter, class_="name")
        return tag("li", name, drawn, value, title=figure.compared or None, class_="few" if few else None)

    def _compared(self, task: str, metric: str, other: int) -> Html:
        found = self._difference(task, metric, other)
        head = f"{self.letters[other]} − {self.letters[0]}: "
        return tag("p", head, *_words(found, metric), class_="note")

    def _difference(self, task: str, metric: str, other: int) -> Comparison:
        return compare(self.runs[0], self.runs[other], task, metric, resamples=self.resamples, seed=self.seed)

    def _table(self, task: str, names: Sequence[str], each: Sequence[Figures], reading: str) -> Html:
        rows = [
            (name, group)
            for name in names
            for group in groups({str(k): own.get(name, {}) for k, own in enumerate(each)})
        ]
        compared = []
        for other in range(1, len(self.runs)):
            found = [self._difference(task, f"{name}/{group}" if group else name, other) for name, group in rows]
            compared.append(dict(zip(rows, corrected(found), strict=True)))
        columns = ["Figure", *titles(self.runs), *[f"{letter} − {self.letters[0]}" for letter in self.letters[1:]]]
        head = tag("thead", tag("tr", *[tag("th", title, scope="col") for title in columns]))
        bodies = [tag("tbody", *self._rows(name, rows, each, compared, len(columns))) for name in names]
        caption = f"{task_title(task)}{f', {reading}' if reading else ''}"
        return scrolling(
            tag("table", tag("caption", caption, class_="hidden"), head, *bodies, class_="versus"), caption
        )

    def _rows(
        self,
        name: str,
        rows: Sequence[tuple[str, str]],
        each: Sequence[Figures],
        compared: Sequence[Mapping[tuple[str, str], Comparison]],
        columns: int,
    ) -> Iterator[Html]:
        own = [group for metric, group in rows if metric == name]
        if own:
            yield tag("tr", tag("th", metric_title(name), colspan=columns, scope="rowgroup"), class_="metric")
        for group in own:
            figures = [found.get(name, {}).get(group) for found in each]
            cells = [cell(figure, self.minimum) for figure in figures]
            few = any(figure is not None and figure.too_few(self.minimum) for figure in figures)
            cells += [_difference_cell(table[name, group], name, few=few) for table in compared]
            yield tag("tr", tag("th", group or "all", scope="row"), *cells, class_=None if group else "all")


def signed(value: float | None) -> str:
    """Write a difference with its sign.

    >>> [signed(x) for x in (0.0314, -0.5, 0.0, 12.34, None)]
    ['+0.031', '−0.500', '0.000', '+12.3', 'undefined']
    """
    if value is None:
        return "undefined"
    size = f"{abs(value):.3f}" if abs(value) < 1 else number(abs(value))
    if float(size.replace(",", "")) == 0:
        return size
    return f"{'+' if value > 0 else '−'}{size}"


def _words(found: Comparison, metric: str) -> list[Html | str]:
    """Word a difference: value, interval, how it was made."""
    if found.how in ("refused", "absent"):
        return [f"not compared: {found.reason}"]
    ends = f" [{signed(found.low)}, {signed(found.high)}]" if found.low is not None and found.high is not None else ""
    style = None
    if found.clear and found.value is not None:
        style = "good" if (found.value < 0) == lower_wins(metric) else "bad"
    return [tag("b", signed(found.value), class_=style), ends, f", {_how(found)}"]


def _how(found: Comparison) -> str:
    if found.how == "unpaired":
        return f"unpaired: {found.reason}"
    p = "" if found.p is None else f", p{_chance(found.p)}"
    return f"paired{p}{'' if found.adjusted is None else f' (Holm{_chance(found.adjusted)})'}"


def _chance(p: float) -> str:
    return "\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"\N{NO-BREAK SPACE}{p:.3f}"


def _difference_cell(found: Comparison, metric: str, *, few: bool) -> Html:
    if found.how == "absent":
        return tag("td", DASH)
    if found.how == "refused":
        return tag("td", DASH, tag("small", f"not compared: {found.reason}"), class_="few" if few else None)
    value, ends, _ = _words(found, metric)
    small = tag("small", "unpaired" if found.how == "unpaired" else _how(found), title=found.reason or None)
    interval = tag("span", ends, class_="interval")
    return tag("td", value, interval, small, tag("small", TOO_FEW) if few else None, class_="few" if few else None)


def _folded(title: str, content: Html) -> Html:
    return tag("details", tag("summary", title[:1].upper() + title[1:]), content)
