"""Embed a source of any size, part by part: what is killed goes on where it stopped, and gives the same file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medmoe.build import build_loader
from medmoe.config import DataConfig, RunConfig, parse
from medmoe.data.sources.base import Source, facts_fingerprint
from medmoe.data.sources.rows import Rows
from medmoe.data.tables import ABOUT, EmbeddedRows, ParquetRows, count_rows, join_into_file, join_into_folder
from medmoe.errors import ConfigError, DataError, UserError, unknown
from medmoe.folder import fingerprint_of, read_json, write_atomically, write_text_atomically
from medmoe.model import MedVLM
from medmoe.types import Batch

FORMATS, DTYPES, PRECISIONS = ("parquet", "npy"), ("float32", "float16"), ("fp32", "bf16")
STATE = "state.json"
CHUNK = 8192


@dataclass(frozen=True, slots=True)
class Embedded:
    """What embedding a source came to.

    Attributes:
        count: Images written.
        resumed: How many of them an earlier, interrupted run had embedded.
    """

    count: int
    resumed: int


@dataclass(frozen=True, slots=True)
class _How:
    """What a part depends on beside the model and the data; a run goes on only with the same."""

    format: str
    batch_size: int
    chunk: int
    on_bad_sample: str
    device: str
    dtype: str
    precision: str
    compiled: bool
    text: bool

    def data(self, workers: int) -> DataConfig:
        """Give the loader's settings."""
        values = {"batch_size": self.batch_size, "workers": workers, "on_bad_sample": self.on_bad_sample}
        return parse(DataConfig, values)


def write_embeddings(
    model: MedVLM,
    source: Source,
    out: Path,
    *,
    format: str = "parquet",
    batch_size: int = 64,
    workers: int = 1,
    on_bad_sample: str = "raise",
    device: str = "cpu",
    dtype: str = "float32",
    precision: str = "fp32",
    compiled: bool = False,
    text: bool = True,
    chunk: int = CHUNK,
    tell: Callable[[str], None] = lambda _: None,
) -> Embedded:
    """Write `key, modality, routed, image_embed, text_embed` of every image.

    Images are embedded part by part, each part a file in a hidden folder beside `out`; the parts are joined at the
    end. A run that was stopped, however, goes on after the last whole part when it is started again with the same
    model, data and settings, and `out` is then the same in every byte. Memory is that of a part, however many images
    there are. Experts don't run: the embedding doesn't depend on them.

    Args:
        model: Already on `device`.
        source: The images.
        out: A Parquet file, or a folder for `npy`.
        format: `parquet`, or `npy`: arrays that can be memory-mapped, with the facts in a Parquet file beside them.
        batch_size: Images encoded at a time.
        workers: Loader processes.
        on_bad_sample: `raise`, or `skip` and leave it out.
        device: Where to compute.
        dtype: Of the numbers written: float32, or float16 in half the space.
        precision: fp32, or bf16 to compute in bfloat16 where that is safe (autocast).
        compiled: Whether the image encoder is compiled first (`torch.compile`): minutes that pay for many images. It
            stays compiled.
        text: Whether reports are embedded too.
        chunk: Images of a part, rounded up to whole batches.
        tell: Called with a line when a part of several is done.

    Returns:
        How many images were written.

    Raises:
        UserError: If a setting isn't allowed, an image is bad, `out` can't be written over, or parts are there that
            another model, other data or other settings made.
    """
    how = _How(format, batch_size, chunk, on_bad_sample, str(device), dtype, precision, compiled, text)
    how = _checked(how, out, workers)
    if compiled:
        model.vision.compile()
    return _run(model, source, out, how, workers, tell)


def _checked(how: _How, out: Path, workers: int) -> _How:
    """Give the settings with the chunk rounded up to whole batches.

    Raises:
        UserError: If one isn't allowed, or `out` can't be written over.
    """
    choices = (("format", how.format, FORMATS), ("dtype", how.dtype, DTYPES), ("precision", how.precision, PRECISIONS))
    for name, value, allowed in choices:
        if value not in allowed:
            raise ConfigError(unknown(name, value, allowed), where=f"--{name}")
    if how.chunk < 1:
        raise ConfigError(f"got {how.chunk}, allowed: 1 or more", where="--chunk")
    _check_out(out, how.format)
    data = how.data(workers)
    return replace(how, chunk=-(-how.chunk // data.batch_size) * data.batch_size)


def _run(model: MedVLM, source: Source, out: Path, how: _How, workers: int, tell: Callable[[str], None]) -> Embedded:
    """Make the parts that aren't there yet, and join all."""
    assert model.assets is not None
    about = {
        "preprocess": json.dumps(model.assets.preprocess),
        "fingerprint": fingerprint_of(model.state_dict(), model.assets),
        "precision": how.precision,
    }
    parts = _Parts(out, {"fingerprint": about["fingerprint"], "data": facts_fingerprint(source), **asdict(how)})
    starts = range(0, len(source), how.chunk)
    resumed = sum(count_rows(parts.path(start)) for start in starts if parts.done(start))
    for start in starts:
        if not parts.done(start):
            end = min(start + how.chunk, len(source))
            parts.write(start, _embedded(model, source, range(start, end), how, workers), how.dtype)
            if len(starts) > 1:
                tell(f"{end} of {len(source)} images")
    files = [parts.path(start) for start in starts]
    done = sum(map(count_rows, files))
    if not done:
        raise DataError(f"none of {len(source)} samples is good", where=str(out), remedy="check the images' paths")
    width = model.image_projection.out_features
    if how.format == "parquet":
        join_into_file(files, out, about, dtype=how.dtype)
    else:
        write_atomically(out, lambda aside: join_into_folder(files, aside, about, dtype=how.dtype, width=width))
    parts.remove()
    return Embedded(done, resumed)


def _check_out(out: Path, format: str) -> None:
    """Raise a UserError where writing `out` isn't possible or would destroy something else."""
    if format == "parquet" and out.is_dir():
        raise UserError("is a folder", where=str(out), remedy="give the name of a Parquet file")
    if format == "npy" and (out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / ABOUT).is_file())):
        raise UserError("something other than embeddings is here", where=str(out), remedy="give a new or empty folder")


class _Parts:
    """The parts of a run, in a hidden folder beside what they will become.

    A part is there when it is whole: it is written aside, flushed to the disk and renamed.
    """

    def __init__(self, out: Path, state: Mapping[str, Any]) -> None:
        self.folder = out.with_name(f".{out.name}.parts")
        path = self.folder / STATE
        before = read_json(path) if path.is_file() and any(self.folder.glob("part-*.parquet")) else dict(state)
        other = [name for name, value in state.items() if before.get(name) != value]
        if before.get("on_bad_sample") == "raise":  # what is there has no bad sample, so the rest may skip them
            other = [name for name in other if name != "on_bad_sample"]
        if other:
            named = {"fingerprint": "the model", "data": "the data"}
            what = ", ".join(named.get(name) or f"{name} ({before.get(name)}, now {state[name]})" for name in other)
            raise UserError(
                f"an interrupted run left parts here, and since then this changed: {what}",
                where=str(self.folder),
                remedy="go on with the same, or delete this folder",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, json.dumps(state, indent=2) + "\n")

    def path(self, start: int) -> Path:
        """Give the file of the part that begins with an image."""
        return self.folder / f"part-{start:012d}.parquet"

    def done(self, start: int) -> bool:
        """Tell whether a part is there."""
        return self.path(start).is_file()

    def write(self, start: int, rows: EmbeddedRows, dtype: str) -> None:
        """Write a part."""
        with ParquetRows(self.path(start), {}, dtype=dtype) as file:
            file.write(rows)

    def remove(self) -> None:
        """Remove the parts, once they are joined."""
        shutil.rmtree(self.folder)


@torch.inference_mode()
def _embedded(model: MedVLM, source: Source, places: range, how: _How, workers: int) -> EmbeddedRows:
    """Embed the images at some places of a source."""
    loader = build_loader(Rows(source, places), model, RunConfig(recipe="embed", data=how.data(workers)), train=False)
    model = model.eval()
    width = model.image_projection.out_features
    key: list[str] = []
    modality: list[str | None] = []
    routed: list[str] = []
    images = [np.zeros((0, width), how.dtype)]
    texts = [np.zeros((0, width), how.dtype)]
    try:
        for batch in loader:
            moved = batch.to(how.device, non_blocking=True)
            with torch.autocast(how.device.partition(":")[0], torch.bfloat16, enabled=how.precision == "bf16"):
                embed, logits = _image(model, moved, how.batch_size if how.compiled else 0)
                report = _text(model, moved) if how.text else None
            key += batch.keys
            modality += [sample.modality for sample in batch.samples]
            routed += [model.modalities[i] for i in logits.argmax(dim=1).tolist()]
            images.append(embed.cpu().numpy().astype(how.dtype))
            none = np.full((len(batch.keys), width), np.nan, how.dtype)
            texts.append(none if report is None else report.cpu().numpy().astype(how.dtype))
    except DataError:
        if loader.skipped < len(places):  # else all are bad, which is an error only of a run without a good one
            raise
    return EmbeddedRows(key, modality, routed, np.concatenate(images), np.concatenate(texts))


def _image(model: MedVLM, batch: Batch, fill: int) -> tuple[Tensor, Tensor]:
    """Embed the images of a batch [B, E] and give the router's scores [B, K].

    Args:
        model: The model.
        batch: On its device.
        fill: Images that a smaller batch is filled up to, so that a compiled encoder sees one shape; 0: none.
    """
    count = len(batch.image)
    more = max(fill - count, 0)
    image = torch.cat([batch.image, batch.image[-1:].expand(more, -1, -1, -1)]) if more else batch.image
    modality = batch.modality
    if modality is not None and more:
        modality = torch.cat([modality, modality[-1:].expand(more)])
    found = model.encode_image(image, modality=modality, regions=False)
    return found.embed[:count], found.logits[:count]


def _text(model: MedVLM, batch: Batch) -> Tensor | None:
    """Embed the reports of a batch [B, E], NaN for an image without one."""
    if batch.tokens is None or batch.has_report is None:
        return None
    embed = model.encode_text(batch.tokens).embed
    return embed.masked_fill(~batch.has_report[:, None], torch.nan)
