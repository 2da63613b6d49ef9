"""Drawing training images by patient and by class, and keeping splits apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from blobs import blobs, three
from constructed import context, evidence, sample

from medmoe.errors import DataError
from medmoe.tasks.classes import class_sets, true_class
from medmoe.tasks.splits import Examples, Material, check_apart, examples, material, share_of_patients, shots


def made(labels: list[tuple[str, ...]], *, per_patient: int = 1) -> Examples:
    (own,) = class_sets(blobs([("a",), ("b",)] * 6), fewest=5)
    return examples(own, blobs(list(labels), first=100, per_patient=per_patient))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_other_splits_are_given_the_evaluated_splits_classes() -> None:
    found = made([("a",), ("b",), ("a", "b"), (), ("c",), ("a", "c")])
    assert found.true.tolist() == [0, 1, -1, -1, -1, 0]
    assert found.marks.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0], [0, 0], [1, 0]]
    assert found.counts(2).tolist() == [2, 1]


def test_images_without_a_finding_are_a_class_only_where_it_is_one() -> None:
    labels = [(), ("no_finding",), ("a",), ("b",), ("a", "b"), ("c",)]
    assert true_class(["a", "b"], labels).tolist() == [-1, -1, 0, 1, -1, -1]
    assert true_class(["a", "b", "no_finding"], labels).tolist() == [2, 2, 0, 1, -1, -1]


def test_only_annotated_images_of_the_data_set_and_modality_are_taken() -> None:
    (own,) = class_sets(blobs([("a",), ("b",)] * 6), fewest=5)
    samples = [sample(0, labels=("a",)), sample(1), sample(2, labels=("b",), modality="ct")]
    samples += [sample(3, labels=("b",), source="other"), sample(4, labels=("b",))]
    assert examples(own, evidence(samples)).rows.tolist() == [0, 4]


@pytest.mark.parametrize("seed", range(5))
def test_a_share_is_of_patients_and_takes_all_their_images(seed: int) -> None:
    found = made([("a",)] * 40 + [("b",)] * 20, per_patient=2)
    drawn = found.take(share_of_patients(found, 0.1, rng(seed)))
    assert drawn.counts(2).tolist() == [4, 2]
    assert len(set(drawn.patients)) == 3
    outside = {own for place, own in enumerate(found.patients) if found.rows[place] not in drawn.rows}
    assert not outside & set(drawn.patients)


def test_the_smallest_share_holds_a_patient_of_each_class_and_the_whole_holds_all() -> None:
    found = made([("a",)] * 90 + [("b",)] * 3 + [()] * 7)
    assert found.take(share_of_patients(found, 0.01, rng())).counts(2).tolist() == [1, 1]
    assert share_of_patients(found, 1.0, rng()).tolist() == list(range(100))


def test_a_patient_of_several_classes_is_drawn_for_the_rarer() -> None:
    found = made([("a",)] * 10 + [("a",), ("b",)], per_patient=2)
    drawn = share_of_patients(found, 0.2, rng())
    assert {10, 11} <= set(drawn.tolist())
    assert len(drawn) == 4


def test_images_of_several_findings_are_drawn_for_their_rarest() -> None:
    found = made([("a", "b")] * 10 + [("b",)] * 5 + [("a",)] * 2)
    drawn = found.take(share_of_patients(found, 0.2, rng()))
    assert found.marks.sum(axis=0).tolist() == [12, 15]
    assert drawn.marks.all(axis=1).sum() == 2


def test_shots_are_of_each_class_and_of_as_many_patients_as_there_are() -> None:
    found = made([("a",)] * 8 + [("b",)] * 8, per_patient=4)
    places = shots(found, 2, 2, rng())
    assert places is not None
    drawn = found.take(places)
    assert drawn.true.tolist() == [0, 0, 1, 1]
    assert len(set(drawn.patients)) == 4
    three_each = shots(found, 3, 2, rng())
    assert three_each is not None
    assert len(set(three_each.tolist())) == 6
    assert len(set(found.take(three_each).patients)) == 4


def test_a_class_with_fewer_images_than_shots_gives_none() -> None:
    found = made([("a",)] * 8 + [("b",)] * 3)
    assert shots(found, 4, 2, rng()) is None
    assert shots(found, 3, 2, rng()) is not None


def test_patients_set_aside_are_never_fitted_on() -> None:
    judged = blobs(three(6))
    (own,) = class_sets(judged, fewest=5)
    fit = blobs(three(20), first=1000, per_patient=3)
    found = material(own, replace(context(), fit=fit), [0])
    assert isinstance(found, Material)
    assert found.tune_evidence is fit
    assert not set(found.fit.patients) & set(found.tune.patients)
    assert sorted([*found.fit.rows, *found.tune.rows]) == list(range(60))
    assert {*found.tune.true.tolist()} == {0, 1, 2}


def test_one_patient_in_two_data_sets_is_two_patients() -> None:
    judged, other = blobs(three(2)), blobs(three(2), source="another")
    check_apart(judged, replace(context(), fit=other))
    check_apart(judged, replace(context(), tune=other))
    with pytest.raises(DataError, match="6 patients of the validation split"):
        check_apart(judged, replace(context(), tune=judged))
    check_apart(judged, replace(context(), fit=judged), fit=False)


def test_what_is_fitted_on_is_not_chosen_on() -> None:
    judged, both = blobs(three(2)), blobs(three(2), first=100)
    with pytest.raises(DataError, match="6 patients of the training split are in the validation split too: p100, "):
        check_apart(judged, replace(context(), fit=both, tune=both))


def test_images_without_a_patient_go_by_key_and_facts() -> None:
    judged = evidence([sample(i, "one", labels=("a",)) for i in range(3)])
    with pytest.raises(DataError, match=r"3 images of the training split are evaluated too: row:0, row:1, row:2;"):
        check_apart(judged, replace(context(), fit=judged))
    other = evidence([sample(i, "two", labels=("a",)) for i in range(3)])
    check_apart(judged, replace(context(), fit=other))
