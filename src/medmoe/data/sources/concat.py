"""Several sources as one, and the one-line description of a source that the command line takes."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.sources.base import Source, by_shard, content_of, reduced, shards_of, shown
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.manifest_table import find_manifest
from medmoe.data.sources.phantom import PhantomSource
from medmoe.data.sources.shard_paths import find_shards, find_split_shards
from medmoe.data.sources.shards import ShardSource
from medmoe.errors import DataError, unknown
from medmoe.modalities import SIX, resolve
from medmoe.types import Sample

_PHANTOM = "phantom"
_SETTINGS = ("patients", "size", "seed", "modalities")
_HOW = (
    "give a manifest (.parquet, .csv, .jsonl), tars (DIR/{00..10}.tar), a folder with either, several joined by '::', "
    "or phantom:patients=600"
)


class ConcatSource:
    """Several sources, one after the other.

    Args:
        sources: At least one.

    Raises:
        DataError: If there is none.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        if not sources:
            raise DataError("no source to read from", remedy=_HOW)
        self.sources = tuple(sources)
        self._ends = list(accumulate(len(source) for source in self.sources))

    def __len__(self) -> int:
        """Count the samples of all sources."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """Read one sample, pixels included."""
        source, inner = self._find(index)
        return source[inner]

    def facts(self, index: int) -> Sample:
        """Give what is known of a sample without reading pixels."""
        source, inner = self._find(index)
        return source.facts(inner)

    def content(self, index: int) -> bytes:
        """Give what tells one image from another."""
        return content_of(*self._find(index))

    def reduced(self, at_least: int) -> ConcatSource:
        """Give the same samples, read at a reduced scale where their sources can."""
        return ConcatSource([reduced(source, at_least) for source in self.sources])

    def shown(self, window: str) -> ConcatSource:
        """Give the same samples, read under a window."""
        return ConcatSource([shown(source, window) for source in self.sources])

    def sizes(self) -> tuple[int, ...]:
        """Count the samples of each source."""
        return tuple(len(source) for source in self.sources)

    def shards(self) -> NDArray[np.int64] | None:
        """Give the number of each sample's tar; a sample of a source without tars counts as one. None without any."""
        found = [shards_of(source) for source in self.sources]
        if all(own is None for own in found):
            return None
        numbers, first = [], 0
        for source, own in zip(self.sources, found, strict=True):
            numbers.append(first + (np.arange(len(source)) if own is None else own))
            first = int(numbers[-1].max()) + 1
        return np.concatenate(numbers)

    def by_shard(self) -> ConcatSource:
        """Give the same samples, tars read as a whole."""
        return ConcatSource([by_shard(source) for source in self.sources])

    def _find(self, index: int) -> tuple[Source, int]:
        """Find the source of a sample and its index there."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        at = bisect.bisect_right(self._ends, index)
        return self.sources[at], index - (self._ends[at - 1] if at else 0)


def open_source(
    spec: str | Path,
    *,
    split: str | None = None,
    fallback: bool = False,
    columns: Mapping[str, str] | None = None,
    report_templates: bool = True,
    require_report: bool = False,
    check_files: bool = True,
    maps: bool = True,
    salvage: bool = False,
    seed: int = 0,
) -> Source:
    """Open what a command line names.

    Args:
        spec: A manifest file, tars (one, or `DIR/{00..10}.tar`), a folder with either,
            `phantom:patients=600,size=64,seed=1` (also `modalities=ct+mri`), or several of these joined by `::`.
        split: Split of every manifest, and folder of tars in a folder that has one for each split; phantoms have none:
            another seed gives other patients.
        fallback: Whether a manifest in which no row has a split, and tars, which have none, give all they have whatever
            `split` is.
        columns: Our column name → the manifest's, or the key in tars' JSON, where they differ.
        report_templates: Whether rows with a label but no text get a report made from the label.
        require_report: Whether a row without a report is an error.
        check_files: Whether to look for every file at once.
        maps: Whether masks and gaze maps are read.
        salvage: Whether of a truncated or damaged tar the samples before the damage are used.
        seed: Chooses the wording of template reports.

    Raises:
        UserError: If a part of it can't be opened.
    """
    parts = [part.strip() for part in str(spec).split("::")]
    if not all(parts):
        raise DataError(f"an empty part in {str(spec)!r}", remedy=_HOW)
    plain = {part: find_shards(part) for part in parts if not _is_phantom(part)}
    tars = {part: find_split_shards(part, split) if found is None else found for part, found in plain.items()}
    files = Counter(path.name for part in parts if part in tars for path in tars[part] or [find_manifest(Path(part))])

    told: dict[str, Any] = {"columns": columns, "report_templates": report_templates}
    told |= {"require_report": require_report, "seed": seed}

    def open_one(part: str) -> Source:
        if _is_phantom(part):
            return _open_phantom(part)
        shards = tars[part]
        # Two files of the same name would give the same keys: then keys begin with the whole path.
        if shards is not None:
            if split is not None and not fallback and plain[part] is not None:
                remedy = "ask for no split (--split all), and name the tars of each"
                raise DataError(f"no split {split!r}: tars have none", where=part, remedy=remedy)
            whole_paths = any(files[path.name] > 1 for path in shards)
            return ShardSource(shards, whole_paths=whole_paths, maps=maps, salvage=salvage, **told)
        clash = files[find_manifest(Path(part)).name] > 1
        return ManifestSource(
            part,
            split=split,
            fallback=fallback,
            check_files=check_files,
            maps=maps,
            name=part if clash else None,
            **told,
        )

    sources = [open_one(part) for part in parts]
    return sources[0] if len(sources) == 1 else ConcatSource(sources)


def _is_phantom(part: str) -> bool:
    return part == _PHANTOM or part.startswith(f"{_PHANTOM}:")


def _open_phantom(spec: str) -> PhantomSource:
    """Open `phantom:patients=600,size=64,seed=1,modalities=ct+mri`."""
    settings = {"patients": 600, "size": 64, "seed": 0}
    modalities: tuple[str, ...] = SIX
    for pair in filter(None, spec.removeprefix(_PHANTOM).removeprefix(":").split(",")):
        name, _, value = (piece.strip() for piece in pair.partition("="))
        if name not in _SETTINGS:
            raise DataError(unknown("phantom setting", name, _SETTINGS), where=spec, remedy="correct the name")
        if name == "modalities":
            modalities = tuple(resolve(part, where=spec) for part in value.split("+"))
            continue
        try:
            settings[name] = int(value)
        except ValueError as error:
            what = f"phantom setting {name!r} is {value!r}, not a whole number"
            raise DataError(what, where=spec, remedy=f"write for example phantom:{name}={settings[name]}") from error
    return PhantomSource(settings["patients"], size=settings["size"], seed=settings["seed"], modalities=modalities)
