"""What judges a benchmark: any model that can embed images and prompts, seen in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch

from medmoe.adapters import Adapter
from medmoe.adapters import gather as gather_adapter
from medmoe.benchmarks.source import Part
from medmoe.build import tokenizer_of
from medmoe.data.sources.base import Source
from medmoe.evaluate import gather
from medmoe.model import MedVLM
from medmoe.tasks import Context, Evidence, make_context

# Images whose region features are held at a time; only their embeddings are kept.
_PART = 512


class Sight(Protocol):
    """Runs a model over a source."""

    def __call__(self, source: Source, *, controls: bool = False) -> Evidence:
        """Say what the model says of each image, in order; with controls, features that nobody trained too."""
        ...


@dataclass(frozen=True)
class Judge:
    """A model, as a benchmark uses it.

    Attributes:
        see: Runs it over a source.
        context: Encodes prompts; holds the modalities (none: it takes any), the seed and the number of resamples.
    """

    see: Sight
    context: Context


def judge_of(
    model: MedVLM | Adapter,
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: str = "cpu",
    seed: int = 0,
    resamples: int = 1000,
) -> Judge:
    """Give the judge of a model of this library, or of another one behind an adapter."""

    def see(source: Source, *, controls: bool = False) -> Evidence:
        if isinstance(model, Adapter):
            return gather_adapter(
                model, source, batch_size=batch_size, workers=workers, device=device, controls=controls
            )
        return gather(model, source, batch_size=batch_size, workers=workers, device=device, controls=controls)

    tokenizer = model.tokenizer if isinstance(model, Adapter) else tokenizer_of(model)
    return Judge(see, make_context(model, tokenizer, device=device, seed=seed, resamples=resamples))


def see_all(judge: Judge, source: Source, *, modality: str, controls: bool = False) -> Evidence:
    """Run a model over a source part by part, keeping of each image its embedding and what is known of it.

    Args:
        judge: The model.
        source: At least one image.
        modality: The modality that the samples get, also where the model doesn't know it.
        controls: Also keep features that nobody trained.
    """
    starts = range(0, len(source), _PART)
    parts = [_thin(judge.see(Part(source, start, start + _PART), controls=controls)) for start in starts]
    names = parts[0].features
    samples = tuple(replace(sample, modality=modality) for part in parts for sample in part.samples)
    return replace(
        parts[0],
        image_embed=torch.cat([part.image_embed for part in parts]),
        regions=torch.cat([part.regions for part in parts]),
        image_logits=torch.cat([part.image_logits for part in parts]),
        has_report=torch.cat([part.has_report for part in parts]),
        text_embed=torch.cat([part.text_embed for part in parts]),
        words=torch.cat([part.words for part in parts]),
        word_mask=torch.cat([part.word_mask for part in parts]),
        text_logits=torch.cat([part.text_logits for part in parts]),
        samples=samples,
        features={name: torch.cat([part.features[name] for part in parts]) for name in names},
    )


def _thin(evidence: Evidence) -> Evidence:
    """Leave out what takes memory and isn't read: regions and words."""
    return replace(
        evidence,
        regions=evidence.regions[:, :1, :1, :1].clone(),
        words=evidence.words[:, :0].clone(),
        word_mask=evidence.word_mask[:, :0].clone(),
        candidate_regions=None,
    )
