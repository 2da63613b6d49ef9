from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import figure, items

from medmoe.metrics import Resampler, balanced_accuracy, interval
from medmoe.report.differences import compare, corrected, obstacles
from medmoe.report.runs import Run


def run(found: dict[str, Any], *, kept: Any = None, **about: Any) -> Run:
    details = {} if kept is None else {"task": {"items": kept}}
    where = {"data": "d", "split": "test", "images": 40, **about}
    return Run("run", Path("run.json"), {"task": found}, details, where)


def pair(metric: str, first: list[float], second: list[float], **more: Any) -> tuple[Run, Run]:
    return tuple(
        run({metric: figure(float(np.mean(own)), n=len(own))}, kept=items(metric, own, **more))
        for own in (first, second)
    )


FIRST = [float(place % 3 == 0) for place in range(40)]
SECOND = [float(place % 3 != 1) for place in range(40)]


def test_a_paired_difference_is_that_of_the_items_over_patients():
    found = compare(*pair("hit", FIRST, SECOND), "task", "hit", resamples=500, seed=3)
    each = np.subtract(SECOND, FIRST)
    draws = Resampler([f"p{place // 2}" for place in range(40)], resamples=500, seed=3).means(each)
    assert found.how == "paired"
    assert found.value == pytest.approx(each.mean(), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(interval(draws), abs=1e-12)
    assert found.p is not None
    assert found.p < 0.01
    assert found.clear


def test_equal_runs_do_not_differ():
    found = compare(*pair("hit", FIRST, FIRST), "task", "hit")
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert not found.clear


def test_items_are_matched_by_their_keys():
    keys = [str(place) for place in range(40)]
    first, second = pair("hit", FIRST, SECOND, keys=keys)
    order = list(reversed(range(40)))
    turned = {name: [own[place] for place in order] for name, own in second.of("task")["items"].items()}
    second = run(dict(second.tasks["task"]), kept=turned)
    straight = compare(*pair("hit", FIRST, SECOND), "task", "hit")
    assert compare(first, second, "task", "hit") == straight


def test_a_mean_over_groups_is_paired_as_such():
    groups = ["a"] * 10 + ["b"] * 30
    macro = [float(np.mean([np.mean(own[:10]), np.mean(own[10:])])) for own in (FIRST, SECOND)]
    runs = [
        run({"hit": figure(value, n=40)}, kept=items("hit", own, groups=groups))
        for value, own in zip(macro, (FIRST, SECOND), strict=True)
    ]
    found = compare(*runs, "task", "hit")
    assert found.how == "paired"
    assert found.value == pytest.approx(macro[1] - macro[0])


def test_balanced_accuracy_within_modalities_is_paired_by_nested_groups():
    true = np.array([0, 0, 0, 1, 1] * 4 + [2, 3] * 10)
    groups = [f"ct/{name}" if name < 2 else f"xray/{name}" for name in true.tolist()]
    rows = np.arange(20), np.arange(20, 40)
    chosen = [np.where(np.array(right, dtype=bool), true, -1) for right in (FIRST, SECOND)]
    by_modality = [[float(balanced_accuracy(true[own], made[own])) for own in rows] for made in chosen]
    runs = [
        run(
            {"hit": figure(float(np.mean(each)), n=40), "hit/ct": figure(each[0], n=20)},
            kept=items("hit", right, groups=groups),
        )
        for each, right in zip(by_modality, (FIRST, SECOND), strict=True)
    ]
    whole, part = compare(*runs, "task", "hit", resamples=300), compare(*runs, "task", "hit/ct", resamples=300)
    assert (whole.how, part.how) == ("paired", "paired")
    assert whole.value == pytest.approx(np.mean(by_modality[1]) - np.mean(by_modality[0]))
    assert part.value == pytest.approx(by_modality[1][0] - by_modality[0][0])
    draws = Resampler([f"p{place // 2}" for place in range(20)], resamples=300).draws(
        lambda w: balanced_accuracy(true[:20], chosen[1][:20], w) - balanced_accuracy(true[:20], chosen[0][:20], w)
    )
    assert (part.low, part.high) == pytest.approx(interval(draws), abs=1e-12)


def test_a_figure_that_is_no_mean_of_its_items_stays_unpaired():
    first, second = pair("hit", FIRST, SECOND)
    second = run({"hit": figure(0.123, n=40)}, kept=second.of("task")["items"])
    found = compare(first, second, "task", "hit")
    assert (found.how, found.p) == ("unpaired", None)
    assert "isn’t a mean of its items" in found.reason


def test_without_items_the_ends_of_both_intervals_are_joined():
    first, second = run({"a": figure(0.5, half=0.03)}), run({"a": figure(0.6, half=0.04)})
    found = compare(first, second, "task", "a")
    assert found.how == "unpaired"
    assert found.value == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.05, 0.15))


def test_without_an_interval_there_is_only_the_difference():
    bare = {**figure(0.5), "low": None}
    found = compare(run({"a": bare}), run({"a": figure(0.6)}), "task", "a")
    assert found.value == pytest.approx(0.1)
    assert found.low is None
    assert not found.clear


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"data": "e"}, "different data"),
        ({"split": "val"}, "different split"),
        ({"images": 39}, "different number of images"),
        ({"split": None}, "not told"),
    ],
)
def test_runs_on_different_data_are_not_compared(about: dict[str, Any], said: str):
    first, second = run({"a": figure(0.5)}), run({"a": figure(0.6)}, **about)
    found = compare(first, second, "task", "a")
    assert (found.how, found.value) == ("refused", None)
    assert said in found.reason


def test_a_fingerprint_of_the_data_outweighs_their_path():
    first, second = run({}, data_fingerprint="f", data="/a"), run({}, data_fingerprint="f", data="/b")
    assert obstacles(first, second) == []
    assert obstacles(first, run({}, data_fingerprint="g")) == ["different data, by their fingerprints"]
    assert obstacles(run({}, data="d/"), run({})) == []


@pytest.mark.parametrize(
    "change",
    [
        {"patients": ["other"] * 40},
        {"keys": [str(place + 1) for place in range(40)]},
        {"keys": ["0"] * 40},
        {"hole": True},
    ],
)
def test_different_items_are_not_paired(change: dict[str, Any]):
    first, second = pair("hit", FIRST, SECOND, keys=[str(place) for place in range(40)])
    kept = dict(second.of("task")["items"])
    if "hole" in change:
        kept["hit"] = [None, *kept["hit"][1:]]
    found = compare(first, run(dict(second.tasks["task"]), kept={**kept, **change}), "task", "hit")
    assert (found.how, found.reason) == ("refused", "the items differ")


def test_named_items_are_paired_though_their_patients_are_named_otherwise():
    keys = [str(place) for place in range(40)]
    first, second = pair("hit", FIRST, SECOND, keys=keys)
    kept = dict(second.of("task")["items"])
    renamed = run(dict(second.tasks["task"]), kept={**kept, "patients": [f"set/{own}" for own in kept["patients"]]})
    assert compare(first, renamed, "task", "hit") == compare(first, second, "task", "hit")


def test_figures_of_different_n_are_not_compared():
    found = compare(run({"a": figure(0.5)}), run({"a": figure(0.5, n=39)}), "task", "a")
    assert found.reason == "different items (n 40 and 39)"


@pytest.mark.parametrize("other", [{}, {"a": figure(None)}])
def test_a_figure_that_one_run_lacks_is_absent(other: dict[str, Any]):
    assert compare(run({"a": figure(0.5)}), run(other), "task", "a").how == "absent"


def test_p_is_corrected_over_the_paired_ones_of_a_table():
    paired = compare(*pair("hit", FIRST, SECOND), "task", "hit")
    unpaired = compare(run({"a": figure(0.5)}), run({"a": figure(0.6)}), "task", "a")
    found = corrected([paired, unpaired, paired])
    assert paired.p is not None
    assert [own.adjusted for own in found] == [pytest.approx(2 * paired.p), None, pytest.approx(2 * paired.p)]
