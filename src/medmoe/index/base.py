"""What every index keeps: vectors of one embedding, checked as they come, saved in a folder without pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medmoe.errors import DataError
from medmoe.folder import read_json

FACTS = "index.json"
Vectors = Tensor | NDArray[Any]


@dataclass(frozen=True, slots=True)
class Hits:
    """What was found for each query, the best first.

    Attributes:
        score: [Q, k] float32 dot products.
        row: [Q, k] int64 numbers of the vectors, in the order in which they were added.
    """

    score: NDArray[np.float32]
    row: NDArray[np.int64]


class Index(Protocol):
    """Vectors of one embedding that are searched by dot product, which for unit vectors is the cosine."""

    kind: ClassVar[str]
    width: int
    fingerprint: str

    def __len__(self) -> int:
        """Count the vectors."""
        ...

    def add(self, vectors: Vectors, *, fingerprint: str) -> None:
        """Append vectors [n, E]; see `checked` for what is refused."""
        ...

    def search(self, queries: Vectors, k: int = 10, *, fingerprint: str) -> Hits:
        """Find the k vectors with the largest dot products with each query [Q, E]; all where there are fewer."""
        ...

    def save(self, folder: Path) -> None:
        """Write the index into an empty or missing folder, or over an older index."""
        ...


def checked(vectors: Vectors, *, width: int, fingerprint: str, own: str, first: int = 0) -> NDArray[np.float32]:
    """Give vectors as a float32 array of rows.

    Args:
        vectors: [n, E] numbers, or one vector [E].
        width: E of the index.
        fingerprint: Of the embedding that the vectors are of.
        own: Of the embedding that the index is of.
        first: Number of the first vector, for messages.

    Raises:
        DataError: If they are of another embedding or width, no numbers, or not finite.
    """
    if fingerprint != own:
        raise DataError(
            f"vectors of the embedding {fingerprint!r}, the index holds {own!r}",
            remedy="embed them with the model that the index was built with",
        )
    array = np.asarray(vectors.detach().cpu().float() if isinstance(vectors, Tensor) else vectors)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != width or array.dtype.kind != "f":
        raise DataError(f"vectors of shape {list(array.shape)} and type {array.dtype}, allowed: floats [n, {width}]")
    rows = np.ascontiguousarray(array, np.float32)
    good = np.isfinite(rows).all(axis=1)
    if not good.all():
        raise DataError(f"vector {first + int(np.argmin(good))} holds NaN or infinity", remedy="leave it out")
    return rows


def asked_of(index: Index, queries: Vectors, k: int, *, fingerprint: str) -> tuple[NDArray[np.float32], int]:
    """Give queries as `checked` does, and how many vectors can be found for each: at most all.

    Raises:
        DataError: If the queries are of another embedding or width, or not finite, or k is below 1.
    """
    if k < 1:
        raise DataError(f"k = {k}, allowed: 1 or more")
    asked = checked(queries, width=index.width, fingerprint=fingerprint, own=index.fingerprint)
    return asked, min(k, len(index))


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write what an index is into its folder."""
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """Read what the index of a folder is.

    Raises:
        ModelError: If there is no index.
    """
    return read_json(folder / FACTS)


def check_index_replaceable(folder: Path) -> None:
    """Make sure that writing an index here destroys nothing but an earlier index.

    Raises:
        DataError: If something else is here.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.is_file() or (names and FACTS not in names):
        raise DataError("something other than an index is here", where=str(folder), remedy="give a new or empty folder")


def read_vectors(path: Path, count: int, width: int) -> NDArray[np.float32]:
    """Open saved vectors [n, E] without reading them; writing to the array wouldn't reach the file.

    Raises:
        DataError: If the file is missing, cut short, or not what the index says it is.
    """
    try:
        vectors: NDArray[np.float32] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"can't be read ({error})", where=str(path), remedy="build the index again") from None
    if vectors.shape != (count, width) or vectors.dtype != np.float32:
        raise DataError(
            f"holds {vectors.dtype} {list(vectors.shape)}, the index says float32 [{count}, {width}]",
            where=str(path),
            remedy="build the index again",
        )
    return vectors
