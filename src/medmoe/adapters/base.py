"""Other people's models as joint encoders: what each kind supplies, and the adapter that tasks see."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmoe.adapters.pixels import Prepare
from medmoe.tasks.base import Tokenizer
from medmoe.types import ImageEmbedding, Routing, TextEmbedding, Tokens

# A text longer than any context, whose tokens tell vocabularies and contexts apart.
_PROBE = "No focal consolidation, 3 mm Nodule: right-upper lobe! " * 64


@dataclass(frozen=True, slots=True)
class Features:
    """What a tower makes of B images or texts.

    Attributes:
        embed: [B, E] in the joint space, of any length.
        local: [B, D, G, G] regions of images or [B, N, D] words of texts; None where the model has none.
    """

    embed: Tensor
    local: Tensor | None = None


class Towers(Protocol):
    """The two encoders of a model; a `torch.nn.Module` too."""

    @property
    def logit_scale(self) -> Tensor:
        """[] multiplier of the global cosine."""
        ...

    def see(self, image: Tensor) -> Features:
        """Encode images [B, 3, H, W], prepared as the model was trained."""
        ...

    def read(self, tokens: Tokens) -> Features:
        """Encode texts; `local` has a row for each of the N places of `tokens.word_mask`."""
        ...


class Adapter(nn.Module):
    """A model of another library, with its own preprocessing and tokenizer, as tasks expect a model.

    It has no experts: router scores are of zero width. Where it has no local features, regions are [B, 0, 1, 1] and
    words [B, N, 0], and tasks go by the global similarity or say that they were skipped.

    Args:
        kind: A name of `medmoe.adapters.KINDS`.
        towers: The encoders.
        prepare: From a sample to their input.
        tokenizer: From texts to their input.
    """

    def __init__(self, kind: str, towers: Towers, prepare: Prepare, tokenizer: Tokenizer) -> None:
        super().__init__()
        if not isinstance(towers, nn.Module):
            raise TypeError(f"the towers of {kind!r} are no torch.nn.Module")
        self.kind, self.prepare, self.tokenizer = kind, prepare, tokenizer
        self.towers: Towers = towers
        self.eval()
        self.requires_grad_(False)

    @property
    def modalities(self) -> tuple[str, ...]:
        """None: no expert belongs to a modality."""
        return ()

    @property
    def local_similarity(self) -> str:
        """How words and regions are compared: by attention, as GLoRIA does."""
        return "attention"

    @property
    def logit_scale(self) -> Tensor:
        """[] multiplier of the global cosine."""
        return self.towers.logit_scale

    def encode_image(
        self, image: Tensor, *, expert: Tensor | None = None, modality: Tensor | None = None, regions: bool = True
    ) -> ImageEmbedding:
        """Embed images [B, 3, H, W]; `modality` plays no part, and regions are given where the model has them.

        Raises:
            ValueError: If an expert is asked for.
        """
        if expert is not None:
            raise ValueError(f"a model of kind {self.kind!r} has no experts")
        seen = self.towers.see(image)
        feature = seen.embed.float()
        scores = feature.new_zeros(len(feature), 0)
        return ImageEmbedding(
            embed=F.normalize(feature, dim=1),
            regions=feature.new_zeros(len(feature), 0, 1, 1) if seen.local is None else seen.local.float(),
            routing=Routing(scores, torch.zeros_like(scores, dtype=torch.int64), scores),
            logits=scores,
            feature=feature,
        )

    def encode_text(self, tokens: Tokens) -> TextEmbedding:
        """Embed texts."""
        heard = self.towers.read(tokens)
        feature = heard.embed.float()
        scores = feature.new_zeros(len(feature), 0)
        words = feature.new_zeros(*tokens.word_mask.shape, 0) if heard.local is None else heard.local.float()
        return TextEmbedding(
            embed=F.normalize(feature, dim=1),
            words=words,
            word_mask=tokens.word_mask,
            logits=scores,
            report_logits=scores,
            feature=feature,
        )

    def about(self) -> dict[str, Any]:
        """Say what it is, how it sees and how it reads, JSON-ready, for the record of an evaluation."""
        ids = self.tokenizer([_PROBE]).ids.numpy().astype(np.int64)
        return {
            "kind": self.kind,
            "preprocess": self.prepare.settings,
            "fingerprint": self.prepare.fingerprint(),
            "tokenizer_fingerprint": hashlib.sha256(ids.tobytes()).hexdigest()[:16],
        }
