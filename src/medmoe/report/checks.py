"""What a reader must know before any figure: what is wrong with the runs, and what nobody looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medmoe.data.contract import differences
from medmoe.report.details import audit, leaks, missing_prompts
from medmoe.report.differences import obstacles
from medmoe.report.figures import MINIMUM, Figure
from medmoe.report.markup import finite
from medmoe.report.runs import Run, titles


def warnings(runs: Sequence[Run]) -> list[str]:
    """Say what makes the runs' figures doubtful; a run is named where there are several.

    The first run is the one that the others are compared with.
    """
    told = [f"{run.name}: {said}" for run in runs if run.benchmark for said in _of_benchmark(run)]
    runs = [run for run in runs if not run.benchmark]
    names = titles(runs) if runs else []
    for name, run in zip(names, runs, strict=True):
        before = f"{name}: " if len(runs) > 1 else ""
        told += [f"{before}{said}" for said in _of_one(run)]
    for name, run in zip(names[1:], runs[1:], strict=True):
        told += [f"{name} against {names[0]}: {said}" for said in _of_two(runs[0], run)]
    return list(dict.fromkeys(told))


def notes(runs: Sequence[Run], *, minimum: int = MINIMUM) -> list[str]:
    """Say what the files don't tell, so that silence isn't taken for a clean bill, and how many figures are greyed.

    Args:
        runs: The runs.
        minimum: Items below which a figure is greyed.
    """
    unlooked = [said for run in runs if run.benchmark and (said := _unlooked(run))]
    runs = [run for run in runs if not run.benchmark]
    if not runs:
        return unlooked
    greyed = [said for name, run in zip(titles(runs), runs, strict=True) if (said := _greyed(name, run, minimum))]
    told = [*unlooked, *greyed]
    without = [run.name for run in runs if audit(run.details) is None]
    if without:
        told.append(
            f"Not checked whether training and test share patients or images: no audit in {_all(without, runs)}."
        )
    if len(runs) > 1 and not all(run.about.get("data_fingerprint") for run in runs):
        told.append(
            "The data count as the same by path, split and number of images; the files hold no fingerprint of them."
        )
    unknown = [run.name for run in runs if not run.about.get("preprocess_fingerprint")]
    if unknown:
        told.append(f"Not told how the images were preprocessed: no fingerprint in {_all(unknown, runs)}.")
    commitless = [run.name for run in runs if not run.about.get("git_commit")]
    if commitless:
        told.append(f"Not told which commit made the figures: none in {_all(commitless, runs)}.")
    return told


def _unlooked(run: Run) -> str:
    """Say which data sets of a benchmark nobody held against what the model was trained on."""
    rows = [row for row in run.benchmark["rows"] if row["status"] == "evaluated"]
    without = [str(row["set"]) for row in rows if not row.get("audit")]
    if not without:
        return ""
    return f"{run.name}: not checked whether training shares patients or images with {_list(without)}."


def _greyed(name: str, run: Run, minimum: int) -> str:
    figures = [Figure.read(metric, found) for metrics in run.tasks.values() for metric, found in metrics.items()]
    few = sum(figure.too_few(minimum) for figure in figures)
    return (
        f"{name}: {few} of {len(figures)} figures come from fewer than {minimum} items and are greyed." if few else ""
    )


def _of_one(run: Run) -> Iterator[str]:
    found = run.about.get("warnings") or []
    given = [str(said) for said in (found if isinstance(found, list) else [found])]
    looked = (
        "leak_check" in run.about
    )  # the evaluation looked for leaks and prompts itself, and said so in its warnings
    yield from given
    if not (looked and audit(run.details)):
        yield from _shared(run)
    evaluated = run.about.get("preprocess_fingerprint")
    told = any(said.count(str(evaluated)) or said.count(str(run.preprocess)) for said in given)
    if run.preprocess and evaluated and run.preprocess != evaluated and not told:
        yield f"judged with other preprocessing ({evaluated}) than the run’s model declares ({run.preprocess})."
    for task in run.details:
        lacking = missing_prompts(run.of(task))
        if lacking and not looked:
            yield f"the prompts have no wording for {_list(lacking)}; general sentences stood in."
    outside = _outside(run)
    if outside:
        counts = _list([f"{name} ({count} images)" for name, count in outside.items()])
        yield f"modalities that the model doesn’t know: {counts}; but for the gate (ood), figures leave them out."
    skipped = finite(run.about.get("skipped"))
    if skipped:
        yield f"{skipped:,.0f} bad samples were skipped; {finite(run.about.get('images')) or 0:,.0f} were judged."
    if not any(run.tasks.values()):
        yield "no figure was computed."


def _outside(run: Run) -> Mapping[str, Any]:
    """Give how many images are of each modality that the model lacks, as routing or else another task counted them."""
    counted = [run.of("routing").get("outside"), *(run.of(task).get("foreign") for task in run.details)]
    return next((found for found in counted if isinstance(found, Mapping) and found), {})


def _of_benchmark(run: Run) -> Iterator[str]:
    rows = [row for row in run.benchmark["rows"] if row["status"] == "evaluated"]
    doubtful = [str(row["set"]) for row in rows if row.get("warnings")]
    if doubtful:
        yield (
            f"{len(doubtful)} of {len(rows)} data sets of {run.benchmark['suite']} aren't comparable as they are, "
            f"or show nothing: {_list(doubtful)}; why stands under the table."
        )
    if not rows:
        yield f"no data set of {run.benchmark['suite']} was on disk."


def _shared(run: Run) -> Iterator[str]:
    """Tell what training and test have in common."""
    found = audit(run.details)
    counted = leaks(found) if found is not None else []
    if counted:
        yield f"the test set isn’t apart from training: {_list([f'{name}: {count:,.0f}' for name, count in counted])}."
    data, trained = run.about.get("data"), run.made.get("train_data")
    if (
        trained
        and data
        and str(trained).rstrip("/") == str(data).rstrip("/")
        and run.about.get("split") in ("train", "all")
    ):
        yield f"judged on split {run.about['split']!r} of {data}, the data that it was trained on."


def _other_pixels(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Say which steps of two runs' preprocessing differ, or their fingerprints where the steps aren't told; or ''."""
    if one.get("preprocess") and other.get("preprocess"):
        return "; ".join(differences(one["preprocess"], other["preprocess"]))
    pair = one.get("preprocess_fingerprint"), other.get("preprocess_fingerprint")
    return "" if None in pair or pair[0] == pair[1] else f"{pair[0]} and {pair[1]}"


def _of_two(reference: Run, other: Run) -> Iterator[str]:
    against = obstacles(reference, other)
    if against:
        yield f"no differences are given: {'; '.join(against)}."
    pixels = _other_pixels(reference.about, other.about)
    if pixels:
        yield f"different preprocessing ({pixels})."
    for key, words in (
        ("candidate_experts", "experts for candidate reports"),
        ("seed", "seeds of bootstrap and shuffles"),
    ):
        one, two = reference.about.get(key), other.about.get(key)
        if one is not None and two is not None and one != two:
            yield f"different {words} ({one} and {two})."
    for task in reference.details:
        one, two = reference.of(task).get("prompts"), other.of(task).get("prompts")
        if isinstance(one, str) and isinstance(two, str) and one != two:
            yield f"different prompts in {task} ({one} and {two})."
    alone = [task for task in reference.tasks if task not in other.tasks]
    alone += [task for task in other.tasks if task not in reference.tasks]
    if alone:
        yield f"only one of the two was judged on {_list(alone)}."


def _all(names: Sequence[str], runs: Sequence[Run]) -> str:
    if len(names) < len(runs):
        return _list(names)
    return "any of the files" if len(runs) > 1 else "the file"


def _list(words: Sequence[str], most: int = 8) -> str:
    shown = list(words[:most])
    if len(words) > most:
        shown.append(f"{len(words) - most} more")
    return ", ".join(shown)
