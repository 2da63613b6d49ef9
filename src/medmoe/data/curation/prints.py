"""What an audit keeps of every image: a digest of its pixels, a hash and a thumbnail; made once, kept in a cache."""

from __future__ import annotations

import hashlib
import multiprocessing
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from medmoe.data.curation.hashes import FORM, SIDE, WORDS, digest, is_plain, perceptual_hash, thumbnail
from medmoe.data.images import read_image
from medmoe.data.reading import Reading
from medmoe.errors import DataError

_CHUNK = 64  # images that a worker reads at once
_SCHEMA = pa.schema(
    [("key", pa.binary(16)), ("digest", pa.binary(16)), ("hash", pa.binary(8 * WORDS)), ("thumb", pa.binary(SIDE**2))]
)
_UNREAD = b"\0" * 16


@dataclass(frozen=True)
class Picture:
    """Where an image is.

    Attributes:
        path: The file.
        frame: Of a file of several, as in `medmoe.data.reading.Reading`.
        plane: Of a volume, likewise.
    """

    path: Path
    frame: int | None = None
    plane: str | None = None

    def key(self) -> bytes | None:
        """Give 16 bytes that change with the file's place, size and time; None where there is no such file."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        told = (FORM, str(self.path.resolve()), found.st_size, found.st_mtime_ns, self.frame, self.plane)
        return hashlib.blake2b(repr(told).encode(), digest_size=16, person=b"medmoe-print").digest()


@dataclass(frozen=True)
class Prints:
    """What is kept of N images.

    Attributes:
        digests: [N] 16 bytes, equal where the pixels are.
        hashes: [N, 4] perceptual hashes.
        thumbnails: [N, 64, 64] grey, in a file that is gone when nothing holds them any more.
        plain: [N] whether an image shows nothing.
        problems: Number of an image that can't be read → why.
        cached: How many were in the cache.
    """

    digests: list[bytes]
    hashes: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    plain: NDArray[np.bool_]
    problems: dict[int, str]
    cached: int


def take_prints(pictures: Sequence[Picture], *, cache: Path | None = None, workers: int = 1) -> Prints:
    """Read images, or what a cache has of them.

    Args:
        pictures: The images; one that occurs twice is read once.
        cache: A `.parquet` file of earlier prints, which is made or added to. It holds thumbnails: keep it as the data.
        workers: Processes that read.

    Raises:
        DataError: If the cache is another file, or can't be written. An image that can't be read is no error.
    """
    keys = [picture.key() for picture in pictures]
    at: dict[bytes, list[int]] = {}
    for number, key in enumerate(keys):
        if key is not None:
            at.setdefault(key, []).append(number)
    digests = [_UNREAD] * len(pictures)
    hashes = np.zeros((len(pictures), WORDS), np.uint64)
    with tempfile.TemporaryFile() as file:
        file.truncate(max(len(pictures), 1) * SIDE * SIDE)
        thumbnails = np.memmap(file, np.uint8, "r+", shape=(max(len(pictures), 1), SIDE, SIDE))[: len(pictures)]
    problems = {number: "no such image file" for number, key in enumerate(keys) if key is None}

    def fill(rows: Iterator[dict[str, bytes]]) -> int:
        count = 0
        for row in rows:
            for number in at.pop(row["key"], ()):
                count += 1
                digests[number] = row["digest"]
                hashes[number] = np.frombuffer(row["hash"], "<u8")
                thumbnails[number] = np.frombuffer(row["thumb"], np.uint8).reshape(SIDE, SIDE)
        return count

    cached = 0 if cache is None or not cache.exists() else fill(_rows(cache))
    if at:
        todo = [(key, pictures[numbers[0]]) for key, numbers in at.items()]
        where = {key: list(numbers) for key, numbers in at.items()}
        with _Store(cache) as store:
            for key, made in _made(todo, workers):
                if isinstance(made, str):
                    problems.update(dict.fromkeys(where[key], made))
                else:
                    store.add(made)
                    fill(iter([made]))
    plain = np.zeros(len(pictures), np.bool_)
    for start in range(0, len(pictures), 512):
        plain[start : start + 512] = is_plain(np.asarray(thumbnails[start : start + 512]))
    return Prints(digests, hashes, thumbnails, plain, problems, cached)


def _made(todo: Sequence[tuple[bytes, Picture]], workers: int) -> Iterator[tuple[bytes, dict[str, bytes] | str]]:
    """Read images in chunks, here or in processes."""
    chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
    if workers < 2 or len(chunks) < 2:
        for chunk in chunks:
            yield from _read(chunk)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waves = 4 * workers  # chunks under way at once, so that results don't pile up
        for start in range(0, len(chunks), waves):
            for found in pool.map(_read, chunks[start : start + waves]):
                yield from found


def _read(chunk: Sequence[tuple[bytes, Picture]]) -> list[tuple[bytes, dict[str, bytes] | str]]:
    """Read a chunk: of each image its print, or why there is none."""
    found: list[tuple[bytes, dict[str, bytes] | str]] = []
    made: list[dict[str, bytes]] = []
    thumbnails = []
    for key, picture in chunk:
        try:
            image = read_image(picture.path, reading=Reading(frame=picture.frame, plane=picture.plane))
        except DataError as error:
            found.append((key, error.what))
            continue
        thumbnails.append(thumbnail(image))
        made.append({"key": key, "digest": digest(image), "thumb": thumbnails[-1].tobytes()})
    if made:
        for row, words in zip(made, perceptual_hash(np.stack(thumbnails)), strict=True):
            row["hash"] = words.astype("<u8").tobytes()
    return [*found, *((row["key"], row) for row in made)]


def _rows(cache: Path) -> Iterator[dict[str, bytes]]:
    """Go through a cache."""
    for batch in _open(cache).iter_batches(1024):
        yield from batch.to_pylist()


def _open(cache: Path) -> pq.ParquetFile:
    try:
        found = pq.ParquetFile(cache)
    except (pa.ArrowException, OSError) as error:
        raise _no_cache(cache) from error
    if not found.schema_arrow.equals(_SCHEMA):
        raise _no_cache(cache)
    return found


def _no_cache(cache: Path) -> DataError:
    return DataError("is no cache of an audit", where=str(cache), remedy="name another file, or delete it")


class _Store:
    """Adds prints to a cache: what it held and what is new are written aside, and renamed at the end."""

    def __init__(self, cache: Path | None) -> None:
        self.cache = cache
        self._new: list[dict[str, bytes]] = []
        self._writer: pq.ParquetWriter | None = None
        self._aside: Path | None = None

    def __enter__(self) -> _Store:
        if self.cache is None:
            return self
        if self.cache.suffix != ".parquet":
            raise DataError("isn't a .parquet file", where=str(self.cache), remedy="name the cache NAME.parquet")
        try:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            self._aside = self.cache.with_name(f".{self.cache.name}.{uuid.uuid4().hex[:8]}.tmp")
            self._writer = pq.ParquetWriter(self._aside, _SCHEMA)
            if self.cache.exists():
                for batch in _open(self.cache).iter_batches(1024):
                    self._writer.write_batch(batch)
        except OSError as error:
            raise DataError(f"can't be written ({error.strerror})", where=str(self.cache)) from error
        return self

    def add(self, row: dict[str, bytes]) -> None:
        """Add one print."""
        if self._writer is None:
            return
        self._new.append(row)
        if len(self._new) >= 1024:
            self._flush()

    def _flush(self) -> None:
        if self._writer is not None and self._new:
            self._writer.write_table(pa.Table.from_pylist(self._new, schema=_SCHEMA))
        self._new = []

    def __exit__(self, *error: object) -> None:
        # What was read before a crash or Ctrl-C is kept: the next audit goes on from there.
        if self._writer is None or self._aside is None or self.cache is None:
            return
        self._flush()
        self._writer.close()
        self._aside.replace(self.cache)
