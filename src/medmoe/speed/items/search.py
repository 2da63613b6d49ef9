"""Exact and approximate search over 100,000 embeddings: ours beside faiss's flat index and a sort of all products."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medmoe.index import ExactIndex, HnswIndex, Index
from medmoe.index.faiss import FaissFlat
from medmoe.speed.item import Call, Item, Size, Target, Way

Floats = NDArray[np.float32]
K, NAME = 10, "benchmark"


def uniform(count: int, width: int, draw: torch.Generator) -> Tensor:
    """Draw unit vectors evenly from the sphere: the hard case, in which all are about equally far from each other."""
    return F.normalize(torch.randn(count, width, generator=draw), dim=1)


def clustered(count: int, width: int, draw: torch.Generator) -> Tensor:
    """Draw unit vectors that lie as embeddings of images do.

    400 findings, some far commoner than others (as rank^-0.7), lie around six modalities, and images around their
    finding; the spread along the i-th axis falls as i^-1/2, so that a few dozen directions hold most of it.
    """
    spread = torch.arange(1, width + 1.0) ** -0.5
    modality = torch.randn(6, width, generator=draw) * spread
    finding = modality[torch.randint(6, (400,), generator=draw)]
    finding = finding + 0.7 * torch.randn(400, width, generator=draw) * spread
    common = torch.arange(1, 401.0) ** -0.7
    own = finding[torch.multinomial(common, count, replacement=True, generator=draw)]
    return F.normalize(own + 0.8 * torch.randn(count, width, generator=draw) * spread, dim=1)


DRAWS = {"uniform": uniform, "clustered": clustered}


@cache
def vectors(kind: str, small: bool) -> tuple[Floats, Floats]:
    """Give [100000, 512] vectors and 64 queries of the same kind that aren't among them."""
    count, width = (300, 16) if small else (100_000, 512)
    every = DRAWS[kind](count + 64, width, torch.Generator().manual_seed(0)).numpy()
    return every[:count], every[count:]


def _sorted_products(base: Floats, queries: Floats) -> Any:
    """Multiply by everything, then sort out the largest: what is written first, without a library."""
    scores = queries @ base.T
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    return np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)


def _search(index: Index, queries: Floats) -> Any:
    return index.search(queries, K, fingerprint=NAME)


def _exact(base: Floats, scan: str) -> ExactIndex:
    index = ExactIndex(base.shape[1], fingerprint=NAME, scan=scan)
    index.add(base, fingerprint=NAME)
    return index


@cache
def graph(small: bool) -> HnswIndex:
    """Build the approximate index of the clustered vectors, once in a process: it takes half a minute."""
    base, _ = vectors("clustered", small)
    index = HnswIndex(base.shape[1], fingerprint=NAME)
    index.add(base, fingerprint=NAME)
    return index


def _ways(kind: str, count: int, size: Size) -> Mapping[str, Way]:
    base, queries = vectors(kind, size.small)
    asked = queries[:count]

    def flat() -> Call:
        return partial(FaissFlat(base, threads=torch.get_num_threads()).search, asked, K)

    return {
        "ours": lambda: partial(_search, _exact(base, "auto"), asked),
        "float32": lambda: partial(_search, _exact(base, "float32"), asked),
        "faiss": flat,
        "numpy": lambda: partial(_sorted_products, base, asked),
        "floor": lambda: partial(torch.matmul, torch.from_numpy(asked), torch.from_numpy(base).T),
    }


def _agreement(kind: str, size: Size) -> Mapping[str, float]:
    """Give the share of faiss's ten best that are ours too."""
    base, queries = vectors(kind, size.small)
    found = _search(_exact(base, "auto"), queries).row
    return {"recall": _recall(found, FaissFlat(base, threads=1).search(queries, K).row)}


def _recall(found: NDArray[Any], true: NDArray[Any]) -> float:
    return float(np.mean([len(np.intersect1d(*pair)) / K for pair in zip(found, true, strict=True)]))


def _item(name: str, kind: str, count: int) -> Item:
    return Item(
        name=name,
        about=f"the ten largest dot products among 100,000 × 512 {kind} unit vectors, {count} queries at a time",
        ways=lambda size: _ways(kind, count, size),
        targets=[
            Target("time", 0.65, over="faiss"),
            Target("recall", 0.9999, at_most=False, over=None),
        ],
        floor="the float32 product alone; a product of bfloat16 is below it",
        figures=lambda size: _agreement(kind, size),
        unit=("queries", count),
        needs=("faiss",),
        devices=("cpu",),
    )


def _graph_ways(size: Size) -> Mapping[str, Way]:
    base, queries = vectors("clustered", size.small)
    return {
        "ours": lambda: partial(_search, graph(size.small), queries),
        "faiss": lambda: partial(FaissFlat(base, threads=torch.get_num_threads()).search, queries, K),
    }


def _graph_recall(size: Size) -> Mapping[str, float]:
    base, queries = vectors("clustered", size.small)
    return {"recall": _recall(_search(graph(size.small), queries).row, _search(_exact(base, "auto"), queries).row)}


ITEMS = (
    _item("search-exact", "clustered", 64),
    _item("search-exact-one", "clustered", 1),
    _item("search-exact-uniform", "uniform", 64),
    Item(
        name="search-approximate",
        about="the graph index: about the ten largest dot products among 100,000 × 512 clustered unit vectors, "
        "64 queries at a time",
        ways=_graph_ways,
        targets=[Target("time", 0.05, over="faiss"), Target("recall", 0.98, at_most=False, over=None)],
        figures=_graph_recall,
        unit=("queries", 64),
        needs=("faiss",),
        devices=("cpu",),
    ),
)
