from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from medmoe.config import Config, DataConfig, ModelConfig, RunConfig, TrainConfig, keys, override, parse
from medmoe.errors import ConfigError
from small_runs import micro

RECIPE = RunConfig(recipe="a")


def test_a_configuration_comes_back_from_json_the_same():
    config = micro(
        'model.modalities=["ct","mri"]', "objective_options.local.tau_attention=3", "data.columns.image=path"
    )
    assert parse(RunConfig, json.loads(config.model_dump_json())) == config


def test_a_configuration_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        RECIPE.train.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("kind", Config.__subclasses__())
def test_no_part_takes_an_unknown_key(kind: type[Config]):
    values = {"recipe": "a"} if kind is RunConfig else {}
    with pytest.raises(ConfigError, match="unknown key 'colour'"):
        parse(kind, {**values, "colour": 1})


def test_an_unknown_key_names_the_nearest_and_where_it_stood():
    with pytest.raises(
        ConfigError, match=r"^config\.json: unknown key 'train\.stepz' \(did you mean 'train\.steps'\?\)"
    ):
        parse(RunConfig, {"recipe": "a", "train": {"stepz": 3}}, where="config.json")


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"recipe = .*field required"):
        parse(RunConfig, {})


def test_a_wrong_value_tells_what_was_got_and_what_is_allowed():
    with pytest.raises(ConfigError, match=r"x: precision = 'fp8': input should be 'fp32' or 'bf16'"):
        parse(TrainConfig, {"precision": "fp8"}, where="x")


def test_a_value_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="batch_size = 1: input should be greater than or equal to 2"):
        parse(DataConfig, {"batch_size": 1})


def test_setting_an_unknown_key_names_the_nearest_and_a_remedy():
    with pytest.raises(
        ConfigError, match=r"^--set: unknown key 'train\.stpes' \(did you mean 'train\.steps'\?\)"
    ) as got:
        override(RECIPE, ["train.stpes=3"])
    assert got.value.remedy == "see `medmoe config`"


@pytest.mark.parametrize("key", ["nothing", "train.steps.more", "nothing.at.all", "model.vision.chanels"])
def test_setting_a_key_that_leads_nowhere_is_refused(key: str):
    with pytest.raises(ConfigError, match=f"unknown key '{key}'"):
        override(RECIPE, [f"{key}=1"])


def test_setting_a_value_of_the_wrong_type_names_the_key_and_the_value():
    with pytest.raises(ConfigError, match=r"^--set: train\.steps = 'many': input should be a valid integer"):
        override(RECIPE, ["train.steps=many"])


def test_a_setting_without_a_value_is_refused():
    with pytest.raises(ConfigError, match=r"got 'train\.steps', allowed: key=value"):
        override(RECIPE, ["train.steps"])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.lr=3e-4", 3e-4),
        ("train.ema=null", None),
        ("train.ema=0.9", 0.9),
        ("data.flip=true", True),
        ("train.betas=[0.8,0.9]", (0.8, 0.9)),
        ('train.freeze=["text"]', ("text",)),
        ("model.vision.name=swin-t", "swin-t"),
        ('model.vision.name="swin-t"', "swin-t"),
        (" model.router.hidden =7", 7),
        ("model.vision.name=a=b", "a=b"),
    ],
)
def test_a_settings_right_side_is_json_or_else_a_string(setting: str, value: object):
    found: object = override(RECIPE, [setting])
    for name in setting.partition("=")[0].strip().split("."):
        found = getattr(found, name)
    assert found == value


def test_of_two_settings_of_a_key_the_later_holds():
    assert override(RECIPE, ["train.steps=1", "train.steps=2"]).train.steps == 2


def test_setting_changes_nothing_but_what_it_names_and_not_the_original():
    before = RECIPE.model_dump()
    after = override(RECIPE, ["objectives.global=0.1", "train.steps=2"]).model_dump()
    assert RECIPE.model_dump() == before
    after["objectives"]["global"], after["train"]["steps"] = 0.5, 1000
    assert after == before


def test_objectives_and_columns_take_new_names():
    config = override(RECIPE, ["objectives.image_modality=0.5", "data.columns.image=path", "data.columns.text=report"])
    assert config.objectives["image_modality"] == 0.5
    assert config.data.columns == {"image": "path", "text": "report"}


def test_an_objectives_options_are_set_one_by_one_or_as_one():
    one_by_one = override(
        RECIPE, ["objective_options.local.tau_attention=4", "objective_options.local.tau_aggregate=5"]
    )
    as_one = override(RECIPE, ['objective_options.local={"tau_attention":4,"tau_aggregate":5}'])
    assert (
        one_by_one.objective_options == as_one.objective_options == {"local": {"tau_attention": 4, "tau_aggregate": 5}}
    )


def test_an_option_of_something_that_has_none_is_refused():
    with pytest.raises(ConfigError, match="unknown key"):
        override(RECIPE, ["objective_options.local=4", "objective_options.local.tau_attention=4"])


def test_a_hugging_face_configuration_takes_new_names():
    config = parse(ModelConfig, {"text": {"name": "hf", "hf": {"model_type": "bert"}}})
    assert override(config, ["text.hf.hidden_size=8"]).text.hf == {"model_type": "bert", "hidden_size": 8}


def test_every_key_listed_can_be_set_to_what_it_is():
    values = RECIPE.model_dump(mode="json")
    for key in keys(RECIPE):
        value = values
        for name in key.split("."):
            value = value[name]
        assert override(RECIPE, [f"{key}={json.dumps(value)}"]) == RECIPE
