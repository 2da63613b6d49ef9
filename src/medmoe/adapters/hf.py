"""CLIP and SigLIP from local folders of Hugging Face, MedSigLIP among them, through transformers itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medmoe.adapters.base import Adapter, Features
from medmoe.adapters.folders import CONFIG, Folder, some
from medmoe.adapters.pixels import Frame, Prepare, picture
from medmoe.adapters.words import Reader
from medmoe.errors import ModelError
from medmoe.types import Tokens

CLIP, SIGLIP = "hf_clip", "hf_siglip"
_PIXELS = ("preprocessor_config.json", "processor_config.json")
_OPTIONS: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def needs(model_type: str) -> str:
    """Say what a folder of that type holds."""
    return f"{CONFIG} with model_type {model_type!r}, model.safetensors, {_PIXELS[0]} and a tokenizer"


def matches(folder: Folder, model_type: str) -> bool:
    """Tell by the model type in the configuration."""
    return folder.config.get("model_type") == model_type


def load_clip(folder: Folder) -> Adapter:
    """Load a `CLIPModel`; texts are padded to the longest and cut at the model's last position.

    Raises:
        ModelError: If weights, preprocessing or tokenizer are missing or don't fit.
    """
    from transformers import CLIPModel

    return _load(CLIP, CLIPModel, folder, padding="longest")


def load_siglip(folder: Folder) -> Adapter:
    """Load a `SiglipModel`; texts are padded and cut to the model's last position, without a mask, as it was trained.

    Raises:
        ModelError: If weights, preprocessing or tokenizer are missing or don't fit.
    """
    from transformers import SiglipModel

    return _load(SIGLIP, SiglipModel, folder, padding="max_length")


class HFTowers(nn.Module):
    """A CLIP or SigLIP of transformers; it has no local features in the joint space.

    Args:
        model: The model.
        masked: Whether padding is masked.
    """

    def __init__(self, model: Any, *, masked: bool) -> None:
        super().__init__()
        self.model, self.masked = model, masked

    @property
    def logit_scale(self) -> Tensor:
        """[] multiplier of the cosine; SigLIP's bias adds the same to all, and is left out."""
        scale: Tensor = self.model.logit_scale.exp()
        return scale.reshape(())

    def see(self, image: Tensor) -> Features:
        """Encode images."""
        return Features(_pooled(self.model.get_image_features(pixel_values=image)))

    def read(self, tokens: Tokens) -> Features:
        """Encode texts."""
        mask = tokens.mask.long() if self.masked else None
        return Features(_pooled(self.model.get_text_features(input_ids=tokens.ids, attention_mask=mask)))


def _pooled(output: Any) -> Tensor:
    """Take the embedding out of what different releases of transformers give."""
    found: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return found


@dataclass(frozen=True)
class _Render:
    """The folder's own image processor, on the pixels as a picture."""

    processor: Any

    def __call__(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.processor(images=picture(pixels), return_tensors="pt")["pixel_values"][0]
        return found.float()


@dataclass(frozen=True)
class _Encode:
    """The folder's own tokenizer."""

    tokenizer: Any
    padding: str
    longest: int

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        encoded = self.tokenizer(
            texts,
            padding=self.padding,
            truncation=True,
            max_length=self.longest,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return encoded["input_ids"], encoded["attention_mask"].bool()


def _load(kind: str, model_class: Any, folder: Folder, *, padding: str) -> Adapter:
    from transformers import AutoImageProcessor, AutoTokenizer

    where = str(folder.path)
    if not folder.shapes:
        raise folder.without_weights()
    if not any(name in folder.names for name in _PIXELS):
        raise ModelError(f"no {_PIXELS[0]}", where=where, remedy="put it there: it says how pixels become input")
    folder.require_tokenizer("the model")
    processors: Any = AutoImageProcessor
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **_OPTIONS)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise folder.bad_tokenizer(error) from error
    try:
        model, about = model_class.from_pretrained(where, use_safetensors=True, output_loading_info=True, **_OPTIONS)
        processor = processors.from_pretrained(where, **_OPTIONS)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        reason = some([line.strip() for line in str(error).splitlines() if line.strip()], 2)
        raise ModelError(f"transformers can't load it ({reason})", where=where) from error
    if about["missing_keys"]:
        names = some(sorted(about["missing_keys"]))
        raise ModelError(f"the weight file lacks: {names}", where=where, remedy="copy or convert it again")
    longest = model.config.text_config.max_position_embeddings
    towers = HFTowers(model.float(), masked=kind == CLIP)
    return Adapter(kind, towers, _prepare(processor, kind, where), Reader(_Encode(tokenizer, padding, longest)))


def _prepare(processor: Any, kind: str, where: str) -> Prepare:
    settings = {
        name: _plain(value)
        for name in ("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor")
        if (value := getattr(processor, name, None)) is not None
    }
    settings |= {"image_mean": list(processor.image_mean), "image_std": list(processor.image_std), "library": kind}
    probe = _Render(processor)(torch.zeros(1, 40, 50, dtype=torch.uint8))
    window = (int(probe.shape[1]), int(probe.shape[2]))
    size = settings.get("size", {})
    if "shortest_edge" in size:
        frame = Frame("shortest", (size["shortest_edge"],) * 2, window)
    elif "height" in size:
        frame = Frame("squash", (size["height"], size["width"]), window)
    else:
        what = f"the image processor resizes by {size or 'nothing'}; allowed: shortest_edge, or height and width"
        raise ModelError(what, where=f"{where}/{_PIXELS[0]}")
    return Prepare(_Render(processor), frame, settings)


def _plain(value: Any) -> Any:
    """Give a setting as JSON has it."""
    if isinstance(value, bool | int | float | str):
        return value
    return {key: side for key, side in dict(value).items() if side is not None}
