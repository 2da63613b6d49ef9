"""GLoRIA against a plain reading of its paper: torchvision's ResNet, transformers' BERT, loops over pieces."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from strangers import PIECES, SPECIAL, WORDS, made, vocabulary_size, write_vocabulary
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet
from transformers import BertConfig, BertModel

from medmoe.adapters import gather, kind_of, open_adapter
from medmoe.adapters.gloria import cleaned, coverage, render
from medmoe.adapters.words import PieceReader
from medmoe.errors import ModelError
from medmoe.summary import gallery
from medmoe.tasks.base import make_context
from medmoe.tasks.grounding import Grounding
from medmoe.tasks.retrieval import Retrieval
from medmoe.tasks.routing import Routing

WIDTH = 64


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any, Any, Any]:
    """Give a folder in the published layout, and its parts: trunk, both embedders, BERT."""
    folder = tmp_path_factory.mktemp("gloria") / "model"
    write_vocabulary(folder)
    torch.manual_seed(0)
    trunk = ResNet(Bottleneck, [1, 1, 1, 1])
    trunk.fc = nn.Identity()
    overall, local = nn.Linear(2048, WIDTH), nn.Conv2d(1024, WIDTH, 1, bias=False)
    config = BertConfig(
        vocab_size=vocabulary_size(),
        hidden_size=WIDTH,
        num_hidden_layers=5,
        num_attention_heads=1,
        intermediate_size=48,
        max_position_embeddings=100,
    )
    bert = BertModel(config)
    parts = {
        "img_encoder.model": trunk,
        "img_encoder.global_embedder": overall,
        "img_encoder.local_embedder": local,
        "text_encoder.model": bert,
    }
    state = {f"gloria.{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    state["gloria.text_encoder.model.embeddings.position_ids"] = torch.arange(100)[None]
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "chexpert_resnet50.safetensors")
    return folder, trunk.eval(), overall.eval(), local.eval(), bert.eval()


def test_images_are_the_mean_of_stage_four_and_regions_stage_three(published: tuple[Any, ...]) -> None:
    folder, trunk, overall, local, _ = published
    assert kind_of(folder) == "gloria"
    image = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        found = open_adapter(folder).encode_image(image)
        x = nn.Upsample(size=(299, 299), mode="bilinear", align_corners=True)(image)
        third = nn.Sequential(*list(trunk.children())[:-3])(x)
        pooled = trunk.avgpool(trunk.layer4(third)).flatten(1)
        expected = local(third), overall(pooled)
    assert found.regions.shape == (2, WIDTH, 19, 19)
    torch.testing.assert_close(found.regions, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.feature, expected[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.embed.norm(dim=1), torch.ones(2))


def test_a_word_is_the_sum_of_its_pieces_and_a_text_the_mean_of_its_row(published: tuple[Any, ...]) -> None:
    folder, _, _, _, bert = published
    adapter = open_adapter(folder)
    reports = ["Pleural effusion seen in the left lungs.", "No mass"]
    with torch.inference_mode():
        found = adapter.encode_text(adapter.tokenizer(reports))
    for row, report in enumerate(reports):
        pieces, sums = pieces_of(report), []
        ids = torch.tensor([[vocabulary()[piece] for piece in ["[CLS]", *pieces, "[SEP]"]]])
        with torch.inference_mode():
            layers = bert(ids, output_hidden_states=True).hidden_states[-4:]
        total = sum(layer[0] for layer in layers)  # [T, C]
        for piece, vector in zip(pieces, total[1:-1], strict=True):
            if piece.startswith("##"):
                sums[-1] = sums[-1] + vector
            else:
                sums.append(vector)
        assert int(found.word_mask[row].sum()) == len(sums)
        torch.testing.assert_close(found.words[row, : len(sums)], torch.stack(sums), rtol=0, atol=1e-4)
        torch.testing.assert_close(found.feature[row], total.sum(dim=0) / 97, rtol=0, atol=1e-5)


def vocabulary() -> dict[str, int]:
    return {piece: index for index, piece in enumerate([*SPECIAL, *WORDS, *PIECES])}


def pieces_of(report: str) -> list[str]:
    known = vocabulary()
    words = report.lower().replace(".", "").split()
    return [piece for word in words for piece in ([word] if word in known else ["pleu", "##ral"])]


def test_words_and_phrases_are_found_in_the_cleaned_report(published: tuple[Any, ...]) -> None:
    reader = open_adapter(published[0]).tokenizer
    assert isinstance(reader, PieceReader)
    assert reader.words("1. Pleural-effusion, small!\nNo mass.") == ["pleural", "effusion", "small", "no", "mass"]
    assert reader.find("A mass. There is pleural EFFUSION.", "Pleural effusion.") == [4, 5]
    assert reader.find("no mass", "nodule") == []
    assert reader.find("no mass", "") == []
    tokens = reader(["pleural mass seen", None])
    assert tokens.word.tolist() == [[-1, 0, 0, 1, 2, -1], [-1] * 6]
    assert tokens.word_mask.tolist() == [[True] * 3, [False] * 3]


def test_a_text_is_cut_to_97_pieces(published: tuple[Any, ...]) -> None:
    tokens = open_adapter(published[0]).tokenizer(["no mass " * 80])
    assert tokens.ids.shape == (1, 97)
    assert tokens.ids[0, -1] == vocabulary()["[SEP]"]
    assert int(tokens.word_mask.sum()) == 95


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Nodule.", "nodule"),
        ("Findings. No mass.\nHeart size normal", "no mass heart size normal"),
        ("1. Clear lungs 2. Small nodule", "clear lungs small nodule"),
        ("café au lait", "caf au lait"),
        ("", ""),
    ],
)
def test_texts_are_cleaned_as_published(text: str, expected: str) -> None:
    assert cleaned(text) == expected


def test_resizing_by_area_is_what_each_new_pixel_covers() -> None:
    for before, after in ((7, 3), (3, 7), (8, 4), (5, 5)):
        found = coverage(before, after)
        fine = 1000
        for row in range(after):
            place = (row + (np.arange(fine) + 0.5) / fine) * before / after
            share = np.bincount(place.astype(int), minlength=before) / fine
            np.testing.assert_allclose(found[row], share, atol=2e-3)
    np.testing.assert_allclose(coverage(8, 4) @ np.arange(8.0), [0.5, 2.5, 4.5, 6.5])


def test_an_image_keeps_its_aspect_on_black_and_loses_its_rim() -> None:
    white = render(torch.full((1, 512, 256), 255, dtype=torch.uint8))
    assert white.shape == (3, 224, 224)
    assert white[0, 112, 112] == 1
    columns = (white[0, 112] == 1).nonzero()[:, 0]
    assert (int(columns[0]), int(columns[-1])) == (48, 175)  # 128 of 256 columns, less a rim of 16
    assert white.unique().tolist() == [-1, 1]


def test_grounding_and_retrieval_get_local_features(published: tuple[Any, ...]) -> None:
    adapter = open_adapter(published[0])
    evidence = gather(adapter, made(4, boxes=True), batch_size=3, workers=0)
    assert evidence.image_logits.shape == (4, 0)
    context = make_context(adapter, adapter.tokenizer, resamples=10)
    assert Grounding(shuffles=2).evaluate(evidence, context).metrics["pointing"].n == 4
    assert "local_image_to_report_recall@1" in Retrieval(fewest=4).evaluate(evidence, context).metrics
    assert "skipped" in Routing().evaluate(evidence, context).details


def test_its_heatmaps_are_the_dot_products_that_grounding_judges(published: tuple[Any, ...]) -> None:
    adapter, source = open_adapter(published[0]), made(3, boxes=True)
    items = gallery(adapter, source, per_modality=2)
    assert [item.phrase for item in items] == ["mass", "nodule"]
    evidence = gather(adapter, source, workers=0)
    for row, item in enumerate(items):
        words = evidence.words[row, adapter.tokenizer.find(item.report, item.phrase)]
        expected = torch.einsum("nd,dhw->hw", words, evidence.regions[row])
        np.testing.assert_allclose(item.heatmap, expected, atol=1e-4)
        moved = evidence.samples[row].boxes
        assert moved is not None
        assert item.boxes == [(box.x0, box.y0, box.x1, box.y1) for box in moved]
        assert (item.image.min(), item.image.max()) == (0, 255)


def test_a_broken_tokenizer_is_an_error_in_one_line(published: tuple[Any, ...], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(published[0], tmp_path / "copy"))
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="the tokenizer can't be read") as caught:
        open_adapter(copy)
    assert "\n" not in str(caught.value)


def test_another_image_encoder_is_refused(published: tuple[Any, ...], tmp_path: Path) -> None:
    write_vocabulary(tmp_path)
    weights = {"gloria.img_encoder.global_embedder.weight": torch.zeros(4, 8)}
    weights["gloria.img_encoder.model.features.conv0.weight"] = torch.zeros(4, 3, 7, 7)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"no ResNet under 'img_encoder\.model\.'"):
        open_adapter(tmp_path)
