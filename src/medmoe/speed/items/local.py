"""The local loss, forward and backward: ours, the published loop over captions, and its matrix products alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from medmoe.objectives import word_region_similarity
from medmoe.speed.item import Call, Item, Size, Target, Way
from medmoe.speed.plain.captions import caption_loop

_GIB = 2**30


def inputs(batch: int, regions: int, words: int, width: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Give regions [B, D, M], words [B, N, D] and where words are: reports of half to all of N words."""
    draw = torch.Generator().manual_seed(0)
    grid = torch.randn(batch, width, regions, generator=draw) / width**0.5
    text = torch.randn(batch, words, width, generator=draw) / width**0.5
    lengths = torch.randint(words // 2, words + 1, (batch,), generator=draw)
    mask = torch.arange(words)[None] < lengths[:, None]
    return grid.to(device).requires_grad_(), text.to(device).requires_grad_(), mask.to(device)


def _ours(data: tuple[Tensor, Tensor, Tensor], chunk: int | None) -> None:
    word_region_similarity(*data, chunk=chunk).sum().backward()  # type: ignore[no-untyped-call]


def _loop(data: tuple[Tensor, Tensor, Tensor]) -> None:
    caption_loop(*data).sum().backward()  # type: ignore[no-untyped-call]


def _products(data: tuple[Tensor, Tensor, Tensor]) -> None:
    """The matrix products that no way of computing it avoids: scores and contexts, and their gradients."""
    regions, words, mask = (value.detach() for value in data)
    flat = words[mask]  # [W, D]
    scores = flat @ regions  # [B, W, M]
    for _ in range(2):
        torch.matmul(scores, regions.transpose(1, 2))  # [B, W, D]
        torch.matmul(flat, regions)
    torch.matmul(scores.flatten(0, 1).T, scores.new_ones(scores.shape[0] * scores.shape[1], flat.shape[1]))


def _item(name: str, shape: tuple[int, int, int, int], targets: list[Target], *, floor: str, bounded: int) -> Item:
    def ways(size: Size) -> Mapping[str, Way]:
        batch, regions, words, width = (6, 9, 5, 8) if size.small else shape

        def way(function: Callable[..., None], *args: object) -> Way:
            def build() -> Call:
                return partial(function, inputs(batch, regions, words, width, size.device), *args)

            return build

        return {
            "ours": way(_ours, None),
            "bounded": way(_ours, 2 if size.small else bounded),
            "plain": way(_loop),
            "floor": way(_products),
        }

    batch, regions, words, width = shape
    return Item(
        name=name,
        about=f"local loss, forward + backward, B {batch}, M {regions}, N {words}, D {width}: all pairs at once, "
        "with bounded memory, and the loop over captions",
        ways=ways,
        targets=targets,
        floor=floor,
        memory=("ours", "bounded", "plain"),
        unit=("pairs", batch * batch),
    )


def _alone(size: Size) -> Mapping[str, Way]:
    def build() -> Call:
        shape = (6, 9, 5, 8) if size.small else (256, 784, 25, 192)
        return partial(_ours, inputs(*shape, size.device), 2 if size.small else 8)

    return {"ours": build}


ITEMS = (
    _item(
        "local-loss",
        (64, 196, 25, 256),
        [
            Target("time", 0.33),
            Target("memory", 0.45),
            Target("time", 0.45, way="bounded"),
            Target("memory", 0.10, way="bounded"),
        ],
        floor="matrix products alone, 0.24",
        bounded=4,
    ),
    _item(
        "local-loss-small",
        (16, 49, 25, 256),
        [Target("time", 0.25)],
        floor="matrix products alone, 0.15",
        bounded=4,
    ),
    Item(
        name="local-loss-large",
        about="local loss, forward + backward, B 256, M 784, N 25, D 192, bounded memory; the loop over captions "
        "would need about 100 GiB",
        ways=_alone,
        targets=[Target("memory", 4 * _GIB, over=None)],
        rounds=1,
        memory=("ours",),
        unit=("pairs", 256 * 256),
    ),
)
