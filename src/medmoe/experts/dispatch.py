"""Sparse dispatch: only the chosen experts run on an image; on an accelerator without asking it for sizes.

Two forms of one sum, Σ_j weight_j · expert_j(row):

- `grouped`: rows are sorted by expert, and each chosen expert runs once, on its rows. The groups' sizes are read from
  the device, which a CPU has at hand. On an accelerator everything queued would have to finish first, and a compiler
  has to break its graph there.
- `batched`: every row is given its own expert's parameters, and one vectorised call runs them all: linear maps become
  batched matrix products, convolutions one convolution of B groups. All shapes are known before anything runs. It does
  the same multiply-adds, and costs memory for the parameters of each row and, in training, for their gradients:
  B · k · the size of an expert, each. Of the recipe `medmoe` (0.43 million parameters an expert) that is 0.41 GiB for a
  batch of 256 in float32, half of it under bf16 autocast, and as much again for the gradients.

`batched` differs in one thing: an expert that no row chose has a gradient of zeros in place of none, so an optimiser's
momentum and weight decay still move it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from medmoe.errors import ModelError

Rows = tuple[Tensor, ...]


def dispatch(
    experts: Sequence[nn.Module], inputs: Rows, chosen: Tensor, weight: Tensor, *, pack: Callable[[Rows], Any]
) -> Tensor:
    """Run the chosen experts on the rows that chose them, in the form that suits the device.

    `batched` on accelerators and under `torch.compile`, else `grouped`. Batch norms in training mode take the
    statistics of an expert's whole group, and so are always `grouped`.

    Args:
        experts: K modules, alike but for their parameters.
        inputs: Tensors [B, …].
        chosen: [B, k] int64 experts of each row.
        weight: [B, k] of each choice.
        pack: Makes an expert's argument of rows of the inputs.

    Returns:
        [B, …], the weighted sum of what its experts made of each row.
    """
    waits = chosen.device.type != "cpu" or torch.compiler.is_compiling()
    form = batched if waits and not _of_groups(experts) else grouped
    return form(experts, inputs, chosen, weight, pack=pack)


def _of_groups(experts: Sequence[nn.Module]) -> bool:
    """Tell whether what an expert makes of a row hangs on the other rows of its group."""
    return any(isinstance(part, _BatchNorm) and part.training for part in experts[0].modules())


def grouped(
    experts: Sequence[nn.Module], inputs: Rows, chosen: Tensor, weight: Tensor, *, pack: Callable[[Rows], Any]
) -> Tensor:
    """Run each expert once, on the rows that chose it; one that nobody chose isn't called. See `dispatch`."""
    images, k = chosen.shape
    order = chosen.flatten().argsort(stable=True)  # assignments, grouped by expert
    rows = order // k
    sizes = torch.bincount(chosen.flatten(), minlength=len(experts)).tolist()
    alone = max(sizes) == images and k == 1  # one expert for all: the stable sort left the order alone
    # one gather for all experts, then views: its gradient is one scatter
    gathered = inputs if alone else tuple(value.index_select(0, rows) for value in inputs)
    groups = zip(*(torch.split(value, sizes) for value in gathered), strict=True)
    outputs = [expert(pack(group)) for expert, group, size in zip(experts, groups, sizes, strict=True) if size]
    stacked = torch.cat(outputs)  # [B·k, …]
    weighed = stacked * _beside(weight.flatten()[order], stacked)
    if k == 1:
        return weighed[order.argsort()]
    return stacked.new_zeros(images, *stacked.shape[1:]).index_add(0, rows, weighed)


def batched(
    experts: Sequence[nn.Module], inputs: Rows, chosen: Tensor, weight: Tensor, *, pack: Callable[[Rows], Any]
) -> Tensor:
    """Give every row its expert's parameters and run all rows in one vectorised call. See `dispatch`.

    Raises:
        ModelError: If experts differ in more than the values of their parameters.
    """
    images, k = chosen.shape
    device = chosen.device.type
    stacked = {name: _lowered(value, device) for name, value in _stacked(experts).items()}
    rows = tuple(_lowered(value, device) for value in inputs)
    own = {name: value.index_select(0, chosen.flatten()) for name, value in stacked.items()}
    if k > 1:
        rows = tuple(value.repeat_interleave(k, dim=0) for value in rows)  # [B·k, …]

    def one(parameters: dict[str, Tensor], row: Rows) -> Tensor:
        made: Tensor = functional_call(experts[0], parameters, (pack(tuple(value[None] for value in row)),))
        return made[0]

    with torch.autocast(device, enabled=False) if _lowers(device) else nullcontext():
        outputs = torch.vmap(one)(own, rows)  # [B·k, …]
    weighed = outputs * _beside(weight.flatten(), outputs)
    return weighed.view(images, k, *weighed.shape[1:]).sum(1) if k > 1 else weighed


def _lowers(device: str) -> bool:
    """Tell whether autocast is on: vectorised calls heed it in some operations only, so its casts are made before."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _lowered(value: Tensor, device: str) -> Tensor:
    """Cast floats to the type of autocast, where it is on."""
    return value.to(torch.get_autocast_dtype(device)) if _lowers(device) and value.is_floating_point() else value


def _stacked(experts: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Stack the parameters and buffers of K alike modules, [K, …] each; gradients flow back to them."""
    states = [dict((*one.named_parameters(), *one.named_buffers())) for one in experts]
    alike = all(
        state.keys() == states[0].keys() and all(state[name].shape == value.shape for name, value in states[0].items())
        for state in states
    )
    if not alike:
        raise ModelError(
            "experts of different shapes can't run in one call, as they do on accelerators and when compiled",
            remedy="make them alike, or run on the CPU",
        )
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def _beside(weight: Tensor, rows: Tensor) -> Tensor:
    """Shape weights [R] to multiply rows [R, …]."""
    return weight.to(rows.dtype).view(-1, *(1,) * (rows.ndim - 1))
