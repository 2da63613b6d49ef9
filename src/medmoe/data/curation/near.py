"""All pairs of hashes within a Hamming distance: every pair is counted, block by block, by the processor's popcount."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]

# Hashes of a block against those of another: what is being counted stays in the processor's cache.
_ROWS, _COLUMNS = 256, 2048


@dataclass(frozen=True)
class Near:
    """Pairs within the distance.

    Attributes:
        one: [n] rows of the first hashes.
        other: [n] rows of the second.
        distance: [n] bits that differ.
    """

    one: Ints
    other: Ints
    distance: Ints


def pairs_between(one: Words, other: Words, distance: int, *, threads: int = 1) -> Iterator[Near]:
    """Find all pairs of two sets of hashes that differ in at most so many bits.

    Args:
        one: [N, W] words of 64 bits.
        other: [M, W].
        distance: Bits that may differ.
        threads: Blocks that are counted at once.

    Yields:
        The pairs of 256 rows of `one` at a time, in their order; memory grows with what is found, not with N × M.
    """
    columns = _columns(other)
    yield from _in_threads(lambda start: _block(one, start, columns, 0, distance), len(one), threads)


def pairs_within(hashes: Words, distance: int, *, threads: int = 1) -> Iterator[Near]:
    """Find all pairs i < j of one set of hashes; as `pairs_between`."""
    columns = _columns(hashes)

    def block(start: int) -> Near:
        found = _block(hashes, start, columns, start, distance)
        keep = found.one < found.other
        return Near(found.one[keep], found.other[keep], found.distance[keep])

    yield from _in_threads(block, len(hashes), threads)


def _columns(hashes: Words) -> Words:
    """Lay the words of [M, W] hashes out as [W, M], each word's in a row."""
    return np.ascontiguousarray(hashes.T)


def _in_threads(block: Callable[[int], Near], count: int, threads: int) -> Iterator[Near]:
    """Count blocks in threads (NumPy lets go of Python's lock), a few ahead of what is asked for."""
    starts = range(0, count, _ROWS)
    if threads < 2:
        yield from map(block, starts)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead = 2 * threads
        running = [pool.submit(block, start) for start in starts[:ahead]]
        for at in range(len(starts)):
            found = running.pop(0).result()
            if at + ahead < len(starts):
                running.append(pool.submit(block, starts[at + ahead]))
            yield found


def _block(one: Words, start: int, columns: Words, first: int, distance: int) -> Near:
    """Compare up to 256 rows with all columns from `first` on."""
    rows = one[start : start + _ROWS]
    words = rows.shape[1]
    shape = (len(rows), _COLUMNS)
    differing, bits, total = np.empty(shape, np.uint64), np.empty(shape, np.uint8), np.empty(shape, np.uint16)
    ones, others, distances = [], [], []
    for left in range(first, columns.shape[1], _COLUMNS):
        part = columns[:, left : left + _COLUMNS]
        wide = part.shape[1]
        here, count, total_here = differing[:, :wide], bits[:, :wide], total[:, :wide]
        for word in range(words):
            np.bitwise_xor(rows[:, word, None], part[word], out=here)
            np.bitwise_count(here, out=count)
            if word:
                np.add(total_here, count, out=total_here)
            else:
                total_here[...] = count
        row, column = np.nonzero(total_here <= distance)
        if len(row):
            ones.append(row + start)
            others.append(column + left)
            distances.append(total_here[row, column].astype(np.int64))
    none = np.zeros(0, np.int64)
    return Near(*(np.concatenate(found) if found else none for found in (ones, others, distances)))
