"""What a model weighs and costs: parameters of each part, multiply-adds with one expert active."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medmoe import products
from medmoe.model import MedVLM


def parameters(module: nn.Module) -> int:
    """Count a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(module: nn.Module, *inputs: Any) -> int:
    """Count the multiply-adds of matrix products, convolutions and attention in a forward."""
    counter = FlopCounterMode(display=False)
    with products.plain(), counter, torch.inference_mode():  # the counter knows torch's own operators only
        module(*inputs)
    return int(counter.get_total_flops()) // 2  # the counter counts a multiply-add as two


def describe(model: MedVLM, *, name: str, image_size: int) -> dict[str, Any]:
    """Measure a model at its input size, one image through one expert.

    Returns:
        Parameters (counts) and multiply-adds in units of 10⁹, for the vision side (backbone, image
        router, all experts, global projection) and the backbone alone.
    """
    model = model.eval()
    image = torch.zeros(1, 3, image_size, image_size)
    parts = (model.image_norm, model.image_projection, model.special_projection)
    heads = nn.ModuleList([part for part in parts if part is not None])
    counts = {
        "backbone": parameters(model.vision),
        "image_router": parameters(model.image_router),
        "experts": parameters(model.experts),
        "image_projection": parameters(heads),
    }

    class _VisionSide(nn.Module):
        def forward(self, pixels: torch.Tensor) -> Any:
            return model.encode_image(pixels, expert=torch.zeros(1, dtype=torch.int64)).embed

    return {
        "name": name,
        "image_size": image_size,
        "modalities": list(model.modalities),
        "parameters": {**counts, "text": parameters(model.text), "total": parameters(model)},
        "vision_parameters": sum(counts.values()),
        "gflops": multiply_adds(_VisionSide(), image) / 1e9,
        "backbone_gflops": multiply_adds(model.vision, image) / 1e9,
        "gflops_unit": "10^9 multiply-adds, one image, one special expert active",
    }
