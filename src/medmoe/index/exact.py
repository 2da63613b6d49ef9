"""Exact search: a fast scan in bfloat16 that can't lose a vector, and the few that are left scored in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medmoe.errors import ConfigError, unknown
from medmoe.folder import write_atomically
from medmoe.index.base import Hits, Vectors, asked_of, check_index_replaceable, checked, read_vectors, write_facts

VECTORS = "vectors.npy"
SCANS = ("auto", "bf16", "float32")
GROUP = 64  # neighbouring rows of which only the largest score is looked at first
SCORES = 1 << 23  # rough scores at a time: what bounds the memory
QUERIES = 256  # queries at a time
ROWS = 1 << 14  # rows rounded at a time
PAIRS = 512  # pairs of query and row scored in float64 at a time: they stay in the cache
PENDING = 1 << 18  # pairs that wait to be scored until more is known

Floats = NDArray[np.float64]


class ExactIndex:
    """The k largest dot products, exactly: float64 sums rounded to float32, and of equal ones the lower row first.

    Every score is first computed roughly, block by block, with matrix products of bfloat16 where the processor
    has them. The error of such a score is bounded: with x̃ and q̃ the rounded vectors, |q·x - q̃·x̃| ≤ ‖q‖ ‖x - x̃‖ +
    ‖q - q̃‖ ‖x̃‖ by Cauchy and Schwarz, and summing in float32 adds at most E · 2^-24 ‖q‖ ‖x‖. A row whose rough score
    lies further than that below the k-th best so far can't be among the k best. The others, a few more than k, are
    scored in float64. So results don't depend on the block, the batch of queries or the number of threads.

    Rows are looked at in groups of 64, by the largest rough score of each: a pass over memory instead of a sort.
    Memory beyond the vectors is bounded: 2^23 rough scores at a time.

    Args:
        width: E.
        fingerprint: Of the embedding.
        scan: `bf16` keeps a copy of the vectors in half the memory; `float32` scans the vectors themselves; `auto`
            takes what the processor is made for.

    Raises:
        ConfigError: If the scan is unknown.
    """

    kind: ClassVar[str] = "exact"

    def __init__(self, width: int, *, fingerprint: str, scan: str = "auto") -> None:
        if scan not in SCANS:
            raise ConfigError(unknown("scan", scan, SCANS), where="index.scan")
        self.width, self.fingerprint, self.scan = width, fingerprint, scan
        self._half = scan == "bf16" or (scan == "auto" and _has_bf16())
        self._parts: list[NDArray[np.float32]] = []
        self._rough: Tensor | None = None
        self._error = self._longest = 0.0  # max ‖x - x̃‖ and max ‖x‖

    def __len__(self) -> int:
        """Count the vectors."""
        return sum(len(part) for part in self._parts)

    def add(self, vectors: Vectors, *, fingerprint: str) -> None:
        """Append vectors [n, E].

        Raises:
            DataError: If they are of another embedding or width, or not finite.
        """
        rows = checked(vectors, width=self.width, fingerprint=fingerprint, own=self.fingerprint, first=len(self))
        self._parts.append(rows)
        self._rough = None

    def search(self, queries: Vectors, k: int = 10, *, fingerprint: str) -> Hits:
        """Find the k vectors with the largest dot products with each query; all where there are fewer.

        Raises:
            DataError: If the queries are of another embedding or width, or not finite, or k is below 1.
        """
        asked, k = asked_of(self, queries, k, fingerprint=fingerprint)
        rough = self._scanned()
        score = np.full((len(asked), k), -np.inf, np.float32)
        row = np.full((len(asked), k), -1, np.int64)
        if k:
            with torch.inference_mode():
                for start in range(0, len(asked), QUERIES):
                    part = slice(start, start + QUERIES)
                    score[part], row[part] = self._search(asked[part], rough, k)
        return Hits(score, row)

    def save(self, folder: Path) -> None:
        """Write `index.json` and `vectors.npy`.

        Raises:
            ModelError: If something other than an index is in the folder.
        """
        check_index_replaceable(folder)

        def fill(aside: Path) -> None:
            shape = (len(self), self.width)
            file = np.lib.format.open_memmap(aside / VECTORS, mode="w+", dtype=np.float32, shape=shape)
            start = 0
            for part in self._parts:
                file[start : start + len(part)] = part
                start += len(part)
            file.flush()
            facts = {"kind": self.kind, "fingerprint": self.fingerprint, "width": self.width, "count": len(self)}
            write_facts(aside, {**facts, "scan": self.scan})

        write_atomically(folder, fill)

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> ExactIndex:
        """Open a saved index; its vectors stay on disk until they are read.

        Raises:
            DataError: If the vectors can't be read.
        """
        index = cls(facts["width"], fingerprint=facts["fingerprint"], scan=facts["scan"])
        index._parts.append(read_vectors(folder / VECTORS, facts["count"], facts["width"]))
        return index

    def _scanned(self) -> Tensor:
        """Give the vectors as they are scanned [n, E], made when they are first needed."""
        if self._rough is not None:
            return self._rough
        if len(self._parts) != 1:
            every = np.concatenate(self._parts) if self._parts else np.zeros((0, self.width), np.float32)
            self._parts = [every]
        vectors = self._parts[0]
        rough = torch.empty(vectors.shape, dtype=torch.bfloat16) if self._half else torch.from_numpy(vectors)
        error = longest = 0.0
        for start in range(0, len(vectors), ROWS):
            block = torch.from_numpy(vectors[start : start + ROWS])
            longest = max(longest, float(torch.linalg.vector_norm(block, dim=1).max()))
            if self._half:
                part = rough[start : start + ROWS]
                part.copy_(block)
                error = max(error, float(torch.linalg.vector_norm(block - part.float(), dim=1).max()))
        self._rough, self._error, self._longest = rough, error, longest
        return rough

    def _search(
        self, asked: NDArray[np.float32], rough: Tensor, k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        query = torch.from_numpy(asked)
        seen = query.to(rough.dtype)
        found = _Found(len(asked), k, self._slack(query, seen), rough.dtype)
        pending: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        block = SCORES // len(asked)
        for start in range(0, len(rough), block):
            scores = _product(seen, rough[start : start + block])  # [Q, R]
            owner, row, score = found.left(scores)
            pending.append((owner, row + start, score))
            if sum(len(part[0]) for part in pending) > PENDING:
                self._settle(asked, found, pending)
        self._settle(asked, found, pending)
        return found.best, found.rows

    def _settle(self, asked: NDArray[np.float32], found: _Found, pending: list[Any]) -> None:
        """Score the pairs that may still be among the best in float64, rounded to float32."""
        owner, row, score = (np.concatenate(part) for part in zip(*pending, strict=True))
        pending.clear()
        likely = score >= found.bound().float().numpy()[owner]
        owner, row = owner[likely], row[likely]
        for start in range(0, len(owner), PAIRS):
            own, near = owner[start : start + PAIRS], row[start : start + PAIRS]
            left, right = (torch.from_numpy(part).double() for part in (asked[own], self._parts[0][near]))
            found.merge(own, near, (left * right).sum(dim=1).float().numpy())

    def _slack(self, query: Tensor, seen: Tensor) -> Tensor:
        """Bound the error of each query's rough scores, [Q] float64, before they are rounded to the scan's type."""
        length = torch.linalg.vector_norm(query.double(), dim=1)
        lost = torch.linalg.vector_norm((query - seen.float()).double(), dim=1)
        longest = self._longest * (1 + 1e-6) + self._error
        slack: Tensor = length * self._error + lost * longest + (self.width + 2) * 2.0**-24 * (length + lost) * longest
        slack += 2.0**-23 * length * longest  # results are rounded to float32
        return slack


class _Found:
    """The best of each query so far, and below which rough score no row can be among them.

    Args:
        queries: Q.
        k: How many are kept of each.
        slack: [Q] float64 bound of the error of rough scores before they are rounded.
        dtype: What they are rounded to.

    Attributes:
        best: [Q, k] float32 scores, the largest first.
        rows: [Q, k] their rows.
    """

    def __init__(self, queries: int, k: int, slack: Tensor, dtype: torch.dtype) -> None:
        self.k, self.slack, self.dtype = k, slack.numpy(), dtype
        self.best = np.full((queries, k), -np.inf, np.float32)
        self.rows = np.full((queries, k), np.iinfo(np.int64).max, np.int64)
        self._peaks = np.full((queries, k), -np.inf, np.float32)  # the k largest of the groups' largest rough scores

    def bound(self) -> Tensor:
        """Give the rough score [Q] that a row among the k best has at least.

        At least k rows have a rough score of the k-th peak, so exact scores of nearly that: up to the rounding of a
        rough score to its type, and the slack.
        """
        kth = self._peaks.min(axis=1).astype(np.float64)
        least = np.maximum(kth - np.abs(kth) * 2.0**-7 - self.slack, self.best[:, -1]) - self.slack
        # rounding keeps the order: a score of at least `least` is rounded to at least the rounded `least`
        return torch.from_numpy(np.nextafter(least.astype(np.float32), np.float32(-np.inf))).to(self.dtype)

    def left(self, scores: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Give the pairs (query, row of the block) that may be among the k best, and their rough scores.

        Args:
            scores: [Q, R] of a block of rows.
        """
        count = scores.shape[1]
        step = count // GROUP  # a group is every step-th row; the rows left over are one more
        peaks = scores[:, : step * GROUP].view(-1, GROUP, step).amax(dim=1) if step else scores[:, :0]
        if step * GROUP < count:
            peaks = torch.cat([peaks, scores[:, step * GROUP :].amax(dim=1, keepdim=True)], dim=1)
        every = np.concatenate([self._peaks, peaks.float().numpy()], axis=1)
        self._peaks = np.partition(every, -self.k, axis=1)[:, -self.k :]
        bound = self.bound()
        query, group = (peaks >= bound[:, None]).nonzero(as_tuple=True)
        place = torch.arange(GROUP)
        row = torch.where(group[:, None] < step, group[:, None] + step * place, step * GROUP + place)  # [n, 64]
        near = scores[query[:, None], row.clamp(max=count - 1)]
        which, at = ((near >= bound[query, None]) & (row < count)).nonzero(as_tuple=True)
        return query[which].numpy(), row[which, at].numpy(), near[which, at].float().numpy()

    def merge(self, query: NDArray[np.int64], row: NDArray[np.int64], score: NDArray[np.float32]) -> None:
        """Put scored pairs among the k best of each query: the larger score first, of equal ones the lower row."""
        queries, k = self.best.shape
        owner = np.concatenate([np.repeat(np.arange(queries), k), query])
        every_score, every_row = np.concatenate([self.best.ravel(), score]), np.concatenate([self.rows.ravel(), row])
        order = np.lexsort((every_row, -every_score, owner))
        begins = np.searchsorted(owner[order], np.arange(queries))
        kept = order[(begins[:, None] + np.arange(k)).ravel()]
        self.best, self.rows = every_score[kept].reshape(queries, k), every_row[kept].reshape(queries, k)


def _product(seen: Tensor, rough: Tensor) -> Tensor:
    """Multiply [Q, E] by [R, E] to [Q, R]; of float32 with numpy, whose products no setting of torch's rounds."""
    return seen @ rough.T if rough.dtype == torch.bfloat16 else torch.from_numpy(seen.numpy() @ rough.numpy().T)


def _has_bf16() -> bool:
    """Tell whether the processor multiplies matrices of bfloat16 faster than of float32."""
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return known is not None and bool(known())
