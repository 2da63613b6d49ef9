"""Every arm of every grid can be built and trained, and says what it says it is."""

from __future__ import annotations

import pytest
import torch

from medmoe.build import build_loader, build_model, build_tokenizer, resolve_data
from medmoe.config import RunConfig
from medmoe.errors import ConfigError
from medmoe.experts.low_rank import LowRankExpert
from medmoe.model import MedVLM
from medmoe.objectives import total_loss
from medmoe.recipes import ARRANGEMENTS, RECIPES
from medmoe.recipes.ablations import ABLATIONS, ablation_of, arm_config
from small_runs import phantoms

EVERY = [(grid, arm) for grid, ablation in ABLATIONS.items() for arm in ablation.arms]
SMALL = (
    "model.vision.image_size=32",
    "model.vision.channels=[8,8,16,16]",
    "model.text.width=16",
    "model.text.heads=2",
    "model.text.vocab_size=300",
    "model.experts.width=8",
    "model.experts.grid=4",
    "model.embed_dim=16",
    "data.batch_size=8",
    "data.workers=0",
    "train.steps=10",
)


def config(grid: str, arm: str) -> RunConfig:
    own = {setting.split("=")[0] for setting in ABLATIONS[grid].arms[arm].settings}
    small = [setting for setting in SMALL if setting.split("=")[0] not in own]  # what an arm is about stays
    return arm_config(ABLATIONS[grid], arm, settings=small)


def made(grid: str, arm: str) -> tuple[MedVLM, RunConfig]:
    resolved, reports = resolve_data(config(grid, arm), phantoms())
    return build_model(resolved.model, build_tokenizer(resolved.model.text, reports)), resolved


@pytest.mark.parametrize(("grid", "arm"), EVERY)
def test_every_arm_takes_a_step(grid: str, arm: str):
    model, resolved = made(grid, arm)
    batch = next(iter(build_loader(phantoms(), model, resolved, train=True)))
    loss = total_loss(model.train()(batch), batch, resolved.objectives, resolved.objective_options)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert loss.inactive == ()
    assert resolved.recipe == arm


@pytest.mark.parametrize("grid", ABLATIONS)
def test_arms_are_held_against_arms_of_their_grid_and_no_two_are_the_same(grid: str):
    ablation = ABLATIONS[grid]
    assert ablation.reference in ablation.arms
    assert {arm.against for arm in ablation.arms.values()} <= {None, *ablation.arms}
    assert all(arm.against != name for name, arm in ablation.arms.items())
    plain = [config(grid, arm).model_copy(update={"recipe": ""}) for arm in ablation.arms]
    assert all(one != other for place, one in enumerate(plain) for other in plain[:place])


def test_arms_of_the_local_path_differ_in_one_setting_from_what_they_are_held_against():
    grid = ABLATIONS["local_path"]
    for name, arm in grid.arms.items():
        if name not in (grid.reference, "wide"):  # wide is another recipe's shape, there for wide_last
            other = grid.arms[arm.against or grid.reference]
            assert len(set(arm.settings) - set(other.settings)) == 1, name


@pytest.mark.parametrize(
    ("arm", "arrangement"),
    [
        ("one_expert", "no_experts"),
        ("two_experts", "two_shared"),
        ("six_experts", "all_shared"),
        ("separate", "separate"),
        ("oracle", "oracle"),
        ("random", "random"),
        ("shared_special", "shared_special"),
        ("shared_special_random", "shared_special_random"),
        ("grown", "grown"),
    ],
)
def test_an_arm_named_after_an_arrangement_is_it(arm: str, arrangement: str):
    assert arrangement in ARRANGEMENTS
    assert arm_config(ABLATIONS["routing"], arm).model == RECIPES[arrangement]().model


def test_settings_for_all_arms_hold_over_an_arms_own_and_shares_follow_the_steps():
    grid = ABLATIONS["designs"]
    assert arm_config(grid, "annealed", settings=["train.steps=50"]).model.router.anneal_steps == 20
    set_by_hand = arm_config(grid, "annealed", settings=["train.steps=50", "model.router.anneal_steps=3"])
    assert set_by_hand.model.router.anneal_steps == 3
    assert arm_config(grid, "low_rank_4", settings=["model.experts.rank=2"], seed=7).train.seed == 7


def test_another_recipe_can_be_changed():
    assert arm_config(ABLATIONS["routing"], "separate", recipe="medmoe").model.vision.name == "swin-t"


def test_low_rank_experts_stand_beside_a_whole_shared_one():
    experts = made("designs", "low_rank_4")[0].experts
    assert [type(one) for one in experts.special] == [LowRankExpert] * 6
    assert len(experts.shared) == 1


def test_only_training_anneals():
    model, _ = made("designs", "annealed")
    assert (model.train_route.anneal, model.infer_route.anneal) == (4, 0)


def test_grids_are_found_in_capitals_too_and_others_are_not():
    assert ablation_of("ROUTING") is ABLATIONS["routing"]
    with pytest.raises(ConfigError, match="did you mean 'routing'"):
        ablation_of("rooting")


def test_low_rank_experts_without_a_shared_one_are_refused():
    wrong = arm_config(ABLATIONS["routing"], "separate", settings=[*SMALL, "model.experts.rank=2"])
    resolved, reports = resolve_data(wrong, phantoms())
    with pytest.raises(ConfigError, match="beside a shared one"):
        build_model(resolved.model, build_tokenizer(resolved.model.text, reports))
