"""The reject option of a router: which images it takes, by how sure it is and how near they lie to what it knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from medmoe.errors import ModelError, unknown


@dataclass(frozen=True, slots=True)
class Gate:
    """Takes an image when the router is sure enough and the image isn't too far from the modality it names.

    Far is measured on what the router reads (`image_statistics`): the mean over features of the squared distance from
    the named modality's mean, in its standard deviations, each at most 16, so that no single feature decides.

    Attributes:
        least_probability: Of the modality named.
        most_distance: Of the image from it; infinity: any.
        means: [K, F] of each modality's training images.
        spreads: [K, F] standard deviations of these, above 0.
        about: How it was set, for the reader.
    """

    least_probability: float
    most_distance: float
    means: tuple[tuple[float, ...], ...]
    spreads: tuple[tuple[float, ...], ...]
    about: str = ""

    def distance(self, features: Tensor, chosen: Tensor) -> Tensor:
        """Measure how far images lie from the modalities that they are taken for.

        Args:
            features: [B, F] what the router reads.
            chosen: [B] int64 modality of each.

        Returns:
            [B] float32.
        """
        means, spreads = torch.tensor(self.means)[chosen], torch.tensor(self.spreads)[chosen]
        return ((features.float().cpu() - means) / spreads).square().clamp(max=16).mean(dim=1)

    def accepts(self, logits: Tensor, features: Tensor) -> Tensor:
        """Tell which images are taken: [B] bool, from logits [B, K] and features [B, F]."""
        probability, chosen = logits.float().cpu().softmax(dim=1).max(dim=1)
        return (probability >= self.least_probability) & (self.distance(features, chosen) <= self.most_distance)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values, JSON-ready."""
        values = asdict(self)
        return {**values, "most_distance": None if math.isinf(self.most_distance) else self.most_distance}

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
            far = values["most_distance"]
            gate = cls(
                float(values["least_probability"]),
                math.inf if far is None else float(far),
                tuple(tuple(float(x) for x in row) for row in values["means"]),
                tuple(tuple(float(x) for x in row) for row in values["spreads"]),
                str(values.get("about", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"isn't a gate ({error!r})", where=where, remedy="set the gate again") from None
        shapes = {len(row) for row in (*gate.means, *gate.spreads)}
        if len(shapes) > 1 or len(gate.means) != len(gate.spreads) or any(min(row) <= 0 for row in gate.spreads):
            raise ModelError("means and spreads don't fit each other", where=where, remedy="set the gate again")
        return gate
