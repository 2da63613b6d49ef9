"""Fill a paper's table: find each data set on disk, judge the model on it, put its figure beside the published ones."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medmoe.benchmarks.arithmetic import readings
from medmoe.benchmarks.catalog import Suite, load_set, load_suite
from medmoe.benchmarks.figures import multi_label, prompt_prior, single_label
from medmoe.benchmarks.judge import Judge, see_all
from medmoe.benchmarks.layouts import Row, expected
from medmoe.benchmarks.source import Opened, find_set, open_set, read_checked, source_of
from medmoe.benchmarks.spec import DataSet, Published, Split, fingerprint
from medmoe.benchmarks.wording import Wording, own_wording, read_prompts
from medmoe.data.sources.base import Source
from medmoe.doubts import Doubts
from medmoe.errors import ConfigError
from medmoe.leaks import copies_between
from medmoe.metrics import Metric
from medmoe.tasks import Context, Evidence
from medmoe.tasks.figures import Figure, mean
from medmoe.tasks.linear_probe import LinearProbe
from medmoe.tasks.wordings import ensembles

MISSING, DONE = "not on disk", "evaluated"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A data set of the suite: what its file says, the split that was asked for, where it lies and what is there."""

    spec: DataSet
    split: Split
    folder: Path | None
    opened: Opened | None


def run_benchmark(
    suite: str | Suite,
    root: Path | str,
    judge: Judge,
    *,
    prompts: Path | str | None = None,
    check: Callable[[Source], Doubts] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Judge a model on every data set of a suite that is on disk.

    All data sets are found and checked before the first image is read. The same model, files, seed and machine give the
    same result in every byte: it holds no time, and no path but what `check` tells.

    Args:
        suite: A suite, its name, a data set's name, or a JSON file that lists data sets.
        root: The folder under which each data set lies in a folder of its name.
        judge: The model.
        prompts: The user's own prompts, see `read_prompts`.
        check: Looks for patients and images of a data set among those that the model was trained on, as
            `medmoe.doubts.of_leaks` does; None: nobody looks.
        say: Told each data set before it is judged.

    Returns:
        `{"suite", "title", "source", "protocol", "fingerprint", "rows": […], "means": […], "published_means": …,
        "notes": […]}`. A row has `set`, `status` and, where evaluated, `n`, `ours`, `figures`, `warnings`, and with
        `check`, `leak_check` and `audit`. A mean has `metric`, `sets` (the names), `of`, `value`, `low`, `high` and
        `controls`.

    Raises:
        ConfigError: If the suite, the folder or the prompts can't be used.
        DataError: If a data set is there, but not as published.
    """
    suite = load_suite(suite) if isinstance(suite, str) else suite
    root = Path(root)
    if not root.is_dir():
        raise ConfigError(f"no folder {str(root)!r}", where="--root", remedy="name the folder that holds the data sets")
    entries = [_find(entry, root) for entry in suite.sets]
    sets = [entry.spec for entry in entries]
    own = {spec.name: own_wording(spec) for spec in sets}
    wordings = own | (read_prompts(prompts, sets) if prompts is not None else {})
    rows, figures = [], []
    for entry in entries:
        row = _about(entry, _published(entry, suite))
        if entry.opened is not None:
            say(entry.spec.name)
            if check is not None:
                looked = check(source_of(entry.spec, entry.opened.rows, modality=entry.spec.modality))
                row |= {"leak_check": looked.leak_check, "audit": looked.audit}
                row["warnings"] += looked.warnings
            figures.append(_judge(row, entry, suite, wordings[entry.spec.name], judge))
        rows.append(row)
    return {
        "suite": suite.name,
        "title": suite.title,
        "source": suite.source.url,
        "protocol": suite.protocol,
        "fingerprint": fingerprint([decides(spec) for spec in sets]),
        "seed": judge.context.seed,
        "resamples": judge.context.resamples,
        "rows": rows,
        "means": _means([one for one in figures if one is not None], of=len(rows)),
        "published_means": {
            name: {"sets": list(g.sets), "percent": g.percent} for name, g in (suite.means or {}).items()
        },
        "notes": list(suite.notes),
    }


def _published(entry: _Entry, suite: Suite) -> list[Published]:
    return [one for one in entry.spec.published if one.protocol == suite.protocol]


def _judge(
    row: dict[str, Any], entry: _Entry, suite: Suite, wording: Wording, judge: Judge
) -> tuple[DataSet, Figure] | None:
    """Fill in the row of a data set on disk, and give its figure where it has one that counts in a mean."""
    judged = _zero_shot if suite.protocol == "zero_shot" else _probe
    found, more, figure = judged(entry, wording, judge)
    row |= found
    row["warnings"] += more
    row["figure_readings"] = _readings(_published(entry, suite), entry)
    return None if figure is None else (entry.spec, figure)


def decides(spec: DataSet) -> dict[str, Any]:
    """Give what decides a data set's figure, for the fingerprint: layout, classes, splits and prompts."""
    splits = [[split.name, split.n, split.layout] for split in spec.splits]
    return {
        "name": spec.name,
        "layout": spec.layout,
        "splits": splits,
        "prompts": spec.prompts(),
        "metric": spec.metric,
    }


def _find(entry: str, root: Path) -> _Entry:
    name, _, wanted = entry.partition("@")
    spec = load_set(name)
    split = spec.split(wanted or None)
    folder = find_set(spec, root, split)
    opened = None if folder is None else open_set(spec, folder, split, pinned=bool(wanted))
    return _Entry(spec, split, folder, opened)


def _about(entry: _Entry, published: list[Published]) -> dict[str, Any]:
    """Give what is known of a data set whether or not it is on disk."""
    spec = entry.spec
    row: dict[str, Any] = {
        "set": spec.name,
        "title": spec.title,
        "modality": spec.modality,
        "status": MISSING if entry.opened is None else DONE,
        "metric": spec.metric,
        "metric_why": spec.metric_why,
        "published": [
            {
                "metric": one.metric,
                "fraction": one.fraction,
                "source": one.source.url,
                "percent": one.percent,
                "note": one.note,
            }
            for one in published
        ],
        "unknown": spec.unknown,
        "notes": list(spec.notes),
    }
    if entry.opened is None:
        layout = spec.layout_of(entry.split.layout)
        return row | {"expected": expected(layout, spec.name, spec.labels)}
    counts = Counter(label for own in entry.opened.rows for label in own.labels)
    return row | {
        "n": len(entry.opened.rows),
        "patients": len({own.patient for own in entry.opened.rows} - {None}) or None,
        "split": entry.opened.split.name,
        "classes": {one.name: counts[one.label] for one in spec.classes},
        "warnings": list(entry.opened.warnings),
    }


def _see(entry: _Entry, rows: tuple[Row, ...], judge: Judge, *, controls: bool = False) -> tuple[Evidence, list[str]]:
    """Run the model over rows; a modality that it doesn't know is kept from it."""
    known = not judge.context.modalities or entry.spec.modality in judge.context.modalities
    source = source_of(entry.spec, rows, modality=entry.spec.modality if known else None)
    notes = [] if known else [f"the model was not trained on {entry.spec.modality}"]
    return see_all(judge, source, modality=entry.spec.modality, controls=controls), notes


def _zero_shot(entry: _Entry, wording: Wording, judge: Judge) -> tuple[dict[str, Any], list[str], Figure | None]:
    """Judge zero-shot classification by prompt ensembles."""
    assert entry.opened is not None
    spec, context = entry.spec, judge.context
    evidence, notes = _see(entry, entry.opened.rows, judge)
    cosine = (evidence.image_embed.double() @ _embed(wording, context).T).numpy()
    truth = np.array([[label in row.labels for label in spec.labels] for row in entry.opened.rows])
    seed = [context.seed, zlib.crc32(spec.name.encode())]
    how: dict[str, Any] = {"scale": evidence.logit_scale, "seed": seed, "resamples": context.resamples}
    patients = [row.patient for row in entry.opened.rows]
    if spec.task == "single_label":
        positive = spec.labels.index(spec.positive) if spec.positive else None
        figures = single_label(cosine, truth.argmax(axis=1), patients, positive=positive, **how)
    else:
        figures = multi_label(cosine, truth, patients, **how)
    ours = figures[spec.metric].metric()
    row = {
        "ours": ours.to_json(),
        "figures": {name: figure.metric().to_json() for name, figure in figures.items()},
        "prompts": wording.about(),
        "prompt_prior": ([one.name for one in spec.classes] + [None])[prompt_prior(cosine)],
    }
    return row, notes + _doubts(ours), figures[spec.metric]


def _embed(wording: Wording, context: Context) -> torch.Tensor:
    """Give the ensemble of each class: [classes, E]."""
    text = context.encode_text([prompt for own in wording.prompts.values() for prompt in own])
    owner = [place for place, own in enumerate(wording.prompts.values()) for _ in own]
    return ensembles(text, torch.tensor(owner), len(wording.prompts))


def _probe(entry: _Entry, wording: Wording, judge: Judge) -> tuple[dict[str, Any], list[str], Figure | None]:
    """Judge a linear probe, fitted on the data set's training split at the published shares."""
    assert entry.opened is not None
    assert entry.folder is not None
    spec = entry.spec
    if spec.train is None:
        why = spec.unknown.get("train", "its file names no training split")
        return {"ours": None, "figures": {}}, [f"no probe: {why}"], None
    fit_rows = read_checked(spec, spec.layout_of(spec.train), entry.folder)
    fit, _ = _see(entry, fit_rows, judge, controls=True)
    evidence, notes = _see(entry, entry.opened.rows, judge, controls=True)
    notes += _copied(spec, entry.opened.rows, fit_rows)
    shares = tuple(one.fraction for one in spec.published if one.fraction is not None)
    context = replace(judge.context, fit=_keys(fit, "train"), tune=None)
    result = LinearProbe(shares=shares, shots=(), fewest=1).evaluate(evidence, context)
    name = "auroc" if spec.metric == "auroc" else "balanced_accuracy"
    figures = {key: figure.to_json() for key, figure in result.metrics.items() if "/" not in key}
    ours = {f"{share:g}": figures.get(f"{name}@{100 * share:g}%") for share in shares}
    notes += [str(result.details[key]) for key in ("skipped",) if key in result.details]
    notes += [str(one["reason"]) for one in result.details.get("left_out", [])]
    return {"ours": ours, "ours_metric": name, "figures": figures, "fit_n": len(fit_rows)}, notes, None


def _copied(spec: DataSet, judged: tuple[Row, ...], fit: tuple[Row, ...]) -> list[str]:
    """Say how many judged images are among those that a probe is fitted on."""
    copies = copies_between(*(source_of(spec, rows, modality=None) for rows in (judged, fit)))
    return [f"{copies} of {len(judged)} images are copies of images that the probe is fitted on"] if copies else []


def _keys(evidence: Evidence, prefix: str) -> Evidence:
    """Tell the samples of another split apart by their keys."""
    return replace(evidence, samples=tuple(replace(one, key=f"{prefix}/{one.key}") for one in evidence.samples))


def _readings(published: list[Published], entry: _Entry) -> list[dict[str, dict[str, bool]]]:
    """Tell for each list of published figures what its percentages can be on the images on disk."""
    assert entry.opened is not None
    counts = Counter(label for row in entry.opened.rows for label in row.labels)
    if entry.spec.task != "single_label" or entry.opened.split.n != len(entry.opened.rows):
        return []
    return [readings(one.percent, [counts[label] for label in entry.spec.labels]) for one in published]


def _doubts(ours: Metric) -> list[str]:
    """Say where a figure shows nothing."""
    high = ours.controls.get("shuffled_high", float("-inf"))
    return ["not above shuffled labels"] if not ours.low > high else []


def _means(figures: Sequence[tuple[DataSet, Figure]], *, of: int) -> list[dict[str, Any]]:
    """Average the defined figures of each metric over the data sets judged by it; a metric without one has no mean."""
    means = []
    for metric in dict.fromkeys(spec.metric for spec, _ in figures):
        own = [(spec.name, one) for spec, one in figures if spec.metric == metric and np.isfinite(one.value)]
        if own:
            found = mean([one for _, one in own]).metric().to_json()
            found.pop("n")  # a count of images says nothing of a mean over data sets
            means.append({"metric": metric, "sets": [name for name, _ in own], "of": of, **found})
    return means
