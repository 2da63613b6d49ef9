"""AdamW with weight decay on matrices only, its schedule, and an averaged copy of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from medmoe.distributed import in_parts, own_rows
from medmoe.pieces import taken_up


def adamw(model: nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """Make AdamW (Loshchilov & Hutter, 2019) over the trainable parameters; norms, biases and scales don't decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = []
    for parted in sorted({in_parts(p) for p in trainable} or {False}):  # no fused call takes both
        alike = [p for p in trainable if in_parts(p) == parted]
        groups += [
            {"params": [p for p in alike if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in alike if p.ndim < 2], "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def warmup_cosine(step: int, *, steps: int, warmup: float) -> float:
    """Give the share of the peak learning rate at a step: a linear rise, then half a cosine to zero.

    >>> warmup_cosine(0, steps=100, warmup=0.1), warmup_cosine(9, steps=100, warmup=0.1)
    (0.1, 1.0)
    """
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def copy_state(optimizer: torch.optim.Optimizer, pairs: Iterable[tuple[nn.Parameter, nn.Parameter]]) -> None:
    """Copy the optimiser's memory of one parameter to another, for every (from, to) pair."""
    for source, target in pairs:
        if source in optimizer.state:
            optimizer.state[target] = {
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in optimizer.state[source].items()
            }


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Give the optimiser's memory as named tensors, `PARAMETER|SLOT`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}|{slot}": value
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }


def load_state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take back what `state_tensors` gave."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in taken_up(tensors, {key: parameters[key.rsplit("|", 1)[0]] for key in tensors}).items():
        name, slot = key.rsplit("|", 1)
        optimizer.state[parameters[name]][slot] = value


class WeightAverage:
    """An exponential moving average of a model's weights.

    Args:
        model: The model whose floating-point weights and buffers are averaged.
        decay: Share of the average that is kept at each step, ramped up from a tenth at the start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the model after a step, all weights in a few calls and nothing read back."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = model.state_dict()
        moved = [name for name, value in state.items() if value.dtype.is_floating_point]
        averages = [own_rows(self.weights[name]) for name in moved]
        torch._foreach_lerp_(averages, [own_rows(state.pop(name)) for name in moved], 1 - decay)
        for name, value in state.items():  # whole numbers, which have no average
            self.weights[name].copy_(value)
