"""The router: which expert an image passes through, who decides it, and how much it counts.

Three questions, each its own parameter: the source of the scores (`ROUTERS`), the selection (hard
top-1, top-k, soft) and the gradient that the alignment losses send back through the choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmoe.errors import ConfigError, ModelError, unknown
from medmoe.layers import wide
from medmoe.types import Pyramid, Routing


class RouterHead(nn.Module):
    """Scores over the experts from one feature vector: W2 · ReLU(W1 · x).

    Chopra et al., 2025, https://arxiv.org/abs/2506.08356. It returns logits: the paper's softmax is
    taken where it is needed, never before a cross-entropy.

    Args:
        width: Length of the feature vector.
        hidden: Width of the hidden layer.
        experts: K.
    """

    def __init__(self, width: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, experts)

    def forward(self, feature: Tensor) -> Tensor:
        """Give logits [B, K] of features [B, width]."""
        logits: Tensor = self.second(F.relu(self.first(self.norm(feature))))
        return logits


def image_statistics(pyramid: Pyramid) -> Tensor:
    """Summarise an image for its router: mean and spread of every channel of every level, [B, 2·ΣC_l].

    Texture statistics of the fine levels tell modalities apart better than the last level alone.
    """
    parts = []
    for level in pyramid.levels:
        flat = wide(level.flatten(2))
        mean, square = flat.mean(dim=2), torch.linalg.vector_norm(flat, dim=2).square() / flat.shape[2]
        parts += [mean, ((square - mean.square()).clamp_min(0) + 1e-6).sqrt()]
    return torch.cat(parts, dim=1)


@dataclass(frozen=True, slots=True)
class Scores:
    """What a source may decide from.

    Attributes:
        image_logits: [B, K] of the image router.
        text_logits: [B, K] of the text router, or None without reports.
        has_report: [B] bool, or None when every image has one.
        modality: [B] int64, -1 where unknown, or None.
        image: [B, 3, H, W] the pixels.
    """

    image_logits: Tensor
    text_logits: Tensor | None
    has_report: Tensor | None
    modality: Tensor | None
    image: Tensor


def _text(scores: Scores) -> Tensor:
    if scores.text_logits is None:
        return scores.image_logits
    if scores.has_report is None:
        return scores.text_logits
    return torch.where(scores.has_report[:, None], scores.text_logits, scores.image_logits)


def _label(scores: Scores) -> Tensor:
    if scores.modality is None:
        raise ModelError("routing by label needs the modality of every image", remedy="route by image instead")
    experts = scores.image_logits.shape[1]
    known = scores.modality >= 0
    certain = 20.0 * F.one_hot(scores.modality.clamp(min=0), experts).float()
    return torch.where(known[:, None], certain, scores.image_logits)


def _random(scores: Scores) -> Tensor:
    # A fixed expert per image, unrelated to what it shows: low bits of the pixels' sum.
    experts = scores.image_logits.shape[1]
    total = (scores.image.double().abs().sum(dim=(1, 2, 3)) * 1e3).long()
    choice = ((total * 2654435761) % 2**32 // 65536) % experts
    return 20.0 * F.one_hot(choice, experts).float()


ROUTERS: dict[str, Callable[[Scores], Tensor]] = {
    "text": _text,  # the report; images without one go by their pixels
    "image": lambda scores: scores.image_logits,
    "label": _label,  # the modality label (an oracle); unlabelled images go by their pixels
    "random": _random,
    "uniform": lambda scores: torch.zeros_like(scores.image_logits),  # with soft selection: every expert equally
}
SELECTIONS = ("hard", "top_k", "soft")
GRADIENTS = ("none", "alpha", "straight_through")


def select(logits: Tensor, *, selection: str = "hard", k: int = 1, gradient: str = "none") -> Routing:
    """Choose experts from scores.

    With `hard` selection and no `gradient`, the argmax passes nothing from the alignment losses to
    the router: the modality losses alone train it. `alpha` weighs the chosen expert by its
    probability; `straight_through` weighs it by one but sends the probability's gradient back.

    Args:
        logits: [B, K] scores.
        selection: `hard` (top-1), `top_k` (renormalised probabilities of the k best) or `soft` (all).
        k: Experts an image with `top_k`.
        gradient: `none`, `alpha` or `straight_through`, for `hard`.

    Raises:
        ConfigError: If a name is unknown.
    """
    if selection not in SELECTIONS:
        raise ConfigError(unknown("selection", selection, SELECTIONS))
    if gradient not in GRADIENTS:
        raise ConfigError(unknown("router gradient", gradient, GRADIENTS))
    logits = wide(logits)
    alpha = logits.softmax(dim=1)  # [B, K]
    count = {"hard": 1, "top_k": min(k, logits.shape[1]), "soft": logits.shape[1]}[selection]
    weight, expert = alpha.topk(count, dim=1)
    if selection == "top_k":
        weight = weight / weight.sum(dim=1, keepdim=True)
    elif selection == "hard" and gradient == "none":
        weight = torch.ones_like(weight)
    elif selection == "hard" and gradient == "straight_through":
        weight = 1.0 + weight - weight.detach()
    return Routing(logits=logits, expert=expert, weight=weight)


class Router(nn.Module):
    """Decides each image's experts from a named source.

    Args:
        source: A name of `ROUTERS`.
        selection: See `select`.
        k: See `select`.
        gradient: See `select`.
        anneal: Training batches over which the choice hardens: all experts start with equal weights, so that each
            learns from every image, and the weight moves in equal steps to the chosen one. In evaluation mode, and
            afterwards, the choice is hard. 0: it is hard from the first. The batches seen are saved with the weights.

    Raises:
        ConfigError: If the source is unknown, or a choice that isn't hard is to harden.
    """

    seen: Tensor

    def __init__(
        self, source: str, *, selection: str = "hard", k: int = 1, gradient: str = "none", anneal: int = 0
    ) -> None:
        super().__init__()
        if source not in ROUTERS:
            raise ConfigError(unknown("router source", source, ROUTERS))
        self.source, self.selection, self.k, self.gradient = source, selection, k, gradient
        if source == "uniform":
            self.selection = "soft"
        self.anneal = anneal
        if anneal and self.selection != "hard":
            raise ConfigError(f"annealing ends in a hard choice, the selection is {self.selection!r}")
        if anneal:
            self.register_buffer("seen", torch.tensor(0))

    def forward(self, scores: Scores) -> Routing:
        """Choose experts [B, k] and their weights."""
        logits = ROUTERS[self.source](scores)
        routing = select(logits, selection=self.selection, k=self.k, gradient=self.gradient)
        if not (self.anneal and self.training):
            return routing
        hard = min(float(self.seen) / self.anneal, 1.0)
        self.seen += 1
        return routing if hard == 1.0 else soften(routing, hard)


def soften(routing: Routing, hard: float) -> Routing:
    """Mix a choice of one expert with all experts equally.

    Args:
        routing: Of k = 1.
        hard: Share of the choice, in [0, 1].

    Returns:
        Routing [B, K] over all experts; the weights of an image add up to `hard` times its weight + 1 - `hard`.
    """
    count = routing.logits.shape[1]
    every = torch.arange(count, device=routing.expert.device).expand(len(routing.expert), count)
    chosen = routing.weight * (every == routing.expert)  # [B, K]
    return Routing(logits=routing.logits, expert=every, weight=hard * chosen + (1 - hard) / count)
