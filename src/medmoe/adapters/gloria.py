"""GLoRIA (Huang et al., 2021): ResNet and BERT with local features, in the layout of the published checkpoint.

https://openaccess.thecvf.com/content/ICCV2021/html/Huang_GLoRIA_A_Multimodal_Global-Local_Representation_Learning_Framework_for_Label-Efficient_ICCV_2021_paper.html
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medmoe.adapters.base import Adapter, Features
from medmoe.adapters.bert import UNUSED, bert_config, bert_model, bert_tokenizer
from medmoe.adapters.folders import Folder, fill
from medmoe.adapters.pixels import Frame, Prepare, grey_picture
from medmoe.adapters.resnet import resnet_of, stages
from medmoe.adapters.words import PieceReader
from medmoe.encoders.text import aggregate_words
from medmoe.types import Tokens

KIND = "gloria"
NEEDS = (
    "one .safetensors with the checkpoint's state_dict (img_encoder.model.*, img_encoder.global_embedder.*, "
    "img_encoder.local_embedder.*, text_encoder.model.*) and the tokenizer of Bio_ClinicalBERT"
)
# The published settings: side that images are resized to, side of the centre crop, side that the network sees,
# pieces of a text, last layers that are summed, and the multiplier of both cosines.
RESIZE, CROP, INPUT, PIECES, LAYERS, SCALE = 256, 224, 299, 97, 4, 10.0

_MARK = "img_encoder.global_embedder.weight"
_WORD = re.compile(r"\w+")


def matches(folder: Folder) -> bool:
    """Tell by the image encoder's global embedder."""
    return any(name.endswith(_MARK) for name in folder.shapes)


def load(folder: Folder) -> Adapter:
    """Load a checkpoint with a ResNet.

    Raises:
        ModelError: If weights or tokenizer are missing or don't fit.
    """
    weights = {name.rsplit("gloria.", 1)[-1]: value for name, value in folder.weights().items()}
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    where = str(folder.path)
    towers = GloriaTowers(
        resnet_of(weights, "img_encoder.model.", where),
        bert_model(bert_config(folder.config, shapes, "text_encoder.model.", where)),
        width=shapes[_MARK][0],
    )
    fill(towers, weights, folder.path, unused=UNUSED)
    tokenizer = bert_tokenizer(folder, "emilyalsentzer/Bio_ClinicalBERT")
    settings = {"resize": RESIZE, "interpolation": "area", "crop": CROP, "mean": 0.5, "std": 0.5, "library": KIND}
    prepare = Prepare(render, Frame("longest", (RESIZE, RESIZE), (CROP, CROP)), settings)
    return Adapter(KIND, towers, prepare, PieceReader(tokenizer, longest=PIECES, clean=cleaned))


class _ImageEncoder(nn.Module):
    """The image encoder under its published names."""

    def __init__(self, trunk: Any, width: int) -> None:
        super().__init__()
        deep = trunk.layer4[0].downsample[0].out_channels
        self.model = trunk
        self.global_embedder = nn.Linear(deep, width)
        self.local_embedder = nn.Conv2d(deep // 2, width, kernel_size=1, bias=False)


class _TextEncoder(nn.Module):
    """The text encoder under its published names."""

    def __init__(self, bert: Any) -> None:
        super().__init__()
        self.model = bert


class GloriaTowers(nn.Module):
    """Both encoders, named as in the checkpoint.

    Regions are the third stage's at 19×19, the image is the fourth's mean. A word is the sum of its pieces over the
    last four layers of BERT; a text is the mean of all pieces, special ones included, over the 97 places of a row.

    Args:
        trunk: A ResNet of torchvision.
        bert: A `BertModel`.
        width: Joint width E = D, BERT's own.
    """

    def __init__(self, trunk: Any, bert: Any, *, width: int) -> None:
        super().__init__()
        self.img_encoder, self.text_encoder = _ImageEncoder(trunk, width), _TextEncoder(bert)

    @property
    def logit_scale(self) -> Tensor:
        """[] multiplier of the cosine in the global loss."""
        return torch.tensor(SCALE)

    def see(self, image: Tensor) -> Features:
        """Encode images [B, 3, 224, 224]."""
        encoder = self.img_encoder
        wide = F.interpolate(image, size=(INPUT, INPUT), mode="bilinear", align_corners=True)
        third, fourth = stages(encoder.model, wide)
        return Features(encoder.global_embedder(fourth.mean(dim=(2, 3))), encoder.local_embedder(third))

    def read(self, tokens: Tokens) -> Features:
        """Encode texts."""
        output = self.text_encoder.model(
            input_ids=tokens.ids, attention_mask=tokens.mask.long(), output_hidden_states=True
        )
        pieces = torch.stack(output.hidden_states[-LAYERS:]).sum(dim=0)  # [B, T, C]
        total = (pieces * tokens.mask[:, :, None]).sum(dim=1)
        return Features(total / PIECES, aggregate_words(pieces, tokens.word, tokens.word_mask.shape[1]))


def cleaned(text: str) -> str:
    """Prepare a text: numbered points and sentences apart, lower case, ASCII, no punctuation, no one-word sentence.

    A text that is a single word would be left empty by the last rule, and stays.

    >>> cleaned("1. No focal consolidation. 2. Effusion. Heart size is normal!")
    'no focal consolidation heart size is normal'
    >>> cleaned("Nodule.")
    'nodule'
    """
    points = re.split(r"[0-9]+\.", text.replace("\n", " "))
    sentences = [_WORD.findall(part.lower()) for point in points for part in point.split(".")]
    kept = [words for words in sentences if len(words) > 1] or sentences
    plain = (word.encode("ascii", "ignore").decode("ascii") for words in kept for word in words)
    return " ".join(word for word in plain if word)


def render(pixels: Tensor) -> Tensor:
    """Resize the longest side of a grey image to 256 by area, pad with black, crop the centre, normalise by halves."""
    grey = np.asarray(grey_picture(pixels), dtype=np.float64)
    height, width = grey.shape
    longest = max(height, width)
    new_height, new_width = (max(1, side * RESIZE // longest) for side in (height, width))
    small = np.rint(coverage(height, new_height) @ grey @ coverage(width, new_width).T)
    top, left = (RESIZE - new_height) // 2, (RESIZE - new_width) // 2
    canvas = np.zeros((RESIZE, RESIZE), np.float32)
    canvas[top : top + new_height, left : left + new_width] = small
    edge = (RESIZE - CROP) // 2
    inside = torch.from_numpy(canvas[edge : edge + CROP, edge : edge + CROP]) / 255
    return ((inside - 0.5) / 0.5).expand(3, CROP, CROP).contiguous()


def coverage(before: int, after: int) -> NDArray[np.float64]:
    """Give how much of each old pixel lies under each new one, rows summing to 1: [after, before]."""
    edges = np.arange(after + 1) * before / after
    old = np.arange(before)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    covered = np.clip(overlap, 0, None)
    share: NDArray[np.float64] = covered / covered.sum(axis=1, keepdims=True)
    return share
