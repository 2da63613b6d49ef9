"""BioViL and BioViL-T against a plain reading of their papers, with torchvision's transforms and ResNet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from strangers import made, vocabulary_size, write_vocabulary
from torch import nn
from torchvision import transforms
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from transformers import BertConfig, BertModel

from medmoe.adapters import gather, kind_of, open_adapter
from medmoe.adapters.biovil import Render
from medmoe.errors import ModelError

JOINT, BERT = 8, 32


def write(folder: Path, *, temporal: bool = False, joint: int = JOINT, head: int = JOINT) -> dict[str, Any]:
    """Write a folder in the published layout and give its parts."""
    write_vocabulary(folder)
    torch.manual_seed(0)
    trunk = ResNet(BasicBlock, [1, 1, 1, 1]) if temporal else ResNet(Bottleneck, [1, 1, 1, 1])
    width = trunk.fc.in_features
    config = {"vocab_size": vocabulary_size(), "hidden_size": BERT, "num_hidden_layers": 2, "num_attention_heads": 2}
    config |= {"intermediate_size": 40, "max_position_embeddings": 20, "projection_size": head}
    (folder / "config.json").write_text(json.dumps({"model_type": "cxr-bert", **config}))
    layers = [nn.Conv2d(12 if temporal else width, joint, 1, bias=False), nn.BatchNorm2d(joint), nn.ReLU()]
    projector = nn.Sequential(*layers, nn.Conv2d(joint, joint, 1))
    projector[1].running_mean.uniform_(-1, 1)
    bert = BertModel(BertConfig(**{k: v for k, v in config.items() if k != "projection_size"}))
    dense, out, norm = nn.Linear(BERT, head), nn.Linear(head, head), nn.LayerNorm(head, eps=1e-12)
    image = {f"encoder.encoder.{key}": value for key, value in trunk.state_dict().items()}
    image |= {f"projector.model.{key}": value for key, value in projector.state_dict().items()}
    parts: dict[str, Any] = {"trunk": trunk.eval(), "projector": projector.eval(), "bert": bert.eval()}
    if temporal:
        parts["narrow"] = nn.Conv2d(width, 6, 1, bias=False)
        parts["blank"] = torch.randn(1, 6, 1, 1)
        image |= {"encoder.backbone_to_vit.weight": parts["narrow"].weight.detach()}
        image |= {"encoder.missing_previous_emb": parts["blank"], "encoder.vit_pooler.type_embed": torch.zeros(2, 1, 6)}
    text = {f"bert.{key}": value for key, value in bert.state_dict().items()}
    text |= {"cls.predictions.bias": torch.zeros(3)}
    for name, part in (("dense_to_hidden", dense), ("LayerNorm", norm), ("dense_to_output", out)):
        text |= {f"cls_projection_head.{name}.{key}": value for key, value in part.state_dict().items()}
    save_file({key: value.contiguous() for key, value in image.items()}, folder / "biovil_image.safetensors")
    save_file({key: value.contiguous() for key, value in text.items()}, folder / "model.safetensors")
    return parts | {"head": lambda x: out(norm(F.gelu(dense(x))))}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("biovil") / "model"
    return folder, write(folder)


def last_stage(trunk: Any, image: torch.Tensor) -> torch.Tensor:
    return nn.Sequential(*list(trunk.children())[:-2])(image)


def test_an_image_is_the_mean_of_its_projected_patches(published: tuple[Path, dict[str, Any]]) -> None:
    folder, parts = published
    assert kind_of(folder) == "biovil"
    image = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        found = open_adapter(folder).encode_image(image)
        patches = parts["projector"](last_stage(parts["trunk"], image))
    torch.testing.assert_close(found.feature, patches.mean(dim=(2, 3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.regions, F.normalize(patches, dim=1), rtol=0, atol=1e-5)


def test_a_text_is_one_word_with_the_projected_first_piece(published: tuple[Path, dict[str, Any]]) -> None:
    folder, parts = published
    adapter = open_adapter(folder)
    texts = ["There is a small effusion.", "No mass!", None]
    tokens = adapter.tokenizer(texts)
    with torch.inference_mode():
        found = adapter.encode_text(tokens)
        for row, ids in enumerate(tokens.ids):
            own = ids[tokens.mask[row]][None]
            expected = F.normalize(parts["head"](parts["bert"](own).last_hidden_state[:, 0]), dim=1)[0]
            torch.testing.assert_close(found.embed[row], expected, rtol=0, atol=1e-5)
    assert found.words.shape == (3, 1, JOINT)
    assert found.word_mask.tolist() == [[True], [True], [False]]
    torch.testing.assert_close(found.words[:2, 0], found.embed[:2])
    assert not found.words[2].any()
    assert tokens.ids.shape[1] == 7  # without the full stop


def test_a_phrase_is_found_as_its_whole_text(published: tuple[Path, dict[str, Any]]) -> None:
    reader = open_adapter(published[0]).tokenizer
    assert reader.words(" Small nodule. ") == ["Small nodule."]
    assert reader.words(" . ") == []
    assert reader.find("There is a Nodule.", "nodule") == [0]
    assert reader.find("There is a Nodule.", "mass") == []


def test_a_text_that_is_too_long_is_cut(published: tuple[Path, dict[str, Any]]) -> None:
    assert open_adapter(published[0]).tokenizer(["mass " * 50]).ids.shape == (1, 20)


@pytest.mark.parametrize("size", [(700, 600), (300, 520), (512, 512)])
def test_pixels_are_those_of_torchvisions_transforms(size: tuple[int, int]) -> None:
    grey = np.random.default_rng(0).integers(20, 200, size, dtype=np.uint8)
    steps = [transforms.Resize(512), transforms.CenterCrop(480), transforms.ToTensor()]
    low, high = float(grey.min()), float(grey.max())
    stretched = ((grey.astype(float) - low) / (high - low) * 255).astype(np.uint8)
    expected = transforms.Compose(steps)(Image.fromarray(stretched)).expand(3, -1, -1)
    torch.testing.assert_close(Render(480)(torch.from_numpy(grey)[None]), expected, rtol=0, atol=1e-6)


def test_a_level_image_is_black() -> None:
    assert not Render(448)(torch.full((3, 20, 20), 0.7)).any()


def test_biovil_t_sees_an_image_without_a_prior_one(tmp_path: Path) -> None:
    parts = write(tmp_path, temporal=True)
    adapter = open_adapter(tmp_path)
    assert adapter.prepare.settings["crop"] == 448
    image = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        found = adapter.encode_image(image)
        current = parts["narrow"](last_stage(parts["trunk"], image))
        both = torch.cat([current, parts["blank"].repeat(2, 1, *current.shape[2:])], dim=1)
        expected = parts["projector"](both)
    torch.testing.assert_close(found.feature, expected.mean(dim=(2, 3)), rtol=0, atol=1e-5)
    evidence = gather(adapter, made(2, boxes=True), workers=0)
    assert evidence.regions.shape == (2, JOINT, 14, 14)
    assert evidence.words.shape == (2, 1, JOINT)


def test_encoders_of_different_width_are_refused(tmp_path: Path) -> None:
    write(tmp_path, temporal=True, head=4)
    with pytest.raises(ModelError, match="joint width is 8, CXR-BERT's 4"):
        open_adapter(tmp_path)


@pytest.mark.parametrize(("name", "lacks"), [("model", "no BERT under"), ("biovil_image", "no ResNet under")])
def test_half_a_model_is_refused(name: str, lacks: str, tmp_path: Path) -> None:
    write(tmp_path, temporal=True)
    (tmp_path / f"{name}.safetensors").unlink()
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=lacks):
        open_adapter(tmp_path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write(tmp_path, temporal=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["cls_projection_head.LayerNorm.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks: cls_projection_head\.LayerNorm\.bias"):
        open_adapter(tmp_path)
