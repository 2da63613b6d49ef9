"""open_clip's own forward is the reference: the same embeddings, zero-shot accuracy and recalls."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from strangers import LABELS, Listed, made, vocabulary_size, write_vocabulary
from typer.testing import CliRunner

from medmoe.adapters import Adapter, gather, kind_of, open_adapter
from medmoe.cli import app
from medmoe.errors import DataError, MissingDependencyError, ModelError
from medmoe.tasks import evaluate_all, make_context
from medmoe.tasks.prompts import load_prompts

open_clip = pytest.importorskip("open_clip", reason="open-clip-torch is not installed: pip install 'medmoe[import]'")

VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
NAME = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"


def save(model: Any, tokenizer: Any, config: dict[str, Any], folder: Path, **preprocess: Any) -> None:
    """Save as open_clip's own export does."""
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.push_to_hf_hub import save_for_hf

    settings = asdict(open_clip.transform.PreprocessCfg(size=model.visual.image_size, **preprocess))
    set_model_preprocess_cfg(model, settings)
    save_for_hf(model, tokenizer, config, str(folder), safe_serialization=True)


class NoFiles:
    """open_clip's built-in tokenizer has no files to save."""

    def save_pretrained(self, folder: Path) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a tiny random CLIP with open_clip's built-in tokenizer."""
    path = tmp_path_factory.mktemp("openclip") / "tiny"
    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    torch.manual_seed(0)
    save(open_clip.CLIP(**config), NoFiles(), config, path)
    return path


@pytest.fixture(scope="module")
def biomed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """Give a tiny random model built like BiomedCLIP (timm image tower, BERT text tower), as open_clip made it."""
    from transformers import BertConfig

    path, bert = (tmp_path_factory.mktemp("openclip") / name for name in ("biomed", "bert"))
    write_vocabulary(bert)
    BertConfig(
        vocab_size=vocabulary_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=48,
        max_position_embeddings=40,
    ).save_pretrained(bert)
    text = {"hf_model_name": str(bert), "hf_tokenizer_name": str(bert), "context_length": 14}
    text |= {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "hf_model_pretrained": False}
    vision = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}
    config = {"embed_dim": 24, "vision_cfg": {**vision, "image_size": 160}, "text_cfg": text}
    torch.manual_seed(1)
    model = open_clip.CustomTextCLIP(**config).eval()
    tokenizer = open_clip.tokenizer.HFTokenizer(str(bert), context_length=14)
    published = {**config, "text_cfg": {**text, "hf_model_name": NAME, "hf_tokenizer_name": NAME}}
    del published["text_cfg"]["hf_model_pretrained"]
    save(model, tokenizer, published, path, resize_mode="squash", interpolation="bilinear")
    return path, model, tokenizer


def own_forward(model: Any, transform: Any, tokenizer: Any, source: Listed) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed images and reports with the library alone."""
    pictures = [Image.fromarray(sample.image).convert("RGB") for sample in source.samples]
    with torch.inference_mode():
        images = model.encode_image(torch.stack([transform(picture) for picture in pictures]), normalize=True)
        return images, model.encode_text(tokenizer([sample.report for sample in source.samples]), normalize=True)


def test_embeddings_equal_those_of_open_clips_own_loader(folder: Path) -> None:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    adapter = open_adapter(folder)
    evidence = gather(adapter, made(), batch_size=5, workers=0)
    images, texts = own_forward(model.eval(), transform, tokenizer, made())
    torch.testing.assert_close(evidence.image_embed, images, rtol=0, atol=1e-5)
    torch.testing.assert_close(evidence.text_embed, texts, rtol=0, atol=1e-5)
    assert evidence.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert evidence.modalities == ()
    assert evidence.regions.shape == (24, 0, 1, 1)
    assert evidence.words.shape[2] == 0


def test_a_model_like_biomedclip_is_built_offline_from_its_weights(biomed: tuple[Path, Any, Any]) -> None:
    path, model, tokenizer = biomed
    assert "config.json" not in {file.name for file in path.iterdir()}
    adapter = open_adapter(path)
    assert adapter.prepare.settings["resize_mode"] == "squash"
    evidence = gather(adapter, made(6), workers=0)
    config = open_clip.transform.PreprocessCfg(**adapter.towers.model.visual.preprocess_cfg)
    assert (config.interpolation, config.size) == ("bilinear", (160, 160))
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    images, texts = own_forward(model, transform, tokenizer, made(6))
    torch.testing.assert_close(evidence.image_embed, images, rtol=0, atol=1e-5)
    torch.testing.assert_close(evidence.text_embed, texts, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_unimed_clip_needs_no_configuration(wrapper: str, biomed: tuple[Path, Any, Any], tmp_path: Path) -> None:
    text = {**biomed[1].text.config.to_dict()}
    bert = tmp_path / "bert"
    write_vocabulary(bert)
    (bert / "config.json").write_text(json.dumps({**text, "model_type": "bert", "max_position_embeddings": 300}))
    tower = {"hf_model_name": str(bert), "hf_model_pretrained": False, "hf_proj_type": "mlp", "context_length": 256}
    tower |= {"hf_tokenizer_name": str(bert), "hf_pooler_type": "cls_last_hidden_state_pooler"}
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 32, "patch_size": 8}
    model = open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=vision, text_cfg=tower, quick_gelu=True).eval()
    # The published names: its authors' fork calls the text tower `text_encoder`.
    state = {
        wrapper + (f"text_encoder.{name.removeprefix('text.')}" if name.startswith("text.") else name): value
        for name, value in model.state_dict().items()
    }
    state[f"{wrapper}text_encoder.transformer.embeddings.position_ids"] = torch.arange(300)[None]
    folder = tmp_path / "unimed"
    write_vocabulary(folder)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")

    assert kind_of(folder) == "open_clip"
    adapter = open_adapter(folder)
    assert adapter.tokenizer(["nodule"]).ids.shape == (1, 256)
    evidence = gather(adapter, made(4), workers=0)
    config = open_clip.transform.PreprocessCfg(size=32)  # OpenAI's mean and deviation, bicubic, shortest side
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    tokenizer = open_clip.tokenizer.HFTokenizer(str(bert), context_length=256)
    images, texts = own_forward(model, transform, tokenizer, made(4))
    torch.testing.assert_close(evidence.image_embed, images, rtol=0, atol=1e-5)
    torch.testing.assert_close(evidence.text_embed, texts, rtol=0, atol=1e-5)


def test_unimed_clip_with_another_image_tower_needs_a_configuration(tmp_path: Path) -> None:
    save_file({"text_encoder.transformer.pooler": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"no vision transformer .*; add an open_clip_config\.json"):
        open_adapter(tmp_path)


def test_texts_are_cut_at_the_models_context(biomed: tuple[Path, Any, Any]) -> None:
    adapter = open_adapter(biomed[0])
    tokens = adapter.tokenizer(["nodule " * 40, "mass"])
    assert tokens.ids.shape == (2, 14)
    torch.testing.assert_close(tokens.ids, biomed[2](["nodule " * 40, "mass"]))


def test_a_text_tower_of_unknown_sizes_is_not_fetched(biomed: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder = copied(biomed[0], tmp_path)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "xlm-roberta-base"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"put the config\.json of xlm-roberta-base into the folder"):
        open_adapter(folder)


def test_a_text_towers_own_configuration_is_preferred(biomed: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder = copied(biomed[0], tmp_path)
    bert = biomed[1].text.config.to_dict()
    (folder / "config.json").write_text(json.dumps({**bert, "num_attention_heads": 4}))
    adapter = open_adapter(folder)
    assert adapter.towers.model.text.config.num_attention_heads == 4


def test_a_broken_tokenizer_is_an_error_in_one_line(biomed: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder = copied(biomed[0], tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="the tokenizer can't be read") as caught:
        open_adapter(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_tokenizer_is_not_fetched(biomed: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder = copied(biomed[0], tmp_path)
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match="put the tokenizer files of microsoft/BiomedNLP"):
        open_adapter(folder)


def expected_figures(folder: Path, source: Listed) -> dict[str, float]:
    """Compute accuracy and recalls with the library's own forward and the same prompts."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    images, texts = own_forward(model.eval(), transform, tokenizer, source)
    classes = []
    for label in LABELS:
        with torch.inference_mode():
            prompts = model.encode_text(tokenizer(list(load_prompts().of(label, "xray"))), normalize=True)
        classes.append(torch.nn.functional.normalize(prompts.mean(dim=0), dim=0))
    chosen = (images @ torch.stack(classes).T).argmax(dim=1).numpy()
    figures = {"accuracy": float((chosen == [LABELS.index(sample.labels[0]) for sample in source.samples]).mean())}
    similarity = (images @ texts.T).numpy()
    for name, matrix in (("image_to_report", similarity), ("report_to_image", similarity.T)):
        rank = (matrix > matrix.diagonal()[:, None]).sum(axis=1)
        figures |= {f"{name}_recall@{k}": float((rank < k).mean()) for k in (1, 5, 10)}
    return figures


def found_figures(tasks: dict[str, Any], expected: dict[str, float]) -> dict[str, float]:
    every = {**tasks["zeroshot_classification"], **tasks["zeroshot_retrieval"]}
    return {name: every[name]["value"] for name in expected}


def test_accuracy_and_recalls_equal_those_of_the_librarys_forward(folder: Path) -> None:
    source = made(30)
    adapter = open_adapter(folder)
    evidence = gather(adapter, source, workers=0)
    context = make_context(adapter, adapter.tokenizer, resamples=20)
    results = evaluate_all(evidence, context, ["zeroshot_classification", "zeroshot_retrieval"])["tasks"]
    expected = expected_figures(folder, source)
    assert found_figures(results, expected) == expected


def test_the_commands_figures_are_those_of_the_librarys_forward(folder: Path, tmp_path: Path) -> None:
    source, rows = made(30), ["image,text,modality,label,patient_id"]
    for index, sample in enumerate(source.samples):
        Image.fromarray(sample.image).save(tmp_path / f"{index}.png")
        rows.append(f'{index}.png,"{sample.report}",xray,{sample.labels[0]},p{index}')
    (tmp_path / "data.csv").write_text("\n".join(rows))
    asked = ["eval", str(folder), "--data", str(tmp_path / "data.csv"), "--split", "all", "--workers", "0"]
    asked += ["--tasks", "zeroshot_classification,zeroshot_retrieval", "--json", str(tmp_path / "found.json")]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    expected = expected_figures(folder, source)
    assert found_figures(json.loads((tmp_path / "found.json").read_text())["tasks"], expected) == expected


def test_embeddings_of_two_evaluations_are_equal(folder: Path) -> None:
    first, second = (gather(open_adapter(folder), made(6), workers=0) for _ in range(2))
    assert torch.equal(first.image_embed, second.image_embed)


def test_pickled_weights_are_refused_with_how_to_convert_them(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    (copy / "open_clip_model.safetensors").rename(copy / "open_clip_pytorch_model.bin")
    assert kind_of(copy) == "open_clip"
    with pytest.raises(ModelError, match=r"\.bin format .* not loaded; only safetensors is read.*save_file"):
        open_adapter(copy)


def test_pickled_weights_beside_safetensors_are_not_touched(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    (copy / "open_clip_model.safetensors").rename(copy / "other.safetensors")
    (copy / "open_clip_pytorch_model.bin").write_bytes(b"would be run")
    assert isinstance(open_adapter(copy), Adapter)


def test_weights_of_another_model_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 2
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="open_clip can't load it") as caught:
        open_adapter(copy)
    assert "\n" not in str(caught.value)


def test_a_configuration_without_a_model_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    (copy / "open_clip_config.json").write_text("{}")
    with pytest.raises(ModelError, match="no model_cfg"):
        open_adapter(copy)


def test_a_bad_image_is_named_and_can_be_skipped(folder: Path) -> None:
    source = made(4)
    source.samples[2] = replace(source.samples[2], image=np.zeros((0, 4), np.uint8))
    adapter = open_adapter(folder)
    with pytest.raises(DataError, match="row:2"):
        gather(adapter, source, workers=0)
    assert len(gather(adapter, source, workers=0, on_bad_sample="skip")) == 3


def test_without_open_clip_the_error_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'medmoe\[import\]'"):
        open_adapter(folder)


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))
