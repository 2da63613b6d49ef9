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
    if feature.shape[-2:] == (grid, grid):
        return feature
    row = F.interpolate(feature.flatten(2), size=grid * grid, mode="linear", align_corners=False)
    return row.reshape(*row.shape[:2], grid, grid)


INTERPOLATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {"grid": to_grid, "flattened": flattened}
UPSAMPLE = ("first", "last")


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
        upsample: When levels coarser than the grid are brought to it: `first`, before the block (the paper's), or
            `last`, after it. Swin-T's two coarse levels then pass the block at 14×14 and 7×7 places in place of 28×28:
            two thirds of the expert's multiply-adds, and their kernels reach further.
        zero: Start as a constant zero, so that adding it to another expert changes nothing at first.

    Raises:
        ConfigError: If a level doesn't exist, the kernel is even, a name is unknown, or batch norm is asked for with
            `upsample="last"`, where levels would each have batch statistics of their own.
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
        upsample: str = "first",
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
        if upsample not in UPSAMPLE:
            raise ConfigError(unknown("expert upsample", upsample, UPSAMPLE))
        if upsample == "last" and norm == "batch":
            raise ConfigError("expert upsample=last with norm=batch, allowed: norm=group or layer, or upsample=first")
        self.resample = INTERPOLATIONS[interpolation]
        self.levels, self.grid, self.upsample = tuple(levels), grid, upsample
        self.averages = self.resample is to_grid  # levels finer than the grid, before anything else
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
        features = [
            self._enter(pyramid.levels[level], project)
            for level, project in zip(self.levels, self.project, strict=True)
        ]
        of_size: dict[tuple[int, ...], list[int]] = {}
        for place, feature in enumerate(features):
            of_size.setdefault(tuple(feature.shape[-2:]), []).append(place)
        for places in of_size.values():  # levels of one size pass the shared block together
            alike = [features[place] for place in places]
            passed = self.block(torch.cat(alike) if len(alike) > 1 else alike[0])  # [n·B, D, ·, ·]
            for place, feature in zip(places, passed.chunk(len(places)), strict=True):
                features[place] = self.resample(feature, self.grid)
        return tuple(features)

    def _enter(self, level: Tensor, project: nn.Module) -> Tensor:
        """Bring [B, C_l, H_l, W_l] to D channels and the size at which it passes the block."""
        # a 1×1 projection commutes with averaging and interpolation: do it where there are fewer pixels
        if level.shape[-1] > self.grid:
            mapped: Tensor = project(self.resample(level, self.grid))
            return mapped
        mapped = project(level)
        several = mapped.shape[-2] * mapped.shape[-1] > 1  # of a single place a group norm may have a single value
        return mapped if self.upsample == "last" and several else self.resample(mapped, self.grid)

    def scale_attention(self, features: Sequence[Tensor]) -> Tensor:
        """Give β [B, L, G, G] of every F(l) [B, D, G, G]: sums to one over the levels at every location."""
        # [L, D] for each level, so that the features needn't be copied beside each other
        weights = self.scale.weight[:, :, 0, 0].chunk(len(features), dim=1)
        parts = [F.linear(one.permute(0, 2, 3, 1), weight) for one, weight in zip(features, weights, strict=True)]
        assert self.scale.bias is not None
        logits = wide(self.scale.bias)
        for part in parts:
            logits = logits + wide(part)
        return logits.softmax(dim=-1).permute(0, 3, 1, 2)  # [B, G, G, L] → [B, L, G, G]

    def forward(self, pyramid: Pyramid) -> Tensor:
        """Fuse the levels into regions [B, D, G, G]."""
        features = self.features(pyramid)
        betas = self.scale_attention(features).to(features[0].dtype).chunk(len(features), dim=1)  # L of [B, 1, G, G]
        fused = betas[0] * features[0]
        for beta, feature in zip(betas[1:], features[1:], strict=True):
            fused = torch.addcmul(fused, beta, feature)
        regions: Tensor = self.out(fused)
        return regions
