"""The low-rank expert: a few directions of the pyramid that one modality adds to what the shared expert sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmoe.errors import ConfigError
from medmoe.layers import Pointwise, to_grid
from medmoe.types import Pyramid


class LowRankExpert(nn.Module):
    """A special expert of rank r beside a shared one.

    Every level's features pass a map to D channels of rank r, V = Σ_l B_l A_l F(l), that starts at zero: the
    correction of LoRA (Hu et al., 2022, https://arxiv.org/abs/2106.09685), added to the shared expert's
    regions. It is linear, and weighs and costs a small part of a whole expert.

    Args:
        channels: C_l of every level of the pyramid, finest first.
        rank: r, of each level's map.
        width: D.
        grid: G.
        levels: Which levels it reads.

    Raises:
        ConfigError: If a level doesn't exist or the rank is less than 1.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        rank: int,
        width: int = 192,
        grid: int = 28,
        levels: Sequence[int] = (0, 1, 2, 3),
    ) -> None:
        super().__init__()
        if not levels or any(not 0 <= level < len(channels) for level in levels):
            raise ConfigError(f"expert levels {tuple(levels)}, allowed: 0 to {len(channels) - 1}, at least one")
        if rank < 1:
            raise ConfigError(f"expert rank {rank}, allowed: at least 1")
        self.levels, self.grid = tuple(levels), grid
        self.down = nn.ModuleList(Pointwise(channels[level], rank, bias=False) for level in self.levels)
        self.up = Pointwise(rank * len(self.levels), width, bias=False)
        nn.init.zeros_(self.up.weight)

    averages = True  # levels finer than the grid are averaged before anything else

    def forward(self, pyramid: Pyramid) -> Tensor:
        """Give the correction [B, D, G, G]."""
        parts = []
        for level, down in zip(self.levels, self.down, strict=True):
            feature = pyramid.levels[level]
            # the map commutes with averaging and interpolation: do it where there are fewer pixels
            finer = feature.shape[-1] > self.grid
            parts.append(down(to_grid(feature, self.grid)) if finer else to_grid(down(feature), self.grid))
        correction: Tensor = self.up(torch.cat(parts, dim=1))  # [B, L·r, G, G] → [B, D, G, G]
        return correction
