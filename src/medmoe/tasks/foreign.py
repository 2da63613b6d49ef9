"""Images of modalities that the model lacks: which they are, and evidence without them.

They are what a gate should turn away. Every other figure is of the modalities that the model knows, so that a task is
shown them only when it says so, by a class attribute `sees_foreign = True`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from medmoe.tasks.base import Again, Change, Context, Evidence


def is_foreign(modality: str | None, modalities: Sequence[str]) -> bool:
    """Tell whether a modality is known and none of the model's; a model without modalities takes any.

    >>> is_foreign("pet", ("ct", "mri")), is_foreign(None, ("ct",)), is_foreign("pet", ())
    (True, False, False)
    """
    return modality is not None and len(modalities) > 0 and modality not in modalities


def count_foreign(evidence: Evidence) -> dict[str, int]:
    """Count the images of each modality that the model lacks, the commonest first."""
    counts = Counter(str(s.modality) for s in evidence.samples if is_foreign(s.modality, evidence.modalities))
    return dict(counts.most_common())


def without_foreign(evidence: Evidence) -> Evidence:
    """Give evidence without images of modalities that the model lacks; the evidence itself where there are none."""
    kept = [row for row, s in enumerate(evidence.samples) if not is_foreign(s.modality, evidence.modalities)]
    return evidence if len(kept) == len(evidence) else take(evidence, kept)


def take(evidence: Evidence, rows: Sequence[int]) -> Evidence:
    """Give these rows of evidence, in this order."""
    index = torch.as_tensor(list(rows), dtype=torch.int64)

    def own(value: Tensor) -> Tensor:
        return value[index]

    every = evidence.candidate_regions
    return replace(
        evidence,
        image_embed=own(evidence.image_embed),
        regions=own(evidence.regions),
        image_logits=own(evidence.image_logits),
        has_report=own(evidence.has_report),
        text_embed=own(evidence.text_embed),
        words=own(evidence.words),
        word_mask=own(evidence.word_mask),
        text_logits=own(evidence.text_logits),
        samples=tuple(evidence.samples[row] for row in rows),
        candidate_regions=None if every is None else every[:, index],
        features={name: own(feature) for name, feature in evidence.features.items()},
    )


def without_foreign_in(context: Context) -> Context:
    """Give a context whose fit, tune and repeated evidence hold no image of a modality that the model lacks."""
    return replace(fit_and_tune_known(context), again=None if context.again is None else _known_again(context.again))


def fit_and_tune_known(context: Context) -> Context:
    """Give a context with nothing foreign to fit or choose on; what is judged again stays whole."""
    fit, tune = (None if own is None else without_foreign(own) for own in (context.fit, context.tune))
    return replace(context, fit=fit, tune=tune)


def _known_again(again: Again) -> Again:
    def known(change: Change, *, controls: bool = False) -> Evidence:
        return without_foreign(again(change, controls=controls))

    return known
