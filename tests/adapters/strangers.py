"""Tiny random models of other libraries in their own folders, and samples to judge them on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medmoe.types import Box, Sample

_TEXT = (
    "x ray showing there is a an of the no finding findings nodule mass effusion clear lungs left right upper lower "
    "small large image with and normal heart size opacity in seen evidence"
)
WORDS = _TEXT.split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = ["pleu", "##ral", "##s", ".", ",", "!", "-", *(f"p{i}" for i in range(40))]
LABELS = ("mass", "nodule")


def write_vocabulary(folder: Path) -> None:
    """Write a lower-casing BERT tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS, *PIECES]) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def vocabulary_size() -> int:
    return len(SPECIAL) + len(WORDS) + len(PIECES)


class Listed:
    """A source of samples in memory."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def facts(self, index: int) -> Sample:
        return self.samples[index]


def made(count: int = 24, *, shape: tuple[int, int] = (45, 37), boxes: bool = False) -> Listed:
    """Give samples of two findings, grey and coloured in turn, each with its own report."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(count):
        label = LABELS[index % 2]
        size = shape if index % 3 else (*shape, 3)
        image = rng.integers(0, 256, size, dtype=np.uint8)
        image[: shape[0] // 2] //= 1 + index % 5
        samples.append(
            Sample(
                key=f"row:{index}",
                image=image,
                report=f"There is a {label} p{index}. Heart size normal.",
                modality="xray",
                labels=(label,),
                boxes=(Box(label, 0.3, 0.3, 0.7, 0.6, phrase=label),) if boxes else None,
                patient=f"p{index}",
                source="made",
            )
        )
    return Listed(samples)
