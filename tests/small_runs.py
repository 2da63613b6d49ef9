"""A recipe so small that a training step takes milliseconds, and sources that hold their samples in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medmoe.build import build_loader, build_model, build_tokenizer, resolve_data
from medmoe.config import (
    DataConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
    RunConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
    override,
)
from medmoe.data.sources.phantom import PhantomSource
from medmoe.model import MedVLM
from medmoe.rundir import RunFolder
from medmoe.train import Watch, fit
from medmoe.types import Batch, Sample

Row = dict[str, Any]
# the architecture of a Hugging Face encoder of two layers
BERT = {
    "model_type": "bert",
    "vocab_size": 400,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 80,
}
TERMS = ("global", "local", "report_type", "image_modality", "router_distillation")


class Memory:
    """A source of samples already made."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def facts(self, index: int) -> Sample:
        return dataclasses.replace(self.samples[index], image=np.zeros((0, 0), np.uint8), mask=None, gaze=None)


@cache
def phantoms(patients: int = 24, *, seed: int = 0) -> Memory:
    source = PhantomSource(patients, size=32, seed=seed)
    return Memory([source[index] for index in range(len(source))])


def changed(source: Memory, **fields: Any) -> Memory:
    """Give the same samples with some fields set on each."""
    return Memory([dataclasses.replace(sample, **fields) for sample in source.samples])


def micro(*settings: str) -> RunConfig:
    recipe = RunConfig(
        recipe="micro",
        model=ModelConfig(
            vision=VisionConfig(image_size=32, channels=(8, 8, 16, 16)),
            text=TextConfig(width=16, depth=1, heads=2, vocab_size=300, max_words=24, max_pieces=64),
            router=RouterConfig(hidden=8),
            experts=ExpertConfig(width=8, grid=4, levels=(0, 1), kernel=1, layers=1, conv="dense"),
            embed_dim=16,
        ),
        objectives=dict.fromkeys(TERMS, 0.5),
        data=DataConfig(batch_size=8, workers=0),
        train=TrainConfig(steps=6, lr=3e-3, log_every=1, val_every=3, save_every=3),
    )
    return override(recipe, list(settings))


def built(*settings: str, source: Memory | None = None, seed: int = 0) -> MedVLM:
    """Give a micro model with fresh weights."""
    config, reports = resolve_data(micro(*settings), source or phantoms())
    return build_model(config.model, build_tokenizer(config.model.text, reports), seed=seed)


def batch_of(model: MedVLM, source: Memory | None = None) -> Batch:
    """Give the first eight samples as a batch."""
    return next(iter(build_loader(source or phantoms(), model, micro(), train=False)))


def train(
    folder: Path,
    *settings: str,
    resume: bool = False,
    source: Any = None,
    val: Any = None,
    init: dict[str, str] | None = None,
    watch: Watch = lambda row: None,
    allow_changes: bool = False,
) -> MedVLM:
    """Train the micro recipe into a run folder."""
    run = RunFolder(folder, resume=resume)
    data, config = source or phantoms(), micro(*settings)
    return fit(config, train=data, val=val, run=run, init=init, watch=watch, allow_changes=allow_changes)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Tell whether two modules agree in every bit of their state."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


class Crash(Exception):  # noqa: N818 - stands for anything that ends a process
    """The machine goes down."""


def stop_at(step: int, kind: type[BaseException] = KeyboardInterrupt) -> Callable[[Row], None]:
    def watch(row: Row) -> None:
        if row["kind"] == "train" and row["step"] == step:
            raise kind

    return watch


def rows(folder: Path, kind: str = "train") -> list[Row]:
    return [row for row in RunFolder(folder, resume=True).history() if row["kind"] == kind]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in rows(folder)]
