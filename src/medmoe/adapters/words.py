"""From texts to another library's tokens, and the words that tasks look for in them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medmoe.types import Tokens

_WORD = re.compile(r"[^\W_]+")


class Reader:
    """Tokenizes with another library for a model that has no word features.

    Args:
        encode: Texts to piece ids [B, T] and which of them count, [B, T] bool.
        whole: A text is one single word, as models see it that compare whole texts with regions. Otherwise words are
            runs of letters and digits.
    """

    def __init__(self, encode: Callable[[list[str]], tuple[Tensor, Tensor]], *, whole: bool = False) -> None:
        self.encode, self.whole = encode, whole

    def __call__(self, reports: Sequence[str | None], *, rng: np.random.Generator | None = None) -> Tokens:
        """Tokenize B reports; None is an empty one. `rng` is for training, and plays no part."""
        texts = [report or "" for report in reports]
        ids, mask = self.encode(texts)
        counts = torch.tensor([len(self.words(text)) for text in texts])
        return Tokens(ids, mask, torch.full_like(ids, -1), _first(counts))

    def words(self, report: str) -> list[str]:
        """List the words of a report, in order."""
        words = _WORD.findall(report)
        return [report.strip()][: len(words)] if self.whole else words

    def find(self, report: str, phrase: str) -> list[int]:
        """Find where a phrase first stands in a report, whatever its case and punctuation; empty when absent."""
        found = sought(_WORD.findall(report), _WORD.findall(phrase))
        return [0] if self.whole and found else found


class PieceReader:
    """Tokenizes with a fast tokenizer of Hugging Face for a model that has a feature for each piece.

    Args:
        tokenizer: A `PreTrainedTokenizerFast`.
        longest: Pieces of a row at most, special ones included; the rest is cut off.
        clean: What the model's authors do to a text first.
    """

    def __init__(self, tokenizer: Any, *, longest: int, clean: Callable[[str], str]) -> None:
        self.tokenizer, self.longest, self.clean = tokenizer, longest, clean

    def __call__(self, reports: Sequence[str | None], *, rng: np.random.Generator | None = None) -> Tokens:
        """Tokenize B reports; None is an empty one. `rng` is for training, and plays no part."""
        texts = [self.clean(report or "") for report in reports]
        encoded = self._encode(texts)
        ids = torch.tensor(encoded["input_ids"])
        word, counts = torch.full_like(ids, -1), []
        for row, text in enumerate(texts):
            spans = self._spans(text, encoded, row)
            for number, (_, _, pieces) in enumerate(spans):
                word[row, pieces] = number
            counts.append(len(spans))
        return Tokens(
            ids, torch.tensor(encoded["attention_mask"], dtype=torch.bool), word, _first(torch.tensor(counts))
        )

    def words(self, report: str) -> list[str]:
        """List the words of a report that have a feature, in order."""
        text = self.clean(report)
        return [text[start:end] for start, end, _ in self._spans(text, self._encode([text]), 0)]

    def find(self, report: str, phrase: str) -> list[int]:
        """Find where a phrase first stands in a report, whatever its case and punctuation; empty when absent."""
        return sought(self.words(report), self.words(phrase))

    def _encode(self, texts: list[str]) -> Any:
        return self.tokenizer(
            texts,
            padding="longest",
            truncation=True,
            max_length=self.longest,
            return_offsets_mapping=True,
            return_attention_mask=True,
        )

    def _spans(self, text: str, encoded: Any, row: int) -> list[tuple[int, int, list[int]]]:
        """Give the first and last character and the pieces of each word with a letter or digit."""
        found: dict[int, tuple[int, int, list[int]]] = {}
        offsets = encoded["offset_mapping"][row]
        for piece, number in enumerate(encoded.word_ids(row)):
            if number is not None:
                start, _, pieces = found.get(number, (offsets[piece][0], 0, []))
                found[number] = (start, offsets[piece][1], [*pieces, piece])
        return [span for span in found.values() if _WORD.search(text, span[0], span[1])]


def sought(words: Sequence[str], phrase: Sequence[str]) -> list[int]:
    """Find the first place of consecutive words that equal the phrase's when folded; empty when there is none."""
    held, wanted = [_fold(word) for word in words], [_fold(word) for word in phrase]
    size = len(wanted)
    for first in range(len(held) - size + 1 if size else 0):
        if held[first : first + size] == wanted:
            return list(range(first, first + size))
    return []


def _fold(word: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", word).casefold() if c.isalnum())


def _first(counts: Tensor) -> Tensor:
    """Mark the first `counts` places of each row: [B, N], N at least 1."""
    return torch.arange(max(1, int(counts.max()))) < counts[:, None]
