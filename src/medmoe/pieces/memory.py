"""Tensors that were written in pieces, read as wholes or as another number of processes has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from medmoe.distributed import parted_like, room_like
from medmoe.errors import ModelError
from medmoe.folder import read_json

INDEX = "pieces.json"


class Pieces(Mapping[str, Tensor]):
    """Tensors that were written in pieces.

    Args:
        folder: Where the pieces lie.
        of: What the names begin with; it is left out of them.

    Raises:
        ModelError: If the index is missing or broken.
    """

    def __init__(self, folder: Path, of: str) -> None:
        self.folder, self.of = folder, f"{of}/"
        try:
            index = read_json(folder / INDEX).items()
            found = {name: (torch.Size(one["size"]), getattr(torch, one["dtype"])) for name, one in index}
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"isn't an index of pieces ({error})", where=str(folder / INDEX)) from None
        self._about = {name.removeprefix(self.of): about for name, about in found.items() if name.startswith(self.of)}

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._about)

    def __len__(self) -> int:
        """Count the tensors."""
        return len(self._about)

    def __getitem__(self, name: str) -> Tensor:
        """Read one as a whole; of several processes each must."""
        return self.read({name: torch.empty(0)})[name]

    def read(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read tensors: in parts where those of `like` are and have the same shape, on their device.

        Raises:
            ModelError: If a piece is missing or broken.
        """
        from medmoe.pieces.storage import load

        into = {self.of + name: room_like(other, *self._about[name]) for name, other in like.items()}
        load(self.folder, into)
        return {name.removeprefix(self.of): value for name, value in into.items()}


def taken_up(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give saved tensors, copied, as those of the run are: in parts or as a whole, on their device."""
    if isinstance(tensors, Pieces):
        return tensors.read(like)
    return {name: parted_like(tensors[name], other) for name, other in like.items()}
