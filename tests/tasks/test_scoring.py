"""Statistics of the truth, whole, in resamples and shuffled."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from medmoe.metrics import Resampler
from medmoe.tasks.scoring import (
    Statistic,
    accurate,
    balanced,
    gain,
    macro_ap,
    macro_auroc,
    macro_f1,
    mean_over,
    permutations,
    shuffled_figure,
)

RNG = np.random.default_rng(0)
TRUTH, ANSWER = RNG.integers(0, 3, 40), RNG.integers(0, 3, 40)
SHOWN, SCORES = RNG.random((40, 2)) < 0.4, np.round(RNG.random((40, 2)), 1)


@pytest.mark.parametrize(
    ("statistic", "truth", "expected"),
    [
        (balanced(ANSWER), TRUTH, balanced_accuracy_score(TRUTH, ANSWER)),
        (accurate(ANSWER), TRUTH, accuracy_score(TRUTH, ANSWER)),
        (macro_auroc(SCORES), SHOWN, roc_auc_score(SHOWN, SCORES)),
        (macro_ap(SCORES), SHOWN, average_precision_score(SHOWN, SCORES)),
        (macro_f1(SCORES, [0.3, 0.6]), SHOWN, f1_score(SHOWN, SCORES >= [0.3, 0.6], average="macro")),
    ],
)
def test_statistics_are_those_of_scikit_learn_and_weights_repeat_items(
    statistic: Statistic, truth: np.ndarray, expected: float
) -> None:
    assert float(statistic(truth)) == pytest.approx(expected, abs=1e-9)
    once = statistic(truth, np.ones((3, 40)))
    assert once == pytest.approx([expected] * 3, abs=1e-9)
    half = np.concatenate([np.zeros(20), np.full(20, 2.0)])
    alone = statistic(truth, (half > 0).astype(float))
    assert float(statistic(truth, half)) == pytest.approx(float(alone), abs=1e-9)


def test_a_mean_over_statistics_averages_values_and_draws() -> None:
    both = mean_over([balanced(ANSWER), balanced(TRUTH)])
    assert float(both(TRUTH)) == pytest.approx((1 + balanced_accuracy_score(TRUTH, ANSWER)) / 2)
    assert both(TRUTH, np.ones((4, 40))).shape == (4,)


def test_a_shuffled_figure_holds_the_truth_in_every_order() -> None:
    orders = permutations(40, 5, [1])
    assert all(sorted(order.tolist()) == list(range(40)) for order in orders)
    resampler = Resampler([None] * 40, resamples=20)
    figure = shuffled_figure(balanced(ANSWER), TRUTH, orders, resampler, {"chance": 1 / 3})
    assert figure.shuffled == pytest.approx([balanced_accuracy_score(TRUTH[order], ANSWER) for order in orders])
    assert figure.draws.shape == (20,)
    assert figure.n == 40


def test_a_gain_is_plain_data_and_undefined_ends_are_none() -> None:
    found = gain(0.5, np.array([0.4, 0.6]), 0.2, np.array([0.2, 0.2]))
    assert found["value"] == pytest.approx(0.3)
    assert found["low"] == pytest.approx(0.205)
    lost = gain(0.5, np.array([0.4, 0.6]), float("nan"), np.full(2, np.nan))
    assert json.dumps(lost, allow_nan=False) == '{"value": null, "low": null, "high": null}'
