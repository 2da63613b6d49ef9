"""The files of a folder tree, in one order, without walking in circles and without stopping at what can't be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

_OURS = (".scan.jsonl", ".quarantine.jsonl")  # what scans write beside a manifest


@dataclass(frozen=True, slots=True)
class Found:
    """A file, or a folder that can't be entered.

    Attributes:
        path: Below the root, with `/` between its parts; bytes that aren't UTF-8 are kept as Python keeps them.
        size: In bytes.
        changed: When it was last changed, in nanoseconds.
        trouble: Why it can't be used, whatever is in it; None where nothing is known against it.
    """

    path: str
    size: int = 0
    changed: int = 0
    trouble: str | None = None


def walk(root: str, *, skip: frozenset[str] = frozenset()) -> Iterator[Found]:
    """Walk a tree: folders and files by name, links followed, each folder entered once.

    Args:
        root: The folder.
        skip: Paths that are left out: what the scan itself writes.
    """
    yield from _walk(root, "", set(), skip)


def _walk(root: str, below: str, seen: set[tuple[int, int]], skip: frozenset[str]) -> Iterator[Found]:
    folder = os.path.join(root, below) if below else root  # noqa: PTH118 - names may be no valid text
    try:
        here = os.stat(folder)  # noqa: PTH116
        if (here.st_dev, here.st_ino) in seen:
            yield Found(below, trouble="a link to a folder that is in the tree already")
            return
        seen.add((here.st_dev, here.st_ino))
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield Found(below or ".", trouble=f"the folder can't be read ({error.strerror})")
        return
    for entry in ordered:
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.path in skip:
            continue
        try:
            facts = entry.stat()
        except OSError as error:
            yield Found(path, trouble=f"can't be read ({error.strerror})")
            continue
        if stat.S_ISDIR(facts.st_mode):
            yield from _walk(root, path, seen, skip)
        elif not stat.S_ISREG(facts.st_mode):
            yield Found(path, trouble="a device or a pipe, not a file")
        elif not entry.name.endswith(_OURS):
            yield Found(path, facts.st_size, facts.st_mtime_ns, _trouble(path))


def _trouble(path: str) -> str | None:
    """Say why a manifest can't name a file."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "its name isn't UTF-8 text; rename it"
    if path != path.strip():
        return "its name begins or ends with a blank; rename it"
    return None
