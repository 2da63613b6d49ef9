"""Rows in safetensors files for torch.distributed.checkpoint, whose own files are pickles, which run code when read."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
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

from medmoe.errors import ModelError
from medmoe.folder import flush, read_json, system_errors
from medmoe.pieces.memory import INDEX


def save(folder: Path, tensors: Mapping[str, Tensor], group: Any) -> None:
    """Write what every process of a group holds of some tensors, each into a file of its own.

    Raises:
        OSError: In every process, if any can't write.
    """
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        state_dict_saver.save(dict(tensors), storage_writer=_Writer(folder), planner=planner, process_group=group)
    except CheckpointException as error:
        failures = [failure for failure, _ in error.failures.values()]
        raise next((one for one in failures if isinstance(one, OSError)), failures[0]) from None


def load(folder: Path, into: dict[str, Tensor]) -> None:
    """Fill tensors with what a folder has of their names, each process its own rows; all processes must do so.

    Raises:
        ModelError: If a piece is missing or broken.
    """
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # one process alone is no mistake
            state_dict_loader.load(into, storage_reader=_Reader(folder), planner=planner)
    except CheckpointException as error:
        reasons = [str(failure) for failure, _ in error.failures.values()]
        raise ModelError(f"the pieces can't be read ({reasons[0][:200]})", where=str(folder)) from None


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
