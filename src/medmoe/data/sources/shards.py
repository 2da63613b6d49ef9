"""The shard source: samples of WebDataset tars, mapped into memory and read in any order.

A sample is the files that share a name up to the first dot: an image (`jpg`, `jpeg`, `png` or `npy`), and what is known
of it: `txt` is its report, `cls` its label, `json` an object with the manifest's other columns, `mask.png` and
`gaze.png` its maps. Nothing is unpickled.
"""

from __future__ import annotations

import copy
import dataclasses
import mmap
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.contract import reading_contract, refuse_mixed
from medmoe.data.images import image_size_bytes, read_gaze_bytes, read_image_bytes, read_mask_bytes
from medmoe.data.masks import region
from medmoe.data.sources.cells import parse_number, place_boxes, sample_of
from medmoe.data.sources.manifest_table import as_text
from medmoe.data.sources.shard_folder import COMMON, FACTS, read_checksums, read_common
from medmoe.data.sources.shard_members import array_of, image_of, object_of, text_of
from medmoe.data.sources.tar_index import open_index
from medmoe.errors import DataError, unknown
from medmoe.modalities import resolve
from medmoe.types import Box, Sample

IMAGES = ("jpg", "jpeg", "png", "npy")
MASK, GAZES = "mask.png", ("gaze.png", "gaze.npy")

_KNOWN = (*IMAGES, MASK, *GAZES, "txt", "json", "cls")
_PACKED = (".gz", ".bz2", ".xz", ".zst")
_OPEN = 128  # tars mapped at once; each keeps a file open
_PIECE = 1 << 20  # bytes read at once


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

    Four more keys are for what `medmoe.data.sources.shard_write` knows of a manifest's row: `prior`, the earlier image
    as `TAR:KEY`; `row`, its number, which chooses the wording of a report made from its label; `from_template`: the
    `txt` is such a report, for other programs, and is made anew here; `stretched`: an `npy` holds grey levels from 0 to
    1 and isn't stretched again.

    Args:
        paths: The tars, in order.
        columns: Our name of a column → the key in `json`, where they differ, for example `{"text": "caption"}`.
        report_templates: Whether samples with a label but no text get a report made from the label.
        require_report: Whether a sample without a report is an error, told when it is read.
        seed: Chooses the wording of template reports.
        whole_paths: Whether keys begin with the tars' paths, not with their names; they always do where two tars have
            one name.
        maps: Whether masks and gaze maps are read.
        salvage: Whether of a truncated or damaged tar the samples before the damage are used. The first that isn't
            whole stands for the rest: reading it is an error that says so.

    Attributes:
        preprocess: What `shards.json` says of how deep images became grey levels, for each folder that says it.

    Raises:
        DataError: If there is no tar, one is missing, truncated, holds what isn't allowed or isn't what
            `checksums.json` says of its size and samples.
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
        maps: bool = True,
        salvage: bool = False,
    ) -> None:
        self.paths = tuple(Path(path) for path in paths)
        for ours in columns or {}:
            if ours not in FACTS:
                raise DataError(unknown("column", ours, FACTS), where=str(self.paths[0]), remedy="map one of these")
        self.columns = {name: (columns or {}).get(name, name) for name in FACTS}
        self.report_templates, self.require_report, self.seed, self.maps = report_templates, require_report, seed, maps
        self._indexes = [open_index(path, salvage) for path in self.paths]
        self._ends = list(accumulate(len(index) for index in self._indexes))
        if not self._ends or not self._ends[-1]:
            raise DataError("no sample in the tars", where=str(self.paths[0]) if paths else None, remedy="check them")
        same = Counter(path.name for path in self.paths)
        self._names = [str(path) if whole_paths or same[path.name] > 1 else path.name for path in self.paths]
        common = {folder: read_common(folder) for folder in dict.fromkeys(path.parent for path in self.paths)}
        self._common = [common[path.parent] for path in self.paths]
        self.preprocess = {folder: told.preprocess for folder, told in common.items() if told.preprocess}
        self._refuse_packed()
        self._refuse_changed()
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._at_least: int | None = None
        self._whole = False  # whether a tar is read through when it is opened
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
        cell, about = self._cell(shard, row)
        mask, gaze = self._maps_of(shard, row) if self.maps else (None, None)
        # Maps and boxes are measured in the pixels of the whole image.
        whole = cell.get("boxes") is not None or mask is not None or gaze is not None
        if name == "npy":
            image = image_of(array_of(data, where), where, stretched=about.get("stretched") is True)
        else:
            at_least = None if whole else self._at_least
            image = read_image_bytes(data, name=f"image.{name}", where=where, at_least=at_least)
        size = (image.shape[1], image.shape[0])
        for what, values in (("mask", mask), ("gaze map", gaze)):
            if values is not None and values.shape != image.shape[:2]:
                got = f"the {what} has {values.shape[1]}x{values.shape[0]} pixels, the image {size[0]}x{size[1]}"
                raise DataError(got, where=self._where(shard, row), remedy=f"write a {what} of the image's size")
        sample = self._facts(shard, row, cell, about, size)
        mask = None if mask is None else region(mask, sample.source)
        return dataclasses.replace(sample, image=image, mask=mask, gaze=gaze)

    def facts(self, index: int) -> Sample:
        """Give what is known of a sample without reading pixels: `image` is empty (0, 0), mask and gaze None.

        Where there are boxes but no `width` and `height`, the image's header is read for its size.
        """
        shard, row = self._find(index)
        cell, about = self._cell(shard, row)
        size = None
        if cell.get("boxes"):
            sides = [parse_number(cell.get(name), name, where=self._where(shard, row)) for name in ("width", "height")]
            size = (int(sides[0]), int(sides[1])) if sides[0] and sides[1] else self._size(shard, row)
        return self._facts(shard, row, cell, about, size)

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
        """Give the same samples, JPEGs without boxes and maps read at a scale that leaves the longest side `at_least`.

        They are read faster and are a little off (see `medmoe.data.jpeg`): for training only.
        """
        other = copy.copy(self)
        other._at_least, other._maps = at_least, OrderedDict()
        return other

    def shown(self, window: str) -> ShardSource:
        """Give the same samples: their grey levels were made when the tars were written.

        Raises:
            DataError: If that was under another window: it can't be undone.
        """
        for folder, told in self.preprocess.items():
            remedy = "train and read with the window of the tars, or write them again with --window"
            what, where = "the tars and what is to read them", str(folder / COMMON)
            refuse_mixed(told, reading_contract(window), what=what, where=where, remedy=remedy)
        return self

    def shards(self) -> NDArray[np.int64]:
        """Give the number of the tar that each sample lies in: [n]."""
        return np.repeat(np.arange(len(self.paths)), [len(index) for index in self._indexes])

    def by_shard(self) -> ShardSource:
        """Give the same samples, each tar read through from its beginning before a sample of it is.

        On disks that seek slowly and over networks this is many times as fast as reading samples here and there, where
        an order stays within a few tars for a while.
        """
        other = copy.copy(self)
        other._whole, other._maps = True, OrderedDict()
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
                while self._whole and file.read(_PIECE):
                    pass  # it is the system's cache that is filled
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DataError(f"the tar can't be read ({error})", where=str(path), remedy="check the file") from error
        if len(mapped) < int((self._indexes[shard].offset + self._indexes[shard].length).max()):
            raise DataError("the tar was cut while it was in use", where=str(path), remedy="copy it again, then resume")
        if len(self._maps) == _OPEN:
            self._maps.popitem(last=False)
        self._maps[shard] = mapped
        return mapped

    def _refuse_packed(self) -> None:
        """Refuse files that are compressed one by one: they would be passed over, and reports missed."""
        for path, index in zip(self.paths, self._indexes, strict=True):
            packed = [name for name in index.extensions if name.endswith(_PACKED) and name.rpartition(".")[0] in _KNOWN]
            if packed:
                remedy = "write it again without that; images are compressed already"
                raise DataError(f"the tar holds compressed files .{packed[0]}", where=str(path), remedy=remedy)

    def _refuse_changed(self) -> None:
        """Refuse a tar that isn't as large, or hasn't as many samples, as when it was written; nothing is read."""
        listed = {folder: read_checksums(folder) for folder in dict.fromkeys(path.parent for path in self.paths)}
        for path, index in zip(self.paths, self._indexes, strict=True):
            row = listed[path.parent].get(path.name)
            if row is None or index.cut is not None:
                continue
            size = path.stat().st_size
            if (size, len(index)) != (row.bytes, row.samples):
                what = f"{size:,} bytes and {len(index)} samples; written were {row.bytes:,} and {row.samples}"
                raise DataError(what, where=str(path), remedy="copy the tar again, or write the shards again")

    def _where(self, shard: int, row: int, name: str = "") -> str:
        """Name a sample, or a file of it, for an error: `tar:file`."""
        key = self._indexes[shard].keys[row].as_py()
        return f"{self.paths[shard]}:{key}.{name}" if name else f"{self.paths[shard]}:{key}"

    def _image(self, shard: int, row: int) -> tuple[str, str, bytes]:
        """Give the image's extension, place and bytes."""
        files = self._files(shard, row)
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
            height, width = array_of(data, where).shape[:2]
            return width, height
        return image_size_bytes(data, name=f"image.{name}", where=where)

    def _files(self, shard: int, row: int) -> dict[str, tuple[int, int]]:
        """Give where a sample's files lie; an error for one that a cut took away, and those after it."""
        index = self._indexes[shard]
        if index.cut is not None and row == len(index) - 1:
            remedy = "copy or download the tar again; the samples before this one are used"
            raise DataError(index.cut.what, where=index.cut.where, remedy=remedy)
        return index.files(row)

    def _maps_of(self, shard: int, row: int) -> tuple[NDArray[np.bool_] | None, NDArray[np.float32] | None]:
        """Read a sample's mask and gaze map, where it has them."""
        files, mapped = self._files(shard, row), self._map(shard)
        mask: NDArray[np.bool_] | None = None
        gaze: NDArray[np.float32] | None = None
        if MASK in files:
            begin, end = files[MASK]
            mask = read_mask_bytes(mapped[begin:end], where=self._where(shard, row, MASK))
        name = next((name for name in GAZES if name in files), None)
        if name is not None:
            (begin, end), where = files[name], self._where(shard, row, name)
            data = mapped[begin:end]
            if name == "gaze.npy":
                gaze = image_of(array_of(data, where), where, stretched=True).astype(np.float32, copy=False)
            else:
                gaze = read_gaze_bytes(data, where=where)
        return mask, gaze

    def _cell(self, shard: int, row: int) -> tuple[dict[str, str | None], dict[str, Any]]:
        """Read what is known of a sample: text by our names of the columns, and what its json holds."""
        files = self._files(shard, row)
        mapped, common = self._map(shard), self._common[shard]
        cell: dict[str, str | None] = dict(common.facts)
        told: dict[str, Any] = {}

        def text(name: str) -> str:
            begin, end = files[name]
            return text_of(mapped[begin:end], self._where(shard, row, name))

        if "cls" in files:
            cell["label"] = common.label(text("cls"), self._where(shard, row, "cls")) or cell.get("label")
        if "json" in files:
            told = object_of(text("json"), self._where(shard, row, "json"))
            values = {ours: as_text(told[theirs]) for ours, theirs in self.columns.items() if theirs in told}
            cell |= {name: value for name, value in values.items() if value}
        if "txt" in files and told.get("from_template") is not True:
            cell["text"] = text("txt") or cell.get("text")
        return cell, told

    def _facts(
        self, shard: int, row: int, cell: dict[str, str | None], about: dict[str, Any], size: tuple[int, int] | None
    ) -> Sample:
        where, boxes = self._where(shard, row), cell.get("boxes")
        named, number, prior = cell.get("modality"), about.get("row"), about.get("prior")
        placed: tuple[Box, ...] | None = None
        if boxes and size:
            try:
                placed = place_boxes(boxes, size, where=where, told=self._told)
            except RecursionError as error:
                raise DataError(
                    "boxes that are nested too deeply", where=where, remedy="write a list of them"
                ) from error
        wording = (self.seed, number if type(number) is int else row)
        sample = sample_of(
            cell,
            key=f"{self._names[shard]}:{self._indexes[shard].keys[row].as_py()}",
            where=where,
            modality=None if named is None else resolve(named, where=where),
            boxes=placed,
            prior=self._prior(shard, prior) if isinstance(prior, str) else None,
            wording=wording if self.report_templates else None,
        )
        if self.require_report and sample.report is None:
            raise DataError(
                "the report is empty", where=where, remedy="write it into the sample's txt, or give a label"
            )
        return sample

    def _prior(self, shard: int, named: str) -> str:
        """Give the key of an earlier image, `TAR:KEY` in the json, as the samples of that tar have it."""
        tar, _, key = named.partition(":")
        beside = self.paths[shard].with_name(tar)
        return f"{self._names[self.paths.index(beside)] if beside in self.paths else tar}:{key}"
