from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from evaluations import figure, items

from medmoe.metrics import Resampler, by_subgroup, reliability, roc_curve
from medmoe.report.details import audit, curves, leaks, lines, missing_prompts, points, subgroups
from medmoe.report.details import items as read_items


def test_items_of_a_group_are_taken_from_the_whole():
    block = items("hit", [1, 0, None, 1], groups=["a", "b", "b", "a"], keys=["w", "x", "y", "z"])
    own = read_items({"items": block}, "hit/b")
    assert own is not None
    assert own.keys == ("x", "y")
    assert own.patients == ("p0", "p1")
    np.testing.assert_array_equal(own.values, [0.0, np.nan])


def test_items_are_found_in_whichever_block_has_them():
    found = read_items({"items": [items("a", [1, 0]), items("b", [True, False, True])]}, "b")
    assert found is not None
    assert found.values.tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "block",
    [
        None,
        3,
        {"hit": [1, 0]},
        {"patients": ["a"], "hit": [1, 0]},
        {"patients": ["a", "b"], "hit": "10"},
        {"patients": ["a", "b"], "other": [1, 0]},
    ],
)
def test_items_that_do_not_fit_are_left_out(block: Any):
    assert read_items({"items": block}, "hit") is None
    assert read_items({"items": block}, "hit/a") is None


def test_what_names_items_is_no_metric():
    assert read_items({"items": items("hit", [1])}, "patients") is None


def test_a_group_without_items_has_none():
    assert read_items({"items": items("hit", [1, 0], groups=["a", "a"])}, "hit/b") is None


def test_points_are_read_as_the_metrics_write_them():
    curve = roc_curve([0.1, 0.8, 0.4, 0.9], [False, True, False, True])
    assert points(curve.to_json()) == list(zip(curve.x, curve.y, strict=True))
    plot = reliability([0.2, 0.2, 0.9, 0.9], [False, True, True, True], bins=2)
    assert points(plot.to_json()) == [(0.2, 0.5, 2.0), (0.9, 1.0, 2.0)]


@pytest.mark.parametrize(
    "value", [None, 3, "ab", {}, {"points": None}, [[1]], [["a", "b"]], [None], [[float("nan"), 1]]]
)
def test_what_is_no_point_is_left_out(value: Any):
    assert points(value) == []
    assert lines({"a": value}) == {}


def test_lines_need_a_mapping():
    assert lines([[0, 1]]) == {}


def test_levels_of_a_corruption_start_at_the_clean_figure():
    own = {"clean": 0.8, "levels": [0.7, None], "groups": {"ct": {"clean": 0.9, "levels": [0.6, 0.5]}, "x": 3}}
    (chart,) = curves({"levels": [1, 5], "curves": {"noise": {"zeroshot": own, "retrieval": None}, "odd": 3}})
    assert chart[0] == "noise, zeroshot"
    assert chart[3] == {"mean": [(0.0, 0.8), (1.0, 0.7)], "ct": [(0.0, 0.9), (1.0, 0.6), (5.0, 0.5)]}


def test_gates_are_read_as_curves_over_what_they_let_through():
    steps = [{"coverage": 0.9, "balanced_accuracy": 0.95, "rejected": {"pictures": 0.8}}, {"coverage": 1.0}, None]
    charts = {title: own for title, _, _, own in curves({"gate": {"energy": steps}})}
    assert charts["Gate: unknown pictures"] == {"energy": [(0.9, 0.8)]}
    assert charts["Gate: router"] == {"energy": [(0.9, 0.95)]}


def test_subgroups_are_read_as_the_metrics_write_them():
    column = ["f"] * 30 + ["m"] * 30 + ["x"] * 3
    right = np.r_[np.ones(30), np.zeros(30), np.ones(3)]
    made = by_subgroup(column, lambda w: w @ right / w.sum(axis=-1), Resampler([None] * 63, resamples=20), shuffles=5)
    ((name, table),) = subgroups({"subgroups": {"sex": {"accuracy": made.to_json()}}})
    assert (name, table["metric"]) == ("sex", "accuracy")
    assert [(row["group"], row.get("value"), row.get("too_few")) for row in table["rows"]] == [
        ("f", 1.0, None),
        ("m", 0.0, None),
        ("x", None, 3),
    ]


def test_subgroups_may_be_several_tables_of_a_column():
    table = {"metric": "auroc", "rows": [{"group": "f", **figure(0.8)}]}
    assert [name for name, _ in subgroups({"subgroups": {"sex": [table, table], "age": 3}})] == ["sex", "sex"]
    assert list(subgroups({})) == []


def test_an_audit_counts_what_is_shared():
    found = audit(
        {"leaks": {"shared_patients": 2, "near_duplicates": 0, "test_images": 9, "identical_reports": "none"}}
    )
    assert found is not None
    assert leaks(found) == [("shared patients", 2.0)]
    assert audit({}) is None
    assert audit({"audit": {}}) is None


def test_classes_worded_by_templates_lack_a_prompt():
    groups = [{"origins": {"a": "general templates", "b": "ours"}}, {"origins": {"a": "general templates"}}, 3]
    assert missing_prompts({"missing_prompts": ["c"], "groups": groups}) == ["c", "a"]
    assert missing_prompts({"groups": 3}) == []
