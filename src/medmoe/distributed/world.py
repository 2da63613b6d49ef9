"""Which processes train together, and what they must agree on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from medmoe.errors import ConfigError


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together.

    Attributes:
        rank: Which of them this is, from 0.
        size: How many there are.
        local: Which of this machine's it is.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def device(self, asked: str) -> str:
        """Give the device of this process: of `cuda`, its own."""
        return f"cuda:{self.local}" if asked == "cuda" and self.size > 1 else asked


ALONE = World()


def current() -> World:
    """Give the world that was joined; `ALONE` where none was."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return ALONE
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", dist.get_rank())))


def any_of(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Tell whether a flag is set in any process."""
    return bool(most(int(flag), device))


def most(value: int, device: torch.device | str = "cpu") -> int:
    """Give the largest number that any process has."""
    return value if current().size == 1 else int(largest(torch.tensor([value], device=device)).item())


def summed(values: Iterable[float], device: torch.device | str = "cpu") -> list[float]:
    """Sum numbers over the processes, in float64."""
    value = torch.tensor(list(values), dtype=torch.float64, device=device)
    if current().size > 1:
        dist.all_reduce(value)
    return [float(one) for one in value.tolist()]


def same_everywhere(facts: Mapping[str, object], device: torch.device | str = "cpu") -> None:
    """Make sure that all processes are about to do the same.

    Args:
        facts: What must be equal, by the words to name it with.
        device: Where the processes exchange numbers.

    Raises:
        ConfigError: In every process, naming the first thing that differs, and in which one.
    """
    if current().size == 1:
        return
    hashes = [hashlib.blake2b(repr(value).encode(), digest_size=7).digest() for value in facts.values()]
    own = torch.tensor([int.from_bytes(one, "big") for one in hashes], device=device)
    for rank, others in enumerate(every := of_all(own)):
        for name, same in zip(facts, (others == every[0]).tolist(), strict=True):
            if not same:
                what = f"process {rank} has {name} other than process 0; here it is {str(facts[name])[:60]}"
                remedy = "give all the same command, data and a run folder that every machine sees"
                raise ConfigError(what, where=f"process {current().rank}", remedy=remedy)


def largest(value: Tensor) -> Tensor:
    """Give, element by element, the largest that any process has; nothing is read back from the device."""
    if current().size > 1:
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def from_first(value: Tensor) -> Tensor:
    """Give everywhere what the first process has, in place: a decision by it is then the same in all."""
    if current().size > 1:
        dist.broadcast(value, src=0)
    return value


def texts_of_all(values: Iterable[str]) -> list[str]:
    """Bring together what every process has, in the order of their ranks."""
    own = list(values)
    if current().size == 1:
        return own
    every: list[list[str] | None] = [None] * current().size
    dist.all_gather_object(every, own)
    return [value for values in every for value in values or ()]


def of_all(value: Tensor) -> Tensor:
    """Gather a tensor of one shape everywhere: [n] → [W, n] on the CPU."""
    every = [torch.empty_like(value) for _ in range(current().size)]
    dist.all_gather(every, value)
    return torch.stack(every).cpu()
