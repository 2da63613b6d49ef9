"""Report words over the images they were looked for in, beside the true boxes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmoe.modalities import MODALITIES, in_order
from medmoe.report.markup import Html, join, tag
from medmoe.report.pictures import gradient, picture, unit_range

Corners = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """A phrase looked for in an image.

    Attributes:
        image: [H, W, 3] uint8.
        heatmap: [G, G] how well each region fits the phrase, of any range.
        phrase: The words looked for.
        report: The report they come from.
        modality: The image's modality.
        boxes: True places as (x0, y0, x1, y1) fractions of the image.
        hit: Whether the hottest region lies in a box, or None where there is no box to judge by.
    """

    image: NDArray[np.uint8]
    heatmap: NDArray[np.floating]
    phrase: str
    report: str
    modality: str
    boxes: Sequence[Corners] = ()
    hit: bool | None = None

    def fit(self) -> float | None:
        """How much hotter the boxes are than the rest, in standard deviations; None where no box tells them apart.

        A region belongs to a box that holds its centre; a box that holds none counts by the region its centre is in.
        """
        heat = unit_range(self.heatmap)
        rows, columns = heat.shape
        inside = np.zeros(heat.shape, dtype=bool)
        y, x = ((np.arange(rows) + 0.5) / rows)[:, None], ((np.arange(columns) + 0.5) / columns)[None]
        for x0, y0, x1, y1 in self.boxes:
            held = (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)
            if not held.any():
                held[min(rows - 1, int((y0 + y1) / 2 * rows)), min(columns - 1, int((x0 + x1) / 2 * columns))] = True
            inside |= held
        if inside.all() or not inside.any():
            return None
        return float((heat[inside].mean() - heat[~inside].mean()) / max(float(heat.std()), 1e-12))


def heatmaps(items: Sequence[GalleryItem]) -> Html:
    """Draw the section of heatmaps, modality by modality."""
    groups = []
    for modality, own in _by_modality(items):
        judged = [item for item in own if item.hit is not None]
        count = f"{sum(bool(item.hit) for item in judged)} of {len(judged)} point into the box" if judged else ""
        heading = tag("h3", modality, " ", tag("small", count))
        groups.append(join([heading, tag("div", *[_card(item) for item in own], class_="cards")]))
    return join([_key(), *groups, _warning()])


def best_and_worst(items: Sequence[GalleryItem], *, each: int = 2) -> Html:
    """Draw the heatmaps that fit their boxes best and worst, modality by modality.

    Args:
        items: What was looked at; without a box to judge by, one isn't shown.
        each: How many of the best, and of the worst; none is shown twice.
    """
    groups = []
    for modality, own in _by_modality(items):
        fits = [(fit, place) for place, item in enumerate(own) if (fit := item.fit()) is not None]
        ranked = [own[place] for _, place in sorted(fits, key=lambda pair: (-pair[0], pair[1]))]
        if not ranked:
            continue
        hits = sum(bool(item.hit) for item in ranked)
        said = f"of {len(ranked)} looked at; {hits} point into the box"
        shown = [("best", item) for item in ranked[:each]] + [("worst", item) for item in ranked[each:][-each:]]
        cards = [_card(item, word) for word, item in shown]
        groups.append(join([tag("h3", modality, " ", tag("small", said)), tag("div", *cards, class_="cards")]))
    if not groups:
        return tag("p", "No image that was looked at has a box to judge a heatmap by.", class_="empty")
    words = "Ranked by how much hotter the true boxes are than the rest of the image."
    return join([tag("p", words, class_="note"), _key(), *groups, _warning()])


def _by_modality(items: Sequence[GalleryItem]) -> list[tuple[str, list[GalleryItem]]]:
    present = [item.modality for item in items]
    order = [*in_order(present), *sorted(set(present) - set(MODALITIES))]
    return [(modality, [item for item in items if item.modality == modality]) for modality in order]


def _key() -> Html:
    return tag(
        "p",
        tag("span", tag("i", class_="scale", style=f"background:{gradient()}"), "coldest to hottest of the image"),
        tag("span", tag("i", class_="swatch"), "true box"),
        tag("span", tag("i", class_="ring"), "hottest region"),
        class_="legend",
    )


def _warning() -> Html:
    return tag(
        "p",
        "Images and reports below are those of the evaluated data: share this page only where you may share them.",
        class_="note",
    )


def _card(item: GalleryItem, rank: str = "") -> Html:
    heat = unit_range(item.heatmap)
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    peak = ((column + 0.5) / heat.shape[1], (row + 0.5) / heat.shape[0])
    said = f"{item.modality} image"
    pictures = (
        _picture(item, picture(item.image), f"{said}, {len(item.boxes)} true boxes outlined", None),
        _picture(item, picture(item.image, item.heatmap), f"{said} under the heatmap of “{item.phrase}”", peak),
    )
    verdict = None
    if item.hit is not None:
        word = "✓ in the box" if item.hit else "✗ beside the box"
        verdict = tag("span", word, class_="badge good" if item.hit else "badge bad")
    text = tag("p", highlighted(item.report, item.phrase), class_="words")
    head = tag("p", tag("b", f"“{item.phrase}”"), " ", tag("small", rank) if rank else None, verdict, class_="asked")
    caption = tag("figcaption", head, text)
    return tag("figure", tag("div", *pictures, class_="pair"), caption, class_="card")


def _picture(item: GalleryItem, source: str, alt: str, peak: tuple[float, float] | None) -> Html:
    height, width = item.image.shape[:2]
    marks = []
    for x0, y0, x1, y1 in item.boxes:
        place = {
            "x": _of(x0, width),
            "y": _of(y0, height),
            "width": _of(x1 - x0, width),
            "height": _of(y1 - y0, height),
        }
        marks += [tag("rect", **place, class_=style) for style in ("halo", "box")]
    if peak is not None:
        cx, cy, r = _of(peak[0], width), _of(peak[1], height), f"{0.03 * max(width, height):.4g}"
        marks += [tag("circle", cx=cx, cy=cy, r=r, class_=style) for style in ("halo", "peak")]
    over = tag("svg", *marks, viewBox=f"0 0 {width} {height}", aria_hidden="true")
    return tag("div", tag("img", src=source, alt=alt, loading="lazy"), over, class_="picture")


def highlighted(report: str, phrase: str) -> Html:
    """Mark a phrase's occurrences as whole words in a report, whatever its case and spacing.

    >>> highlighted("No nodule. A NODULE <3 cm.", "nodule")
    'No <mark>nodule</mark>. A <mark>NODULE</mark> &lt;3 cm.'
    """
    words = phrase.split()
    if not words:
        return join([report])
    pattern = r"(?<!\w)(" + r"\W+".join(re.escape(word) for word in words) + r")(?!\w)"
    parts = re.split(pattern, report, flags=re.IGNORECASE)
    return join(tag("mark", part) if index % 2 else part for index, part in enumerate(parts))


def _of(share: float, pixels: int) -> str:
    return f"{share * pixels:.5g}"
