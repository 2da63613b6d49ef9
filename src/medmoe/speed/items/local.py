"""The local losses, forward and backward: ours beside their plain forms, and the matrix products alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from medmoe.heads.words import words_of_regions
from medmoe.objectives import late_interaction_similarity, word_region_similarity
from medmoe.products import product
from medmoe.speed.item import Call, Item, Size, Target, Way
from medmoe.speed.plain.captions import caption_loop
from medmoe.speed.plain.late import every_cosine, every_piece
from medmoe.types import Tokens

_GIB = 2**30
_SMALL = (6, 9, 5, 8)

Data = tuple[Tensor, Tensor, Tensor]


def inputs(batch: int, regions: int, words: int, width: int, device: str, *, ragged: bool = False) -> Data:
    """Give regions [B, D, M], words [B, N, D] and where words are: reports of N words, or of half to all of N."""
    draw = torch.Generator().manual_seed(0)
    grid = torch.randn(batch, width, regions, generator=draw) / width**0.5
    text = torch.randn(batch, words, width, generator=draw) / width**0.5
    lengths = torch.randint(words // 2 if ragged else words, words + 1, (batch,), generator=draw)
    mask = torch.arange(words)[None] < lengths[:, None]
    return grid.to(device).requires_grad_(), text.to(device).requires_grad_(), mask.to(device)


def _down(value: Tensor) -> None:
    value.sum().backward()  # type: ignore[no-untyped-call]


def _back(compare: Callable[..., Tensor], data: Data) -> None:
    _down(compare(*data))


def _products(data: Data) -> None:
    """The matrix products that no exact way of computing it avoids, by the faster kernel.

    Scores, contexts (or the regions' own products, where there are fewer of those) and the gradients of both.
    """
    regions, words, mask = (value.detach() for value in data)
    flat = words[mask]  # [W, D]
    for image in regions:
        rows = image.T.contiguous()  # [M, D]
        score = product(rows, flat)  # [M, W]
        product(score, flat.T)
        product(score.T, image)
        inner = rows if rows.shape[0] > rows.shape[1] else rows @ image  # [M, D] or [M, M]
        reach = product(score.T, inner.T)  # [W, D] or [W, M]
        product(score, reach.T)


def _item(
    name: str,
    shape: tuple[int, int, int, int],
    targets: list[Target],
    *,
    floor: str,
    bounded: int,
    ragged: bool = False,
) -> Item:
    def ways(size: Size) -> Mapping[str, Way]:
        batch, regions, words, width = _SMALL if size.small else shape

        def way(function: Callable[[Data], None]) -> Way:
            return lambda: partial(function, inputs(batch, regions, words, width, size.device, ragged=ragged))

        bound = partial(word_region_similarity, chunk=2 if size.small else bounded)
        return {
            "ours": way(partial(_back, word_region_similarity)),
            "bounded": way(partial(_back, bound)),
            "plain": way(partial(_back, caption_loop)),
            "floor": way(_products),
        }

    batch, regions, words, width = shape
    return Item(
        name=name,
        about=f"local loss, forward + backward, B {batch}, M {regions}, N {words}, D {width}, reports of "
        f"{'half to all of the' if ragged else 'all'} words: all pairs at once, with bounded memory, and the loop over "
        "captions",
        ways=ways,
        targets=targets,
        floor=floor,
        memory=("ours", "bounded", "plain"),
        unit=("pairs", batch * batch),
    )


def _large(size: Size) -> Mapping[str, Way]:
    def build(share: int) -> Call:
        regions, words, mask = inputs(*(_SMALL if size.small else (256, 784, 25, 192)), size.device)
        reports = len(words) // share
        text = words.detach()[:reports].clone().requires_grad_()
        compare = partial(word_region_similarity, chunk=2 if size.small else 8)
        return partial(_back, compare, (regions, text, mask[:reports]))

    return {"ours": partial(build, 1), "half": partial(build, 2)}


def _late(size: Size) -> Mapping[str, Way]:
    shape = _SMALL if size.small else (64, 196, 25, 128)

    def way(compare: Callable[..., Tensor]) -> Way:
        return lambda: partial(_back, compare, inputs(*shape, size.device, ragged=True))

    return {
        "ours": way(late_interaction_similarity),
        "bounded": way(partial(late_interaction_similarity, chunk=4 if size.small else 256)),
        "plain": way(every_cosine),
    }


def _named(size: Size) -> Mapping[str, Way]:
    batch, regions, pieces, width = _SMALL if size.small else (32, 784, 800, 192)

    def given() -> tuple[nn.Linear, Tensor, Tensor]:
        draw = torch.Generator().manual_seed(0)
        head = nn.Linear(width, 4 * pieces, device=size.device)
        places = torch.randn(batch, width, regions, generator=draw).to(size.device).requires_grad_()
        return head, places, torch.arange(pieces, device=size.device)

    def ours() -> Call:
        head, places, held = given()
        ids = held.expand(batch, -1)
        tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool), ids, torch.ones_like(ids, dtype=torch.bool))
        return lambda: _down(words_of_regions(head, places, tokens)[:, :pieces])

    def plain() -> Call:
        head, places, held = given()
        return lambda: _down(every_piece(places, head.weight, head.bias, held))

    return {"ours": ours, "plain": plain}


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
        floor="matrix products alone (timed as `floor`)",
        bounded=64,
    ),
    _item(
        "local-loss-ragged",
        (64, 196, 25, 256),
        [Target("time", 0.33), Target("time", 0.45, way="bounded")],
        floor="matrix products alone (timed as `floor`)",
        bounded=64,
        ragged=True,
    ),
    _item(
        "local-loss-small",
        (16, 49, 25, 256),
        [Target("time", 0.25)],
        floor="matrix products alone (timed as `floor`)",
        bounded=4,
    ),
    Item(
        name="local-loss-large",
        about="local loss, forward + backward, B 256, M 784, N 25, D 192, bounded memory, and against half of the "
        "reports; the loop over captions would need about 100 GiB",
        ways=_large,
        targets=[Target("memory", 4 * _GIB, over=None), Target("memory", 1.05, over="half")],
        rounds=1,
        memory=("ours", "half"),
        unit=("pairs", 256 * 256),
    ),
    Item(
        name="late-interaction",
        about="late interaction, forward + backward, B 64, M 196, N 25, D 128, reports of half to all words: ours, "
        "with bounded memory, and through a tensor of all cosines; targets are our own",
        ways=_late,
        targets=[
            Target("time", 0.5),
            Target("memory", 0.5),
            Target("time", 0.7, way="bounded"),
            Target("memory", 0.3, way="bounded"),
        ],
        memory=("ours", "bounded", "plain"),
        unit=("pairs", 64 * 64),
    ),
    Item(
        name="region-words",
        about="word pieces by regions, forward + backward, B 32, M 784, P 800, D 192: ours, pieces at a time, and "
        "[B, M, P] whole; targets are our own",
        ways=_named,
        targets=[Target("time", 1.1), Target("memory", 0.5)],
        rounds=5,
        memory=("ours", "plain"),
        unit=("images", 32),
    ),
)
