"""What every row of VISION and TEXT promises."""

import dataclasses

import pytest
import torch

from medmoe.encoders.text import TEXT
from medmoe.encoders.vision import VISION
from medmoe.types import Tokens

# How to build a small one of each row: a new row needs a line here.
VISION_ROWS = {
    "tiny": lambda: VISION["tiny"]((4, 8, 8, 16)),
    "descriptor": lambda: VISION["descriptor"](64),
    "timm": lambda: VISION["timm"]("resnet18", image_size=64),
}
BERT = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 8, "vocab_size": 20, "max_position_embeddings": 16}
TEXT_ROWS = {
    "tiny": lambda: TEXT["tiny"](20, width=8, heads=2, max_pieces=16),
    "hf": lambda: TEXT["hf"](BERT, last_layers=2),
}


def build(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def tokens() -> Tokens:
    word = torch.tensor([[-1, 0, 0, 1, -1], [-1, 0, -1, -1, -1], [-1, -1, -1, -1, -1]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0], [2, 3, 0, 0, 0]])
    return Tokens(ids, mask, word, torch.tensor([[1, 1], [1, 0], [0, 0]], dtype=torch.bool))


def test_every_row_is_under_contract():
    assert VISION.keys() == VISION_ROWS.keys()
    assert TEXT.keys() == TEXT_ROWS.keys()


@pytest.mark.parametrize("row", VISION)
def test_a_vision_encoder_gives_the_levels_it_declares(row):
    encoder = build(VISION_ROWS[row])
    levels = encoder(torch.randn(2, 3, 64, 64)).levels
    assert len(levels) == len(encoder.channels) == len(encoder.strides)
    for level, channels, stride in zip(levels, encoder.channels, encoder.strides, strict=True):
        assert level.shape == (2, channels, 64 // stride, 64 // stride)
        assert level.is_contiguous()
    assert list(encoder.strides) == sorted(encoder.strides)


@pytest.mark.parametrize("row", VISION)
def test_permuting_images_permutes_pyramids(row):
    encoder, images, order = build(VISION_ROWS[row]), torch.randn(3, 3, 64, 64), [2, 0, 1]
    for given, turned in zip(encoder(images).levels, encoder(images[order]).levels, strict=True):
        torch.testing.assert_close(given[order], turned, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("row", TEXT)
def test_a_text_encoder_gives_the_shapes_it_declares(row):
    encoder = build(TEXT_ROWS[row])
    features = encoder(tokens())
    assert features.words.shape == (3, 2, encoder.width)
    assert features.report.shape == (3, encoder.width)
    assert torch.equal(features.word_mask, tokens().word_mask)
    assert encoder.vocab_size == 20
    assert encoder.max_pieces == 16


@pytest.mark.parametrize("row", TEXT)
def test_text_features_are_zero_where_there_is_no_word_and_finite_everywhere(row):
    features = build(TEXT_ROWS[row])(tokens())
    assert (features.words[~features.word_mask] == 0).all()
    assert features.words.isfinite().all()
    assert features.report.isfinite().all()


@pytest.mark.parametrize("row", TEXT)
def test_permuting_reports_permutes_text_features(row):
    encoder, given, order = build(TEXT_ROWS[row]), tokens(), [2, 0, 1]
    turned = Tokens(*(getattr(given, field.name)[order] for field in dataclasses.fields(Tokens)))
    torch.testing.assert_close(encoder(turned).words, encoder(given).words[order])
    torch.testing.assert_close(encoder(turned).report, encoder(given).report[order])


@pytest.mark.parametrize("make", [*VISION_ROWS.values(), *TEXT_ROWS.values()])
def test_equal_weights_survive_a_state_dict(make):
    encoder = build(make)
    twin = make().eval()
    twin.load_state_dict(encoder.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), twin.parameters(), strict=True))
    assert all(value.is_contiguous() for value in encoder.state_dict().values())
