"""The training loop, top to bottom: data, forward, objectives, backward, log, validate, save."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medmoe import checkpoint
from medmoe.build import (
    build_loader,
    build_model,
    build_text_cache,
    build_tokenizer,
    initialise,
    preprocess_of,
    put_weights,
    resolve_data,
)
from medmoe.caching import Way, backward_in_parts, bounded, check_separable, forward_in_parts
from medmoe.config import RunConfig
from medmoe.data.device_augment import augmented
from medmoe.data.loader import Loader
from medmoe.data.sources.base import Source
from medmoe.encoders.cached_text import CachedText
from medmoe.encoders.pretrained import LoadReport, freeze, training
from medmoe.errors import ConfigError, UserError
from medmoe.folder import find_folder
from medmoe.leaks import remember
from medmoe.measures import of_step
from medmoe.model import MedVLM
from medmoe.objectives import total_loss
from medmoe.objectives.routing import routing_statistics
from medmoe.optim import WeightAverage, adamw, copy_state, load_state_tensors, set_lr, state_tensors, warmup_cosine
from medmoe.rundir import RunFolder
from medmoe.step import Forward, autocast, compiled, eager
from medmoe.tracking import Tracking
from medmoe.types import Batch, Loss, Output

Watch = Callable[[dict[str, Any]], None]


class Interrupted(Exception):  # noqa: N818 - not an error: the run was saved
    """Training was stopped by Ctrl-C, after saving."""


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


def fit(
    config: RunConfig,
    *,
    train: Source,
    val: Source | None,
    run: RunFolder,
    init: Mapping[str, str] | None = None,
    device: str = "cpu",
    watch: Watch = lambda row: None,
) -> MedVLM:
    """Train a recipe and leave a run folder with everything it was and did.

    Args:
        config: The recipe.
        train: Training samples.
        val: Validation samples; a finite set, gone through in full at each validation.
        run: Where to write; a run that has a checkpoint goes on from it.
        init: Parts (`model`, `vision`, `text`) to start from saved weights.
        device: Where to compute.
        watch: Called with every row of the metrics.

    Returns:
        The trained model in evaluation mode (averaged weights, if the recipe averages).

    Raises:
        UserError: If the data or configuration can't be used, or the loss isn't finite.
        Interrupted: After Ctrl-C, when all is saved.
    """
    state, config = prepare(config, train=train, run=run, init=dict(init or {}), device=device)
    quarantine = run.quarantine
    frequency = config.train.accum_freq
    loader = build_loader(train, state.model, config, train=True, start=state.step * frequency, quarantine=quarantine)
    val_loader = None if val is None else build_loader(val, state.model, config, train=False, quarantine=quarantine)
    tell = Tracking(config.train.track, run, since=state.step, then=watch)
    batches, meter = iter(loader), Meter(loader)
    try:
        while state.step < config.train.steps:
            with undisturbed():
                loss, output, norm = train_step(state, batches, config, device)
                state.step += 1
                if config.model.experts.growing and state.step >= grow_step(config):
                    grow(state)
            meter.count(config.data.batch_size * frequency)
            last = state.step == config.train.steps
            if last or state.step == 1 or state.step % config.train.log_every == 0:
                tell(run.log(train_row(state, loss, output, norm, meter, config)))
            if val_loader is not None and (last or state.step % config.train.val_every == 0):
                with meter.paused():
                    tell(run.log(validate(state, val_loader, config, device)))
            if last or state.step % config.train.save_every == 0:
                check_finite(state.step, loss, norm)
                with meter.paused():
                    save(state, run, config)
    except KeyboardInterrupt:
        save(state, run, config)
        raise Interrupted(f"stopped at step {state.step}, saved in {run.path}; go on with --resume latest") from None
    finally:
        tell.finish(finished=state.step == config.train.steps)
        loader.close()
        if state.text is not None:
            state.text.store.close()
    model = finish(state)
    model.save_pretrained(run.path / "model")
    return model


def prepare(
    config: RunConfig, *, train: Source, run: RunFolder, init: dict[str, str], device: str
) -> tuple[State, RunConfig]:
    """Build everything a run needs, from its newest checkpoint where there is one."""
    config, reports = resolve_data(config, train)
    check_local_similarity(config)
    brought = init_tokenizer(init)
    tokenizer = build_tokenizer(config.model.text, reports, folder=run.tokenizer_folder() or brought)
    model = build_model(config.model, tokenizer, seed=config.train.seed)
    saved = checkpoint.load_latest(run.path)
    loads = {} if saved else initialise(model, init)
    if config.train.freeze:
        freeze(model, config.train.freeze)
    if config.train.micro_batch is not None:
        check_separable(training(model))
        if config.train.compile:
            raise ConfigError(
                "a batch that passes in parts isn't compiled", where="train.compile", remedy="leave out one of the two"
            )
    model.to(device)
    settings = config.train
    forward = compiled(config, device) if settings.compile else None
    optimizer = adamw(model, lr=settings.lr, weight_decay=settings.weight_decay, betas=settings.betas)
    state = State(model, optimizer, None, loads=loads, forward=forward)
    if saved:
        put_weights(
            model,
            saved.weights,
            where=str(run.path),
            remedy="go on with the settings of its config.json, or give another --out",
        )
        load_state_tensors(model, optimizer, saved.optimizer)
        state.step = saved.step
    state.text = build_text_cache(model, config, run.path)
    run.rewind(state.step)
    if settings.ema is not None:
        state.average = WeightAverage(model, settings.ema)
        if saved and saved.average:
            state.average.weights = {name: value.to(device) for name, value in saved.average.items()}
    run.begin(config, None if saved else loads)
    remember(run.path, train, init=init)
    return state, config


def init_tokenizer(init: Mapping[str, str]) -> Path | None:
    """Find the tokenizer that saved parts bring: their word pieces' embeddings mean nothing under another one."""
    if "text" in init:
        return Path(init["text"])
    return find_folder(init["model"]) if "model" in init else None


def check_local_similarity(config: RunConfig) -> None:
    """Refuse to train words and regions by one similarity a model that is read by another.

    Raises:
        ConfigError: If local objectives are active and none is that of `model.local_similarity`.
    """
    objectives = {"local": "attention", "late_interaction": "late_interaction"}
    active = [name for name in objectives if config.objectives.get(name, 0) > 0]
    kind = config.model.local_similarity
    if active and kind not in [objectives[name] for name in active]:
        own = next(name for name, similarity in objectives.items() if similarity == kind)
        raise ConfigError(
            f"the model reads words and regions by {kind!r}, and {active[0]!r} trains another similarity",
            where="objectives",
            remedy=f"--set objectives.{active[0]}=0 --set objectives.{own}=0.5, or for a new model "
            f"--set model.local_similarity={objectives[active[0]]}",
        )


def train_step(state: State, batches: Iterator[Batch], config: RunConfig, device: str) -> tuple[Loss, Output, Tensor]:
    """Take one optimiser step over `accum_freq` batches; returns the last batch's loss and output."""
    model, settings = training(state.model), config.train
    set_lr(state.optimizer, settings.lr * warmup_cosine(state.step, steps=settings.steps, warmup=settings.warmup))
    state.optimizer.zero_grad(set_to_none=True)
    for _ in range(settings.accum_freq):
        loss, output = add_gradients(state, next(batches), config, device)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    state.optimizer.step()
    if state.average is not None:
        state.average.update(model, state.step)
    return loss, output, norm


def add_gradients(state: State, batch: Batch, config: RunConfig, device: str) -> tuple[Loss, Output]:
    """Add a batch's share of the step's gradient: at once, or in parts that give the same."""
    settings = config.train
    if settings.micro_batch is not None:
        whole, way = partial(loss_of_whole, config), way_of(config, device)
        batch = ready(batch, state, "cpu")  # the images stay here, and go to the device part by part
        return backward_in_parts(state.model, batch, whole, way, share=1 / settings.accum_freq)
    forward = state.forward or eager(config, device)
    output, loss = forward(state.model, ready(batch, state, device))
    if loss.total.requires_grad:  # else the batch has nothing that an objective reads
        (loss.total / settings.accum_freq).backward()  # type: ignore[no-untyped-call]
    return loss, output


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


def loss_of_whole(config: RunConfig, output: Output, batch: Batch) -> Loss:
    """Give the loss of a batch that went through the model in parts, itself on bounded memory."""
    return total_loss(output, batch, config.objectives, bounded(config.objective_options, output))


def grow_step(config: RunConfig) -> int:
    """Give the step after which growing experts part."""
    return max(1, round(config.train.steps * config.train.grow_at))


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold Ctrl-C back until the body is done, so that no step is saved half taken."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[bool] = []
    before = signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


def grow(state: State) -> None:
    """Part the growing experts, once; what the optimiser and the average know of the one, they then know of each."""
    if state.model.experts.grown:
        return
    if state.average is not None:
        with averaged(state):
            state.model.experts.grow()
            state.average.weights = {name: value.detach().clone() for name, value in state.model.state_dict().items()}
    copy_state(state.optimizer, state.model.experts.grow())


def check_finite(step: int, loss: Loss, norm: Tensor) -> None:
    """Stop before broken weights are saved.

    Raises:
        UserError: If the loss or the gradient isn't finite.
    """
    for name, value in (("loss", float(loss.total.detach())), ("gradient's norm", float(norm))):
        if not math.isfinite(value):
            raise UserError(
                f"the {name} is {value} at step {step}",
                remedy="lower --set train.lr, or look for broken images with --on-bad-sample skip",
            )


class Meter:
    """Throughput and the share of the steps' time spent waiting for data, since the last reading."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.images, self.since, self.waited = 0, time.perf_counter(), loader.waited

    def count(self, images: int) -> None:
        """Count images of a step."""
        self.images += images

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of what is no step: with it, waiting would look shorter than it is."""
        begun = time.perf_counter()
        yield
        self.since += time.perf_counter() - begun

    def read(self) -> dict[str, float]:
        """Give images a second and the waiting share, and start anew."""
        now, waited = time.perf_counter(), self.loader.waited
        seconds = max(now - self.since, 1e-9)
        row = {"images_per_second": self.images / seconds, "data_wait": (waited - self.waited) / seconds}
        self.images, self.since, self.waited = 0, now, waited
        return row


def train_row(
    state: State, loss: Loss, output: Output, norm: Tensor, meter: Meter, config: RunConfig
) -> dict[str, Any]:
    """Word one line of the metrics; the only place of the loop that reads values from the device.

    Raises:
        UserError: If the loss or the gradient isn't finite.
    """
    check_finite(state.step, loss, norm)
    statistics, settings = routing_statistics(output.image.routing), config.train
    return {
        "kind": "train",
        "step": state.step,
        "loss": float(loss.total.detach()),
        "terms": {name: float(value) for name, value in loss.terms.items()},
        "inactive": list(loss.inactive),
        "lr": settings.lr * warmup_cosine(state.step - 1, steps=settings.steps, warmup=settings.warmup),
        "grad_norm": float(norm),
        "logit_scale": float(output.logit_scale.detach()),
        "router_entropy": float(statistics["entropy"]),
        "load": [round(value, 4) for value in statistics["load"].tolist()],
        "skipped": meter.loader.skipped,
        **({} if state.text is None else state.text.read()),
        **of_step(state.model, output, loss.modality, norm, settings.clip),
        **meter.read(),
    }


@torch.no_grad()
def validate(state: State, loader: Loader, config: RunConfig, device: str) -> dict[str, Any]:
    """Average every term over the whole validation set, images routed by their pixels."""
    model = state.model.eval()
    with averaged(state):
        sums: dict[str, float] = {}
        total, images, right, known = 0.0, 0, 0, 0
        for batch in loader:
            output, batch = forward_in_parts(model, ready(batch, state, "cpu"), way_of(config, device))
            loss = loss_of_whole(config, output, batch)
            count = len(batch.keys)
            images, total = images + count, total + count * float(loss.total)
            for name, value in loss.terms.items():
                sums[name] = sums.get(name, 0.0) + count * float(value)
            if batch.modality is not None:
                labelled = batch.modality >= 0
                known += int(labelled.sum())
                right += int(((output.image.logits.argmax(1) == batch.modality) & labelled).sum())
    training(model)
    return {
        "kind": "val",
        "step": state.step,
        "loss": total / max(images, 1),
        "terms": {name: value / max(images, 1) for name, value in sums.items()},
        "image_router_accuracy": right / known if known else None,
        "images": images,
    }


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


def save(state: State, run: RunFolder, config: RunConfig) -> None:
    """Write a checkpoint."""
    assert state.model.assets is not None
    checkpoint.save(
        run.path,
        step=state.step,
        weights=state.model.state_dict(),
        optimizer=state_tensors(state.model, state.optimizer),
        average=None if state.average is None else state.average.weights,
        assets=state.model.assets,
        state={"recipe": config.recipe, "seed": config.train.seed},
        keep=config.train.keep,
    )


def finish(state: State) -> MedVLM:
    """Give the model to use: with averaged weights if the run averages."""
    if state.average is not None:
        state.model.load_state_dict(state.average.weights)
    return state.model.eval()


__all__ = ["Interrupted", "fit", "prepare", "train_step", "validate"]
