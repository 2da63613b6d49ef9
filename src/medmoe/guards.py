"""What keeps a bad step from spoiling a run: one that is no number is skipped, and a loss that jumps is noticed."""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medmoe import layers
from medmoe.distributed import from_first, largest, texts_of_all
from medmoe.errors import UserError

_REMEDY = "lower --set train.lr, or look for broken images with --on-bad-sample skip"


class Finite:
    """Skips steps whose loss or gradient isn't finite, without reading anything back from the device.

    The optimiser is told to do nothing (as a gradient scaler tells it), and buffers that the forward pass moved, such
    as the statistics of batch norms, are put back. What was skipped is read where the metrics are.

    Args:
        model: The model.
        optimizer: A fused one, which knows `found_inf`.
        patience: Bad steps in a row after which the run stops; 0 stops at the first.
        log: File that gets one JSON line (step, loss, norm, keys of all processes' samples) for each bad step; of
            several processes one writes it.
        spikes: Looks for losses that jump among those that are read, if wanted; a step that isn't finite is one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        patience: int,
        log: Path | None,
        spikes: Spikes | None = None,
    ) -> None:
        self.optimizer, self.patience, self.log, self.spikes = optimizer, patience, log, spikes
        self.buffers = [value for value in model.buffers() if value.is_floating_point() or value.dtype == torch.int64]
        self.before = [value.clone() for value in self.buffers]
        self.seen: list[tuple[int, Tensor, Sequence[str]]] = []  # since the last reading
        self.skipped, self.in_a_row = 0, 0
        self.last: tuple[int, float, float] | None = None

    @torch.no_grad()
    def judge(self, step: int, loss: Tensor, norm: Tensor, keys: Sequence[str]) -> None:
        """Look at a step before the optimiser takes it.

        Args:
            step: Its number, from 1.
            loss: [] of the step.
            norm: [] of its gradient.
            keys: Its samples.
        """
        both = torch.stack([loss.detach().float(), norm.detach().float()])
        found = largest((~both.isfinite()).any().float())  # else processes could part over a last bit
        bad = found > 0
        self.optimizer.found_inf = found  # type: ignore[attr-defined]
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        self._keep_or_put_back(bad)
        self.seen.append((step, torch.cat([bad.float()[None], both]), keys))

    def _keep_or_put_back(self, bad: Tensor) -> None:
        """Put the buffers back after a bad step, else remember them."""
        if not self.buffers:
            return
        if layers.readable(bad):
            pair = (self.buffers, self.before) if bool(bad) else (self.before, self.buffers)
            torch._foreach_copy_(*pair)
            return
        for now, before in zip(self.buffers, self.before, strict=True):
            now.copy_(torch.where(bad, before, now))
            before.copy_(now)

    def read(self) -> int:
        """Read what was judged since the last time, write bad steps down, and give how many were skipped so far.

        Processes that train together do so together, and find the same.

        Raises:
            UserError: If more steps in a row were bad than is allowed.
        """
        if not self.seen:
            return self.skipped
        read = torch.stack([value for _, value, _ in self.seen])
        values = (read if self.spikes is None else from_first(read)).tolist()
        seen, self.seen = self.seen, []
        for (step, _, keys), (bad, loss, norm) in zip(seen, values, strict=True):
            if self.spikes is not None:
                self.spikes.see(step, math.nan if bad else loss)
            if not bad:
                self.in_a_row = 0
                continue
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            self._write(step, loss, norm, texts_of_all(keys))
            self.last = step, loss, norm
            if self.in_a_row > self.patience and (self.spikes is None or self.spikes.found is None):
                self.tell()
        return self.skipped

    def forget(self) -> None:
        """Begin anew with the model as it is now, the run having gone back to an earlier step."""
        self.seen, self.in_a_row, self.last = [], 0, None
        if self.buffers:
            torch._foreach_copy_(self.before, self.buffers)

    def tell(self) -> None:
        """Stop the run over the bad steps it has just had, if it had any.

        Raises:
            UserError: Naming the last one, and where its samples are written down.
        """
        if not self.in_a_row or self.last is None:
            return
        step, loss, norm = self.last
        name, value = ("loss", loss) if not math.isfinite(loss) else ("gradient's norm", norm)
        row = f" ({self.in_a_row} bad steps in a row)" if self.in_a_row > 1 else ""
        where = "" if self.log is None else f"; the samples are in {self.log}"
        raise UserError(f"the {name} is {value} at step {step}{row}", remedy=f"{_REMEDY}{where}")

    def _write(self, step: int, loss: float, norm: float, keys: Sequence[str]) -> None:
        if self.log is None:
            return
        line = json.dumps({"step": step, "loss": str(loss), "norm": str(norm), "keys": list(keys)})
        with self.log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@dataclass(frozen=True, slots=True)
class Spike:
    """A loss that jumped and stayed up.

    Attributes:
        begun: The first step whose loss was too high.
        step: The last that had to be, for it to count; what a run does with it follows from these losses only, not from
            when they were read.
        loss: Of that step; NaN, where it isn't finite.
        median: Of the losses before.
    """

    begun: int
    step: int
    loss: float
    median: float


class Spikes:
    """Tells a loss that jumps and stays up from noise and from single bad batches.

    A loss is too high if it lies more than `limit` robust deviations above the median of the last `window` that
    weren't: 1.4826 times the median distance from the median (Iglewicz & Hoaglin, 1993), one hundredth of the median at
    least. `HOLD` too high ones in a row are a spike; one or two are batches. A step that isn't finite is too high.
    Nothing is judged before half of the window is there. The gradient's norm isn't looked at: it is clipped, and its
    noise has long tails.

    What a run then does is PaLM's way (Chowdhery et al., 2022, section 5.1, https://arxiv.org/abs/2204.02311): go on
    from a checkpoint about 100 steps before the spike, and leave out the batches before and during it. Theirs didn't
    come back, and the same batches from another checkpoint made none. OPT (Zhang et al., 2022,
    https://arxiv.org/abs/2205.01068) lowered the learning rate as well, which is left to a person here.

    Args:
        limit: Robust deviations.
        window: Losses remembered.

    Attributes:
        found: The spike, once there is one; losses after it aren't judged.
    """

    HOLD = 3

    def __init__(self, limit: float, *, window: int) -> None:
        self.limit, self.losses = limit, deque[float](maxlen=window)
        self.begun, self.high = 0, 0  # the first too high step of those just now, and how many they are
        self.found: Spike | None = None
        self.later: list[tuple[int, float]] = []  # losses after it

    @property
    def margin(self) -> int:
        """Steps by which a checkpoint must be older than a spike: weights go wrong before the loss shows it."""
        assert self.losses.maxlen is not None
        return self.losses.maxlen // 2

    def see(self, step: int, loss: float) -> None:
        """Look at the loss of a step, NaN if the step wasn't finite."""
        if self.found is not None:
            self.later.append((step, loss))
            return
        median = self._median_passed(loss)
        if median is None:
            self.high = 0
            if math.isfinite(loss):
                self.losses.append(loss)
            return
        self.begun, self.high = (self.begun if self.high else step), self.high + 1
        if self.high >= self.HOLD:
            self.found = Spike(self.begun, step, loss, median)

    def last_good(self, step: int) -> int:
        """Give the step up to which checkpoints are good whatever comes next, after the losses until `step`."""
        return (self.begun if self.high else step + 1) - 1 - self.margin

    def state(self) -> dict[str, Any]:
        """Give what a checkpoint keeps of it, JSON-ready."""
        return {"losses": list(self.losses), "begun": self.begun, "high": self.high}

    def take_up(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what a checkpoint kept, or from nothing."""
        kept = state or {}
        self.later = []
        self.losses.clear()
        self.losses.extend(kept.get("losses", ()))
        self.begun, self.high, self.found = kept.get("begun", 0), kept.get("high", 0), None

    def live_with(self) -> None:
        """Take the losses since the spike for what is usual, there being nothing to go back to."""
        later = self.later
        self.take_up(None)
        for step, loss in later:
            self.see(step, loss)

    def _median_passed(self, loss: float) -> float | None:
        """Give the median, if a loss lies too far above it, and there are enough losses to tell."""
        if len(self.losses) < self.margin:
            return None
        median = statistics.median(self.losses)
        deviation = 1.4826 * statistics.median(abs(one - median) for one in self.losses)
        bound = median + self.limit * max(deviation, 0.01 * abs(median))
        return None if loss <= bound else median
