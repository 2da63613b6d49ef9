"""The items of the suite, found by name; each file holds those of one theme."""

from __future__ import annotations

from medmoe.speed.item import Item
from medmoe.speed.items import caching, local

ITEMS: dict[str, Item] = {item.name: item for item in (*local.ITEMS, *caching.ITEMS)}
