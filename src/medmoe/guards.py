"""What keeps one bad step from spoiling a run: it is skipped and written down; many in a row stop the run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from medmoe import layers
from medmoe.distributed import largest, texts_of_all
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
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, patience: int, log: Path | None) -> None:
        self.optimizer, self.patience, self.log = optimizer, patience, log
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
        values = torch.stack([value for _, value, _ in self.seen]).tolist()
        seen, self.seen = self.seen, []
        for (step, _, keys), (bad, loss, norm) in zip(seen, values, strict=True):
            if not bad:
                self.in_a_row = 0
                continue
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            self._write(step, loss, norm, texts_of_all(keys))
            self.last = step, loss, norm
            if self.in_a_row > self.patience:
                self.tell()
        return self.skipped

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
