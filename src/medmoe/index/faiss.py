"""Approximate search with faiss: a navigable small-world graph; and its exact index, to be compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from medmoe.errors import DataError, MissingDependencyError
from medmoe.folder import write_atomically
from medmoe.index.base import Hits, Vectors, asked_of, check_index_replaceable, checked, write_facts

GRAPH = "graph.faiss"


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingDependencyError(
            "this index needs faiss", remedy="pip install 'medmoe[search]', or use the exact index"
        ) from None
    return faiss


class HnswIndex:
    """A hierarchical navigable small-world graph (Malkov & Yashunin, 2016, https://arxiv.org/abs/1603.09320).

    It looks at a few hundred vectors a query, so that a query's time hardly grows with their number; building it takes
    long, and it may miss some: measure its recall against the exact index.

    Args:
        width: E.
        fingerprint: Of the embedding.
        neighbours: Links of each vector (M).
        build_effort: Candidates kept while building (efConstruction).
        search_effort: Candidates kept while searching (efSearch): more find more, and take longer.

    Raises:
        MissingDependencyError: If faiss isn't installed.
    """

    kind: ClassVar[str] = "hnsw"

    def __init__(
        self, width: int, *, fingerprint: str, neighbours: int = 16, build_effort: int = 40, search_effort: int = 64
    ) -> None:
        faiss = _faiss()
        self.width, self.fingerprint, self.search_effort = width, fingerprint, search_effort
        self._graph = faiss.IndexHNSWFlat(width, neighbours, faiss.METRIC_INNER_PRODUCT)
        self._graph.hnsw.efConstruction = build_effort

    def __len__(self) -> int:
        """Count the vectors."""
        return int(self._graph.ntotal)

    def add(self, vectors: Vectors, *, fingerprint: str) -> None:
        """Append vectors [n, E].

        Raises:
            DataError: If they are of another embedding or width, or not finite.
        """
        rows = checked(vectors, width=self.width, fingerprint=fingerprint, own=self.fingerprint, first=len(self))
        self._graph.add(rows)

    def search(self, queries: Vectors, k: int = 10, *, fingerprint: str) -> Hits:
        """Find k vectors with large dot products with each query; all where there are fewer.

        Raises:
            DataError: If the queries are of another embedding or width, or not finite, or k is below 1.
        """
        asked, k = asked_of(self, queries, k, fingerprint=fingerprint)
        if not k or not len(asked):
            return Hits(np.zeros((len(asked), k), np.float32), np.zeros((len(asked), k), np.int64))
        self._graph.hnsw.efSearch = max(self.search_effort, k)
        score, row = self._graph.search(asked, k)
        return Hits(score, row)

    def save(self, folder: Path) -> None:
        """Write `index.json` and `graph.faiss`, which holds the vectors too.

        Raises:
            DataError: If something other than an index is in the folder.
        """
        check_index_replaceable(folder)

        def fill(aside: Path) -> None:
            _faiss().write_index(self._graph, str(aside / GRAPH))
            facts = {"kind": self.kind, "fingerprint": self.fingerprint, "width": self.width, "count": len(self)}
            write_facts(aside, {**facts, "search_effort": self.search_effort})

        write_atomically(folder, fill)

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> HnswIndex:
        """Read a saved index.

        Raises:
            DataError: If the graph can't be read or isn't what the index says it is.
        """
        index = cls(facts["width"], fingerprint=facts["fingerprint"], search_effort=facts["search_effort"])
        where, remedy = str(folder / GRAPH), "build the index again"
        try:
            index._graph = _faiss().read_index(where)
        except RuntimeError as error:
            line = " ".join(str(error).split())
            raise DataError(f"can't be read ({line[:120]})", where=where, remedy=remedy) from None
        if (index._graph.d, index._graph.ntotal) != (facts["width"], facts["count"]):
            raise DataError(
                f"holds [{index._graph.ntotal}, {index._graph.d}], the index says [{facts['count']}, {facts['width']}]",
                where=where,
                remedy=remedy,
            )
        return index


class FaissFlat:
    """faiss's own exact index, the usual way to search, which the speed suite compares with.

    Args:
        vectors: [n, E] float32.
        threads: How many faiss uses.
    """

    def __init__(self, vectors: Any, *, threads: int) -> None:
        faiss = _faiss()
        faiss.omp_set_num_threads(threads)
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def search(self, queries: Any, k: int) -> Hits:
        """Find the k vectors with the largest dot products with each query."""
        return Hits(*self._index.search(queries, k))
