"""How cost grows: exponents, data that JSON keeps, and the picture."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from medmoe.speed.scaling import BASE, EXPERTS, LOCAL, VARIED, Curve, Scaling, fit, picture, scaling

SMALL = {
    EXPERTS: {"B": 2, "G": 4, "D": 8, "K": 2},
    LOCAL: {"B": 2, "G": 2, "D": 4, "N": 3},
}


def test_the_exponent_and_its_error_are_those_of_least_squares_on_logarithms():
    sizes, seconds = [1, 2, 4, 8, 16], [1.0, 2.3, 3.7, 9.0, 15.0]
    (want, _), cov = np.polyfit(np.log(sizes), np.log(seconds), 1, cov=True)
    assert fit(sizes, seconds) == pytest.approx((want, cov[0, 0] ** 0.5), abs=1e-4)
    assert fit([2, 4], [1.0, 8.0]) == (3.0, None)


def test_every_letter_of_every_part_is_run_and_kept_as_json():
    varied = {part: {letter: (size, 2 * size) for letter, size in letters.items()} for part, letters in SMALL.items()}
    result = scaling(rounds=1, base=SMALL, varied=varied)
    assert [(curve.part, curve.letter) for curve in result.curves] == [
        (part, letter) for part, letters in SMALL.items() for letter in letters
    ]
    assert all(second > 0 for curve in result.curves for second in curve.seconds)
    again = json.loads(json.dumps(result.to_dict()))
    assert again["base"] == SMALL
    assert [tuple(curve["sizes"]) for curve in again["curves"]] == [curve.sizes for curve in result.curves]


def test_the_sizes_of_the_suite_vary_around_their_base_and_are_log_spaced():
    for part, letters in VARIED.items():
        assert set(letters) == set(BASE[part])
        for letter, sizes in letters.items():
            assert BASE[part][letter] in sizes
            assert {later // size for size, later in itertools.pairwise(sizes)} == {2}


def test_the_picture_is_a_file_of_its_own_with_a_line_and_its_exponent_for_each_letter():
    curves = (
        Curve(EXPERTS, "B", (8, 16, 32), (0.1, 0.2, 0.4), 1.0, 0.02),
        Curve(EXPERTS, "K", (1, 2, 4), (0.1, 0.11, 0.1), 0.0, 0.05),
        Curve(LOCAL, "B", (8, 16, 32), (0.1, 0.4, 1.6), 2.0, 0.0),
    )
    root = ET.fromstring(picture(Scaling(BASE, curves, 3, "cpu")))
    name = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{name}svg"
    assert len(root.findall(f".//{name}polyline")) == 3
    texts = [element.text for element in root.findall(f".//{name}text")]
    assert "K 1–4: exponent 0.00 ± 0.05" in texts
    heights = [
        [float(point.split(",")[1]) for point in line.attrib["points"].split()]
        for line in root.findall(f".//{name}polyline")
    ]
    assert heights[0][0] > heights[0][1] > heights[0][2]  # more time is drawn higher
    assert heights[1][0] == heights[1][2]
