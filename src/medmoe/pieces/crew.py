"""The processes of a run whose model is in parts, as far as they write checkpoints together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from medmoe.distributed import any_of, current, of_rows, on_mesh


class Crew:
    """The processes of a run whose model is in parts, as far as they write checkpoints together.

    All of them write into the folder that the first one has made; that one does the rest, and says how it ended. They
    exchange words in a group of their own, so that a thread may do it while training goes on.

    Args:
        timeout: Seconds after which one that waits for the others gives up.
        device: Where the run computes.
    """

    def __init__(self, timeout: float, device: str) -> None:
        self.device = device
        self.group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self.mesh = on_mesh(self.group)

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy what this process holds of some tensors to the CPU."""
        return {name: of_rows(value, self.mesh) for name, value in tensors.items()}

    def any(self, flag: bool) -> bool:
        """Tell, outside the thread, whether a flag is set in any process."""
        return any_of(flag, self.device)

    def save(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Let all processes write what they hold into a folder; the first one says which.

        Raises:
            OSError: In every process, if any can't write.
        """
        from medmoe.pieces.storage import save

        if current().first:
            self._say(str(folder))
        save(folder, tensors, self.group)

    def write(self, lead: Callable[[], Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint together.

        Args:
            lead: What the first process does; it calls `save` once, or fails before.
            tensors: What this process holds.

        Raises:
            OSError: In every process, if any can't write.
        """
        if current().first:
            self._lead(lead)
        else:
            self._follow(tensors)

    def _lead(self, lead: Callable[[], Any]) -> None:
        ended: tuple[int, str] = (0, "")
        try:
            lead()
        except BaseException as error:
            known = isinstance(error, OSError) and error.errno
            ended = (error.errno, error.strerror) if known else (-1, f"process 0: {error}")  # type: ignore[attr-defined]
            raise
        finally:
            self._say(ended)

    def _follow(self, tensors: Mapping[str, Tensor]) -> None:
        failed: Exception | None = None
        while isinstance(word := self._say(None), str):
            try:
                self.save(Path(word), tensors)
            except Exception as error:
                failed = error
        if word[0]:  # the first one has the same error, or one of its own
            raise OSError(*word)
        if failed is not None:
            raise failed

    def _say(self, word: Any) -> Any:
        """Let the first process say something to all; gives what it says."""
        said = [word]
        dist.broadcast_object_list(said, src=0, group=self.group)
        return said[0]
