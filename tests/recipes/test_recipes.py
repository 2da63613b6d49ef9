from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medmoe.build import build_loader, build_model, build_tokenizer
from medmoe.config import RunConfig, TextConfig, override, parse
from medmoe.data.preprocess import Preprocess
from medmoe.errors import ModelError
from medmoe.modalities import MODALITIES, SIX
from medmoe.model import MedVLM
from medmoe.objectives import OBJECTIVES
from medmoe.recipes import ARRANGEMENTS, RECIPES
from medmoe.recipes.ablations import DESIGNS
from medmoe.recipes.models import MODELS, create_model, list_models
from medmoe.rundir import RunFolder
from medmoe.train import prepare, train_step, validate
from small_runs import phantoms, same_weights

SHRINK = (
    "model.vision.image_size=32",
    "model.vision.channels=[8,8,16,16]",
    "model.experts.width=8",
    "model.experts.grid=4",
    "model.embed_dim=16",
    "model.router.hidden=8",
    "data.batch_size=8",
    "data.workers=0",
    "train.steps=1",
)
SMALL_TEXT = TextConfig(width=16, depth=1, heads=2, vocab_size=300, max_words=24, max_pieces=64)


def with_small_text(config: RunConfig) -> RunConfig:
    """Put a text encoder of a few thousand weights in the place of the recipe's."""
    return config.model_copy(update={"model": config.model.model_copy(update={"text": SMALL_TEXT})})


def shrunk(name: str) -> RunConfig:
    return override(with_small_text(RECIPES[name]()), list(SHRINK))


def fresh(name: str) -> MedVLM:
    config = with_small_text(RECIPES[name]()).model.model_copy(update={"modalities": SIX})
    return build_model(config, build_tokenizer(config.text, ["a scan of the chest"]))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_bears_its_name_and_comes_back_from_json_the_same(name: str):
    recipe = RECIPES[name]()
    assert recipe.recipe == name
    assert parse(RunConfig, json.loads(recipe.model_dump_json())) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_same_each_time_and_no_override_reaches_the_next(name: str):
    before = RECIPES[name]().model_dump()
    override(RECIPES[name](), ["objectives.global=0.125", "train.steps=1"])
    assert RECIPES[name]().model_dump() == before


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_only_objectives_and_modalities_there_are(name: str):
    recipe = RECIPES[name]()
    assert set(recipe.objectives) | set(recipe.objective_options) <= set(OBJECTIVES)
    assert set(recipe.model.modalities or ()) <= set(MODALITIES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_the_routers_that_it_reads(name: str):
    recipe = RECIPES[name]()
    read = {recipe.model.router.train, recipe.model.router.infer}
    assert "text" not in read or recipe.objectives.get("report_type", 0) > 0
    assert "image" not in read or recipe.objectives.get("image_modality", 0) > 0


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_in_its_own_size_with_the_experts_it_asks_for(name: str):
    experts, config = fresh(name).experts, RECIPES[name]().model.experts
    assert (len(experts.shared), len(experts.special)) == (config.shared, len(SIX) if config.special else 0)


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_of_a_recipe_runs_with_every_term_it_names(name: str, tmp_path: Path):
    state, config = prepare(shrunk(name), train=phantoms(), run=RunFolder(tmp_path), init={}, device="cpu")
    train, val = (build_loader(phantoms(), state.model, config, train=mode) for mode in (True, False))
    loss, _, norm = train_step(state, iter(train), config, "cpu")
    assert loss.terms.keys() == set(RECIPES[name]().objectives)
    assert loss.inactive == ()
    assert float(norm) > 0
    row = validate(state, val, config, "cpu")
    assert row["images"] == len(phantoms())
    assert row["terms"].keys() == loss.terms.keys()


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_an_arrangement_differs_from_tiny_in_experts_and_router_alone(name: str):
    tiny, arranged = RECIPES["tiny"]().model_dump(), RECIPES[name]().model_dump()
    for values in (tiny, arranged):
        values["recipe"] = ""
        del values["model"]["experts"], values["model"]["router"]
    assert arranged == tiny


def test_tiny_is_the_arrangement_of_shared_and_special_experts():
    tiny, named = RECIPES["tiny"](), RECIPES["shared_special"]()
    assert named.model == tiny.model
    assert override(tiny, list(DESIGNS.arms["shared_special"].settings)).model == tiny.model


@pytest.mark.parametrize(
    ("name", "experts"), [("no_experts", 1), ("two_shared", 2), ("all_shared", 6), ("separate", 6)]
)
def test_a_control_has_the_parameters_of_the_arrangement_it_stands_against(name: str, experts: int):
    def count(model: MedVLM) -> int:
        return sum(parameter.numel() for parameter in model.experts.parameters())

    assert count(fresh(name)) == experts * count(fresh("no_experts"))


def test_the_models_that_can_be_created_are_listed():
    assert list_models() == list(MODELS)
    assert set(list_models()) == {"medmoe-tiny", "medmoe-swin-t"}


def test_a_created_model_is_ready_for_use_and_can_be_saved(tmp_path: Path):
    model = create_model("medmoe-tiny", modalities=("ct", "mri"))
    assert model.modalities == ("ct", "mri")
    assert not model.training
    pixels, _ = Preprocess(size=64)(phantoms().samples[0])
    with torch.inference_mode():
        assert model.encode_image(pixels[None]).embed.shape == (1, 128)
    assert (model.save_pretrained(tmp_path / "model") / "model.safetensors").is_file()


def test_a_created_model_follows_its_seed():
    one, same, other = (create_model("medmoe-tiny", seed=seed) for seed in (1, 1, 2))
    assert same_weights(one, same)
    assert not same_weights(one, other)


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(ModelError, match=r"unknown model 'medmoe-tny' \(did you mean 'medmoe-tiny'\?\)") as got:
        create_model("medmoe-tny")
    assert "list_models" in (got.value.remedy or "")
