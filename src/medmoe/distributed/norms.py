"""Batch norms whose statistics are those of the images of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medmoe.distributed.world import current
from medmoe.errors import ConfigError


def over_all(model: nn.Module) -> nn.Module:
    """Let the batch norms of a model take their statistics from the images of all processes, in place.

    Raises:
        ConfigError: For one in an expert, whose images a process may have none of.
    """
    if current().size == 1:
        return model
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if name.startswith("experts"):
                raise ConfigError(
                    f"{name} is a BatchNorm in an expert, whose images one process may have none of",
                    where="model.experts.norm",
                    remedy="--set model.experts.norm=group",
                )
            module.forward = _NormOverAll(module)  # type: ignore[assignment,method-assign]
    return model


class _NormOverAll:
    """The forward pass of a batch norm whose statistics are those of all processes' images."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        self.norm, self.plain = norm, type(norm).forward

    def __call__(self, value: Tensor) -> Tensor:
        norm = self.norm
        if not norm.training:
            return self.plain(norm, value)
        axes = [axis for axis in range(value.ndim) if axis != 1]
        shape = [1, -1, *[1] * (value.ndim - 2)]
        wide = value.double() if value.dtype == torch.float64 else value.float()
        count = wide.new_tensor([float(wide.numel() // wide.shape[1])])
        mean_parts = _Summed.apply(torch.cat([wide.sum(axes), count]))
        total = mean_parts[-1].detach()
        mean = mean_parts[:-1] / total
        centred = wide - mean.view(shape)
        variance = _Summed.apply(centred.square().sum(axes)) / total
        self._remember(mean.detach(), variance.detach(), total)
        normed = centred * (variance + norm.eps).rsqrt().view(shape)
        if norm.affine:
            normed = normed * norm.weight.view(shape) + norm.bias.view(shape)
        own: Tensor = normed.to(value.dtype)
        return own

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics, as the norm itself does: the variance without bias."""
        norm = self.norm
        if norm.running_mean is None or norm.running_var is None:
            return
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        share = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked or 1)
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
        norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), share)


class _Summed(torch.autograd.Function):
    """The sum of a tensor over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total
