"""Setting a gate: on what routers said of what they didn't know, never on what is left out outside."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from medmoe.config import RunConfig, override
from medmoe.errors import DataError
from medmoe.holdout.bank import Bank
from medmoe.holdout.folds import Facts, Fold, make_folds
from medmoe.holdout.setting import IDEAS, Heard, Rules, bounded, fit_router
from medmoe.recipes import RECIPES

MEASURES = 8
RULES = Rules(right=0.9, doubt=0.1)


def config() -> RunConfig:
    return override(RECIPES["router"](), ["model.router.hidden=24"])


def world(seed: int = 0, *, count: int = 300) -> tuple[Bank, Facts]:
    """Give measures of three modalities at two sites each, every site a little off, and half of one site far off."""
    rng = np.random.default_rng(seed)
    modality = np.arange(count) % 3
    site = np.arange(count) // 3 % 2
    means = 4 * rng.normal(size=(3, MEASURES))
    sites = rng.normal(size=(3, 2, MEASURES))
    values = means[modality] + sites[modality, site] + rng.normal(size=(count, MEASURES))
    keys = tuple(str(row) for row in range(count))
    names = np.array(["ct", "mri", "fundus"])[modality]
    sources = tuple(f"{name}-{where}" for name, where in zip(names, site, strict=True))
    split = tuple(("train", "train", "val", "test")[row // 6 % 4] for row in range(count))
    return Bank(torch.from_numpy(values[None]).float()), Facts(keys, tuple(names.tolist()), sources, keys, split)


def heard(count: int = 400, *, seed: int = 0) -> Heard:
    """Give answers whose chance to be right grows with the first signal, of four sources of two modalities."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(-1, 5, count)
    right = rng.random(count) < 1 / (1 + np.exp(-2 * sure))
    modality, unit = np.arange(count) % 2, np.arange(count) % 4
    chosen = np.where(right, modality, 1 - modality)
    signals = np.stack([sure, np.ones(count)], axis=1)
    return Heard(signals, chosen, right, np.ones(count, bool), unit, modality)


def share_right(own: Heard, least: float) -> float:
    """Average the share right among the taken over modalities, sources with the root of their size."""
    taken = own.signals[:, 0] >= least
    weights = own.weights() * taken
    kinds = np.unique(own.modality)
    parts = [weights * (own.modality == kind) for kind in kinds]
    return float(np.mean([part @ own.right / part.sum() for part in parts]))


def test_without_margin_the_threshold_is_the_lowest_looked_at_that_is_right_often_enough():
    own = heard()
    least = bounded(own.signals[:, 0], own, dataclasses.replace(RULES, doubt=0.5))
    grid = np.quantile(own.signals[:, 0], np.linspace(0, 0.98, 60))
    lowest = min(value for value in grid if share_right(own, value) >= RULES.right)
    assert abs(least - lowest) <= 0.25  # the middle of the draws isn't exactly the value itself
    assert share_right(own, least) >= RULES.right - 0.01


def test_a_smaller_doubt_or_a_higher_aim_never_lowers_the_threshold():
    own = heard()
    by_doubt = [bounded(own.signals[:, 0], own, dataclasses.replace(RULES, doubt=doubt)) for doubt in (0.5, 0.2, 0.02)]
    by_aim = [bounded(own.signals[:, 0], own, dataclasses.replace(RULES, right=right)) for right in (0.8, 0.9, 0.97)]
    assert by_doubt == sorted(by_doubt)
    assert by_aim == sorted(by_aim)
    assert by_doubt[0] < by_doubt[-1]


def test_where_no_threshold_is_enough_the_highest_looked_at_is_taken():
    own = dataclasses.replace(heard(), right=np.zeros(400, bool))
    least = bounded(own.signals[:, 0], own, RULES)
    assert (own.signals[:, 0] >= least).mean() <= 0.03


def test_modalities_count_alike_however_many_images_they_have():
    own = heard()
    few = own.only((own.modality == 0) | (np.arange(400) % 20 == 1))
    weights = few.weights()
    assert weights[few.modality == 0].sum() == pytest.approx(weights[few.modality == 1].sum())


def test_what_is_left_out_outside_changes_nothing_inside():
    bank, facts = world()
    fold = next(fold for fold in make_folds(facts) if fold.name == "source ct-1")
    other = bank.measures.clone()
    other[:, fold.out] = 1e3
    router, gates = fit_router(bank, facts, fold, config(), RULES, seed=0)
    again, same = fit_router(Bank(other), facts, fold, config(), RULES, seed=0)
    assert all(
        torch.equal(one, two)
        for one, two in zip(router.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert all(gates[name].to_dict() == same[name].to_dict() for name in IDEAS)


def test_test_images_of_known_sources_change_nothing_either():
    bank, facts = world()
    fold = next(fold for fold in make_folds(facts) if fold.name == "source ct-1")
    other = bank.measures.clone()
    other[:, facts.where("test")] = 1e3
    gates, same = (fit_router(one, facts, fold, config(), RULES, seed=0)[1] for one in (bank, Bank(other)))
    assert all(gates[name].to_dict() == same[name].to_dict() for name in IDEAS)


def test_a_router_knows_an_unseen_site_and_its_gate_turns_an_unknown_modality_away():
    bank, facts = world()
    folds = {fold.name: fold for fold in make_folds(facts)}
    router, gates = fit_router(bank, facts, folds["source ct-1"], config(), RULES, seed=0)
    out = np.flatnonzero(folds["source ct-1"].out)
    logits = router(bank.plain[out])
    assert (logits.argmax(1).numpy() == folds["source ct-1"].target(facts)[out]).mean() > 0.9
    assert gates["both"].accepts(logits, router.placed(bank.plain[out])).float().mean() > 0.5

    router, gates = fit_router(bank, facts, folds["modality mri"], config(), RULES, seed=0)
    strange = bank.plain[folds["modality mri"].out]
    assert gates["distance"].accepts(router(strange), router.placed(strange)).float().mean() < 0.2


def test_the_same_fold_and_seed_give_the_same_gates():
    bank, facts = world()
    fold = make_folds(facts)[0]
    one, again = (fit_router(bank, facts, fold, config(), RULES, seed=3)[1] for _ in range(2))
    assert {name: gate.to_dict() for name, gate in one.items()} == {n: gate.to_dict() for n, gate in again.items()}


def test_every_way_to_set_a_gate_sets_finite_thresholds():
    bank, facts = world()
    nobody = Fold("none", np.zeros(len(facts.keys), dtype=bool), facts.modalities)
    _, gates = fit_router(bank, facts, nobody, config(), RULES, seed=0)
    assert list(gates) == list(IDEAS)
    for name, gate in gates.items():
        assert np.isfinite([gate.sure, gate.near, *gate.least]).all(), name
        assert gate.sure >= 0, name
        assert gate.near >= 0, name


def test_a_single_source_for_every_modality_is_refused():
    bank, facts = world()
    facts = dataclasses.replace(facts, source=facts.modality)
    nobody = Fold("none", np.zeros(len(facts.keys), dtype=bool), facts.modalities)
    with pytest.raises(DataError, match="no modality has two sources"):
        fit_router(bank, facts, nobody, config(), RULES, seed=0)
