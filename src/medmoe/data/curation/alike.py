"""Do two thumbnails show the same picture: turned to each other, shifted and scaled into place, and compared?

A hash that hardly changes when a picture is cropped hardly tells brains apart either, so each candidate is looked at
again. Of the eight orientations the two likeliest are kept; in each, Gauss-Newton steps find the shift and the scale
of either axis (a crop of a few per cent, whichever of the two was cropped) that lay one thumbnail over the other (Lucas
and Kanade, 1981). What then lies over each other is compared neighbourhood by neighbourhood: a mean of correlations in
which a fundus' rim or a skull counts for no more than the vessels within.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmoe.data.curation.hashes import SIDE, even_out

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

ORIENTATIONS = (
    "upright", "flipped left-right", "flipped top-bottom", "turned by 180°",
    "transposed", "turned by 90° anticlockwise", "turned by 90° clockwise", "transposed and turned by 180°",
)  # fmt: skip

_COARSE, _MIDDLE = 16, 32
_STEPS = 5
_MOST_SHIFT, _MOST_SCALE = 0.16, 0.16  # of a side: a crop beyond this isn't looked for
_ROUGH, _FAIR = 0.55, 0.75  # correlations before and after aligning, below which there is no need to go on
_BLACK = 12  # grey levels above an image's darkest that still are its background
_ENOUGH = 0.1  # of the pixels must be in from the border, for the border to be left out
_GRAIN, _SHOWS = 1.0, 4.0  # variance in grey levels that is noise, and how many times that shows something
_WORST = 0.08  # share of what shows something that may fit badly: somebody may have burned in text
_BLOCK = 256  # pairs that are aligned at once


@dataclass(frozen=True)
class Likeness:
    """How alike pairs are.

    Attributes:
        correlation: [n] mean correlation within neighbourhoods, at most 1; 0 where a rougher look was enough.
        orientation: [n] number in `ORIENTATIONS` of how the second is to be turned to look like the first.
    """

    correlation: Floats
    orientation: Ints


class Comparison:
    """Thumbnails to compare in pairs.

    Args:
        thumbnails: [N, 64, 64] grey; may be mapped from a file. Beside it 512 bytes an image are held.
    """

    def __init__(self, thumbnails: Bytes) -> None:
        self.thumbnails = thumbnails
        self._rough = np.zeros((len(thumbnails), _COARSE * _COARSE), np.float16)
        for start in range(0, len(thumbnails), 512):
            part = even_out(thumbnails[start : start + 512], 6.0)
            small = _shrink(part, _COARSE)
            self._rough[start : start + 512] = _standard(_SOFT(small).reshape(len(small), -1))

    def likeness(self, one: Ints, other: Ints, *, threads: int = 1) -> Likeness:
        """Compare images by their numbers, [n] and [n]."""
        rough = self._roughly(one, other)  # [n, 8]
        likeliest = np.argsort(-rough, axis=1)[:, :2]
        found, which = np.zeros(len(one), np.float32), likeliest[:, 0].astype(np.int64)
        for rank in (0, 1):
            fair = np.flatnonzero(np.take_along_axis(rough, likeliest[:, rank : rank + 1], 1)[:, 0] > _ROUGH)
            blocks = [fair[start : start + _BLOCK] for start in range(0, len(fair), _BLOCK)]
            turns = likeliest[:, rank]

            def compare(rows: Ints, turns: Ints = turns) -> Floats:
                return _compare(self.thumbnails[one[rows]], _turned(self.thumbnails[other[rows]], turns[rows]))

            with ThreadPoolExecutor(max(threads, 1)) as pool:
                for rows, score in zip(blocks, pool.map(compare, blocks), strict=True):
                    rise = score > found[rows]
                    found[rows[rise]], which[rows[rise]] = score[rise], turns[rows[rise]]
        return Likeness(found, which)

    def _roughly(self, one: Ints, other: Ints) -> Floats:
        """Correlate 16×16 versions in each of the eight orientations: [n, 8]."""
        found = np.zeros((len(one), 8), np.float32)
        for start in range(0, len(one), 8192):
            part = slice(start, start + 8192)
            mine, its = self._rough[one[part]].astype(np.float32), self._rough[other[part]].astype(np.float32)
            for turn, places in enumerate(_TURNS):
                found[part, turn] = np.einsum("np,np->n", mine, its[:, places]) / (_COARSE * _COARSE)
        return found


def orient(images: NDArray[np.generic], orientation: int) -> NDArray[np.generic]:
    """Turn [..., S, S] images as `ORIENTATIONS[orientation]` says."""
    turned = np.swapaxes(images, -1, -2) if orientation & 4 else images
    turned = turned[..., ::-1, :] if orientation & 2 else turned
    return turned[..., ::-1] if orientation & 1 else turned


def _turned(images: Bytes, turns: Ints) -> Bytes:
    turned = np.empty_like(images)
    for turn in np.unique(turns):
        turned[turns == turn] = orient(images[turns == turn], int(turn))
    return turned


def _compare(one: Bytes, other: Bytes) -> Floats:
    """Align pairs that have the same orientation and compare them: [b]."""
    moved = np.tile(np.array([0, 1, 0, 1], np.float32), (len(one), 1))  # shift and scale of rows, then of columns
    first, second = (_shrink(_even(part), _MIDDLE) for part in (one, other))
    moved = _align(_half(first), _half(second), moved)
    moved = _align(first, second, moved)
    laid, inside = _lay(second, moved)
    weight = inside.reshape(len(one), -1)
    mine, its = (_standard(part.reshape(len(one), -1), weight) for part in (first, laid))
    score = np.zeros(len(one), np.float32)
    fair = np.flatnonzero((mine * its * weight).sum(1) > _FAIR * weight.sum(1))
    if len(fair):
        score[fair] = _local(one[fair], other[fair], moved[fair])
    return score


def _align(first: Floats, second: Floats, moved: Floats) -> Floats:
    """Improve [b, 4] placements, in fractions of a side, by Gauss-Newton steps on [b, S, S] images."""
    side = first.shape[1]
    at = ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
    for _ in range(_STEPS):
        laid, inside = _lay(second, moved)
        down, across = np.gradient(laid, np.float32(1 / side), axis=(1, 2))
        down, across = down * inside, across * inside
        slopes = np.stack([down, down * at[:, None], across, across * at], 1).reshape(len(laid), 4, -1)
        square = slopes @ slopes.swapaxes(1, 2)  # [b, 4, 4]
        pull = slopes @ (first - laid).reshape(len(laid), -1, 1)  # the slopes are 0 outside
        ridge = 1e-3 * np.trace(square, axis1=1, axis2=2)[:, None, None] + 1e-6
        step = np.linalg.solve(square + ridge * np.eye(4, dtype=np.float32), pull)[..., 0]
        moved = (moved + step).astype(np.float32)
        moved[:, ::2] = np.clip(moved[:, ::2], -_MOST_SHIFT, _MOST_SHIFT)
        moved[:, 1::2] = np.clip(moved[:, 1::2], 1 - _MOST_SCALE, 1 + _MOST_SCALE)
    return moved


def _lay(images: Floats, moved: Floats) -> tuple[Floats, Floats]:
    """Read images at moved places: [b, S, S] values, and 1 or 0 for places inside the image."""
    rows, inside_rows = _reader(moved[:, 0], moved[:, 1], images.shape[1])
    columns, inside_columns = _reader(moved[:, 2], moved[:, 3], images.shape[2])
    laid = np.asarray(rows @ images @ columns.swapaxes(1, 2), np.float32)
    return laid, np.asarray(inside_rows[:, :, None] * inside_columns[:, None, :], np.float32)


def _reader(shift: Floats, scale: Floats, side: int) -> tuple[Floats, Floats]:
    """Give matrices [b, S, S] that read one axis by linear interpolation, and which places [b, S] lie inside."""
    centre = (side - 1) / 2
    grid = np.arange(side, dtype=np.float32)
    places = (grid - centre) * scale[:, None] + centre + shift[:, None] * side  # [b, S]
    inside = ((places >= -0.5) & (places <= side - 0.5)).astype(np.float32)
    places = np.clip(places, 0, side - 1)
    near = np.maximum(0, 1 - np.abs(places[:, :, None] - grid))
    return np.asarray(near, np.float32), np.asarray(inside, np.float32)


def _local(one: Bytes, other: Bytes, moved: Floats) -> Floats:
    """Give the mean of the correlations within small neighbourhoods that show something: [b].

    The neighbourhood of a dark border doesn't count, since a scanner's frame is the same for everybody, nor does the
    share of the neighbourhoods that fits worst.
    """
    bright = np.minimum(_bright(one), _lay(_bright(other), moved)[0])
    second, inside = _lay(other.astype(np.float32), moved)
    first, second = _BLURRED(one.astype(np.float32)), _BLURRED(second)
    first, second = first - _NEAR(first), second - _NEAR(second)
    # Every other place is enough, since neighbourhoods overlap.
    both = np.sqrt(_NEAR_HALVED(first * first) * _NEAR_HALVED(second * second))
    correlation = _NEAR_HALVED(first * second) / (both + np.float32(_GRAIN))
    inside, bright = inside[:, ::2, ::2], bright[:, ::2, ::2]
    weight = inside * np.minimum(both / (_SHOWS * _GRAIN), 1)
    framed = weight * bright
    enough = framed.mean((1, 2)) > _ENOUGH
    weight[enough] = framed[enough]
    return _mean_of_best(correlation.reshape(len(one), -1), weight.reshape(len(one), -1))


def _mean_of_best(values: Floats, weight: Floats) -> Floats:
    """Give the weighted mean of [b, n] values without the share of the weight that is on the lowest: [b]."""
    order = np.argsort(values, axis=1)
    values, weight = np.take_along_axis(values, order, 1), np.take_along_axis(weight, order, 1)
    kept = np.clip(weight.cumsum(1) - _WORST * weight.sum(1, keepdims=True), 0, weight)
    return np.asarray((values * kept).sum(1) / (kept.sum(1) + 1), np.float32)


def _bright(images: Bytes) -> Floats:
    """Give 1 where all of the neighbourhood is above an image's black, 0 elsewhere, [b, S, S]."""
    black = images.min((1, 2), keepdims=True).astype(np.float32) + _BLACK
    return np.asarray(np.clip((_NEAR((images > black).astype(np.float32)) - 0.8) / 0.15, 0, 1), np.float32)


def _even(images: Bytes) -> Floats:
    """Even out local contrast as the hash does, by matrices: many small images at once."""
    pixels = images.astype(np.float32)
    pixels = pixels - _WIDE(pixels)
    return np.asarray(pixels / (np.sqrt(_WIDE(pixels * pixels)) + 6), np.float32)


def _standard(values: Floats, weight: Floats | None = None) -> Floats:
    """Bring [b, n] values to mean 0 and variance 1 where the weight is 1."""
    weight = np.ones_like(values) if weight is None else weight
    total = np.maximum(weight.sum(1, keepdims=True), 1)
    centred = values - (values * weight).sum(1, keepdims=True) / total
    spread = np.sqrt((centred * centred * weight).sum(1, keepdims=True) / total)
    return np.asarray(centred / np.maximum(spread, 1e-6), np.float32)


def _shrink(images: Floats, side: int) -> Floats:
    """Average [b, 64, 64] images down to [b, side, side]."""
    times = SIDE // side
    return np.asarray(images.reshape(len(images), side, times, side, times).mean((2, 4)))


def _half(images: Floats) -> Floats:
    count, side, _ = images.shape
    return np.asarray(images.reshape(count, side // 2, 2, side // 2, 2).mean((2, 4)))


def _blur(width: float, side: int = SIDE, *, every: int = 1) -> Callable[[Floats], Floats]:
    """Give a Gaussian blur of [b, S, S] images, read at every so many places, as a product from both sides."""
    at = np.arange(side)
    kernel = np.exp(-0.5 * ((at[::every, None] - at) / width) ** 2)
    kernel = (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)
    return lambda images: np.asarray(kernel @ images @ kernel.T)


_BLURRED, _NEAR, _WIDE, _SOFT = _blur(0.8), _blur(3.0), _blur(6.0), _blur(1.0, _COARSE)
_NEAR_HALVED = _blur(3.0, every=2)
_PLACES = np.arange(_COARSE * _COARSE).reshape(_COARSE, _COARSE)
_TURNS = [orient(_PLACES, turn).reshape(-1) for turn in range(8)]
