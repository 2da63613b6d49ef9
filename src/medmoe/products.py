"""Matrix products by the faster of the two libraries that torch has for them on a CPU.

For float32 torch takes MKL. Where that keeps to 256-bit instructions, oneDNN's 512-bit ones are twice as fast: on an
AMD EPYC of 2025, 220 GFLOP/s a core against 100. oneDNN is asked through the operator that torch's own compiler emits
for linear layers; without it, or elsewhere, all is as torch does it. It makes a kernel for each new shape (a
millisecond) and keeps the last 1024, so it is asked for large products only.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LEAST = 1 << 24  # multiply-adds below which a product is left to torch: a new shape would cost more than it saves
LEAST_OF_LAYER = 1 << 22  # the same for layers, whose shapes come again
NARROW = 64  # columns below which torch's product of two tall matrices is as fast
_PLAIN: list[None] = []  # holds something while all products are left to torch


@functools.cache
def _there() -> bool:
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return wide and there and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Leave every product to torch for a while, as what counts or traces operators needs."""
    _PLAIN.append(None)
    try:
        yield
    finally:
        _PLAIN.pop()


def _asked(size: int, least: int, *tensors: Tensor) -> bool:
    """Whether oneDNN is asked for a product of so many multiply-adds."""
    fits = all(value.device.type == "cpu" and value.dtype == torch.float32 for value in tensors)
    return fits and size >= max(least, 1) and not _PLAIN and _there()


def product(rows: Tensor, others: Tensor) -> Tensor:
    """Multiply [R, K] by the transpose of [C, K] → [R, C], without a gradient."""
    if _asked(rows.shape[0] * rows.shape[1] * others.shape[0], LEAST, rows, others):
        return _by_onednn(rows, others, None)
    return rows @ others.T


def _by_onednn(rows: Tensor, others: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, others, bias, "none", [], "")
    return result


def products(rows: Tensor, others: Tensor) -> Tensor:
    """Multiply each [R, K] of a batch [I, R, K] by the transpose of its [C, K] → [I, R, C], without a gradient."""
    size = rows.shape[1] * rows.shape[2] * others.shape[1] if len(rows) else 0
    if _asked(size, LEAST, rows, others):
        if len(rows) == 1:
            return product(rows[0], others[0])[None]
        return torch.stack([product(one, other) for one, other in zip(rows, others, strict=True)])
    return torch.bmm(rows, others.transpose(1, 2))


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Map [..., K] by a weight [C, K] and a bias [C] → [..., C]: `F.linear`, by the faster library."""
    size = rows.numel() * weight.shape[0]
    if torch.compiler.is_compiling() or not _asked(size, LEAST_OF_LAYER, rows, weight) or _watched(rows, weight):
        return F.linear(rows, weight, bias)
    mapped: Tensor = _Linear.apply(rows.reshape(-1, rows.shape[-1]), weight, bias)
    return mapped.view(*rows.shape[:-1], len(weight))


def _watched(*tensors: Tensor) -> bool:
    """Whether operators are vectorised or cast on the way: then they are to be torch's own."""
    vectorised = any(torch._C._functorch.is_functorch_wrapped_tensor(value) for value in tensors)
    return vectorised or torch.is_autocast_enabled("cpu")


def _of_weight(rows: Tensor, grad: Tensor) -> Tensor:
    """Give gradᵀ rows [C, K] of rows [R, K] and a gradient [R, C]; for a narrow one torch's own product is as fast."""
    inputs, outputs = rows.shape[1], grad.shape[1]
    if min(inputs, outputs) < NARROW:
        return grad.T @ rows
    if outputs > inputs:
        return _by_onednn(rows.T, grad.T, None).T
    return _by_onednn(grad.T, rows.T, None)


class _Linear(torch.autograd.Function):
    """Rows [R, K], weight [C, K], bias [C] or None → [R, C]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply, and keep what the gradients need."""
        ctx.save_for_backward(rows, weight)
        ctx.biased = bias is not None
        return _by_onednn(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Two products by oneDNN, the one for the weight in the order that puts the wider operand inside."""
        rows, weight = ctx.saved_tensors
        by_rows, by_weight, by_bias = ctx.needs_input_grad
        return (
            _by_onednn(grad, weight.T, None) if by_rows else None,
            _of_weight(rows, grad) if by_weight else None,
            grad.sum(0) if ctx.biased and by_bias else None,
        )
