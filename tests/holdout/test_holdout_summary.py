"""The figures of held-out sources against counting by hand."""

from __future__ import annotations

from typing import Any

import pytest

from medmoe.holdout.folds import Facts
from medmoe.holdout.summary import pooled, split, summarise
from medmoe.holdout.tables import write_page

ROWS = [("a", "ct")] * 12 + [("b", "ct")] * 10 + [("c", "mri")] * 10 + [("d", "mri")] * 4 + [("e", "fundus")] * 5
KEYS = tuple(str(row) for row in range(len(ROWS)))
FACTS = Facts(KEYS, tuple(m for _, m in ROWS), tuple(s for s, _ in ROWS), KEYS, ("test",) * len(ROWS))


def fold(name: str, modalities: list[str], *, wrong: int = 0, refused: int = 0, seed: int = 0) -> dict[str, Any]:
    """Give a fold's outcome in which the first images are chosen wrongly, and the first ones are turned away."""
    kind, _, value = name.partition(" ")
    out = [row for row, pair in enumerate(ROWS) if pair[kind == "modality"] == value]
    known = [row for row in range(len(ROWS)) if row not in out and FACTS.modality[row] in modalities]

    def said(rows: list[int], wrong: int, refused: int) -> dict[str, Any]:
        places = [modalities.index(FACTS.modality[r]) if FACTS.modality[r] in modalities else 0 for r in rows]
        chosen = [(place + (n < wrong)) % len(modalities) for n, place in enumerate(places)]
        taken = [n >= refused for n in range(len(rows))]
        return {
            "rows": rows,
            "chosen": chosen,
            "score": [float(value) - 0.5 for value in taken],
            "accepted": {"both": taken, "probability": [True] * len(rows)},
        }

    parts = {"unseen": said(out, wrong, refused), "seen": said(known, 0, 0), "pictures": said([0, 1, 2, 3], 0, 1)}
    return {"fold": name, "seed": seed, "modalities": modalities, **parts}


ALL = ["ct", "mri", "fundus"]
OUTCOMES = [
    fold("source a", ALL, wrong=3, refused=4),
    fold("source b", ALL),
    fold("source c", ALL, wrong=5, refused=2),
    fold("source d", ALL, wrong=4),
    fold("modality ct", ["mri", "fundus"], refused=11),
    fold("modality fundus", ["ct", "mri"], refused=5),
]
RESULTS = summarise(OUTCOMES, FACTS, resamples=50)


def test_recall_is_averaged_over_modalities_and_over_sources_that_are_large_enough():
    figures = RESULTS["sources"]["figures"]
    assert figures["recall/modalities"]["value"] == pytest.approx((19 / 22 + 5 / 14) / 2)
    assert figures["recall/cells"]["value"] == pytest.approx((9 / 12 + 1 + 5 / 10) / 3), "d has too few images"


def test_what_is_right_among_the_taken_is_a_share_of_these():
    cells = {cell["source"]: cell for cell in RESULTS["sources"]["cells"]}
    assert cells["a"]["coverage"]["value"] == pytest.approx(8 / 12)
    assert cells["a"]["accepted_right"]["value"] == 1.0
    assert cells["c"]["accepted_right"]["value"] == pytest.approx(5 / 8)
    assert cells["c"]["taken_for"] == {"fundus": 0.5}


def test_a_modality_never_trained_on_is_judged_by_what_is_turned_away():
    never = RESULTS["never_trained"]
    assert list(never) == ["modality ct", "modality fundus"]
    assert never["modality ct"]["rejected"]["value"] == pytest.approx(0.5)
    assert never["modality ct"]["seen_rejected"]["value"] == 0.0
    assert never["modality ct"]["seen_auroc"]["value"] == pytest.approx(0.75)
    assert never["modality fundus"]["seen_auroc"]["value"] == 1.0
    assert never["modality fundus"]["taken_for"] == {"ct": 1.0}


def test_unknown_modalities_are_also_held_against_known_ones_of_sites_never_seen():
    own = RESULTS["never_trained"]["modality ct"]
    assert own["unseen_rejected"]["n"] == 14, "c and d; a and b are of the modality left out"
    assert own["unseen_rejected"]["value"] == pytest.approx(2 / 14)
    assert own["unseen_auroc"]["value"] == pytest.approx(
        0.5 * (12 / 14 + 1) - 0.5 * (0.5 - 0.5) - 0.25 + 0.25 * 2 / 14 * 0, abs=1
    )
    assert "unseen_auroc" not in summarise(OUTCOMES[4:], FACTS, resamples=5)["never_trained"]["modality ct"]


def test_other_ways_to_set_the_gate_are_told_with_what_they_take():
    ideas = RESULTS["ideas"]
    assert ideas["probability"]["coverage/modalities"]["value"] == 1.0
    assert ideas["probability"]["never_trained"] == 0.0
    assert ideas["both"]["never_trained"] == pytest.approx((0.5 + 1.0) / 2)
    assert RESULTS["pictures"] == pytest.approx(0.25)


def test_outcomes_are_averaged_over_seeds_image_by_image():
    two = [fold("source a", ALL, wrong=3), fold("source a", ALL, wrong=12, refused=6, seed=1)]
    found = pooled(two, FACTS, "unseen", "both")
    assert found.right.tolist() == [0.0] * 3 + [0.5] * 9
    assert found.accepted.tolist() == [0.5] * 6 + [1.0] * 6
    assert found.both.tolist() == [0.0] * 3 + [0.5] * 9
    assert summarise(two, FACTS, resamples=5)["seeds"] == 2


def test_images_of_known_and_of_unknown_modalities_are_parted():
    known, unknown = split([fold("source e", ["ct", "mri"]), fold("source a", ALL)], FACTS)
    assert [one["fold"] for one in known] == ["source a"]
    assert [one["fold"] for one in unknown] == ["source e"]


def test_intervals_over_sources_are_wider_than_none():
    own = RESULTS["sources"]["figures"]["recall/cells"]
    assert own["low_over_sources"] < own["value"] < own["high_over_sources"]


def test_the_page_tells_every_figure_beside_its_controls():
    page = write_page(RESULTS)
    assert "Chance 0.333, a constant answer 0.500." in page
    for words in ("| a | ct | 12 | 0.750", "| modality ct | 22 | 0.500", "| probability | 1.000", "0.250 turned away"):
        assert words in page


def test_the_page_of_modalities_alone_has_no_table_of_sources():
    page = write_page(summarise(OUTCOMES[4:], FACTS, resamples=5))
    assert "By source left out" not in page
    assert "| modality fundus | 5 | 1.000" in page
