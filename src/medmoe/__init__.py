"""Vision-language models over your own medical images, with modality-specialised experts.

>>> import medmoe
>>> medmoe.list_models()
['medmoe-tiny', 'medmoe-swin-t']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medmoe.build import load_model as from_pretrained
    from medmoe.predictor import Predictor
    from medmoe.recipes.models import create_model, list_models

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "create_model", "from_pretrained", "list_models"]

# name → (module, attribute): loaded at first use, so that `import medmoe` costs little
_LAZY = {
    "Predictor": ("medmoe.predictor", "Predictor"),
    "create_model": ("medmoe.recipes.models", "create_model"),
    "from_pretrained": ("medmoe.build", "load_model"),
    "list_models": ("medmoe.recipes.models", "list_models"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(importlib.import_module(module), attribute)
    try:
        return importlib.import_module(f"medmoe.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"medmoe.{name}":
            raise
        raise AttributeError(f"module 'medmoe' has no attribute {name!r}") from None
