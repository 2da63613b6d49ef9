"""Shards: is what is written what is read, how fast, and does a run that is killed go on where it was?

    python benchmarks/shards.py --json shards.json

Four parts, also one by one with `--only`:

`equal` makes a manifest of JPEG, PNG, 16-bit PNG and TIFF, BMP and DICOM files with every kind of fact, writes it as
shards in two processes and compares each sample of the two sources bit by bit. `speed` reads one tar, as bytes and
decoded, with this library and with webdataset in turn. `cold` reads tars that the system has forgotten, as bytes, in an
order over all samples and tar by tar (`data.shuffle`). `kills` reads batches in processes of their own, which note
every sample and now and then how far they are, and are ended by SIGKILL, with their workers, while they are at a random
sample; after each, a new one goes on from the last note. What was read in the end must be, key by key, what one process
without workers reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medmoe.data.loader import Loader
from medmoe.data.plan import Layout, Plan
from medmoe.data.preprocess import Preprocess
from medmoe.data.sources.base import Source, by_shard, shards_of, sizes_of
from medmoe.data.sources.concat import open_source
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.manifest_write import write_manifest
from medmoe.data.sources.shard_folder import check_shards
from medmoe.data.sources.shard_write import write_shards
from medmoe.data.sources.shards import ShardSource
from medmoe.speed.item import Size
from medmoe.speed.items.shards import ITEMS
from medmoe.speed.measure import measure
from medmoe.types import Sample

BATCH, NOTE_EVERY, PASSES = 8, 3, 3
WORDS = ("nodule", "effusion", "cyst", "mass", "no finding")


def make_manifest(folder: Path, count: int, *, side: int = 48) -> Path:
    """Write images of six kinds, with reports, labels, boxes, masks and gaze maps in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        rng = np.random.default_rng(number)
        kind = ("jpg", "png", "jpg", "png16", "tif", "jpg", "bmp", "png", "dcm", "jpg")[number % 10]
        name = f"{number:06}.{kind.removesuffix('16')}"
        wide = (side, side + number % 7)
        if kind in ("png16", "tif"):
            Image.fromarray(rng.integers(0, 4096, wide).astype(np.uint16)).save(folder / name)
        elif kind == "dcm":
            write_dicom(folder / name, rng.integers(0, 4096, wide).astype(np.uint16))
        else:
            shape = (*wide, 3) if number % 3 else wide
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / name)
        row: dict[str, Any] = {"image": name, "modality": ("ct", "xray", "mri")[number % 3]}
        row |= {"patient_id": f"p{number // 3}", "source": f"site {number % 4}", "license": "CC0-1.0"}
        row |= {"text": f"Befund {number}: größer."} if number % 2 else {"label": WORDS[number % 5]}
        if number % 9 == 0:
            row["boxes"] = [{"label": "mass", "xyxy": [1, 2, side / 3, side / 2]}]
        if number % 11 == 0:
            Image.fromarray(rng.random(wide) > 0.5).save(folder / f"{number:06}-mask.png")
            Image.fromarray(rng.integers(0, 256, wide, np.uint8)).save(folder / f"{number:06}-gaze.png")
            row |= {"mask": f"{number:06}-mask.png", "gaze": f"{number:06}-gaze.png"}
        if number % 3 == 2:
            row |= {"prior": rows[-1]["image"], "offset_days": 30.5}
        rows.append(row)
    return write_manifest(rows, folder / "manifest.parquet")


def write_dicom(path: Path, values: np.ndarray) -> None:
    """Write a grey DICOM file with a window and a slope."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.Rows, data.Columns = values.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.RescaleSlope, data.RescaleIntercept, data.WindowCenter, data.WindowWidth = 1, -1024, 40, 3000
    data.PixelData = values.tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(path, enforce_file_format=True)


def difference(one: Sample, other: Sample) -> str:
    """Name the first field in which two samples differ, keys aside; empty where none does."""
    for field in dataclasses.fields(Sample):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("key", "prior"):
            same = (left is None) == (right is None)
        elif isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
            same = (left.dtype, left.shape) == (right.dtype, right.shape) and left.tobytes() == right.tobytes()
        else:
            same = left == right
        if not same:
            return field.name
    return ""


def equal(folder: Path, count: int, workers: int) -> dict[str, Any]:
    """Write a manifest as shards and compare what is read of both."""
    manifest = make_manifest(folder / "files", count)
    begun = time.perf_counter()
    [done] = write_shards(manifest, folder / "shards", workers=workers)
    seconds = time.perf_counter() - begun
    ours, theirs = open_source(folder / "shards"), ManifestSource(manifest)
    found = [difference(ours[index], theirs[index]) for index in range(len(theirs))]
    broken = [name for name, _, wrong in check_shards(folder / "shards") if wrong]
    return {
        "samples": len(ours), "bit_equal": found.count(""), "different": sorted(set(filter(None, found))),
        "tars": done.shards, "bytes": done.bytes, "checksums_wrong": broken, "samples_per_second": count / seconds,
    }  # fmt: skip


def speed(*, small: bool, rounds: int) -> list[dict[str, Any]]:
    """Time ours beside webdataset."""
    rows = []
    for item in ITEMS:
        row = measure(item, Size(small=small), rounds=rounds)
        checks = [dataclasses.asdict(check) for check in row.checks]
        rows.append({"name": row.name, "checks": checks, "seconds": dict(row.seconds), "skipped": row.skipped})
    return rows


def cold(folder: Path, *, tars: int, samples: int, size: int, rounds: int) -> dict[str, Any]:
    """Time half a pass over tars that aren't in the system's cache, shuffled over all and tar by tar."""
    folder.mkdir(parents=True)
    paths, rng = [folder / f"{number:03}.tar" for number in range(tars)], np.random.default_rng(0)
    for path in paths:
        with tarfile.open(path, "w") as tar:
            for number in range(samples):
                info = tarfile.TarInfo(f"{number:06}.jpg")
                info.size = size
                tar.addfile(info, io.BytesIO(rng.bytes(size)))
    os.sync()
    source = ShardSource(paths)
    rates: dict[str, list[float]] = {"global": [], "shards": []}
    for _, name in itertools.product(range(rounds), rates):
        whole = name == "global"
        layout = Layout(shards=None if whole else source.shards(), window=3 * samples)
        plan = Plan([None] * len(source), batch_size=50, layout=layout)
        read = ShardSource(paths) if whole else source.by_shard()
        forget(paths)
        begun, steps = time.perf_counter(), len(source) // 100
        total = sum(len(read.files(index)["jpg"]) for step in range(steps) for index in plan.indices(step).tolist())
        rates[name].append(total / 1e6 / (time.perf_counter() - begun))
    ratios = np.array(rates["shards"]) / np.array(rates["global"])
    return {"megabytes_per_second": rates, "shards_over_global": np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()}


def forget(paths: list[Path]) -> None:
    """Have the system drop what it keeps of files."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def loader_of(source: Source, asked: dict[str, Any], start: int) -> Loader:
    """Open what a process of `kills` reads."""
    layout = Layout(sizes_of(source), asked["factors"])
    if asked["shuffle"] == "shards":
        layout = Layout(sizes_of(source), asked["factors"], shards_of(source), asked["window"])
        source = by_shard(source)
    return Loader(
        source, Preprocess(32), None, modalities=("xray", "ct", "mri"), batch_size=BATCH, train=True, seed=7,
        workers=asked["workers"], start=start, layout=layout, rank=asked["rank"], world=asked["world"],
    )  # fmt: skip


def stream(asked: dict[str, Any]) -> None:
    """Read to the last step, from the last note of how far an earlier process came: a line for each sample."""
    warnings.filterwarnings("ignore", message=".*worker processes")  # more of them than the machine has cores
    log, note = Path(asked["log"]), Path(asked["note"])
    step, size = json.loads(note.read_text()) if note.exists() else (0, 0)
    with log.open("ab") as file:
        file.truncate(size)  # what came after the note is read again
    loader = loader_of(open_source(asked["data"]), asked, step)
    with log.open("ab", buffering=0) as file:
        for batch in itertools.islice(loader, asked["steps"] - step):
            for key in batch.keys:
                file.write(f"{step} {key}\n".encode())
            step += 1
            if step % NOTE_EVERY == 0 or step == asked["steps"]:
                aside = note.with_suffix(".tmp")
                aside.write_text(json.dumps([step, file.tell()]))
                aside.replace(note)
    loader.close()


def expected(asked: dict[str, Any]) -> list[list[str]]:
    """Give the lines of each rank of a run that nobody disturbs, from one process without workers."""
    whole = loader_of(open_source(asked["data"]), {**asked, "workers": 0, "rank": 0, "world": 1}, 0)
    lines: list[list[str]] = [[] for _ in range(asked["world"])]
    for step, batch in enumerate(itertools.islice(whole, asked["steps"])):
        for place, key in enumerate(batch.keys):
            lines[place % asked["world"]].append(f"{step} {key}")
    return lines


def killed(asked: dict[str, Any], folder: Path, kills: int) -> dict[str, Any]:
    """Kill a run at random samples, and compare what it read in the end, and on the way, with one that wasn't."""
    folder.mkdir(parents=True)
    truth, rng = expected(asked), random.Random(f"{asked['workers']} {asked['world']}")
    ranks = [
        {**asked, "rank": rank, "log": str(folder / f"{rank}.log"), "note": str(folder / f"{rank}.json")}
        for rank in range(asked["world"])
    ]
    targets = sorted(rng.sample(range(5, len(truth[0]) - 5 * BATCH), kills))
    real, late, strays = 0, 0, 0
    for target in [*targets, None]:
        running = [begin(one) for one in ranks]
        try:
            while target is not None and any(process.poll() is None for process in running):
                if min(len(lines_of(one)) for one in ranks) >= target:
                    break
                time.sleep(0.005)
            if target is not None:
                late += sum(process.poll() is not None for process in running)
                for process in running:
                    real += end(process)
        finally:
            for process in running:
                if target is None:
                    process.wait()
                else:
                    end(process)
        for rank, one in enumerate(ranks):
            read = lines_of(one)
            strays += read != truth[rank][: len(read)]
    same = [lines_of(one) == truth[rank] for rank, one in enumerate(ranks)]
    return {
        "workers": asked["workers"], "ranks": asked["world"], "shuffle": asked["shuffle"], "kills": kills,
        "processes_killed": real, "ended_before": late, "samples": sum(map(len, truth)), "same_stream": all(same),
        "wrong_on_the_way": strays,
    }  # fmt: skip


def begin(asked: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start a process that reads, in a group of its own with its workers."""
    return subprocess.Popen([sys.executable, __file__, "--stream", json.dumps(asked)], start_new_session=True)


def end(process: subprocess.Popen[bytes]) -> int:
    """Kill a process and its workers; 1 where it was alive."""
    if process.poll() is not None:
        return 0
    os.killpg(process.pid, signal.SIGKILL)
    return int(process.wait() == -signal.SIGKILL)


def lines_of(asked: dict[str, Any]) -> list[str]:
    """Read the whole lines of a log."""
    path = Path(asked["log"])
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def all_kills(folder: Path, *, count: int, kills: int, arrangements: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Kill runs with each number of workers and ranks, on two sources of which one comes more often."""
    for name, size in (("a", count), ("b", count // 3)):
        write_shards(make_manifest(folder / f"files-{name}", size, side=24), folder / name, samples_per_shard=50)
    for number, (workers, world) in enumerate(arrangements):
        asked = {
            "data": f"{folder / 'a'}::{folder / 'b'}", "factors": [1, 2.5], "window": 120, "rank": 0,
            "shuffle": ("global", "shards")[number % 2], "workers": workers, "world": world,
            "steps": PASSES * 2 * count // BATCH,
        }  # fmt: skip
        yield killed(asked, folder / f"run-{workers}-{world}", kills)


def main() -> None:
    """Run what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("equal", "speed", "cold", "kills"), action="append")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="a few samples and kills: figures then mean nothing")
    parser.add_argument("--stream", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.stream is not None:
        stream(json.loads(asked.stream))
        return
    parts = asked.only or ["equal", "speed", "cold", "kills"]
    found: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    with tempfile.TemporaryDirectory(prefix="medmoe-shards-") as scratch:
        if "equal" in parts:
            found["equal"] = equal(Path(scratch) / "equal", 40 if asked.small else asked.samples, workers=2)
            print(json.dumps(found["equal"]), flush=True)
        if "speed" in parts:
            found["speed"] = speed(small=asked.small, rounds=asked.rounds)
            print(json.dumps(found["speed"]), flush=True)
        if "cold" in parts:
            many = (
                {"tars": 2, "samples": 100, "size": 500}
                if asked.small
                else {"tars": 20, "samples": 500, "size": 60_000}
            )
            found["cold"] = cold(Path(scratch) / "cold", rounds=min(asked.rounds, 5), **many)
            print(json.dumps(found["cold"]), flush=True)
        if "kills" in parts:
            pairs = [(1, 2)] if asked.small else [(workers, ranks) for ranks in (1, 2) for workers in (1, 2, 4)]
            count = 120 if asked.small else 1200
            found["kills"] = []
            for row in all_kills(Path(scratch), count=count, kills=asked.kills, arrangements=pairs):
                found["kills"].append(row)
                print(json.dumps(row), flush=True)
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
