"""Subgroups against the same figures computed from each subgroup's items alone."""

import json

import numpy as np
import pytest

from medmoe.metrics import Resampler, age_band, auroc, by_subgroup


def a_split(seed: int, patients: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Give scores, truth and sex of two images a patient, and the patients."""
    rng = np.random.default_rng(seed)
    sex = np.repeat(rng.choice(["f", "m"], patients), 2)
    truth = rng.random(2 * patients) < 0.5
    return truth + rng.normal(size=2 * patients), truth, sex, np.repeat(np.arange(patients), 2).tolist()


def test_each_figure_is_that_of_the_subgroups_items_alone_and_the_gap_their_difference() -> None:
    scores, truth, sex, patients = a_split(1)
    resampler = Resampler(patients, resamples=100)
    found = by_subgroup(sex.tolist(), lambda w: auroc(scores, truth, w), resampler)
    alone = {name: float(auroc(scores[sex == name], truth[sex == name])) for name in ("f", "m")}
    assert list(found.groups) == ["f", "m"]
    for name, metric in found.groups.items():
        assert metric.value == pytest.approx(alone[name], rel=1e-12)
        assert metric.n == (sex == name).sum()
        assert metric.low < metric.value < metric.high
    assert found.gap is not None
    assert found.gap.value == pytest.approx(abs(alone["f"] - alone["m"]), rel=1e-9)
    assert found.highest == max(alone, key=alone.__getitem__)
    assert found.lowest == min(alone, key=alone.__getitem__)


def test_the_gaps_interval_comes_from_draws_that_both_subgroups_share() -> None:
    scores, _, view, patients = a_split(2)
    view = np.tile(["front", "side"], 60)  # both views of each patient
    scores = np.repeat(scores[::2], 2) + (view == "front")  # what the patient adds cancels in the difference
    found = by_subgroup(view.tolist(), lambda w: w @ scores / np.maximum(w.sum(axis=1), 1), Resampler(patients))
    assert found.gap is not None
    assert (found.gap.low, found.gap.high) == pytest.approx((1, 1))
    assert found.groups["front"].high - found.groups["front"].low > 0.3


def test_a_gap_of_chance_lies_among_the_shuffled_ones_and_a_real_one_beyond() -> None:
    rng = np.random.default_rng(3)
    patients, site = np.repeat(np.arange(200), 2).tolist(), np.repeat(rng.integers(0, 4, 200), 2)
    even = rng.normal(size=400)
    for values, real in ((even, False), (even + (site == 2), True)):
        found = by_subgroup(
            site.tolist(), lambda w, v=values: w @ v / np.maximum(w.sum(axis=1), 1), Resampler(patients), shuffles=199
        )
        assert found.gap is not None
        assert (found.p < 0.02) == real
        assert (found.gap.value > found.gap.controls["shuffled_high"]) == real
        assert (found.gap.low > 0) == real or not real
        if real:
            assert found.highest == "2"


def test_one_patient_with_two_subgroups_does_not_make_the_others_images_count_apart() -> None:
    rng = np.random.default_rng(8)
    values = np.repeat(rng.normal(size=60), 10)  # images of a patient are all alike
    site = np.repeat(np.arange(60) % 2, 10)
    patients = np.repeat(np.arange(60), 10).tolist()

    def mean(weights: np.ndarray) -> np.ndarray:
        return weights @ values / np.maximum(weights.sum(axis=1), 1)

    resampler, mixed = Resampler(patients, resamples=50), site.copy()
    mixed[0] = 1 - mixed[0]
    whole, almost = (by_subgroup(column.tolist(), mean, resampler).gap for column in (site, mixed))
    assert whole is not None
    assert almost is not None
    assert almost.controls["shuffled"] == pytest.approx(whole.controls["shuffled"], rel=0.2)
    assert almost.controls["shuffled"] > 0.15  # shuffled image by image it would be a third of that


def test_views_of_the_same_patients_are_shuffled_within_each() -> None:
    rng = np.random.default_rng(9)
    values = np.repeat(10 * rng.normal(size=50), 2) + rng.normal(size=100)
    view, patients = ["front", "side"] * 50, np.repeat(np.arange(50), 2).tolist()
    found = by_subgroup(view, lambda w: w @ values / np.maximum(w.sum(axis=1), 1), Resampler(patients))
    assert found.gap is not None
    assert found.gap.controls["shuffled_high"] < 1  # what patients differ by, 10, cancels


def test_no_figure_is_printed_of_too_few_patients_and_none_of_an_unknown_group() -> None:
    column = ["a"] * 40 + ["b"] * 40 + [None] * 5 + [""] * 2 + [float("nan")]
    patients = [*range(40), *([7] * 40), *range(100, 108)]
    found = by_subgroup(column, lambda w: w.sum(axis=1), Resampler(patients, resamples=20))
    assert set(found.groups) == {"a"}
    assert found.too_few == {"b": 40}
    assert found.unknown == 8
    assert found.gap is None


def test_a_column_without_a_large_subgroup_has_no_figure() -> None:
    found = by_subgroup([None, "a"], lambda w: w.sum(axis=1), Resampler([1, 2]))
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == {
        "groups": {},
        "gap": None,
        "highest": None,
        "lowest": None,
        "p": None,
        "too_few": {"a": 1},
        "unknown": 1,
    }


def test_a_subgroup_of_one_class_has_no_figure_and_no_part_in_the_gap() -> None:
    scores, truth, _, patients = a_split(4, patients=90)
    site = np.repeat(np.arange(3), 60)
    truth[site == 1] = True
    found = by_subgroup(site.tolist(), lambda w: auroc(scores, truth, w), Resampler(patients, resamples=50))
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["groups"]["1"]["value"] is None
    assert {found.highest, found.lowest} == {"0", "2"}
    assert plain["gap"]["n"] == 120


def test_without_shuffles_a_gap_has_no_p() -> None:
    found = by_subgroup([0, 1] * 20, lambda w: w[:, 0] * 0 + w.sum(axis=1), Resampler([None] * 40), shuffles=0)
    assert found.gap is not None
    assert found.gap.controls == {}
    assert np.isnan(found.p)


def test_subgroups_stand_in_order_of_their_numbers_then_names() -> None:
    column = ["80+", "5–17", "0–4", "site b", "site a"] * 3
    found = by_subgroup(column, lambda w: w.sum(axis=1), Resampler([None] * 15, resamples=5), fewest=2, shuffles=3)
    assert list(found.groups) == ["0–4", "5–17", "80+", "site a", "site b"]


@pytest.mark.parametrize(("age", "band"), [(0, "0–4"), (4.9, "0–4"), (5, "5+"), (-1, None), (float("nan"), None)])
def test_ages_fall_into_bands(age: float, band: str | None) -> None:
    assert age_band(age, edges=(5,)) == band
