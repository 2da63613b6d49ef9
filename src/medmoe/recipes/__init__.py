"""Recipes: each a complete configuration by name, to train as it is or to copy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from medmoe.config import RunConfig
from medmoe.recipes.medmoe import ARRANGEMENTS, arranged, medmoe, tiny
from medmoe.recipes.router import router

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "tiny": tiny,
    "medmoe": medmoe,
    "router": router,
    **{name: partial(arranged, name) for name in ARRANGEMENTS},
}

__all__ = ["ARRANGEMENTS", "RECIPES"]
