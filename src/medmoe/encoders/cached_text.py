"""A frozen text encoder that remembers on disk what it made of each report."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medmoe.encoders.text import HFText, cut
from medmoe.encoders.text_store import TextStore
from medmoe.errors import ModelError
from medmoe.types import TextFeatures, Tokens, move


def fingerprint(encoder: HFText) -> str:
    """Hash all that features depend on besides the report's pieces: weights, architecture, layers, pooling: 16 digits.

    The tokenizer isn't part of it: features are kept under the pieces that it made.
    """
    settings = {
        "config": encoder.config,
        "last_layers": encoder.last_layers,
        "pool": encoder.pool,
        "max_pieces": encoder.max_pieces,
        "transformers": metadata.version("transformers"),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


class CachedText(nn.Module):
    """Gives a frozen encoder's features, and runs it only on reports that it hasn't met.

    It stands wherever the encoder could: it has the same parameters under the same names. A report is known by its
    pieces as tokenized, so each sample of sentences of a long report is an entry of its own. Features are those of
    the encoder in float32, whatever autocast says, to within 1e-5: padding differs.

    Args:
        encoder: The frozen encoder.
        store: Where features are kept; its width is the encoder's.

    Attributes:
        width: C.
        vocab_size: Number of pieces the encoder knows.
        max_pieces: Longest report; longer ones are cut.
        asked: Reports asked for since `read`.
        found: Reports of those that the encoder wasn't run on.

    Raises:
        ModelError: If the encoder isn't frozen.
    """

    def __init__(self, encoder: HFText, store: TextStore) -> None:
        super().__init__()
        if not encoder.frozen:
            raise ModelError("only what a frozen text encoder says can be kept", where="model.text.frozen")
        # The encoder's own tables and not the encoder, whose name would come before those of its parameters.
        self._parameters, self._buffers, self._modules = encoder._parameters, encoder._buffers, encoder._modules
        self._encoder = (encoder,)
        self.store = store
        self.width, self.vocab_size, self.max_pieces = encoder.width, encoder.vocab_size, encoder.max_pieces
        self.training = False
        self.asked = self.found = 0

    @classmethod
    def in_folder(cls, encoder: HFText, folder: Path | str, *, limit_mb: int, kind: str = "float32") -> CachedText:
        """Keep features in the folder's subfolder of this encoder, so that several encoders may share a folder."""
        own = Path(folder) / f"{fingerprint(encoder)}-{kind}"
        return cls(encoder, TextStore(own, width=encoder.width, limit=limit_mb * 2**20, kind=kind))

    def train(self, mode: bool = True) -> CachedText:
        """Stay in evaluation mode, as the frozen encoder does."""
        self._encoder[0].train(mode)
        return self

    def forward(self, tokens: Tokens) -> TextFeatures:
        """Give the features of B reports, on the device of `tokens`; on the CPU nothing waits for a device."""
        host = cut(tokens.to("cpu"), self.max_pieces)
        pieces, words = _lengths(host)
        keys = _keys(host, pieces)
        known: dict[bytes, NDArray[Any]] = {}
        missing: dict[bytes, int] = {}  # key → row
        for row, key in enumerate(keys):
            if key in known or key in missing:
                continue
            nothing = pieces[row] == 0  # of which the encoder makes zeros
            found = np.zeros((1, self.width)) if nothing else self.store.get(key, 1 + int(words[row]))
            if found is None:
                missing[key] = row
            else:
                known[key] = found
        known |= self._encode(host, missing, pieces, words)
        self.asked += len(keys)
        self.found += len(keys) - len(missing)
        return self._gather(tokens, host.word_mask, [known[key] for key in keys])

    def read(self) -> dict[str, Any]:
        """Give the share of reports that were known, and why no more are kept, if so; and start to count anew."""
        row: dict[str, Any] = {"text_known": self.found / max(self.asked, 1)}
        if self.store.refused:
            row["text_cache"] = self.store.refused
        self.asked = self.found = 0
        return row

    @torch.no_grad()
    def _encode(
        self, host: Tokens, missing: dict[bytes, int], pieces: NDArray[Any], words: NDArray[Any]
    ) -> dict[bytes, NDArray[Any]]:
        """Run the encoder on rows of the tokens, keep what it says, and give it: report and words, [1 + n, C] each."""
        if not missing:
            return {}
        rows = list(missing.values())
        longest, most = int(pieces[rows].max()), int(words[rows].max())
        encoder = self._encoder[0]
        device = next(encoder.parameters()).device
        some = Tokens(
            ids=host.ids[rows, :longest],
            mask=host.mask[rows, :longest],
            word=host.word[rows, :longest],
            word_mask=host.word_mask[rows, :most],
        )
        with torch.autocast(device.type, enabled=False):
            features = encoder(some.to(device))
        together = torch.cat([features.report[:, None], features.words], 1).cpu().numpy()  # [R, 1 + N, C]
        said = {}
        for key, row, values in zip(missing, rows, together, strict=True):
            whole = values[: 1 + int(words[row])]
            with np.errstate(over="ignore"):
                kept = whole.astype(self.store.kind)
            fits = bool(np.isfinite(kept).all())
            if fits:
                self.store.put(key, kept)
            said[key] = kept if fits else whole  # as it would be read back: the first time is like the next
        return said

    def _gather(self, tokens: Tokens, word_mask: Tensor, known: list[NDArray[Any]]) -> TextFeatures:
        shape = (*tokens.word_mask.shape, self.width)
        pin = tokens.ids.device.type == "cpu" and torch.cuda.is_available()
        words, report = torch.zeros(shape, pin_memory=pin), torch.empty(shape[0], self.width, pin_memory=pin)
        for row, values in enumerate(known):
            report[row] = torch.from_numpy(values[0].astype(np.float32))
            words[row, : len(values) - 1] = torch.from_numpy(values[1:].astype(np.float32))
        features = TextFeatures(words=words, word_mask=word_mask, report=report)
        return features if tokens.ids.device.type == "cpu" else move(features, tokens.ids.device)


def _lengths(tokens: Tokens) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the pieces [B] and words [B] of each report, up to its last one."""
    used = (tokens.mask | (tokens.word >= 0)).numpy()
    pieces = (used * np.arange(1, used.shape[1] + 1)).max(1, initial=0)
    return pieces, tokens.word.numpy().max(1, initial=-1) + 1


def _keys(tokens: Tokens, pieces: NDArray[np.int64]) -> list[bytes]:
    """Hash each report's pieces, and which word each is of, to 16 bytes."""
    table = torch.stack([tokens.ids, tokens.mask.long(), tokens.word]).numpy()  # [3, B, T]
    return [
        hashlib.blake2b(table[:, row, :count].tobytes(), digest_size=16).digest()
        for row, count in enumerate(pieces.tolist())
    ]
