"""How cost grows: time of the expert stage and of the local loss over each letter, with fitted exponents, and drawn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from medmoe.experts.moe import MixtureOfExperts
from medmoe.experts.pyramid import PyramidExpert
from medmoe.objectives import word_region_similarity
from medmoe.report.markup import Html, tag
from medmoe.speed.item import Call
from medmoe.speed.measure import interleave, quartiles
from medmoe.types import Pyramid, Routing

CHANNELS, SIDES = (48, 96, 192, 384), (56, 28, 14, 7)
# part → (the sizes it has where they don't vary, letter → sizes it is run at)
EXPERTS, LOCAL = "expert stage", "local loss"
BASE: dict[str, dict[str, int]] = {
    EXPERTS: {"B": 16, "G": 14, "D": 96, "K": 4},
    LOCAL: {"B": 16, "G": 14, "D": 128, "N": 16},
}
VARIED: dict[str, dict[str, tuple[int, ...]]] = {
    EXPERTS: {"B": (8, 16, 32, 64), "G": (7, 14, 28, 56), "D": (48, 96, 192, 384), "K": (1, 2, 4, 8)},
    LOCAL: {"B": (8, 16, 32, 64), "G": (7, 14, 28), "D": (64, 128, 256, 512), "N": (8, 16, 32, 64)},
}


# both, so small that a test can run them
SMALL: dict[str, Any] = {
    "base": {EXPERTS: {"B": 2, "G": 4, "D": 8, "K": 2}, LOCAL: {"B": 2, "G": 3, "D": 8, "N": 4}},
    "varied": {
        EXPERTS: {"B": (2, 4), "G": (4, 7), "D": (8, 16), "K": (1, 2)},
        LOCAL: {"B": (2, 4), "G": (3, 4), "D": (8, 16), "N": (4, 8)},
    },
}


@dataclass(frozen=True, slots=True)
class Curve:
    """Time of one part over one letter, forward and backward.

    Attributes:
        part: `expert stage` or `local loss`.
        letter: What varies: B images, G regions along an edge, D channels, K experts, N words.
        sizes: What it is run at.
        seconds: Median time at each size.
        exponent: p of the least-squares line log seconds = p · log size + constant.
        error: Its standard error; None with fewer than three sizes.
    """

    part: str
    letter: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    exponent: float
    error: float | None


@dataclass(frozen=True, slots=True)
class Scaling:
    """All curves, and what was held fixed.

    Attributes:
        base: Part → letter → its size where another one varies.
        curves: A curve for each part and letter.
        rounds: Interleaved repetitions that each time is the median of.
        device: Where it ran.
    """

    base: Mapping[str, Mapping[str, int]]
    curves: tuple[Curve, ...]
    rounds: int
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return dataclasses.asdict(self)


def scaling(
    *,
    rounds: int = 5,
    device: str = "cpu",
    base: Mapping[str, Mapping[str, int]] = BASE,
    varied: Mapping[str, Mapping[str, Sequence[int]]] = VARIED,
) -> Scaling:
    """Time every curve; the sizes of a curve are run in turn.

    Args:
        rounds: Repetitions of each size.
        device: `cpu` or `cuda`.
        base: Part → letter → its size where another one varies.
        varied: Part → letter → the sizes it is run at.

    Returns:
        Times and exponents; less than two minutes on a CPU core.
    """
    curves = []
    for part, letters in varied.items():
        for letter, sizes in letters.items():
            calls = {str(size): _call(part, {**base[part], letter: size}, device) for size in sizes}
            times = interleave(calls, rounds=rounds, device=device)
            seconds = [quartiles(times[str(size)])[0] for size in sizes]
            curves.append(Curve(part, letter, tuple(sizes), tuple(seconds), *fit(sizes, seconds)))
    return Scaling({part: dict(base[part]) for part in varied}, tuple(curves), rounds, device)


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float | None]:
    """Fit the exponent of a power law by least squares on logarithms.

    Returns:
        The exponent and its standard error, None with fewer than three points.

    >>> fit([1, 2, 4], [3.0, 12.0, 48.0])
    (2.0, 0.0)
    """
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(seconds, float))
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    if len(x) < 3:
        return round(slope, 4), None
    left = y - y.mean() - slope * x
    return round(slope, 4), round(math.sqrt(float(left @ left) / (len(x) - 2) / float(x @ x)), 4)


def _call(part: str, sizes: Mapping[str, int], device: str) -> Call:
    draw = torch.Generator().manual_seed(0)
    batch, grid, width = sizes["B"], sizes["G"], sizes["D"]
    if part == EXPERTS:
        count = sizes["K"]
        levels = (torch.randn(batch, s, s, c, generator=draw) for c, s in zip(CHANNELS, SIDES, strict=True))
        pyramid = Pyramid(tuple(level.to(device).permute(0, 3, 1, 2).requires_grad_() for level in levels))
        made = [PyramidExpert(CHANNELS, width=width, grid=grid) for _ in range(count)]
        experts = MixtureOfExperts([], made).to(device)
        chosen = (torch.arange(batch) % count)[:, None].to(device)
        route = Routing(torch.zeros(batch, count, device=device), chosen, torch.ones(chosen.shape, device=device))
        return partial(_experts, experts, pyramid, route)
    regions = (torch.randn(batch, width, grid * grid, generator=draw) / width**0.5).to(device).requires_grad_()
    words = (torch.randn(batch, sizes["N"], width, generator=draw) / width**0.5).to(device).requires_grad_()
    mask = torch.ones(batch, sizes["N"], dtype=torch.bool, device=device)
    return partial(_local, regions, words, mask)


def _experts(experts: MixtureOfExperts, pyramid: Pyramid, route: Routing) -> None:
    experts.zero_grad()
    experts(pyramid, route).square().mean().backward()


def _local(regions: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> None:
    word_region_similarity(regions, words, mask, chunk=4).sum().backward()  # type: ignore[no-untyped-call]


_PANEL, _HEIGHT, _LEFT, _TOP, _BOTTOM = 380, 330, 52, 34, 44
_COLOURS = {"B": "#2563a8", "G": "#c2571a", "D": "#2d7d46", "K": "#8a3b8f", "N": "#8a3b8f"}


def picture(result: Scaling) -> str:
    """Draw every curve into a panel a part, both axes logarithmic and relative to the curve's smallest size.

    Returns:
        A file of SVG that stands by itself.
    """
    parts = list(dict.fromkeys(curve.part for curve in result.curves))
    panels = [
        tag("g", *_panel(part, result), transform=f"translate({index * _PANEL} 0)") for index, part in enumerate(parts)
    ]
    words = "; ".join(f"{curve.part}, {curve.letter}: exponent {curve.exponent:.2f}" for curve in result.curves)
    width = _PANEL * len(parts)
    sheet = tag("rect", width=width, height=_HEIGHT, fill="#ffffff")
    return str(
        tag(
            "svg",
            tag("title", f"How time grows: {words}"),
            sheet,
            *panels,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {width} {_HEIGHT}",
            font_family="system-ui, sans-serif",
            font_size=12,
            fill="#222222",
        )
    )


def _panel(part: str, result: Scaling) -> list[Html]:
    curves = [curve for curve in result.curves if curve.part == part]
    lines = {
        curve.letter: [
            (math.log2(size / curve.sizes[0]), math.log2(second / curve.seconds[0]))
            for size, second in zip(curve.sizes, curve.seconds, strict=True)
        ]
        for curve in curves
    }
    points = [point for line in lines.values() for point in line]
    right = max(1, math.ceil(max(x for x, _ in points)))
    low, high = math.floor(min(0.0, *(y for _, y in points))), max(right, math.ceil(max(y for _, y in points)))

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + x / right * (_PANEL - _LEFT - 16)
        return round(across, 1), round(_TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    fixed = ", ".join(f"{letter} {size}" for letter, size in result.base[part].items())
    drawn = [tag("text", f"{part} ({fixed})", x=_LEFT, y=18, font_weight="bold")]
    for step in range(low, high + 1):
        (x1, y1), (x2, _) = at(0, step), at(right, step)
        drawn.append(tag("line", x1=x1, y1=y1, x2=x2, y2=y1, stroke="#dddddd"))
        drawn.append(tag("text", f"×{2.0**step:g}", x=x1 - 6, y=y1 + 4, text_anchor="end"))
    for step in range(right + 1):
        drawn.append(tag("text", f"×{2**step}", x=at(step, low)[0], y=_HEIGHT - _BOTTOM + 16, text_anchor="middle"))
    middle = (_LEFT + _PANEL - 16) / 2
    drawn.append(tag("text", "size, times the smallest", x=middle, y=_HEIGHT - 8, text_anchor="middle"))
    (x1, y1), (x2, y2) = at(0, 0), at(right, right)
    drawn.append(tag("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke="#888888", stroke_dasharray="4 4"))
    for place, curve in enumerate(curves):
        drawn += _line(curve, [at(*point) for point in lines[curve.letter]], _TOP + 16 + 16 * place)
    return drawn


def _line(curve: Curve, points: Sequence[tuple[float, float]], legend: float) -> list[Html]:
    colour = _COLOURS[curve.letter]
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    spread = "" if curve.error is None else f" ± {curve.error:.2f}"
    words = f"{curve.letter} {curve.sizes[0]}–{curve.sizes[-1]}: exponent {curve.exponent:.2f}{spread}"
    dots = [tag("circle", cx=x, cy=y, r=3, fill=colour) for x, y in points]
    line = tag("polyline", points=path, fill="none", stroke=colour, stroke_width=2)
    return [line, *dots, tag("text", words, x=_LEFT + 10, y=legend, fill=colour)]
