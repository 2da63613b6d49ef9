"""What all processes say of their samples, brought together with exact gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from medmoe.distributed.world import any_of, current, of_all
from medmoe.types import Batch, Output, Tokens, over_tensors


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
    every: Tensor = torch.unique(_gather(pieces, of_all(own).flatten().tolist()))
    return every


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


def _sides(batch: Batch) -> Tensor:
    """Ask every process for its number of samples, words and word pieces: [W, 3] on the CPU."""
    tokens, device = batch.tokens, batch.image.device
    sides = [len(batch.keys), *((0, 0) if tokens is None else (tokens.word_mask.shape[1], tokens.ids.shape[1]))]
    return of_all(torch.tensor(sides, device=device if tokens is None else tokens.ids.device))


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
