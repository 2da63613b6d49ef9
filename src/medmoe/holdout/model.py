"""From a head fitted on a bank to a whole model that can be saved, loaded and asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from medmoe.build import build_model, build_tokenizer, facts_of, preprocess_of
from medmoe.config import RunConfig
from medmoe.data.crops import RandomCrop
from medmoe.data.sources.base import Source
from medmoe.data.transforms import Augment
from medmoe.encoders.descriptor import Descriptor
from medmoe.errors import ConfigError
from medmoe.gate import Gate
from medmoe.holdout.bank import Measuring
from medmoe.holdout.head import BankRouter
from medmoe.modalities import MODALITIES
from medmoe.model import MedVLM


def blank_model(config: RunConfig, modalities: Sequence[str], source: Source) -> MedVLM:
    """Build a model with fresh weights for some modalities; its vocabulary is that of a source's reports.

    Raises:
        ConfigError: If its image encoder isn't a descriptor, which alone can be measured beforehand.
    """
    if config.model.vision.name != Descriptor.name:
        raise ConfigError(
            f"{config.model.vision.name!r} learns from the images", where="model.vision.name", remedy="descriptor"
        )
    reports = [sample.report for sample in facts_of(source) if sample.report]
    words = [f"{row.phrase}." for row in MODALITIES.values()]
    tokenizer = build_tokenizer(config.model.text, [*words, *reports])
    model = config.model.model_copy(update={"modalities": tuple(modalities)})
    return build_model(model, tokenizer, seed=config.train.seed)


def measuring_of(model: MedVLM, config: RunConfig) -> Measuring:
    """Give how a model's descriptor measures images for training."""
    assert model.assets is not None
    assert isinstance(model.vision, Descriptor)
    data = config.data
    return Measuring(
        descriptor=model.vision.eval(),
        preprocess=preprocess_of(model.assets.preprocess),
        crop=RandomCrop(chance=data.crop) if data.crop > 0 else None,
        augment=Augment(strength=data.augment, flip=data.flip) if data.augment > 0 else None,
        seed=config.train.seed,
    )


def save_router(model: MedVLM, router: BankRouter, gate: Gate, folder: Path) -> Path:
    """Put a fitted head and its gate into a model, and save it."""
    assert isinstance(model.vision, Descriptor)
    assert model.assets is not None
    model.vision.standard.load_state_dict(router.standard.state_dict())
    model.image_router.load_state_dict(router.head.state_dict())
    model.assets = dataclasses.replace(model.assets, gate=gate.to_dict())
    return model.eval().save_pretrained(folder)
