"""Exact large batches on small memory: parts of a batch go through the model in turn, under the loss of the whole.

A contrastive loss holds every pair of a batch against all others, so gradients of small batches don't add up to those
of a large one. But the loss reads embeddings, not activations. So every part first goes through the model without a
graph and leaves its `Output`; the loss of the whole gives the gradient by every tensor there; and every part goes
through once more, with a graph, which takes its share of that gradient to the parameters (gradient caching, Gao et
al., 2021, https://arxiv.org/abs/2101.06983). Memory is that of one part's activations and of the whole batch's outputs.

Two things cost less than in the textbook: the last part keeps its graph, so that it is not run twice, and a
text encoder that doesn't learn is run once, its features kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from medmoe.distributed import passes, pieces_of_all
from medmoe.errors import ConfigError
from medmoe.experts.router import Router
from medmoe.heads.words import pieces_of
from medmoe.model import MedVLM
from medmoe.types import Batch, Loss, Output, over_tensors, tensors_of

# Numbers that an objective over all pairs of words and regions may hold at a time: 256 MiB in float32; and on a CPU,
# where late interaction is no slower in pieces that stay in cache.
ROOM, CACHE = 1 << 26, 1 << 20

# where a batch norm may be: what to set instead
_REMEDIES = {
    "vision.stages": "--set model.vision.norm=group",
    "vision": "another backbone, or --set 'train.freeze=[\"vision\"]'",
    "image_norm": "--set model.pool_norm=layer",
    "experts": "--set model.experts.norm=group",
}


@dataclass(frozen=True, slots=True)
class Way:
    """How a batch goes through a model.

    Attributes:
        size: Samples of a part; the last one may have fewer.
        device: Where to compute; the images may lie elsewhere, and go there part by part.
        autocast: Makes the context of a forward pass. A new one for each: within one, weights that were cast without
            a graph would be taken again, and have no gradient.
    """

    size: int
    device: str = "cpu"
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext

    def rows(self, samples: int) -> list[slice]:
        """Give the rows of each part of a batch."""
        return [slice(start, min(start + self.size, samples)) for start in range(0, samples, self.size)]


def check_separable(model: nn.Module) -> None:
    """Refuse a model that mixes the images of a batch: its parts wouldn't give what the whole gives.

    Args:
        model: In the mode it trains in; a batch norm in evaluation mode mixes nothing.

    Raises:
        ConfigError: Naming the batch norms, and what to set instead.
    """
    kind = nn.modules.batchnorm._BatchNorm
    found = [name for name, module in model.named_modules() if isinstance(module, kind) and module.training]
    if not found:
        return
    remedies = []
    for name in found:
        fitting = (remedy for place, remedy in _REMEDIES.items() if name.startswith(place))
        remedies.append(next(fitting, f"freeze {name}"))
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    raise ConfigError(
        f"{found[0]}{more} is a BatchNorm: it takes its statistics from the images that pass it together, so parts "
        "of a batch don't give the whole batch's gradient",
        where="train.micro_batch",
        remedy=" and ".join(dict.fromkeys(remedies)),
    )


def bounded(options: Mapping[str, Mapping[str, Any]], output: Output) -> dict[str, Mapping[str, Any]]:
    """Let objectives over all pairs of words and regions take them in chunks where they are many.

    Args:
        options: Options of single objectives; a `chunk` among them stays.
        output: Of the whole batch.

    Returns:
        The options, with a `chunk` for those whose pairs would take too much. Values and gradients are the same.
    """
    chosen = dict(options)
    if output.text is None:
        return chosen
    images, _, *grid = output.image.regions.shape
    reports, words = output.text.word_mask.shape
    places = grid[0] * grid[1]
    room = CACHE if output.text.word_mask.device.type == "cpu" else ROOM
    # numbers for each report or word of a chunk; how many of those there are; how many numbers may be held
    needs = {
        "local": (images * words * places, reports, ROOM),  # on a CPU in tiles, whatever the chunk
        "late_interaction": (images * places, reports * words, room),
    }
    for name, (each, count, most) in needs.items():
        if each * count > most:
            chosen[name] = {"chunk": max(1, most // each), **options.get(name, {})}
    return chosen


@torch.no_grad()
def forward_in_parts(model: MedVLM, batch: Batch, way: Way) -> tuple[Output, Batch]:
    """Run a batch part by part, without a graph.

    Returns:
        What the model says of the whole batch, and the batch as an objective reads it: everything but the pixels on
        the device.
    """
    batch = _told(model, batch, of_all=False)
    whole, every = _Whole(len(batch.keys)), way.rows(len(batch.keys))
    idle = range(passes(len(every), way.device, model) - len(every))  # passes for the sake of other processes
    for rows in every:
        whole.take(_Pass(model, batch.part(rows), way)(), rows)
    for _ in idle:
        _Pass(model, batch.part(every[0]), way)()
    return whole.output, _facts(batch, way.device)


def backward_in_parts(
    model: MedVLM, batch: Batch, loss_of: Callable[[Output, Batch], Loss], way: Way, *, share: float = 1.0
) -> tuple[Loss, Output]:
    """Add a batch's gradients to the parameters as if it had gone through the model as a whole.

    Args:
        model: In training mode; see `check_separable`.
        batch: B samples; their images may lie on another device.
        loss_of: Gives the loss of the whole `Output` and batch. It is called once, between the two passes, on
            tensors that need a gradient: whatever else takes part in the loss, such as the outputs of other
            processes, is brought together here.
        way: How it is divided and where it is computed.
        share: What the loss counts in the gradients: 1/n for one of n accumulated batches.

    Returns:
        The loss, and the whole batch's output without a graph.
    """
    batch = _told(model, batch, of_all=True)
    whole, gone = _Whole(len(batch.keys)), []
    *before, last = way.rows(len(batch.keys))
    as_at_first = _counted_once(model)
    idle = range(passes(len(before), way.device, model) - len(before))  # passes for the sake of other processes
    for rows in before:
        gone.append(_Pass(model, batch.part(rows), way))
        as_at_first()
        with torch.no_grad():
            whole.take(gone[-1](), rows)
    final = _Pass(model, batch.part(last), way)
    for _ in idle:
        as_at_first()
        with final.as_before(), torch.no_grad():
            final()
    as_at_first()
    kept = final()
    whole.take(kept, last)
    leaves = over_tensors(whole.output, lambda value: value.detach().requires_grad_(value.is_floating_point()))
    loss = loss_of(leaves, _facts(batch, way.device))
    if loss.total.requires_grad:  # else the batch has nothing that an objective reads
        (loss.total * share).backward()  # type: ignore[no-untyped-call]
        loss = replace(loss, total=loss.total.detach())
        gradients = [leaf.grad for leaf in tensors_of(leaves)]
        _pull(kept, gradients, last, first=True)
        del kept  # and with it its graph, before another is made
        for rows, again in zip(before, gone, strict=True):
            as_at_first()
            with again.as_before():
                _pull(again(), gradients, rows)
        nothing = [None if gradient is None else torch.zeros_like(gradient) for gradient in gradients]
        for _ in idle:
            as_at_first()
            with final.as_before():
                _pull(final(), nothing, last)
    return loss, whole.output


class _Pass:
    """One part on its way through the model, to be gone again in just the same way.

    Args:
        model: The model; if its text encoder doesn't learn, that is run here and not again.
        part: The samples.
        way: Where and how.
    """

    def __init__(self, model: MedVLM, part: Batch, way: Way) -> None:
        learns = any(parameter.requires_grad for parameter in model.text.parameters())
        if part.tokens is not None and part.text is None and not learns:
            with torch.no_grad(), way.autocast():
                part = replace(part, text=model.text(part.tokens.to(way.device, non_blocking=True)))
        self.model, self.part, self.way = model, part, way
        self.random = torch.get_rng_state(), _device_state(way.device)

    def __call__(self) -> Output:
        with self.way.autocast():
            output: Output = self.model(self.part.to(self.way.device, non_blocking=True))
        return output

    @contextlib.contextmanager
    def as_before(self) -> Iterator[None]:
        """Draw the random numbers of the first time (dropout, random depth), then go on with those of now."""
        cuda = self.random[1] is not None
        with torch.random.fork_rng(devices=[self.way.device] if cuda else []):
            torch.set_rng_state(self.random[0])
            if self.random[1] is not None:
                torch.cuda.set_rng_state(self.random[1], self.way.device)
            yield


def _device_state(device: str) -> Tensor | None:
    return torch.cuda.get_rng_state(device) if torch.device(device).type == "cuda" else None


class _Whole:
    """The output of a whole batch, filled part by part: no part is held twice."""

    output: Output

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def take(self, output: Output, rows: slice) -> None:
        """Write a part's output where it belongs; a tensor without rows is the same for every part."""
        if rows.start == 0:
            self.output = over_tensors(
                output,
                lambda value: (
                    value.detach().clone() if value.ndim == 0 else value.new_empty(self.samples, *value.shape[1:])
                ),
            )
        for into, value in zip(tensors_of(self.output), tensors_of(output), strict=True):
            if value.ndim > 0:
                into[rows] = value.detach()


def _pull(output: Output, gradients: Sequence[Tensor | None], rows: slice, *, first: bool = False) -> None:
    """Take a part's share of the gradients to the parameters; what all parts have in common counts the `first` time."""
    roots, weights = [], []
    for value, gradient in zip(tensors_of(output), gradients, strict=True):
        if gradient is not None and value.requires_grad and (first or value.ndim > 0):
            roots.append(value)
            weights.append(gradient[rows] if value.ndim > 0 else gradient)
    if roots:
        torch.autograd.backward(roots, weights)


def _told(model: MedVLM, batch: Batch, *, of_all: bool) -> Batch:
    """Let every part of a batch, or all processes' parts of it, know which word pieces the whole has."""
    if model.region_words is None or batch.tokens is None or batch.pieces is not None:
        return batch
    own = pieces_of(batch.tokens)  # regions are scored by them
    return replace(batch, pieces=pieces_of_all(own) if of_all else own)


def _facts(batch: Batch, device: str) -> Batch:
    """Bring a batch to a device, its pixels aside, which stay where they are."""
    moved = replace(batch, image=batch.image[:0]).to(device, non_blocking=True)
    return replace(moved, image=batch.image)


def _counted_once(model: nn.Module) -> Callable[[], None]:
    """Let routers that count batches count the parts of one batch as one; gives what to call before each pass."""
    routers = [module for module in model.modules() if isinstance(module, Router) and module.anneal]
    seen = [router.seen.clone() for router in routers]

    def as_at_first() -> None:
        for router, count in zip(routers, seen, strict=True):
            router.seen.copy_(count)

    return as_at_first
