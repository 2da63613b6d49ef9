"""Evidence made by hand: every word has a fixed direction, so what a perfect model would say is known."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from medmoe.modalities import SIX
from medmoe.tasks.base import Context, Evidence
from medmoe.types import Box, Sample, TextEmbedding

WIDTH = 64
PIXELS = np.zeros((0, 0), dtype=np.uint8)


class Splitter:
    """Words are what stands between spaces, without full stops."""

    def words(self, report: str) -> list[str]:
        return report.lower().replace(".", " ").split()

    def find(self, report: str, phrase: str) -> list[int]:
        words, wanted = self.words(report), self.words(phrase)
        for first in range(len(words) - len(wanted) + 1):
            if words[first : first + len(wanted)] == wanted:
                return list(range(first, first + len(wanted)))
        return []


def code(word: str) -> Tensor:
    """Give a word its direction [WIDTH]."""
    generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
    return normalize(torch.randn(WIDTH, generator=generator), dim=0)


def encode_text(texts: Sequence[str]) -> TextEmbedding:
    """Embed texts: a word is its direction, a text the sum of its words."""
    listed = [Splitter().words(text) for text in texts]
    longest = max((len(words) for words in listed), default=0)
    words, mask = torch.zeros(len(texts), longest, WIDTH), torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, own in enumerate(listed):
        for place, word in enumerate(own):
            words[row, place], mask[row, place] = code(word), True
    blank = torch.zeros(len(texts), len(SIX))
    return TextEmbedding(normalize(words.sum(dim=1), dim=1), words, mask, blank, blank)


def context(*, seed: int = 0, resamples: int = 100) -> Context:
    return Context(SIX, encode_text, Splitter(), seed=seed, resamples=resamples)


def sample(
    key: int,
    report: str | None = None,
    modality: str | None = "xray",
    labels: tuple[str, ...] | None = None,
    boxes: tuple[Box, ...] | None = None,
    patient: str | None = None,
    source: str | None = "made",
) -> Sample:
    return Sample(
        f"row:{key}", PIXELS, report, modality=modality, labels=labels, boxes=boxes, patient=patient, source=source
    )


def evidence(
    samples: Sequence[Sample],
    *,
    image_embed: Tensor | None = None,
    regions: Tensor | None = None,
    image_logits: Tensor | None = None,
    text_logits: Tensor | None = None,
    seed: int = 0,
) -> Evidence:
    """Give the evidence of a model that knows the reports; images are noise unless given."""
    generator = torch.Generator().manual_seed(seed)
    size = len(samples)
    has_report = torch.tensor([sample.report is not None for sample in samples])
    text = encode_text([sample.report or "" for sample in samples])
    oracle = one_hot(torch.tensor([SIX.index(s.modality) if s.modality in SIX else 0 for s in samples]), 6).float()
    noise = normalize(torch.randn(size, WIDTH, generator=generator), dim=1)
    return Evidence(
        image_embed=noise if image_embed is None else image_embed,
        regions=torch.randn(size, WIDTH, 4, 4, generator=generator) if regions is None else regions,
        image_logits=oracle if image_logits is None else image_logits,
        has_report=has_report,
        text_embed=text.embed,
        words=text.words,
        word_mask=text.word_mask,
        text_logits=oracle if text_logits is None else text_logits,
        samples=tuple(samples),
        modalities=SIX,
        logit_scale=10.0,
    )


def holding(reports: Sequence[str], grid: int = 4) -> Tensor:
    """Give regions [n, WIDTH, grid, grid] that hold the words of each report, one a region."""
    regions = torch.zeros(len(reports), WIDTH, grid * grid)
    for row, report in enumerate(reports):
        for place, word in enumerate(Splitter().words(report)):
            regions[row, :, place] = 4 * code(word)
    return regions.view(len(reports), WIDTH, grid, grid)
