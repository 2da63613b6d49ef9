"""A metric as plain data."""

import json

import numpy as np

from medmoe.metrics import Metric


def test_a_metric_is_plain_json_and_undefined_values_are_null() -> None:
    metric = Metric(0.5, float("nan"), np.float64(0.7), np.int64(3), {"chance": np.float64(0.1), "lost": float("inf")})
    assert json.loads(json.dumps(metric.to_json(), allow_nan=False)) == {
        "value": 0.5,
        "low": None,
        "high": 0.7,
        "n": 3,
        "controls": {"chance": 0.1, "lost": None},
    }
