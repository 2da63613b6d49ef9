"""The reject option: what counts for an image, and that a gate comes back from its file the same."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from medmoe.errors import ModelError
from medmoe.gate import Gate

GENERATOR = torch.Generator().manual_seed(0)
MEANS = torch.randn(3, 4, generator=GENERATOR)
LOGITS = 3 * torch.randn(8, 3, generator=GENERATOR)
FEATURES = torch.randn(8, 5, generator=GENERATOR)


def gate(**changes: object) -> Gate:
    made = Gate(1.0, 0.5, (0.0, 0.0, 0.0), MEANS, torch.eye(4) / 4, "how")
    return replace(made, **changes)  # type: ignore[arg-type]


def test_signals_are_log_odds_and_mahalanobis_distance_of_the_modality_named():
    found = gate(inverse=torch.diag(torch.tensor([1.0, 2.0, 0.5, 0.0]))).signals(LOGITS, FEATURES).numpy()
    for row in range(len(LOGITS)):
        chosen = int(LOGITS[row].argmax())
        share = float(LOGITS[row].double().softmax(0)[chosen])
        away = (FEATURES[row, :4] - MEANS[chosen]).double()
        assert found[row, 0] == pytest.approx(np.log(share / (1 - share)), abs=1e-6)
        assert found[row, 1] == pytest.approx(float(away[0] ** 2 + 2 * away[1] ** 2 + 0.5 * away[2] ** 2), abs=1e-5)


def test_log_odds_stay_finite_where_the_probability_is_one_to_the_last_digit():
    assert gate().signals(torch.tensor([[90.0, 0.0, 0.0]]), FEATURES[:1])[0, 0] == pytest.approx(90 - np.log(2))


def test_a_surer_image_scores_higher_and_a_farther_one_lower():
    sure = gate().score(torch.tensor([[1.0, 0, 0], [2.0, 0, 0]]), FEATURES[:1].expand(2, -1))
    far = gate().score(LOGITS[:1].expand(2, -1), torch.stack([torch.zeros(5), torch.full((5,), 9.0)]))
    assert sure[1] > sure[0]
    assert far[1] < far[0]


def test_the_threshold_is_that_of_the_modality_named():
    taken = gate(least=(-1e9, 1e9, -1e9)).accepts(LOGITS, FEATURES)
    assert torch.equal(taken, LOGITS.argmax(1) != 1)


def test_an_image_that_cannot_be_scored_is_turned_away():
    features = FEATURES.clone()
    features[0, 0] = torch.nan
    taken = gate(least=(-1e9,) * 3).accepts(LOGITS, features)
    assert taken.tolist() == [False] + [True] * 7


def test_a_gate_comes_back_from_json_the_same():
    before = gate(inverse=torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))
    after = Gate.from_dict(json.loads(json.dumps(before.to_dict())), where="gate.json")
    assert torch.equal(before.score(LOGITS, FEATURES), after.score(LOGITS, FEATURES))
    assert (after.least, after.about) == (before.least, before.about)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shure": 1.0}, "did you mean 'sure'"),
        ({"near": "far"}, "isn't a gate"),
        ({"means": [[0.0, 1.0]]}, "don't fit"),
        ({"inverse": [[1.0]]}, "don't fit"),
        ({"means": [[0.0], [1.0, 2.0]]}, "isn't a gate"),
    ],
)
def test_a_file_that_holds_no_gate_is_told_with_its_name(change: dict[str, object], message: str):
    with pytest.raises(ModelError, match=message) as error:
        Gate.from_dict({**gate().to_dict(), **change}, where="gate.json")
    assert "gate.json" in str(error.value)


def test_a_missing_part_is_told():
    values = gate().to_dict()
    del values["least"]
    with pytest.raises(ModelError, match="least"):
        Gate.from_dict(values, where="gate.json")
