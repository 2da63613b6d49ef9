"""BioViL and BioViL-T (Boecking et al., 2022; Bannur et al., 2023): ResNet and CXR-BERT, in the published layout.

https://arxiv.org/abs/2204.09817 and https://arxiv.org/abs/2301.04558
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from medmoe.adapters.base import Adapter, Features
from medmoe.adapters.bert import UNUSED, bert_config, bert_model, bert_tokenizer
from medmoe.adapters.folders import Folder, fill
from medmoe.adapters.pixels import Frame, Prepare
from medmoe.adapters.resnet import resnet_of, stages
from medmoe.adapters.words import Reader
from medmoe.errors import ModelError
from medmoe.types import Tokens

KIND = "biovil"
NEEDS = (
    "the image model's weights (encoder.encoder.*, projector.model.*) and CXR-BERT's (bert.*, cls_projection_head.*) "
    "as .safetensors, and CXR-BERT's tokenizer"
)
# Side the shorter side is resized to, and of the centre crop without and with the temporal encoder.
RESIZE, CROP, CROP_TEMPORAL = 512, 480, 448
# The weights carry no temperature; this one stands in where probabilities are needed. It changes no ranking by cosine.
SCALE = 10.0

_IMAGE, _TEXT = "projector.model.0.weight", "cls_projection_head.dense_to_hidden.weight"
_TEMPORAL = "encoder.backbone_to_vit.weight"
_UNUSED = rf"{UNUSED}|^encoder\.encoder\.fc\.|^encoder\.vit_pooler\.|^classifier\."


def matches(folder: Folder) -> bool:
    """Tell by the projections of both encoders, or one of them."""
    return _IMAGE in folder.shapes or _TEXT in folder.shapes


def load(folder: Folder) -> Adapter:
    """Load image model and CXR-BERT from one folder.

    Raises:
        ModelError: If weights or tokenizer are missing or don't fit.
    """
    weights = folder.weights()
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    where = str(folder.path)
    bert = bert_model(bert_config(folder.config, shapes, "bert.", where))
    trunk = resnet_of(weights, "encoder.encoder.", where)
    temporal = shapes[_TEMPORAL][0] if _TEMPORAL in shapes else None
    joint, text = (shapes[name][0] if name in shapes else 1 for name in (_IMAGE, _TEXT))
    towers = BiovilTowers(trunk, bert, joint=joint, text=text, temporal=temporal)
    fill(towers, weights, folder.path, unused=_UNUSED)
    if joint != text:
        what = f"the image model's joint width is {joint}, CXR-BERT's {text}"
        raise ModelError(what, where=where, remedy="give weights that were trained together")
    crop = CROP if temporal is None else CROP_TEMPORAL
    settings = {"stretch": "minimum to maximum", "resize": RESIZE, "interpolation": "bilinear", "crop": crop}
    prepare = Prepare(Render(crop), Frame("shortest", (RESIZE, RESIZE), (crop, crop)), {**settings, "library": KIND})
    encode = _Encode(bert_tokenizer(folder, "CXR-BERT"), bert.config.max_position_embeddings)
    return Adapter(KIND, towers, prepare, Reader(encode, whole=True))


class _ImageEncoder(nn.Module):
    """The image encoder under its published names; with `temporal`, BioViL-T's for an image without a prior one."""

    def __init__(self, trunk: Any, temporal: int | None) -> None:
        super().__init__()
        self.encoder = trunk
        self.width = trunk.layer4[0].downsample[0].out_channels
        if temporal is not None:
            self.backbone_to_vit = nn.Conv2d(self.width, temporal, kernel_size=1, bias=False)
            self.missing_previous_emb = nn.Parameter(torch.zeros(1, temporal, 1, 1))
            self.width = 2 * temporal
        self.temporal = temporal is not None

    def forward(self, image: Tensor) -> Tensor:
        """Give patches [B, C, G, G]."""
        _, patches = stages(self.encoder, image)
        if self.temporal:
            current = self.backbone_to_vit(patches)
            patches = torch.cat([current, self.missing_previous_emb.expand_as(current)], dim=1)
        return patches


class _Projector(nn.Module):
    """Two pointwise layers."""

    def __init__(self, width: int, joint: int) -> None:
        super().__init__()
        first, last = nn.Conv2d(width, joint, kernel_size=1, bias=False), nn.Conv2d(joint, joint, kernel_size=1)
        self.model = nn.Sequential(first, nn.BatchNorm2d(joint), nn.ReLU(), last)


class _Head(nn.Module):
    """CXR-BERT's projection of the first piece."""

    def __init__(self, width: int, joint: int) -> None:
        super().__init__()
        self.dense_to_hidden, self.dense_to_output = nn.Linear(width, joint), nn.Linear(joint, joint)
        self.LayerNorm = nn.LayerNorm(joint, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C] to [B, E]."""
        out: Tensor = self.dense_to_output(self.LayerNorm(F.gelu(self.dense_to_hidden(x))))
        return out


class BiovilTowers(nn.Module):
    """Both encoders, named as in the checkpoints.

    Regions are unit-length projected patches, the image is their mean before that. CXR-BERT has an embedding of a whole
    text only, which the authors compare with each region: here a text is a single word with that embedding.

    Args:
        trunk: A ResNet of torchvision.
        bert: A `BertModel`.
        joint: Joint width E = D of the image side.
        text: The same of the text side.
        temporal: Width of BioViL-T's patches; None for BioViL.
    """

    def __init__(self, trunk: Any, bert: Any, *, joint: int, text: int, temporal: int | None) -> None:
        super().__init__()
        self.encoder = _ImageEncoder(trunk, temporal)
        self.projector = _Projector(self.encoder.width, joint)
        self.bert, self.cls_projection_head = bert, _Head(bert.config.hidden_size, text)

    @property
    def logit_scale(self) -> Tensor:
        """[] multiplier of the cosine."""
        return torch.tensor(SCALE)

    def see(self, image: Tensor) -> Features:
        """Encode images [B, 3, 480, 480]."""
        patches = self.projector.model(self.encoder(image))
        return Features(patches.mean(dim=(2, 3)), F.normalize(patches, dim=1))

    def read(self, tokens: Tokens) -> Features:
        """Encode texts."""
        hidden = self.bert(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state
        embed = self.cls_projection_head(hidden[:, 0])
        return Features(embed, F.normalize(embed, dim=1)[:, None, :] * tokens.word_mask[:, :, None])


@dataclass(frozen=True)
class _Encode:
    """CXR-BERT's tokenizer as its authors use it, without closing punctuation; what is too long is cut off."""

    tokenizer: Any
    longest: int

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        encoded = self.tokenizer(
            [text.rstrip("!?.") for text in texts],
            padding="longest",
            truncation=True,
            max_length=self.longest,
            return_tensors="pt",
        )
        return encoded["input_ids"], encoded["attention_mask"].bool()


@dataclass(frozen=True)
class Render:
    """Stretch grey levels from black to white, resize the shorter side to 512, crop the centre.

    Attributes:
        crop: Side of the crop.
    """

    crop: int

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map pixels [1 or 3, H, W] to [3, crop, crop] in [0, 1]."""
        values = pixels.permute(1, 2, 0).numpy().astype(np.float64)
        values -= values.min()
        levels = (values / (values.max() or 1.0) * 255).astype(np.uint8)
        image = Image.fromarray(levels[:, :, 0]) if levels.shape[2] == 1 else Image.fromarray(levels).convert("L")
        short, long = sorted(image.size)
        sides = [RESIZE if side == short else RESIZE * long // short for side in image.size]
        image = image.resize((sides[0], sides[1]), Image.Resampling.BILINEAR)
        left, top = (round((side - self.crop) / 2) for side in image.size)
        cut = np.asarray(image.crop((left, top, left + self.crop, top + self.crop)), dtype=np.float32)
        return torch.from_numpy(cut / np.float32(255)).expand(3, self.crop, self.crop).contiguous()
