"""Embedding images: beside its backbone alone and ViT-B/16; and the ways of making it faster, with what they cost."""

from __future__ import annotations

import copy
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from medmoe.data.preprocess import Preprocess
from medmoe.data.sources.phantom import PhantomSource
from medmoe.export import export_onnx, session
from medmoe.layers import quicken
from medmoe.model import MedVLM
from medmoe.recipes.models import create_model
from medmoe.speed.item import Call, Item, Size, Target, Way

BATCH = 8


@cache
def _model(size: Size) -> tuple[MedVLM, int]:
    """Give the paper's model with fresh weights, or a tiny one, and the side of its images."""
    name, side = ("medmoe-tiny", 64) if size.small else ("medmoe-swin-t", 224)
    return create_model(name).to(size.device).eval(), side


def _pixels(size: Size, side: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2 if size.small else BATCH, 3, side, side, generator=draw).to(size.device)


@torch.inference_mode()
def _quiet(function: Callable[[Tensor], object], pixels: Tensor) -> object:
    return function(pixels)


def _vit(size: Size) -> nn.Module:
    """Give the architecture of open_clip's ViT-B/16 image tower (timm's), with fresh weights."""
    import timm

    name = "vit_tiny_patch16_224" if size.small else "vit_base_patch16_224"
    return timm.create_model(name, num_classes=0, img_size=64 if size.small else 224).to(size.device).eval()


def _ways(size: Size) -> Mapping[str, Way]:
    def way(pick: Callable[[MedVLM], Callable[[Tensor], object]]) -> Way:
        def build() -> Call:
            model, side = _model(size)
            return partial(_quiet, pick(model), _pixels(size, side))

        return build

    return {
        "ours": way(lambda model: partial(model.encode_image, regions=False)),
        "with-regions": way(lambda model: model.encode_image),
        "floor": way(lambda model: model.vision),
        "timm": way(lambda model: quicken(copy.deepcopy(model.vision), quick=False)),
        "vit-b-16": lambda: partial(_quiet, _vit(size), _pixels(size, 64 if size.small else 224)),
    }


@cache
def phantoms(side: int, count: int) -> Tensor:
    """Give prepared phantoms [n, 3, side, side]."""
    source, prepare = PhantomSource(count, size=side), Preprocess(size=side)
    return torch.stack([prepare(source[index])[0] for index in range(count)])


def _eager(model: MedVLM) -> Callable[[Tensor], Tensor]:
    return lambda pixels: model.encode_image(pixels, regions=False).embed


def _bf16(model: MedVLM) -> Callable[[Tensor], Tensor]:
    def embed(pixels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16):
            return model.encode_image(pixels, regions=False).embed

    return embed


def _with_vision(model: MedVLM, vision: nn.Module) -> MedVLM:
    """Give the model with another image encoder, everything else shared."""
    changed = copy.copy(model)
    changed._modules = {**model._modules, "vision": vision}
    return changed


def _compiled(model: MedVLM) -> Callable[[Tensor], Tensor]:
    vision = copy.deepcopy(model.vision)
    vision.compile()
    return _eager(_with_vision(model, vision))


def _int8(model: MedVLM) -> Callable[[Tensor], Tensor]:
    """Quantise the weights of linear layers to 8 bits, and their inputs as they come (dynamic quantisation)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that torchao will take its place
        plain = quicken(copy.deepcopy(model.vision), quick=False)  # only torch's own linear layers are quantised
        vision = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            plain, {nn.Linear}, dtype=torch.qint8
        )
    return _eager(_with_vision(model, vision))


def _onnx(model: MedVLM) -> Callable[[Tensor], Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        run = session(export_onnx(model, Path(folder) / "model.onnx").path, threads=torch.get_num_threads())
    return lambda pixels: torch.from_numpy(run(pixels.numpy())[0])


PATHS: dict[str, Callable[[MedVLM], Callable[[Tensor], Tensor]]] = {
    "plain": _eager,
    "bf16": _bf16,
    "compiled": _compiled,
    "onnx": _onnx,
    "int8": _int8,
}


def _can_compile() -> bool:
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def _path_names(size: Size) -> list[str]:
    """Name the paths that run: compiling needs a compiler; small, those that take long to make are left out."""
    slow = {"compiled", "onnx"} if size.small else set() if _can_compile() else {"compiled"}
    return [name for name in PATHS if name not in slow]


def _path_ways(size: Size) -> Mapping[str, Way]:
    def way(name: str) -> Way:
        def build() -> Call:
            model, side = _model(size)
            return partial(_quiet, PATHS[name](model), _pixels(size, side))

        return build

    return {name: way(name) for name in _path_names(size)}


@torch.inference_mode()
def _agreement(size: Size) -> Mapping[str, float]:
    """Compare each path's embeddings of phantoms with float32's: mean cosine, and whose nearest neighbour is the same.

    Weights are fresh, so that embeddings lie in a narrow cone: their mean is taken away before neighbours are looked
    for, which makes them as hard to tell apart as there is.
    """
    model, side = _model(size)
    images = phantoms(side, 12 if size.small else 64)

    def embeds(embed: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([embed(part).float() for part in torch.split(images, BATCH)])

    def nearest(embedding: Tensor) -> Tensor:
        centred = nn.functional.normalize(embedding - embedding.mean(dim=0), dim=1)
        return (centred @ centred.T).fill_diagonal_(-2).argmax(dim=1)

    true = embeds(_eager(model))
    figures: dict[str, float] = {}
    for name in _path_names(size):
        if name in ("bf16", "int8"):
            found = embeds(PATHS[name](model))
            figures[f"cosine {name}"] = float((found * true).sum(dim=1).mean())
            figures[f"same nearest {name}"] = float((nearest(found) == nearest(true)).float().mean())
    return figures


ITEMS = (
    Item(
        name="embedding",
        about="embedding images with medmoe-swin-t, 224 px, batch 8: without and with regions through one expert each, "
        "its backbone alone, the same with the linear layers of torch (`timm`), and ViT-B/16",
        ways=_ways,
        targets=[
            Target("rate", 0.9, at_most=False, over="floor"),
            Target("rate", 2.4, at_most=False, over="vit-b-16"),
            Target("rate", 0.9, at_most=False, way="with-regions", over="floor"),
            Target("rate", 0.9, at_most=False, way="with-regions", over="timm"),
            Target("rate", 2.4, at_most=False, way="with-regions", over="vit-b-16"),
        ],
        floor="the backbone alone, 1",
        rounds=7,
        unit=("images", BATCH),
    ),
    Item(
        name="embedding-paths",
        about="the same in bfloat16 (autocast), by torch.compile, by ONNX Runtime, with linear layers in int8",
        ways=_path_ways,
        targets=[Target("time", 1.0, way="bf16"), Target("cosine bf16", 0.999, at_most=False, over=None)],
        figures=_agreement,
        rounds=5,
        unit=("images", BATCH),
        needs=("onnxruntime", "onnxscript"),
        devices=("cpu",),
    ),
)
