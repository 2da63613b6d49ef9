"""Evaluate a model on a split: collect what it says, run the tasks, word the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medmoe.build import build_loader, tokenizer_of
from medmoe.config import DataConfig, RunConfig, parse
from medmoe.data.sources.base import Source
from medmoe.model import MedVLM
from medmoe.tasks import Evidence, collect, evaluate_all, make_context


def gather(
    model: MedVLM,
    source: Source,
    *,
    batch_size: int = 64,
    workers: int = 1,
    on_bad_sample: str = "raise",
    device: str = "cpu",
    candidate_experts: bool = False,
) -> Evidence:
    """Run a model over every sample of a source, in order; see `medmoe.tasks.collect`.

    Raises:
        UserError: If a setting isn't allowed, or an image is bad and `on_bad_sample` is `raise`.
    """
    data = parse(DataConfig, {"batch_size": batch_size, "workers": workers, "on_bad_sample": on_bad_sample})
    loader = build_loader(source, model, RunConfig(recipe="eval", data=data), train=False)
    return collect(model, loader, device, candidate_experts=candidate_experts)


def evaluate(
    model: MedVLM, evidence: Evidence, tasks: Sequence[str], *, seed: int = 0, resamples: int = 1000
) -> dict[str, Any]:
    """Run tasks on what a model said of a split.

    Returns:
        `{"tasks": {TASK: {METRIC: {value, low, high, n, controls}}}, "details": {TASK: …}}`.

    Raises:
        ConfigError: If a task is unknown.
    """
    context = make_context(
        model, tokenizer_of(model), device=next(model.parameters()).device, seed=seed, resamples=resamples
    )
    return evaluate_all(evidence, context, tasks)
