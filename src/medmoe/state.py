"""What a run carries from step to step: made or taken up again, validated, saved."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medmoe import checkpoint, rewinds
from medmoe.build import (
    build_model,
    build_text_cache,
    build_tokenizer,
    initialise,
    preprocess_of,
    put_weights,
    resolve_data,
    tokenizer_of,
)
from medmoe.caching import Way, bounded, check_separable, forward_in_parts
from medmoe.config import RunConfig
from medmoe.data.device_augment import augmented
from medmoe.data.loader import Loader
from medmoe.data.sources.base import Source, facts_fingerprint
from medmoe.data.sources.rows import Rows
from medmoe.distributed import (
    World,
    any_of,
    apart,
    current,
    gathered,
    has_parts,
    largest,
    most,
    over_all,
    parted_like,
    same_everywhere,
    shard,
    summed,
    whole,
)
from medmoe.encoders.cached_text import CachedText
from medmoe.encoders.pretrained import LoadReport, freeze, training
from medmoe.errors import UserError
from medmoe.folder import find_folder
from medmoe.guards import Finite, Spikes
from medmoe.leaks import remember
from medmoe.model import MedVLM
from medmoe.objectives import total_loss
from medmoe.optim import WeightAverage, adamw, copy_state, load_state_tensors, state_tensors
from medmoe.pieces import Crew, taken_up
from medmoe.refusals import check_local_similarity, refuse_changes
from medmoe.rewinds import Rewind
from medmoe.rundir import RunFolder
from medmoe.signals import Asked
from medmoe.step import Forward, autocast, compiled
from medmoe.types import Batch, Loss, Output, over_tensors

_LOG = logging.getLogger(__name__)


@dataclass
class State:
    """What a run carries from step to step."""

    model: MedVLM
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    step: int = 0
    loads: dict[str, LoadReport] = field(default_factory=dict)
    forward: Forward | None = None  # of training steps; None: as it stands
    text: CachedText | None = None  # what the frozen text encoder made of reports, where that is kept
    guard: Finite | None = None
    data: str = ""  # fingerprint of the training samples' facts
    crew: Crew | None = None  # who write checkpoints together, where the model is in parts
    val_loss: tuple[int, float] | None = None  # the step of the last validation, and what came of it
    rewinds: tuple[Rewind, ...] = ()  # where it went back from a spike


def prepare(
    config: RunConfig,
    *,
    train: Source,
    run: RunFolder,
    init: dict[str, str],
    device: str,
    allow_changes: bool = False,
) -> tuple[State, RunConfig]:
    """Build everything a run needs, from its newest checkpoint where there is one.

    Raises:
        UserError: If the data or configuration can't be used, or a run would go on with others than it had.
    """
    config, reports = resolve_data(config, train)
    check_local_similarity(config)
    brought = init_tokenizer(init)
    saved = checkpoint.load_latest(run.path)
    data = facts_fingerprint(train)
    if saved is not None:
        refuse_changes(run.path, config, data, saved.state, allowed=allow_changes)
    begun = {"a step to begin at": saved.step if saved else 0, "training samples": data, "a recipe": config}
    back = rewinds.known(run.path, saved.state if saved else None)
    same_everywhere({**begun, "a list of rewinds": back}, device)
    tokenizer = build_tokenizer(config.model.text, reports, folder=saved.folder if saved else brought)
    model = build_model(config.model, tokenizer, seed=config.train.seed)
    loads = {} if saved else initialise(model, init)
    if config.train.freeze:
        freeze(model, config.train.freeze)
    if config.train.micro_batch is not None:
        check_separable(training(model))
    settings = config.train
    over_all(model)
    if settings.shard:
        shard(model, device)
    model.to(device)
    forward = compiled(config, device) if settings.compile else None
    optimizer = adamw(model, lr=settings.lr, weight_decay=settings.weight_decay, betas=settings.betas)
    state = State(model, optimizer, None, loads=loads, forward=forward, data=data, rewinds=back)
    if settings.ema is not None:
        state.average = WeightAverage(model, settings.ema)
    if saved:
        take_up(state, saved)
    if has_parts(model):
        state.crew = Crew(settings.stall_seconds, device)
    state.text = build_text_cache(model, config, run.path)
    run.rewind(state.step)
    if run.writes:
        checkpoint.clear(run.path)
        if not saved:
            rewinds.forget(run.path)
    run.begin(config, None if saved else loads, step=state.step)
    if run.writes:
        remember(run.path, train, init=init)
    log = run.path / "bad_steps.jsonl" if run.writes else None
    spikes = None if settings.spike is None else Spikes(settings.spike, window=settings.spike_window)
    if spikes is not None and saved:
        spikes.take_up(saved.state.get("spikes"))
    state.guard = Finite(model, optimizer, patience=settings.bad_steps, log=log, spikes=spikes)
    return state, config


def take_up(state: State, saved: checkpoint.Checkpoint) -> None:
    """Put what a checkpoint holds into a run.

    Raises:
        ModelError: If its weights don't fit the configuration.
    """
    where, remedy = str(saved.folder.parents[1]), "go on with the settings of its config.json, or give another --out"
    apart(state.model)
    weights = saved.weights
    if has_parts(state.model):
        own = state.model.state_dict()
        weights = {name: parted_like(value, own[name]) if name in own else value for name, value in weights.items()}
    put_weights(state.model, weights, where=where, remedy=remedy)
    load_state_tensors(state.model, state.optimizer, saved.optimizer)
    state.step = saved.step
    if state.average is not None and saved.average:
        state.average.weights = taken_up(saved.average, state.average.weights)
    elif state.average is not None:  # it begins here
        state.average = WeightAverage(state.model, state.average.decay)


def go_back(state: State, config: RunConfig, run: RunFolder, device: str) -> Rewind | None:
    """Go back from the spike that was found, to a checkpoint from well before it; all processes together.

    Newer checkpoints are deleted before the rewind is written down: after a crash in between, the run comes to the same
    spike once more, and does the same.

    Returns:
        What was done; None where there is no such checkpoint: that is logged, and the run goes on as it is.

    Raises:
        UserError: If it went back as often as it may.
    """
    assert state.guard is not None
    spikes, settings = state.guard.spikes, config.train
    assert spikes is not None
    assert spikes.found is not None
    spike = spikes.found
    spare = checkpoint.Spare(spike.begun - 1 - spikes.margin, settings.save_every)
    own = checkpoint.newest_whole(run.path, spare) if current().first else None
    to = most(-1 if own is None else own, device)
    before = f"from {spike.median:.4g} before step {spike.begun}"
    told = f"the loss jumped to {spike.loss:.4g} at step {spike.step}, {before}"
    if to < 0:
        told += f"; there is no checkpoint of step {spare.upto} or before to go back to: the run goes on"
        _LOG.warning("%s%s", told, "" if settings.save_every <= spikes.margin else "; a smaller train.save_every helps")
        spikes.live_with()
        return None
    if len(state.rewinds) >= settings.rewinds:
        if run.writes:
            checkpoint.drop_after(run.path, to)
        raise UserError(
            f"{told}, and the run went back {len(state.rewinds)} times already; the newest checkpoint is now that of "
            f"step {to}, from before it",
            where=str(run.path),
            remedy="lower --set train.lr and go on with --allow-changes, or allow more --set train.rewinds",
        )
    saved = checkpoint.load(checkpoint.at(run.path, to))
    batch = rewinds.first_batch(state.rewinds, spike.step, settings.accum_freq)
    loss = spike.loss if math.isfinite(spike.loss) else None
    rewind = Rewind(to=to, batch=batch, begun=spike.begun, step=spike.step, loss=loss, median=spike.median)
    state.rewinds, state.val_loss = (*state.rewinds, rewind), None
    take_up(state, saved)
    state.guard.forget()
    spikes.take_up(saved.state.get("spikes"))
    if run.writes:
        checkpoint.drop_after(run.path, to)
        rewinds.write(run.path, state.rewinds)
    run.rewind(to)
    _LOG.warning("%s; back to step %d, and on with batch %d", told, to, batch)
    return rewind


def init_tokenizer(init: Mapping[str, str]) -> Path | None:
    """Find the tokenizer that saved parts bring: their word pieces' embeddings mean nothing under another one."""
    if "text" in init:
        return Path(init["text"])
    return find_folder(init["model"]) if "model" in init else None


def ready(batch: Batch, state: State, device: str) -> Batch:
    """Bring a batch to the device, with what is known of its reports, and do there what its augmentation left over."""
    if state.text is not None and batch.tokens is not None:
        batch = dataclasses.replace(batch, text=state.text(batch.tokens))
    batch = batch.to(device, non_blocking=True)
    if batch.changes is None:
        return batch
    assert state.model.assets is not None
    return augmented(batch, preprocess_of(state.model.assets.preprocess))


def way_of(config: RunConfig, device: str) -> Way:
    """Say how a batch goes through the model: whole, or in parts."""
    settings = config.train
    return Way(settings.micro_batch or config.data.batch_size, device, partial(autocast, settings.precision, device))


def loss_of_whole(config: RunConfig, said: list[Output], output: Output, batch: Batch) -> Loss:
    """Give the loss of a batch that went through the model in parts, all processes' together, on bounded memory.

    Args:
        config: The recipe.
        said: Is given what the model says of all processes' samples, without a graph.
        output: Of this process's samples.
        batch: Those samples.
    """
    output, batch = gathered(output, batch)
    said.append(over_tensors(output, Tensor.detach))
    return total_loss(output, batch, config.objectives, bounded(config.objective_options, output))


@torch.no_grad()
def validate(
    state: State,
    loader: Loader | None,
    config: RunConfig,
    device: str,
    asked: Asked | None = None,
    *,
    counts: bool = True,
) -> dict[str, Any] | None:
    """Average every term over the whole validation set, images routed by their pixels.

    Args:
        state: The run.
        loader: This process's share of the batches, or None where there is none left for it.
        config: The recipe.
        device: Where to compute.
        asked: Whether the run was asked to stop meanwhile.
        counts: Whether the batches are this process's own; else it only helps the others (see `turns`).

    Returns:
        A row of the metrics; None where it was left at a batch, since any process was asked to stop.
    """
    model = state.model.eval()
    names = list(config.objectives)
    sums = dict.fromkeys(("loss", "images", "right", "known", *names, *(f"has {name}" for name in names)), 0.0)
    with averaged(state):
        for batch, own in turns(loader, asked, counts=counts, together=state.crew is not None, device=device):
            output, batch = forward_in_parts(model, ready(batch, state, "cpu"), way_of(config, device))
            if not own:
                continue
            loss = total_loss(output, batch, config.objectives, bounded(config.objective_options, output))
            count = len(batch.keys)
            sums["images"], sums["loss"] = sums["images"] + count, sums["loss"] + count * float(loss.total)
            for name, value in loss.terms.items():
                sums[name], sums[f"has {name}"] = sums[name] + count * float(value), 1.0
            if batch.modality is not None:
                labelled = batch.modality >= 0
                sums["known"] += int(labelled.sum())
                sums["right"] += int(((output.image.logits.argmax(1) == batch.modality) & labelled).sum())
        apart(model)
    training(model)
    if any_of(bool(asked), device):
        return None
    sums = dict(zip(sums, summed(sums.values(), device), strict=True))
    images = max(sums["images"], 1)
    return {
        "kind": "val",
        "step": state.step,
        "loss": sums["loss"] / images,
        "terms": {name: sums[name] / images for name in names if sums[f"has {name}"]},
        "image_router_accuracy": sums["right"] / sums["known"] if sums["known"] else None,
        "images": int(sums["images"]),
    }


def turns(
    loader: Loader | None, asked: Asked | None, *, counts: bool, together: bool, device: str
) -> Iterator[tuple[Batch, bool]]:
    """Give the batches of a validation until the run is asked to stop, and whether each is this process's to count.

    Args:
        loader: The batches.
        asked: Whether the run was asked to stop.
        counts: Whether any of the batches is this process's to count.
        together: Whether the model is in parts, and so is run as often in all processes: one that has no more batches
            gives its last one again until all are done.
        device: Where the processes exchange numbers.
    """
    batches, last = iter(loader or ()), None
    while True:
        batch = next(batches, None) if counts or last is None else None
        last, own = batch or last, counts and batch is not None
        flags = torch.tensor([float(own), float(bool(asked))], device=device)
        more, stop = (largest(flags) if together else flags).tolist()
        if stop or not more or last is None:
            return
        yield last, own


def share_of(source: Source, batch_size: int, world: World) -> Source | None:
    """Give every `size`-th batch of a source to a process, whole as one process would have it; None: none is left."""
    if world.size == 1:
        return source
    batches = range(world.rank, -(-len(source) // batch_size), world.size)
    places = [place for b in batches for place in range(b * batch_size, min((b + 1) * batch_size, len(source)))]
    return Rows(source, places) if places else None


@contextlib.contextmanager
def averaged(state: State) -> Iterator[None]:
    """Put the averaged weights into the model for a while, if the run averages."""
    if state.average is None:
        yield
        return
    own = {name: value.detach().clone() for name, value in state.model.state_dict().items()}
    state.model.load_state_dict(state.average.weights)
    try:
        yield
    finally:
        state.model.load_state_dict(own)


def snapshot(state: State, config: RunConfig) -> checkpoint.Snapshot:
    """Copy what a checkpoint holds."""
    assert state.model.assets is not None
    judged = state.val_loss[1] if state.val_loss is not None and state.val_loss[0] == state.step else None
    return checkpoint.snapshot(
        state.step,
        weights=state.model.state_dict(),
        optimizer=state_tensors(state.model, state.optimizer),
        average=None if state.average is None else state.average.weights,
        assets=state.model.assets,
        state={
            "recipe": config.recipe,
            "seed": config.train.seed,
            "data": state.data,
            "val_loss": judged,
            **({"rewinds": rewinds.plain(state.rewinds)} if state.rewinds else {}),
            **({} if state.guard is None or state.guard.spikes is None else {"spikes": state.guard.spikes.state()}),
        },
        crew=state.crew,
    )


def grow(state: State) -> None:
    """Part the growing experts, once; what the optimiser and the average know of the one, they then know of each."""
    if state.model.experts.grown:
        return
    if state.average is not None:
        with averaged(state):
            state.model.experts.grow()
            state.average.weights = {name: value.detach().clone() for name, value in state.model.state_dict().items()}
    copy_state(state.optimizer, state.model.experts.grow())


def finish(state: State, config: RunConfig, device: str) -> MedVLM:
    """Give the model to use, whole in every process: with averaged weights if the run averages."""
    if state.crew is None:
        if state.average is not None:
            state.model.load_state_dict(state.average.weights)
        return state.model.eval()
    state.optimizer.zero_grad(set_to_none=True)
    state.optimizer.state.clear()  # what it took is needed for the whole
    model = build_model(config.model, tokenizer_of(state.model)).to(device)
    weights = state.model.state_dict() if state.average is None else state.average.weights
    model.load_state_dict({name: whole(value) for name, value in weights.items()})
    model.assets = state.model.assets
    return model.eval()
