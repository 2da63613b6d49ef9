"""Writing a manifest as shards: the same tars each time, each aside first, and on from where a run stopped."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medmoe.data.images import image_size
from medmoe.data.reading import HEADER
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.shard_encode import IMAGES, Encoded, class_of, encode, preprocess_of
from medmoe.data.sources.shard_folder import CHECKSUMS, COMMON, PROGRESS, read_checksums, sha256_of, write_json
from medmoe.errors import ConfigError, DataError, UserError, unknown

VERSION = 1
QUARANTINE = "quarantine.jsonl"
ON_BAD_SAMPLE = ("raise", "skip")

_FOLDER = re.compile(r"\w[\w.-]*")  # what a split's name must be to name a folder
_PICTURES = (".jpg", ".jpeg", ".png")

Ints = NDArray[np.int64]
Watch = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Written:
    """What a folder of shards came to.

    Attributes:
        folder: Where they are.
        split: Of which split, or None.
        samples: Samples in them.
        shards: Tars.
        bytes: Of the tars together.
        skipped: Samples left out because they are bad; `quarantine.jsonl` names them.
        before: Tars that were there from an earlier, stopped run.
    """

    folder: str
    split: str | None
    samples: int
    shards: int
    bytes: int
    skipped: int
    before: int


@dataclass(frozen=True, slots=True)
class _Shard:
    """A tar as its writer tells of it; as a JSON line, also how far a stopped run came."""

    name: str
    samples: int
    bytes: int
    sha256: str
    deep: bool  # whether an image in it was windowed
    bad: Sequence[Sequence[str]]  # key and reason of each
    fatal: Sequence[str | None] | None = None  # a user error as a value: what, where, remedy


@dataclass(frozen=True, slots=True)
class _Work:
    """What every process needs to write any of the tars."""

    source: ManifestSource
    out: Path
    images: str
    skip: bool
    shards: tuple[Ints, ...]  # the samples of each tar
    at: Ints  # [rows] the tar of each row of the manifest, -1 for none
    classes: Mapping[str, int]

    def key(self, row: int) -> str:
        return f"{row:0{max(8, len(str(len(self.at))))}}"

    def place(self, row: int) -> str | None:
        """Give where a row's sample lies, as `TAR:KEY`."""
        return None if self.at[row - 1] < 0 else f"{_name(int(self.at[row - 1]))}:{self.key(row)}"


def write_shards(
    manifest: str | Path,
    out: Path,
    *,
    split: str | None = None,
    samples_per_shard: int = 1000,
    max_mb: float | None = None,
    images: str = "copy",
    shuffle: int | None = None,
    window: str = HEADER,
    on_bad_sample: str = "raise",
    workers: int = 1,
    watch: Watch = lambda done, of: None,
    **told: Any,
) -> list[Written]:
    """Write the images and facts of a manifest as WebDataset tars that are read back as the same samples.

    Each sample is `KEY.jpg`, `.png` or `.npy`, `KEY.txt` (the report), `KEY.json` (the manifest's values), `KEY.cls`
    (the number of its only label in `shards.json`), and `KEY.mask.png` and `KEY.gaze.png`; a key is the row's number.
    The same manifest gives the same bytes, whatever the number of workers. A run that was stopped goes on where it was.

    Args:
        manifest: The manifest, or its folder.
        out: Folder of the tars; new, empty, or begun by a run with the same arguments.
        split: The split to write. None writes all rows; where the manifest has splits, each into a folder of its own.
        samples_per_shard: Samples of a tar, bad ones counted.
        max_mb: Megabytes of images after which the next tar begins, by the files' sizes; of files that are stored anew,
            by four bytes a pixel.
        images: `copy` keeps JPEG and PNG files as they are, and stores others so that no grey level changes: 8-bit ones
            as PNG, deeper ones as the float32 arrays that the manifest's source reads. `png` stores them all so, `npy`
            all as arrays. `jpg` stores them all as 8-bit JPEG of quality 95, which changes them.
        shuffle: Seed of an order to write in; None keeps the manifest's.
        window: How DICOM and NIfTI values become grey levels (`medmoe.data.reading.Reading`); a model of another window
            refuses the tars then.
        on_bad_sample: `raise`, or `skip` into `quarantine.jsonl`.
        workers: Processes.
        watch: Called with the tars done and their number.
        told: More arguments for `medmoe.data.sources.manifest.ManifestSource`, such as `columns`.

    Returns:
        What was written, folder by folder.

    Raises:
        DataError: If the manifest or a sample is bad, or `out` is in use.
        ConfigError: If an argument isn't allowed.
    """
    _check(samples_per_shard, max_mb, images, shuffle, on_bad_sample, workers)
    options = {"check_files": on_bad_sample == "raise", **told}
    whole = ManifestSource(manifest, split=split, **options).shown(window)
    folders = {out: (split, whole)}
    if split is None and whole.splits:
        wrong = next((name for name in whole.splits if not _FOLDER.fullmatch(name)), None)
        if wrong is not None:
            raise DataError(f"the split {wrong!r} can't name a folder", where=str(whole.path), remedy="rename it")
        parts = {name: ManifestSource(manifest, split=name, **options).shown(window) for name in whole.splits}
        folders = {out / name: (name, part) for name, part in parts.items()}
    asked = {"version": VERSION, "manifest": sha256_of(whole.path), "images": images, "shuffle": shuffle}
    asked |= {"samples_per_shard": samples_per_shard, "max_mb": max_mb, "preprocess": preprocess_of(whole)}
    asked |= {"told": {name: str(value) for name, value in sorted(told.items())}}
    done = []
    for folder, (name, source) in folders.items():
        order = _order(len(source), shuffle)
        sizes = None if max_mb is None else [_size(source, int(index), images) for index in order]
        shards = tuple(_cut(order, sizes, samples_per_shard, max_mb))
        work = _work(source, folder, images, on_bad_sample == "skip", shards)
        made_of = hashlib.sha256(json.dumps({**asked, "split": name}, sort_keys=True).encode()).hexdigest()
        done.append(_write_folder(work, name, made_of, workers, watch))
    return done


def _check(
    samples_per_shard: int, max_mb: float | None, images: str, shuffle: int | None, on_bad_sample: str, workers: int
) -> None:
    least = [("samples_per_shard", samples_per_shard, 1), ("workers", workers, 1), ("shuffle", shuffle or 0, 0)]
    for name, value, allowed in least:
        if value < allowed:
            raise ConfigError(f"{value} isn't allowed; {allowed} or more is", where=name)
    if max_mb is not None and not max_mb > 0:
        raise ConfigError(f"{max_mb} isn't allowed; more than 0 is", where="max_mb")
    for name, got, known in (("images", images, IMAGES), ("on_bad_sample", on_bad_sample, ON_BAD_SAMPLE)):
        if got not in known:
            raise ConfigError(unknown(name, got, known), where=name)


def _order(count: int, shuffle: int | None) -> Ints:
    return np.arange(count) if shuffle is None else np.random.default_rng([shuffle]).permutation(count)


def _size(source: ManifestSource, index: int, images: str) -> int:
    """Estimate the bytes of a stored image, the same each time."""
    path = source.folder / str(source.cells(index, ("image",))["image"])
    try:
        if images in ("copy", "jpg") and path.suffix.lower() in _PICTURES:
            return path.stat().st_size
        width, height = image_size(path)
    except (DataError, OSError):
        return 0  # it is told when it is read
    return 4 * width * height


def _cut(order: Ints, sizes: Sequence[int] | None, most: int, max_mb: float | None) -> Iterator[Ints]:
    """Cut an order of samples into tars, each with `most` or, where that is less, up to `max_mb`."""
    if sizes is None or max_mb is None:
        yield from (order[begin : begin + most] for begin in range(0, len(order), most))
        return
    begin = held = 0
    for at, size in enumerate(sizes):
        if at > begin and (at - begin == most or held + size > max_mb * 1e6):
            yield order[begin:at]
            begin, held = at, 0
        held += size
    yield order[begin:]


def _work(source: ManifestSource, out: Path, images: str, skip: bool, shards: tuple[Ints, ...]) -> _Work:
    rows = [[source.row(int(index)) for index in shard] for shard in shards]
    at = np.full(max(map(max, rows)), -1, np.int64)
    for number, own in enumerate(rows):
        at[np.array(own) - 1] = number
    labels = {source.cells(index, ("label",)).get("label") for index in range(len(source))}
    classes = sorted({name for name in map(class_of, labels) if name is not None})
    return _Work(source, out, images, skip, shards, at, {name: number for number, name in enumerate(classes)})


def _write_folder(work: _Work, split: str | None, made_of: str, workers: int, watch: Watch) -> Written:
    """Write what a folder still lacks."""
    finished = _finished(work.out, split, made_of)
    if finished is not None:
        return finished
    before = _begin(work.out, made_of)
    todo = [number for number in range(len(work.shards)) if number not in before]
    done = dict(before)
    watch(len(done), len(work.shards))
    with _made(work, todo, workers) as made, (work.out / PROGRESS).open("a", encoding="utf-8") as progress:
        for number, shard in zip(todo, made, strict=True):
            if shard.fatal is not None:
                what, where, remedy = shard.fatal
                raise DataError(str(what), where=where, remedy=remedy)
            progress.write(json.dumps({"number": number, **asdict(shard)}) + "\n")
            progress.flush()
            done[number] = shard
            watch(len(done), len(work.shards))
    shards = [done[number] for number in sorted(done)]
    return _finish(work, shards, split, made_of, len(before))


def _finished(out: Path, split: str | None, made_of: str) -> Written | None:
    """Give what a folder came to that an earlier run of the same finished; None where there is none."""
    if not (out / CHECKSUMS).is_file() or (out / PROGRESS).is_file():
        return None
    shards, told = read_checksums(out), json.loads((out / CHECKSUMS).read_text(encoding="utf-8"))
    if told.get("made_of") != made_of:
        return None
    samples, size = sum(row.samples for row in shards.values()), sum(row.bytes for row in shards.values())
    return Written(str(out), split, samples, len(shards), size, int(told.get("skipped", 0)), len(shards))


def _begin(out: Path, made_of: str) -> dict[int, _Shard]:
    """Make the folder, or see how far a stopped run came: number → tar.

    Raises:
        DataError: If there is something else in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        there = [path.name for path in out.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"can't be written to ({error.strerror})", where=str(out), remedy="choose another") from error
    progress, lines = out / PROGRESS, []
    if progress.is_file():
        for line in progress.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # torn by a crash: that tar is written again
                lines.append(json.loads(line))
    elif there:
        raise DataError("the output folder is in use", where=str(out), remedy="choose a new folder or empty this one")
    if not lines:
        progress.write_text(json.dumps({"made_of": made_of}) + "\n", encoding="utf-8")
        return {}
    if lines[0].get("made_of") != made_of:
        what = "shards of another manifest, or with other options, are being written there"
        raise DataError(what, where=str(out), remedy="run the command that began them, or choose a new folder")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    progress.write_text(text, encoding="utf-8")
    found = {line.pop("number"): _Shard(**line) for line in lines[1:]}
    return {number: shard for number, shard in found.items() if _is_there(out / shard.name, shard)}


def _is_there(path: Path, shard: _Shard) -> bool:
    return shard.samples == 0 or (path.is_file() and path.stat().st_size == shard.bytes)


@contextlib.contextmanager
def _made(work: _Work, todo: Sequence[int], workers: int) -> Iterator[Iterator[_Shard]]:
    """Give the tars in order as they are written, here or in other processes."""
    if workers == 1 or len(todo) < 2:
        yield (_write(work, number) for number in todo)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(todo)), context, initializer=_take_over, initargs=(work,))
    try:
        yield pool.map(_write_mine, todo)
    finally:
        pool.shutdown(cancel_futures=True)


_mine: list[_Work] = []  # in a worker process: what it was started with


def _take_over(work: _Work) -> None:
    _mine[:] = [work]


def _write_mine(number: int) -> _Shard:
    return _write(_mine[0], number)


def _write(work: _Work, number: int) -> _Shard:
    """Write one tar: aside, then renamed."""
    name = _name(number)
    try:
        return _write_aside(work, number, name, work.out / f".{name}.tmp")
    except OSError as error:
        what, remedy = f"can't be written ({error.strerror})", "make room, then run the same command again"
        return _Shard(name, 0, 0, "", False, (), (what, str(work.out / name), remedy))


def _write_aside(work: _Work, number: int, name: str, aside: Path) -> _Shard:
    bad, samples, deep = [], 0, False
    with aside.open("wb") as file:
        hashed = _Hashed(file)
        with tarfile.open(fileobj=hashed, mode="w|", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
            for index in work.shards[number].tolist():
                try:
                    encoded = _encoded(work, index)
                except UserError as error:
                    if not work.skip or not isinstance(error, DataError):
                        return _Shard(name, 0, 0, "", False, (), (error.what, error.where, error.remedy))
                    bad.append((f"{work.source.name}:{work.source.row(index)}", str(error)))
                    continue
                samples, deep = samples + 1, deep or encoded.deep
                for extension, data in encoded.files.items():
                    info = tarfile.TarInfo(f"{work.key(work.source.row(index))}.{extension}")
                    info.size, info.mode = len(data), 0o644  # time, owner and group stay 0: the same bytes each time
                    tar.addfile(info, io.BytesIO(data))
        file.flush()
        os.fsync(file.fileno())
    if samples:
        aside.replace(work.out / name)
    else:
        aside.unlink()
    return _Shard(name, samples, hashed.count if samples else 0, hashed.digest.hexdigest(), deep, bad)


def _encoded(work: _Work, index: int) -> Encoded:
    """Give the files of a sample, its class number too."""
    earlier = work.source.facts(index).prior
    prior = None if earlier is None else work.place(int(earlier.rsplit(":", 1)[1]))
    encoded = encode(work.source, index, images=work.images, prior=prior)
    label = class_of(work.source.cells(index, ("label",)).get("label"))
    if label is not None:
        encoded.files["cls"] = str(work.classes[label]).encode()
    return encoded


class _Hashed:
    """A file to write to that knows the hash and the number of the bytes it was given."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.count = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.count += len(data)
        return self._file.write(data)


def _finish(work: _Work, shards: Sequence[_Shard], split: str | None, made_of: str, before: int) -> Written:
    """Write what lies beside the tars; then the folder is done."""
    full = [shard for shard in shards if shard.samples]
    bad = [(key, reason) for shard in shards for key, reason in shard.bad]
    if not full:
        raise DataError(f"none of {len(work.source)} samples is good, such as: {bad[0][1]}", where=str(work.out))
    common: dict[str, Any] = {"classes": list(work.classes)} if work.classes else {}
    if any(shard.deep for shard in full):
        common["preprocess"] = preprocess_of(work.source)
    write_json(work.out / COMMON, common)
    if bad:
        lines = (json.dumps({"key": key, "reason": reason}, ensure_ascii=False) + "\n" for key, reason in bad)
        (work.out / QUARANTINE).write_text("".join(lines), encoding="utf-8")
    listed = {s.name: {"samples": s.samples, "bytes": s.bytes, "sha256": s.sha256} for s in full}
    write_json(work.out / CHECKSUMS, {"made_of": made_of, "skipped": len(bad), "shards": listed})
    (work.out / PROGRESS).unlink()
    samples, size = sum(shard.samples for shard in full), sum(shard.bytes for shard in full)
    return Written(str(work.out), split, samples, len(full), size, len(bad), before)


def _name(number: int) -> str:
    return f"{number:06}.tar"
