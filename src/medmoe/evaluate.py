"""Evaluate a model on a split: collect what it says, run the tasks, word the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from medmoe.build import build_loader, tokenizer_of
from medmoe.config import DataConfig, RunConfig, parse
from medmoe.data.sources.base import ChangedSource, Source
from medmoe.model import MedVLM
from medmoe.tasks import Change, Evidence, collect, evaluate_all, make_context


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
    model: MedVLM,
    evidence: Evidence,
    tasks: Sequence[str],
    *,
    fit: Evidence | None = None,
    tune: Evidence | None = None,
    again: Callable[[Change], Evidence] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Run tasks on what a model said of a split.

    Args:
        model: The model.
        evidence: What it said of the split that is judged.
        tasks: Names of `medmoe.tasks.TASKS`.
        fit: What it said of training samples, for tasks that fit something on frozen features.
        tune: What it said of validation samples, for tasks that choose something.
        again: Runs the model over the judged images again, changed; `medmoe.evaluate.anew` makes one.
        seed: Seed of every draw and permutation.
        resamples: Bootstrap resamples of each interval.

    Returns:
        `{"tasks": {TASK: {METRIC: {value, low, high, n, controls}}}, "details": {TASK: …}}`.

    Raises:
        ConfigError: If a task is unknown.
    """
    context = make_context(
        model, tokenizer_of(model), device=next(model.parameters()).device, seed=seed, resamples=resamples
    )
    return evaluate_all(evidence, replace(context, fit=fit, tune=tune, again=again), tasks)


def anew(
    model: MedVLM, source: Source, *, batch_size: int = 64, workers: int = 0, device: str = "cpu"
) -> Callable[[Change], Evidence]:
    """Give what runs a model over a source again with every sample changed, as `gather` ran it before."""

    def again(change: Change) -> Evidence:
        return gather(model, ChangedSource(source, change), batch_size=batch_size, workers=workers, device=device)

    return again
