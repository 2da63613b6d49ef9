"""The items of the suite, found by name; each file holds those of one theme."""

from __future__ import annotations

from medmoe.speed.item import Item
from medmoe.speed.items import caching, dicom, embedding, jpeg, local, search, shards, start, step, vision, waiting

ITEMS: dict[str, Item] = {
    item.name: item
    for item in (
        *local.ITEMS,
        *vision.ITEMS,
        *caching.ITEMS,
        *step.ITEMS,
        *jpeg.ITEMS,
        *shards.ITEMS,
        *dicom.ITEMS,
        *waiting.ITEMS,
        *embedding.ITEMS,
        *search.ITEMS,
        *start.ITEMS,
    )
}
