"""A fixed description of an image: colour, grey levels, layout and texture in some 200 numbers that no data shaped.

A network trained on a handful of sites may learn to know the sites. These measures have no weights to fit to them; only
the few numbers that standardise them, and the router's head, are learnt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmoe.errors import ModelError, unknown
from medmoe.types import Pyramid

# Below this grey level a place counts as dark surroundings.
_DARK = 0.05
_SCALES = 4


class Descriptor(nn.Module):
    """Describes an image by fixed measures, standardised over the training images: a pyramid of one level, 1×1.

    Attributes of the measures: grey levels are in [0, 1]; textures are logarithms of mean absolute derivatives, once
    as they are and once relative to the image's contrast, so that a change of gain moves a part of them only.

    Args:
        image_size: Side of the square input in pixels, at least 32.
        measures: Which of `MEASURES` are taken.
        mean: Mean by which the input was normalised, undone here.
        std: Standard deviation by which it was divided.

    Attributes:
        channels: How many numbers describe an image.
        strides: Pixels between places of the level: the whole image.
    """

    name = "descriptor"
    dropped = 0.5  # share of the standardised measures left out in training
    most = 4.0  # standard deviations at which an extreme measure is cut off

    def __init__(
        self,
        image_size: int = 96,
        *,
        measures: Sequence[str] | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        self.measures = tuple(MEASURES) if measures is None else tuple(measures)
        for measure in self.measures:
            if measure not in MEASURES:
                raise ModelError(unknown("measure", measure, MEASURES))
        if not self.measures or image_size < 32:
            raise ModelError(f"a descriptor of {image_size} pixels by {len(self.measures)} measures; at least 32 and 1")
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        count = self.describe(torch.zeros(1, 3, image_size, image_size)).shape[1]
        self.standard = nn.BatchNorm1d(count, affine=False)
        self.dropout = nn.Dropout(self.dropped)
        self.channels, self.strides = (count,), (image_size,)

    def describe(self, image: Tensor) -> Tensor:
        """Take the measures of [B, 3, H, W] normalised images: [B, F] float32."""
        pixels: Tensor = (image.float() * self.std + self.mean).clamp(0, 1)  # type: ignore[operator]
        return torch.cat([MEASURES[name](pixels) for name in self.measures], dim=1)

    def place(self, described: Tensor) -> Tensor:
        """Standardise measures [B, F], extreme ones cut off."""
        standard: Tensor = self.standard(described)
        kept: Tensor = self.dropout(standard.clamp(-self.most, self.most))
        return kept

    def forward(self, image: Tensor) -> Pyramid:
        """Describe [B, 3, H, W] images: one level [B, F, 1, 1]."""
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            described = self.describe(image)
        return Pyramid((self.place(described)[:, :, None, None],))


def colour(pixels: Tensor) -> Tensor:
    """Saturation, chroma, opponent colours and hues of [B, 3, H, W] in [0, 1], where there is light: [B, 20].

    Hues are weighted by chroma: grey has none, whether it is stored in one channel or three.
    """
    small = F.avg_pool2d(pixels, 4)
    red, green, blue = small.unbind(1)  # [B, h, w] each
    most, least = small.amax(1), small.amin(1)
    chroma = most - least
    lit = (small.mean(1) > 0.06).float()
    saturation, warm, cold = chroma / (most + 0.05), red - green, blue - (red + green) / 2
    hue = torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)
    level, high, low = _average(chroma, lit), _average(warm, lit), _average(cold, lit)
    values = [_average(saturation, lit), _spread(saturation, lit), level, high, _spread(warm, lit), low]
    values += [_spread(cold, lit), _average((chroma > 0.08).float()), chroma.flatten(1).quantile(0.9, dim=1)]
    for eighth in range(8):
        near = (2 * (hue - eighth * math.pi / 4).cos() - 1).clamp_min(0)
        values.append(_average(near * chroma))
    values += [high / (level + 0.02), low / (level + 0.02), _average(red, lit) - _average(blue, lit)]
    return torch.stack(values, dim=1)


def grey_levels(pixels: Tensor) -> Tensor:
    """Histograms as they are and stretched, quantiles, share of extreme levels, moments: [B, 32]."""
    grey = pixels.mean(1)
    half = F.avg_pool2d(grey[:, None], 2)[:, 0]
    flat = half.flatten(1)
    shares = torch.tensor([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98], device=pixels.device)
    quantiles = torch.quantile(flat[:, ::3], shares, dim=1).T  # [B, 7]
    low, high = quantiles[:, :1, None], quantiles[:, -1:, None]
    stretched = ((half - low) / (high - low).clamp_min(0.05)).clamp(0, 1)
    extremes = [grey < 0.02, grey > 0.97, (grey > 0.02) & (grey < 0.06)]
    lit = (half > 0.06).float()
    mean = _average(half, lit)
    away = half - mean[:, None, None]
    second, third, fourth = (_average(away**power, lit) for power in (2, 3, 4))
    moments = [mean, second.sqrt(), third / (second + 1e-4) ** 1.5, (fourth / (second + 1e-4) ** 2).clamp(max=15)]
    rest = torch.stack([*(_average(share.float()) for share in extremes), *moments], dim=1)
    return torch.cat([_histogram(half), _histogram(stretched), quantiles, rest], dim=1)


def layout(pixels: Tensor) -> Tensor:
    """Where it is light and dark (rings, bands), and how alike the image is to its mirror images: [B, 24]."""
    small = F.avg_pool2d(pixels.mean(1, keepdim=True), 4)
    grey = small[:, 0]
    relative = small / (small.mean((2, 3), keepdim=True) + 0.02)
    dark = (small < _DARK).float()
    line = torch.linspace(-1, 1, grey.shape[-1], device=pixels.device)
    radius = (line[:, None] ** 2 + line**2).sqrt()
    values = []
    for ring in range(5):
        inside = ((radius >= ring * 0.28) & (radius < (ring + 1) * 0.28)).float().expand_as(grey)
        values += [_average(relative[:, 0], inside), _average(dark[:, 0], inside)]
    rows, dark_rows = (F.adaptive_avg_pool2d(x, (4, 1)).flatten(1).unbind(1) for x in (relative, dark))
    left, middle, right = F.adaptive_avg_pool2d(relative, (1, 3)).flatten(1).unbind(1)
    values += [*rows, middle - (left + right) / 2, (left - right).abs(), *dark_rows]
    shape = grey - grey.mean((1, 2), keepdim=True)
    power = _average(shape**2) + 1e-4
    mirrored = (shape.flip(2), shape.flip(1), shape.flip(1).flip(2), shape.transpose(1, 2))
    values += [_average(shape * other) / power for other in mirrored]
    return torch.stack(values, dim=1)


def texture(pixels: Tensor) -> Tensor:
    """Derivatives, their sparsity, roughness against brightness, local binary patterns, at 4 scales: [B, 118]."""
    level = pixels.mean(1, keepdim=True)
    contrast = level.flatten(1).std(1).clamp_min(0.02)
    parts = []
    for scale in range(_SCALES):
        parts += [_derivatives(level[:, 0], contrast), _roughness(level)]
        if scale < 3:
            parts.append(_patterns(level[:, 0]))
        coarse = F.avg_pool2d(level, 2)
        back = F.interpolate(coarse, size=level.shape[-2:], mode="bilinear", align_corners=False)
        band = (level - back).pow(2).mean((1, 2, 3)) / contrast**2
        parts.append((band + 1e-4).log()[:, None])
        level = coarse
    return torch.cat(parts, dim=1)


MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "colour": colour,
    "grey_levels": grey_levels,
    "layout": layout,
    "texture": texture,
}


def _derivatives(grey: Tensor, contrast: Tensor) -> Tensor:
    """Measure first and second derivatives of [B, H, W] where it isn't dark: [B, 15]."""
    middle = grey[:, 1:-1, 1:-1]
    lit = (middle > 0.04).float()
    across, down = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2], grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    across_twice = grey[:, 1:-1, 2:] + grey[:, 1:-1, :-2] - 2 * middle
    down_twice = grey[:, 2:, 1:-1] + grey[:, :-2, 1:-1] - 2 * middle
    mixed = grey[:, 2:, 2:] + grey[:, :-2, :-2] - grey[:, 2:, :-2] - grey[:, :-2, 2:]
    laplacian = across_twice + down_twice
    bend, slope = laplacian.abs(), (across**2 + down**2 + 1e-6).sqrt()
    first = [_average(part.abs(), lit) for part in (across, down, across_twice, down_twice, mixed, laplacian)]
    values = [_log(part / contrast) for part in first]
    values += [_log(first[5]), _log(_average(slope, lit)), _log(first[0]) - _log(first[1])]
    values += [_log(first[2]) - _log(first[3])]
    values += [_log(_average(part**2, lit).sqrt()) - _log(_average(part, lit)) for part in (bend, slope)]
    values += [_average((bend < 0.01).float(), lit), _average((slope < 0.02).float(), lit)]
    values.append(_average(laplacian, lit) / (first[5] + 1e-3))
    return torch.stack(values, dim=1)


def _roughness(level: Tensor) -> Tensor:
    """Measure how the roughness of [B, 1, H, W] goes with the local brightness, relative to its mean: [B, 6].

    Speckle grows with the signal, film noise doesn't, and a window's ends have none.
    """
    grey, smooth = level[:, 0], F.avg_pool2d(level, 3, 1)[:, 0]
    middle = grey[:, 1:-1, 1:-1]
    around = grey[:, 1:-1, 2:] + grey[:, 1:-1, :-2] + grey[:, 2:, 1:-1] + grey[:, :-2, 1:-1]
    bend = (around - 4 * middle).abs()
    overall = _average(bend, (middle > 0.04).float()) + 2e-3
    values = []
    for low, high in ((0.04, 0.15), (0.15, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 1.01)):
        inside = ((smooth >= low) & (smooth < high)).float()
        mean = ((bend * inside).sum((1, 2)) + 1e-3) / (inside.sum((1, 2)) + 3)
        values.append((mean / overall).clamp(max=6))
    return torch.stack(values, dim=1)


def _patterns(grey: Tensor) -> Tensor:
    """Count rotation-invariant uniform local binary patterns of [B, H, W]: [B, 10] shares.

    Ojala, Pietikäinen, Mäenpää, 2002, https://doi.org/10.1109/TPAMI.2002.1017623. Only the order of neighbouring
    grey levels counts, so no monotonic change of brightness matters.
    """
    height, width = grey.shape[-2:]
    middle = grey[:, 1:-1, 1:-1]
    lit = (middle > 0.04).float()
    steps = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    around = torch.stack([grey[:, y : y + height - 2, x : x + width - 2] for y, x in steps], dim=1)
    above = around > middle[:, None] + 0.004  # [B, 8, H-2, W-2]
    count, changes = above.sum(1), (above != above.roll(1, dims=1)).sum(1)
    uniform = changes <= 2
    shares = [_average(((count == ones) & uniform).float(), lit) for ones in range(9)]
    return torch.stack([*shares, _average((~uniform).float(), lit)], dim=1)


def _average(values: Tensor, where: Tensor | None = None) -> Tensor:
    """Average [B, H, W] over places, weighted: [B]."""
    if where is None:
        return values.mean((1, 2))
    return (values * where).sum((1, 2)) / where.sum((1, 2)).clamp_min(1)


def _spread(values: Tensor, where: Tensor) -> Tensor:
    return (_average(values**2, where) - _average(values, where) ** 2).clamp_min(0).sqrt()


def _log(values: Tensor) -> Tensor:
    return (values + 1e-3).log()


def _histogram(values: Tensor, bins: int = 9) -> Tensor:
    """Share [B, H, W] of [0, 1] out to evenly spaced levels, each value to its two nearest: [B, bins]."""
    centres = torch.linspace(0, 1, bins, device=values.device)
    away = (values.flatten(1)[:, None] - centres[None, :, None]).abs()
    return (1 - away * (bins - 1)).clamp_min(0).mean(2)
