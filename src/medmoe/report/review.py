"""One or several evaluated runs as one page to hand to a reviewer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase

from medmoe.errors import ConfigError
from medmoe.folder import write_text_atomically
from medmoe.report.background import facts, gaps, leak_audit, origins, prompts
from medmoe.report.by_value import by_value
from medmoe.report.charts import Series, line_chart
from medmoe.report.checks import notes, warnings
from medmoe.report.curves import curves
from medmoe.report.document import Section, document, warned
from medmoe.report.figures import MINIMUM
from medmoe.report.flows import flows, usage
from medmoe.report.gallery import GalleryItem, best_and_worst
from medmoe.report.markup import Html, join, tag
from medmoe.report.plots import plots
from medmoe.report.published import LEAD, published
from medmoe.report.results import bars, confusions, headlines, tables
from medmoe.report.runs import Run, titles
from medmoe.report.versus import Versus

MOST_RUNS = 8  # as many as charts have colours

_ALONE = (
    "Each figure stands with its 95 % interval over patients, and with every control it was given. A figure whose "
    "interval doesn’t clear every control shows nothing, and is marked so."
)
_TOGETHER = (
    "Differences are from {first}. Paired ones are of the same items, with an interval over patients and a "
    "sign-flip p, corrected after Holm within a table; unpaired ones join the runs’ own intervals as if they were "
    "independent, which is too wide for models judged on the same images."
)


def write_review(
    path: Path | str,
    runs: Sequence[Run],
    *,
    galleries: Mapping[str, Sequence[GalleryItem]] | None = None,
    unseen: Mapping[str, str] | None = None,
    title: str | None = None,
    minimum: int = MINIMUM,
    resamples: int = 1000,
    seed: int = 0,
) -> Path:
    """Write the page of one or several runs; it loads nothing from elsewhere and runs no script.

    Args:
        path: The file to write; its folder is made if missing.
        runs: What `medmoe.report.runs.read_runs` read; the others are compared with the first.
        galleries: Heatmaps by the run's name, from which the best and the worst are shown.
        unseen: By the run's name, why there are no heatmaps of it.
        title: The page's title.
        minimum: Items below which a figure is greyed.
        resamples: Bootstrap resamples of paired differences.
        seed: Of bootstrap and sign flips.

    Returns:
        The file.

    Raises:
        ConfigError: If there is no run, or more than 8.
    """
    if not 1 <= len(runs) <= MOST_RUNS:
        raise ConfigError(f"got {len(runs)} runs, allowed: 1 to {MOST_RUNS}", remedy="compare fewer at a time")
    heading = title or ("Evaluation of " if len(runs) == 1 else "Comparison of ") + _and([run.name for run in runs])
    judged, filled = [run for run in runs if not run.benchmark], [run for run in runs if run.benchmark]
    letters = ascii_uppercase[: len(judged)]
    sections = [Section("judged", "What was judged", "", join(map(facts, (own for own in (judged, filled) if own))))]
    tables_of_papers = published(filled, minimum)
    if judged:
        versus = Versus(judged, letters, minimum=minimum, resamples=resamples, seed=seed)
        sections += _sections(judged, letters, versus, galleries or {}, unseen or {}, minimum)
    if tables_of_papers is not None:
        sections.append(Section("published", "Beside published figures", LEAD, tables_of_papers))
    sections.append(Section("origins", "How it was made", "", origins(runs)))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    lead = " ".join([*([_judged(judged, letters)] if judged else []), *map(_filled, filled)])
    text = document(heading, lead, sections, first=_box(runs, minimum))
    write_text_atomically(target, text)
    return target


def _sections(
    runs: Sequence[Run],
    letters: Sequence[str],
    versus: Versus,
    galleries: Mapping[str, Sequence[GalleryItem]],
    unseen: Mapping[str, str],
    minimum: int,
) -> Iterator[Section]:
    """Give every section of evaluations on a split that has something to show."""
    yield from _figures(runs, versus, minimum)
    drawn = plots(runs, letters)
    if drawn is not None:
        yield Section("plots", "Curves of decisions", "", drawn)
    by_group = gaps(runs, minimum)
    if by_group is not None:
        lead = "A gap is the largest difference between two subgroups that have enough items."
        yield Section("subgroups", "Subgroups", lead, by_group)
    routed = _routing(runs)
    if routed is not None:
        yield Section("routing", "Routing", "Counts; the colour is the share of a row.", routed)
    shown = _galleries(runs, galleries, unseen)
    if shown is not None:
        lead = "Report words looked for in the image: left as it is, right under the words’ heatmap."
        yield Section("gallery", "Best and worst heatmaps", lead, shown)
    audited = leak_audit(runs)
    if audited is not None:
        yield Section("audit", "Data-leak audit", "", audited)
    logged = _training(runs, letters)
    if logged is not None:
        yield Section("training", "Training", "", logged)
    worded = prompts(runs)
    if worded is not None:
        yield Section("prompts", "Prompts", "", worded)


def _figures(runs: Sequence[Run], versus: Versus, minimum: int) -> Iterator[Section]:
    if len(runs) > 1:
        first = versus.headlines()
        if first is not None:
            lead = _TOGETHER.format(first=f"{versus.letters[0]}, {runs[0].name}")
            yield Section("summary", "Side by side", lead, first)
        lead = "Value, 95 % interval, controls and number of items of each run."
        yield Section("results", "Results", lead, versus.tables())
        return
    results = runs[0].results
    tiles, by_modality = headlines(results, minimum=minimum), bars(results, minimum=minimum)
    if tiles is not None:
        yield Section("summary", "Summary", _ALONE, tiles)
    if by_modality is not None:
        yield Section("modalities", "By modality", "", by_modality)
    lead = "Value, 95 % interval, controls and number of items."
    yield Section("results", "Results", lead, tables(results, minimum=minimum))
    within = by_value(results, minimum=minimum)
    if within is not None:
        lead = "The same tasks with the same controls within each value alone."
        yield Section("by-value", f"By {results['by']['column']}", lead, within)


def _judged(runs: Sequence[Run], letters: Sequence[str]) -> str:
    """Say in a sentence what was judged on what."""
    told = []
    for letter, run in zip(letters, runs, strict=True):
        about = run.about
        images = f", {about['images']:,} images" if isinstance(about.get("images"), int) else ""
        told.append(
            (
                f"{letter} {run.name}",
                f"{about.get('data', 'data not told')}, split {about.get('split', 'not told')}{images}",
            )
        )
    if len({where for _, where in told}) == 1:
        who = runs[0].name if len(runs) == 1 else _and([name for name, _ in told])
        return f"{who} judged on {told[0][1]}."
    return "; ".join(f"{who} judged on {where}" for who, where in told) + "."


def _filled(run: Run) -> str:
    done = sum(row["status"] == "evaluated" for row in run.benchmark["rows"])
    return f"{run.name} judged on {run.benchmark['suite']}: {done} of {len(run.benchmark['rows'])} data sets on disk."


def _box(runs: Sequence[Run], minimum: int) -> Html:
    """Write the warnings, and then what to note, before everything else."""
    found, noted = warnings(runs), notes(runs, minimum=minimum)
    parts: list[Html | None] = []
    if found:
        parts.append(warned([said[:1].upper() + said[1:] if len(runs) == 1 else said for said in found]))
    else:
        parts.append(tag("p", "No warning from what was checked.", class_="note"))
    if noted:
        listed = [tag("li", said) for said in noted]
        parts.append(tag("div", tag("b", "To note"), tag("ul", *listed), class_="noted note"))
    return join(parts)


def _routing(runs: Sequence[Run]) -> Html | None:
    contents = []
    for run in runs:
        matrices, flow = confusions(run.results), flows(run)
        drawn = tag("div", flow, class_="charts wide") if flow is not None else None
        contents.append(join([matrices, drawn, usage(run)]))
    return _run_by_run(runs, contents)


def _galleries(
    runs: Sequence[Run], galleries: Mapping[str, Sequence[GalleryItem]], unseen: Mapping[str, str]
) -> Html | None:
    contents = []
    for run in runs:
        why = unseen.get(run.name)
        none = tag("p", f"No heatmaps: {why}.", class_="empty") if why else Html()
        items = galleries.get(run.name, ())
        contents.append(best_and_worst(items) if items else none)
    return _run_by_run(runs, contents)


def _run_by_run(runs: Sequence[Run], contents: Sequence[Html]) -> Html | None:
    """Fold what each of several runs shows under its name, the first open; None where none shows anything."""
    shown = [(name, content) for name, content in zip(titles(runs), contents, strict=True) if content]
    if len(runs) == 1 or not shown:
        return shown[0][1] if shown else None
    return join(
        tag("details", tag("summary", name), content, open=place == 0) for place, (name, content) in enumerate(shown)
    )


def _training(runs: Sequence[Run], letters: Sequence[str]) -> Html | None:
    """Draw the logs of training: one run's every curve folded away, of several the losses on top of each other."""
    logged = [(letter, run) for letter, run in zip(letters, runs, strict=True) if run.history]
    if not logged:
        return None
    if len(runs) == 1:
        experts = [str(name) for name in runs[0].of("routing").get("modalities") or ()]
        return tag("details", tag("summary", "Curves of the run"), curves(runs[0].history, experts))
    drawn = []
    for kind, words in (("train", "Training loss"), ("val", "Validation loss")):
        lines = [
            Series(
                letter,
                [(float(row.get("step", 0)), row.get("loss")) for row in run.history if row.get("kind") == kind],
                f"s{letters.index(letter)}",
                dots=kind == "val",
                raw=False,
            )
            for letter, run in logged
        ]
        drawn.append(line_chart(words, lines))
    return tag("div", *drawn, class_="charts wide")


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
