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


def heatmaps(items: Sequence[GalleryItem]) -> Html:
    """Draw the section of heatmaps, modality by modality."""
    present = [item.modality for item in items]
    order = [*in_order(present), *sorted(set(present) - set(MODALITIES))]
    groups = []
    for modality in order:
        own = [item for item in items if item.modality == modality]
        judged = [item for item in own if item.hit is not None]
        count = f"{sum(bool(item.hit) for item in judged)} of {len(judged)} point into the box" if judged else ""
        heading = tag("h3", modality, " ", tag("small", count))
        groups.append(join([heading, tag("div", *[_card(item) for item in own], class_="cards")]))
    key = tag(
        "p",
        tag("span", tag("i", class_="scale", style=f"background:{gradient()}"), "coldest to hottest of the image"),
        tag("span", tag("i", class_="swatch"), "true box"),
        tag("span", tag("i", class_="ring"), "hottest region"),
        class_="legend",
    )
    warning = tag(
        "p",
        "Images and reports below are those of the evaluated data: share this page only where you may share them.",
        class_="note",
    )
    return join([key, *groups, warning])


def _card(item: GalleryItem) -> Html:
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
    caption = tag("figcaption", tag("p", tag("b", f"“{item.phrase}”"), " ", verdict, class_="asked"), text)
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
