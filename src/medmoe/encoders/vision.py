"""Images to feature pyramids: a small convolutional network for CPUs, and every backbone timm knows."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint as recomputed

from medmoe.encoders.descriptor import Descriptor
from medmoe.encoders.pretrained import LoadReport, load_matching
from medmoe.errors import ModelError, unknown
from medmoe.layers import NORMS, quicken
from medmoe.types import Pyramid


class Residual(nn.Module):
    """One convolution around which the input is carried: ReLU(x + norm(conv(x)))."""

    def __init__(self, channels: int, kernel: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        return F.relu(x + self.norm(self.conv(x)))


class TinyPyramid(nn.Module):
    """A convolutional pyramid that trains in milliseconds a batch on a CPU: strides 4, 8, 16, 32.

    Two 3×3 convolutions of stride 2, then a stage a level: 2×2 merging between levels and residual blocks whose kernel
    is given for each level. The finest two levels see little of the image (15 and 19 pixels by default), so that what
    a word matches there lies where the word's finding lies. With `norm="group"` its statistics are the one thing that
    reaches further: a mean and a variance a group, the same at every place. That is enough for a finding to be told far
    from where it is, and training makes use of it.

    Beside the pixels it is given each pixel's place (coordinate channels, Liu et al., 2018,
    https://arxiv.org/abs/1807.03247): reports say left and upper, and a small receptive field can't know where it is.

    Args:
        channels: Channels of each level; as many levels as entries.
        depth: Residual blocks of each level, or one number for all.
        kernels: Odd kernel size of each level's blocks; 1 keeps the receptive field.
        norm: `group` or `layer` (exact under gradient caching), or `batch`.
        recompute: Keep only each stage's input, and run the stage again in the backward: less memory for more time.

    Attributes:
        channels: Channels of each level.
        strides: Pixels between neighbouring places of each level.
        receptive_fields: Side in pixels of what one place of each level sees.
    """

    name = "tiny"

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128, 256),
        depth: int | Sequence[int] = 1,
        *,
        kernels: Sequence[int] = (3, 1, 3, 1),
        norm: str = "group",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        depths = (depth,) * len(channels) if isinstance(depth, int) else tuple(depth)
        if not len(channels) == len(depths) == len(kernels) > 0:
            counts = f"{len(channels)}, {len(depths)}, {len(kernels)}"
            raise ModelError(f"channels, depth and kernels must have one entry a level; got {counts}")
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ModelError(f"kernels must be odd; got {tuple(kernels)}")
        if norm not in NORMS:
            raise ModelError(unknown("norm", norm, NORMS))
        self.channels = tuple(channels)
        self.strides = tuple(4 * 2**level for level in range(len(channels)))
        self.receptive_fields = _receptive_fields(depths, kernels)
        self.stages = nn.ModuleList()
        for level, (width, blocks, kernel) in enumerate(zip(channels, depths, kernels, strict=True)):
            entry = _stem(3 + 2, width, NORMS[norm]) if level == 0 else _merge(channels[level - 1], width, NORMS[norm])
            self.stages.append(nn.Sequential(*entry, *(Residual(width, kernel, NORMS[norm]) for _ in range(blocks))))
        if recompute:
            _refuse_batch_norms(self)

    def forward(self, image: Tensor) -> Pyramid:
        """Compute the pyramid of [B, 3, H, W] images; H and W are multiples of the last stride."""
        levels: list[Tensor] = []
        x = torch.cat([image, _places(image)], dim=1)  # [B, 3 + 2, H, W]
        for stage in self.stages:
            # to [B, C_l, H/2^(l+2), W/2^(l+2)], level by level
            x = recomputed(stage, x, use_reentrant=False) if self.recompute else stage(x)
            levels.append(x)
        return Pyramid(tuple(levels))


def _refuse_batch_norms(module: nn.Module) -> None:
    """Refuse to run layers twice a step that count what they have seen.

    Raises:
        ModelError: If the module has a batch norm.
    """
    if any(isinstance(part, _BatchNorm) for part in module.modules()):
        raise ModelError(
            "an image encoder with batch norms can't be recomputed in the backward: they would count each batch twice",
            where="model.vision.checkpoint",
            remedy="leave it out, or choose an encoder with group or layer norms",
        )


def _places(image: Tensor) -> Tensor:
    """Give each pixel's row and column in [-1, 1], [B, 2, H, W]."""
    batch, _, height, width = image.shape
    row = torch.linspace(-1, 1, height, device=image.device, dtype=image.dtype)[:, None].expand(height, width)
    column = torch.linspace(-1, 1, width, device=image.device, dtype=image.dtype)[None, :].expand(height, width)
    return torch.stack([row, column]).expand(batch, 2, height, width)


def _stem(inputs: int, width: int, norm: Callable[[int], nn.Module]) -> list[nn.Module]:
    half = max(1, width // 2)
    return [
        nn.Conv2d(inputs, half, 3, stride=2, padding=1, bias=False),
        norm(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, width, 3, stride=2, padding=1, bias=False),
        norm(width),
        nn.ReLU(inplace=True),
    ]


def _merge(before: int, width: int, norm: Callable[[int], nn.Module]) -> list[nn.Module]:
    return [nn.Conv2d(before, width, 2, stride=2, bias=False), norm(width), nn.ReLU(inplace=True)]


def _receptive_fields(depths: Sequence[int], kernels: Sequence[int]) -> tuple[int, ...]:
    """Compute each level's receptive field: every convolution adds (kernel - 1) times the stride before it."""
    field, fields = 1 + 2 * 1 + 2 * 2, []
    for level, (blocks, kernel) in enumerate(zip(depths, kernels, strict=True)):
        stride = 4 * 2**level
        field += (stride // 2 if level else 0) + blocks * (kernel - 1) * stride
        fields.append(field)
    return tuple(fields)


# The names papers use, for timm's.
SHORT_NAMES = {
    "swin-t": "swin_tiny_patch4_window7_224",
    "swin-s": "swin_small_patch4_window7_224",
    "swin-b": "swin_base_patch4_window7_224",
    "convnext-t": "convnext_tiny",
}


class TimmPyramid(nn.Module):
    """A timm backbone as a pyramid: all its stages of stride 4 and more, the last one included.

    Args:
        name: A name of timm, with or without a weight tag (`resnet50.a1_in1k`), or a short one (`swin-t`, `swin-s`,
            `swin-b`, `convnext-t`).
        image_size: Side of the images in pixels; backbones with fixed position tables are built for it.
        pretrained: Download timm's weights; the only way this class uses the network.
        checkpoint: Weights to start from: a safetensors file or a folder that holds one (see `load_matching`).
        drop_path: Rate of stochastic depth, for backbones that have it.
        recompute: Keep only the inputs of blocks (or of stages, where timm can do no better), and run them again in the
            backward, random layers with the same draws: less memory for more time.

    Attributes:
        name: The name timm knows it by.
        channels: Channels of each level.
        strides: Pixels between neighbouring places of each level.
        loaded: What was used of `checkpoint`, or None.

    Raises:
        ModelError: If timm has no such model, the model gives no pyramid, its weights can't be had, or it is to be
            recomputed and has batch norms.
    """

    def __init__(
        self,
        name: str,
        *,
        image_size: int = 224,
        pretrained: bool = False,
        checkpoint: Path | str | None = None,
        drop_path: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if pretrained and checkpoint is not None:
            raise ModelError("pretrained and checkpoint exclude each other", remedy="give one of them")
        self.name = SHORT_NAMES.get(name, name)
        self.backbone = _create(self.name, image_size=image_size, pretrained=pretrained, drop_path=drop_path)
        quicken(self.backbone)
        if recompute:
            _refuse_batch_norms(self.backbone)
            _recompute(self.backbone)
        info = self.backbone.feature_info
        self._kept = tuple(i for i, stride in enumerate(info.reduction()) if stride >= 4)
        self.channels: tuple[int, ...] = tuple(info.channels()[i] for i in self._kept)
        self.strides: tuple[int, ...] = tuple(info.reduction()[i] for i in self._kept)
        # Feature extractors that declare no layout are convolutional ones, whose layout is [B, C, H, W].
        self._channels_last = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"
        self.loaded: LoadReport | None = None if checkpoint is None else load_matching(self.backbone, checkpoint)

    def forward(self, image: Tensor) -> Pyramid:
        """Compute the pyramid of [B, 3, H, W] images."""
        features = self.backbone(image)
        levels = [features[i] for i in self._kept]
        if self._channels_last:
            # [B, H, W, C] -> [B, C, H, W], channels innermost in memory: what reads them multiplies them where they lie
            levels = [level.permute(0, 3, 1, 2) for level in levels]
        return Pyramid(tuple(levels))


def _recompute(backbone: Any) -> None:
    """Have timm recompute each block; where its stages can't, each stage but the first and the last."""
    stages = [part for part in backbone.children() if hasattr(part, "grad_checkpointing")]
    for stage in stages:
        stage.grad_checkpointing = True
    if not stages:
        backbone.set_grad_checkpointing()


def _create(name: str, *, image_size: int, pretrained: bool, drop_path: float) -> Any:
    """Build timm's feature extractor, turning its many errors into one kind."""
    import timm

    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}{_nearest(name)}", remedy="timm.list_models() lists its names")
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path > 0 else {}
    try:
        facts = timm.get_pretrained_cfg(name)
        if facts is not None and facts.fixed_input_size:
            options["img_size"] = image_size
        model = timm.create_model(name, features_only=True, pretrained=pretrained, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, OSError) as error:
        line = " ".join(str(error).split())
        remedy = "check the network, or give the weights as a checkpoint" if pretrained else "choose another backbone"
        raise ModelError(f"timm can't build a pyramid from {name!r} ({line})", remedy=remedy) from error
    if drop_path == 0:
        for part in model.modules():  # some backbones, Swin among them, have a rate of their own unless told
            if type(part).__name__ == "DropPath":
                part.drop_prob = 0.0  # type: ignore[assignment]
    return model


def _nearest(name: str) -> str:
    """Suggest names of timm: those that begin like the unknown one, else those spelled like it."""
    import timm

    known, stem = [*SHORT_NAMES, *timm.list_models()], name.split(".")[0].lower()
    begin = [candidate for candidate in known if stem and candidate.startswith(stem)]
    near = begin[:3] or difflib.get_close_matches(stem, known, n=3)
    return f" (did you mean {', '.join(near)}?)" if near else ""


VISION: dict[str, Callable[..., nn.Module]] = {
    "tiny": TinyPyramid,
    "descriptor": Descriptor,
    "timm": TimmPyramid,
}
