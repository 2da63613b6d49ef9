"""Slices in the order in which they lie in the patient: whatever their names, numbers and the way the plane turns."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from medmoe.data.dicom.facts import HeaderFacts
from medmoe.data.dicom.series import normal_of, plane_of, stacks_of

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def slices(count: int, orientation: tuple[float, ...] = AXIAL, step: float = 2.0, **more: object) -> list[HeaderFacts]:
    """Make headers of slices one step apart along their plane's normal, in order."""
    first = HeaderFacts("image", study="1", series="1", rows=8, columns=8, orientation=orientation)
    normal = np.array(normal_of(first))
    origin = np.array([3.0, -7.0, 11.0])
    places = [tuple(map(float, origin + step * at * normal)) for at in range(count)]
    return [replace(first, position=place, **more) for place in places]


def shuffled(headers: list[HeaderFacts], seed: int = 0) -> list[tuple[str, HeaderFacts]]:
    """Name headers by their place, and hand them over in another order, under names that sort in yet another one."""
    names = random.Random(seed).sample(range(1000), len(headers))
    pairs = [(f"IM{name}", facts) for name, facts in zip(names, headers, strict=True)]
    return random.Random(seed + 1).sample(pairs, len(pairs))


def oblique() -> tuple[float, ...]:
    turn = math.radians(25)
    row = np.array([math.cos(turn), math.sin(turn), 0.0])
    column = np.cross([0.3, -0.2, 0.9327379], row)
    column /= np.linalg.norm(column)
    row = row - column * (row @ column)
    return tuple(map(float, (*row / np.linalg.norm(row), *column)))


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, (0.0, 1.0, 0.0, 0.0, 0.0, -1.0), oblique()])
def test_slices_are_in_order_of_place_whatever_their_names(orientation: tuple[float, ...]):
    headers = slices(12, orientation)
    pairs = shuffled(headers)
    (stack,) = stacks_of(pairs)
    by_name = dict(pairs)
    assert [by_name[key].position for key in stack.keys] == [facts.position for facts in headers]
    assert (stack.ordered_by, stack.doubled, stack.missing) == ("position", 0, 0)
    assert stack.spacing == pytest.approx(2.0)


def test_a_normal_that_points_the_other_way_changes_nothing():
    turned = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)  # the same plane, its columns upside down
    headers = slices(6, AXIAL)
    flipped = [replace(facts, orientation=turned) for facts in headers]
    one, other = stacks_of(shuffled(headers, 3)), stacks_of(shuffled(flipped, 3))
    assert one[0].keys == other[0].keys
    assert plane_of(flipped[0]) == "axial"


def test_rows_of_a_series_may_turn_and_it_is_one_stack_still():
    headers = slices(4)
    mixed = [
        replace(facts, orientation=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)) if at % 2 else facts
        for at, facts in enumerate(headers)
    ]
    (stack,) = stacks_of(list(zip("dbca", mixed, strict=True)))
    assert stack.keys == ("d", "b", "c", "a")


def test_heads_come_last_and_backs_and_left_sides():
    for orientation, axis in ((AXIAL, 2), (CORONAL, 1), ((0.0, 1.0, 0.0, 0.0, 0.0, -1.0), 0)):
        pairs = shuffled(slices(5, orientation))
        (stack,) = stacks_of(pairs)
        places = [dict(pairs)[key].position[axis] for key in stack.keys]
        assert places == sorted(places)


def test_numbers_decide_where_places_are_missing_and_names_where_both_are():
    numbered = [HeaderFacts("image", series="1", number=number) for number in (10, 9, 2)]
    (stack,) = stacks_of(list(zip("abc", numbered, strict=True)))
    assert (stack.keys, stack.ordered_by) == (("c", "b", "a"), "number")
    bare = [HeaderFacts("image", series="1")] * 3
    (stack,) = stacks_of(list(zip("cab", bare, strict=True)))
    assert (stack.keys, stack.ordered_by, stack.plane) == (("a", "b", "c"), "name", None)


def test_one_missing_place_sends_all_to_their_numbers():
    headers = [replace(facts, number=9 - at) for at, facts in enumerate(slices(3))]
    headers[1] = replace(headers[1], position=None)
    (stack,) = stacks_of(list(zip("abc", headers, strict=True)))
    assert (stack.keys, stack.ordered_by) == (("c", "b", "a"), "number")


def test_orientations_of_one_series_are_stacks_of_their_own():
    pairs = shuffled(slices(3, AXIAL) + slices(4, CORONAL))
    stacks = stacks_of(pairs)
    assert sorted((stack.plane, len(stack.keys)) for stack in stacks) == [("axial", 3), ("coronal", 4)]


def test_scout_images_and_other_sizes_are_stacks_of_their_own():
    scout = replace(slices(1)[0], image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    large = replace(slices(1)[0], rows=99)
    stacks = stacks_of(shuffled([*slices(3), scout, large]))
    assert sorted((len(stack.keys), stack.localiser) for stack in stacks) == [(1, False), (1, True), (3, False)]


def test_gaps_and_doubled_places_are_counted():
    headers = slices(10)
    del headers[4:6]
    headers += [replace(headers[0], number=2), replace(headers[0], number=1)]
    pairs = shuffled(headers)
    (stack,) = stacks_of(pairs)
    assert (stack.missing, stack.doubled, stack.spacing) == (2, 2, pytest.approx(2.0))
    assert [dict(pairs)[key].number for key in stack.keys[:3]] == [None, 1, 2]


def test_images_all_at_one_place_are_ordered_by_number():
    headers = [replace(slices(1)[0], number=number) for number in (3, 1, 2)]
    (stack,) = stacks_of(list(zip("abc", headers, strict=True)))
    assert (stack.keys, stack.ordered_by) == (("b", "c", "a"), "number")


def test_series_and_studies_stay_apart():
    headers = slices(4)
    headers[1] = replace(headers[1], series="2")
    headers[2] = replace(headers[2], study="2")
    assert [len(stack.keys) for stack in stacks_of(shuffled(headers))] == [2, 1, 1]
