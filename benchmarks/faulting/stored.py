"""Faults of what is stored: checkpoints damaged, disks full, samples and data that aren't what they were."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

from faulting import ills, runs
from faulting.cases import STEPS, Place, case, ends, newest, told


def harm(place: Place, damage: Callable[[Path, random.Random], str], times: int) -> str:
    """Damage each file of the newest checkpoint in turn; the one before must be taken, and the file named."""
    import logging

    from medmoe import checkpoint

    run, rng, tried, heard = place.copy(), random.Random(3), 0, []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("medmoe.checkpoint").addHandler(handler)
    files = sorted(newest(run).iterdir())
    before = runs.saved(run)[-2]
    try:
        for path in files:
            content = path.read_bytes()
            for _ in range(times):
                heard.clear()
                what = damage(path, rng)
                found = checkpoint.load_latest(run)
                assert found is not None, f"{path.name}, {what}: nothing was found"
                assert found.step == before, f"{path.name}, {what}: step {found.step} was taken"
                named = path.name in "".join(heard) or (path.name == "manifest.json" and newest(run).name in str(heard))
                assert named, f"{path.name}, {what}: nobody said so: {heard}"
                path.write_bytes(content)
                tried += 1
    finally:
        logging.getLogger("medmoe.checkpoint").removeHandler(handler)
    return f"{tried} of {tried} times in {len(files)} files"


def flip(path: Path, rng: random.Random) -> str:
    """Turn one bit of a file over."""
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return f"bit {bit}"


def cut(path: Path, rng: random.Random) -> str:
    """Cut a file off somewhere."""
    length = rng.randrange(path.stat().st_size)
    os.truncate(path, length)
    return f"cut to {length} bytes"


def remove(path: Path, _: random.Random) -> str:
    """Delete a file."""
    path.unlink()
    return "deleted"


PASSED = "the checkpoint before it is used; the broken file is named"


@case("a bit flips in the newest checkpoint (each file, 10 bits)", PASSED)
def bits(place: Place) -> str:
    return harm(place, flip, 10)


@case("a file of the newest checkpoint is cut off (each file, 5 lengths)", PASSED)
def truncation(place: Place) -> str:
    return harm(place, cut, 5)


@case("a file of the newest checkpoint is gone (each file)", "the checkpoint before it is used, and that is told")
def deletion(place: Place) -> str:
    return harm(place, remove, 1)


@case("the newest checkpoint is broken when a run goes on", f"{PASSED}; same end")
def broken_at_resume(place: Place) -> str:
    run = place.copy()
    flip(newest(run) / "optimizer.safetensors", random.Random(0))
    return told(place.goes_on(), "optimizer.safetensors: was changed or damaged")


@case("every checkpoint is broken", "exit 2, one line; nothing is written")
def all_broken(place: Place) -> str:
    run = place.copy()
    for step in runs.saved(run):
        cut(run / "checkpoints" / f"step-{step:07d}" / "model.safetensors", random.Random(step))
    before = (run / "metrics.jsonl").read_bytes()
    said = ends(place.start(runs.train(run, *STEPS)), 2)
    assert (run / "metrics.jsonl").read_bytes() == before
    return told(said, "error: .*no checkpoint can be read")


@case("the disk is full when a checkpoint is written", "exit 2, one line; what was saved is whole; with room: same end")
def full_disk(place: Place) -> str:
    run = place.disk(2)
    said = ends(place.start(runs.train(run, *STEPS)), 2)
    assert runs.whole(run) == runs.saved(run) != [], f"{runs.saved(run)} saved, {runs.whole(run)} whole"
    assert not runs.half_written(run), "half a checkpoint was left"
    place.remount("size=64m")
    place.goes_on()
    return told(said, "error: .*checkpoint can't be written .No space left.*; the checkpoint of step . is whole")


@case("the disk is full when metrics are written", "exit 2, one line; what was saved is whole; with room: same end")
def full_metrics(place: Place) -> str:
    run = place.disk(16)
    group = place.start(runs.train(run, "train.steps=10", "train.save_every=4", "train.keep=3"))
    assert group.until(lambda: runs.whole(run) == [4]), group.said()
    group.send(signal.SIGSTOP)
    with contextlib.suppress(OSError), (run / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    group.send(signal.SIGCONT)
    said = ends(group, 2)
    assert 4 in runs.whole(run)
    (run / "filler").unlink(missing_ok=True)
    ends(place.start(runs.train(run, *STEPS)), 0)
    assert runs.weights(run) == runs.weights(place.alone())
    return told(said, "error: .*No space left.*whole")


@case("the run folder is read-only", "exit 2, one line")
def read_only(place: Place) -> str:
    run = place.disk(16)
    shutil.copytree(place.alone(), run, dirs_exist_ok=True)
    place.remount("ro")
    return told(ends(place.start(runs.train(run, "train.steps=12")), 2), "error: .*can't be written .Read-only")


@case("one image is not a number, in one of two processes", "the step is skipped and written down with its samples")
def nan_batch(place: Place) -> str:
    ends(place.start(runs.train(place.run, *STEPS), count=2, before=ills.image_is_nan(1, after=3)), 0)
    (row,) = map(json.loads, (place.run / "bad_steps.jsonl").read_text().splitlines())
    assert row["step"] == 4, f"step {row['step']} is written down"
    assert len(set(row["keys"])) == 6, f"{len(row['keys'])} of 6 samples were written down"
    assert runs.rows(place.run)[-1]["bad_steps"] == 1
    assert runs.last_step(place.run) == 10
    assert finite(place.run)
    return f"step {row['step']} skipped, loss {row['loss']}, {len(row['keys'])} keys written down"


@case("many steps are not numbers", "exit 2 after train.bad_steps, one line; checkpoints hold numbers only")
def many_nan(place: Place) -> str:
    wild = ("train.lr=1e30", "train.warmup=0", "train.clip=1e30", "train.bad_steps=2", "train.save_every=1")
    said = ends(place.start(runs.train(place.run, "train.steps=20", *wild)), 2)
    assert finite(place.run)
    return told(said, r"error: the (loss|gradient's norm) is (nan|inf) at step \d+ \(3 bad steps in a row\)")


WATCHED = ("train.spike=20", "train.spike_window=8")
JUMPS = ("train.steps=18", "train.save_every=2", "train.keep=3")


@case("after one batch the loss jumps; train.spike is set", "back to before it, past the batch; killed then: same end")
def jump(place: Place) -> str:
    words = runs.train(place.run, *JUMPS, *WATCHED)
    other = place.folder / "killed"
    said = ends(place.start(words, count=2, before=ills.batch_poisons(9)), 0, seconds=600)
    (row,) = runs.rows(place.run, "rewind")
    assert row["step"] <= 6, f"it went back to step {row['step']}, and the loss jumped after step 10"
    highest = max(loss for step, loss in runs.losses(place.run) if step > row["step"])
    assert highest < 3 * row["median"], f"the loss came to {highest} again"
    group = place.start(runs.train(other, *JUMPS, *WATCHED), count=2, before=ills.batch_poisons(9))
    assert group.until(lambda: (other / "rewinds.json").exists() and runs.last_step(other) > row["step"]), group.said()
    group.kill()
    again = place.start(runs.train(other, *JUMPS, *WATCHED), count=2, before=ills.batch_poisons(9))
    ends(again, 0, seconds=600)
    assert runs.weights(other) == runs.weights(place.run), "the end isn't the undisturbed run's"
    assert runs.losses(other) == runs.losses(place.run), "the losses aren't the undisturbed run's"
    return told(said, r"the loss jumped to .*; back to step \d+, and on with batch \d+")


@case("after one batch the loss jumps; train.spike isn't set", "nothing: it stays up")
def jump_unseen(place: Place) -> str:
    ends(place.start(runs.train(place.run, *JUMPS), before=ills.batch_poisons(9)), 0)
    losses = dict(runs.losses(place.run))
    assert losses[18] > 3 * losses[9], f"{losses[9]} before, {losses[18]} at the end"
    return f"{losses[9]:.3g} before, {losses[18]:.3g} at the end"


@case("the loss jumps once more than train.rewinds", "exit 2, one line; the newest checkpoint is from before")
def jumps_again(place: Place) -> str:
    words = runs.train(place.run, *JUMPS, *WATCHED, "train.rewinds=0")
    said = ends(place.start(words, before=ills.batch_poisons(9)), 2)
    assert runs.saved(place.run)[-1] <= 6
    return told(said, r"error: .*the loss jumped to .* went back 0 times already; the newest checkpoint is now that of")


def finite(run: Path) -> bool:
    """Tell whether every weight of every checkpoint is a number."""
    from medmoe import checkpoint

    loaded = [checkpoint.load(path) for path in checkpoint.found(run)]
    return all(bool(v.isfinite().all()) for one in loaded for v in (*one.weights.values(), *one.optimizer.values()))


@case("a sample in a shard is broken", "exit 2 naming the tar and the sample; with --on-bad-sample skip it goes on")
def bad_shard(place: Place) -> str:
    data = place.folder / "shards"
    write_tars(place.folder / "phantoms", data)
    path = sorted((data / "train").glob("*.tar"))[0]
    with tarfile.open(path) as tar:
        image = next(member for member in tar if re.fullmatch(r"\d+\.png", member.name))
    content = bytearray(path.read_bytes())
    content[image.offset_data + 40 : image.offset_data + image.size] = bytes(image.size - 40)
    path.write_bytes(content)
    words = runs.train(place.run, *STEPS, data=str(data))
    said = ends(place.start(words), 2)
    ends(place.start([*words, "--on-bad-sample", "skip"]), 0)
    assert len((place.run / "quarantine.jsonl").read_text().splitlines()) == 1
    return told(said, rf"error: .*{path.name}")


@case("a shard is cut off", "exit 2 naming the tar, before anything is trained")
def cut_shard(place: Place) -> str:
    data = place.folder / "shards"
    write_tars(place.folder / "phantoms", data)
    path = sorted((data / "train").glob("*.tar"))[1]
    os.truncate(path, path.stat().st_size // 2 - 100)
    for index in data.rglob("*.index*"):
        index.unlink()
    return told(ends(place.start(runs.train(place.run, *STEPS, data=str(data))), 2), rf"error: .*{path.name}")


def write_tars(phantoms: Path, data: Path) -> None:
    """Write phantoms as three tars."""
    from medmoe.data.sources.phantom import write_phantoms
    from medmoe.data.sources.shard_write import write_shards

    write_shards(write_phantoms(phantoms, patients=40, size=32, seed=0), data, samples_per_shard=12)


@case("a run goes on with other data", "exit 2, one line; with --allow-changes it goes on")
def other_data(place: Place) -> str:
    run, other = place.copy(), "phantom:patients=60,size=32,seed=9"
    words = runs.train(run, "train.steps=12", data=other)
    said = ends(place.start(words), 2)
    assert runs.last_step(run) == 10
    ends(place.start([*words, "--allow-changes"]), 0)
    assert runs.last_step(run) == 12
    return told(said, "error: .*training samples.*are others.*--allow-changes")


@case("a run goes on with another recipe", "exit 2, one line saying what differs; with --allow-changes it goes on")
def other_recipe(place: Place) -> str:
    run = place.copy()
    words = runs.train(run, "train.steps=12", "train.lr=0.5", "data.balance=0.5")
    said = ends(place.start(words), 2)
    ends(place.start([*words, "--allow-changes"]), 0)
    return told(said, r"error: .*data\.balance was 0\.0, now 0\.5; train\.lr was .*, now 0\.5.*--allow-changes")
