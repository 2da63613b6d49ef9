"""BERT from a local folder: its sizes by the configuration or by the shapes of its weights, and its fast tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from medmoe.adapters.folders import Folder
from medmoe.errors import ModelError

# Tensors that BERT checkpoints carry beside the encoder's.
UNUSED = r"(^|\.)(pooler\.|cls\.|embeddings\.position_ids$|embeddings\.token_type_ids$)"
_HEAD = 64  # width of an attention head in every published BERT but the tiny ones
_FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id"),
)


def bert_config(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], prefix: str, where: str) -> Any:
    """Give the `BertConfig` of an encoder.

    Args:
        config: What `config.json` says, if it says anything of BERT.
        shapes: Names and shapes of the weights.
        prefix: What stands before BERT's own names.
        where: The folder, for the error.

    Returns:
        From `config` where it has a width; else from the shapes, with heads 64 wide and the rest as in BERT-base.

    Raises:
        ModelError: If the weights are no BERT's.
    """
    from transformers import BertConfig  # slow to import

    if "hidden_size" in config:
        return BertConfig(**{name: config[name] for name in _FIELDS if name in config})
    try:
        vocab, width = shapes[f"{prefix}embeddings.word_embeddings.weight"]
        layers = [found for name in shapes if (found := re.match(rf"{re.escape(prefix)}encoder\.layer\.(\d+)\.", name))]
        return BertConfig(
            vocab_size=vocab,
            hidden_size=width,
            num_hidden_layers=1 + max(int(found[1]) for found in layers),
            num_attention_heads=max(1, width // _HEAD),
            intermediate_size=shapes[f"{prefix}encoder.layer.0.intermediate.dense.weight"][0],
            max_position_embeddings=shapes[f"{prefix}embeddings.position_embeddings.weight"][0],
            type_vocab_size=shapes[f"{prefix}embeddings.token_type_embeddings.weight"][0],
        )
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"no BERT under {prefix!r} in the weights ({error})", where=where, remedy="convert them again"
        ) from None


def bert_model(config: Any) -> Any:
    """Build an encoder without a pooler, its weights still random."""
    from transformers import BertModel

    model: Any = BertModel(config, add_pooling_layer=False)
    return model.eval()


def bert_tokenizer(folder: Folder, of: str) -> Any:
    """Read the fast tokenizer of a folder.

    Raises:
        ModelError: If there is none, or it can't be read.
    """
    from transformers import BertTokenizerFast  # type: ignore[attr-defined]

    folder.require_tokenizer(of)
    try:
        return BertTokenizerFast.from_pretrained(str(folder.path), local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise folder.bad_tokenizer(error) from error
