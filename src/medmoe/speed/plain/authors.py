"""The vision path as the code published beside MedMoE runs it: every expert on every image, at 56×56×768.

Written from its description (Chopra et al., 2025, https://arxiv.org/abs/2506.08356, and the sizes of its code): each
of six experts projects Swin-T's four levels to 768 channels, brings them to 56×56 places, flattened, along one row; a
scale attention sums the levels up, a block of 1×1 convolutions follows, and the six results are added, weighed by a
router.

The description gives 24.8·10⁹ multiply-adds an image for the experts, beside Swin-T's 4.5. Ours are 24.86·10⁹, 0.2 %
more: six times four projections at each level's own size (2.60), two 1×1 convolutions from 768 to 768 channels at
56×56 (22.20), and the scale attention (0.06). A block run on every level before they are summed would make 91.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, WIDTH, EXPERTS = 56, 768, 6


class DenseExpert(nn.Module):
    """One of the six.

    Args:
        channels: C_l of every level, finest first.
        width: Channels of what it gives.
        side: Places along an edge of what it gives.
    """

    def __init__(self, channels: Sequence[int], *, width: int = WIDTH, side: int = SIDE) -> None:
        super().__init__()
        self.side = side
        self.project = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.scale = nn.Conv2d(width, 1, 1)
        layers = [(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU()) for _ in range(2)]
        self.block = nn.Sequential(*(part for layer in layers for part in layer))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Fuse levels [B, C_l, H_l, W_l] into [B, width, side, side]."""
        rows = [project(level).flatten(2) for project, level in zip(self.project, levels, strict=True)]
        flat = [F.interpolate(row, size=self.side**2, mode="linear", align_corners=False) for row in rows]
        grids = [row.view(*row.shape[:2], self.side, self.side) for row in flat]
        beta = torch.softmax(torch.stack([self.scale(grid) for grid in grids], dim=1), dim=1)  # [B, L, 1, side, side]
        fused = (beta * torch.stack(grids, dim=1)).sum(1)
        made: Tensor = self.block(fused)
        return made


class DenseMixture(nn.Module):
    """Six such experts, all run on every image, weighed by the softmax of a router that reads the last level's mean.

    Args:
        channels: C_l of every level, finest first.
        experts: K.
        width: Channels of what it gives.
        side: Places along an edge of what it gives.
    """

    def __init__(
        self, channels: Sequence[int], *, experts: int = EXPERTS, width: int = WIDTH, side: int = SIDE
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(DenseExpert(channels, width=width, side=side) for _ in range(experts))
        self.router = nn.Sequential(nn.Linear(channels[-1], 256), nn.ReLU(), nn.Linear(256, experts))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Turn levels [B, C_l, H_l, W_l] into local features [B, width, side, side]."""
        weight = self.router(levels[-1].mean(dim=(2, 3))).softmax(dim=1)  # [B, K]
        every = torch.stack([expert(levels) for expert in self.experts], dim=1)  # [B, K, width, side, side]
        mixed: Tensor = (weight[:, :, None, None, None] * every).sum(1)
        return mixed
