"""Matrix products by the faster of the two libraries that torch has for them on a CPU.

For float32 torch takes MKL, which outside Intel's own processors keeps to 256-bit instructions: on an AMD EPYC of
2025 it does about 100 GFLOP/s a core, and oneDNN, with 512-bit ones, 180 to 240. oneDNN is asked through the operator
that torch's own compiler emits for linear layers. It compiles a kernel for each new shape (half a millisecond) and
keeps the last 1024, so it is asked for large products only.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

LEAST = 1 << 24  # multiply-adds below which a product is left to torch: a new shape would cost more than it saves


@functools.cache
def _there() -> bool:
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return wide and there and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(rows: Tensor, others: Tensor) -> Tensor:
    """Multiply [R, K] by the transpose of [C, K] → [R, C], without a gradient."""
    size = rows.shape[0] * rows.shape[1] * others.shape[0]
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and size >= max(LEAST, 1) and _there():
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, others, None, "none", [], "")
        return result
    return rows @ others.T


def products(rows: Tensor, others: Tensor) -> Tensor:
    """Multiply each [R, K] of a batch [I, R, K] by the transpose of its [C, K] → [I, R, C], without a gradient."""
    size = rows.shape[1] * rows.shape[2] * others.shape[1] if len(rows) else 0
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and size >= max(LEAST, 1) and _there():
        if len(rows) == 1:
            return product(rows[0], others[0])[None]
        return torch.stack([product(one, other) for one, other in zip(rows, others, strict=True)])
    return torch.bmm(rows, others.transpose(1, 2))
