"""transformers' own forward is the reference for CLIP and SigLIP."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from strangers import PIECES, WORDS, Listed, made
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from medmoe.adapters import gather, kind_of, open_adapter
from medmoe.errors import ModelError

CONTEXT = 10
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
PROCESSORS = {
    "clip": CLIPImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}),
    "siglip": SiglipImageProcessor(size={"height": 32, "width": 32}),
}


def write_tokenizer(folder: Path, *, begin: bool) -> int:
    """Save a tiny word-level tokenizer as transformers does, and give its size."""
    vocab = {word: index for index, word in enumerate(["<pad>", "<unk>", "<bos>", *WORDS, *PIECES, "<eos>"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    special = [("<bos>", 2), ("<eos>", vocab["<eos>"])]
    single = "<bos> $A <eos>" if begin else "$A <eos>"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return len(vocab)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give a tiny random model of each type, saved by transformers."""
    made = {}
    for name, model_class, config_class in (("clip", CLIPModel, CLIPConfig), ("siglip", SiglipModel, SiglipConfig)):
        folder = tmp_path_factory.mktemp("hf") / name
        size = write_tokenizer(folder, begin=name == "clip")
        special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": size - 1}
        text = {**TOWER, **special, "vocab_size": size, "max_position_embeddings": CONTEXT}
        vision = {**TOWER, "image_size": 32, "patch_size": 8}
        own = {"projection_dim": 12} if name == "clip" else {}
        torch.manual_seed(0)
        model_class(config_class(text_config=text, vision_config=vision, **own)).save_pretrained(folder)
        PROCESSORS[name].save_pretrained(folder)
        made[name] = folder
    return made


def own_forward(name: str, folder: Path, source: Listed) -> Any:
    """Run transformers alone."""
    model = (CLIPModel if name == "clip" else SiglipModel).from_pretrained(folder).eval()
    pictures = [Image.fromarray(sample.image).convert("RGB") for sample in source.samples]
    pixels = PROCESSORS[name](images=pictures, return_tensors="pt")["pixel_values"]
    padding = "longest" if name == "clip" else "max_length"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reports = [sample.report for sample in source.samples]
    encoded = tokenizer(reports, padding=padding, truncation=True, max_length=CONTEXT, return_tensors="pt")
    mask = encoded["attention_mask"] if name == "clip" else None
    with torch.inference_mode():
        return model(input_ids=encoded["input_ids"], pixel_values=pixels, attention_mask=mask)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_embeddings_equal_those_of_transformers(name: str, folders: dict[str, Path]) -> None:
    assert kind_of(folders[name]) == f"hf_{name}"
    adapter = open_adapter(folders[name])
    evidence = gather(adapter, made(), batch_size=7, workers=0)
    expected = own_forward(name, folders[name], made())
    torch.testing.assert_close(evidence.image_embed, expected.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(evidence.text_embed, expected.text_embeds, rtol=0, atol=1e-5)
    cosine = evidence.text_embed @ evidence.image_embed.T
    shift = expected.logits_per_text - evidence.logit_scale * cosine  # SigLIP's bias, the same for all
    torch.testing.assert_close(shift, shift[:1, :1].expand_as(shift), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "pieces"), [("clip", 6), ("siglip", CONTEXT)])
def test_texts_are_padded_and_cut_as_the_model_was_trained(name: str, pieces: int, folders: dict[str, Path]) -> None:
    tokenizer = open_adapter(folders[name]).tokenizer
    assert tokenizer(["nodule in left lungs"]).ids.shape == (1, pieces)
    assert tokenizer(["nodule " * 40]).ids.shape == (1, CONTEXT)


def test_what_others_in_the_batch_say_changes_no_text(folders: dict[str, Path]) -> None:
    adapter = open_adapter(folders["clip"])
    alone, among = (adapter.encode_text(adapter.tokenizer(texts)).embed for texts in (["mass"], ["mass", "mass " * 7]))
    torch.testing.assert_close(alone[0], among[0], rtol=0, atol=1e-6)


def test_boxes_follow_the_crop_and_the_squash(folders: dict[str, Path]) -> None:
    sample = made(1, shape=(72, 36), boxes=True).samples[0]  # to 72×36, of which the middle 32 rows and columns stay
    _, cropped = open_adapter(folders["clip"]).prepare(sample)
    box = cropped.boxes[0]
    corners = [(0.3 * 36 - 2) / 32, (0.3 * 72 - 20) / 32, (0.7 * 36 - 2) / 32, (0.6 * 72 - 20) / 32]
    assert [box.x0, box.y0, box.x1, box.y1] == pytest.approx(corners)
    _, squashed = open_adapter(folders["siglip"]).prepare(sample)
    assert squashed.boxes == sample.boxes


def test_another_resize_has_another_fingerprint(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["clip"], tmp_path / "copy"))
    PROCESSORS["siglip"].save_pretrained(copy)
    assert open_adapter(copy).about()["fingerprint"] != open_adapter(folders["clip"]).about()["fingerprint"]


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_without_one_of_its_parts_says_which(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["clip"], tmp_path / "copy"))
    (copy / name).unlink()
    told = {"tokenizer.json": "no tokenizer", "model.safetensors": r"no \.safetensors"}
    with pytest.raises(ModelError, match=told.get(name, name)):
        open_adapter(copy)


def test_missing_weights_are_not_made_up(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["clip"], tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks: text_projection\.weight"):
        open_adapter(copy)


def test_a_broken_configuration_is_an_error_in_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["clip"], tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["vision_config"]["hidden_size"] = 20
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="transformers can't load it") as caught:
        open_adapter(copy)
    assert "\n" not in str(caught.value)


def test_a_broken_tokenizer_is_an_error_in_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["siglip"], tmp_path / "copy"))
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="the tokenizer can't be read") as caught:
        open_adapter(copy)
    assert "\n" not in str(caught.value)


def test_an_unknown_way_to_resize_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["clip"], tmp_path / "copy"))
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    settings["size"] = {"max_height": 40, "max_width": 40}
    (copy / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="allowed: shortest_edge, or height and width"):
        open_adapter(copy)
