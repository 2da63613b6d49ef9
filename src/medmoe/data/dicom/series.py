"""Slices of a DICOM series as stacks, in the order in which they lie in the patient, not in that of their names."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from medmoe.data.dicom.facts import HeaderFacts

Key = TypeVar("Key", bound=Hashable)  # what the caller knows a file by: its path, its number
Vector = tuple[float, float, float]

PLANES = ("sagittal", "coronal", "axial")  # by the axis that the normal lies along: x, y, z of the patient
_SAME_DIRECTION = 0.01  # how far two cosines of one stack may lie apart; half a degree
_SAME_PLACE = 0.01  # mm


@dataclass(frozen=True, slots=True)
class Stack(Generic[Key]):
    """Images of one series that are slices of one volume, or that belong together without being one.

    Attributes:
        study: Study instance UID.
        series: Series instance UID.
        keys: Of the images, in their order.
        ordered_by: `position`, `number` (Instance Number) or `name` (neither is known of all).
        plane: `axial`, `coronal` or `sagittal`, whichever is nearest; None where the orientation isn't known.
        spacing: Usual distance between the slices' middles in mm; None where the positions don't tell.
        doubled: How many images lie where another one does (echoes, phases, or a copy).
        missing: How many slices would fill the gaps.
        localiser: Whether these are scout images.
    """

    study: str | None
    series: str | None
    keys: tuple[Key, ...]
    ordered_by: str
    plane: str | None = None
    spacing: float | None = None
    doubled: int = 0
    missing: int = 0
    localiser: bool = False


def stacks_of(images: Iterable[tuple[Key, HeaderFacts]]) -> list[Stack[Key]]:
    """Gather images into stacks: one study, one series, one orientation, one size; scout images by themselves.

    Slices are sorted along the normal of their plane, from the right to the left, the front to the back or the feet
    to the head, whichever direction the normal lies nearest to; which of the two ways a header's row and column turn
    has no part in it. Where a position or the orientation is missing the instance number decides, then the key's text.

    Args:
        images: (key, facts) of each; in any order.

    Returns:
        Stacks by study, series and first key.
    """
    groups: dict[tuple[object, ...], list[tuple[Key, HeaderFacts]]] = {}
    for key, facts in sorted(images, key=lambda pair: str(pair[0])):
        where = (facts.study, facts.series, facts.rows, facts.columns, facts.is_localiser)
        groups.setdefault(where, []).append((key, facts))
    stacks = [_stack(part) for group in groups.values() for part in _by_direction(group)]
    return sorted(stacks, key=lambda stack: (stack.study or "", stack.series or "", str(stack.keys[0])))


def normal_of(facts: HeaderFacts) -> Vector | None:
    """Give the unit normal of an image's plane, turned to where its largest part is positive.

    >>> normal_of(HeaderFacts("image", orientation=(1, 0, 0, 0, -1, 0)))
    (0.0, 0.0, 1.0)
    """
    if facts.orientation is None:
        return None
    a, b = facts.orientation[:3], facts.orientation[3:]
    crossed = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    length = math.hypot(*crossed) or 1.0
    sign = math.copysign(1.0, max(crossed, key=abs)) / length
    return crossed[0] * sign + 0.0, crossed[1] * sign + 0.0, crossed[2] * sign + 0.0


def plane_of(facts: HeaderFacts) -> str | None:
    """Name the plane that an image's lies nearest to.

    >>> plane_of(HeaderFacts("image", orientation=(1, 0, 0, 0, 0, -1)))
    'coronal'
    """
    normal = normal_of(facts)
    if normal is None:
        return None
    return PLANES[max(range(3), key=lambda axis: abs(normal[axis]))]


def _by_direction(group: Sequence[tuple[Key, HeaderFacts]]) -> list[list[tuple[Key, HeaderFacts]]]:
    """Split where orientations differ, as in a series of three planes."""
    parts: list[tuple[Vector | None, list[tuple[Key, HeaderFacts]]]] = []
    for pair in group:
        normal = normal_of(pair[1])
        for other, members in parts:
            if _alike(normal, other):
                members.append(pair)
                break
        else:
            parts.append((normal, [pair]))
    return [members for _, members in parts]


def _alike(a: Vector | None, b: Vector | None) -> bool:
    if a is None or b is None:
        return a is b
    # Halfway between two axes, rounding may turn a normal round.
    return any(max(abs(x - sign * y) for x, y in zip(a, b, strict=True)) <= _SAME_DIRECTION for sign in (1, -1))


def _stack(members: Sequence[tuple[Key, HeaderFacts]]) -> Stack[Key]:
    """Put the members of one stack in order and look at the distances between them."""
    first = members[0][1]
    normal = normal_of(first)
    places = [_along(facts, normal) for _, facts in members]
    known = [place for place in places if place is not None]
    numbers = [facts.number for _, facts in members]
    if len(known) == len(members) and (len(set(known)) > 1 or len(members) == 1):
        by = "position"
    elif all(number is not None for number in numbers) and (len(set(numbers)) > 1 or len(members) == 1):
        by = "number"
    else:
        by = "name"

    def weight(at: int) -> tuple[float, int, str]:
        place = known[at] if by == "position" else 0.0
        return place, 0 if by == "name" else numbers[at] or 0, str(members[at][0])

    order = sorted(range(len(members)), key=weight)
    spacing, doubled, missing = _distances(sorted(known)) if by == "position" else (None, 0, 0)
    return Stack(
        study=first.study,
        series=first.series,
        keys=tuple(members[at][0] for at in order),
        ordered_by=by,
        plane=plane_of(first),
        spacing=spacing,
        doubled=doubled,
        missing=missing,
        localiser=first.is_localiser,
    )


def _along(facts: HeaderFacts, normal: Vector | None) -> float | None:
    """Give where an image's plane cuts the normal of its stack, in mm."""
    if normal is None or facts.position is None:
        return None
    return sum(x * y for x, y in zip(normal, facts.position, strict=True))


def _distances(places: Sequence[float]) -> tuple[float | None, int, int]:
    """Give the usual distance of neighbours, how many share a place, and how many slices the gaps would hold."""
    steps = [after - before for before, after in itertools.pairwise(places)]
    apart = sorted(step for step in steps if step > _SAME_PLACE)
    if not apart:
        return None, len(steps), 0
    usual = apart[(len(apart) - 1) // 2]
    missing = sum(max(round(step / usual) - 1, 0) for step in apart)
    return usual, len(steps) - len(apart), missing
