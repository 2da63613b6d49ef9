"""Small layers that more than one component uses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmoe.errors import ConfigError, unknown
from medmoe.products import linear


def _group_norm(channels: int) -> nn.Module:
    groups = next(g for g in (8, 6, 4, 3, 2, 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of each place by itself (Liu et al., 2022, https://arxiv.org/abs/2201.03545)."""

    def forward(self, feature: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        return super().forward(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


# GroupNorm sees one image at a time, so an image's features don't depend on its group's size or order, and gradient
# caching is exact; but its statistics carry what is in one place to all others. LayerNorm sees one place at a
# time, and nothing leaks. BatchNorm is the MedMoE paper's; at inference it sees one place at a time too.
NORMS: dict[str, Callable[[int], nn.Module]] = {"group": _group_norm, "layer": LayerNorm2d, "batch": nn.BatchNorm2d}


def norm2d(name: str, channels: int) -> nn.Module:
    """Make a normalisation of [B, C, H, W] by name.

    Raises:
        ConfigError: If the name isn't in `NORMS`.
    """
    if name not in NORMS:
        raise ConfigError(unknown("norm", name, NORMS))
    return NORMS[name](channels)


class Pointwise(nn.Conv2d):
    """A 1×1 convolution as one matrix product: the same weights and values, half the time on a CPU.

    Its result has the channels innermost in memory, so that the next one multiplies it where it lies.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, feature: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, outputs, H, W]."""
        rows = feature.permute(0, 2, 3, 1)  # [B, H, W, C]
        return linear(rows, self.weight[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)


def wide(value: Tensor) -> Tensor:
    """Give float32, in which what a half would lose is taken; float64 stays."""
    return value if value.dtype == torch.float64 else value.float()


class Linear(nn.Linear):
    """A linear layer that takes the faster matrix product (`medmoe.products`): same weights, same values."""

    def forward(self, rows: Tensor) -> Tensor:
        """Map [..., inputs] to [..., outputs]."""
        return linear(rows, self.weight, self.bias)


def quicken(module: nn.Module, *, quick: bool = True) -> nn.Module:
    """Let the linear layers within a module take the faster product, or torch's again; nothing else changes."""
    before, after = (nn.Linear, Linear) if quick else (Linear, nn.Linear)
    for part in module.modules():
        if type(part) is before:
            part.__class__ = after
    return module


def to_grid(feature: Tensor, grid: int) -> Tensor:
    """Bring [B, C, H, W] to [B, C, grid, grid]: averaged where finer, bilinear where coarser."""
    height, width = feature.shape[-2:]
    if (height, width) == (grid, grid):
        return feature
    if height >= grid and width >= grid:
        return F.adaptive_avg_pool2d(feature, grid)
    return F.interpolate(feature, size=(grid, grid), mode="bilinear", align_corners=False)


def readable(value: Tensor) -> bool:
    """Whether its numbers can be looked at without waiting for a device.

    Where they can, what is absent is left out. Elsewhere shapes don't hang on values, and what is absent is masked.
    """
    return value.device.type == "cpu" and not torch.compiler.is_compiling()


def without_autocast(value: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off for a tensor's device, where the device has it."""
    kind = value.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
