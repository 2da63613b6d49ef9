"""Files of a tar as Python's own module reads them."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path


def read_through(path: Path) -> int:
    """Read every file of a tar from its beginning to its end; gives the bytes read."""
    total = 0
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            total += 0 if file is None else len(file.read())
    return total


def read_by_name(path: Path, names: Sequence[str]) -> int:
    """Read files of a tar by name, in the order given; gives the bytes read."""
    with tarfile.open(path) as tar:
        found = {member.name: member for member in tar.getmembers()}  # its own search by name is linear
        return _read(tar, [found[name] for name in names])


def read_known(path: Path, members: Sequence[tarfile.TarInfo]) -> int:
    """Read files of a tar that an earlier opening has listed; gives the bytes read."""
    with tarfile.open(path) as tar:
        return _read(tar, members)


def _read(tar: tarfile.TarFile, members: Sequence[tarfile.TarInfo]) -> int:
    total = 0
    for member in members:
        file = tar.extractfile(member)
        total += 0 if file is None else len(file.read())
    return total
