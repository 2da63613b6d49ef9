"""Reports to word features: a small transformer for CPUs, and any BERT-style encoder of Hugging Face."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmoe.encoders.pretrained import LoadReport, load_matching
from medmoe.errors import ModelError, unknown
from medmoe.layers import quicken
from medmoe.types import TextFeatures, Tokens


def aggregate_words(pieces: Tensor, word: Tensor, n_words: int) -> Tensor:
    """Sum the pieces of each word.

    Args:
        pieces: [B, T, C] piece features.
        word: [B, T] int64 index of the piece's word in [0, N), or -1 for a piece that belongs to none.
        n_words: N.

    Returns:
        [B, N, C] word features; zero where a word has no piece.
    """
    batch, _, width = pieces.shape
    slots = n_words + 1  # the last slot takes the pieces of no word
    slot = torch.where(word < 0, n_words, word)  # [B, T]
    row = torch.arange(batch, device=word.device)[:, None] * slots
    sums = pieces.new_zeros(batch * slots, width).index_add(0, (slot + row).flatten(), pieces.flatten(0, 1))
    return sums.view(batch, slots, width)[:, :n_words]


def mean_pieces(pieces: Tensor, mask: Tensor) -> Tensor:
    """Average [B, T, C] pieces over those a [B, T] bool mask keeps; zero where it keeps none."""
    kept = mask.to(pieces.dtype)[..., None]  # [B, T, 1]
    return (pieces * kept).sum(1) / kept.sum(1).clamp(min=1)


def cut(tokens: Tokens, max_pieces: int) -> Tokens:
    """Drop the pieces beyond the first `max_pieces`, and the words none of whose pieces is left."""
    if tokens.ids.shape[1] <= max_pieces:
        return tokens
    word = tokens.word[:, :max_pieces]
    n_words = tokens.word_mask.shape[1]
    left = aggregate_words(torch.ones_like(word)[..., None], word, n_words)[..., 0] > 0  # [B, N]
    return dataclasses.replace(
        tokens,
        ids=tokens.ids[:, :max_pieces],
        mask=tokens.mask[:, :max_pieces],
        word=word,
        word_mask=tokens.word_mask & left,
    )


def _attendable(mask: Tensor) -> Tensor:
    """Let a report without any piece attend to its first place: attention over nothing is NaN."""
    first = torch.zeros_like(mask)
    first[:, 0] = True
    return mask | (first & ~mask.any(1, keepdim=True))


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Where the pieces of B reports lie in a padded [B, T] table.

    Half of a mixed batch is padding, and only attention needs the table: everything else works on the pieces alone,
    packed.

    Attributes:
        mask: [B, T] bool, the table's pieces.
        keys: [B, 1, 1, T] bool, the pieces that may be attended to.
        place: [P] int64 place of each packed piece in the flattened table; None to pack nothing, as on an
            accelerator, where counting the pieces would wait for the device, and when compiled, where shapes stay the
            same from batch to batch.
    """

    mask: Tensor
    keys: Tensor
    place: Tensor | None

    @classmethod
    def of(cls, mask: Tensor) -> Layout:
        """Lay out the pieces that a [B, T] bool mask keeps."""
        counted = mask.device.type == "cpu" and not torch.compiler.is_compiling()
        place = mask.flatten().nonzero()[:, 0] if counted else None
        return cls(mask, _attendable(mask)[:, None, None, :], place)

    def pack(self, table: Tensor) -> Tensor:
        """Take the pieces [P, C] out of [B, T, C]."""
        flat = table.flatten(0, 1)
        return flat if self.place is None else flat.index_select(0, self.place)

    def spread(self, pieces: Tensor) -> Tensor:
        """Put the pieces [P, C] into [B, T, C], zero elsewhere."""
        if self.place is None:
            return pieces.view(*self.mask.shape, pieces.shape[1])
        flat = pieces.new_zeros(self.mask.numel(), pieces.shape[1]).index_copy(0, self.place, pieces)
        return flat.view(*self.mask.shape, pieces.shape[1])


def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Let queries [B, heads, T, c] attend to the keys that a mask [B, 1, 1, T] allows.

    torch's fused attention, but for bfloat16 on a CPU, where its backward pass takes seven times as long as that of
    the plain products.
    """
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keys, dropout_p=dropout)
    score = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(2, 3)).masked_fill(~keys, torch.finfo(q.dtype).min)
    return torch.matmul(F.dropout(score.softmax(dim=-1), dropout), v)


class Block(nn.Module):
    """A pre-norm transformer layer (Xiong et al., 2020, https://arxiv.org/abs/2002.04745)."""

    def __init__(self, width: int, heads: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp * width), nn.GELU(), nn.Linear(mlp * width, width))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Map packed pieces [P, C] to the same shape; those of one report attend to each other."""
        width = x.shape[1]
        qkv = layout.spread(self.qkv(self.norm_attention(x)))  # [B, T, 3C]
        q, k, v = qkv.view(*qkv.shape[:2], 3, self.heads, width // self.heads).permute(
            2, 0, 3, 1, 4
        )  # [B, heads, T, C/heads]
        rate = self.dropout if self.training else 0.0
        y = attend(q, k, v, layout.keys, dropout=rate)
        y = layout.pack(y.transpose(1, 2).flatten(2))
        x = x + F.dropout(self.out(y), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.norm_mlp(x)), self.dropout, self.training)


class TinyText(nn.Module):
    """A small transformer over word pieces, learned with the rest of the model.

    Word features are the sums of their pieces; the report feature is the mean of all pieces, special ones included,
    and zero for a report that has none. Padding changes nothing.

    Args:
        vocab_size: Number of pieces the tokenizer knows.
        width: C.
        depth: Layers.
        heads: Attention heads of each layer; they divide `width`.
        mlp: Hidden width of each layer's MLP, as a multiple of `width`.
        max_pieces: Positions; longer reports are cut.
        pad_id: Id of the padding piece.
        dropout: Rate in training, of attention and of both branches.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        mlp: int = 2,
        max_pieces: int = 512,
        pad_id: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"the text encoder's width {width} is not a multiple of its {heads} heads")
        self.width, self.vocab_size, self.max_pieces = width, vocab_size, max_pieces
        self.piece = nn.Embedding(vocab_size, width, padding_idx=pad_id)
        self.position = nn.Parameter(torch.empty(max_pieces, width))
        self.blocks = nn.ModuleList(Block(width, heads, mlp, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.position, std=0.02)
        nn.init.normal_(self.piece.weight, std=0.02)
        with torch.no_grad():
            self.piece.weight[pad_id].zero_()

    def forward(self, tokens: Tokens) -> TextFeatures:
        """Compute the features of B reports; see the class."""
        tokens = cut(tokens, self.max_pieces)
        layout = Layout.of(tokens.mask)
        x = layout.pack(self.piece(tokens.ids) + self.position[: tokens.ids.shape[1]])  # [B, T, C] -> [P, C]
        for block in self.blocks:
            x = block(x, layout)
        x = layout.spread(self.norm(x))  # [B, T, C]
        return _features(x, tokens, mean_pieces(x, tokens.mask))


def _features(pieces: Tensor, tokens: Tokens, report: Tensor) -> TextFeatures:
    words = aggregate_words(pieces, tokens.word, tokens.word_mask.shape[1])  # [B, N, C]
    return TextFeatures(words=words, word_mask=tokens.word_mask, report=report)


def first_piece(pieces: Tensor, mask: Tensor) -> Tensor:
    """Take the first of [B, T, C] pieces, [CLS] in BERT; zero where the [B, T] bool mask drops it."""
    return pieces[:, 0] * mask[:, :1].to(pieces.dtype)


POOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean_pieces, "cls": first_piece}

# Families whose positions are counted from the padding id on.
_POSITIONS_AFTER_PADDING = {
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert"),
    *("mpnet", "longformer", "data2vec-text"),
}

# Keys of a Hugging Face config that say how its weights were stored or run, not what the model is.
_NOT_ARCHITECTURE = ("model_type", "dtype", "torch_dtype", "auto_map", "transformers_version", "_name_or_path")


class HFText(nn.Module):
    """A BERT-style encoder of Hugging Face; its last layers are summed, then the pieces of each word.

    Args:
        config: The model's Hugging Face configuration (`config.json` as a dict); weights start at random.
        last_layers: How many hidden layers are summed, counted from the last one, which is always among them.
        pool: How the report feature is made: `mean` of all pieces, special ones included, or `cls`, the first piece.
        frozen: Keep the weights as they are: no gradient, no dropout, whatever mode the model is in.

    Attributes:
        width: C.
        max_pieces: Positions the model has; longer reports are cut.
        vocab_size: Number of pieces the model knows; the tokenizer may not have more.
        config: The configuration again, enough to build the same model.
        loaded: What was used of the folder's weights, or None.

    Raises:
        ModelError: If the configuration is of no encoder that transformers knows, or an option isn't allowed.
    """

    def __init__(
        self, config: Mapping[str, Any], *, last_layers: int = 4, pool: str = "mean", frozen: bool = False
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ModelError(unknown("pool", pool, POOLS))
        self.model, settings = _create(config)
        quicken(self.model)
        if not 1 <= last_layers <= settings.num_hidden_layers:
            raise ModelError(f"last_layers is {last_layers}; the text encoder has {settings.num_hidden_layers} layers")
        self.last_layers, self.pool, self.frozen = last_layers, pool, frozen
        self.width: int = settings.hidden_size
        self.vocab_size: int = settings.vocab_size
        self.max_pieces = _max_pieces(settings)
        self.config = dict(config)
        self.loaded: LoadReport | None = None
        if frozen:
            self.requires_grad_(False)
            self.train(False)

    @classmethod
    def from_folder(
        cls, folder: Path | str, *, last_layers: int = 4, pool: str = "mean", frozen: bool = False
    ) -> HFText:
        """Build the encoder of a local Hugging Face folder (`config.json`, `model.safetensors`) with its weights.

        Never uses the network.

        Raises:
            ModelError: If a file is missing or broken, or the weights don't fill the whole encoder.
        """
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise ModelError(
                "no such file", where=str(path), remedy="give a folder saved by transformers' save_pretrained"
            )
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"not JSON ({error})", where=str(path), remedy="copy or download it again") from error
        encoder = cls(config, last_layers=last_layers, pool=pool, frozen=frozen)
        encoder.loaded = load_matching(encoder.model, folder)
        if not encoder.loaded.complete:
            raise ModelError(f"the weights don't fill the model of config.json: {encoder.loaded}", where=str(folder))
        return encoder

    def train(self, mode: bool = True) -> HFText:
        """Set the mode; a frozen encoder stays in eval mode."""
        return super().train(mode and not self.frozen)

    def forward(self, tokens: Tokens) -> TextFeatures:
        """Compute the features of B reports; see the class."""
        tokens = cut(tokens, self.max_pieces)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            out = self.model(
                input_ids=tokens.ids, attention_mask=_attendable(tokens.mask).long(), output_hidden_states=True
            )
            # The last hidden state is taken by its own name, and only the ones before it from the list.
            before = out.hidden_states[-self.last_layers : -1]
            pieces = torch.stack((*before, out.last_hidden_state)).sum(0)  # [B, T, C]
            return _features(pieces, tokens, POOLS[self.pool](pieces, tokens.mask))


def _create(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Build a transformers encoder with random weights, and the settings it was built from."""
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModel

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise ModelError(
            f"the text encoder's model_type {kind!r} is none that transformers knows", remedy="see config.json"
        )
    try:
        settings = AutoConfig.for_model(kind, **{k: v for k, v in config.items() if k not in _NOT_ARCHITECTURE})
        if getattr(settings, "is_encoder_decoder", False) or not hasattr(settings, "max_position_embeddings"):
            raise ModelError(f"{kind!r} is not a BERT-style encoder", remedy="choose an encoder such as bert")
        model: Any = AutoModel.from_config(settings)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, AssertionError) as error:
        raise ModelError(f"transformers can't build {kind!r} ({' '.join(str(error).split())})") from error
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # its output is not used, and unused parameters stop distributed training
    return model, settings


def _max_pieces(settings: Any) -> int:
    """Count the usable positions: RoBERTa's family starts counting after the padding id."""
    offset = settings.pad_token_id + 1 if settings.model_type in _POSITIONS_AFTER_PADDING else 0
    return int(settings.max_position_embeddings) - offset


TEXT: dict[str, Callable[..., nn.Module]] = {"tiny": TinyText, "hf": HFText}
