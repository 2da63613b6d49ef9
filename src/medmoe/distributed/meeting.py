"""How processes that torchrun started find each other, and what is said when they lose each other."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from threading import Thread
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from medmoe.distributed.world import ALONE, World
from medmoe.errors import ConfigError, UserError

_OF_OTHERS = ("gloo", "Gloo", "NCCL", "Connection closed", "Connection reset", "Timed out waiting")
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_T = TypeVar("_T")
_REMEDY = "look at what they said, then go on with --resume latest; torchrun --max-restarts does it by itself"


@contextmanager
def joined(device: str, *, timeout: float) -> Iterator[World]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Args:
        device: `cpu` (gloo) or `cuda` (NCCL, each process on its own device).
        timeout: Seconds after which a process that waits for the others gives up.

    Yields:
        The world; without torchrun, or with one process, `ALONE`.

    Raises:
        ConfigError: If the environment says something impossible, or there are more processes than devices.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield ALONE
        return
    try:
        world = World(*(int(os.environ[name]) for name in _NAMES))
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{', '.join(_NAMES)} aren't all numbers", where="environment", remedy="use torchrun"
        ) from error
    kind = torch.device(device).type
    if kind == "cuda":
        if world.local >= torch.cuda.device_count():
            what = f"process {world.local + 1} on this machine, which has {torch.cuda.device_count()} devices"
            raise ConfigError(what, where="--nproc-per-node", remedy="start one process a device")
        torch.cuda.set_device(world.local)
    backend, longest = "nccl" if kind == "cuda" else "gloo", timedelta(seconds=timeout)
    try:
        with _lost_told(world, timeout):
            store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=longest))
            store = _within(timeout + 5, partial(_meet, store, world, timeout))
            dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=longest)
            yield world
            dist.barrier()  # none is done before all are: torchrun can't start those again that are done
    finally:
        with contextlib.suppress(RuntimeError, AssertionError, ValueError):
            dist.destroy_process_group()


def _meet(store: Store, world: World, timeout: float) -> Store:
    """Find the others, and give a store that is for these processes alone.

    torchrun keeps one store over restarts: what the processes before these wrote is still in it, such as the addresses
    at which they can't be reached any more. So each names itself anew, and the first, once it has heard from all, gives
    them a name for their meeting, under which everything else is kept.

    The dead neither ask nor answer, so what they wrote misleads nobody. The living of an earlier start might: but
    torchrun ends its processes before it starts others, and waits until the other machines have done so too. What it
    can't end are processes whose torchrun was killed itself; these notice that, and leave.
    """
    store.set_timeout(timedelta(seconds=timeout))
    own, hall, parent = uuid.uuid4().hex, PrefixStore("medmoe", store), os.getppid()
    if world.first:
        _gather_in(hall, own, world, timeout, parent)
        return PrefixStore(own, hall)
    hall.set(f"here/{world.rank}", own)
    end = time.monotonic() + timeout
    while not hall.check([f"to/{own}"]):
        _not_too_long(world, timeout, end, parent, [0])
        time.sleep(0.02)
    meeting = hall.get(f"to/{own}").decode()
    hall.set(f"heard/{meeting}/{world.rank}", "")
    return PrefixStore(meeting, hall)


def _gather_in(hall: Store, meeting: str, world: World, timeout: float, parent: int) -> None:
    """Answer every process that is here until each has heard its answer; those before these don't hear any more."""
    answered: dict[int, bytes] = {}
    missing, end = list(range(1, world.size)), time.monotonic() + timeout
    while missing:
        for rank in missing:
            name = hall.get(f"here/{rank}") if hall.check([f"here/{rank}"]) else None
            if name is not None and answered.get(rank) != name:
                answered[rank] = name
                hall.set(f"to/{name.decode()}", meeting)
        missing = [rank for rank in missing if not hall.check([f"heard/{meeting}/{rank}"])]
        if missing:
            _not_too_long(world, timeout, end, parent, missing)
            time.sleep(0.02)


def _not_too_long(world: World, timeout: float, end: float, parent: int, missing: list[int]) -> None:
    """Stop waiting for processes when the time is over, or when whoever started this one isn't there any more."""
    if os.getppid() != parent:
        what = f"process {world.rank} of {world.size}: what started it is gone, while it waited for the others"
        raise UserError(what, remedy=_REMEDY)
    if time.monotonic() > end:
        ranks = ", ".join(map(str, missing))
        what = f"process {world.rank} of {world.size} waited {timeout:g} s for process {ranks}"
        raise UserError(what, remedy=_REMEDY)


@contextmanager
def _lost_told(world: World, timeout: float) -> Iterator[None]:
    """Word an error of the processes' exchange, whichever backend it comes from."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        told = " ".join(str(error).split())
        if not isinstance(error, dist.DistError) and not any(word in told for word in _OF_OTHERS):
            raise
        raise UserError(
            f"process {world.rank} of {world.size} lost the others, or waited {timeout:g} s for them"
            f"{_absent(world)} ({told[:160]})",
            remedy=_REMEDY,
        ) from error


def _absent(world: World, *, seconds: float = 3) -> str:
    """Name the processes that don't notice that they lost the others: those that are gone or hang."""
    if not dist.is_initialized():
        return ""
    try:
        absent = _within(seconds + 1, partial(_silent, dist.distributed_c10d._get_default_store(), world, seconds))
    except (dist.DistError, RuntimeError, ValueError):  # whoever kept the store is gone itself
        return "; process 0 is gone, or the way to its machine" if world.rank else ""
    return f"; no word from process {', '.join(map(str, absent))}" if absent else ""


def _silent(store: Store, world: World, seconds: float) -> list[int]:
    """Say that the others are lost, and list who doesn't say so within some seconds."""
    store.set_timeout(timedelta(seconds=seconds))
    store.set(f"lost/{world.rank}", "")
    end, absent = time.monotonic() + seconds, list(range(world.size))
    while absent and time.monotonic() < end:
        time.sleep(0.05)
        absent = [rank for rank in absent if not store.check([f"lost/{rank}"])]
    return absent


def _within(seconds: float, work: Callable[[], _T]) -> _T:
    """Ask a store what it might never answer; where it doesn't in time, that is an error.

    A store on a machine that can't be reached any more gives no answer and no error until the kernel gives the
    connection up, which takes a quarter of an hour, and the store's own timeout doesn't hold for all that it is asked.
    """
    found: Future[_T] = Future()

    def ask() -> None:
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    Thread(target=ask, daemon=True).start()
    if not wait([found], seconds).done:
        raise dist.DistStoreError(f"the store in which processes meet gave no answer for {seconds:g} s")
    return found.result()
