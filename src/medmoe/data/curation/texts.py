"""Near-duplicate reports: every pair whose three-word shingles overlap by a given share, without trying every pair.

Case, punctuation, whitespace, dates and other numbers are evened out first. Two texts with Jaccard similarity of at
least t must share one of the |x| - ⌈t·|x|⌉ + 1 rarest shingles of either, so that only such pairs are counted out
(prefix filtering: Bayardo et al., 2007); the result is exact.

Reports that say little, and those that many patients share, are templates: that two images have them says nothing.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MIN_WORDS = 8  # a shorter report, such as one made from a label, is alike by chance
COMMON = 5  # a report, or a shingle, of more patients than this is wording that people use

_SHINGLE = 3
_RARE_SHARED = 3  # rare shingles that a pair must share: sentences that everybody writes aren't a copy
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_WORD = re.compile(r"#|[^\W\d_]+")


@dataclass(frozen=True)
class Text:
    """A distinct report.

    Attributes:
        shingles: Its three-word sequences, as 64-bit hashes.
        words: How many words it has.
    """

    shingles: frozenset[int]
    words: int


def normalise(report: str) -> str:
    r"""Even out what copying changes: case, punctuation, whitespace; numbers and dates become `#`.

    >>> normalise("  CT of 12/03/2020:\nNodule,  5 mm. ")
    'ct of # nodule # mm'
    """
    return " ".join(_WORD.findall(_NUMBER.sub(" # ", report.lower())))


def text_of(normalised: str) -> Text:
    """Cut a normalised report into shingles."""
    words = normalised.split()
    runs = [" ".join(words[at : at + _SHINGLE]) for at in range(max(len(words) - _SHINGLE + 1, 1))]
    return Text(frozenset(map(_hash, runs)), len(words))


def similar_texts(texts: Sequence[Text], owners: Sequence[int], least: float) -> Iterator[tuple[int, int, float]]:
    """Find all pairs of distinct texts that overlap.

    Args:
        texts: The texts.
        owners: How many patients have each.
        least: Jaccard similarity of the shingles, above 0 to 1, from which a pair counts.

    Yields:
        (i, j, similarity), i < j. A pair must share three shingles that no more than `COMMON` patients have: reports
        put together from the same usual sentences don't count.
    """
    spread: Counter[int] = Counter()
    for text, count in zip(texts, owners, strict=True):
        for shingle in text.shingles:
            spread[shingle] += count
    found: dict[int, list[int]] = {}  # shingle → texts before this one that have it among their rarest
    for j, text in enumerate(texts):
        size = len(text.shingles)
        rarest = sorted(text.shingles, key=lambda shingle: (spread[shingle], shingle))
        prefix = rarest[: size - math.ceil(least * size - 1e-9) + 1]
        candidates = {i for shingle in prefix for i in found.get(shingle, ())}
        for i in sorted(candidates):
            shared = texts[i].shingles & text.shingles
            similarity = len(shared) / (len(texts[i].shingles) + size - len(shared))
            # A pair of two copies alone has shingles that two patients have.
            if similarity >= least - 1e-9 and sum(spread[shingle] <= COMMON for shingle in shared) >= _RARE_SHARED:
                yield i, j, similarity
        for shingle in prefix:
            found.setdefault(shingle, []).append(j)


def _hash(words: str) -> int:
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little")
