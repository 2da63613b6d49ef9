"""Files of shards, not decoded: ours by index, Python's tarfile, webdataset, and copying as much memory."""

from __future__ import annotations

import io
import tarfile
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from medmoe.data.sources.phantom import PhantomSource
from medmoe.data.sources.shards import ShardSource
from medmoe.data.sources.tar_index import open_index
from medmoe.speed.item import Call, Item, Size, Target, Way
from medmoe.speed.items.scratch import scratch
from medmoe.speed.plain.tars import read_by_name, read_known, read_through

_COUNT, _BYTES = 2000, 30_000
_PICTURES = 500


@lru_cache(maxsize=2)
def shard(*, small: bool) -> Path:
    """Write a tar of samples: 30 KB in place of an image, a report, and facts."""
    count, size = (20, 500) if small else (_COUNT, _BYTES)
    rng = np.random.default_rng(0)
    return _write(scratch() / f"shard-{count}.tar", [rng.bytes(size) for _ in range(count)])


@lru_cache(maxsize=2)
def pictures(*, small: bool) -> Path:
    """Write a tar of colour phantoms as JPEG of 224², a report, and facts."""
    count = 8 if small else _PICTURES
    source = PhantomSource(4 if small else 40, size=64 if small else 224, modalities=("pathology", "fundus"))
    files = []
    for index in range(min(len(source), count)):
        file = io.BytesIO()
        Image.fromarray(source[index].image).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return _write(scratch() / f"pictures-{count}.tar", [files[number % len(files)] for number in range(count)])


def _write(path: Path, images: Sequence[bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for number, image in enumerate(images):
            facts = b'{"modality": "ct", "patient_id": "p%d"}' % number
            for extension, data in {"jpg": image, "txt": b"Report %d." % number, "json": facts}.items():
                info = tarfile.TarInfo(f"{number:06}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    open_index(path)
    return path


def _order(count: int) -> list[int]:
    return [int(index) for index in np.random.default_rng(1).permutation(count)]


def _read_at(source: ShardSource, order: Sequence[int]) -> int:
    return sum(len(data) for index in order for data in source.files(index).values())


def _open_and_read(path: Path) -> int:
    source = ShardSource([path])
    return _read_at(source, range(len(source)))


def _copy(whole: bytes, places: Sequence[tuple[int, int]]) -> int:
    return sum(len(whole[begin:end]) for begin, end in places)


def _read_webdataset(path: Path) -> int:
    import webdataset

    total = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the tar open
        for sample in webdataset.WebDataset(str(path), shardshuffle=False):
            total += sum(len(data) for name, data in sample.items() if not name.startswith("__"))
    return total


def _decode_webdataset(path: Path) -> int:
    import webdataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        decoded = webdataset.WebDataset(str(path), shardshuffle=False).decode("rgb8")
        return sum(sample["jpg"].size + len(sample["txt"]) + len(sample["json"]) for sample in decoded)


def _decode(source: ShardSource) -> int:
    samples = (source[index] for index in range(len(source)))
    return sum(sample.image.size + len(sample.report or "") for sample in samples)


def _places(path: Path) -> list[tuple[int, int]]:
    index = open_index(path)
    return [place for row in range(len(index)) for place in index.files(row).values()]


def _in_turn(path: Path) -> Call:
    source = ShardSource([path])
    return partial(_read_at, source, range(len(source)))


def _sequential(size: Size) -> Mapping[str, Way]:
    path = shard(small=size.small)
    return {
        "ours": lambda: _in_turn(path),
        "ours, opened anew": lambda: partial(_open_and_read, path),
        "plain": lambda: partial(read_through, path),
        "floor": lambda: partial(_copy, path.read_bytes(), _places(path)),
    }


def _random(size: Size) -> Mapping[str, Way]:
    path = shard(small=size.small)

    def ours() -> Call:
        source = ShardSource([path])
        return partial(_read_at, source, _order(len(source)))

    def names() -> list[str]:
        index = open_index(path)
        rows = ((index.keys[row].as_py(), index.files(row)) for row in _order(len(index)))
        return [f"{key}.{extension}" for key, files in rows for extension in files]

    def ready() -> Call:
        with tarfile.open(path) as tar:
            found = {member.name: member for member in tar.getmembers()}
        return partial(read_known, path, [found[name] for name in names()])

    return {"ours": ours, "plain": lambda: partial(read_by_name, path, names()), "tarfile, its list ready": ready}


def _beside_webdataset(size: Size) -> Mapping[str, Way]:
    path = shard(small=size.small)
    return {"ours": lambda: _in_turn(path), "webdataset": lambda: partial(_read_webdataset, path)}


def _decoded(size: Size) -> Mapping[str, Way]:
    path = pictures(small=size.small)
    return {
        "ours": lambda: _in_turn(path),
        "webdataset": lambda: partial(_read_webdataset, path),
        "ours, decoded": lambda: partial(_decode, ShardSource([path])),
        "webdataset, decoded": lambda: partial(_decode_webdataset, path),
    }


_ABOUT = f"{_COUNT} samples of three files, together {_BYTES // 1000} KB, in one tar, as bytes, nothing decoded"

ITEMS = (
    Item(
        name="shards",
        about=f"{_ABOUT}, from first to last: ours by its index, tarfile, a copy in memory",
        ways=_sequential,
        targets=[Target("rate", 12, at_most=False)],
        floor="copying the same bytes in memory",
        unit=("samples", _COUNT),
        devices=("cpu",),
    ),
    Item(
        name="shards-random",
        about=f"{_ABOUT}, in random order: ours by its index, tarfile by name (it keeps no index, so it goes "
        "through the tar when it is opened), and tarfile with that list ready",
        ways=_random,
        targets=[Target("rate", 12, at_most=False)],
        unit=("samples", _COUNT),
        devices=("cpu",),
    ),
    Item(
        name="shards-webdataset",
        about=f"{_ABOUT}, from first to last: ours and webdataset",
        ways=_beside_webdataset,
        targets=[Target("rate", 0.9, at_most=False, over="webdataset")],
        unit=("samples", _COUNT),
        needs=("webdataset",),
        devices=("cpu",),
    ),
    Item(
        name="shards-decoded",
        about=f"{_PICTURES} JPEGs of 224² in colour, each with a report and facts, in one tar, from first to last: "
        "ours and webdataset, as bytes, and decoded to arrays, text and facts",
        ways=_decoded,
        targets=[
            Target("rate", 0.9, at_most=False, over="webdataset"),
            Target("rate", 1, at_most=False, way="ours, decoded", over="webdataset, decoded"),
        ],
        unit=("samples", _PICTURES),
        needs=("webdataset",),
        devices=("cpu",),
    ),
)
