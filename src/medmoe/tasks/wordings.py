"""Prompt ensembles in the joint space: each class's wordings, encoded and averaged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medmoe.tasks.base import Context
from medmoe.tasks.classes import Classes
from medmoe.tasks.prompts import Prompts
from medmoe.types import TextEmbedding


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
