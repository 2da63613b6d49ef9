"""A run's memory in pieces: every process writes what it holds, and another number of processes reads it again.

torch.distributed.checkpoint plans who writes and who reads which rows. Its own files are pickles, which run code when
they are read; here the pieces are safetensors files, and `pieces.json` says which rows lie where.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from medmoe.distributed import any_of, current, of_rows, on_mesh, parted_like, room_like
from medmoe.errors import ModelError
from medmoe.folder import flush, read_json, system_errors

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
        self._about = _Reader(folder).read_metadata().state_dict_metadata

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return (name.removeprefix(self.of) for name in self._about if name.startswith(self.of))

    def __len__(self) -> int:
        """Count the tensors."""
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> Tensor:
        """Read one as a whole; of several processes each must."""
        return self.read({name: torch.empty(0)})[name]

    def read(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read tensors: in parts where those of `like` are and have the same shape, on their device.

        Raises:
            ModelError: If a piece is missing or broken.
        """
        into = {}
        for name, other in like.items():
            about = self._about[self.of + name]
            assert isinstance(about, TensorStorageMetadata)
            into[self.of + name] = room_like(other, about.size, about.properties.dtype)
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # one process alone is no mistake
                state_dict_loader.load(into, storage_reader=_Reader(self.folder), planner=planner)
        except CheckpointException as error:
            reasons = [str(failure) for failure, _ in error.failures.values()]
            raise ModelError(f"the pieces can't be read ({reasons[0][:200]})", where=str(self.folder)) from None
        return {name.removeprefix(self.of): value for name, value in into.items()}


def taken_up(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give saved tensors, copied, as those of the run are: in parts or as a whole, on their device."""
    if isinstance(tensors, Pieces):
        return tensors.read(like)
    return {name: parted_like(tensors[name], other) for name, other in like.items()}


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
        if current().first:
            self._say(str(folder))
        planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        try:
            state_dict_saver.save(
                dict(tensors), storage_writer=_Writer(folder), planner=planner, process_group=self.group
            )
        except CheckpointException as error:
            failures = [failure for failure, _ in error.failures.values()]
            raise next((one for one in failures if isinstance(one, OSError)), failures[0]) from None

    def write(self, lead: Callable[[], Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint together.

        Args:
            lead: What the first process does; it calls `save` once, or fails before.
            tensors: What this process holds.

        Raises:
            OSError: In every process, if any can't write.
        """
        if not current().first:
            while isinstance(word := self._say(None), str):
                try:
                    self.save(Path(word), tensors)
                except Exception:  # the first one has it too, and says so
                    continue
            if word[0]:
                raise OSError(*word)
            return
        ended: tuple[int, str] = (0, "")
        try:
            lead()
        except BaseException as error:
            known = isinstance(error, OSError) and error.errno
            ended = (error.errno, error.strerror) if known else (-1, f"process 0: {error}")  # type: ignore[attr-defined]
            raise
        finally:
            self._say(ended)

    def _say(self, word: Any) -> Any:
        """Let the first process say something to all; gives what it says."""
        said = [word]
        dist.broadcast_object_list(said, src=0, group=self.group)
        return said[0]


class _Writer(StorageWriter):
    """Writes each process's pieces as one safetensors file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return [dataclasses.replace(plan, storage_data=rank) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        path = self.folder / f"pieces-{plan.storage_data:05d}.safetensors"
        values, results = {}, []
        for number, item in enumerate(plan.items):
            value = planner.resolve_data(item)
            assert isinstance(value, Tensor)
            values[str(number)] = value.detach().contiguous()
            results.append(WriteResult(item.index, value.nbytes, (path.name, str(number))))
        with system_errors(self.folder):
            save_file(values, path)
            flush(path)
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        places = {result.index: result.storage_data for of_one in results for result in of_one}
        index = {}
        for name, about in metadata.state_dict_metadata.items():
            assert isinstance(about, TensorStorageMetadata)
            pieces = [
                {
                    "offset": list(chunk.offsets),
                    "size": list(chunk.sizes),
                    "at": places[MetadataIndex(name, chunk.offsets)],
                }
                for chunk in about.chunks
            ]
            dtype = str(about.properties.dtype).removeprefix("torch.")
            index[name] = {"dtype": dtype, "size": list(about.size), "pieces": pieces}
        with system_errors(self.folder):
            (self.folder / INDEX).write_text(json.dumps(index) + "\n", encoding="utf-8")


class _Reader(StorageReader):
    """Reads rows out of such files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: dict[MetadataIndex, Any] = {}

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        pass

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        tensors: dict[str, Any] = {}
        places: dict[MetadataIndex, Any] = {}
        try:
            for name, about in read_json(self.folder / INDEX).items():
                kind = getattr(torch, about["dtype"])
                chunks = [
                    ChunkStorageMetadata(torch.Size(piece["offset"]), torch.Size(piece["size"]))
                    for piece in about["pieces"]
                ]
                size = torch.Size(about["size"])
                tensors[name] = TensorStorageMetadata(TensorProperties(dtype=kind), size, chunks)
                places |= {MetadataIndex(name, torch.Size(one["offset"])): one["at"] for one in about["pieces"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"isn't an index of pieces ({error})", where=str(self.folder / INDEX)) from None
        return Metadata(tensors, storage_data=places)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self.places = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file: dict[str, list[tuple[str, Any]]] = {}
        for item in plan.items:
            file, key = self.places[item.storage_index]
            by_file.setdefault(file, []).append((key, item))
        for file, items in by_file.items():
            try:
                with safe_open(self.folder / file, framework="pt") as opened:
                    for key, item in items:
                        target = planner.resolve_tensor(item).detach()
                        sides = zip(item.storage_offsets, item.lengths, strict=True)
                        rows = tuple(slice(start, start + length) for start, length in sides)
                        value = opened.get_slice(key)[rows] if rows else opened.get_tensor(key)
                        target.copy_(value)
                        planner.commit_tensor(item, target)
            except (SafetensorError, OSError) as error:
                raise ModelError(f"can't be read ({error})", where=str(self.folder / file)) from None
        done: Future[None] = Future()
        done.set_result(None)
        return done


__all__ = ["INDEX", "Crew", "Pieces", "taken_up"]
