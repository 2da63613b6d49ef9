"""The canvas phantoms are painted on: coordinate grids, soft shapes and smooth noise.

Anatomy is described in its own frame (u to the right, v downwards, the image spanning about [-1, 1]), so that
size, position and rotation of a patient are one `Pose` and never enter a painter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Ellipse = tuple[float, float, float, float]  # centre u, centre v, radius along u, radius along v


@dataclass(frozen=True, slots=True)
class Pose:
    """How a patient lies in the image.

    Attributes:
        x: Shift to the right, fraction of the image's width.
        y: Shift downwards, fraction of the height.
        scale: Magnification, 1 when the frame's [-1, 1] fills the image.
        turn: Rotation in radians.
        flip: Whether u grows to the left (a left eye).
    """

    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    turn: float = 0.0
    flip: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Anatomical coordinates of every pixel.

    Attributes:
        u: [S, S] to the right.
        v: [S, S] downwards.
        px: Side of a pixel in the same units.
    """

    u: Array
    v: Array
    px: float

    def radius(self, ellipse: Ellipse, turn: float = 0.0) -> Array:
        """Give each pixel's distance from an ellipse's centre, 1 on its border ([S, S])."""
        cu, cv, ru, rv = ellipse
        du, dv = self.u - np.float32(cu), self.v - np.float32(cv)
        if turn:
            c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
            du, dv = c * du + s * dv, c * dv - s * du
        return np.sqrt((du / np.float32(ru)) ** 2 + (dv / np.float32(rv)) ** 2)

    def disc(self, ellipse: Ellipse, turn: float = 0.0, soft: float = 1.0) -> Array:
        """Cover an ellipse: 1 inside, 0 outside, with an edge of `soft` pixels ([S, S])."""
        return self.edge(self.radius(ellipse, turn), min(ellipse[2:]), soft)

    def edge(self, distance: Array, scale: float, soft: float = 1.0) -> Array:
        """Turn distances (1 on the border, times `scale` in frame units) into coverage in [0, 1]."""
        return step((1.0 - distance) * np.float32(scale / (self.px * soft)) + 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """Pixel centres of a square image as fractions: x, y, both [S, S]."""

    size: int
    x: Array
    y: Array

    def frame(self, pose: Pose) -> Frame:
        """Lay a patient's frame over the pixels."""
        c, s = np.float32(np.cos(pose.turn) * 2 / pose.scale), np.float32(np.sin(pose.turn) * 2 / pose.scale)
        dx, dy = self.x - np.float32(0.5 + pose.x), self.y - np.float32(0.5 + pose.y)
        u = c * dx + s * dy
        return Frame(-u if pose.flip else u, c * dy - s * dx, 2 / (pose.scale * self.size))

    def cloud(self, rng: np.random.Generator, cells: int) -> Array:
        """Draw smooth noise of mean 0 and variance 1, about `cells` bumps a side ([S, S])."""
        spread = _spread(self.size, cells)
        white = rng.standard_normal((spread.shape[1], spread.shape[1]), dtype=np.float32)
        bumps: Array = spread @ white @ spread.T
        return bumps

    def grain(self, rng: np.random.Generator) -> Array:
        """Draw white noise of variance 1 ([S, S])."""
        return rng.standard_normal((self.size, self.size), dtype=np.float32)

    def cells(
        self, rng: np.random.Generator, across: int, radius: float, *, keep: float = 1.0, stretch: float = 0.3
    ) -> Array:
        """Scatter round cells on a jittered grid.

        Args:
            rng: Where places, sizes and shapes come from.
            across: Grid cells a side of the image.
            radius: Mean radius in grid cells, at most 0.45.
            keep: Share of grid cells that hold one.
            stretch: How far from round they are.

        Returns:
            [S, S] distance to the nearest cell's centre in its radii: below 1 inside a cell.
        """
        near, place = _neighbours(self.size, across)
        side = across + 3
        jitter = rng.uniform(-0.28, 0.28, (2, side, side))
        angle = rng.uniform(0, np.pi, (side, side))
        size = np.where(rng.random((side, side)) < keep, radius * rng.uniform(0.8, 1.2, (side, side)), 1e-2)
        longer = 1 + stretch * rng.random((side, side))
        # Each cell's distance is |M p + o| with p the pixel's place: gather M and o of the four nearest.
        cy, cx = (np.arange(side) + 0.5)[:, None] + jitter[0], (np.arange(side) + 0.5)[None] + jitter[1]
        c, s = np.cos(angle), np.sin(angle)
        squared = np.float32(0)
        for mx, my in ((c / (size * longer), s / (size * longer)), (-s * longer / size, c * longer / size)):
            gathered = [part.astype(np.float32).ravel().take(near) for part in (mx, my, -(mx * cx + my * cy))]
            squared = squared + (gathered[0] * place[0] + gathered[1] * place[1] + gathered[2]) ** 2
        nearest: Array = np.sqrt(np.asarray(squared).min(0))
        return nearest


def step(values: Array) -> Array:
    """Clip to [0, 1]."""
    clipped: Array = np.clip(values, np.float32(0), np.float32(1))
    return clipped


def blend(image: Array, cover: Array, value: float | Array) -> None:
    """Paint `value` over `image` in place where `cover` is 1, mixing in between (shapes broadcast)."""
    image += cover * (np.float32(value) - image)


@lru_cache(maxsize=8)
def canvas(size: int) -> Canvas:
    """Give the canvas of a size in pixels; grids are computed once."""
    centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return Canvas(size, x, y)


@lru_cache(maxsize=64)
def _spread(size: int, cells: int) -> Array:
    """[S, M] weights that spread M random values smoothly over S pixels, each row of length 1."""
    place = (np.arange(size) + 0.5) / size * cells
    knots = np.arange(-1, cells + 2)
    weight = np.exp(-2.0 * (place[:, None] - knots) ** 2)
    unit: Array = (weight / np.linalg.norm(weight, axis=1, keepdims=True)).astype(np.float32)
    return unit


@lru_cache(maxsize=64)
def _neighbours(size: int, across: int) -> tuple[NDArray[np.int64], Array]:
    """Give each pixel's four nearest grid cells ([4, S, S], numbered row by row) and its own place x, y in cells."""
    place = (np.arange(size) + 0.5) / size * across + 1.0
    first = np.floor(place - 0.5).astype(np.int64)
    pairs = [(first + i)[:, None] * (across + 3) + (first + j)[None] for i in (0, 1) for j in (0, 1)]
    x, y = np.meshgrid(place, place)
    return np.stack(pairs), np.stack([x, y]).astype(np.float32)
