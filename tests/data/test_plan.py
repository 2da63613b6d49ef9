"""Which samples make up a step."""

from collections import Counter
from fractions import Fraction
from itertools import islice, pairwise

import numpy as np
import pytest

from medmoe.data.plan import Layout, Mixture, Plan, Stream, quotas_of
from medmoe.errors import ConfigError

# 60 X-rays, 30 CT slices, 10 MR slices and 4 unknown ones
NAMES = ["xray"] * 60 + ["ct"] * 30 + ["mri"] * 10 + [None] * 4


def shares(plan: Plan, steps: int) -> Counter[str | None]:
    return Counter(NAMES[index] for step in range(steps) for index in plan.indices(step))


def test_every_pass_of_a_stream_has_each_sample_once_in_a_new_order() -> None:
    stream = Stream(np.arange(10, 17), (0,))
    passes = [stream.take(first, 7).tolist() for first in (0, 7, 14)]
    assert all(sorted(one) == list(range(10, 17)) for one in passes)
    assert passes[0] != passes[1]


def test_a_stream_gives_the_same_wherever_it_is_entered() -> None:
    whole = Stream(np.arange(7), (3,)).take(0, 40)
    stream = Stream(np.arange(7), (3,))
    for first in (30, 0, 13, 6):
        assert stream.take(first, 9).tolist() == whole[first : first + 9].tolist()
    assert stream.take(5, 0).tolist() == []


def test_a_mixture_gives_the_same_wherever_it_is_entered_and_keeps_its_quotas() -> None:
    def mixture() -> Mixture:
        return Mixture([Stream(np.arange(5), (1,)), Stream(np.arange(5, 9), (2,))], [3, 2], (9,))

    whole = mixture().take(0, 50)
    for first in (0, 3, 17, 41):
        assert mixture().take(first, 9).tolist() == whole[first : first + 9].tolist()
    for begin in range(0, 50, 5):
        assert (whole[begin : begin + 5] < 5).sum() == 3
    own = whole[whole < 5]
    assert all(sorted(own[begin : begin + 5].tolist()) == list(range(5)) for begin in range(0, 30, 5))


def test_mixed_batches_hold_every_sample_once_a_pass() -> None:
    plan = Plan(NAMES, batch_size=8)
    seen = np.concatenate([plan.indices(step) for step in range(13)])
    assert sorted(seen) == list(range(104))


def test_a_step_depends_on_seed_and_number_only() -> None:
    plan = Plan(NAMES, batch_size=8, seed=1, batching="within", balance=0.5)
    later = Plan(NAMES, batch_size=8, seed=1, batching="within", balance=0.5).indices(57).tolist()
    assert [plan.indices(step).tolist() for step in range(58)][57] == later
    assert Plan(NAMES, batch_size=8, seed=2, batching="within", balance=0.5).indices(57).tolist() != later


def test_fewer_samples_than_a_batch_come_more_than_once() -> None:
    assert Counter(Plan([None] * 3, batch_size=9).indices(4).tolist()) == {0: 3, 1: 3, 2: 3}


@pytest.mark.parametrize(("balance", "expected"), [(0.0, 60 / 104), (0.5, 0.4213), (1.0, 0.25)])
def test_balance_evens_out_the_modalities(balance: float, expected: float) -> None:
    found = shares(Plan(NAMES, batch_size=8, balance=balance), 13 * 64)
    assert found["xray"] / found.total() == pytest.approx(expected, abs=0.005)
    assert found[None] > 0


def test_within_takes_its_part_of_each_batch_from_one_modality_in_turn() -> None:
    plan = Plan(NAMES, batch_size=8, batching="within", within_fraction=0.5)
    turns = [{NAMES[index] for index in plan.indices(step)[:4]} for step in range(6)]
    assert turns == [{"ct"}, {"mri"}, {"xray"}] * 2
    rest = [index for step in range(26) for index in plan.indices(step)[4:]]
    assert sorted(rest) == list(range(104))


def test_within_can_fill_whole_batches() -> None:
    plan = Plan(NAMES, batch_size=8, batching="within", within_fraction=1.0)
    assert all(len({NAMES[index] for index in plan.indices(step)}) == 1 for step in range(6))


def test_a_modality_too_small_for_its_part_has_no_turn() -> None:
    plan = Plan(NAMES, batch_size=40, batching="within")
    assert [{NAMES[index] for index in plan.indices(step)[:20]} for step in range(2)] == [{"ct"}, {"xray"}]
    small = Plan(["ct", "mri"], batch_size=8, batching="within")
    assert sorted(set(small.indices(0)[:4]) | set(small.indices(1)[:4])) == [0, 1]


def test_following_goes_on_with_the_later_steps() -> None:
    plan = Plan(NAMES, batch_size=8)
    assert list(islice(plan.following(2), 16)) == [*plan.indices(3), *plan.indices(4)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batching": "withn"}, "did you mean 'within'"),
        ({"within_fraction": 1.5}, "data.within_fraction: 1.5"),
        ({"balance": -1}, "data.balance: -1"),
    ],
)
def test_a_wrong_option_is_told(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan(NAMES, batch_size=8, **options)


def test_within_without_any_modality_is_told() -> None:
    with pytest.raises(ConfigError, match="needs samples with a modality"):
        Plan([None, None], batch_size=2, batching="within")


def drawn(plan: Plan, steps: int) -> list[int]:
    return [index for step in range(steps) for index in plan.indices(step).tolist()]


def test_parts_come_as_often_as_their_factors_say_exactly() -> None:
    plan = Plan([None] * 90, batch_size=9, layout=Layout((60, 30), (1, 2.5)))  # 60 : 75, in rounds of 9
    seen = drawn(plan, 15)
    assert [sum(index < 60 for index in seen[begin : begin + 9]) for begin in range(0, 135, 9)] == [4] * 15
    assert sorted(index for index in seen if index < 60) == list(range(60))
    assert set(Counter(index for index in seen if index >= 60).values()) == {2, 3}


def test_equal_factors_leave_the_shares_as_they_are() -> None:
    seen = drawn(Plan([None] * 12, batch_size=4, layout=Layout((9, 3), (2, 2))), 3)
    assert sorted(seen) == list(range(12))


def test_parts_keep_their_factors_beside_modalities() -> None:
    names = ["ct"] * 40 + ["xray"] * 40 + ["ct"] * 40  # the second part is CT too
    layout = Layout((80, 40), (1, 3))
    balanced = Counter((names[i], i >= 80) for i in drawn(Plan(names, batch_size=8, balance=1.0, layout=layout), 800))
    assert balanced["xray", False] / 6400 == pytest.approx(1 / 2, abs=0.01)
    assert balanced["ct", True] / balanced["ct", False] == pytest.approx(3, rel=0.02)
    within = Plan(names, batch_size=8, batching="within", within_fraction=1.0, layout=layout)
    steps = [within.indices(step).tolist() for step in range(40)]
    assert all(len({names[index] for index in step}) == 1 for step in steps)
    assert sum(index >= 80 for step in steps for index in step) == 20 * 6


def test_a_step_of_parts_depends_on_seed_and_number_only() -> None:
    def plan() -> Plan:
        layout = Layout((70, 34), (1, 2.5), np.repeat(np.arange(13), 8), 20)
        return Plan(NAMES, batch_size=8, seed=1, batching="within", balance=0.5, layout=layout)

    one, other = plan(), plan()
    whole = [one.indices(step).tolist() for step in range(40)]
    for step in (31, 2, 17, 39):
        assert other.indices(step).tolist() == whole[step]


@pytest.mark.parametrize(
    ("shares", "quotas"),
    [
        ([Fraction(4), Fraction(6)], [2, 3]),
        ([Fraction(1, 3), Fraction(1, 2)], [2, 3]),
        ([Fraction(10**9 + 7), Fraction(3 * (10**9 + 9))], [16384, 49152]),
        ([Fraction(1), Fraction(10**9)], [1, 65536]),
    ],
)
def test_quotas_are_small_whole_numbers(shares: list[Fraction], quotas: list[int]) -> None:
    assert quotas_of(shares) == quotas


@pytest.mark.parametrize(
    ("sizes", "factors", "message"),
    [((3, 4), (1,), "1 factors for 2 sources"), ((3,), (0,), "0 isn't allowed"), ((3,), (float("inf"),), "inf isn't")],
)
def test_wrong_factors_are_told(sizes: tuple[int, ...], factors: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Layout(sizes, factors)


SHARDS = np.repeat([0, 1, 2, 3, 4, 5, 6], [10, 20, 5, 15, 30, 12, 12])  # 104 samples in seven tars


def test_tars_come_one_after_the_other_and_each_sample_once_a_pass() -> None:
    plan = Plan(NAMES, batch_size=8, layout=Layout(shards=SHARDS, window=25))
    passes = [drawn(plan, 39)[begin : begin + 104] for begin in (0, 104, 208)]
    for order in passes:
        assert sorted(order) == list(range(104))
        places = {tar: [at for at, index in enumerate(order) if SHARDS[index] == tar] for tar in range(7)}
        # A window is full as soon as it holds 25 samples, and the last tar in it has 30 at most.
        assert max(max(at) - min(at) for at in places.values()) < 25 + 30
        first = sorted(places, key=lambda tar: min(places[tar]))
        assert len(first) == 7
    assert passes[0] != passes[1]
    assert [SHARDS[index] for index in passes[0]] != [SHARDS[index] for index in passes[1]]


def test_a_window_of_one_reads_each_tar_through_and_a_large_one_shuffles_over_all() -> None:
    through = Plan(NAMES, batch_size=8, layout=Layout(shards=SHARDS, window=1))
    tars = [SHARDS[index] for index in drawn(through, 13)]
    assert sum(one != other for one, other in pairwise(tars)) == 6
    over_all = Plan(NAMES, batch_size=8, layout=Layout(shards=SHARDS, window=1000))
    tars = [SHARDS[index] for index in drawn(over_all, 13)]
    assert sum(one != other for one, other in pairwise(tars)) > 60
