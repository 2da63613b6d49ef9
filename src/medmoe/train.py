"""The training loop, top to bottom: data, forward, objectives, backward, log, validate, save."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medmoe import checkpoint, rewinds
from medmoe.build import build_loader
from medmoe.caching import backward_in_parts
from medmoe.config import RunConfig
from medmoe.data.loader import Loader, workers_told
from medmoe.data.sources.base import Source
from medmoe.distributed import World, any_of, apart, clip, current, most, sum_gradients
from medmoe.encoders.pretrained import training
from medmoe.measures import of_step
from medmoe.model import MedVLM
from medmoe.objectives.routing import routing_statistics
from medmoe.optim import set_lr, warmup_cosine
from medmoe.rundir import RunFolder, writing
from medmoe.signals import Asked, Interrupted, listening
from medmoe.state import (
    State,
    finish,
    go_back,
    grow,
    loss_of_whole,
    prepare,
    ready,
    share_of,
    snapshot,
    validate,
    way_of,
)
from medmoe.step import autocast, eager, grow_step, step_seed
from medmoe.tracking import Tracking
from medmoe.types import Batch, Loss, Output

Watch = Callable[[dict[str, Any]], None]


def fit(
    config: RunConfig,
    *,
    train: Source,
    val: Source | None,
    run: RunFolder,
    init: Mapping[str, str] | None = None,
    device: str = "cpu",
    allow_changes: bool = False,
    watch: Watch = lambda row: None,
) -> MedVLM:
    """Train a recipe and leave a run folder with everything it was and did.

    Started by torchrun, the processes share every batch and give what one would (see `medmoe.distributed`).

    Args:
        config: The recipe.
        train: Training samples.
        val: Validation samples; a finite set, gone through in full at each validation.
        run: Where to write; a run that has a checkpoint goes on from it.
        init: Parts (`model`, `vision`, `text`) to start from saved weights.
        device: Where to compute.
        allow_changes: Whether a run may go on with another recipe or other data than it had.
        watch: Called with every row of the metrics, in the first process.

    Returns:
        The trained model in evaluation mode (averaged weights, if the recipe averages).

    Raises:
        UserError: If the data or configuration can't be used, too many steps weren't finite, a loader process is gone,
            or the disk is full.
        Interrupted: After Ctrl-C, SIGTERM or SIGUSR1, when all is saved.
    """
    told = writing(run.path, "the checkpoints already saved are whole")
    with run.locked(), listening() as asked, told, workers_told(current().rank):
        state, config = prepare(
            config, train=train, run=run, init=dict(init or {}), device=device, allow_changes=allow_changes
        )
        course = Course(state, config, run, device, val, watch, asked)
        loader = build_loader(train, state.model, config, train=True, quarantine=run.quarantine, alone=False)
        feed, meter = Feed(loader, config, before=course.saver.finish), Meter(loader)
        try:
            course.catch_up()
            course.heed()
            while state.step < config.train.steps:
                loss, output, norm = train_step(state, feed(state), config, device)
                state.step += 1
                if config.model.experts.growing and state.step >= grow_step(config):
                    grow(state)
                meter.count(config.data.batch_size * config.train.accum_freq)
                if course.due(config.train.log_every) or state.step == 1:
                    course.tell(train_row(state, loss, output, norm, meter, config))
                with meter.paused():
                    course.validate_and_save()
                course.heed()
        except KeyboardInterrupt:
            raise Interrupted(course.leave(), 128 + (asked.number or 2)) from None
        finally:
            course.close()
            loader.close()
        return course.end()


class Course:
    """What happens beside the steps of a run: its metrics, its validations, its checkpoints.

    Args:
        state: The run.
        config: Its recipe.
        run: Its folder.
        device: Where it computes.
        val: Validation samples, or None.
        watch: Called with every row of the metrics, in the first process.
        asked: Whether the run was asked to stop.
    """

    def __init__(
        self,
        state: State,
        config: RunConfig,
        run: RunFolder,
        device: str,
        val: Source | None,
        watch: Watch,
        asked: Asked,
    ) -> None:
        self.asked = asked
        self.state, self.config, self.run, self.device = state, config, run, device
        self.first, self.judged = current().first, val is not None
        self.untried = True  # whether there was no validation yet
        self.left = False  # whether a validation was left since the run was asked to stop
        self.tracking = Tracking(config.train.track if self.first else (), run, since=state.step, then=watch)
        own = None if val is None else share_of(val, config.data.batch_size, current())
        self.counts = own is not None
        if val is not None and own is None and state.crew is not None:  # it helps the others with the first batch
            own = share_of(val, config.data.batch_size, World(0, current().size))
        quarantine = run.quarantine
        self.val = None if own is None else build_loader(own, state.model, config, train=False, quarantine=quarantine)
        settings = config.train
        self.saver = checkpoint.Saver(
            run.path,
            keep=settings.keep,
            keep_best=settings.keep_best,
            beside=settings.save_beside,
            saved=state.step or None,
            crew=state.crew,
        )

    def due(self, every: int) -> bool:
        """Tell whether it is time for what happens every so many steps, and at the last."""
        return self.state.step % every == 0 or self.state.step == self.config.train.steps

    def tell(self, row: dict[str, Any]) -> None:
        """Log a row of the metrics.

        Raises:
            UserError: If a checkpoint couldn't be written meanwhile.
        """
        if self.first:
            self.tracking(self.run.log(row))
        self.saver.check()

    def validate_and_save(self) -> None:
        """Do what is due after a step."""
        settings = self.config.train
        if self.went_back():
            return
        if self.judged and self.due(settings.val_every):
            self.validate()
        if self.due(settings.save_every):
            self.save()

    def validate(self) -> None:
        """Validate and log it, unless the run is asked to stop: then that is done when it goes on."""
        if self.untried:
            self.saver.finish()  # its loader's processes are forked, which no thread should write beside
        self.untried = False
        row = validate(self.state, self.val, self.config, self.device, self.asked, counts=self.counts)
        self.left = row is None
        if row is not None:
            self.state.val_loss = (self.state.step, row["loss"])
            self.tell(row)

    def catch_up(self) -> None:
        """Do the validation that the run was stopped in, if it was."""
        if not self.judged or not self.state.step or not self.due(self.config.train.val_every):
            return
        done = any(row["kind"] == "val" and row["step"] == self.state.step for row in self.run.history())
        if any_of(self.first and not done, self.device):
            self.validate()

    def heed(self) -> None:
        """Stop if any process was asked to, unless all is done.

        Raises:
            KeyboardInterrupt: In all of them.
        """
        number = most(self.asked.number or 0, self.device)
        if number and (self.state.step < self.config.train.steps or self.left):
            self.asked.number = number  # all leave with one code
            raise KeyboardInterrupt

    def save(self) -> None:
        """Write a checkpoint, unless the last step was bad or the run goes back instead."""
        guard = self.state.guard
        assert guard is not None
        guard.read()
        if self.went_back() or guard.in_a_row:
            return
        if not self.first and self.state.crew is None:
            return
        spare = None
        if guard.spikes is not None:
            spare = checkpoint.Spare(guard.spikes.last_good(self.state.step), self.config.train.save_every)
        self.saver.save(snapshot(self.state, self.config), spare)

    def went_back(self) -> bool:
        """Go back to an earlier checkpoint, if a spike of the loss was read and there is one to go back to.

        Raises:
            UserError: If the run went back as often as it may, or a checkpoint couldn't be written.
        """
        guard = self.state.guard
        if guard is None or guard.spikes is None or guard.spikes.found is None:
            return False
        self.saver.finish()
        rewind = go_back(self.state, self.config, self.run, self.device)
        if rewind is None:
            return False
        self.saver.saved = rewind.to
        (told,) = rewinds.plain([rewind])
        self.tell({"kind": "rewind", "number": len(self.state.rewinds), **told, "at": told["step"], "step": rewind.to})
        return True

    def leave(self) -> str:
        """Save, wait until that is written, and say so.

        Raises:
            UserError: If it couldn't be written.
        """
        assert self.state.guard is not None
        self.save()
        self.saver.finish()
        on = f"go on with --resume latest in {self.run.path}"
        if self.state.guard.in_a_row:
            return f"stopped at step {self.state.step}, which was bad and isn't saved: the one before is; {on}"
        return f"stopped at step {self.state.step}, saved in {self.run.path}; go on with --resume latest"

    def close(self) -> None:
        """Let go of what was open, once a checkpoint that is being written is whole, and tell the trackers."""
        self.saver.wait()
        self.tracking.finish(finished=self.state.step == self.config.train.steps)
        if self.state.text is not None:
            self.state.text.store.close()

    def end(self) -> MedVLM:
        """Wait until all is written, and give the model to use, once it is saved.

        Raises:
            UserError: If the last step was bad, or a checkpoint couldn't be written.
        """
        assert self.state.guard is not None
        self.state.guard.tell()
        self.saver.finish()
        model = finish(self.state, self.config, self.device)
        if self.first:
            model.save_pretrained(self.run.path / "model")
        return model


def train_step(state: State, batches: Iterator[Batch], config: RunConfig, device: str) -> tuple[Loss, Output, Tensor]:
    """Take one optimiser step over `accum_freq` batches; returns the last batch's loss and output."""
    model, settings = training(state.model), config.train
    torch.manual_seed(step_seed(settings.seed, state.step, current().rank))
    set_lr(state.optimizer, settings.lr * warmup_cosine(state.step, steps=settings.steps, warmup=settings.warmup))
    state.optimizer.zero_grad(set_to_none=True)
    keys: list[str] = []
    for _ in range(settings.accum_freq):
        batch = next(batches)
        keys += batch.keys
        loss, output = add_gradients(state, batch, config, device)
    apart(model)  # the last batch may have had no backward pass through a backbone, another one its gradients
    sum_gradients(model)
    norm = clip(model.parameters(), settings.clip)
    if state.guard is not None:
        state.guard.judge(state.step + 1, loss.total, norm, keys)
    state.optimizer.step()
    if state.average is not None:
        state.average.update(model, state.step)
    return loss, output, norm


def add_gradients(state: State, batch: Batch, config: RunConfig, device: str) -> tuple[Loss, Output]:
    """Add a batch's share of the step's gradient: at once, or in parts that give the same."""
    settings = config.train
    if settings.micro_batch is not None:
        said: list[Output] = []  # of all processes' samples, as the loss is
        whole, way = partial(loss_of_whole, config, said), way_of(config, device)
        batch = ready(batch, state, "cpu")  # the images stay here, and go to the device part by part
        loss, _ = backward_in_parts(state.model, batch, whole, way, share=1 / settings.accum_freq)
        return loss, said[0]
    forward = state.forward or eager(config, device)
    output, loss = forward(state.model, ready(batch, state, device))
    if loss.total.requires_grad:  # else the batch has nothing that an objective reads
        (loss.total / settings.accum_freq).backward()  # type: ignore[no-untyped-call]
    return loss, output


class Feed:
    """Gives each step its batches; those that a run left out by going back are passed over.

    Args:
        loader: Of the training samples.
        config: The recipe.
        before: Called before the loader's processes are started again.
    """

    def __init__(self, loader: Loader, config: RunConfig, *, before: Callable[[], None]) -> None:
        self.loader, self.per_step, self.before = loader, config.train.accum_freq, before
        self.batches: Iterator[Batch] = iter(())
        self.next: int | None = None  # the number of the batch that `batches` gives next

    def __call__(self, state: State) -> Iterator[Batch]:
        """Give what the next step takes its batches from."""
        first = rewinds.first_batch(state.rewinds, state.step, self.per_step)
        if first != self.next:
            self.before()
            self.batches = self.loader.from_step(first)
        self.next = first + self.per_step
        return self.batches


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
    """Word one line of the metrics; beside it, only what is saved or judged is read from the device.

    Raises:
        UserError: If too many steps in a row had a loss or gradient that isn't finite.
    """
    skipped = 0 if state.guard is None else state.guard.read()
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
        **({"bad_steps": skipped} if skipped else {}),
        **({} if state.text is None else state.text.read()),
        **of_step(state.model, output, loss.modality, norm, settings.clip),
        **meter.read(),
    }


__all__ = [
    "Interrupted",
    "State",
    "autocast",
    "fit",
    "prepare",
    "ready",
    "train_step",
]
