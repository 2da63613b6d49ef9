"""Gradient caching as published: embed every part, take the gradient by the embeddings, embed every part again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from medmoe.types import Batch, Loss, Output, over_tensors, tensors_of


def two_pass(model: nn.Module, batch: Batch, parts: Sequence[Batch], loss_of: Callable[[Output, Batch], Loss]) -> None:
    """Add a batch's gradients to a model's parameters (Gao et al., 2021), each part run twice from end to end.

    Args:
        model: From a batch to an output, without random layers.
        batch: B samples.
        parts: The same samples, in order.
        loss_of: Gives the loss of an output and its batch.
    """
    with torch.no_grad():
        said: list[Output] = [model(part) for part in parts]
    joined = iter([_join(values) for values in zip(*(tensors_of(output) for output in said), strict=True)])
    leaves = over_tensors(said[0], lambda _: next(joined))
    loss_of(leaves, batch).total.backward()  # type: ignore[no-untyped-call]
    gradients = [leaf.grad for leaf in tensors_of(leaves)]
    start = 0
    for part in parts:
        end = start + len(part.keys)
        output: Output = model(part)
        # the gradient by a part's tensors, as a sum whose gradient it is
        surrogate = output.logit_scale.new_zeros(())
        for value, gradient in zip(tensors_of(output), gradients, strict=True):
            if gradient is None:
                continue
            if value.ndim:
                surrogate = surrogate + (value * gradient[start:end]).sum()
            elif start == 0:
                surrogate = surrogate + value * gradient
        surrogate.backward()  # type: ignore[no-untyped-call]
        start = end


def _join(values: Sequence[torch.Tensor]) -> torch.Tensor:
    joined = torch.cat(list(values)) if values[0].ndim else values[0].clone()
    return joined.requires_grad_(joined.is_floating_point())
