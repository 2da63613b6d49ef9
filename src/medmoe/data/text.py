"""Reports as word pieces, with the word each piece belongs to.

A word is what the tokenizer's pre-tokenizer splits off; only words with a letter or digit are numbered, so
punctuation never becomes a word of the local loss or of a heatmap.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from medmoe.errors import DataError, ModelError, unknown
from medmoe.types import Tokens

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SETTINGS = "tokenizer_settings.json"

_ALNUM = re.compile(r"[^\W_]")
# A sentence ends at .!? before white space (but not at "1. " or "3. ", which number a list) or at an empty line.
_SENTENCE_END = re.compile(r"(?<=[^\W\d][.!?])\s+|(?<=[)%\]\"'][.!?])\s+|\n\s*\n")

Ints = NDArray[np.int64]
Draws: TypeAlias = np.random.Generator | Callable[[int], np.random.Generator]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Pieces:
    """All pieces of a list of reports, one after the other, without special pieces.

    Attributes:
        ids: [P] piece ids.
        row: [P] the report each piece is of.
        bounds: [B + 1] where each report's pieces begin and end.
        group: [P] number of the piece's pre-tokenizer word, counted over all reports.
        begins: [P] whether the piece is the first of its word.
        counts: [P] whether the piece's word has a letter or digit.
    """

    ids: Ints
    row: Ints
    bounds: Ints
    group: Ints
    begins: Bools
    counts: Bools


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What `_Pieces` says of a unit of text that is encoded by itself, and the characters each piece covers."""

    ids: list[int]
    begins: list[bool]
    counts: list[bool]
    span: list[tuple[int, int]]


class ReportTokenizer:
    """Turns reports into `Tokens`.

    A report of more than `max_words` words is shortened in training only: sentences are drawn at random until no more
    fit, and kept in their order. In evaluation every sentence is kept. In both, whole words are dropped from the
    end of what is still longer than `max_pieces`.

    Args:
        tokenizer: A tokenizer of the `tokenizers` library; it is copied, without its truncation and padding.
        max_words: Longest report in training, in words.
        max_pieces: Longest row, in pieces, special pieces included.

    Raises:
        ModelError: If the tokenizer marks neither beginning nor end of a text, or a limit is too small.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_words: int = 64, max_pieces: int = 512) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # A BERT-style tokenizer splits at white space before anything else, so that each stretch between blanks can be
        # encoded once and remembered: several times as fast as encoding reports whole.
        splits = type(tokenizer.pre_tokenizer) is pre_tokenizers.BertPreTokenizer
        self._unit, self._memory = re.compile(r"[^ \t\r\n]+" if splits else r"(?s).+"), 65_536 if splits else 0
        self._known: dict[str, _Chunk] = {}
        self.max_words, self.max_pieces = max_words, max_pieces
        self._prefix, self._suffix = _affixes(self._tokenizer)
        if max_words < 1 or max_pieces <= len(self._prefix) + len(self._suffix):
            raise ModelError(f"max_words {max_words} and max_pieces {max_pieces} leave no room for a word")
        known = (self._tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>"))
        self.pad_id: int = next((found for found in known if found is not None), 0)

    @property
    def vocab_size(self) -> int:
        """Number of pieces, special ones included."""
        return int(self._tokenizer.get_vocab_size())

    @classmethod
    def train(cls, reports: Sequence[str], *, vocab_size: int = 4000, max_words: int = 64) -> ReportTokenizer:
        """Learn a lower-casing WordPiece vocabulary; the same reports always give the same one.

        Args:
            reports: The reports of the training split.
            vocab_size: Number of pieces aimed at; special pieces and single characters are always in.
            max_words: See the class.

        Raises:
            DataError: If there is no word in any report.
        """
        normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
        words: set[str] = set()
        for report in reports:
            words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(report)))
        if not any(_ALNUM.search(word) for word in words):
            raise DataError("no report has a word to learn a vocabulary from", remedy="give reports, or a tokenizer")
        # The trainer numbers the inner characters in the order of a randomly seeded hash table, and breaks ties
        # by those numbers. Reserving them as special pieces, sorted, makes it deterministic.
        inner = [f"##{character}" for character in sorted({character for word in words for character in word[1:]})]
        scratch = _wordpiece({"[UNK]": 0}, normalizer, splitter)
        scratch.train_from_iterator(
            reports,
            trainers.WordPieceTrainer(
                vocab_size=vocab_size, special_tokens=[*SPECIAL, *inner], limit_alphabet=1_000_000, show_progress=False
            ),
        )
        learned = _wordpiece(scratch.get_vocab(), normalizer, splitter)
        learned.add_special_tokens(list(SPECIAL))
        vocab = learned.get_vocab()
        learned.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
        return cls(learned, max_words=max_words)

    @classmethod
    def load(
        cls, folder: Path | str, *, max_words: int | None = None, max_pieces: int | None = None
    ) -> ReportTokenizer:
        """Read what `save` wrote, or the tokenizer of a local Hugging Face folder (`tokenizer.json` or `vocab.txt`).

        Args:
            folder: The folder.
            max_words: Overrides the saved setting.
            max_pieces: Overrides the saved setting.

        Raises:
            ModelError: If the folder holds no tokenizer that can be read.
        """
        folder = Path(folder)
        settings = _read_settings(folder / SETTINGS)
        if max_words is not None:
            settings["max_words"] = max_words
        if max_pieces is not None:
            settings["max_pieces"] = max_pieces
        return cls(_read_tokenizer(folder), **settings)

    def save(self, folder: Path | str) -> None:
        """Write `tokenizer.json` and `tokenizer_settings.json`, making the folder if needed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(folder / "tokenizer.json"))
        settings = {"max_words": self.max_words, "max_pieces": self.max_pieces}
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def __call__(self, reports: Sequence[str | None], *, rng: Draws | None = None) -> Tokens:
        """Tokenize B reports.

        Args:
            reports: The reports; None and an empty one give a row of special pieces only, without a word.
            rng: Draws the sentences of long reports, in training, or gives for each report what draws them; None keeps
                all, for evaluation.

        Returns:
            Tokens with T = the most pieces and N = the most words of any report here (at least 1).
        """
        texts = [report or "" for report in reports]
        pieces = self._split(texts)
        keep = self._keep(pieces, texts, rng)
        row, number, words = _number(pieces, keep, len(texts))
        kept = np.bincount(row, minlength=len(texts))
        head, tail = len(self._prefix), len(self._suffix)
        length = kept + head + tail
        shape = (len(texts), int(length.max(initial=head + tail)))
        ids, word = np.full(shape, self.pad_id, np.int64), np.full(shape, -1, np.int64)
        column = np.arange(len(row)) - np.repeat(np.cumsum(kept) - kept, kept) + head
        ids[row, column], word[row, column] = pieces.ids[keep], number
        ids[:, :head] = self._prefix
        for offset, piece in enumerate(self._suffix):
            ids[np.arange(len(texts)), head + kept + offset] = piece
        return Tokens(
            ids=torch.from_numpy(ids),
            mask=torch.from_numpy(np.arange(shape[1]) < length[:, None]),
            word=torch.from_numpy(word),
            word_mask=torch.from_numpy(np.arange(max(1, int(words.max(initial=0)))) < words[:, None]),
        )

    def words(self, report: str) -> list[str]:
        """List the words that evaluation numbers, in order and as written: `words(r)[i]` has word index i."""
        pieces = self._split([report])
        keep = self._keep(pieces, [report], None) & pieces.counts
        spans: list[list[int]] = []
        for (start, end), begins in zip(self._spans(report)[keep].tolist(), pieces.begins[keep].tolist(), strict=True):
            if begins:
                spans.append([start, end])
            spans[-1][1] = max(spans[-1][1], end)
        return [report[start:end].strip() for start, end in spans]

    def find(self, report: str, phrase: str) -> list[int]:
        """Find where a phrase first stands in a report, whatever its case, accents and punctuation.

        The first occurrence counts even where the report negates it.

        Returns:
            Word indices of the phrase, consecutive; empty when the report hasn't got it.
        """
        report_words = [_fold(word) for word in self.words(report)]
        phrase_words = [_fold(word) for word in self.words(phrase)]
        size = len(phrase_words)
        for first in range(len(report_words) - size + 1 if size else 0):
            if report_words[first : first + size] == phrase_words:
                return list(range(first, first + size))
        return []

    def _split(self, texts: list[str]) -> _Pieces:
        """Cut the texts into pieces and words."""
        ids: list[int] = []
        begins: list[bool] = []
        counts: list[bool] = []
        bounds = [0]
        units = [self._unit.findall(text) for text in texts]
        known = self._encode({unit for row in units for unit in row})
        for row in units:
            for unit in row:
                chunk = known[unit]
                ids += chunk.ids
                begins += chunk.begins
                counts += chunk.counts
            bounds.append(len(ids))
        first = np.array(begins, np.bool_)
        return _Pieces(
            ids=np.array(ids, np.int64),
            row=np.repeat(np.arange(len(texts)), np.diff(bounds)),
            bounds=np.array(bounds, np.int64),
            group=np.cumsum(first) - 1,
            begins=first,
            counts=np.array(counts, np.bool_),
        )

    def _spans(self, text: str) -> Ints:
        """Give the characters of the text that each of its pieces covers: [P, 2]."""
        units = [(match.start(), match.group()) for match in self._unit.finditer(text)]
        known = self._encode({unit for _, unit in units})
        spans = [(offset + start, offset + end) for offset, unit in units for start, end in known[unit].span]
        return np.array(spans, np.int64).reshape(-1, 2)

    def _encode(self, units: set[str]) -> dict[str, _Chunk]:
        """Encode units of text, those met before from memory."""
        if len(self._known) > self._memory:
            self._known = {}
        missing = sorted(units - self._known.keys())
        if missing:
            encodings = self._tokenizer.encode_batch(missing, add_special_tokens=False)
            self._known.update((unit, _chunk(unit, code)) for unit, code in zip(missing, encodings, strict=True))
        return self._known

    def _keep(self, pieces: _Pieces, texts: list[str], rng: Draws | None) -> Bools:
        """Choose the pieces of each report that fit the limits: [P]."""
        keep = np.ones(len(pieces.ids), np.bool_)
        if rng is not None:
            words = np.bincount(pieces.row, weights=pieces.begins & pieces.counts, minlength=len(texts))
            for index in np.flatnonzero(words > self.max_words):
                part = slice(*pieces.bounds[index : index + 2])
                own = rng if isinstance(rng, np.random.Generator) else rng(int(index))
                keep[part] = self._draw(texts[index], pieces, part, own)
        room = self.max_pieces - len(self._prefix) - len(self._suffix)
        for index in np.flatnonzero(np.diff(pieces.bounds) > room):
            first, last = pieces.bounds[index : index + 2]
            places = first + np.flatnonzero(keep[first:last])
            if len(places) > room:
                # The word that crosses the limit goes as a whole.
                crossing = pieces.group[places] >= pieces.group[places[room]]
                keep[places[crossing]] = False
        return keep

    def _draw(self, text: str, pieces: _Pieces, part: slice, rng: np.random.Generator) -> Bools:
        """Choose sentences of one long report that fit `max_words` together; the first one drawn is cut to fit."""
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        sentence = np.searchsorted(np.array(ends, np.int64), self._spans(text)[:, 0], side="right")
        first = pieces.begins[part] & pieces.counts[part]
        size = np.bincount(sentence, weights=first).astype(np.int64)
        chosen: list[int] = []
        left = self.max_words
        for candidate in rng.permutation(np.flatnonzero(size)):
            if not chosen or size[candidate] <= left:
                chosen.append(candidate)
                left -= int(size[candidate])
        keep = np.isin(sentence, chosen)
        return keep & (np.cumsum(first & keep) <= self.max_words)


def _chunk(unit: str, encoding: Encoding) -> _Chunk:
    """Note which pieces of a unit begin a word, and which are of a word with a letter or digit."""
    begins, counts, last = [], [], -1
    wordy = {
        word
        for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True)
        if word is not None and _ALNUM.search(unit, start, end)
    }
    for word in encoding.word_ids:
        # A special piece spelled out in a report has no word number, and is of no word.
        begins.append(word is None or word != last)
        counts.append(word in wordy)
        last = -1 if word is None else word
    return _Chunk(encoding.ids, begins, counts, encoding.offsets)


def _number(pieces: _Pieces, keep: Bools, rows: int) -> tuple[Ints, Ints, Ints]:
    """Number the words of the kept pieces: their row [Q], their word index or -1 [Q], and each row's words [B]."""
    row, counts = pieces.row[keep], pieces.counts[keep]
    first = pieces.begins[keep] & counts
    words = np.bincount(row, weights=first, minlength=rows).astype(np.int64)
    before = np.cumsum(words) - words
    return row, np.where(counts, np.cumsum(first) - 1 - before[row], -1), words


def _fold(word: str) -> str:
    """Spell a word so that case, accents and punctuation make no difference."""
    return "".join(c for c in unicodedata.normalize("NFKD", word).casefold() if c.isalnum())


def _wordpiece(
    vocab: dict[str, int], normalizer: normalizers.Normalizer, splitter: pre_tokenizers.PreTokenizer
) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _affixes(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Find the special pieces that the tokenizer puts before and after a text."""
    bare, full = tokenizer.encode("a", add_special_tokens=False).ids, tokenizer.encode("a").ids
    extra = len(full) - len(bare)
    for head in range(extra + 1):
        if extra and full[head : head + len(bare)] == bare:
            return full[:head], full[head + len(bare) :]
    begin, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    if begin is None or end is None:
        raise ModelError("the tokenizer marks neither beginning nor end of a text", remedy="use a BERT-style tokenizer")
    return [begin], [end]


def _read_settings(path: Path) -> dict[str, int]:
    """Read the limits that `save` wrote; none where there is no such file."""
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError("not valid JSON", where=str(path), remedy="save the tokenizer again") from error
    allowed = ("max_words", "max_pieces")
    for key, value in settings.items() if isinstance(settings, dict) else ():
        if key not in allowed:
            raise ModelError(unknown("setting", key, allowed), where=str(path))
        if not isinstance(value, int):
            raise ModelError(f"{key} is {value!r}, not a whole number", where=str(path))
    return dict(settings)


def _read_tokenizer(folder: Path) -> Tokenizer:
    """Read `tokenizer.json`, or build the tokenizer of a folder that has only `vocab.txt`."""
    path = folder / "tokenizer.json"
    if path.exists():
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"can't be read ({error})", where=str(path), remedy="fetch the file again") from error
    if not (folder / "vocab.txt").exists():
        raise ModelError(
            "no tokenizer.json or vocab.txt",
            where=str(folder),
            remedy="give a folder saved by medmoe or a Hugging Face model folder",
        )
    if not any((folder / name).exists() for name in ("config.json", "tokenizer_config.json")):
        vocab = models.WordPiece.read_file(str(folder / "vocab.txt"))
        return _wordpiece(vocab, normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer())
    from transformers import AutoTokenizer  # slow to import, and rarely needed

    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        backend: Tokenizer = loaded.backend_tokenizer
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            f"vocab.txt can't be read as a fast tokenizer ({error})".splitlines()[0],
            where=str(folder),
            remedy="save its tokenizer.json with transformers first",
        ) from error
    return backend
