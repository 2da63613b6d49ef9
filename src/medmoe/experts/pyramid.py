"""The pyramid expert: fuses the scales of one image into a grid of region features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmoe.errors import ConfigError, unknown
from medmoe.layers import Pointwise, norm2d, to_grid, wide
from medmoe.types import Pyramid


def _dense(width: int, kernel: int) -> nn.Module:
    if kernel == 1:
        return Pointwise(width, width, bias=False)
    return nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)


def _separable(width: int, kernel: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False),
        Pointwise(width, width, bias=False),
    )


CONVOLUTIONS = {"dense": _dense, "separable": _separable}


def flattened(feature: Tensor, grid: int) -> Tensor:
    """Bring [B, C, H, W] to [B, C, grid, grid] as if an image were one row of pixels: places get mixed up.

    The code that came with Chopra et al., 2025, does so. It is here to measure what that costs.
    """
    row = F.interpolate(feature.flatten(2), size=grid * grid, mode="linear", align_corners=False)
    return row.reshape(*row.shape[:2], grid, grid)


INTERPOLATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {"grid": to_grid, "flattened": flattened}


class PyramidExpert(nn.Module):
    """One expert of MedMoE (Chopra et al., 2025, https://arxiv.org/abs/2506.08356).

    Each chosen level is projected to D channels and brought to a G×G grid; a block of convolutions,
    norms and ReLUs, shared by the levels, gives F(l); at every location a softmax β over the levels
    weighs them: V = Σ_l β(l) ⊙ F(l). Which levels it reads and the kernel's size bound how much of
    the image a region can see, and so whether words point at the right place.

    Args:
        channels: C_l of every level of the pyramid, finest first.
        width: D.
        grid: G.
        levels: Which levels it reads.
        kernel: Side of the convolutions, odd.
        layers: How many convolution layers.
        conv: `dense` (the paper's) or `separable` (depthwise then 1×1: a ninth of the cost at kernel 3).
        norm: `group` or `batch`.
        interpolation: How levels are brought to the grid: `grid`, in two dimensions, or `flattened`, along one row of
            pixels, a defect to compare with.
        zero: Start as a constant zero, so that adding it to another expert changes nothing at first.

    Raises:
        ConfigError: If a level doesn't exist, the kernel is even or a name is unknown.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        width: int = 192,
        grid: int = 28,
        levels: Sequence[int] = (0, 1, 2, 3),
        kernel: int = 3,
        layers: int = 3,
        conv: str = "separable",
        norm: str = "group",
        interpolation: str = "grid",
        zero: bool = False,
    ) -> None:
        super().__init__()
        if not levels or any(not 0 <= level < len(channels) for level in levels):
            raise ConfigError(f"expert levels {tuple(levels)}, allowed: 0 to {len(channels) - 1}, at least one")
        if kernel % 2 == 0:
            raise ConfigError(f"expert kernel {kernel} is even, allowed: 1, 3, 5, …")
        if conv not in CONVOLUTIONS:
            raise ConfigError(unknown("expert convolution", conv, CONVOLUTIONS))
        if interpolation not in INTERPOLATIONS:
            raise ConfigError(unknown("expert interpolation", interpolation, INTERPOLATIONS))
        self.resample = INTERPOLATIONS[interpolation]
        self.levels, self.grid = tuple(levels), grid
        self.project = nn.ModuleList(Pointwise(channels[level], width) for level in self.levels)
        self.block = nn.Sequential(
            *(nn.Sequential(CONVOLUTIONS[conv](width, kernel), norm2d(norm, width), nn.ReLU()) for _ in range(layers))
        )
        self.scale = Pointwise(width * len(self.levels), len(self.levels))
        self.out = Pointwise(width, width)
        if zero:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def features(self, pyramid: Pyramid) -> tuple[Tensor, ...]:
        """Give F(l) of every level it reads, L tensors [B, D, G, G]."""
        grids = []
        for level, project in zip(self.levels, self.project, strict=True):
            feature = pyramid.levels[level]
            # a 1×1 projection commutes with averaging and interpolation: do it where there are fewer pixels
            if feature.shape[-1] > self.grid:
                grids.append(project(self.resample(feature, self.grid)))
            else:
                grids.append(self.resample(project(feature), self.grid))
        stacked = self.block(torch.cat(grids))  # [L·B, D, G, G]: one pass through the shared block
        parts: tuple[Tensor, ...] = stacked.chunk(len(grids))
        return parts

    def scale_attention(self, features: Sequence[Tensor]) -> Tensor:
        """Give β [B, L, G, G] of every F(l) [B, D, G, G]: sums to one over the levels at every location."""
        logits: Tensor = self.scale(torch.cat(tuple(features), dim=1))
        return wide(logits).softmax(dim=1)

    def forward(self, pyramid: Pyramid) -> Tensor:
        """Fuse the levels into regions [B, D, G, G]."""
        features = self.features(pyramid)
        beta = self.scale_attention(features).to(features[0].dtype)
        fused = torch.stack([beta[:, [level]] * feature for level, feature in enumerate(features)]).sum(0)
        regions: Tensor = self.out(fused)
        return regions
