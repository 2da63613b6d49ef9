"""Prompt ensembles in the joint space: each class's wordings, encoded and averaged."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from medmoe.tasks.base import Context, Evidence
from medmoe.tasks.classes import Classes, class_sets, labels_of, true_class
from medmoe.tasks.prompts import NO_FINDING, Prompts
from medmoe.types import TextEmbedding


def worded_sets(evidence: Evidence, prompts: Prompts, *, fewest: int) -> tuple[list[Classes], list[dict[str, Any]]]:
    """Find the classes of each data set and modality, without those that the prompts can't word.

    Returns:
        The classes; and of each data set that lost some, which, with how many images show each.

    Raises:
        ConfigError: If nothing is left to tell apart.
    """
    every = class_sets(evidence, fewest=fewest)
    kept, lost = [], []
    for own in every:
        names = dict.fromkeys((*own.names, *own.findings))
        missing = [name for name in names if not prompts.can_word(name, own.modality, own.source)]
        kept.append(_without(own, missing, evidence, prompts) if missing else own)
        if missing:
            shown = labels_of(evidence, own.rows)
            counts = {name: sum(name in (of or (NO_FINDING,)) for of in shown) for name in missing}
            lost.append({"source": own.source, "modality": own.modality, "classes": counts})
    if lost and not any(len(own.names) > 1 or own.findings for own in kept):
        first = next(own for own in every if len(own.names) > 1 or own.findings)
        prompts.check((*first.names, NO_FINDING), first.modality, first.source)
    return kept, lost


def _without(own: Classes, missing: Collection[str], evidence: Evidence, prompts: Prompts) -> Classes:
    names = tuple(name for name in own.names if name not in missing)
    findings = tuple(name for name in own.findings if name not in missing)
    if len(findings) == 1 and not prompts.can_word(NO_FINDING, own.modality, own.source):
        findings = ()  # nothing to hold it against
    return replace(own, names=names, findings=findings, true=true_class(names, labels_of(evidence, own.rows)))


def encode_wordings(
    own: Classes, names: Sequence[str], prompts: Prompts, context: Context
) -> tuple[TextEmbedding, Tensor]:
    """Encode the wordings of names as a data set and modality has them.

    Returns:
        All wordings in the joint space, and [wordings] which name each is of.

    Raises:
        ConfigError: If some names can't be worded.
    """
    prompts.check(names, own.modality, own.source)
    wordings = [prompts.of(name, own.modality, own.source) for name in names]
    text = context.encode_text([wording for ensemble in wordings for wording in ensemble])
    return text, torch.tensor([index for index, ensemble in enumerate(wordings) for _ in ensemble])


def class_embeddings(own: Classes, names: Sequence[str], prompts: Prompts, context: Context) -> Tensor:
    """Give the ensemble of each name: [names, E] float64, unit length."""
    text, owner = encode_wordings(own, names, prompts, context)
    return ensembles(text, owner, len(names))


def ensembles(text: TextEmbedding, owner: Tensor, count: int) -> Tensor:
    """Average each class's unit-length prompt embeddings and bring the mean to unit length: [count, E] float64."""
    unit = torch.nn.functional.normalize(text.embed.double(), dim=1)
    total = torch.zeros(count, unit.shape[1], dtype=unit.dtype).index_add(0, owner, unit)
    return torch.nn.functional.normalize(total, dim=1)
