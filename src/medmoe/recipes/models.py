"""Models by name, with fresh weights: `create_model` and `list_models`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medmoe.build import build_model, build_tokenizer
from medmoe.config import RunConfig
from medmoe.data.sources.phantom import PhantomSource
from medmoe.errors import ModelError, unknown
from medmoe.modalities import SIX
from medmoe.model import MedVLM
from medmoe.recipes.medmoe import medmoe, tiny

MODELS: dict[str, Callable[[], RunConfig]] = {"medmoe-tiny": tiny, "medmoe-swin-t": medmoe}


def list_models() -> list[str]:
    """List the names that `create_model` knows."""
    return list(MODELS)


def create_model(name: str, *, modalities: Sequence[str] = SIX, seed: int = 0) -> MedVLM:
    """Create a named model with fresh weights and a small general vocabulary.

    Args:
        name: One of `list_models()`.
        modalities: Experts' modalities.
        seed: Of the weights.

    Raises:
        ModelError: If the name is unknown.
    """
    if name not in MODELS:
        raise ModelError(unknown("model", name, MODELS), remedy="see medmoe.list_models()")
    config = MODELS[name]().model.model_copy(update={"modalities": tuple(modalities)})
    return build_model(config, build_tokenizer(config.text, _vocabulary_reports()), seed=seed).eval()


def _vocabulary_reports() -> list[str]:
    source = PhantomSource(200)
    return [source.facts(index).report or "" for index in range(len(source))]
