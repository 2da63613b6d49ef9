import numpy as np
import pytest

from medmoe.data.curation.near import pairs_between, pairs_within


def hashes_near_each_other(count: int, words: int, seed: int) -> np.ndarray:
    """Draw hashes of which many differ in few bits."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, (max(count // 8, 1), words), np.uint64, endpoint=False)
    flips = np.zeros((count, words), np.uint64)
    for _ in range(6):
        flips[np.arange(count), rng.integers(0, words, count)] ^= np.uint64(1) << rng.integers(0, 64, count).astype(
            np.uint64
        )
    return base[rng.integers(0, len(base), count)] ^ flips


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return sum((int(a) ^ int(b)).bit_count() for a, b in zip(one, other, strict=True))


def gathered(found) -> list[tuple[int, int, int]]:
    return [
        pair
        for near in found
        for pair in zip(near.one.tolist(), near.other.tolist(), near.distance.tolist(), strict=True)
    ]


@pytest.mark.parametrize(("count", "words", "radius"), [(1, 1, 3), (40, 1, 0), (60, 2, 7), (300, 4, 9)])
def test_pairs_within_are_those_of_every_pair_counted_out(count: int, words: int, radius: int):
    hashes = hashes_near_each_other(count, words, seed=count)
    wanted = [
        (i, j, distance(hashes[i], hashes[j]))
        for i in range(count)
        for j in range(i + 1, count)
        if distance(hashes[i], hashes[j]) <= radius
    ]
    assert sorted(gathered(pairs_within(hashes, radius))) == wanted


def test_pairs_between_are_those_of_every_pair_counted_out():
    one, other = hashes_near_each_other(70, 4, seed=1), hashes_near_each_other(2100, 4, seed=1)  # wider than a block
    wanted = {(i, j, d) for i in range(len(one)) for j in range(len(other)) if (d := distance(one[i], other[j])) <= 10}
    found = gathered(pairs_between(one, other, 10))
    assert wanted
    assert len(found) == len(wanted)
    assert set(found) == wanted


def test_hashes_that_differ_in_every_bit_are_256_apart():
    hashes = np.array([[0] * 4, [2**64 - 1] * 4], np.uint64)
    assert gathered(pairs_within(hashes, 255)) == []
    assert gathered(pairs_within(hashes, 256)) == [(0, 1, 256)]


def test_threads_find_the_same_pairs_in_the_same_order():
    hashes = hashes_near_each_other(1500, 4, seed=3)
    assert gathered(pairs_within(hashes, 8, threads=3)) == gathered(pairs_within(hashes, 8))


def test_nothing_is_near_to_nothing():
    nothing = np.zeros((0, 4), np.uint64)
    assert gathered(pairs_within(nothing, 5)) == []
    assert gathered(pairs_between(nothing, np.zeros((3, 4), np.uint64), 5)) == []
    assert gathered(pairs_between(np.zeros((3, 4), np.uint64), nothing, 5)) == []
