"""Run a model of another library over the samples of a source, and keep what it says."""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import torch

from medmoe.adapters.base import Adapter
from medmoe.data.loader import Loader
from medmoe.data.preprocess import Preprocess
from medmoe.data.sources.base import Source
from medmoe.data.text import ReportTokenizer
from medmoe.errors import ConfigError
from medmoe.modalities import MODALITIES
from medmoe.tasks.base import Evidence, collect


def gather(
    adapter: Adapter,
    source: Source,
    *,
    batch_size: int = 64,
    workers: int = 1,
    on_bad_sample: str = "raise",
    device: str = "cpu",
    candidate_experts: bool = False,
    controls: bool = False,
) -> Evidence:
    """Run an adapter over every sample of a source, in order, with its own preprocessing and tokenizer.

    Args:
        adapter: The model.
        source: The samples.
        batch_size: Images encoded at a time.
        workers: Loader processes.
        on_bad_sample: `raise`, or `skip` to leave bad samples out.
        device: Where the model is.
        candidate_experts: Not allowed: there are no experts.
        controls: Also keep features that nobody trained: raw pixels, and those of this model with fresh weights.

    Returns:
        What `medmoe.tasks.collect` gives: no modalities and router scores of zero width, and local features of zero
        width where the model has none.

    Raises:
        UserError: If a setting isn't allowed, or an image is bad and `on_bad_sample` is `raise`.
    """
    if candidate_experts:
        remedy = "leave out --candidate-experts"
        raise ConfigError(f"a model of kind {adapter.kind!r} has no experts", where="candidate_experts", remedy=remedy)
    loader = loader_of(adapter, source, batch_size=batch_size, workers=workers, on_bad_sample=on_bad_sample)
    fresh = untrained(adapter).to(device) if controls else None
    return collect(adapter, loader, device, controls=controls, untrained=fresh)


def loader_of(
    adapter: Adapter, source: Source, *, batch_size: int = 64, workers: int = 1, on_bad_sample: str = "raise"
) -> Loader:
    """Give a loader of every sample, in order, prepared and tokenized as the adapter's library does."""
    return Loader(
        source,
        cast(Preprocess, adapter.prepare),  # called alike, with the library's own pixels
        cast(ReportTokenizer, adapter.tokenizer),
        modalities=tuple(MODALITIES),
        batch_size=batch_size,
        train=False,
        workers=workers,
        on_bad_sample=on_bad_sample,
    )


def untrained(adapter: Adapter, *, seed: int = 0) -> Adapter:
    """Give the same model with fresh weights, whose features are a control for learnt ones.

    Layers begin anew as torch begins them; a tensor that belongs to no such layer is shuffled.
    """
    fresh = deepcopy(adapter)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for value in module.parameters(recurse=False):
                value.copy_(value.flatten()[torch.randperm(value.numel())].view_as(value))
    return fresh
