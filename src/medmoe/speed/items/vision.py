"""The vision path: Swin-T with six experts, beside Swin-T alone and the published dense path; more experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medmoe.build import build_experts, build_model, build_tokenizer
from medmoe.config import ModelConfig, TextConfig
from medmoe.describe import multiply_adds
from medmoe.layers import quicken
from medmoe.model import MedVLM
from medmoe.recipes import RECIPES
from medmoe.speed.item import Call, Item, Size, Target, Way
from medmoe.speed.plain.authors import DenseMixture
from medmoe.types import Pyramid, Routing

_BATCH = 8
_STRIDES = (4, 8, 16, 32)


def _config(size: Size, levels: Sequence[int] | None = None) -> ModelConfig:
    """The recipe with the least text encoder: only the vision side is run."""
    config = RECIPES["medmoe"]().model
    if levels is not None:
        config = config.model_copy(update={"experts": config.experts.model_copy(update={"levels": tuple(levels)})})
    changes: dict[str, Any] = {"text": TextConfig(width=16, depth=1, heads=2)}
    if size.small:
        vision = config.vision.model_copy(update={"image_size": 32})
        changes |= {"vision": vision, "experts": config.experts.model_copy(update={"width": 16, "grid": 4})}
    return config.model_copy(update=changes)


def _model(size: Size, *, levels: Sequence[int] | None = None, **vision: object) -> MedVLM:
    config = _config(size, levels)
    config = config.model_copy(update={"vision": config.vision.model_copy(update=vision)})
    return build_model(config, build_tokenizer(config.text, ["a scan"])).to(size.device)


def _images(size: Size) -> Tensor:
    side = 32 if size.small else 224
    return torch.randn(_BATCH, 3, side, side, generator=torch.Generator().manual_seed(0)).to(size.device)


def _backbone(model: MedVLM) -> nn.Module:
    backbone: nn.Module = model.vision.backbone  # type: ignore[assignment]
    return backbone


def _chosen(images: int, experts: int, device: str) -> Tensor:
    """Give every expert as many images, in turn."""
    return (torch.arange(images) % experts).to(device)


def _forward(size: Size) -> Mapping[str, Way]:
    def ours() -> Call:
        model, images = _model(size).eval(), _images(size)
        return torch.inference_mode()(partial(model.encode_image, images, expert=_chosen(_BATCH, 6, size.device)))

    def plain() -> Call:
        return torch.inference_mode()(partial(_backbone(_model(size).eval()), _images(size)))

    def timm() -> Call:
        return torch.inference_mode()(partial(quicken(_backbone(_model(size).eval()), quick=False), _images(size)))

    return {"ours": ours, "plain": plain, "timm": timm}


def _ratio(size: Size, levels: Sequence[int] | None = None) -> Mapping[str, float]:
    """Count the multiply-adds of one image through one expert, over those of the backbone."""
    model = _model(Size(small=size.small), levels=levels).eval()
    image = _images(Size(small=size.small))[:1]

    class _Path(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return model.encode_image(pixels, expert=torch.zeros(1, dtype=torch.int64)).embed

    return {"flops_ratio": multiply_adds(_Path(), image) / multiply_adds(_backbone(model), image)}


def _learn(parts: list[nn.Module], forward: Callable[[], list[Tensor]]) -> None:
    """Run forward and backward of a sum of squares."""
    for part in parts:
        part.zero_grad()
    torch.stack([made.square().mean() for made in forward()]).sum().backward()  # type: ignore[no-untyped-call]


def _ours(size: Size, levels: Sequence[int] | None = None, **vision: object) -> Call:
    model, images, chosen = (
        _model(size, levels=levels, **vision).train(),
        _images(size),
        _chosen(_BATCH, 6, size.device),
    )

    def forward() -> list[Tensor]:
        made = model.encode_image(images, expert=chosen)
        return [made.embed, made.regions, made.logits]

    return partial(_learn, [model], forward)


def _step(size: Size) -> Mapping[str, Way]:
    def alone(quick: bool) -> Call:
        backbone, images = quicken(_backbone(_model(size)).train(), quick=quick), _images(size)
        return partial(_learn, [backbone], lambda: list(backbone(images)))

    def authors() -> Call:
        model, images = _model(size).train(), _images(size)
        shrunk = {"width": 16, "side": 8} if size.small else {}
        dense = DenseMixture(model.vision.channels, **shrunk).to(size.device)  # type: ignore[arg-type]
        return partial(_learn, [model.vision, dense], lambda: [dense(model.vision(images).levels)])

    both = {"plain": partial(alone, True), "timm": partial(alone, False)}
    return {"ours": partial(_ours, size), **both, "authors": authors}


def _two_levels(size: Size) -> Mapping[str, Way]:
    return {"ours": partial(_ours, size, (0, 1)), "plain": _step(size)["plain"]}


def _many(size: Size) -> Mapping[str, Way]:
    images = 128
    config = _config(size)
    channels, side = ((8, 8, 16, 16), 32) if size.small else ((96, 192, 384, 768), 224)
    shared: list[Pyramid] = []

    def pyramid() -> Pyramid:  # one for all ways: channels innermost, as Swin-T gives them
        if not shared:
            draw = torch.Generator().manual_seed(0)
            levels = (
                torch.randn(images, side // stride, side // stride, width, generator=draw)
                for width, stride in zip(channels, _STRIDES, strict=True)
            )
            shared.append(Pyramid(tuple(level.permute(0, 3, 1, 2).to(size.device) for level in levels)))
        return shared[0]

    def way(count: int, learn: bool) -> Way:
        def build() -> Call:
            torch.manual_seed(0)
            experts = build_experts(config.experts, channels, count).to(size.device)
            chosen = _chosen(images, count, size.device)[:, None]
            scores = torch.zeros(images, count, device=size.device)
            route = Routing(scores, chosen, torch.ones(chosen.shape, device=size.device))
            run = partial(experts, pyramid(), route)
            return partial(_learn, [experts], lambda: [run()]) if learn else torch.inference_mode()(run)

        return build

    steps = {name: way(count, learn=True) for name, count in (("ours", 64), ("eight", 8), ("plain", 2))}
    return steps | {f"forward_{count}": way(count, learn=False) for count in (64, 2)}


def _checkpointing(size: Size) -> Mapping[str, Way]:
    return {"ours": partial(_ours, size, checkpoint=True), "plain": partial(_ours, size)}


ITEMS = (
    Item(
        name="vision-forward",
        about="Swin-T with six experts, one an image, 224 pixels, batch 8, forward, beside Swin-T alone: with the "
        "linear layers that ours has, and with those of torch (`timm`)",
        ways=_forward,
        targets=[Target("time", 1.12, over="timm"), Target("time", 1.12), Target("flops_ratio", 1.10, over=None)],
        floor="Swin-T alone, 1.00",
        figures=_ratio,
        unit=("images", _BATCH),
    ),
    Item(
        name="vision-step",
        about="the same, forward + backward; `authors` runs the published path: six dense experts at 56×56×768",
        ways=_step,
        targets=[
            Target("time", 1.15, over="timm"),
            Target("time", 1.15),
            Target("memory", 1.06),
            Target("rate", 13, at_most=False, over="authors"),
            Target("memory", 1 / 6, over="authors"),
        ],
        floor="Swin-T alone, 1.00",
        rounds=3,
        memory=("ours", "plain", "authors"),
        unit=("images", _BATCH),
    ),
    Item(
        name="vision-two-levels",
        about="the same step with experts that read the two finest levels (`--set model.experts.levels=[0,1]`)",
        ways=_two_levels,
        targets=[Target("time", 1.15), Target("memory", 1.06), Target("flops_ratio", 1.10, over=None)],
        floor="Swin-T alone, 1.00",
        rounds=7,
        figures=partial(_ratio, levels=(0, 1)),
        memory=("ours", "plain"),
        unit=("images", _BATCH),
    ),
    Item(
        name="experts-k",
        about="the expert stage of 128 images with 64, 8 and 2 experts, as many images each: forward + backward, and "
        "forward alone",
        ways=_many,
        targets=[Target("time", 1.05), Target("time", 1.05, way="forward_64", over="forward_2")],
        floor="the same work, 1.00",
        rounds=5,
        unit=("images", 128),
    ),
    Item(
        name="checkpointing",
        about="Swin-T with six experts, batch 8, forward + backward: blocks recomputed in the backward, or kept",
        ways=_checkpointing,
        targets=[Target("time", 1.40), Target("memory", 0.80)],
        floor="one forward more: 4/3 of the time; gradients of the parameters, which are not recomputed",
        rounds=5,
        memory=("ours", "plain"),
        unit=("images", _BATCH),
    ),
)
