from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from medmoe.build import (
    adopt,
    build_experts,
    build_loader,
    build_model,
    build_text,
    build_tokenizer,
    build_vision,
    facts_of,
    initialise,
    load_model,
    preprocess_of,
    put_weights,
    resolve_data,
    tokenizer_of,
)
from medmoe.config import ExpertConfig, ModelConfig, TextConfig, VisionConfig, parse
from medmoe.data.crops import RandomCrop
from medmoe.data.preprocess import Preprocess
from medmoe.data.sources.manifest import ManifestSource
from medmoe.errors import ConfigError, DataError, ModelError
from medmoe.types import Sample
from small_runs import Memory, batch_of, built, changed, micro, phantoms, same_weights, train

CHANNELS = (8, 8, 16, 16)
BERT = {
    "model_type": "bert",
    "vocab_size": 400,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 80,
}
HF = ("model.text.name=hf", f"model.text.hf={json.dumps(BERT)}", "model.text.last_layers=1")


class BadFacts(Memory):
    """Its second sample can't be read at all."""

    def facts(self, index: int) -> Sample:
        if index == 1:
            raise DataError("broken", where="row:1")
        return super().facts(index)


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_tiny_vision_encoder_has_the_channels_asked_for():
    assert build_vision(VisionConfig(channels=CHANNELS)).channels == CHANNELS


def test_any_other_vision_encoder_is_a_timm_backbone():
    encoder = build_vision(VisionConfig(name="test_resnet", image_size=64))
    levels = encoder(torch.zeros(1, 3, 64, 64)).levels
    assert [level.shape[1] for level in levels] == list(encoder.channels)  # type: ignore[arg-type]


def test_a_hugging_face_text_encoder_is_built_from_its_configuration():
    encoder = build_text(TextConfig(name="hf", hf=BERT, last_layers=1, frozen=True))
    assert encoder.width == 16
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_hugging_face_text_encoder_without_configuration_says_how_to_get_one():
    with pytest.raises(ConfigError, match=r"^model\.text\.hf: .*--init text=FOLDER"):
        build_text(TextConfig(name="hf"))


def test_an_unknown_text_encoder_names_the_nearest():
    with pytest.raises(ConfigError, match=r"model\.text\.name: unknown text encoder 'tny' \(did you mean 'tiny'"):
        build_text(TextConfig(name="tny"))


@pytest.mark.parametrize(
    ("changes", "shared", "special"),
    [
        ({}, 0, 6),
        ({"shared": 1, "zero": True}, 1, 6),
        ({"shared": 2, "special": False}, 2, 0),
        ({"growing": True}, 0, 6),
    ],
)
def test_an_arrangement_has_its_shared_and_special_experts(changes: dict[str, object], shared: int, special: int):
    experts = build_experts(parse(ExpertConfig, {"width": 8, **changes}), CHANNELS, 6)
    assert (len(experts.shared), len(experts.special)) == (shared, special)
    assert bool(experts.grown) is not changes.get("growing", False)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"name": "pyramd"}, "model.experts.name"),
        ({"shared": 0, "special": False}, "model.experts"),
        ({"growing": True, "zero": True}, "model.experts.growing"),
        ({"growing": True, "shared": 1, "special": False}, "model.experts.growing"),
    ],
)
def test_an_arrangement_that_makes_no_sense_is_refused_by_its_key(changes: dict[str, object], where: str):
    with pytest.raises(ConfigError) as got:
        build_experts(parse(ExpertConfig, changes), CHANNELS, 6)
    assert got.value.where == where


def test_weights_are_drawn_from_the_seed_and_nothing_else():
    torch.manual_seed(1)
    one = built(seed=3)
    torch.manual_seed(2)
    assert same_weights(one, built(seed=3))
    assert not same_weights(one, built(seed=4))


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    built(seed=3)
    assert torch.equal(torch.rand(3), expected)


def test_modalities_may_be_written_in_any_known_way():
    assert built('model.modalities=["CXR","MR"]').modalities == ("xray", "mri")


def test_an_unknown_modality_of_the_configuration_is_named():
    with pytest.raises(DataError, match=r"^model\.modalities: unknown modality 'xry'"):
        built('model.modalities=["xry"]')


def test_a_model_needs_modalities():
    config, reports = resolve_data(micro(), phantoms())
    tokenizer = build_tokenizer(config.model.text, reports)
    with pytest.raises(ConfigError, match=r"^model\.modalities: no modalities"):
        build_model(micro().model, tokenizer)


def test_a_tiny_text_encoder_takes_the_tokenizers_vocabulary():
    model = built()
    assert model.assets is not None
    size = tokenizer_of(model).vocab_size
    assert model.assets.config["text"]["vocab_size"] == size
    assert model.text.piece.num_embeddings == size  # type: ignore[union-attr]


def test_a_tokenizer_with_more_pieces_than_the_encoder_is_refused():
    small = json.dumps({**BERT, "vocab_size": 70})
    with pytest.raises(ConfigError, match=r"^model\.text: the tokenizer has \d+ pieces, the text encoder 70"):
        built(*HF, f"model.text.hf={small}")


def test_a_hugging_face_text_encoder_makes_a_whole_model():
    model = built(*HF).eval()
    assert model(batch_of(model)).text.embed.isfinite().all()


def test_a_loaded_model_is_the_one_saved_ready_for_use(tmp_path: Path):
    model = built(seed=5)
    loaded = load_model(model.save_pretrained(tmp_path / "m"))
    assert same_weights(loaded, model)
    assert not loaded.training
    assert loaded.assets is not None
    assert model.assets is not None
    assert (loaded.assets.config, loaded.assets.preprocess) == (model.assets.config, model.assets.preprocess)


def test_a_loaded_model_can_be_saved_again_the_same(tmp_path: Path):
    first = built().save_pretrained(tmp_path / "a")
    second = load_model(first).save_pretrained(tmp_path / "b")
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


def test_a_configuration_changed_behind_the_weights_is_told(tmp_path: Path):
    folder = built().save_pretrained(tmp_path / "m")
    edit(folder / "config.json", embed_dim=8)
    with pytest.raises(ModelError, match=r"weights don't fit the configuration .*image_projection") as got:
        load_model(folder)
    assert got.value.where == str(folder / "model.safetensors")
    assert "\n" not in str(got.value)


def test_weights_of_something_else_are_told(tmp_path: Path):
    folder = built().save_pretrained(tmp_path / "m")
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="weights don't fit the configuration"):
        load_model(folder)


def test_a_configuration_key_of_another_release_is_named_with_its_file(tmp_path: Path):
    folder = built().save_pretrained(tmp_path / "m")
    edit(folder / "config.json", embed_dims=8)
    with pytest.raises(ConfigError, match="did you mean 'embed_dim'") as got:
        load_model(folder)
    assert got.value.where == str(folder / "config.json")


def test_preprocessing_of_a_later_release_is_refused_with_its_file(tmp_path: Path):
    folder = built().save_pretrained(tmp_path / "m")
    edit(folder / "preprocess.json", version=99)
    with pytest.raises(ModelError, match="99") as got:
        load_model(folder)
    assert got.value.where == str(folder / "preprocess.json")
    assert got.value.remedy


def test_putting_weights_changes_nothing_but_values():
    one, other = built(seed=1), built(seed=2)
    put_weights(other, one.state_dict(), where="here", remedy="none")
    assert same_weights(one, other)


def test_modalities_come_from_the_data_in_the_tables_order():
    data = Memory([s for s in reversed(phantoms().samples) if s.modality in ("mri", "ct")])
    config, reports = resolve_data(micro(), data)
    assert config.model.modalities == ("ct", "mri")
    assert len(reports) == len(data)


def test_modalities_that_are_configured_stay():
    config, _ = resolve_data(micro('model.modalities=["pet"]'), phantoms())
    assert config.model.modalities == ("pet",)


def test_data_without_reports_or_modalities_can_not_be_trained_on():
    with pytest.raises(ConfigError, match=r"^--train-data: no training sample has a report or label"):
        resolve_data(micro(), changed(phantoms(), report=None))
    with pytest.raises(ConfigError, match=r"^--train-data: no training sample has a modality"):
        resolve_data(micro(), changed(phantoms(), modality=None))


def test_a_bad_samples_facts_are_an_error_or_left_out():
    data = BadFacts(phantoms().samples[:4])
    with pytest.raises(DataError, match="broken"):
        list(facts_of(data))
    assert len(list(facts_of(data, skip_bad=True))) == 3
    assert len(resolve_data(micro("data.on_bad_sample=skip"), data)[1]) == 3


def test_a_vocabulary_is_learnt_from_the_reports_or_taken_from_a_folder(tmp_path: Path):
    learnt = build_tokenizer(micro().model.text, ["a nodule in the left lung"] * 3)
    learnt.save(tmp_path)
    taken = build_tokenizer(micro("model.text.max_words=5").model.text, ["other words"], folder=tmp_path)
    assert (taken.vocab_size, taken.max_words, taken.max_pieces) == (learnt.vocab_size, 5, 64)
    assert (learnt.max_words, learnt.max_pieces) == (24, 64)


@pytest.mark.parametrize(("strength", "train_on", "same"), [(0.0, True, True), (1.0, True, False), (1.0, False, True)])
def test_only_training_images_are_augmented_and_only_when_asked(strength: float, train_on: bool, same: bool):
    model = built()
    config = micro(f"data.augment={strength}")
    batch = next(iter(build_loader(phantoms(), model, config, train=train_on)))
    by_key = {sample.key: sample for sample in phantoms().samples}
    plain = torch.stack([Preprocess(size=32)(by_key[key])[0] for key in batch.keys])
    assert torch.equal(batch.image, plain) is same


@pytest.mark.parametrize("strength", [0, 1])
def test_keeping_images_in_memory_changes_no_batch(strength: float):
    model = built()
    loaders = [
        build_loader(phantoms(), model, micro(f"data.augment={strength}", f"data.cache_mb={room}"), train=True)
        for room in (0, 64)
    ]
    for _, plain, kept in zip(range(20), *loaders, strict=False):
        assert torch.equal(plain.image, kept.image)
        assert plain.keys == kept.keys


def test_a_part_starts_from_saved_weights_and_the_rest_does_not(tmp_path: Path):
    saved, model, fresh = built(seed=1), built(seed=2), built(seed=2)
    save_file(saved.vision.state_dict(), tmp_path / "vision.safetensors")
    reports = initialise(model, {"vision": str(tmp_path / "vision.safetensors")})
    assert reports["vision"].complete
    assert same_weights(model.vision, saved.vision)
    assert same_weights(model.text, fresh.text)


def test_a_whole_model_starts_from_a_run(tmp_path: Path):
    trained = train(tmp_path / "run", "train.steps=1")
    model = built(seed=9)
    reports = initialise(model, {"model": str(tmp_path / "run")})
    assert reports["model"].complete
    assert str(reports["model"]).startswith(f"used {len(model.state_dict())} of {len(model.state_dict())} tensors")
    assert same_weights(model, trained)


def test_an_unknown_part_names_the_nearest():
    with pytest.raises(ConfigError, match=r"^--init: unknown part 'visoin' \(did you mean 'vision'\?\)"):
        initialise(built(), {"visoin": "x"})


def test_a_saved_model_brings_its_whole_configuration(tmp_path: Path):
    model = built("model.embed_dim=8")
    folder = model.save_pretrained(tmp_path / "m")
    assert model.assets is not None
    config = adopt(micro(), {"model": str(folder)})
    assert config.model == parse(ModelConfig, model.assets.config)
    assert config.train == micro().train


def test_a_hugging_face_folder_brings_its_encoder(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    config = adopt(micro(), {"text": str(tmp_path)})
    assert (config.model.text.name, config.model.text.hf) == ("hf", BERT)
    assert config.model.vision == micro().model.vision


def test_without_saved_parts_the_configuration_stays():
    assert adopt(micro(), {"vision": "file"}) == micro()


def test_a_model_from_elsewhere_keeps_its_own_experts(tmp_path: Path):
    folder = built('model.modalities=["ct","pet"]').save_pretrained(tmp_path / "m")
    config, _ = resolve_data(adopt(micro(), {"model": str(folder)}), phantoms())
    assert config.model.modalities == ("ct", "pet")


def test_the_facts_of_a_source_have_no_pixels():
    facts = list(facts_of(phantoms()))
    assert [sample.key for sample in facts] == [sample.key for sample in phantoms().samples]
    assert {sample.image.size for sample in facts} == {0}


@pytest.mark.parametrize(
    ("name", "norm", "said"),
    [("tiny", "grop", "model.vision.norm.*did you mean 'group'"), ("swin-t", "layer", "'swin-t' has its own norms")],
)
def test_a_norm_that_the_image_encoder_cannot_have_is_refused(name: str, norm: str, said: str):
    with pytest.raises(ConfigError, match=said):
        build_vision(VisionConfig(name=name, norm=norm))


@pytest.fixture
def jpegs(tmp_path: Path) -> ManifestSource:
    """Give eight JPEGs five times as large as the micro model's images."""
    rows = []
    for number in range(8):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (10, 8, 3), np.uint8))
        coarse.resize((128, 160), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.jpg", quality=90)
        modality = ("ct", "xray")[number % 2]
        rows.append({"image": f"{number}.jpg", "text": f"Report {number}.", "modality": modality})
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ManifestSource(tmp_path)


def test_a_reduced_scale_is_for_training_only_and_less_than_three_grey_levels_off(jpegs: ManifestSource):
    model = built(source=jpegs)
    deviation = torch.tensor(preprocess_of(model.assets.preprocess).std).view(3, 1, 1)

    def images(*settings: str, train_on: bool) -> torch.Tensor:
        config = micro("data.augment=0", *settings)
        return next(iter(build_loader(jpegs, model, config, train=train_on))).image

    whole, scaled = (images(f"data.scaled_decode={on}", train_on=True) for on in ("false", "true"))
    off = ((whole - scaled) * deviation * 255).abs().mean()
    assert 0 < off < 3
    evaluated = images(train_on=False)
    assert torch.equal(images("data.scaled_decode=true", train_on=False), evaluated)
    assert not micro().data.scaled_decode


def test_parts_of_images_are_taken_from_enough_pixels(jpegs: ManifestSource, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    monkeypatch.setattr(ManifestSource, "reduced", lambda self, at_least: asked.append(at_least) or self)
    model = built(source=jpegs)
    for crop in (0, 0.5):
        build_loader(jpegs, model, micro("data.scaled_decode=true", f"data.crop={crop}"), train=True)
    assert asked == [32, RandomCrop().needs(32)]
    assert asked[1] > 32
