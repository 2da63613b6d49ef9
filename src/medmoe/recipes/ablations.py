"""Ablations as data: grids of arms, each a few settings on top of one recipe, with what it is to be held against."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medmoe.config import RunConfig, override
from medmoe.errors import ConfigError, unknown
from medmoe.recipes import RECIPES
from medmoe.recipes.medmoe import ARRANGEMENTS


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of doing it.

    Attributes:
        about: What it is, in a few words.
        settings: `a.b=1` changes of the grid's recipe.
        against: The arm it is compared with: one of equal active cost, or the one it differs from in a single point;
            None for the grid's reference.
        shares: Settings whose value is a share of `train.steps`.
    """

    about: str
    settings: tuple[str, ...] = ()
    against: str | None = None
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ablation:
    """A grid of arms.

    Attributes:
        about: The question it answers.
        recipe: The recipe that all arms change.
        reference: The arm that others are compared with unless they say otherwise.
        arms: By name.
    """

    about: str
    recipe: str
    reference: str
    arms: dict[str, Arm]


def _arranged(name: str) -> tuple[str, ...]:
    """Arrange the experts as the recipe of that name; all of it is said, so that it doesn't hang on what it changes."""
    experts, router = ARRANGEMENTS[name]
    whole = {"shared": 0, "special": True, "zero": False, "growing": False, **experts}
    parts = (("experts", whole), ("router", router))
    said = (f"model.{part}.{key}={_json(value)}" for part, values in parts for key, value in values.items())
    return (*said, "model.special_projection=false")


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


_SEPARATE = _arranged("separate")
_SHARED_SPECIAL = _arranged("shared_special")
_ONE_EXPERT = _arranged("no_experts")
_GLOBAL_SPECIAL = (*_ONE_EXPERT, "model.special_projection=true")
_LOCAL_OFF = ("objectives.late_interaction=0",)
_UNNAMED = ("objectives.region_words=0", "model.region_words=false")
_ALL_LOCAL_OFF = (*_LOCAL_OFF, *_UNNAMED)
_GLORIA = (
    *_LOCAL_OFF,
    "objectives.local=0.5",
    'objective_options={"local": {"negatives": "modality"}}',
    "model.local_similarity=attention",
)
_CONTROLS = {
    "one_expert": Arm("one expert for all: the active cost of one", _ONE_EXPERT),
    "two_experts": Arm("two experts for all, summed: the active cost of two", _arranged("two_shared")),
    "six_experts": Arm("six experts for all, summed: the total cost of six", _arranged("all_shared")),
}


def _router(**values: object) -> tuple[str, ...]:
    return tuple(f"model.router.{name}={value}" for name, value in values.items())


ROUTING = Ablation(
    about="Does routing images to experts by modality help, and which part of the published design matters?",
    recipe="tiny",
    reference="one_expert",
    arms={
        **_CONTROLS,
        "separate": Arm("an expert each, chosen by the report in training: the paper's", _SEPARATE),
        "image_routed": Arm("chosen by the image in training too", (*_SEPARATE, *_router(train="image")), "separate"),
        "straight_through": Arm(
            "the alignment losses train the router too", (*_SEPARATE, *_router(gradient="straight_through")), "separate"
        ),
        "oracle": Arm("chosen by the label", _arranged("oracle"), "separate"),
        "random": Arm("a fixed expert for each image, whatever it shows", _arranged("random"), "separate"),
        "top_2": Arm(
            "the two best, weighed by the router", (*_SEPARATE, *_router(selection="top_k", k=2)), "two_experts"
        ),
        "soft": Arm("all, weighed by the router", (*_SEPARATE, *_router(selection="soft")), "six_experts"),
        "shared_special": Arm("one for all plus one each, summed", _SHARED_SPECIAL, "two_experts"),
        "shared_special_random": Arm(
            "one for all plus a random one, summed", _arranged("shared_special_random"), "shared_special"
        ),
        "grown": Arm("one for all that parts into six", _arranged("grown")),
        "kernel_3": Arm("3×3 convolutions instead of 1×1", (*_SEPARATE, "model.experts.kernel=3"), "separate"),
        "flattened": Arm(
            "levels interpolated along one row of pixels",
            (*_SEPARATE, "model.experts.interpolation=flattened"),
            "separate",
        ),
        "within_report": Arm(
            "the paper's local loss, within each report",
            (*_SEPARATE, *_ALL_LOCAL_OFF, "objectives.local_within_report=0.5", "model.local_similarity=attention"),
            "separate",
        ),
        "gloria": Arm(
            "GLoRIA's local loss in place of late interaction; regions still name words",
            (*_SEPARATE, *_GLORIA),
            "separate",
        ),
        "no_local": Arm("no local loss", (*_SEPARATE, *_ALL_LOCAL_OFF), "separate"),
        "leaking": Arm(
            "experts whose norms tell every place of all others",
            (*_SEPARATE, "model.experts.norm=group"),
            "separate",
        ),
        "unnamed": Arm("regions don't name words", (*_SEPARATE, *_UNNAMED), "separate"),
    },
)

DESIGNS = Ablation(
    about="Which change of design makes modality experts worth their cost?",
    recipe="tiny",
    reference="one_expert",
    arms={
        **{name: _CONTROLS[name] for name in ("one_expert", "two_experts")},
        "separate": Arm("an expert each, from scratch", _SEPARATE),
        "random": Arm("a fixed expert for each image, whatever it shows", _arranged("random"), "separate"),
        "shared_special": Arm("one for all plus one each, summed", _SHARED_SPECIAL, "two_experts"),
        "grown": Arm("one for all that parts into six", _arranged("grown")),
        "low_rank_4": Arm("one for all, corrected at rank 4", (*_SHARED_SPECIAL, "model.experts.rank=4")),
        "low_rank_16": Arm("one for all, corrected at rank 16", (*_SHARED_SPECIAL, "model.experts.rank=16")),
        "global_special": Arm("one for all; each modality's projection joins the global embedding", _GLOBAL_SPECIAL),
        "global_special_random": Arm(
            "the same, the projection a random one",
            (*_GLOBAL_SPECIAL, *_router(train="random", infer="random")),
        ),
        "both_special": Arm(
            "one for all plus one each, and each modality's projection",
            (*_SHARED_SPECIAL, "model.special_projection=true"),
            "two_experts",
        ),
        "annealed": Arm(
            "all experts equally, hardening to the chosen one",
            _SEPARATE,
            shares={"model.router.anneal_steps": 0.4},
        ),
        "one_expert_within": Arm(
            "one expert for all; half of each batch of one modality",
            (*_ONE_EXPERT, "data.batching=within"),
        ),
        "separate_within": Arm(
            "an expert each; half of each batch of one modality",
            (*_SEPARATE, "data.batching=within"),
            "one_expert_within",
        ),
    },
)


def _path(**changes: object) -> tuple[str, ...]:
    """Shape every expert's path from levels to regions; all of it is said, so that it doesn't hang on the recipe."""
    whole = {"width": 64, "grid": 8, "levels": [0, 1], "kernel": 1, "layers": 3, "conv": "dense", **changes}
    return tuple(f"model.experts.{key}={_json(value)}" for key, value in whole.items())


_WIDE = {"grid": 16, "levels": [0, 1, 2, 3], "kernel": 3, "conv": "separable"}

LOCAL_PATH = Ablation(
    about="How fine, wide and deep a local path is worth its cost?",
    recipe="tiny",
    reference="grid_8",
    arms={
        "grid_8": Arm("8×8 regions of 64 channels from the two finest levels, three layers of 1×1", _path()),
        "grid_4": Arm("4×4 regions: a quarter of the places", _path(grid=4)),
        "grid_16": Arm("16×16 regions: four times the places", _path(grid=16)),
        "width_32": Arm("32 channels", _path(width=32)),
        "width_128": Arm("128 channels", _path(width=128)),
        "level_0": Arm("the finest level alone", _path(levels=[0])),
        "all_levels": Arm("all four levels: a region sees most of the image", _path(levels=[0, 1, 2, 3])),
        "layers_1": Arm("one layer in place of three: tiny's", _path(layers=1)),
        "kernel_3": Arm("3×3 convolutions: a region sees its neighbours", _path(kernel=3)),
        "separable_3": Arm(
            "3×3 convolutions of each channel by itself, then 1×1", _path(kernel=3, conv="separable"), "kernel_3"
        ),
        "wide": Arm(
            "16×16 regions, all levels, separable 3×3: the shape of the recipe medmoe", _path(**_WIDE, upsample="first")
        ),
        "wide_last": Arm(
            "the same, coarse levels passing the block at their own size", _path(**_WIDE, upsample="last"), "wide"
        ),
    },
)

ABLATIONS: dict[str, Ablation] = {"routing": ROUTING, "designs": DESIGNS, "local_path": LOCAL_PATH}


def ablation_of(name: str) -> Ablation:
    """Find a grid by its name, in capitals or not.

    Raises:
        ConfigError: If the name is unknown.
    """
    if name.lower() not in ABLATIONS:
        raise ConfigError(unknown("ablation", name, ABLATIONS))
    return ABLATIONS[name.lower()]


def arm_config(
    ablation: Ablation, name: str, *, recipe: str | None = None, settings: Sequence[str] = (), seed: int = 0
) -> RunConfig:
    """Give the whole configuration of an arm; it bears the arm's name.

    Args:
        ablation: The grid.
        name: The arm.
        recipe: A recipe to change in place of the grid's own.
        settings: `a.b=1` changes for every arm, which hold over the arm's own.
        seed: Of weights, data order and augmentation.

    Raises:
        ConfigError: If the arm, the recipe or a setting is unknown.
    """
    if name not in ablation.arms:
        raise ConfigError(unknown("arm", name, ablation.arms), where="--arms")
    recipe = recipe or ablation.recipe
    if recipe not in RECIPES:
        raise ConfigError(unknown("recipe", recipe, RECIPES), where="--recipe")
    arm, base = ablation.arms[name], RECIPES[recipe]()
    steps = override(base, list(settings)).train.steps
    shares = [f"{key}={max(1, round(share * steps))}" for key, share in arm.shares.items()]
    config = override(base, [*arm.settings, *shares, *settings, f"train.seed={seed}"])
    return config.model_copy(update={"recipe": name})
