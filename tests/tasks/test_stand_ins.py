"""Ridge regressions from untrained features, in the place of a model's image side."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from constructed import context, evidence, sample
from sklearn.linear_model import Ridge as Reference
from sklearn.preprocessing import StandardScaler

from medmoe.errors import DataError
from medmoe.modalities import SIX
from medmoe.tasks import Routing, evaluate_all
from medmoe.tasks.base import Evidence
from medmoe.tasks.stand_ins import fit_ridge, stand_in, stand_ins

WORDS = ("nodule", "effusion", "fracture", "mass", "edema", "cyst", "stone", "clot", "polyp", "ulcer", "scar", "tear")


def told(count: int, *, first: int, seed: int) -> Evidence:
    """Give images whose raw features are a fixed linear map of what their report says, and whose embedding is noise."""
    rng = np.random.default_rng(seed)
    samples = [
        sample(first + i, f"{WORDS[i % 12]} beside {WORDS[rng.integers(12)]}", SIX[i % 2], patient=f"p{first + i}")
        for i in range(count)
    ]
    made = evidence(samples, seed=seed)
    mixing = torch.randn(64, 80, generator=torch.Generator().manual_seed(9))
    kind = torch.tensor([[float(i % 2)] for i in range(count)])
    noise = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    return replace(made, features={"raw": torch.cat([made.text_embed @ mixing, kind], dim=1), "noise": noise})


def test_the_ridge_equals_scikit_learns_at_the_strength_it_chose() -> None:
    rng = np.random.default_rng(0)
    features, targets, others = rng.normal(size=(50, 7)) * 3 + 1, rng.normal(size=(50, 4)), rng.normal(size=(9, 7))
    targets += features @ rng.normal(size=(7, 4))
    ours = fit_ridge(features, targets)
    scaler = StandardScaler().fit(features)
    theirs = Reference(alpha=ours.strength * 50).fit(scaler.transform(features), targets)
    np.testing.assert_allclose(ours(others), theirs.predict(scaler.transform(others)), atol=1e-9)


def test_the_strength_has_the_least_generalised_cross_validation_error() -> None:
    rng = np.random.default_rng(1)
    features, noise = rng.normal(size=(40, 30)), rng.normal(size=(40, 3))
    assert fit_ridge(features, noise).strength == 100
    assert fit_ridge(features, features[:, :3]).strength == 1e-3
    unit = (features - features.mean(axis=0)) / features.std(axis=0)
    targets = features[:, :3] + 2 * noise
    errors = {}
    for strength in (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0):
        hat = unit @ np.linalg.solve(unit.T @ unit + strength * 40 * np.eye(30), unit.T) + 1 / 40
        errors[strength] = ((targets - hat @ targets) ** 2).sum() / (1 - np.trace(hat) / 40) ** 2
    assert fit_ridge(features, targets).strength == min(errors, key=errors.__getitem__)


def test_a_constant_feature_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    features, targets = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    wide = np.hstack([features, np.full((30, 1), 5.0)])
    np.testing.assert_allclose(fit_ridge(wide, targets)(wide), fit_ridge(features, targets)(features), atol=1e-9)


def test_features_that_tell_the_report_retrieve_it_and_noise_does_not() -> None:
    fit, judged = told(120, first=100, seed=1), told(24, first=0, seed=2)
    whole = replace(context(), fit=fit)
    others = stand_ins(judged, whole)
    results = evaluate_all(judged, whole, ["routing", "zeroshot_retrieval"], others=others)["tasks"]
    recall = results["zeroshot_retrieval"]["image_to_report_recall@1"]["controls"]
    assert recall["raw"] > 0.9
    assert recall["noise"] < 0.4
    routed = results["routing"]["image_router_accuracy"]["controls"]
    assert routed["raw"] == 1
    assert routed["noise"] < 0.9
    assert "raw" not in results["routing"]["text_router_accuracy"]["controls"]


def test_the_models_own_figures_stay_what_they_are() -> None:
    fit, judged = told(40, first=100, seed=1), told(24, first=0, seed=2)
    whole = replace(context(), fit=fit)
    plain = evaluate_all(judged, whole, ["routing"])["tasks"]["routing"]
    compared = evaluate_all(judged, whole, ["routing"], others=stand_ins(judged, whole))["tasks"]["routing"]
    for name, figure in plain.items():
        assert compared[name]["value"] == figure["value"]
        assert figure["controls"].items() <= compared[name]["controls"].items()


def test_without_training_pairs_or_features_there_is_no_stand_in() -> None:
    judged = told(24, first=0, seed=2)
    assert stand_ins(judged, context()) == {}
    silent = replace(told(12, first=100, seed=1), has_report=torch.zeros(12, dtype=torch.bool))
    assert stand_in(judged, silent, "raw") is None
    assert stand_in(judged, replace(silent, features={}), "raw") is None
    assert Routing().evaluate(judged, context()).metrics["image_router_accuracy"].value == 1


def test_a_patient_fitted_on_and_judged_stops_the_comparison() -> None:
    judged = told(24, first=0, seed=2)
    with pytest.raises(DataError, match="24 patients of the training split are evaluated too"):
        stand_ins(judged, replace(context(), fit=judged))
