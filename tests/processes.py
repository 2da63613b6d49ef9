"""Several processes that train together, started by a test and joined as torchrun would have joined them."""

from __future__ import annotations

import copy
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from medmoe.distributed import joined


def together(count: int, work: Callable[..., Any], folder: Path, *args: Any, timeout: float = 60) -> list[Any]:
    """Run `work(world, *args)` in processes of their own; give what each returned, in the order of ranks."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_begin, (count, port, work, folder, timeout, args), nprocs=count)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _begin(
    rank: int, count: int, port: int, work: Callable[..., Any], folder: Path, timeout: float, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    with joined("cpu", timeout=timeout) as world:
        found = work(world, *copy.deepcopy(args))  # tensors come in memory that the processes share
    torch.save(found, folder / f"{rank}.pt")
