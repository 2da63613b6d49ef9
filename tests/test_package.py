from __future__ import annotations

import subprocess
import sys

import pytest

import medmoe
from medmoe.errors import ModelError


def test_every_public_name_is_there_and_leads_to_its_thing():
    from medmoe.build import load_model
    from medmoe.predictor import Predictor
    from medmoe.recipes.models import create_model, list_models

    assert set(medmoe.__all__) == {"Predictor", "__version__", "create_model", "from_pretrained", "list_models"}
    assert medmoe.Predictor is Predictor
    assert medmoe.create_model is create_model
    assert medmoe.list_models is list_models
    assert medmoe.from_pretrained is load_model
    assert medmoe.__version__.count(".") == 2


def test_parts_are_reached_as_attributes():
    assert callable(medmoe.objectives.info_nce)
    assert callable(medmoe.objectives.word_region_similarity)
    assert "xray" in medmoe.modalities.MODALITIES


def test_an_unknown_attribute_is_told_as_python_does():
    with pytest.raises(AttributeError, match="module 'medmoe' has no attribute 'create_modle'"):
        _ = medmoe.create_modle
    with pytest.raises(ImportError):
        from medmoe import nothing_of_this_name  # noqa: F401


def test_a_broken_part_is_not_taken_for_a_missing_one(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.delitem(sys.modules, "medmoe.evaluate", raising=False)
    monkeypatch.delitem(vars(medmoe), "evaluate", raising=False)  # delattr would look for it, and import it
    monkeypatch.setitem(sys.modules, "medmoe.tasks", None)  # importing it fails
    with pytest.raises(ModuleNotFoundError, match=r"medmoe\.tasks"):
        _ = medmoe.evaluate


def test_every_listed_model_has_a_recipe_and_the_smallest_is_made_by_name():
    assert medmoe.list_models() == ["medmoe-tiny", "medmoe-swin-t"]
    model = medmoe.create_model("medmoe-tiny", modalities=("ct", "mri"))
    assert model.modalities == ("ct", "mri")
    assert not model.training


def test_a_created_model_depends_on_the_seed_and_nothing_else():
    import torch

    one, same, other = (medmoe.create_model("medmoe-tiny", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_an_unknown_model_is_told_with_the_nearest_name():
    with pytest.raises(ModelError, match=r"unknown model 'medmoe-tny' \(did you mean 'medmoe-tiny'\?\)"):
        medmoe.create_model("medmoe-tny")


@pytest.mark.parametrize("name", ["from_pretrained", "Predictor"])
def test_what_uses_a_model_loads_nothing_that_only_training_or_tasks_need(name: str):
    slow = ["sklearn", "scipy", "timm", "transformers", "torchvision.models", "pandas"]
    program = f"import sys, medmoe; medmoe.{name}; print([name for name in {slow!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
