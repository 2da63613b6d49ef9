"""Sources: each yields `Sample`s by index; those that read tables and tars are imported when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    SOURCES: dict[str, type]


def __getattr__(name: str) -> dict[str, type]:
    """Give `SOURCES`, and import what it names."""
    if name != "SOURCES":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from medmoe.data.sources.manifest import ManifestSource
    from medmoe.data.sources.phantom import PhantomSource
    from medmoe.data.sources.shards import ShardSource

    return {"manifest": ManifestSource, "phantom": PhantomSource, "shards": ShardSource}
