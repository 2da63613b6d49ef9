"""Reading the files of a scan in several processes, each file once: what is known of it outlives a kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO

from medmoe.data.curation.scan_file import UNREADABLE, Record, read_record
from medmoe.data.curation.scan_walk import Found
from medmoe.errors import DataError

Reader = Callable[[str], Record]

FORMAT = 1  # of what is kept; another number, and files are read again
_CHUNK = 16  # files handed to a process at a time
_AHEAD = 4  # chunks that a process has waiting
_CRASHED = "reading it crashed the program that decodes it"


@dataclass
class Memory:
    """What is known of files from this scan and the last: one JSON line a file, written as soon as it is known.

    A file is known as long as its path, size and time of change stay, and it was read as thoroughly as is asked for.

    Args:
        path: The file of lines; a line that a kill has cut off is ignored.
        thorough: Whether pixels are read.
        forget: Whether to begin anew.
    """

    path: Path
    thorough: bool
    forget: bool = False
    records: dict[tuple[str, int, int], Record] = field(default_factory=dict)
    _file: IO[str] | None = None

    def __enter__(self) -> Memory:
        """Load what is known, and open the file for more."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            whole = True
            if self.path.exists() and not self.forget:
                whole = self._load()
            self._file = self.path.open("w" if self.forget else "a", encoding="utf-8")
            if not whole:
                self._file.write("\n")
        except OSError as error:
            raise DataError(
                f"can't be written ({error.strerror})", where=str(self.path), remedy="give another --out"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def get(self, found: Found) -> Record | None:
        """Give what is known of a file, if it is the same still."""
        return self.records.get((found.path, found.size, found.changed))

    def add(self, found: Found, record: Record) -> None:
        """Keep what was found out."""
        self.records[found.path, found.size, found.changed] = record
        if self._file is not None:
            key = {"format": FORMAT, "thorough": self.thorough, "path": found.path, "size": found.size}
            line = json.dumps(key | {"changed": found.changed, "record": record.as_dict()})
            self._file.write(line + "\n")
            self._file.flush()

    def _load(self) -> bool:
        """Load the lines that can be used; say whether the last one is whole."""
        line = "\n"
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    values = json.loads(line)
                    if values["format"] == FORMAT and values["thorough"] >= self.thorough:
                        key = (values["path"], values["size"], values["changed"])
                        self.records[key] = Record.from_dict(values["record"])
                except (ValueError, KeyError, TypeError):
                    continue  # cut off, or of another version: the file is read again
        return line.endswith("\n")


def read_all_of(
    root: str, found: Iterable[Found], *, workers: int, reader: Reader = read_record
) -> Iterator[tuple[Found, Record]]:
    """Read files, in whatever order they come to an end.

    A file that takes its process down with it (a decoder's crash, the memory's end) is told as unreadable, and the
    others are read all the same.

    Args:
        root: The folder they are in.
        found: The files.
        workers: Processes; 1 reads in this one.
        reader: What reads one; must be importable by a process.
    """
    if workers <= 1:
        for one in found:
            yield one, reader(_within(root, one))
        return
    queue = iter(found)
    unread: list[Found] = []
    while True:
        yield from _read_chunks(root, queue, workers, reader, unread)
        if not unread:
            return
        yield from _read_one_by_one(root, unread, reader)  # a process was lost: find the file that did it
        unread = []


def _read_chunks(
    root: str, found: Iterator[Found], workers: int, reader: Reader, unread: list[Found]
) -> Iterator[tuple[Found, Record]]:
    """Read chunks of files; when a process is lost, list those that weren't finished and stop."""
    running: dict[Future[list[Record]], list[Found]] = {}
    with _pool(workers) as pool:
        chunk: list[Found] = []
        try:
            while True:
                while len(running) < workers * _AHEAD and (chunk := list(islice(found, _CHUNK))):
                    running[pool.submit(_read_some, [_within(root, one) for one in chunk], reader)] = chunk
                    chunk = []
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    records = future.result()
                    yield from zip(running.pop(future), records, strict=True)
        except BrokenProcessPool:
            unread += [one for part in (*running.values(), chunk) for one in part]


def _read_one_by_one(root: str, found: Sequence[Found], reader: Reader) -> Iterator[tuple[Found, Record]]:
    """Read files one after another in one process, and in a new one after each file that it was lost with."""
    left = iter(found)
    one = next(left, None)
    while one is not None:
        with _pool(1) as pool:
            while one is not None:
                try:
                    record = pool.submit(reader, _within(root, one)).result()
                except BrokenProcessPool:
                    yield one, Record(UNREADABLE, _CRASHED)
                    one = next(left, None)
                    break
                yield one, record
                one = next(left, None)


def _read_some(paths: Sequence[str], reader: Reader) -> list[Record]:
    return [reader(path) for path in paths]


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: a kill of that would leave it waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _within(root: str, found: Found) -> str:
    return f"{root}/{found.path}"


def reader_of(*, pixels: bool) -> Reader:
    """Give what reads a file, with or without its pixels."""
    return partial(read_record, pixels=pixels)
