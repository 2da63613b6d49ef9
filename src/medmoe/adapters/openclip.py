"""Models in open_clip's folder layout, BiomedCLIP and UniMed-CLIP among them, through open_clip itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medmoe.adapters.base import Adapter, Features
from medmoe.adapters.bert import UNUSED, bert_config
from medmoe.adapters.folders import Folder, fill, some
from medmoe.adapters.pixels import Frame, Prepare, picture
from medmoe.adapters.unimed import NEEDS as UNIMED_NEEDS
from medmoe.adapters.unimed import is_unimed, renamed, unimed_config
from medmoe.adapters.words import Reader
from medmoe.errors import MissingDependencyError, ModelError
from medmoe.folder import read_json
from medmoe.types import Tokens

KIND = "open_clip"
CONFIG = "open_clip_config.json"
NEEDS = f"{CONFIG} and open_clip_model.safetensors, or {UNIMED_NEEDS}"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
_BERT = "text.transformer."


def matches(folder: Folder) -> bool:
    """Tell by open_clip's own configuration file, or by UniMed-CLIP's names."""
    return CONFIG in folder.names or is_unimed(folder.shapes)


def load(folder: Folder) -> Adapter:
    """Build a model with open_clip and fill it, without network and without pickle.

    Raises:
        MissingDependencyError: If open_clip isn't installed.
        ModelError: If configuration, weights or tokenizer are missing or don't fit.
    """
    library = _library()
    weights = folder.weight_file(_WEIGHTS)
    config = _config(folder)
    text = config["model_cfg"]["text_cfg"]
    if "hf_tokenizer_name" in text:
        folder.require_tokenizer(text["hf_tokenizer_name"])
    try:
        model = _build(library, folder, config)
        if is_unimed(folder.shapes):
            fill(model, renamed(folder.weights()), folder.path, unused=UNUSED)
        else:
            library.load_checkpoint(model, str(weights), strict=True)
    except (RuntimeError, ValueError, KeyError, TypeError, AssertionError, OSError) as error:
        reason = some([line.strip() for line in str(error).splitlines()], 2)
        remedy = "check that configuration and weights belong together"
        raise ModelError(f"open_clip can't load it ({reason})", where=str(folder.path), remedy=remedy) from error
    return Adapter(KIND, OpenClipTowers(model), _prepare(library, model), Reader(_encode(library, folder, text)))


def _config(folder: Folder) -> dict[str, Any]:
    """Read the configuration, or work out UniMed-CLIP's."""
    where = folder.path / CONFIG
    if CONFIG not in folder.names:
        return unimed_config(renamed(folder.shapes), str(folder.path))
    config = read_json(where)
    if not isinstance(config.get("model_cfg"), dict) or not {"text_cfg", "vision_cfg"} <= set(config["model_cfg"]):
        remedy = "give the file that open_clip's push_to_hf_hub writes, with model_cfg and preprocess_cfg"
        raise ModelError("no model_cfg with text_cfg and vision_cfg", where=str(where), remedy=remedy)
    return config


def _build(library: Any, folder: Folder, config: dict[str, Any]) -> Any:
    """Build a model with random weights; a text tower that open_clip would fetch by name is built from the folder."""
    config = deepcopy(config)
    text = config["model_cfg"]["text_cfg"]
    with tempfile.TemporaryDirectory() as scratch:
        if "hf_model_name" in text:
            tower = _text_model(folder, text["hf_model_name"], Path(scratch))
            text |= {"hf_model_name": str(tower), "hf_model_pretrained": False}
        (Path(scratch) / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        return library.create_model(f"local-dir:{scratch}", load_weights=False, pretrained_text=False)


class OpenClipTowers(nn.Module):
    """An open_clip model; it has no local features in the joint space.

    Args:
        model: What `open_clip.create_model` gave.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def logit_scale(self) -> Tensor:
        """[] multiplier of the cosine."""
        scale: Tensor = self.model.logit_scale.exp()
        return scale.reshape(())

    def see(self, image: Tensor) -> Features:
        """Encode images."""
        return Features(self.model.encode_image(image))

    def read(self, tokens: Tokens) -> Features:
        """Encode texts."""
        return Features(self.model.encode_text(tokens.ids))


@dataclass(frozen=True)
class _Render:
    """open_clip's own transform for evaluation, on the pixels as a picture."""

    transform: Callable[[Any], Tensor]

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.transform(picture(pixels))


@dataclass(frozen=True)
class _Encode:
    """open_clip's own tokenizer: rows of the context's length, cut off there."""

    tokenizer: Callable[[list[str]], Tensor]

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        ids = self.tokenizer(texts)
        return ids, torch.ones_like(ids, dtype=torch.bool)


def _library() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise MissingDependencyError(
            "models in open_clip's layout need open_clip", remedy="pip install 'medmoe[import]'"
        ) from error
    return open_clip


def _prepare(library: Any, model: Any) -> Prepare:
    settings = dict(model.visual.preprocess_cfg)
    config = library.transform.PreprocessCfg(**settings)
    height, width = config.input_size[1:]
    fit = config.resize_mode or "shortest"
    settings |= {"size": [height, width], "mean": list(config.mean), "std": list(config.std), "library": KIND}
    render = _Render(library.transform.image_transform_v2(config, is_train=False))
    return Prepare(render, Frame(fit, (height, width), (height, width)), settings)


def _encode(library: Any, folder: Folder, text: dict[str, Any]) -> _Encode:
    own = {"local_files_only": True, "trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
    try:
        if CONFIG in folder.names:
            return _Encode(library.get_tokenizer(f"local-dir:{folder.path}", **own))
        return _Encode(library.tokenizer.HFTokenizer(str(folder.path), context_length=text["context_length"], **own))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise folder.bad_tokenizer(error) from error


def _text_model(folder: Folder, name: str, scratch: Path) -> Path:
    """Write the configuration of a Hugging Face text tower: the folder's own, or a BERT's by its weights.

    open_clip would fetch it from the network by its name.
    """
    lower = name.lower()
    other = "bert" not in lower or any(kind in lower for kind in ("roberta", "albert", "distilbert", "deberta"))
    if "model_type" in folder.config:
        config = {key: value for key, value in folder.config.items() if key != "auto_map"}  # which names code to run
    elif other:
        remedy = f"put the config.json of {name} into the folder"
        raise ModelError(f"the text tower {name} has no configuration there", where=str(folder.path), remedy=remedy)
    else:
        sizes = bert_config({}, renamed(folder.shapes), _BERT, str(folder.path))
        config = {**sizes.to_dict(), "model_type": "bert"}
    (scratch / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return scratch
