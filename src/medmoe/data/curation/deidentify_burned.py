"""Where a picture seems to have text burned in: strokes of one grey, in a row, of one height."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, the last ones not included

_KERNELS = (9, 25)  # sides of the windows that are wider than a stroke: for small letters, and for large ones
_CONTRASTS = (
    0.12,
    0.3,
    0.55,
)  # of the picture's range, between a stroke and what is around it: what touches at one parts at a higher
_LEAST_HEIGHT, _MOST_HEIGHT = 5, 72
_LEAST_LETTERS = 3
_AT_ONCE, _OVERLAP = 1 << 23, 256  # pixels of a band, and rows that it shares with the next
_STROKES = 0.6  # strokes that a row through a word crosses, by the letters that its width has room for
_SHARP = 0.2  # of the rise, in a pixel: drawn letters have edges, what a scanner shows is softer
_ALIKE = 0.1  # of the picture's range, between the greys of letters of one line
_MOST_PARTS = 1500  # a picture with more has texture everywhere, and the largest are looked at


@dataclass(frozen=True)
class Letters:
    """Parts that may be letters, or words whose letters touch: arrays of one length.

    Args:
        x0, y0, x1, y1: Their boxes.
        peak: The highest grey in each, 0 to 1.
        sharp: The mean slope in each, by its rise over what is around it; 1 a pixel.
    """

    x0: NDArray[np.intp]
    y0: NDArray[np.intp]
    x1: NDArray[np.intp]
    y1: NDArray[np.intp]
    peak: NDArray[np.float32]
    sharp: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.x0)


def find_text(picture: NDArray[Any]) -> list[Box]:
    """Find lines of text.

    Args:
        picture: [H, W] or [H, W, 3] numbers of any kind.

    Returns:
        (x0, y0, x1, y1) of each line with a margin, in pixels, the last not included; those that overlap are joined.
    """
    grey = _grey(picture)
    height, width = grey.shape
    rows = max(_AT_ONCE // width, 2 * _OVERLAP)  # large pictures are looked at in bands
    boxes: list[Box] = []
    if min(height, width) >= 3 * _LEAST_HEIGHT and float(np.ptp(grey)) > 0:
        for kernel in _KERNELS:
            for bright in (True, False):
                for top in range(0, max(height - _OVERLAP, 1), rows - _OVERLAP):
                    part = grey[top : top + rows]
                    for letters in _letters(part, kernel, bright=bright):
                        found = [_padded(letters, line, len(part), width) for line in _lines(letters)]
                        boxes += [(x0, y0 + top, x1, y1 + top) for x0, y0, x1, y1 in found]
    return _joined(boxes)


def _grey(picture: NDArray[Any]) -> NDArray[np.float32]:
    """Bring a picture to grey [H, W] in 0 to 1, by its own range."""
    if picture.ndim == 3:
        picture = picture[..., :3].max(axis=-1)  # coloured text is bright in one channel
    values = np.nan_to_num(picture.astype(np.float32), copy=False)
    low, high = float(values.min()), float(values.max())  # text is often the brightest there is, in few pixels
    values -= low
    values /= max(high - low, 1e-6)
    return np.clip(values, 0, 1, out=values)


def _letters(grey: NDArray[np.float32], kernel: int, *, bright: bool) -> Iterator[Letters]:
    """Find parts that differ from all around them, by each contrast."""
    from scipy import ndimage

    signed = grey if bright else 1 - grey
    rise = signed - ndimage.grey_opening(signed, size=(kernel, kernel))
    slope = np.hypot(*np.gradient(signed))
    for contrast in _CONTRASTS:
        yield _parts(signed, rise, slope, contrast, kernel)


def _parts(
    signed: NDArray[np.float32], rise: NDArray[np.float32], slope: NDArray[np.float32], contrast: float, kernel: int
) -> Letters:
    """Find parts above a contrast that have a letter's shape and edges."""
    from scipy import ndimage

    marks, count = ndimage.label(rise > contrast, structure=np.ones((3, 3)))
    area = np.bincount(marks.ravel(), minlength=count + 1)[1:]
    box = np.array([(s[1].start, s[0].start, s[1].stop, s[0].stop) for s in ndimage.find_objects(marks)], np.intp)
    box = box.reshape(-1, 4)
    tall, wide = box[:, 3] - box[:, 1], box[:, 2] - box[:, 0]
    starts = np.bincount(marks[:, 1:][marks[:, 1:] != marks[:, :-1]], minlength=count + 1)[
        1:
    ]  # strokes crossed, all rows
    fill = area / (tall * wide)
    good = (tall >= _LEAST_HEIGHT) & (tall <= min(_MOST_HEIGHT, 2.2 * kernel)) & (wide <= 14 * tall)
    good &= (fill > 0.15) & ((fill < 0.85) | (wide < 0.45 * tall)) & (area >= 6)
    good &= (wide < 1.5 * tall) | (starts > _STROKES * wide)
    chosen = np.flatnonzero(good)
    if len(chosen) > _MOST_PARTS:
        chosen = np.sort(chosen[np.argsort(-area[chosen], kind="stable")[:_MOST_PARTS]])
    if not len(chosen):
        empty = np.zeros(0, np.intp)
        return Letters(empty, empty, empty, empty, empty.astype(np.float32), empty.astype(np.float32))
    peak = np.asarray(ndimage.maximum(signed, marks, chosen + 1), np.float32)
    most = np.asarray(ndimage.maximum(rise, marks, chosen + 1), np.float32)
    sharp = np.asarray(ndimage.mean(slope, marks, chosen + 1), np.float32) / most
    keep = sharp > _SHARP
    x0, y0, x1, y1 = box[chosen[keep]].T
    return Letters(x0, y0, x1, y1, peak[keep], sharp[keep])


def _lines(letters: Letters) -> list[NDArray[np.intp]]:
    """Join letters that stand beside each other into lines, and keep the lines that look written."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not len(letters):
        return []
    first, second = _neighbours(letters)
    links = coo_matrix((np.ones(len(first), bool), (first, second)), shape=(len(letters),) * 2)
    count, of = connected_components(links, directed=False)
    lines = []
    for line in range(count):
        members = np.flatnonzero(of == line)
        if _written(letters, members):
            lines.append(members)
    return lines


def _neighbours(letters: Letters) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pair letters with those close to their right, of like height, grey and base line."""
    order = np.argsort(letters.x0, kind="stable")
    tall = letters.y1 - letters.y0
    reach = np.searchsorted(letters.x0[order], letters.x1[order] + _MOST_HEIGHT)
    first, second = [], []
    for place, one in enumerate(order):
        others = order[place + 1 : reach[place]]
        high, low = np.maximum(tall[one], tall[others]), np.minimum(tall[one], tall[others])
        gap = letters.x0[others] - letters.x1[one]
        near = (gap <= 0.9 * high) & (gap >= -0.25 * high) & (low >= 0.5 * high)
        base = np.abs(letters.y1[others] - letters.y1[one])
        near &= base <= np.maximum(0.3 * high, 1)
        near &= np.abs(letters.peak[others] - letters.peak[one]) < _ALIKE
        first += [one] * int(near.sum())
        second += others[near].tolist()
    return np.array(first, np.intp), np.array(second, np.intp)


def _written(letters: Letters, line: NDArray[np.intp]) -> bool:
    """Tell whether letters share a base line and a grey, and are wider as a line than tall."""
    tall = letters.y1[line] - letters.y0[line]
    wide = letters.x1[line].max() - letters.x0[line].min()
    usual = float(np.median(tall))
    each = np.maximum((letters.x1[line] - letters.x0[line]) / (0.75 * tall), 1)  # letters that run into each other
    if each.sum() < _LEAST_LETTERS:
        return False
    base = float(np.median(np.abs(letters.y1[line] - np.median(letters.y1[line]))))
    even = float(letters.peak[line].std()) < 0.5 * _ALIKE
    return bool(even and base <= max(0.12 * usual, 0.75) and wide >= 1.3 * usual)


def _padded(letters: Letters, line: NDArray[np.intp], height: int, width: int) -> Box:
    """Give a line's box with a margin of half its height, since a thin letter or a dot may be missed."""
    tall = int(np.median(letters.y1[line] - letters.y0[line]))
    side, over = max(tall, 3), max(tall // 3, 2)
    return (
        max(int(letters.x0[line].min()) - side, 0),
        max(int(letters.y0[line].min()) - over, 0),
        min(int(letters.x1[line].max()) + side, width),
        min(int(letters.y1[line].max()) + over, height),
    )


def _joined(boxes: list[Box]) -> list[Box]:
    """Join boxes that overlap, until none do."""
    found = sorted(set(boxes))
    changed = True
    while changed:
        changed = False
        fresh: list[Box] = []
        for box in found:
            at = next((i for i, other in enumerate(fresh) if _overlap(box, other)), None)
            if at is None:
                fresh.append(box)
                continue
            other = fresh[at]
            fresh[at] = (
                min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3]),
            )  # fmt: skip
            changed = True
        found = fresh
    return sorted(found)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
