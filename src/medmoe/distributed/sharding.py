"""Backbones in parts: each process keeps its rows of their weights, gradients and optimiser memory.

torch's `fully_shard` (FSDP2; Zhao et al., 2023, https://arxiv.org/abs/2304.11277) brings a block's weights together
before it runs, in the forward and again in the backward, and lets go of them after. Every process must run every block
as often as the others do, or they wait for each other: so this is for what every image and every report passes. An
expert, which one process may have no image for, stays whole, as do the routers, projections and heads.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medmoe.distributed.world import current, most

BACKBONES = ("vision", "text")


def shard(model: nn.Module, device: str = "cpu") -> nn.Module:
    """Put the backbones of a model in parts over the processes, in place; alone, nothing is done.

    A backbone of which nothing is trained stays whole: it has neither gradients nor optimiser memory, and needn't run
    in all processes alike, as where its features are kept on disk.

    Args:
        model: With `vision` and `text`, its weights set and what is frozen frozen; it may lie on the CPU.
        device: Where the processes compute; every block goes there when it is put in parts, never all at once.

    Returns:
        The model.
    """
    if current().size == 1:
        return model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # What follows a block may not change its result in place; nothing here does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    mesh = init_device_mesh(torch.device(device).type, (current().size,))
    for name in BACKBONES:
        backbone = model.get_submodule(name)
        if not any(parameter.requires_grad for parameter in backbone.parameters()):
            continue
        for block in _blocks(backbone):
            fully_shard(block, mesh=mesh)
        fully_shard(backbone, mesh=mesh)
        for part in _parted(backbone):
            _sum(part)
    return model


def _sum(module: nn.Module) -> None:
    """Let a block's gradients be summed: each process has its share of the whole batch's, not a mean of its own."""
    divide = getattr(module, "set_gradient_divide_factor", None)
    (module.set_reduce_scatter_divide_factor if divide is None else divide)(1.0)  # type: ignore[operator]
    plain = getattr(module, "set_force_sum_reduction_for_comms", None)
    if plain is not None:  # gloo has no other sum
        plain(True)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """List the outermost layers of lists of layers, of which a backbone's weights are mostly made."""
    for child in module.children():
        if not isinstance(child, nn.ModuleList | nn.Sequential):
            yield from _blocks(child)
            continue
        for layer in child:
            if any(layer.children()) and any(True for _ in layer.parameters()):
                yield layer


def in_parts(tensor: Tensor) -> bool:
    """Tell whether this process holds only its rows of a tensor."""
    if current().size == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def own_rows(tensor: Tensor) -> Tensor:
    """Give what this process holds of a tensor: its rows [r, …], none perhaps, in the same memory; or all of it."""
    return tensor.to_local() if in_parts(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """Give all of a tensor; of one in parts, every process must ask for it."""
    return tensor.full_tensor() if in_parts(tensor) else tensor  # type: ignore[attr-defined]


def rows_of(size: int, rank: int, count: int) -> slice:
    """Say which rows of a tensor a process holds: as many as the others, the last ones fewer or none.

    >>> [rows_of(5, rank, 3) for rank in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    each = -(-size // count)
    return slice(min(rank * each, size), min((rank + 1) * each, size))


def parted_like(value: Tensor, other: Tensor) -> Tensor:
    """Copy a tensor that every process has to where another is, in parts if that is and has the same shape."""
    if not in_parts(other) or value.shape != other.shape:
        return value.to(other.device, copy=True)
    own = value[rows_of(len(value), current().rank, current().size)]
    return _parted_of(own.to(other.device, copy=True), other, other.device_mesh)  # type: ignore[attr-defined]


def room_like(other: Tensor, shape: torch.Size, kind: torch.dtype) -> Tensor:
    """Make room for a tensor of a shape where another is, in parts if that is and has the same shape."""
    if not in_parts(other) or shape != other.shape:
        return torch.empty(shape, dtype=kind, device=other.device)
    own = torch.empty_like(own_rows(other), dtype=kind, requires_grad=False)
    return _parted_of(own, other, other.device_mesh)  # type: ignore[attr-defined]


def on_mesh(group: Any) -> Any:
    """Give the mesh on the CPU of a group of processes."""
    from torch.distributed.device_mesh import DeviceMesh

    return DeviceMesh.from_group(group, "cpu")


def of_rows(tensor: Tensor, mesh: Any) -> Tensor:
    """Copy what this process holds of a tensor to the CPU, as its part on a mesh there."""
    own = own_rows(tensor.detach()).to("cpu", copy=True).contiguous()
    return _parted_of(own, tensor, mesh) if in_parts(tensor) else own


def _parted_of(own: Tensor, other: Tensor, mesh: Any) -> Tensor:
    """Make of each process's rows a tensor that is in parts as another is."""
    from torch.distributed.tensor import DTensor

    assert isinstance(other, DTensor)
    shape, stride = other.shape, other.stride()
    return DTensor.from_local(own, mesh, other.placements, run_check=False, shape=shape, stride=stride)


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], most_norm: float) -> Tensor:
    """Scale gradients down to a norm, that of all of them, of those in parts as of those that every process has.

    Returns:
        [] the norm before, the same in every process.
    """
    held = [parameter for parameter in parameters if parameter.grad is not None]
    parted = [p.grad for p in held if p.grad is not None and in_parts(p.grad)]
    if not parted:
        return torch.nn.utils.clip_grad_norm_(held, most_norm)
    norm = norm_of([p.grad for p in held if p.grad is not None])
    scale = (most_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([own_rows(p.grad) for p in held if p.grad is not None], scale)
    return norm


@torch.no_grad()
def norm_of(tensors: Iterable[Tensor]) -> Tensor:
    """Give the norm [] over all of some tensors; every process must ask for it if any is in parts."""
    tensors = list(tensors)
    parted = [own_rows(tensor) for tensor in tensors if in_parts(tensor)]
    rest = torch.nn.utils.get_total_norm([tensor for tensor in tensors if not in_parts(tensor)])
    if not parted:
        return rest
    squares = torch.nn.utils.get_total_norm(parted).square()
    torch.distributed.all_reduce(squares)
    return (rest.to(squares.device).square() + squares).sqrt()


def _parted(module: nn.Module) -> list[nn.Module]:
    """List what of a module was put in parts, whether its weights are together at the moment or not."""
    if current().size == 1:
        return []
    from torch.distributed.fsdp import FSDPModule

    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def has_parts(module: nn.Module) -> bool:
    """Tell whether anything of a module was put in parts."""
    return bool(_parted(module))


def apart(module: nn.Module) -> None:
    """Let go of weights that a forward pass without a backward brought together."""
    for part in _parted(module):
        part.reshard()  # type: ignore[operator]


def passes(own: int, device: torch.device | str, model: nn.Module) -> int:
    """Give how often the model is run, of which this process needs `own`: as often everywhere where it is in parts."""
    return most(own, device) if has_parts(model) else own


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give whole copies on the CPU, in the first process; the others only help to bring together what is in parts."""
    copies: dict[str, Tensor] = {}
    for name, value in tensors.items():
        full = whole(value.detach())
        if current().first:
            copies[name] = full.to("cpu", copy=True).contiguous()
    return copies
