"""Paired comparisons against scipy, enumeration and the textbook formulas."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from medmoe.metrics import (
    Resampler,
    auroc,
    bca_interval,
    delong,
    difference_of_draws,
    holm,
    interval,
    mcnemar,
    paired_difference,
    paired_means,
    sign_flip,
)


def two_models(seed: int, items: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give a truth and the scores of two models that see the same difficulty of each item."""
    rng = np.random.default_rng(seed)
    truth = rng.random(items) < 0.5
    difficulty = rng.normal(size=items)
    return truth, truth + difficulty + rng.normal(size=items) / 2, 0.5 * truth + difficulty + rng.normal(size=items) / 2


def test_the_difference_of_two_statistics_is_drawn_from_the_same_resamples() -> None:
    truth, first, second = two_models(1)
    resampler = Resampler(np.repeat(np.arange(20), 3).tolist(), resamples=400)
    one, other = (resampler.draws(lambda w, s=scores: auroc(s, truth, w)) for scores in (first, second))
    found = paired_difference(lambda w: auroc(first, truth, w), lambda w: auroc(second, truth, w), resampler)
    assert found.value == pytest.approx(float(auroc(first, truth) - auroc(second, truth)), rel=1e-12)
    assert (found.low, found.high) == interval(one - other)
    assert found.n == 60
    expected = 2 * (1 + min((one <= other).sum(), (one >= other).sum())) / 401
    assert found.p == pytest.approx(expected, rel=1e-12)


def test_the_difference_of_means_takes_a_short_cut_to_the_same_figures() -> None:
    _, first, second = two_models(2)
    resampler = Resampler(np.repeat(np.arange(12), 5).tolist(), resamples=300)
    for bca in (False, True):
        quick = paired_means(first, second, resampler, bca=bca)
        slow = paired_difference(
            lambda w: w @ first / w.sum(axis=1), lambda w: w @ second / w.sum(axis=1), resampler, bca=bca
        )
        np.testing.assert_allclose(list(quick.to_json().values()), list(slow.to_json().values()), rtol=1e-9)
    draws, values = resampler.means(first - second), first - second
    assert (quick.low, quick.high) == bca_interval(draws, values.mean(), resampler.jackknife_means(values))


def test_a_model_does_not_differ_from_itself() -> None:
    truth, scores, _ = two_models(3)
    found = paired_means(scores, scores, Resampler([None] * 60))
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert sign_flip(scores - scores, [None] * 60) == 1
    assert mcnemar(truth, truth) == 1
    assert delong(scores, scores, truth).p == 1


def test_a_difference_on_every_draw_has_the_least_p_that_so_many_draws_can_show() -> None:
    assert difference_of_draws(1.0, np.ones(999), 5).p == 2 / 1000


def test_undefined_differences_stay_undefined() -> None:
    found = difference_of_draws(math.nan, np.full(5, np.nan), 3)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == {
        "value": None, "low": None, "high": None, "p": None, "n": 3
    }  # fmt: skip
    assert difference_of_draws(0.5, np.r_[np.nan, np.ones(9)], 3).p == 2 / 10


def test_sign_flips_at_random_come_near_all_of_them() -> None:
    values = np.random.default_rng(6).normal(size=14) + 0.4
    exact = sign_flip(values, [None] * 14, flips=2**14)
    drawn = sign_flip(values, [None] * 14, flips=2**14 - 1, seed=1)
    assert drawn == pytest.approx(exact, abs=0.01)
    assert sign_flip(np.ones(200), [None] * 200, flips=99) == 1 / 100


def test_a_patient_with_many_images_counts_as_one() -> None:
    assert sign_flip(np.ones(50), ["a"] * 25 + ["b"] * 25) == 0.5


def test_undefined_items_are_left_out_of_sign_flips() -> None:
    assert sign_flip([1.0, np.nan, 1.0], ["a", "b", "c"]) == 0.5
    assert math.isnan(sign_flip([np.nan], ["a"]))


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (3, 0), (5, 9), (7, 7), (0, 40), (900, 1000)])
def test_mcnemar_matches_scipys_binomial_test(only_first: int, only_second: int) -> None:
    first = np.r_[np.ones(only_first + 4), np.zeros(only_second + 3)].astype(bool)
    second = np.r_[np.zeros(only_first), np.ones(4 + only_second), np.zeros(3)].astype(bool)
    total = only_first + only_second
    expected = stats.binomtest(only_first, total).pvalue if total else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_an_image_that_is_there_twice_adds_nothing_when_its_patient_is_known() -> None:
    truth, first, second = two_models(8)
    twice = np.repeat(np.arange(60), 2)
    once = delong(first, second, truth)
    found = delong(first[twice], second[twice], truth[twice], twice.tolist())
    assert (found.value, found.low, found.high, found.p) == pytest.approx(
        (once.value, once.low, once.high, once.p), rel=1e-9
    )


def test_delong_of_patients_with_both_classes_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(9)
    patients = np.repeat(np.arange(150), 4)
    truth = rng.random(600) < 0.5
    shared = np.repeat(rng.normal(size=150), 4)
    first, second = truth + shared + rng.normal(size=600), 0.8 * truth + rng.normal(size=600)
    found = delong(first, second, truth, patients.tolist())
    drawn = paired_difference(
        lambda w: auroc(first, truth, w), lambda w: auroc(second, truth, w), Resampler(patients.tolist())
    )
    assert found.high - found.low == pytest.approx(drawn.high - drawn.low, rel=0.12)


def test_delong_is_undefined_where_nothing_can_be_said() -> None:
    assert math.isnan(delong([0.1, 0.2], [0.3, 0.4], [True, True]).value)
    one_positive = delong([0.9, 0.1, 0.2], [0.1, 0.9, 0.2], [True, False, False])
    assert one_positive.value == 1
    assert math.isnan(one_positive.p)
    perfect = delong([1, 1, 0, 0], [0, 0, 1, 1], [True, True, False, False])
    assert perfect.value == 1
    assert math.isnan(perfect.p)
    lost = delong([np.nan, 1, 0, 0.5], [1, 1, 0, 0.5], [True, True, False, False])
    assert lost.value == -0.5


def test_holm_keeps_names_and_order_and_does_not_count_what_is_undefined() -> None:
    found = holm({"b": 0.02, "none": math.nan, "a": 0.9})
    assert list(found) == ["b", "none", "a"]
    assert (found["b"], found["a"]) == (0.04, 0.9)
    assert math.isnan(found["none"])
    assert holm({}) == {}
