"""Several processes as one: rows gathered with exact gradients, gradients summed, norms over all; alone, nothing of it.

Every process passes its own samples through the model. What the model says of all of them is brought together, and
each process computes the loss of the whole batch from it; the gradient of that loss by its own rows then goes back
through its own graph, and the gradients of the parameters are summed. So every objective, whatever it holds against
what, has the gradient that one process with the whole batch has, and an expert that nobody chose, here or anywhere,
is a parameter without a gradient, not a process that waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medmoe.errors import ConfigError, UserError
from medmoe.types import Batch, Output, Tokens, over_tensors

BUCKET = 1 << 23  # numbers summed in one message: 32 MiB in float32
_OF_OTHERS = ("gloo", "Gloo", "NCCL", "Connection closed", "Connection reset", "Timed out waiting")
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


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
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=timedelta(seconds=timeout))
    try:
        yield world
    except (dist.DistError, RuntimeError) as error:
        told = " ".join(str(error).split())
        if not isinstance(error, dist.DistError) and not any(word in told for word in _OF_OTHERS):
            raise
        raise UserError(
            f"process {world.rank} of {world.size} lost the others, or waited {timeout:g} s for them"
            f"{_absent(world)} ({told[:160]})",
            remedy="look at what they said, then go on with --resume latest; torchrun --max-restarts does it by itself",
        ) from error
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _absent(world: World, *, seconds: float = 3) -> str:
    """Name the processes that don't notice that they lost the others: those that are gone or hang."""
    try:
        store = dist.distributed_c10d._get_default_store()
        store.set_timeout(timedelta(seconds=seconds))
        store.set(f"lost/{world.rank}", "")
        end, absent = time.monotonic() + seconds, list(range(world.size))
        while absent and time.monotonic() < end:
            time.sleep(0.05)
            absent = [rank for rank in absent if not store.check([f"lost/{rank}"])]
    except (dist.DistError, RuntimeError, ValueError):  # whoever kept the store is gone itself
        return "; process 0 is gone" if world.rank else ""
    return f"; no word from process {', '.join(map(str, absent))}" if absent else ""


def current() -> World:
    """Give the world that was joined; `ALONE` where none was."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return ALONE
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", dist.get_rank())))


def wait() -> None:
    """Wait until every process is here."""
    if current().size > 1:
        dist.barrier()


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
    for rank, others in enumerate(every := _of_all(own)):
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


def texts_of_all(values: Iterable[str]) -> list[str]:
    """Bring together what every process has, in the order of their ranks."""
    own = list(values)
    if current().size == 1:
        return own
    every: list[list[str] | None] = [None] * current().size
    dist.all_gather_object(every, own)
    return [value for values in every for value in values or ()]


def gathered(output: Output, batch: Batch) -> tuple[Output, Batch]:
    """Bring together what all processes say of their samples, and what is known of these.

    Args:
        output: Of this process's b samples.
        batch: Those samples.

    Returns:
        Output and batch of all B samples, in the order of the ranks, each process's own rows still in its graph. The
        pixels, keys and samples stay this process's own; reports are padded to the longest of all.
    """
    if current().size == 1:
        return output, batch
    sides = _sides(batch)
    counts, words, pieces = sides[:, 0].tolist(), int(sides[:, 1].max()), int(sides[:, 2].max())
    if output.text is not None:
        text = output.text
        text = replace(text, words=_filled(text.words, words), word_mask=_filled(text.word_mask, words))
        output = replace(output, text=text)
    whole = over_tensors(output, lambda value: _Rows.apply(value, counts) if value.ndim else _Once.apply(value))
    return whole, _facts(batch, counts, words, pieces)


def pieces_of_all(pieces: Tensor) -> Tensor:
    """Give the word pieces that any process's reports have, sorted, from this one's: [p] int64 → [P]."""
    if current().size == 1:
        return pieces
    own = torch.tensor([len(pieces)], device=pieces.device)
    every: Tensor = torch.unique(_gather(pieces, _of_all(own).flatten().tolist()))
    return every


def sum_gradients(model: nn.Module) -> None:
    """Sum the gradients of every parameter over the processes.

    A parameter that has one in some process only counts as zero in the others; one that has none anywhere is left
    without.
    """
    if current().size == 1:
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        return
    present = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
    dist.all_reduce(present, op=dist.ReduceOp.MAX)
    held = [p for p, there in zip(trained, present.tolist(), strict=True) if there]
    for parameter in held:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets(held):
        gradients = [p.grad for p in bucket if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def over_all(model: nn.Module) -> nn.Module:
    """Let the batch norms of a model take their statistics from the images of all processes, in place.

    Raises:
        ConfigError: For one in an expert, whose images a process may have none of.
    """
    if current().size == 1:
        return model
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if name.startswith("experts"):
                raise ConfigError(
                    f"{name} is a BatchNorm in an expert, whose images one process may have none of",
                    where="model.experts.norm",
                    remedy="--set model.experts.norm=group",
                )
            module.forward = _NormOverAll(module)  # type: ignore[assignment,method-assign]
    return model


class _NormOverAll:
    """The forward pass of a batch norm whose statistics are those of all processes' images."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        self.norm, self.plain = norm, type(norm).forward

    def __call__(self, value: Tensor) -> Tensor:
        norm = self.norm
        if not norm.training:
            return self.plain(norm, value)
        axes = [axis for axis in range(value.ndim) if axis != 1]
        shape = [1, -1, *[1] * (value.ndim - 2)]
        wide = value.double() if value.dtype == torch.float64 else value.float()
        count = wide.new_tensor([float(wide.numel() // wide.shape[1])])
        mean_parts = _Summed.apply(torch.cat([wide.sum(axes), count]))
        total = mean_parts[-1].detach()
        mean = mean_parts[:-1] / total
        centred = wide - mean.view(shape)
        variance = _Summed.apply(centred.square().sum(axes)) / total
        self._remember(mean.detach(), variance.detach(), total)
        normed = centred * (variance + norm.eps).rsqrt().view(shape)
        if norm.affine:
            normed = normed * norm.weight.view(shape) + norm.bias.view(shape)
        own: Tensor = normed.to(value.dtype)
        return own

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics, as the norm itself does: the variance without bias."""
        norm = self.norm
        if norm.running_mean is None or norm.running_var is None:
            return
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        share = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked or 1)
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
        norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), share)


class _Rows(torch.autograd.Function):
    """[b, …] of this process → [B, …] of all; the gradient by its own rows comes back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, counts: list[int]) -> Tensor:
        rank = current().rank
        ctx.rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        return _gather(value, counts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[ctx.rows].contiguous(), None


class _Once(torch.autograd.Function):
    """A number that every process has: its gradient, which is the same everywhere, counts once."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad if current().first else torch.zeros_like(grad)


class _Summed(torch.autograd.Function):
    """The sum of a tensor over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


def _sides(batch: Batch) -> Tensor:
    """Ask every process for its number of samples, words and word pieces: [W, 3] on the CPU."""
    tokens, device = batch.tokens, batch.image.device
    sides = [len(batch.keys), *((0, 0) if tokens is None else (tokens.word_mask.shape[1], tokens.ids.shape[1]))]
    return _of_all(torch.tensor(sides, device=device if tokens is None else tokens.ids.device))


def _of_all(value: Tensor) -> Tensor:
    """Gather a tensor of one shape everywhere: [n] → [W, n] on the CPU."""
    every = [torch.empty_like(value) for _ in range(current().size)]
    dist.all_gather(every, value)
    return torch.stack(every).cpu()


def _gather(value: Tensor, counts: list[int]) -> Tensor:
    """Gather [b, …] into [B, …], without a graph; processes may differ in b and in nothing else."""
    most, kind = max(counts), value.dtype
    value = value.detach().to(torch.uint8) if kind == torch.bool else value.detach()
    short = most - len(value)
    if short:
        value = torch.cat([value, value.new_zeros(short, *value.shape[1:])])
    value = value.contiguous()
    every = [torch.empty_like(value) for _ in counts]
    dist.all_gather(every, value)
    return torch.cat([part[:count] for part, count in zip(every, counts, strict=True)]).to(kind)


def _filled(value: Tensor, length: int) -> Tensor:
    """Fill the second side of a tensor with zeros up to a length."""
    short = length - value.shape[1]
    return torch.cat([value, value.new_zeros(len(value), short, *value.shape[2:])], 1) if short else value


def _facts(batch: Batch, counts: list[int], words: int, pieces: int) -> Batch:
    """Gather what objectives read of a batch; what no process has stays None, what some have is empty in the others."""
    tokens = batch.tokens
    gathered_tokens = None
    if tokens is not None:
        gathered_tokens = Tokens(
            ids=_gather(_filled(tokens.ids, pieces), counts),
            mask=_gather(_filled(tokens.mask, pieces), counts),
            word=_gather(_filled(tokens.word + 1, pieces), counts) - 1,  # filled with 0, which then is no word
            word_mask=_gather(_filled(tokens.word_mask, words), counts),
        )
    maps: dict[str, Any] = {
        name: value
        for kind in ("mask", "gaze")
        for name, value in zip((kind, f"has_{kind}"), _map_of_all(batch, kind, counts), strict=True)
    }
    rows: dict[str, Any] = {
        name: None if getattr(batch, name) is None else _gather(getattr(batch, name), counts)
        for name in ("has_report", "report_id", "modality")
    }
    return replace(batch, tokens=gathered_tokens, text=None, **rows, **maps)


def _map_of_all(batch: Batch, kind: str, counts: list[int]) -> tuple[Tensor | None, Tensor | None]:
    """Gather masks or gaze maps, which only some processes may have."""
    own, has = getattr(batch, kind), getattr(batch, f"has_{kind}")
    device = batch.modality.device if batch.modality is not None else batch.image.device
    if not any_of(own is not None, device):
        return None, None
    if own is None:
        own = torch.zeros(len(batch.keys), 1, *batch.image.shape[-2:], device=device)
        has = torch.zeros(len(batch.keys), dtype=torch.bool, device=device)
    return _gather(own, counts), _gather(has, counts)


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Group parameters of one type, in order, up to `BUCKET` numbers."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and (size + parameter.numel() > BUCKET or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
