"""UniMed-CLIP (Khattak et al., 2024): open_clip's configuration of a published checkpoint, by its weights' shapes.

https://arxiv.org/abs/2412.10372
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from medmoe.errors import ModelError

T = TypeVar("T")

NEEDS = "UniMed-CLIP's weights (visual.*, text_encoder.*) as .safetensors and its text tower's tokenizer"
TOWER = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
_TEXT = "text_encoder."
# What its code sets whatever the sizes: OpenAI's activation and pixels, and texts of 256 pieces.
_CONTEXT = 256
_PIXELS = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


def is_unimed(names: Iterable[str]) -> bool:
    """Tell by the names of the text tower, which are not open_clip's."""
    return any(name.removeprefix("module.").startswith(f"{_TEXT}transformer.") for name in names)


def renamed(entries: Mapping[str, T]) -> dict[str, T]:
    """Give weights, or their shapes, the names that open_clip has for them."""
    plain = {name.removeprefix("module."): value for name, value in entries.items()}
    return {f"text.{name.removeprefix(_TEXT)}" if name.startswith(_TEXT) else name: v for name, v in plain.items()}


def unimed_config(shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, Any]:
    """Give what open_clip's configuration file of a checkpoint would say.

    Args:
        shapes: Names, as open_clip has them, and shapes of the weights.
        where: The folder, for the error.

    Raises:
        ModelError: If the image tower is no vision transformer.
    """
    try:
        width, _, patch, _ = shapes["visual.conv1.weight"]
        places, _ = shapes["visual.positional_embedding"]
        _, joint = shapes["visual.proj"]
        mlp, _ = shapes["visual.transformer.resblocks.0.mlp.c_fc.weight"]
    except KeyError as error:
        remedy = "add an open_clip_config.json that says what the model is"
        raise ModelError(
            f"no vision transformer in the weights: {error} is missing", where=where, remedy=remedy
        ) from None
    layers = {name.split(".")[3] for name in shapes if name.startswith("visual.transformer.resblocks.")}
    vision = {"image_size": math.isqrt(places - 1) * patch, "layers": len(layers), "width": width, "patch_size": patch}
    text: dict[str, Any] = {"hf_model_name": TOWER, "hf_tokenizer_name": TOWER, "context_length": _CONTEXT}
    text |= {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
    vision_cfg = {**vision, "head_width": min(64, width), "mlp_ratio": mlp / width}
    model = {"embed_dim": joint, "quick_gelu": True, "vision_cfg": vision_cfg, "text_cfg": text}
    return {"model_cfg": model, "preprocess_cfg": {**_PIXELS, "interpolation": "bicubic", "resize_mode": "shortest"}}
