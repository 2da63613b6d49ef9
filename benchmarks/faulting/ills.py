"""Ills to give to a process before it begins: a clock that goes back, images that are no numbers, a disk that hangs."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from typing import Any

import torch


def clock_goes_back() -> None:
    """Let the wall clock be an hour earlier after every few looks at it."""
    real, real_ns, real_text, looks = time.time, time.time_ns, time.strftime, itertools.count()

    def back() -> float:
        return 3600.0 * (next(looks) // 5)

    time.time = lambda: real() - back()  # type: ignore[assignment]
    time.time_ns = lambda: real_ns() - int(1e9 * back())
    time.strftime = lambda form, *at: real_text(form, *(at or (time.localtime(real() - back()),)))


def image_is_nan(rank: int, after: int) -> Callable[[], None]:
    """Let an image of one batch of one process be no number, as a reader with a defect might."""

    def before() -> None:
        import medmoe.data.batch as module

        plain, calls = module.collate, itertools.count()

        def collate(*args: Any, **more: Any) -> Any:
            batch = plain(*args, **more)
            if int(os.environ["RANK"]) == rank and next(calls) == after:
                batch.image[0] = torch.nan
            return batch

        module.collate = collate

    return before


def batch_poisons(number: int) -> Callable[[], None]:
    """Let one batch, whichever step it comes at, be taken at a rate at which all that was learnt is lost."""

    def before() -> None:
        import medmoe.train as module
        from medmoe.rewinds import first_batch

        plain = module.train_step

        def train_step(state: Any, batches: Any, config: Any, device: str) -> Any:
            if first_batch(state.rewinds, state.step, config.train.accum_freq) == number:
                config = config.model_copy(update={"train": config.train.model_copy(update={"lr": 50.0})})
            return plain(state, batches, config, device)

        module.train_step = train_step

    return before


def reading_hangs(after: int) -> Callable[[], None]:
    """Let the disk say nothing any more after so many samples read."""

    def before() -> None:
        from medmoe.data.sources.phantom import PhantomSource

        plain, reads = PhantomSource.__getitem__, itertools.count()

        def read(self: Any, index: int) -> Any:
            if next(reads) >= after:
                time.sleep(1000)
            return plain(self, index)

        PhantomSource.__getitem__ = read  # type: ignore[method-assign]

    return before


def step_hangs(rank: int, after: int) -> Callable[[], None]:
    """Let one process never come to its next step."""

    def before() -> None:
        import medmoe.train as module

        plain, calls = module.sum_gradients, itertools.count()

        def sum_gradients(model: Any) -> None:
            if int(os.environ["RANK"]) == rank and next(calls) == after:
                time.sleep(1000)
            plain(model)

        module.sum_gradients = sum_gradients

    return before
