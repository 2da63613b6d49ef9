"""What tasks know of a similarity of words and regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Compare(Protocol):
    """regions [Bi, D, G, G], words [Bj, N, D], word_mask [Bj, N] → [Bi, Bj]."""

    def __call__(self, regions: Tensor, words: Tensor, word_mask: Tensor, /, *, chunk: int | None = None) -> Tensor:
        """Compare each image with each report, `chunk` reports or words at a time."""
        ...


@dataclass(frozen=True)
class LocalSimilarity:
    """A similarity of words and regions, and how it stands beside others.

    Attributes:
        compare: The function.
        scale: Its multiplier in the loss, by which it is added to the scaled global cosine.
        summed: Whether it is the logarithm of a sum over words, so that longer texts have more; else a mean.
    """

    compare: Compare
    scale: float
    summed: bool
