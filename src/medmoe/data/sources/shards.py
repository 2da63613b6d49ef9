"""The shard source: samples of WebDataset tars, mapped into memory and read in any order.

A sample is the files that share a name up to the first dot: an image (`jpg`, `jpeg`, `png` or `npy`), and what is known
of it: `txt` is its report, `cls` its label, `json` an object with the manifest's other columns. Nothing is unpickled.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import mmap
import re
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.images import flatten_grey, image_size_bytes, read_image_bytes, stretch
from medmoe.data.sources.cells import parse_number, place_boxes, sample_of
from medmoe.data.sources.manifest_table import COLUMNS, NAMES, as_text
from medmoe.data.sources.tar_index import open_index
from medmoe.errors import DataError, unknown
from medmoe.modalities import resolve
from medmoe.types import Box, Sample

IMAGES = ("jpg", "jpeg", "png", "npy")
COMMON = "shards.json"  # beside the tars: what holds for all their samples

_TAR = (".tar", ".tgz")  # a compressed one is refused with what to do about it
_OPEN = 128  # tars mapped at once; each keeps a file open
_FILES = ("image", "mask", "gaze", "prior", "split")  # columns that would name files, or have no meaning in a tar
_FACTS = tuple(name for name in COLUMNS if name not in _FILES)


class ShardSource:
    """Images in tars as WebDataset writes them.

    The files of each tar are listed once, into an index beside it (see `medmoe.data.sources.tar_index`). From then on
    any sample is read without those before it, so that training shuffles over all tars and resumes exactly, and
    workers share the pages that the system has read.

    `json` may hold `text`, `modality`, `label`, `patient_id`, `study_id`, `view`, `body_part`, `offset_days`, `boxes`
    (in pixels), `width`, `height`, `source`, `domain`, `license`, `question` and `answer`; other keys are ignored. A
    `txt` comes before the `text` of `json`, its `label` before a `cls`. A number in `cls` is looked up in the list
    `classes` of `shards.json`; without such a list it says nothing. The other keys of that file, which lies beside the
    tars, hold for every sample that has no value of its own: `{"modality": "ct", "source": "my set"}`.

    Args:
        paths: The tars, in order.
        columns: Our name of a column → the key in `json`, where they differ, for example `{"text": "caption"}`.
        report_templates: Whether samples with a label but no text get a report made from the label.
        require_report: Whether a sample without a report is an error, told when it is read.
        seed: Chooses the wording of template reports.
        whole_paths: Whether keys begin with the tars' paths, not with their names; they always do where two tars have
            one name.

    Raises:
        DataError: If there is no tar, or one is missing, truncated or holds what isn't allowed.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        columns: Mapping[str, str] | None = None,
        report_templates: bool = True,
        require_report: bool = False,
        seed: int = 0,
        whole_paths: bool = False,
    ) -> None:
        self.paths = tuple(Path(path) for path in paths)
        for ours in columns or {}:
            if ours not in _FACTS:
                raise DataError(unknown("column", ours, _FACTS), where=str(self.paths[0]), remedy="map one of these")
        self.columns = {name: (columns or {}).get(name, name) for name in _FACTS}
        self.report_templates, self.require_report, self.seed = report_templates, require_report, seed
        self._indexes = [open_index(path) for path in self.paths]
        self._ends = list(accumulate(len(index) for index in self._indexes))
        if not self._ends or not self._ends[-1]:
            raise DataError("no sample in the tars", where=str(self.paths[0]) if paths else None, remedy="check them")
        same = Counter(path.name for path in self.paths)
        self._names = [str(path) if whole_paths or same[path.name] > 1 else path.name for path in self.paths]
        common = {folder: _common(folder) for folder in {path.parent for path in self.paths}}
        self._common = [common[path.parent] for path in self.paths]
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._at_least: int | None = None
        self._told: set[str] = set()

    def __len__(self) -> int:
        """Count the samples."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """Read one sample, pixels included.

        Raises:
            DataError: If it has no image, or a file of it can't be read; the message names it.
        """
        shard, row = self._find(index)
        name, where, data = self._image(shard, row)
        cell = self._cell(shard, row)
        at_least = None if cell.get("boxes") else self._at_least
        if name == "npy":
            image = _array(data, where)
        else:
            image = read_image_bytes(data, name=f"image.{name}", where=where, at_least=at_least)
        size = (image.shape[1], image.shape[0])
        return dataclasses.replace(self._facts(shard, row, cell, size), image=image)

    def facts(self, index: int) -> Sample:
        """Give what is known of a sample without reading pixels: `image` is empty (0, 0), mask and gaze None.

        Where there are boxes but no `width` and `height`, the image's header is read for its size.
        """
        shard, row = self._find(index)
        cell = self._cell(shard, row)
        size = None
        if cell.get("boxes"):
            sides = [parse_number(cell.get(name), name, where=self._where(shard, row)) for name in ("width", "height")]
            size = (int(sides[0]), int(sides[1])) if sides[0] and sides[1] else self._size(shard, row)
        return self._facts(shard, row, cell, size)

    def files(self, index: int) -> dict[str, bytes]:
        """Give the bytes of a sample's files by extension, as they lie in the tar."""
        shard, row = self._find(index)
        mapped = self._map(shard)
        return {name: mapped[begin:end] for name, (begin, end) in self._indexes[shard].files(row).items()}

    def content(self, index: int) -> bytes:
        """Give the bytes of the image file, which tell one image from another.

        Raises:
            DataError: If there is none.
        """
        return self._image(*self._find(index))[2]

    def reduced(self, at_least: int) -> ShardSource:
        """Give the same samples, JPEGs without boxes read at a scale that leaves the longest side `at_least` pixels.

        They are read faster and are a little off (see `medmoe.data.jpeg`): for training only.
        """
        other = copy.copy(self)
        other._at_least, other._maps = at_least, OrderedDict()
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped files behind when a worker gets a copy; it maps its own."""
        return {**self.__dict__, "_maps": OrderedDict()}

    def _find(self, index: int) -> tuple[int, int]:
        """Find the tar of a sample and its row there."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index = int(index) % len(self)
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _map(self, shard: int) -> mmap.mmap:
        """Give a tar's bytes, mapped until many others have been asked for."""
        mapped = self._maps.get(shard)
        if mapped is not None:
            if len(self._maps) == _OPEN:
                self._maps.move_to_end(shard)
            return mapped
        path = self.paths[shard]
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DataError(f"the tar can't be read ({error})", where=str(path), remedy="check the file") from error
        if len(mapped) < int((self._indexes[shard].offset + self._indexes[shard].length).max()):
            raise DataError("the tar was cut while it was in use", where=str(path), remedy="copy it again, then resume")
        if len(self._maps) == _OPEN:
            self._maps.popitem(last=False)
        self._maps[shard] = mapped
        return mapped

    def _where(self, shard: int, row: int, name: str = "") -> str:
        """Name a sample, or a file of it, for an error: `tar:file`."""
        key = self._indexes[shard].keys[row].as_py()
        return f"{self.paths[shard]}:{key}.{name}" if name else f"{self.paths[shard]}:{key}"

    def _image(self, shard: int, row: int) -> tuple[str, str, bytes]:
        """Give the image's extension, place and bytes."""
        files = self._indexes[shard].files(row)
        name = next((name for name in IMAGES if name in files), None)
        if name is None:
            has = ", ".join(sorted(files)) or "nothing"
            what = f"the sample has no image; allowed: {', '.join(IMAGES)}; it has {has}"
            raise DataError(what, where=self._where(shard, row), remedy="write it again, or skip bad samples")
        begin, end = files[name]
        return name, self._where(shard, row, name), self._map(shard)[begin:end]

    def _size(self, shard: int, row: int) -> tuple[int, int]:
        """Give (width, height) of the image, from its header."""
        name, where, data = self._image(shard, row)
        if name == "npy":
            height, width = _array(data, where).shape[:2]
            return width, height
        return image_size_bytes(data, name=f"image.{name}", where=where)

    def _cell(self, shard: int, row: int) -> dict[str, str | None]:
        """Read what is known of a sample, as text by our names of the columns."""
        files = self._indexes[shard].files(row)
        mapped, common = self._map(shard), self._common[shard]
        cell: dict[str, str | None] = dict(common.facts)

        def text_of(name: str) -> str:
            begin, end = files[name]
            try:
                return mapped[begin:end].decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise DataError(
                    "not UTF-8 text", where=self._where(shard, row, name), remedy="write it again"
                ) from error

        if "cls" in files:
            cell["label"] = common.label(text_of("cls"), self._where(shard, row, "cls")) or cell.get("label")
        if "json" in files:
            told = _object(text_of("json"), self._where(shard, row, "json"))
            values = {ours: as_text(told.get(theirs)) for ours, theirs in self.columns.items()}
            cell |= {name: value for name, value in values.items() if value}
        if "txt" in files:
            cell["text"] = text_of("txt") or cell.get("text")
        return cell

    def _facts(self, shard: int, row: int, cell: dict[str, str | None], size: tuple[int, int] | None) -> Sample:
        where, boxes = self._where(shard, row), cell.get("boxes")
        named = cell.get("modality")
        placed: tuple[Box, ...] | None = None
        if boxes and size:
            placed = place_boxes(boxes, size, where=where, told=self._told)
        sample = sample_of(
            cell,
            key=f"{self._names[shard]}:{self._indexes[shard].keys[row].as_py()}",
            where=where,
            modality=None if named is None else resolve(named, where=where),
            boxes=placed,
            wording=(self.seed, row) if self.report_templates else None,
        )
        if self.require_report and sample.report is None:
            raise DataError(
                "the report is empty", where=where, remedy="write it into the sample's txt, or give a label"
            )
        return sample


def find_shards(part: str) -> list[Path] | None:
    """Find the tars that a part of a command line means.

    Args:
        part: A tar, a pattern such as `DIR/{00..10}.tar` or `DIR/{train,more}-{0..9}.tar`, or a folder with tars and
            without a manifest.

    Returns:
        Their paths, whether they exist or not; None where no tar is meant.

    >>> [str(path) for path in find_shards("d/{08..10}.tar")]
    ['d/08.tar', 'd/09.tar', 'd/10.tar']
    """
    paths = [Path(path) for path in _expand(part)]
    if all(any(suffix in _TAR for suffix in path.suffixes) for path in paths):
        return paths
    folder = paths[0]
    if len(paths) > 1 or not folder.is_dir() or any((folder / name).is_file() for name in NAMES):
        return None
    return sorted(folder.glob("*.tar")) or None


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


@dataclasses.dataclass(frozen=True, slots=True)
class _Common:
    """What a folder's `shards.json` says: facts of all its samples, and the names of class numbers."""

    facts: dict[str, str | None]
    classes: tuple[str, ...]

    def label(self, text: str, where: str) -> str | None:
        """Give the label that a `cls` means: a number's name, or the text itself."""
        if not text.isdigit():
            return text
        if not self.classes:
            return None
        if int(text) >= len(self.classes):
            what = f"class {text}, but {COMMON} names {len(self.classes)} classes, counted from 0"
            raise DataError(what, where=where, remedy="complete the list")
        return self.classes[int(text)]


def _common(folder: Path) -> _Common:
    """Read `shards.json` of a folder, where there is one."""
    path = folder / COMMON
    if not path.is_file():
        return _Common({}, ())
    told = _object(path.read_text(encoding="utf-8"), str(path))
    classes = told.pop("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) and name for name in classes):
        raise DataError("'classes' isn't a list of names", where=str(path), remedy='write ["normal", "nodule"]')
    for name in told:
        if name not in _FACTS:
            raise DataError(unknown("key", name, (*_FACTS, "classes")), where=str(path), remedy="correct the key")
    return _Common({name: as_text(value) for name, value in told.items()}, tuple(classes))


def _object(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError(f"not valid JSON ({error})", where=where, remedy="write one JSON object") from error
    if not isinstance(found, dict):
        raise DataError(f"a JSON {type(found).__name__}, not an object", where=where, remedy="write one JSON object")
    return found


def _array(data: bytes, where: str) -> NDArray[Any]:
    """Read an array of pixels as an image of as many bits: [H, W] or [H, W, 3]."""
    try:
        pixels = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        what = f"not an array of pixels ({str(error).splitlines()[0]})"
        raise DataError(what, where=where, remedy="write it again with numpy.save") from error
    if pixels.dtype.kind not in "uif" or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3)):
        what = f"an array of shape {pixels.shape} of {pixels.dtype}; allowed: numbers, (H, W) or (H, W, 3)"
        raise DataError(what, where=where, remedy="write it again with numpy.save")
    if not pixels.size:
        raise DataError(f"an array without pixels, of shape {pixels.shape}", where=where, remedy="take the sample out")
    return stretch(flatten_grey(pixels), where=where)
