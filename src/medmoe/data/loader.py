"""Batches: reads the samples of each step, prepares and collates them, here or in worker processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader

from medmoe.data.batch import Parcel, Reader
from medmoe.data.collate import collate
from medmoe.data.crops import RandomCrop
from medmoe.data.plan import PLAIN, SHUFFLES, Layout, Plan
from medmoe.data.preprocess import Preprocess
from medmoe.data.sources.base import Source
from medmoe.data.text import ReportTokenizer
from medmoe.data.transforms import Augment
from medmoe.errors import ConfigError, DataError, unknown
from medmoe.types import Batch

__all__ = ["Loader", "collate"]

ON_BAD_SAMPLE = ("raise", "skip")
AUGMENT_ON = ("worker", "device")


def _modality(source: Source, index: int) -> str | None:
    """Give a sample's modality; None also where its facts are bad, which reading it will tell."""
    try:
        return source.facts(index).modality
    except DataError:
        return None


class _Steps:
    """The numbers of the steps to make, from the start each time."""

    def __init__(self, start: int, stop: int | None) -> None:
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start) if self.stop is None else iter(range(self.start, self.stop))


class Loader:
    """Iterates over batches: without end from step `start` in training, once and in order in evaluation.

    The batch of a step depends on the seed and the step's number only, not on the workers or on where a run began.

    Args:
        source: The samples.
        preprocess: Prepares each.
        tokenizer: Tokenizes the reports; None leaves them out.
        modalities: The model's modalities, in its order.
        batch_size: Samples in a batch, of all ranks together; in evaluation the last batch may have fewer.
        train: Whether to shuffle without end, or to give each sample once.
        augment: Changes each sample, in training only.
        augment_on: `worker`, or `device`: then batches bring their `changes` along, for `device_augment.augmented`.
        crop: Takes a random part of samples before that, in training only.
        batching: `mixed` or `within`; see `Plan`, also for the next two.
        within_fraction: The part of a batch that comes from one modality.
        balance: How far the modalities' shares are evened out.
        seed: Non-negative.
        workers: Worker processes; 0 reads in this one.
        start: The first step of training.
        on_bad_sample: `raise` a bad sample's DataError, or `skip` it: in training the next good sample of the plan
            takes its place, in evaluation it is left out. Both are counted in `skipped`.
        quarantine: A file that gets one JSON line (key, reason, step) for each sample skipped.
        foreign: Whether samples of modalities that the model lacks are admitted, in evaluation only.
        layout: Of what the source is made, in training; see `medmoe.data.plan.Layout`.
        rank: Which of the processes that share each batch this is, from 0. It gets every `world`-th sample of it, with
            the augmentation that it would have without the others.
        world: How many there are; a batch of training is shared out as evenly as it can be.
        patience: Seconds after which a batch that doesn't come from the worker processes is an error; 0: never.

    Attributes:
        waited: Seconds the caller has waited for batches so far.
        skipped: Bad samples met so far.

    Raises:
        DataError: If the source is empty; while iterating, for a bad sample, or when none is good.
        ConfigError: If an argument isn't allowed.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess,
        tokenizer: ReportTokenizer | None,
        *,
        modalities: tuple[str, ...],
        batch_size: int,
        train: bool,
        augment: Augment | None = None,
        augment_on: str = "worker",
        crop: RandomCrop | None = None,
        batching: str = "mixed",
        within_fraction: float = 0.5,
        balance: float = 0.0,
        seed: int = 0,
        workers: int = 0,
        start: int = 0,
        on_bad_sample: str = "raise",
        quarantine: Path | None = None,
        foreign: bool = False,
        layout: Layout = PLAIN,
        rank: int = 0,
        world: int = 1,
        patience: float = 0,
    ) -> None:
        _check(source, batch_size, seed, workers, on_bad_sample)
        _check_share(rank, world, batch_size, train)
        _check_changes({"augment": augment, "crop": crop, "foreign": foreign or None}, augment_on, train)
        plan, count = None, len(source)
        if train:
            uses = batching == "within" or balance > 0
            names = [_modality(source, index) for index in range(count)] if uses else [None] * count
            plan = Plan(
                names,
                batch_size=batch_size,
                batching=batching,
                within_fraction=within_fraction,
                balance=balance,
                seed=seed,
                layout=layout,
            )
        self._reader = Reader(
            source,
            preprocess,
            tokenizer,
            modalities=modalities,
            batch_size=batch_size,
            plan=plan,
            augment=augment,
            later=augment_on == "device",
            crop=crop,
            seed=seed,
            skip=on_bad_sample == "skip",
            foreign=foreign,
            rank=rank,
            world=world,
        )
        self._steps = _Steps(start, None) if train else _Steps(0, -(-count // batch_size))
        self._settings = {"samples": count, "batch_size": batch_size, "train": train, "batching": batching}
        self._settings |= {"within_fraction": within_fraction, "balance": balance, "seed": seed, "start": start}
        self._settings |= {"workers": workers, "on_bad_sample": on_bad_sample, "rank": rank, "world": world}
        self._settings |= {"upsampling": list(layout.factors), "shuffle": SHUFFLES[layout.shards is not None]}
        self._workers, self._seed, self._patience = workers, seed, patience if workers else 0
        self._data: DataLoader[Parcel] | None = None
        self._quarantine = quarantine
        self._told = _quarantined(quarantine)
        self.waited, self.skipped = 0.0, 0

    def __len__(self) -> int:
        """Count the batches that hold each sample once: all there are in evaluation, one pass in training."""
        return -(-len(self._reader.source) // self._reader.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches, from the first step again each time."""
        parcels = self._parcels()
        some = False
        while True:
            begun = time.perf_counter()
            parcel = _next(parcels, self._reader.rank)
            self.waited += time.perf_counter() - begun
            if parcel is None:
                break
            self._note(parcel)
            if parcel.fatal is not None:
                raise parcel.fatal.error()
            if parcel.batch is not None:
                some = True
                yield parcel.batch
        if not some and (self._reader.world == 1 or self.skipped):
            raise DataError(f"none of {len(self._reader.source)} samples is good", remedy="see the quarantine file")

    def describe(self) -> dict[str, object]:
        """Give the settings and counts so far, JSON-ready, for a run's record."""
        return {**self._settings, "skipped": self.skipped, "waited_s": round(self.waited, 3)}

    def from_step(self, start: int) -> Iterator[Batch]:
        """Give the batches of training from another step on."""
        self.close()
        self._steps.start = self._settings["start"] = start
        return iter(self)

    def close(self) -> None:
        """Stop the workers; iterating again starts new ones."""
        self._data = None

    def _parcels(self) -> Iterator[Parcel]:
        """Start the workers, or take up those that run."""
        if self._data is None:
            self._data = DataLoader(
                self._reader,
                batch_size=None,  # a step is a whole batch
                sampler=self._steps,
                num_workers=self._workers,
                collate_fn=_as_it_is,
                pin_memory=torch.cuda.is_available(),
                worker_init_fn=_begin_worker,
                timeout=self._patience,
                prefetch_factor=2 if self._workers else None,
                persistent_workers=self._workers > 0,
                generator=torch.Generator().manual_seed(self._seed),  # else it draws from the global one
            )
        with _no_tokenizer_threads():
            return iter(self._data)

    def _note(self, parcel: Parcel) -> None:
        """Count the bad samples, and write down those not written yet."""
        self.skipped += len(parcel.bad)
        for key, trouble in parcel.bad:
            if self._quarantine is None or key in self._told:
                continue
            self._told.add(key)
            line = json.dumps({"key": key, "reason": str(trouble.error()), "step": parcel.step}, ensure_ascii=False)
            self._quarantine.parent.mkdir(parents=True, exist_ok=True)
            with self._quarantine.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def _next(parcels: Iterator[Parcel], rank: int) -> Parcel | None:
    """Take the next parcel.

    Raises:
        DataError: If none comes in time, or a worker is gone.
    """
    with workers_told(rank):
        return next(parcels, None)


@contextlib.contextmanager
def workers_told(rank: int = 0) -> Iterator[None]:
    """Word what torch says of loader processes that are gone: it says so wherever this process is when it notices.

    Args:
        rank: Which of the processes that train together this is.

    Raises:
        DataError: In place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        told = str(error).split("\n")[0]
        if "DataLoader" not in told:
            raise
        if "timed out" in told:
            what, remedy = "no batch came in time", "look at the disk or network, or wait longer: train.stall_seconds"
        else:
            what = "a loader process is gone, killed perhaps for want of memory"
            remedy = "take fewer --workers or a smaller data.cache_mb, then --resume latest"
        raise DataError(f"process {rank}: {what} ({told})", remedy=remedy) from error


def _check(source: Source, batch_size: int, seed: int, workers: int, on_bad_sample: str) -> None:
    if len(source) == 0:
        raise DataError("no sample to load", remedy="check the manifest and the split's name")
    for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0), ("workers", workers, 0)):
        if value < least:
            raise ConfigError(f"{value} isn't allowed; {least} or more is", where=f"data.{name}")
    if on_bad_sample not in ON_BAD_SAMPLE:
        raise ConfigError(unknown("on_bad_sample", on_bad_sample, ON_BAD_SAMPLE), where="data.on_bad_sample")


def _check_changes(changes: Mapping[str, object], augment_on: str, train: bool) -> None:
    if augment_on not in AUGMENT_ON:
        raise ConfigError(unknown("place", augment_on, AUGMENT_ON), where="data.augment_on")
    for name, change in changes.items():
        if change is not None and train == (name == "foreign"):
            what = "foreign modalities are for evaluation only" if train else "augmentation is for training only"
            raise ConfigError(what, where=name, remedy="leave it out")


def _check_share(rank: int, world: int, batch_size: int, train: bool) -> None:
    if not 0 <= rank < world or (train and batch_size < world):
        what = f"rank {rank} of {world} for batches of {batch_size}; allowed: 0 to {world - 1}, and a sample for each"
        raise ConfigError(what, where="data.batch_size", remedy=f"take {world} or more")


def _quarantined(path: Path | None) -> set[str]:
    """Read the keys an earlier part of the run wrote down."""
    keys: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):  # a line torn by a crash is written again
            keys.add(json.loads(line)["key"])
    return keys


def _as_it_is(parcel: Any) -> Any:
    return parcel


def _begin_worker(_: int) -> None:
    torch.set_num_threads(1)
    sys.excepthook = _hush
    # To be asked to stop is the training loop's to handle, also where every process of a job is asked: it still wants
    # its last batch.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(os.getppid(),), name="obey", daemon=True).start()


def _hush(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say nothing of a training loop that is gone; what goes wrong with samples is told by other means."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _obey(parent: int) -> None:
    """End when the training loop says so, and when nobody else does."""
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(0)


@contextlib.contextmanager
def _no_tokenizer_threads() -> Iterator[None]:
    """Fork workers so that their tokenizers don't use threads, which a fork would leave dead."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
