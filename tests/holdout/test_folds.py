"""Who is left out in turn, and that nobody is both in and out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from medmoe.data.sources.concat import open_source
from medmoe.data.sources.phantom import PhantomSource
from medmoe.errors import DataError
from medmoe.holdout.folds import Facts, deal, make_folds
from medmoe.types import Sample


def facts(rows: list[tuple[str, str]], split: str = "train") -> Facts:
    """Give facts of (source, modality) rows, each of a patient of its own."""
    keys = tuple(str(place) for place in range(len(rows)))
    return Facts(keys, tuple(m for _, m in rows), tuple(s for s, _ in rows), keys, (split,) * len(rows))


MANY = facts([(source, "ct") for source in "aabbbc"] + [(source, "mri") for source in "cde"] + [("f", "fundus")] * 2)


def test_every_source_and_every_modality_is_left_out_once():
    folds = make_folds(MANY)
    assert [fold.name for fold in folds] == [
        *(f"source {name}" for name in "abcde"),
        *(f"modality {name}" for name in ("ct", "mri", "fundus")),
    ]
    assert sum(fold.out for fold in folds[:5] + folds[-1:]).tolist() == [1] * len(MANY.keys), "f is all of fundus"
    assert sum(fold.out for fold in folds[5:]).tolist() == [1] * len(MANY.keys)


def test_a_modality_whose_only_source_is_left_out_is_none_of_the_folds():
    fold = next(fold for fold in make_folds(MANY, modalities=False) if fold.name == "source f")
    assert fold.modalities == ("ct", "mri")
    assert fold.target(MANY)[fold.out].tolist() == [-1, -1]


def test_a_source_of_two_modalities_is_left_out_with_both():
    fold = next(fold for fold in make_folds(MANY) if fold.name == "source c")
    assert {MANY.modality[row] for row in np.flatnonzero(fold.out)} == {"ct", "mri"}
    assert "ct" in fold.modalities


def test_targets_are_places_among_the_modalities_that_are_left():
    fold = next(fold for fold in make_folds(MANY) if fold.name == "modality ct")
    places = fold.target(MANY)
    assert all(place == -1 or fold.modalities[place] == name for place, name in zip(places, MANY.modality, strict=True))
    assert (places[fold.out] == -1).all()


def test_groups_part_the_sources_of_each_modality():
    dealt = deal(MANY, np.ones(len(MANY.keys), dtype=bool), 2)
    assert {dealt[name] for name in "abc"} == {0, 1}
    assert {dealt[name] for name in "cde"} == {0, 1}
    assert "f" not in dealt, "without it nothing is left to learn fundus from"


def test_a_group_never_takes_all_sources_of_a_modality():
    rng = np.random.default_rng(0)
    for _ in range(30):
        rows = [(f"s{rng.integers(8)}", ("ct", "mri", "xray")[rng.integers(3)]) for _ in range(40)]
        own = facts(rows)
        dealt = deal(own, np.ones(40, dtype=bool), 4)
        for modality in own.modalities:
            sources = {source for source, name in rows if name == modality}
            groups = {dealt.get(source) for source in sources}
            assert len(sources) == 1 or len(groups) > 1, (rows, dealt)


def test_the_facts_of_several_splits_follow_each_other(sites: Path):
    parts = [(split, open_source(str(sites), split=split)) for split in ("train", "val", "test")]
    found = Facts.of(parts)
    assert len(found.keys) == sum(len(source) for _, source in parts)
    assert found.where("train").sum() == len(parts[0][1])
    assert set(found.modalities) == {"ct", "ultrasound", "fundus"}


class Nameless(PhantomSource):
    """Phantoms that don't say where they are from."""

    def facts(self, index: int) -> Sample:
        return dataclasses.replace(super().facts(index), source=None)


def test_samples_that_name_no_source_are_refused():
    with pytest.raises(DataError, match="add a source column"):
        Facts.of([("test", Nameless(4, size=32, seed=1))])


def test_two_modalities_have_to_be_left():
    with pytest.raises(DataError, match="only"):
        make_folds(facts([("a", "ct"), ("b", "ct"), ("c", "mri")]))
