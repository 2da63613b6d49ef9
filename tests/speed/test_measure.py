"""What the speed suite says of times and memory."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch

from medmoe.speed.item import Item, Size, Target, Way
from medmoe.speed.items import ITEMS
from medmoe.speed.measure import interleave, measure

SMALL = Size(small=True)


def ways(size: Size) -> Mapping[str, Way]:
    matrix = torch.ones(200, 200)
    return {"ours": lambda: lambda: matrix @ matrix, "plain": lambda: lambda: [matrix @ matrix for _ in range(50)]}


ITEM = Item(
    name="products",
    about="one product beside fifty",
    ways=ways,
    targets=[Target("time", 1.0), Target("time", 1.0, at_most=False), Target("recall", 0.9, at_most=False, over=None)],
    figures=lambda size: {"recall": 0.8},
    rounds=5,
)


def test_ways_are_timed_in_turn_after_one_call_off_the_clock():
    called: list[str] = []
    times = interleave({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, rounds=3)
    assert called == ["a", "b"] * 4
    assert [len(values) for values in times.values()] == [3, 3]


def test_a_target_is_held_against_the_paired_ratio_and_says_whether_it_is_met():
    one, other, recall = measure(ITEM, SMALL).checks
    assert one.name == "time ours / plain"
    assert one.ratio < 1
    assert one.met
    assert not other.met
    assert one.spread is not None
    assert one.spread[0] <= one.ratio <= one.spread[1]
    assert (recall.name, recall.ratio, recall.target, recall.met) == ("recall", 0.8, "≥ 0.9", False)


def test_a_rate_is_the_other_ones_time_over_its_own():
    item = dataclasses.replace(ITEM, targets=[Target("rate", 1.0, at_most=False)])
    assert measure(item, SMALL).checks[0].ratio > 1


def test_an_item_without_its_package_or_device_says_so_and_runs_nothing():
    assert measure(dataclasses.replace(ITEM, needs=("no_such_package",)), SMALL).skipped == (
        "no_such_package not installed"
    )
    assert measure(dataclasses.replace(ITEM, devices=("cuda",)), SMALL).skipped == "runs on cuda only"


def test_peak_memory_counts_what_a_call_held_even_if_it_let_it_go():
    program = (
        "import torch\n"
        "from medmoe.speed.measure import peak_of\n"
        "print(peak_of(lambda: torch.ones(16, 1 << 20).sum() and None, 'cpu'))"
    )  # in a process of its own: this one may have room from before
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 60 << 20 < int(run.stdout) < 90 << 20


@pytest.mark.parametrize("name", ITEMS)
def test_every_item_runs_small(name: str):
    item = dataclasses.replace(ITEMS[name], memory=())
    item = dataclasses.replace(item, targets=[target for target in item.targets if target.figure != "memory"])
    row = measure(item, SMALL, rounds=2)
    assert row.skipped or {check.name for check in row.checks} or row.seconds
    assert all(check.ratio > 0 for check in row.checks)


def test_memory_is_measured_in_a_process_of_its_own():
    item = dataclasses.replace(ITEMS["local-loss-small"], targets=[Target("memory", 10.0)], memory=("ours", "plain"))
    row = measure(item, SMALL, rounds=1)
    assert row.peak_bytes["ours"] > 0
    assert row.checks[0].name == "memory ours / plain"
