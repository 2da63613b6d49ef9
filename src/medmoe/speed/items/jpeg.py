"""JPEG files to normalised tensors: ours on two threads, Pillow with torchvision on one, and decoding alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medmoe.data.images import read_image
from medmoe.data.jpeg import fast_decoder
from medmoe.data.preprocess import IMAGENET_STD, Preprocess
from medmoe.data.sources.phantom import PhantomSource
from medmoe.speed.item import Call, Item, Size, Target, Way
from medmoe.speed.items.scratch import scratch
from medmoe.speed.plain.pictures import picture_pipeline
from medmoe.types import Sample


@lru_cache(maxsize=2)
def pictures(*, small: bool) -> list[Path]:
    """Paint colour phantoms of 0.57 megapixels (756²) and store them as JPEG of quality 90, about 0.1 MB each."""
    source = PhantomSource(1 if small else 4, size=64 if small else 756, seed=1, modalities=("pathology", "fundus"))
    paths = []
    for index in range(len(source)):
        path = scratch() / f"jpeg-{source.size}-{index}.jpg"
        Image.fromarray(source[index].image).save(path, quality=90)
        paths.append(path)
    return paths * (1 if small else max(1, 16 // len(paths)))


def _read(preprocess: Preprocess, at_least: int | None, path: Path) -> Tensor:
    return preprocess(Sample(key=path.name, image=read_image(path, at_least=at_least)))[0]


def _pillow(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let torch use one core in each thread for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _on(threads: int, function: Callable[[Path], Any], paths: Sequence[Path]) -> None:
    with _one_thread_each(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(function, paths):
            pass


def _ways(size: Size) -> Mapping[str, Way]:
    preprocess = Preprocess(32 if size.small else 224)
    fast_decoder()  # looked at once, outside the clock

    def way(threads: int, function: Callable[[Path], Any]) -> Way:
        def build() -> Call:
            return partial(_on, threads, function, pictures(small=size.small))

        return build

    return {
        "ours": way(2, partial(_read, preprocess, None)),
        "scaled": way(2, partial(_read, preprocess, preprocess.size)),
        "ours on 1 thread": way(1, partial(_read, preprocess, None)),
        "plain": way(1, picture_pipeline(preprocess.size)),
        "floor": way(2, read_image),
        "Pillow's decoding": way(1, _pillow),
    }


def _figures(size: Size) -> Mapping[str, float]:
    """Say how far a reduced scale is off, in grey levels of 255, and whether the optional decoder is in use."""
    preprocess = Preprocess(32 if size.small else 224)
    levels = torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255
    off = [
        ((_read(preprocess, None, path) - _read(preprocess, preprocess.size, path)).abs() * levels).mean().item()
        for path in dict.fromkeys(pictures(small=size.small))
    ]
    return {"grey_levels_off": float(np.mean(off)), "fast_decoder": float(fast_decoder())}


ITEMS = (
    Item(
        name="jpeg",
        about="JPEG of 0.57 megapixels to 224², normalised: read_image and Preprocess on two threads, whole and "
        "decoded at half its size; Pillow and torchvision's v2 transforms on one thread; decoding alone on two",
        ways=_ways,
        targets=[
            Target("rate", 3.1, at_most=False),
            Target("rate", 4.5, at_most=False, way="scaled"),
            Target("grey_levels_off", 3.0, over=None),
        ],
        floor="decoding alone on two threads",
        figures=_figures,
        unit=("images", 16),
        devices=("cpu",),
    ),
)
