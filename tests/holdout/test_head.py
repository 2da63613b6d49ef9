"""Heads trained side by side: each as if alone, together one head of the model's own kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medmoe.config import RunConfig
from medmoe.holdout.bank import Bank
from medmoe.holdout.head import BankRouter, _Members, sample_weights, train_heads
from medmoe.recipes import RECIPES

MODALITIES, MEASURES = 3, 6


def config(steps: int = 60, hidden: int = 12) -> RunConfig:
    plain = RECIPES["router"]()
    model = plain.model.model_copy(update={"router": plain.model.router.model_copy(update={"hidden": hidden})})
    data = plain.data.model_copy(update={"batch_size": 32})
    return plain.model_copy(
        update={"model": model, "data": data, "train": plain.train.model_copy(update={"steps": steps})}
    )


def clouds(count: int = 90, *, views: int = 2, seed: int = 0) -> tuple[Bank, np.ndarray]:
    """Give measures around a mean of their own for each of three modalities."""
    rng = np.random.default_rng(seed)
    target = np.arange(count) % MODALITIES
    means = 3 * rng.normal(size=(MODALITIES, MEASURES)) + 10
    values = means[target] + rng.normal(size=(views, count, MEASURES))
    return Bank(torch.from_numpy(values).float()), target


def trained(*, heads: int = 3, seed: int = 0, steps: int = 60) -> tuple[BankRouter, Bank, np.ndarray]:
    bank, target = clouds()
    rows = np.arange(len(target))
    weights = np.full(len(rows), 1 / len(rows))
    return train_heads(bank, rows, target, weights, config(steps), heads=heads, seed=seed), bank, target


def test_heads_learn_to_tell_modalities_apart():
    router, bank, target = trained(steps=200)
    assert (router(bank.plain).argmax(1).numpy() == target).mean() > 0.95


def test_one_wide_head_gives_the_mean_of_the_heads_logits():
    members = _Members(4, MEASURES, 5, MODALITIES, torch.Generator().manual_seed(0))
    router = BankRouter(MEASURES, 20, MODALITIES)
    members.averaged(router.head)
    features = router.features(clouds()[0].plain)
    alone = members(features.expand(4, *features.shape))
    torch.testing.assert_close(router.head(features), alone.mean(0), atol=1e-5, rtol=1e-4)


def test_the_same_seed_trains_the_same_heads_and_another_seed_others():
    one, again, other = (trained(seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.second.weight"], other["head.second.weight"])


def test_training_does_not_touch_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trained(steps=2)
    assert torch.equal(before, torch.get_rng_state())


def test_measures_come_out_standardised_as_often_as_they_are_drawn():
    bank, target = clouds(views=1)
    weights = np.where(target == 0, 3.0, 1.0)
    weights /= weights.sum()
    router = train_heads(bank, np.arange(len(target)), target, weights, config(1), heads=1, seed=0)
    placed = router.features(bank.plain)[:, :MEASURES].numpy()
    np.testing.assert_allclose(weights @ placed, 0, atol=1e-4)
    np.testing.assert_allclose(weights @ placed**2, 1, atol=1e-3)


def test_sources_count_with_the_root_of_their_size_and_modalities_alike():
    modality = ["ct"] * 20 + ["mri"] * 4
    source = ["a"] * 16 + ["b"] * 4 + ["c"] * 4
    weights = sample_weights(modality, source, balance=1.0)
    assert weights[:20].sum() == pytest.approx(weights[20:].sum()) == pytest.approx(0.5)
    assert weights[:16].sum() == pytest.approx(2 * weights[16:20].sum())


def test_without_balance_modalities_count_as_they_come():
    weights = sample_weights(["ct"] * 20 + ["mri"] * 5, ["a"] * 25, balance=0.0)
    assert weights[:20].sum() == pytest.approx(0.8)
