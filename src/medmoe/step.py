"""What a training step computes before its backward pass, forward and objectives, as it stands or compiled."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from medmoe.config import RunConfig
from medmoe.distributed import current, gathered, pieces_of_all
from medmoe.errors import ConfigError, unknown
from medmoe.heads.words import pieces_of
from medmoe.model import MedVLM
from medmoe.objectives import total_loss
from medmoe.types import Batch, Loss, Output

Forward: TypeAlias = Callable[[MedVLM, Batch], tuple[Output, Loss]]
"""What the model says of a batch, and the loss of that."""


def autocast(precision: str, device: str) -> contextlib.AbstractContextManager[Any]:
    """Give the precision's context: float32 does nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def eager(config: RunConfig, device: str) -> Forward:
    """Give forward and objectives of a recipe as they stand: under autocast only the forward, losses in float32."""
    said, judged = _says(config, device), _judges(config)

    def forward(model: MedVLM, batch: Batch) -> tuple[Output, Loss]:
        whole, facts = gathered(said(model, told(model, batch)), batch)
        return whole, judged(whole, facts)

    return forward


def told(model: MedVLM, batch: Batch) -> Batch:
    """Let every process know which word pieces the reports of all have: regions are scored by them."""
    if current().size == 1 or model.region_words is None or batch.tokens is None or batch.pieces is not None:
        return batch
    return dataclasses.replace(batch, pieces=pieces_of_all(pieces_of(batch.tokens)))


def _says(config: RunConfig, device: str) -> Callable[[MedVLM, Batch], Output]:
    """Give the forward pass, under autocast where the recipe asks for it."""

    def say(model: MedVLM, batch: Batch) -> Output:
        with autocast(config.train.precision, device):
            output: Output = model(batch)
        return output

    return say


def _judges(config: RunConfig) -> Callable[[Output, Batch], Loss]:
    """Give the objectives, in float32."""
    weights, options = config.objectives, config.objective_options
    return lambda output, batch: total_loss(output, batch, weights, options)


def compiled(config: RunConfig, device: str) -> Forward:
    """Give the same through torch.compile, which leaves the model as it is: its weights' names, its eager forward.

    The lengths of reports are declared to vary, so that another length isn't compiled anew. What no loss reads may get
    a gradient of zeros where it has none in the eager step, and then decays.

    Raises:
        ConfigError: If the backend is unknown, what it needs isn't installed, or batches go through in parts.
    """
    backend = config.train.compile_backend
    if config.train.micro_batch is not None:
        what = "a batch that goes through the model in parts (train.micro_batch) isn't compiled"
        raise ConfigError(what, where="train.compile", remedy="leave one of the two out")
    if config.train.shard and current().size > 1:
        what = "a model in parts (train.shard) isn't compiled: it changes between its parts and the whole as it runs"
        raise ConfigError(what, where="train.compile", remedy="leave one of the two out")
    check_backend(backend, device)
    if current().size > 1:  # between the two, the processes exchange what they say
        said = torch.compile(_says(config, device), backend=backend)
        judged = torch.compile(_judges(config), backend=backend)
    else:
        run = torch.compile(eager(config, device), backend=backend)

    def forward(model: MedVLM, batch: Batch) -> tuple[Output, Loss]:
        keys = batch.keys
        batch = dataclasses.replace(told(model, batch), keys=(), samples=())  # whose values would be compiled in
        for value in _of_any_length(batch):
            torch._dynamo.maybe_mark_dynamic(value, 1)
        if current().size == 1:
            return run(model, batch)
        whole, facts = gathered(said(model, batch), dataclasses.replace(batch, keys=keys))
        return whole, judged(whole, dataclasses.replace(facts, keys=()))

    return forward


def _of_any_length(batch: Batch) -> list[Tensor]:
    """List a batch's tensors whose second side is its longest report's."""
    tokens, text = batch.tokens, batch.text
    found = [] if tokens is None else [tokens.ids, tokens.mask, tokens.word, tokens.word_mask]
    return found if text is None else [*found, text.words, text.word_mask]


def check_backend(backend: str, device: str) -> None:
    """Say now what torch.compile would fail on in the middle of the first step.

    Raises:
        ConfigError: If the backend is unknown, or what it needs isn't installed.
    """
    known = torch._dynamo.list_backends(exclude_tags=())
    if backend not in known:
        raise ConfigError(unknown("backend", backend, known), where="train.compile_backend")
    if backend != "inductor":
        return
    remedy = "install it, or train without --compile"
    if torch.device(device).type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ConfigError("compiling for CUDA needs the package triton", where="train.compile", remedy=remedy)
        compilers = [os.environ.get("CC", "gcc"), "clang"]
    else:
        compilers = [os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")]
    if not any(shutil.which(name) for name in compilers):
        what = f"compiling needs a C++ compiler; found no {' or '.join(compilers)}"
        raise ConfigError(what, where="train.compile", remedy=remedy)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Give the seed of what is drawn in a step: a run that goes on draws as one that never stopped."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=7).digest(), "big")


def grow_step(config: RunConfig) -> int:
    """Give the step after which growing experts part."""
    return max(1, round(config.train.steps * config.train.grow_at))
