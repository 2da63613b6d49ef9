"""Where each sample's files lie in a tar: found once, kept beside it, good as long as the tar's size and time stay.

The layout is that of WebDataset (https://github.com/webdataset/webdataset): files that follow each other and share
their name up to the first dot are one sample. The index is an Arrow file, with nothing in it to execute.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medmoe.errors import DataError

VERSION = 1
SUFFIX = ".index"

_LOG = logging.getLogger(__name__)
_BLOCK = 512
_EXTENSIONS = 1000
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # key and extension, which begins at the first dot of the file's name
_META = re.compile(r"__[^/]*__($|/)")  # WebDataset's notes to itself
_WHOLE = "copy or download the tar again"
_REMEDY = f"{_WHOLE}, or use the samples before that with --on-bad-sample skip"

Ints = NDArray[np.int64]


class CutError(DataError):
    """A tar that is truncated or damaged, but good up to there.

    Attributes:
        member: The file in which it is cut, where that is known.
    """

    member: str | None = None


@dataclass(frozen=True, slots=True)
class TarIndex:
    """The samples of a tar, in its order.

    Attributes:
        keys: [n] names of the samples.
        first: [n + 1] where each sample's files begin in the next three.
        code: [m] which of `extensions` each file has.
        offset: [m] where its bytes begin in the tar.
        length: [m] how many they are.
        extensions: Extensions in lower case, without a dot.
        cut: Why the tar ends before its end, if it does; its last sample then stands for all that is missing.
    """

    keys: pa.StringArray
    first: Ints
    code: NDArray[np.int16]
    offset: Ints
    length: Ints
    extensions: tuple[str, ...]
    cut: CutError | None = None

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.first) - 1

    def files(self, row: int) -> dict[str, tuple[int, int]]:
        """Give where the bytes of a sample's files begin and end in the tar, by extension."""
        part = slice(self.first[row], self.first[row + 1])
        places = zip(self.code[part].tolist(), self.offset[part].tolist(), self.length[part].tolist(), strict=True)
        return {self.extensions[code]: (offset, offset + length) for code, offset, length in places}


def open_index(path: Path, salvage: bool = False) -> TarIndex:
    """Read the index of a tar, after making it where there is none or the tar has changed since.

    It lies beside the tar (`NAME.tar.index`), or in `~/.cache/medmoe/shards` where that folder can't be written to.

    Args:
        path: The tar.
        salvage: Whether what comes before a cut or a broken header is taken; see `TarIndex.cut`.

    Raises:
        DataError: If the tar is missing, compressed, truncated or damaged, or a file in it has a name or kind that
            isn't allowed; the file in it is named.
    """
    if not path.is_file():
        what = "is a folder, not a tar" if path.is_dir() else "no such tar"
        raise DataError(what, where=str(path), remedy="check the path")
    state = path.stat()
    stamp = {"version": VERSION, "size": state.st_size, "mtime_ns": state.st_mtime_ns}
    places = [path.with_name(path.name + SUFFIX), _cache() / _cached_name(path)]
    for place in places:
        found = _load(place, stamp)
        if found is not None and found.cut is not None and not salvage:
            raise found.cut
        if found is not None:
            return found
    table = _table(path, stamp, salvage)
    for place in places:
        try:
            _write(table, place)
            break
        except OSError as error:
            _LOG.info("%s: the index can't be kept there (%s)", place, error.strerror)
    return _of(table, stamp["size"])


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medmoe" / "shards"


def _cached_name(path: Path) -> str:
    """Name a tar's index in the cache, where tars of several folders may have one name."""
    whole = hashlib.blake2b(str(path.resolve()).encode(), digest_size=8).hexdigest()
    return f"{path.name}-{whole}{SUFFIX}"


def _load(place: Path, stamp: dict[str, int]) -> TarIndex | None:
    """Map an index into memory; None where there is none for the tar as it is now."""
    try:
        with pa.memory_map(str(place)) as file:
            table = pa.ipc.open_file(file).read_all()
        table.validate(full=True)
        about = json.loads((table.schema.metadata or {}).get(b"medmoe", b"{}"))
        return _of(table, stamp["size"]) if stamp.items() <= about.items() else None
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None


def _of(table: pa.Table, size: int) -> TarIndex:
    """Take an index out of its table.

    Raises:
        ValueError: If it points outside a tar of that size.
    """
    about = json.loads(table.schema.metadata[b"medmoe"])
    table = table.combine_chunks()
    keys, code, offset, length = (
        table[name].chunk(0) if table.num_rows else table[name].combine_chunks()
        for name in ("key", "code", "offset", "length")
    )
    index = TarIndex(
        keys=keys,
        first=np.asarray(offset.offsets, np.int64),
        code=code.values.to_numpy(),
        offset=offset.values.to_numpy(),
        length=length.values.to_numpy(),
        extensions=tuple(about["extensions"]),
        cut=None if about.get("cut") is None else CutError(about["cut"][0], where=about["cut"][1], remedy=_REMEDY),
    )
    if not pa.types.is_string(keys.type):
        raise ValueError("keys that aren't text")
    if not isinstance(about["extensions"], list) or not all(isinstance(name, str) for name in index.extensions):
        raise ValueError("extensions that aren't text")
    if not all(np.array_equal(column.offsets, index.first) for column in (code, length)):
        raise ValueError("columns of other lengths")
    ends = index.offset + index.length
    if min(index.offset.min(initial=0), index.length.min(initial=0)) < 0 or ends.max(initial=0) > size:
        raise ValueError("offsets outside the tar")
    if index.code.min(initial=0) < 0 or index.code.max(initial=-1) >= len(index.extensions):
        raise ValueError("an extension that isn't listed")
    return index


def _write(table: pa.Table, place: Path) -> None:
    """Write aside, then rename, so that two runs that start together don't disturb each other."""
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with pa.OSFile(str(aside), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        aside.replace(place)
    finally:
        aside.unlink(missing_ok=True)


def _table(path: Path, stamp: dict[str, int], salvage: bool = False) -> pa.Table:
    """Go through the headers of a tar: one row a sample, one without files for what a cut took away."""
    rows: dict[str, list[Any]] = {"key": [], "code": [], "offset": [], "length": []}
    extensions: dict[str, int] = {}
    cut: CutError | None = None
    try:
        _list(path, rows, extensions)
    except CutError as error:
        found = _NAME.fullmatch(error.member or "")
        if found is not None and found[1] not in rows["key"][-1:]:  # the sample before it is whole
            rows["key"].append(found[1])
        if not salvage or len(rows["key"]) < 2:
            raise
        cut = error
        for name in ("code", "offset", "length"):
            rows[name][len(rows["key"]) - 1 :] = [[]]  # nobody knows whether all its files are there
    about = json.dumps({**stamp, "extensions": list(extensions), "cut": None if cut is None else [cut.what, cut.where]})
    kinds = {"key": pa.string(), "code": pa.list_(pa.int16())}
    kinds |= dict.fromkeys(("offset", "length"), pa.list_(pa.int64()))
    return pa.table(rows, pa.schema(list(kinds.items()), metadata={"medmoe": about}))


def _list(path: Path, rows: dict[str, list[Any]], extensions: dict[str, int]) -> None:
    """Put a tar's files down, sample by sample, as far as it is whole."""
    seen: set[str] = set()
    for member in _members(path):
        found = _NAME.fullmatch(member.name)
        if found is None or _META.match(member.name):
            continue
        key, extension = found[1], found[2].lower()
        if not rows["key"] or rows["key"][-1] != key:
            if key in seen:
                what = f"the files of sample {key!r} don't follow each other, or two samples have that name"
                raise DataError(what, where=f"{path}:{member.name}", remedy="write the tar again, in order of names")
            seen.add(key)
            for name, values in rows.items():
                values.append(key if name == "key" else [])
        code = extensions.setdefault(extension, len(extensions))
        if code == _EXTENSIONS:
            what = f"more than {_EXTENSIONS:,} kinds of files: names are cut at their first dot (sample {key!r})"
            raise DataError(what, where=f"{path}:{member.name}", remedy="write the tar again, names without dots")
        if code in rows["code"][-1]:
            what = f"sample {key!r} has two files .{extension}"
            raise DataError(what, where=f"{path}:{member.name}", remedy="write the tar again, each file once")
        for name, value in (("code", code), ("offset", member.offset_data), ("length", member.size)):
            rows[name][-1].append(value)


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Give the files of a tar, each looked at, and make sure that it is whole.

    Raises:
        DataError: If it isn't, or holds a link, a device or a name that leads out of the tar.
    """
    last = "its beginning"
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            size = file.seek(0, os.SEEK_END)
            for member in tar:
                where = f"{path}:{member.name}"
                if member.isreg() and not member.issparse():
                    _refuse_name(member.name, where)
                    if member.offset_data + member.size > size:
                        cut = CutError("this file of the tar is truncated", where=where, remedy=_REMEDY)
                        cut.member = member.name
                        raise cut
                    yield member
                elif not member.isdir():
                    what = "the tar holds a link, a device or a sparse file; allowed: files and folders"
                    raise DataError(what, where=where, remedy="write the tar again with the files themselves")
                tar.members.clear()  # type: ignore[attr-defined]  # else all of them are kept
                last = member.name
            _refuse_rest(file, tar.offset, f"{path}: after {last}")
    except (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError, IndexError, KeyError) as error:
        if _compressed(path):
            raise DataError("the tar is compressed", where=str(path), remedy="unpack it once, with gunzip") from error
        what = f"the tar is truncated or damaged after {last} ({error})"
        raise CutError(what, where=str(path), remedy=_REMEDY) from error
    except OSError as error:
        raise DataError(
            f"the tar can't be read ({error.strerror})", where=str(path), remedy="check the file"
        ) from error


def _refuse_name(name: str, where: str) -> None:
    if not name.isprintable() or any("\ud800" <= letter <= "\udfff" for letter in name):
        what = "a name with bytes that are no UTF-8 text, or that can't be printed"
        raise DataError(what, where=where.encode("utf-8", "replace").decode(), remedy="write the tar again in UTF-8")
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        what = "a name that leads out of the tar; allowed: relative ones without '..'"
        raise DataError(what, where=where, remedy="don't trust this tar; write it again")


def _refuse_rest(file: BinaryIO, offset: int, where: str) -> None:
    """Make sure that what ends the list of files is the tar's end mark, not a broken header or a cut."""
    file.seek(offset)
    block = file.read(_BLOCK)
    if len(block) == _BLOCK and not any(block):
        return
    what = "the tar ends without its end mark" if not block else "the tar has a broken header"
    raise CutError(what, where=where, remedy=_REMEDY)


def _compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
