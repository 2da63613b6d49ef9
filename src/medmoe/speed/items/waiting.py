"""How long training waits for data: a short run of the tiny recipe from files, as its own log says it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path

from medmoe.build import build_loader, build_model, build_tokenizer, resolve_data
from medmoe.config import RunConfig, override
from medmoe.data.sources.concat import open_source
from medmoe.data.sources.phantom import PhantomSource
from medmoe.data.sources.phantom_write import write_folder
from medmoe.optim import adamw
from medmoe.recipes import RECIPES
from medmoe.rundir import RunFolder
from medmoe.speed.item import Call, Item, Size, Target, Way
from medmoe.speed.items.scratch import scratch
from medmoe.train import State, fit, train_step
from medmoe.types import Batch

_STEPS = 24


@lru_cache(maxsize=2)
def phantoms(*, small: bool) -> Path:
    """Write phantoms of 64 pixels to disk, as `medmoe data phantom` does."""
    out = scratch() / f"phantoms-{'small' if small else 'whole'}"
    source = PhantomSource(18 if small else 120, size=32 if small else 64, seed=0)
    return write_folder(source, out, splits={"train": 1.0}, seed=0, licence="CC0-1.0", readme="Phantoms.")


def recipe(*, small: bool) -> RunConfig:
    """Give the tiny recipe with its own loader, a few steps of it."""
    few = [
        f"train.steps={2 if small else _STEPS}",
        "train.log_every=1",
        "train.val_every=1000",
        "train.save_every=1000",
    ]
    shrunk = ["data.batch_size=4", "model.vision.image_size=32", "model.vision.channels=[8,8,8,8]", "data.workers=0"]
    return override(RECIPES["tiny"](), [*few, *(shrunk if small else [])])


def _ways(size: Size) -> Mapping[str, Way]:
    """Give the loader's work for a batch and a step's on it, each in this process, by themselves."""

    def prepared() -> tuple[State, Iterator[Batch], RunConfig]:
        source = open_source(phantoms(small=size.small), maps=False)
        config, reports = resolve_data(override(recipe(small=size.small), ["data.workers=0"]), source)
        model = build_model(config.model, build_tokenizer(config.model.text, reports))
        batches = iter(build_loader(source, model, config, train=True))
        return State(model, adamw(model, lr=1e-3, weight_decay=0.05, betas=config.train.betas), None), batches, config

    def reading() -> Call:
        _, batches, _ = prepared()
        return partial(next, batches)

    def step() -> Call:
        state, batches, config = prepared()
        batch = next(batches)
        return lambda: train_step(state, iter([batch]), config, "cpu")

    return {"ours": reading, "plain": step}


def _figures(size: Size) -> Mapping[str, float]:
    """Train, and take what the run's log says of every step after the first, which starts the workers."""
    out = Path(tempfile.mkdtemp(prefix="run-", dir=scratch()))
    run = RunFolder(out / "run")
    fit(recipe(small=size.small), train=open_source(phantoms(small=size.small), maps=False), val=None, run=run)
    rows = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    shutil.rmtree(out)
    rows = [row for row in rows if row["kind"] == "train"]
    seconds = [1 / row["images_per_second"] for row in rows]
    waited = [row["data_wait"] * time for row, time in zip(rows, seconds, strict=True)]
    return {"data_wait": sum(waited[1:]) / sum(seconds[1:]), "data_wait_of_first_step": rows[0]["data_wait"]}


ITEMS = (
    Item(
        name="data-wait",
        about="the tiny recipe on phantoms of 64² from disk, batches of 64 with its own loader process, "
        f"{_STEPS} steps: the share of time that the log says was spent waiting; and the times of reading a batch "
        "(ours) and of a step on it (plain), each alone in one process",
        ways=_ways,
        targets=[Target("data_wait", 0.05, over=None)],
        floor="0: reading takes a fraction of a step and happens beside it",
        rounds=5,
        figures=_figures,
        unit=("images", 64),
        devices=("cpu",),
    ),
)
