"""What masks show, and the regions that outlines mean."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from medmoe.data.masks import known, namings, phrases_of, region


def dashed_ellipse(size: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Draw a filled ellipse, and two thirds of its outline's points."""
    canvas = Image.new("L", (size, size))
    ImageDraw.Draw(canvas).ellipse((10, 20, 70, 60), fill=1)
    whole = np.asarray(canvas) > 0
    canvas = Image.new("L", (size, size))
    ImageDraw.Draw(canvas).ellipse((10, 20, 70, 60), outline=1)
    line = np.asarray(canvas) > 0
    y, x = np.nonzero(line)
    line = line.copy()
    line[y[::3], x[::3]] = False
    return whole, line


def test_a_broken_outline_of_a_listed_data_set_means_the_region_within() -> None:
    whole, line = dashed_ellipse()
    filled = region(line, "hc18")
    union = (filled | whole).sum()
    assert (filled & whole).sum() / union > 0.97
    assert line.sum() / union < 0.1


def test_other_masks_stay_as_they_are_and_so_do_empty_ones() -> None:
    _, line = dashed_ellipse()
    assert region(line, "fives") is line
    assert region(line, None) is line
    empty = np.zeros((8, 8), bool)
    assert not region(empty, "hc18").any()
    in_line = empty.copy()
    in_line[3, 1:7] = True
    np.testing.assert_array_equal(region(in_line, "hc18"), in_line)


def test_the_hull_holds_every_marked_point_and_is_scipys() -> None:
    from scipy.spatial import Delaunay

    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = rng.random((40, 40)) < 0.01
        filled = region(mask, "hc18")
        assert (filled >= mask).all()
        corners = Delaunay(np.argwhere(mask))
        cells = np.argwhere(np.ones_like(mask))
        true = (corners.find_simplex(cells) >= 0).reshape(mask.shape)
        assert (filled & true).sum() / (filled | true).sum() > 0.9


@pytest.mark.parametrize(
    ("source", "labels", "phrases"),
    [
        ("covid-chestxray", ("covid-19",), ("lungs", "lung", "lung fields")),  # not the finding of the label
        ("mine", ("lung_adenocarcinoma",), ("lung adenocarcinoma", "adenocarcinoma of the lung")),
        (None, ("polyp",), ("polyp",)),
        ("mine", ("polyp", "ulcer"), ()),
        ("mine", (), ()),
        ("mine", None, ()),
    ],
)
def test_a_mask_shows_what_its_data_set_marks_or_else_the_only_finding(
    source: str | None, labels: tuple[str, ...] | None, phrases: tuple[str, ...]
) -> None:
    assert phrases_of(source, labels) == phrases


def test_every_listed_data_set_says_what_its_masks_show() -> None:
    assert all(row.shows and all(phrase == phrase.lower() for phrase in row.shows) for row in known().values())
    assert namings("ovarian_tumor") == ("ovarian tumor",)
