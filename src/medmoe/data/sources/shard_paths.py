"""Which tars a part of a command line means: one, a range, a folder of them, or one with a folder for each split."""

from __future__ import annotations

import re
from pathlib import Path

from medmoe.data.sources.manifest_table import NAMES
from medmoe.data.sources.shard_folder import refuse_unfinished
from medmoe.errors import DataError

_TAR = (".tar", ".tgz")  # a compressed one is refused with what to do about it


def find_shards(part: str) -> list[Path] | None:
    """Find the tars that a part of a command line means.

    Args:
        part: A tar, a pattern such as `DIR/{00..10}.tar` or `DIR/{train,more}-{0..9}.tar`, or a folder with tars and
            without a manifest.

    Returns:
        Their paths, whether they exist or not; None where no tar is meant.

    Raises:
        DataError: If the folder's shards aren't all written yet.

    >>> [str(path) for path in find_shards("d/{08..10}.tar")]
    ['d/08.tar', 'd/09.tar', 'd/10.tar']
    """
    paths = [Path(path) for path in _expand(part)]
    if all(any(suffix in _TAR for suffix in path.suffixes) for path in paths):
        return paths
    folder = paths[0]
    if len(paths) > 1 or not folder.is_dir() or any((folder / name).is_file() for name in NAMES):
        return None
    tars = sorted(folder.glob("*.tar"))
    if tars:
        refuse_unfinished(folder)
    return tars or None


def find_split_shards(part: str, split: str | None) -> list[Path] | None:
    """Find the tars of a split, or of all, in a folder with a folder for each, as `medmoe data shard` writes them.

    Args:
        part: The folder.
        split: The split; None for all.

    Returns:
        Their paths; None where the folder isn't such a one.

    Raises:
        DataError: If it hasn't that split, or isn't all written yet.
    """
    folder = Path(part)
    if not folder.is_dir() or any((folder / name).is_file() for name in NAMES):
        return None
    tars = {path.name: sorted(path.glob("*.tar")) for path in sorted(folder.iterdir()) if path.is_dir()}
    tars = {name: paths for name, paths in tars.items() if paths}
    if not tars:
        return None
    if split is not None and split not in tars:
        what = f"no split {split!r}; the folder has: {', '.join(tars)}"
        raise DataError(what, where=part, remedy="ask for one of these, or for no split (--split all)")
    chosen = [path for name, paths in tars.items() if split in (None, name) for path in paths]
    for path in dict.fromkeys(path.parent for path in chosen):
        refuse_unfinished(path)
    return chosen


def _expand(pattern: str) -> list[str]:
    """Write out `{00..10}` and `{a,b}`."""
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if found is None:
        return [pattern]
    first, last, listed = found.groups()
    if listed is None and int(first) > int(last):
        raise DataError(f"{found[0]} counts down", where=pattern, remedy="write the smaller number first")
    values = listed.split(",") if first is None else [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    return [path for value in values for path in _expand(pattern[: found.start()] + value + pattern[found.end() :])]
