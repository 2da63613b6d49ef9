"""The reject option of a router: which images it takes, by how sure it is and how near they lie to what it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from medmoe.errors import ModelError, unknown


@dataclass(frozen=True, slots=True)
class Gate:
    """Takes an image when a score is high enough: the log-odds of the modality named, less the distance from it.

    The distance is Mahalanobis', squared, from the modality's mean (Lee et al., 2018,
    https://arxiv.org/abs/1807.03888), on the first F of the features that the router reads (`image_statistics`).

    Attributes:
        sure: Weight of the log-odds, 0 or more.
        near: Weight of the distance, 0 or more.
        least: [K] score from which an image is taken, for each modality named.
        means: [K, F] of each modality's training images.
        inverse: [F, F] of their common covariance, over F: the images it was made from lie at a distance of about 1.
        about: How it was set, for the reader.
    """

    sure: float
    near: float
    least: tuple[float, ...]
    means: Tensor
    inverse: Tensor
    about: str = ""

    def signals(self, logits: Tensor, features: Tensor) -> Tensor:
        """Give log-odds of the modality named, and distance from it: [B, 2] float64.

        Args:
            logits: [B, K] of the image router.
            features: [B, F or more] what it reads.
        """
        logits = logits.detach().double().cpu()
        best, chosen = logits.max(dim=1)
        others = logits.scatter(1, chosen[:, None], -torch.inf)
        away = features.detach().double().cpu()[:, : self.means.shape[1]] - self.means.double()[chosen]
        distance = torch.einsum("bf,fg,bg->b", away, self.inverse.double(), away)
        return torch.stack([best - others.logsumexp(dim=1), distance], dim=1)

    def score(self, logits: Tensor, features: Tensor) -> Tensor:
        """Give the score of each image, higher for what should be taken: [B] float64; see `signals`."""
        return self.signals(logits, features) @ torch.tensor([self.sure, -self.near], dtype=torch.float64)

    def accepts(self, logits: Tensor, features: Tensor) -> Tensor:
        """Tell which images are taken: [B] bool; see `signals`. An image whose score is NaN isn't."""
        least = torch.tensor(self.least, dtype=torch.float64)[logits.argmax(dim=1).cpu()]
        return self.score(logits, features) >= least

    def to_dict(self) -> dict[str, Any]:
        """Give plain values, JSON-ready, which bring back the same gate."""
        plain = {"about": self.about, "sure": self.sure, "near": self.near, "least": list(self.least)}
        return {**plain, "means": self.means.tolist(), "inverse": self.inverse.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str) -> Gate:
        """Build from what `to_dict` gave.

        Raises:
            ModelError: If a key is unknown or missing, or a value is of the wrong form.
        """
        names = [field.name for field in fields(cls)]
        for key in values:
            if key not in names:
                raise ModelError(unknown("key", key, names), where=where, remedy="set the gate again")
        try:
            gate = cls(
                float(values["sure"]),
                float(values["near"]),
                tuple(float(value) for value in values["least"]),
                torch.tensor(values["means"], dtype=torch.float32),
                torch.tensor(values["inverse"], dtype=torch.float32),
                str(values.get("about", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"isn't a gate ({error!r})", where=where, remedy="set the gate again") from None
        count = gate.means.shape[-1] if gate.means.ndim == 2 else 0
        if gate.means.shape != (len(gate.least), count) or gate.inverse.shape != (count, count) or not count:
            raise ModelError("its parts don't fit each other", where=where, remedy="set the gate again")
        return gate
