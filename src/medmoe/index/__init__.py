"""Indexes: vectors of one embedding, searched by dot product, found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medmoe.errors import ConfigError, ModelError, unknown
from medmoe.index.base import FACTS, Hits, Index, read_facts
from medmoe.index.exact import ExactIndex
from medmoe.index.faiss import HnswIndex

__all__ = ["INDEXES", "ExactIndex", "Hits", "HnswIndex", "Index", "load_index", "make_index"]

INDEXES: dict[str, Any] = {"exact": ExactIndex, "hnsw": HnswIndex}


def make_index(kind: str, width: int, *, fingerprint: str, **options: Any) -> Index:
    """Make an empty index.

    Args:
        kind: A name of `INDEXES`.
        width: E.
        fingerprint: Of the embedding.
        options: Of that kind.

    Raises:
        ConfigError: If the kind or an option is unknown.
        MissingDependencyError: If the kind needs a package that isn't installed.
    """
    if kind not in INDEXES:
        raise ConfigError(unknown("index", kind, INDEXES), where="--kind")
    index: Index = INDEXES[kind](width, fingerprint=fingerprint, **options)
    return index


def load_index(folder: Path | str) -> Index:
    """Open a saved index of any kind.

    Raises:
        ModelError: If there is none, or its kind is unknown.
        DataError: If its files are damaged.
    """
    folder = Path(folder)
    facts = read_facts(folder)
    kind = str(facts.get("kind"))
    if kind not in INDEXES:
        raise ModelError(unknown("index", kind, INDEXES), where=str(folder / FACTS))
    try:
        index: Index = INDEXES[kind].load(folder, facts)
    except KeyError as error:
        raise ModelError(f"lacks {error}", where=str(folder / FACTS), remedy="build the index again") from None
    return index
