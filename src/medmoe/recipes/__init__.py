"""Recipes: each a complete configuration by name, to train as it is or to copy."""

from __future__ import annotations

from collections.abc import Callable

from medmoe.config import RunConfig
from medmoe.recipes.medmoe import ARRANGEMENTS, arrange, medmoe, no_experts, tiny

RECIPES: dict[str, Callable[[], RunConfig]] = {"tiny": tiny, "medmoe": medmoe, "no_experts": no_experts}

__all__ = ["ARRANGEMENTS", "RECIPES", "arrange"]
