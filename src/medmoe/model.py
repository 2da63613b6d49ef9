"""MedVLM: the one forward, from images and reports to the joint space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmoe.encoders.text import aggregate_words
from medmoe.errors import ConfigError, ModelError, unknown
from medmoe.experts.moe import MixtureOfExperts, SpecialProjection
from medmoe.experts.router import Router, Scores, image_statistics
from medmoe.folder import Assets, check_replaceable, fill_folder, write_atomically
from medmoe.layers import wide
from medmoe.types import Batch, ImageEmbedding, Output, Pyramid, Routing, TextEmbedding, TextFeatures, Tokens

MAX_LOGIT_SCALE = 100.0


def pool_last(pyramid: Pyramid) -> Tensor:
    """Average the last level over places, [B, C_L]: the MedMoE paper's."""
    return pyramid.levels[-1].mean(dim=(2, 3))


def pool_pyramid(pyramid: Pyramid) -> Tensor:
    """Mean and maximum of every channel of every level, [B, 2·ΣC_l]: small findings count at their own scale."""
    return torch.cat([part for level in pyramid.levels for part in (level.mean(dim=(2, 3)), level.amax(dim=(2, 3)))], 1)


def pieces_of(tokens: Tokens) -> Tensor:
    """List the word pieces that reports have, [P] int64."""
    held: Tensor = torch.unique(tokens.ids[tokens.mask])
    return held


def words_of_regions(head: nn.Linear, regions: Tensor, held: Tensor) -> Tensor:
    """Score the word pieces of a batch's reports by the regions of each image, in float32.

    With z_vm what the head says of piece v at region m, the score is log Σ_m exp z_vm: a softmax over pieces *and*
    regions together, summed over regions. So a piece is named by the region that shows it most.

    Args:
        head: D → V.
        regions: [B, D, G, G].
        held: [P] int64 pieces to score: those of the batch's reports.

    Returns:
        [B, V]; -1e30 for the other pieces.
    """
    rows = regions.flatten(2).transpose(1, 2)  # [B, M, D]
    logits = wide(F.linear(rows, head.weight[held], head.bias[held]))  # [B, M, P]
    every = logits.new_full((len(regions), head.out_features), -1e30)
    return every.index_copy(1, held, torch.logsumexp(logits, dim=1))


# name → (pooling, length of its result)
POOLS: dict[str, tuple[Callable[[Pyramid], Tensor], Callable[[Sequence[int]], int]]] = {
    "last": (pool_last, lambda channels: channels[-1]),
    "pyramid": (pool_pyramid, lambda channels: 2 * sum(channels)),
}

# `batch` puts every channel on one scale over the images of the batch, and a small network then learns several times
# as fast; but images of a batch depend on each other in training, so exact gradient caching isn't possible with it.
POOL_NORMS: dict[str, Callable[[int], nn.Module]] = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


class MedVLM(nn.Module):
    """A medical vision-language model whose image features pass through routed experts.

    MedMoE (Chopra et al., 2025, https://arxiv.org/abs/2506.08356) is one arrangement of its parts. In
    training an image passes the expert that its own report chose; at inference the one that the image
    router chose, so that nothing but pixels is needed.

    Args:
        vision: Image encoder, [B, 3, H, W] → `Pyramid`, with `channels`.
        text: Text encoder, `Tokens` → `TextFeatures`, with `width`.
        experts: The mixture, (`Pyramid`, `Routing`) → [B, D, G, G].
        image_router: Head from image statistics [B, 2·ΣC_l] to logits [B, K].
        text_router: Head from report features to logits [B, K].
        train_route: Chooses experts in training.
        infer_route: Chooses experts in evaluation mode.
        modalities: Names of the K experts, in order.
        embed_dim: E.
        local_dim: D.
        pool: How the pyramid becomes the global feature, a name of `POOLS`.
        pool_norm: How that feature is normalised, a name of `POOL_NORMS`.
        local_similarity: How words and regions are compared, a row of `medmoe.objectives.LOCAL_SIMILARITIES`.
        special_projection: Whether the global feature also passes a projection of its expert (`SpecialProjection`).
        report_words: V, to predict the word pieces of the report from the image; 0: no such head.
        region_words: V, to predict them from the regions; 0: no such head.

    Raises:
        ConfigError: If the pooling or its norm is unknown.
    """

    def __init__(
        self,
        *,
        vision: nn.Module,
        text: nn.Module,
        experts: MixtureOfExperts,
        image_router: nn.Module,
        text_router: nn.Module,
        train_route: Router,
        infer_route: Router,
        modalities: Sequence[str],
        embed_dim: int,
        local_dim: int,
        pool: str = "last",
        pool_norm: str = "layer",
        local_similarity: str = "attention",
        special_projection: bool = False,
        report_words: int = 0,
        region_words: int = 0,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ConfigError(unknown("pool", pool, POOLS), where="model.pool")
        if pool_norm not in POOL_NORMS:
            raise ConfigError(unknown("pool norm", pool_norm, POOL_NORMS), where="model.pool_norm")
        self.pool, pooled = POOLS[pool]
        channels: Sequence[int] = vision.channels  # type: ignore[assignment]
        width: int = text.width  # type: ignore[assignment]
        self.vision, self.text, self.experts = vision, text, experts
        self.image_router, self.text_router = image_router, text_router
        self.train_route, self.infer_route = train_route, infer_route
        self.modalities = tuple(modalities)
        self.local_similarity = local_similarity
        self.image_norm = POOL_NORMS[pool_norm](pooled(channels))
        self.image_projection = nn.Linear(pooled(channels), embed_dim)
        special = SpecialProjection(len(modalities), pooled(channels), embed_dim) if special_projection else None
        self.special_projection = special
        self.text_projection = nn.Linear(width, embed_dim)
        self.word_projection = nn.Linear(width, local_dim)
        self.report_type = nn.Linear(width, len(self.modalities))
        self.report_words = nn.Linear(embed_dim, report_words) if report_words else None
        self.region_words = nn.Linear(local_dim, region_words) if region_words else None
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.assets: Assets | None = None

    @property
    def logit_scale(self) -> Tensor:
        """Multiplier of cosine similarities [], learnt, at most 100 (Radford et al., 2021)."""
        return wide(self.log_scale).exp().clamp(max=MAX_LOGIT_SCALE)

    def encode_text(self, tokens: Tokens, features: TextFeatures | None = None) -> TextEmbedding:
        """Bring reports into the joint space; `features` is what the text encoder makes of them, if that is known."""
        features = self.text(tokens) if features is None else features
        feature = wide(self.text_projection(features.report))
        return TextEmbedding(
            embed=F.normalize(feature, dim=-1),
            feature=feature,
            words=self._words(tokens, features),
            word_mask=features.word_mask,
            logits=wide(self.text_router(features.report)),
            report_logits=wide(self.report_type(features.report)),
        )

    def _words(self, tokens: Tokens, features: TextFeatures) -> Tensor:
        """Bring words beside regions: what each says in its report and, with that head, what names regions."""
        words: Tensor = self.word_projection(features.words)  # [B, N, D]
        if self.region_words is None:
            return words
        named = F.embedding(tokens.ids, self.region_words.weight)  # [B, T, D]
        return words + aggregate_words(named, tokens.word, words.shape[1])

    def encode_image(
        self, image: Tensor, *, expert: Tensor | None = None, modality: Tensor | None = None
    ) -> ImageEmbedding:
        """Bring images into the joint space by their pixels alone.

        Args:
            image: [B, 3, H, W] normalised pixels.
            expert: [B] int64 experts to pass instead of the routed ones.
            modality: [B] int64, read only when the model routes by label.
        """
        pyramid = self.vision(image)
        logits = wide(self.image_router(image_statistics(pyramid)))
        if expert is None:
            routing = self.infer_route(Scores(logits, None, None, modality, image))
        else:
            one = torch.ones(len(image), 1, device=image.device)
            routing = Routing(logits=logits, expert=expert[:, None], weight=one)
        return self._embed(pyramid, routing, logits)

    def forward(self, batch: Batch) -> Output:
        """Say everything about a batch that objectives need."""
        text = None if batch.tokens is None else self.encode_text(batch.tokens, batch.text)
        pyramid = self.vision(batch.image)
        logits = wide(self.image_router(image_statistics(pyramid)))
        text_logits = None if text is None else text.logits
        scores = Scores(logits, text_logits, batch.has_report, batch.modality, batch.image)
        routing = (self.train_route if self.training else self.infer_route)(scores)
        image = self._embed(pyramid, routing, logits)
        if self.report_words is not None and image.feature is not None:
            image = replace(image, word_logits=self.report_words(image.feature))
        if self.region_words is not None and batch.tokens is not None:
            held = pieces_of(batch.tokens) if batch.pieces is None else batch.pieces
            named = words_of_regions(self.region_words, image.regions, held)
            image = replace(image, region_word_logits=named)
        return Output(image=image, text=text, logit_scale=self.logit_scale)

    def _embed(self, pyramid: Pyramid, routing: Routing, logits: Tensor) -> ImageEmbedding:
        pooled = self.image_norm(self.pool(pyramid))
        feature = wide(self.image_projection(pooled))
        if self.special_projection is not None:
            feature = feature + wide(self.special_projection(pooled, routing))
        return ImageEmbedding(
            embed=F.normalize(feature, dim=-1),
            feature=feature,
            regions=self.experts(pyramid, routing),
            routing=routing,
            logits=logits,
        )

    def save_pretrained(self, folder: Path | str) -> Path:
        """Write one self-contained folder that `medmoe.from_pretrained` reads; it holds no pickle.

        Raises:
            ModelError: If the model wasn't made by `medmoe.create_model`, a recipe or `from_pretrained`, or if
                something other than a saved model is in the folder.
        """
        assets = self.assets
        if assets is None:
            raise ModelError(
                "this model has no configuration, preprocessing and tokenizer to save",
                remedy="build it with medmoe.create_model or a recipe",
            )
        check_replaceable(Path(folder))
        return write_atomically(Path(folder), lambda aside: fill_folder(aside, self.state_dict(), assets))
