"""What a benchmark is: a few ways of doing one thing, and what their figures are to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Call: TypeAlias = Callable[[], Any]
"""One repetition of the thing that is timed."""

Way: TypeAlias = Callable[[], Call]
"""Builds everything that a way of doing it needs, outside the clock, and gives what is timed."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large the inputs are.

    Attributes:
        device: `cpu` or `cuda`.
        small: Whether inputs are shrunk until a test can run them: figures then mean nothing.
    """

    device: str = "cpu"
    small: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure is to reach.

    Attributes:
        figure: `time`, `memory`, `rate` or the name of a figure that the item's `figures` give.
        bound: The value it is held against.
        at_most: Whether it is to be at most that, or at least.
        way: Whose figure it is.
        over: The way whose figure it is divided by; None for a figure that stands by itself.
    """

    figure: str
    bound: float
    at_most: bool = True
    way: str = "ours"
    over: str | None = "plain"


@dataclass(frozen=True, slots=True)
class Item:
    """One benchmark.

    Attributes:
        name: What it is asked for by.
        about: What is timed, in one sentence, with its sizes.
        ways: Size → each way by name; `ours`, and `plain`, a `peer`'s name or `floor` beside it.
        targets: What the figures are to reach.
        floor: The ratio that the hardware or an unavoidable part allows at best, in words or as a number.
        rounds: Interleaved repetitions of every way.
        memory: Ways whose peak memory is measured, each in a process of its own.
        figures: Size → figures that are neither time nor memory, such as counted multiply-adds or a recall.
        unit: What a repetition counts, and how many of it: `("images", 8)`.
        needs: Packages without which it is left out, with the reason said.
        devices: Where it can run.
    """

    name: str
    about: str
    ways: Callable[[Size], Mapping[str, Way]]
    targets: Sequence[Target]
    floor: str = ""
    rounds: int = 9
    memory: Sequence[str] = ()
    figures: Callable[[Size], Mapping[str, float]] | None = None
    unit: tuple[str, int] | None = None
    needs: Sequence[str] = ()
    devices: Sequence[str] = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Check:
    """A target beside what was measured.

    Attributes:
        name: Such as `time ours / plain`.
        ratio: The figure: of times, the median of the rounds' ratios.
        spread: Its quartiles over the rounds; None for a figure that is not of rounds.
        target: Such as `≤ 1.12`.
        met: Whether it is reached.
    """

    name: str
    ratio: float
    spread: tuple[float, float] | None
    target: str
    met: bool


@dataclass(frozen=True, slots=True)
class Row:
    """What came out of an item.

    Attributes:
        name: The item.
        about: What was timed.
        floor: The least there can be.
        checks: Every target beside its figure.
        seconds: Median of each way's repetitions, with their quartiles.
        peak_bytes: Peak memory of each way that was measured for it.
        figures: Other figures.
        skipped: Why it didn't run, or empty.
    """

    name: str
    about: str
    floor: str
    checks: tuple[Check, ...] = ()
    seconds: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    skipped: str = ""
