"""A head in closed form: it equals the obvious fit, and leaving a site out equals never having had it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from medmoe.holdout.bank import Bank
from medmoe.holdout.head import BankRouter, Moments, cell_weights, sum_up

MODALITIES, MEASURES, HIDDEN = 3, 6, 20
SOURCES = np.array(["a", "b", "c", "d", "e"])


def clouds(count: int = 90, *, views: int = 2, seed: int = 0) -> tuple[Bank, np.ndarray, np.ndarray]:
    """Give measures around a mean of their own for each of three modalities, the places of these, and sources."""
    rng = np.random.default_rng(seed)
    target = np.arange(count) % MODALITIES
    source = SOURCES[(target + np.arange(count) // MODALITIES % 2 * 2) % 5]
    means = 3 * rng.normal(size=(MODALITIES, MEASURES)) + 10
    values = means[target] + rng.normal(size=(views, count, MEASURES))
    return Bank(torch.from_numpy(values).float()), target, source


def summed(rows: np.ndarray | None = None, *, seed: int = 0, balance: float = 1.0) -> tuple[BankRouter, Moments]:
    bank, target, source = clouds()
    rows = np.arange(len(target)) if rows is None else rows
    return sum_up(
        bank,
        rows,
        source[rows].tolist(),
        target[rows],
        hidden=HIDDEN,
        modalities=MODALITIES,
        ridge=0.1,
        balance=balance,
        seed=seed,
    )


def set_head(router: BankRouter, moments: Moments) -> BankRouter:
    weight, bias = moments.head(np.ones(len(moments.counts), dtype=bool))
    router.head.second.weight.copy_(weight)
    router.head.second.bias.copy_(bias)
    return router


def test_it_tells_modalities_apart():
    bank, target, _ = clouds(seed=0)
    router = set_head(*summed())
    assert (router(bank.plain).argmax(1).numpy() == target).mean() > 0.95


def test_it_equals_weighted_ridge_regression_on_all_views():
    bank, target, source = clouds()
    router, moments = summed()
    weight, bias = moments.head(np.ones(len(moments.counts), dtype=bool))
    units = torch.cat([router.hidden(router.placed(view)) for view in bank.measures]).double()
    units = torch.cat([units, torch.ones(len(units), 1)], dim=1)
    pairs = list(zip(source, target, strict=True))
    counts = {pair: pairs.count(pair) for pair in pairs}
    share = np.array([counts[pair] ** -0.5 for pair in pairs])
    for place in range(MODALITIES):
        share[target == place] /= share[target == place].sum()
    share = torch.from_numpy(np.tile(share / share.sum() / 2, 2))
    truth = torch.eye(MODALITIES, dtype=torch.float64)[np.tile(target, 2)]
    system = units.T @ (share[:, None] * units)
    system += 0.1 * system.diagonal().mean() * torch.eye(len(system), dtype=torch.float64)
    wanted = torch.linalg.solve(system, units.T @ (share[:, None] * truth))
    found = torch.cat([weight, bias[:, None]], dim=1).T.double()
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=2e-3)


def test_leaving_a_source_out_equals_never_having_had_it_but_for_how_measures_are_standardised():
    bank, _, source = clouds()
    rows = np.flatnonzero(source != "b")
    router, whole = summed()
    fewer, without = summed(rows)
    fewer.standard.load_state_dict(router.standard.state_dict())
    again = sum_up_with(fewer, bank, rows, without)
    kept, every = np.array([name != "b" for name in whole.source]), all_of(again)
    pairs = zip((*whole.head(kept), *whole.near(kept)), (*again.head(every), *again.near(every)), strict=True)
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)


def all_of(moments: Moments) -> np.ndarray:
    return np.ones(len(moments.counts), dtype=bool)


def sum_up_with(router: BankRouter, bank: Bank, rows: np.ndarray, like: Moments) -> Moments:
    """Sum up anew, the slow way, by a router whose standardisation is given."""
    _, target, source = clouds()
    hidden, placed = [], []
    for name, place in zip(like.source, like.modality, strict=True):
        own = [row for row in rows if source[row] == name and target[row] == place]
        values = router.placed(bank.measures[:, own]).flatten(0, 1)
        for kept, unit in ((placed, values), (hidden, router.hidden(values))):
            more = torch.cat([unit, torch.ones(len(unit), 1)], dim=1)
            kept.append(more.T @ more / 2)
    return dataclasses.replace(like, hidden=torch.stack(hidden), placed=torch.stack(placed))


def test_a_modality_without_images_is_never_named():
    router, moments = summed()
    weight, bias = moments.head(moments.modality != 1)
    bank, _, _ = clouds()
    scores = router.hidden(router.placed(bank.plain)) @ weight.T + bias
    assert not (scores.argmax(1) == 1).any()


def test_distances_of_the_training_images_average_about_one():
    bank, target, _ = clouds()
    router, moments = summed()
    means, inverse = moments.near(all_of(moments))
    away = router.placed(bank.measures).flatten(0, 1) - means[np.tile(target, 2)]
    distance = torch.einsum("bf,fg,bg->b", away, inverse, away)
    assert 0.7 < float(distance.mean()) < 1.1  # below 1: variances are shrunk


def test_measures_come_out_standardised():
    bank, _, _ = clouds()
    router, _ = summed(balance=0.0)
    placed = router.placed(bank.measures).flatten(0, 1)
    torch.testing.assert_close(placed.mean(0), torch.zeros(MEASURES), atol=0.05, rtol=0)
    torch.testing.assert_close(placed.std(0), torch.ones(MEASURES), atol=0.05, rtol=0)


def test_the_same_seed_draws_the_same_layer_and_touches_no_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, again, other = (summed(seed=seed)[0].state_dict()["head.first.weight"] for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_sources_count_with_the_root_of_their_size_and_modalities_alike():
    counts = np.array([16, 4, 4])
    totals = cell_weights(np.array([0, 0, 1]), counts) * counts
    assert totals[:2].sum() == pytest.approx(totals[2]) == pytest.approx(0.5)
    assert totals[0] == pytest.approx(2 * totals[1])


def test_without_balance_modalities_count_as_they_come():
    counts = np.array([20, 5])
    assert (cell_weights(np.array([0, 1]), counts, balance=0.0) * counts).tolist() == pytest.approx([0.8, 0.2])
