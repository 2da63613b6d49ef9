"""Windows: each row shows black to white, names are checked, the nearest is said."""

from __future__ import annotations

import numpy as np
import pytest

from medmoe.data.windows import WINDOWS, check_window, curve
from medmoe.errors import ConfigError
from medmoe.modalities import MODALITIES


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_runs_from_black_to_white_over_its_width(name):
    row = WINDOWS[name]
    assert row.name == name
    assert row.shows
    ends = row.centre - 0.5 + np.array([-1, 1]) * (row.width - 1) / 2
    np.testing.assert_allclose(curve(np.array([ends[0] - 1, *ends, ends[1] + 1]), row.centre, row.width), [0, 0, 1, 1])
    assert curve(np.array([row.centre - 0.5]), row.centre, row.width) == 0.5


def test_soft_tissue_is_the_usual_window_of_a_ct():
    assert (WINDOWS["soft_tissue"].centre, WINDOWS["soft_tissue"].width) == MODALITIES["ct"].window


def test_a_width_of_one_is_a_threshold():
    np.testing.assert_array_equal(curve(np.array([9.4, 9.5, 9.6]), 10, 1), [0, 0, 1])


@pytest.mark.parametrize("window", ["header", "usual", "full", "lung", "lung+soft_tissue+bone", "bone+bone+bone"])
def test_what_a_window_can_be(window):
    assert check_window(window) == window


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("lungs", "lung"),
        ("lung+bon+brain", "bone"),
        ("lung+bone", "2 windows"),
        ("lung+bone+brain+liver", "4 windows"),
        ("", "window"),
        ("header+lung+bone", "header"),
    ],
)
def test_what_a_window_cannot_be_is_said_with_the_nearest_name(window, message):
    with pytest.raises(ConfigError, match=message):
        check_window(window, where="preprocess.window")
