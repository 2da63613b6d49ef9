"""Features of reports on disk: a table of rows that only grows, and an index of which are whose.

A folder holds `rows` (features one after another), `index` (32 bytes an entry) and `about.json`. Rows are written
before the index tells of them, so a crash leaves at most rows that nobody knows of. One process writes; others read,
and see what it adds.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.errors import ModelError
from medmoe.folder import read_json, write_text_atomically

if sys.platform != "win32":
    import fcntl

TYPES = ("float32", "float16")
_ENTRY = np.dtype([("key", "V16"), ("start", "<u8"), ("rows", "<u4"), ("check", "<u4")])


class TextStore:
    """A store of [R, C] arrays under keys of 16 bytes, R differing from key to key.

    When it is full it takes no more. Going through a data set that is larger than the store, again and again, a store
    that replaced its oldest entries would have thrown each away just before its next use; this one keeps serving
    those that it has.

    Args:
        folder: Where it is, or is to be.
        width: C.
        limit: Bytes that rows and index may take together.
        kind: `float32`, or `float16` for half the space.

    Attributes:
        writing: Whether this process may add to it: it is the only one to have it open for that.
        refused: Why new entries aren't kept, or empty.
        broken: Entries found damaged so far; they are forgotten, and kept anew when they come again.

    Raises:
        ModelError: If the folder can't be used, or holds a store of another width or type.
    """

    def __init__(self, folder: Path | str, *, width: int, limit: int, kind: str = "float32") -> None:
        self.folder, self.width, self.limit, self.kind = Path(folder), width, limit, np.dtype(kind)
        self.refused, self.broken = "", 0
        self._entries: dict[bytes, tuple[int, int, int]] = {}  # key → start, rows, checksum
        self._sound: set[bytes] = set()
        self._read_bytes = 0  # of the index
        self._map: NDArray[Any] = np.empty((0, width), self.kind)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_about()
            opened = [os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o666) for name in ("rows", "index", "lock")]
        except OSError as error:
            raise ModelError(f"can't keep text features ({error})", where=str(folder), remedy=_ELSEWHERE) from error
        self._rows, self._index, lock = opened
        self._release = weakref.finalize(self, _close, opened)
        self.writing = _locked(lock)
        if self.writing:
            self._recover()
        self._refresh()

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes taken on disk."""
        return sum((self.folder / name).stat().st_size for name in ("rows", "index"))

    def get(self, key: bytes, rows: int) -> NDArray[Any] | None:
        """Give the [rows, C] array of a key, mapped from disk; None if it isn't there or is damaged."""
        entry = self._entries.get(key)
        if entry is None and not self.writing:
            self._refresh()
            entry = self._entries.get(key)
        if entry is None:
            return None
        start, count, check = entry
        table = self._table(start + count)
        found = table[start : start + count]
        if key not in self._sound:
            if count != rows or len(found) != rows or zlib.crc32(found.tobytes()) != check:
                self.broken += 1
                del self._entries[key]
                return None
            self._sound.add(key)
        return found

    def put(self, key: bytes, values: NDArray[Any]) -> None:
        """Keep an [R, C] array, unless the store is another's, full, or its disk is."""
        if self.refused or not self.writing or key in self._entries:
            return
        data = np.ascontiguousarray(values, self.kind).tobytes()
        size = self.size
        if size + len(data) + _ENTRY.itemsize > self.limit:
            self.refused = f"full: {size / 2**20:.0f} MiB of {self.limit / 2**20:.0f}"
            return
        end, told = (os.fstat(file).st_size for file in (self._rows, self._index))
        entry = (end // self._row_bytes, len(values), zlib.crc32(data))
        try:
            _write(self._rows, end, data)
            _write(self._index, told, np.array((key, *entry), _ENTRY).tobytes())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self._rows, end)
                os.truncate(self._index, told)
            self.refused = f"can't write ({error.strerror or error})"
            return
        self._entries[key] = entry
        self._sound.add(key)
        self._read_bytes = told + _ENTRY.itemsize

    def close(self) -> None:
        """Let another process write; this one can't any more, and may go on to read."""
        self.writing = False
        self._release()

    @property
    def _row_bytes(self) -> int:
        return self.width * self.kind.itemsize

    def _check_about(self) -> None:
        path, own = self.folder / "about.json", {"format": 1, "width": self.width, "type": self.kind.name}
        if not path.exists():
            write_text_atomically(path, json.dumps(own) + "\n")
        elif (found := read_json(path)) != own:
            raise ModelError(f"text features of another kind: {found}, not {own}", where=str(path), remedy=_ELSEWHERE)

    def _recover(self) -> None:
        """Cut off what a crash left half written: part of an index entry, rows that no entry tells of."""
        index, rows = self.folder / "index", self.folder / "rows"
        whole = index.stat().st_size // _ENTRY.itemsize * _ENTRY.itemsize
        os.truncate(index, whole)
        entries = np.fromfile(index, _ENTRY)
        end = int((entries["start"] + entries["rows"]).max(initial=0)) * self._row_bytes
        os.truncate(rows, min(end, rows.stat().st_size) // self._row_bytes * self._row_bytes)

    def _refresh(self) -> None:
        """Read what was added to the index since the last time."""
        path = self.folder / "index"
        if path.stat().st_size - self._read_bytes < _ENTRY.itemsize:
            return
        with path.open("rb") as file:
            file.seek(self._read_bytes)
            data = file.read()
        new = np.frombuffer(data[: len(data) // _ENTRY.itemsize * _ENTRY.itemsize], _ENTRY)
        self._read_bytes += new.nbytes
        keys = (key.tobytes() for key in new["key"])
        rest = zip(new["start"].tolist(), new["rows"].tolist(), new["check"].tolist(), strict=True)
        self._entries.update(zip(keys, rest, strict=True))

    def _table(self, end: int) -> NDArray[Any]:
        """Map the rows, again when they have grown beyond `end`."""
        if end > len(self._map):
            path = self.folder / "rows"
            count = path.stat().st_size // self._row_bytes
            if count:
                self._map = np.memmap(path, self.kind, mode="r", shape=(count, self.width))
        return self._map


_ELSEWHERE = "give another --text-cache, delete the folder, or train with --set train.text_cache=false"


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _locked(file: int) -> bool:
    if sys.platform == "win32":  # has no such lock: there a folder is to be one process's at a time
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _write(file: int, start: int, data: bytes) -> None:
    """Write all of it: a write to a disk that gets full may take a part only."""
    os.lseek(file, start, os.SEEK_SET)
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
