"""Evaluate a model on a split: collect what it says, run the tasks, word the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medmoe import adapters
from medmoe.adapters import Adapter
from medmoe.build import build_loader, build_model, tokenizer_of
from medmoe.config import DataConfig, ModelConfig, RunConfig, parse
from medmoe.data.collate import unknown_modality
from medmoe.data.sources.base import ChangedSource, Source
from medmoe.data.sources.phantom import PhantomSource
from medmoe.errors import ConfigError
from medmoe.model import MedVLM
from medmoe.tasks import Again, Change, Evidence, Task, collect, evaluate_all, make_context
from medmoe.tasks.features import Fingerprint, load_evidence, of_samples, of_weights, save_evidence
from medmoe.tasks.foreign import fit_and_tune_known, is_foreign, without_foreign
from medmoe.tasks.outcomes import add_items, outcomes_of
from medmoe.tasks.stand_ins import TASKS as STAND_IN_TASKS
from medmoe.tasks.stand_ins import stand_ins
from medmoe.tasks.subsets import check_column, evaluate_by
from medmoe.tasks.zero_shot import ZeroShot

# Phantoms that the batch norms of an untrained model take their statistics from.
_PHANTOMS = 64


def gather(
    model: MedVLM | Adapter,
    source: Source,
    *,
    batch_size: int = 64,
    workers: int = 1,
    on_bad_sample: str = "raise",
    device: str = "cpu",
    candidate_experts: bool = False,
    controls: bool = False,
    cache: Path | None = None,
    foreign: bool = False,
) -> Evidence:
    """Run a model over every sample of a source, in order; see `medmoe.tasks.collect`.

    Args:
        model: The model, or an adapter of another library's.
        source: The samples.
        batch_size: Images encoded at a time.
        workers: Loader processes.
        on_bad_sample: `raise`, or `skip` to leave bad samples out.
        device: Where the model is.
        candidate_experts: Also keep the regions through every expert.
        controls: Also keep features that nobody trained: raw pixels, and those of this model with fresh weights.
        cache: Folder to keep what the model said in. The file's name and content bear the fingerprint of the model,
            its preprocessing, the samples and the options, so that another model's is never taken; batch size and
            device aren't part of it. Not for adapters.
        foreign: Whether images of modalities that the model lacks are admitted, as what a gate should turn away.

    Raises:
        UserError: If a setting isn't allowed, an image is bad and `on_bad_sample` is `raise`, or an image is of a
            modality that the model lacks and `foreign` is off.
    """
    if isinstance(model, Adapter):
        if cache is not None:
            raise ConfigError("features of another library's model are not kept", where="cache", remedy="leave it out")
        return adapters.gather(
            model,
            source,
            batch_size=batch_size,
            workers=workers,
            on_bad_sample=on_bad_sample,
            device=device,
            candidate_experts=candidate_experts,
            controls=controls,
        )
    data = parse(DataConfig, {"batch_size": batch_size, "workers": workers, "on_bad_sample": on_bad_sample})
    made_from, path = None, None
    if cache is not None:
        options = f"on_bad_sample={on_bad_sample} candidate_experts={candidate_experts} controls={controls}"
        options += f" masks={_read_masks(source)}"
        made_from = fingerprint(model, source, options)
        path = cache / made_from.file_name()
        if path.is_file():
            return _admitted(load_evidence(path, made_from), foreign=foreign)
    loader = build_loader(source, model, RunConfig(recipe="eval", data=data), train=False, foreign=foreign)
    fresh = untrained(model).to(device) if controls else None
    evidence = collect(model, loader, device, candidate_experts=candidate_experts, controls=controls, untrained=fresh)
    if made_from is not None and path is not None:
        save_evidence(path, evidence, made_from)
    return evidence


def _read_masks(source: Source) -> bool:
    """Whether some part of a source reads masks: evidence without them must not be taken for evidence with them."""
    parts: Sequence[Source] = getattr(source, "sources", ())
    return bool(getattr(source, "maps", False)) or any(_read_masks(part) for part in parts)


def _admitted(evidence: Evidence, *, foreign: bool) -> Evidence:
    """Refuse kept evidence with images of modalities that the model lacks, as the loader would have."""
    strange = (sample for sample in evidence.samples if is_foreign(sample.modality, evidence.modalities))
    first = None if foreign else next(strange, None)
    if first is not None:
        raise unknown_modality(first, evidence.modalities)
    return evidence


def fingerprint(model: MedVLM, source: Source, options: str = "") -> Fingerprint:
    """Give the fingerprint of what a model says of a source: of the model, its preprocessing and the samples."""
    assert model.assets is not None
    return Fingerprint(
        model=of_weights(model.state_dict(), model.assets.config, model.assets.tokenizer),
        preprocess=json.dumps(model.assets.preprocess, sort_keys=True),
        data=of_samples(source, masks=True),
        options=options,
    )


def untrained(model: MedVLM, *, seed: int = 0) -> MedVLM:
    """Give a model of the same configuration with fresh weights, whose features are a control for learnt ones.

    Fresh batch norms know no statistics, and would not normalise: they take those of a few phantoms, the same for every
    split that is compared.
    """
    assert model.assets is not None
    fresh = build_model(parse(ModelConfig, model.assets.config), tokenizer_of(model), seed=seed)
    norms = [part for part in fresh.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if norms:
        data = parse(DataConfig, {"batch_size": _PHANTOMS, "workers": 0})
        source = PhantomSource(_PHANTOMS)
        loader = build_loader(source, fresh, RunConfig(recipe="eval", data=data), train=False, foreign=True)
        for part in norms:
            part.momentum = 1.0  # the statistics of the one batch
        fresh.train()
        with torch.no_grad():
            fresh.encode_image(next(iter(loader)).image)  # with regions: experts too may have such norms
    return fresh.eval()


def evaluate(
    model: MedVLM | Adapter,
    evidence: Evidence,
    tasks: Sequence[str],
    *,
    fit: Evidence | None = None,
    tune: Evidence | None = None,
    again: Again | None = None,
    ready: Mapping[str, Task] | None = None,
    items: bool = False,
    by: str | None = None,
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
        ready: Tasks with settings of their own, by name.
        items: Also keep each item's outcome in the details, so that two models can be compared item by item.
        by: Also run the tasks within each value of a column of `medmoe.tasks.subsets.COLUMNS`, such as `source`.
        seed: Seed of every draw and permutation.
        resamples: Bootstrap resamples of each interval.

    Returns:
        `{"tasks": {TASK: {METRIC: {value, low, high, n, controls}}}, "details": {TASK: …}}`, and with `by` what
        `medmoe.tasks.subsets.evaluate_by` gives under `"by"`. With `fit`, routing, retrieval and zero-shot have
        controls from features that nobody trained, if the evidence carries them (`medmoe.tasks.stand_ins`).

    Raises:
        ConfigError: If a task or column is unknown.
    """
    if by is not None:
        check_column(by)
    tokenizer = model.tokenizer if isinstance(model, Adapter) else tokenizer_of(model)
    context = make_context(model, tokenizer, device=next(model.parameters()).device, seed=seed, resamples=resamples)
    context = replace(context, fit=fit, tune=tune, again=again)
    others = stand_ins(evidence, fit_and_tune_known(context)) if STAND_IN_TASKS.intersection(tasks) else {}
    results = evaluate_all(evidence, context, tasks, ready=ready, others=others)
    if by is not None:
        results["by"] = evaluate_by(evidence, context, tasks, by, ready=ready, others=others)
    known = without_foreign(evidence)
    if items:
        worded = (ready or {}).get(ZeroShot.name)
        zero_shot = worded if isinstance(worded, ZeroShot) else None
        add_items(results, outcomes_of(known, context, zero_shot=zero_shot) if len(known) else {})
    return results


def anew(
    model: MedVLM | Adapter,
    source: Source,
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: str = "cpu",
    foreign: bool = False,
) -> Again:
    """Give what runs a model over a source again with every sample changed, as `gather` ran it before."""
    how: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "device": device, "foreign": foreign}

    def again(change: Change, *, controls: bool = False) -> Evidence:
        return gather(model, ChangedSource(source, change), controls=controls, **how)

    return again
