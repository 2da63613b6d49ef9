"""Gradients summed over the processes; an expert that nobody chose has none, here or anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn

from medmoe.distributed.sharding import in_parts
from medmoe.distributed.world import current

BUCKET = 1 << 23  # numbers summed in one message: 32 MiB in float32


def sum_gradients(model: nn.Module) -> None:
    """Sum the gradients of every parameter over the processes.

    A parameter that has one in some process only counts as zero in the others; one that has none anywhere is left
    without.
    """
    if current().size == 1:
        return
    trained = [one for one in model.parameters() if one.requires_grad and not in_parts(one)]
    if not trained:
        return
    present = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
    dist.all_reduce(present, op=dist.ReduceOp.MAX)
    held = [p for p, there in zip(trained, present.tolist(), strict=True) if there]
    for parameter in held:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets(held):
        gradients = [p.grad for p in bucket if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Group parameters of one type, in order, up to `BUCKET` numbers."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and (size + parameter.numel() > BUCKET or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
