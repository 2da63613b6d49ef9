"""Sources: each yields `Sample`s by index."""

from __future__ import annotations

from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.phantom import PhantomSource
from medmoe.data.sources.shards import ShardSource

SOURCES: dict[str, type] = {"manifest": ManifestSource, "phantom": PhantomSource, "shards": ShardSource}
