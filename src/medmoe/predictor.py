"""The whole user surface of a trained model: encode, route, point, classify."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from medmoe.build import load_model, preprocess_of, tokenizer_of
from medmoe.data.images import from_pillow, read_image
from medmoe.data.reading import Reading
from medmoe.errors import DataError, ModelError
from medmoe.experts.router import image_statistics
from medmoe.folder import GATE
from medmoe.gate import Gate
from medmoe.modalities import resolve
from medmoe.model import MedVLM
from medmoe.tasks.prompts import load_prompts
from medmoe.types import ImageEmbedding, Sample, TextEmbedding

# A path, a Pillow image, or an array or tensor [H, W] / [H, W, 3] of uint8 or floats in [0, 1].
Image = Any


@dataclass(frozen=True, slots=True)
class Routed:
    """Where the image router sends an image.

    Attributes:
        modality: The most probable modality.
        probability: Its probability.
        probabilities: Of every modality.
        accepted: Whether the model's gate takes the image; None: the model has no gate.
    """

    modality: str
    probability: float
    probabilities: dict[str, float]
    accepted: bool | None = None


class Predictor:
    """Encodes images and texts with a trained model.

    Args:
        model: The model, with its assets.
        device: Where to compute.
        batch_size: Images encoded at a time.

    Raises:
        ModelError: If the model was put together by hand, without preprocessing and tokenizer.
    """

    def __init__(self, model: MedVLM, *, device: str = "cpu", batch_size: int = 64) -> None:
        if model.assets is None:
            raise ModelError(
                "this model has no preprocessing and tokenizer",
                remedy="make it with medmoe.create_model or medmoe.from_pretrained",
            )
        self.model = model.to(device).eval()
        self.device, self.batch_size = device, batch_size
        self.tokenizer = tokenizer_of(model)
        self.preprocess = preprocess_of(model.assets.preprocess)
        gate = model.assets.gate
        self.gate = None if gate is None else Gate.from_dict(gate, where=GATE)

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: str = "cpu") -> Predictor:
        """Load a model folder or a run folder.

        Raises:
            ModelError: If it can't be used.
        """
        return cls(load_model(folder), device=device)

    def encode_image(self, images: Sequence[Image] | Image, *, normalize: bool = True) -> Tensor:
        """Embed images by their pixels alone.

        Args:
            images: One image or a list of them: paths, Pillow images (of any mode, read as a file would be), arrays
                or tensors; an array or tensor [n, H, W, 3] is n images.
            normalize: Whether the embeddings are brought to unit length, as similarities need.

        Returns:
            [n, E] float32 on the CPU.

        Raises:
            DataError: If an image can't be read or holds NaN.
        """
        return torch.cat([_vector(part, normalize=normalize).cpu() for part in self._embed(images, regions=False)])

    def encode_text(self, texts: Sequence[str] | str, *, normalize: bool = True) -> Tensor:
        """Embed texts, [n, E] float32 on the CPU; see `encode_image`."""
        many = [texts] if isinstance(texts, str) else list(texts)
        if not many:
            raise DataError("no texts")
        parts = [many[start : start + self.batch_size] for start in range(0, len(many), self.batch_size)]
        return torch.cat([_vector(self.embed_text(part), normalize=normalize) for part in parts]).cpu()

    def route(self, images: Sequence[Image] | Image) -> list[Routed]:
        """Tell which modality each image is routed to, how surely, and whether the model's gate takes it."""
        routed, names = [], self.model.modalities
        for logits, features in self._read(images):
            taken = [None] * len(logits) if self.gate is None else self.gate.accepts(logits, features).tolist()
            for row, accepted in zip(logits.softmax(dim=1), taken, strict=True):
                best = int(row.argmax())
                pairs = {name: float(value) for name, value in zip(names, row, strict=True)}
                routed.append(Routed(names[best], float(row[best]), pairs, accepted))
        return routed

    @torch.inference_mode()
    def heatmap(self, image: Image, phrase: str, *, report: str | None = None) -> NDArray[np.float32]:
        """Show where in an image a phrase is found.

        Args:
            image: One image.
            phrase: The words to look for.
            report: A report that holds the phrase: its words then read it in context.

        Returns:
            [G, G] float32 dot products of the phrase with every region of the padded square input;
            larger means more alike, and only their order within the image means anything.

        Raises:
            DataError: If the phrase has no word, or the report doesn't hold it.
        """
        text = report if report is not None else phrase
        found = self.tokenizer.find(text, phrase)
        if not found:
            raise DataError(f"the phrase {phrase!r} is not in the report" if report else f"no word in {phrase!r}")
        regions = self._embed([image], regions=True)[0].regions[0]  # [D, G, G]
        words = self.embed_text([text]).words[0, found]  # [n, D]
        heat: NDArray[np.float32] = torch.einsum("nd,dhw->hw", words.float(), regions.float()).cpu().numpy()
        return heat

    def zero_shot(
        self, images: Sequence[Image] | Image, labels: Sequence[str], *, modality: str | None = None
    ) -> Tensor:
        """Classify images by names of classes, through an ensemble of prompts for each.

        Args:
            images: One image or several.
            labels: Names of the classes.
            modality: What the images are, for the prompts' wording; without, it is left open.

        Returns:
            [n, C] probabilities in the order of the labels.

        Raises:
            DataError: If there are no labels.
        """
        if isinstance(labels, str) or not labels:
            raise DataError(
                f"no labels to choose from in {labels!r}", remedy='give a list, such as ["effusion", "mass"]'
            )
        prompts = load_prompts()
        kind = "image" if modality is None else resolve(modality)
        rows = [F.normalize(self.encode_text(prompts.of(label, kind)).mean(dim=0), dim=0) for label in labels]
        cosine = self.encode_image(images) @ torch.stack(rows).T
        return (cosine * self.model.logit_scale.detach().cpu()).softmax(dim=1)

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> TextEmbedding:
        """Bring texts into the joint space, words included."""
        return self.model.encode_text(self.tokenizer(list(texts)).to(self.device))

    @torch.inference_mode()
    def _read(self, images: Sequence[Image] | Image) -> list[tuple[Tensor, Tensor]]:
        """Give the image router's scores [B, K] and what it read [B, F], batch by batch, on the CPU."""
        found = []
        for pixels in self._batches(images):
            features = image_statistics(self.model.vision(pixels))
            found.append((self.model.image_router(features).float().cpu(), features.cpu()))
        return found

    @torch.inference_mode()
    def _embed(self, images: Sequence[Image] | Image, *, regions: bool) -> list[ImageEmbedding]:
        return [self.model.encode_image(pixels, regions=regions) for pixels in self._batches(images)]

    def _batches(self, images: Sequence[Image] | Image) -> Iterator[Tensor]:
        """Prepare images, batch by batch."""
        several = isinstance(images, (list, tuple)) or (isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4)
        many = images if several else [images]
        if not len(many):
            raise DataError("no images")
        for start in range(0, len(many), self.batch_size):
            pixels = [self._pixels(many[i], i) for i in range(start, min(start + self.batch_size, len(many)))]
            yield torch.stack(pixels).to(self.device)

    def _pixels(self, image: Image, index: int) -> Tensor:
        key = str(image) if isinstance(image, (str, Path)) else f"image {index}"
        return self.preprocess(Sample(key=key, image=_array(image, key, self.preprocess.window)))[0]


def _array(image: Image, key: str, window: str) -> NDArray[Any]:
    if isinstance(image, (str, Path)):
        return read_image(image, reading=Reading(window))
    if isinstance(image, Pillow.Image):
        return from_pillow(image, where=key)
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    return np.asarray(image)


def _vector(embedding: ImageEmbedding | TextEmbedding, *, normalize: bool) -> Tensor:
    vector = embedding.embed if normalize else embedding.feature
    assert vector is not None
    return vector
