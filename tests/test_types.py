from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from medmoe import types
from medmoe.types import Batch, Box, Sample, Tokens, move

CLASSES = [value for value in vars(types).values() if dataclasses.is_dataclass(value)]


def tokens() -> Tokens:
    yes = torch.ones(2, 3, dtype=torch.bool)
    return Tokens(ids=torch.zeros(2, 3, dtype=torch.int64), mask=yes, word=torch.zeros(2, 3).long(), word_mask=yes)


@pytest.mark.parametrize("kind", CLASSES)
def test_what_flows_through_the_library_is_frozen_and_slotted(kind: type):
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(kind)


def test_a_field_can_not_be_changed_or_invented():
    box = Box("nodule", 0.1, 0.1, 0.2, 0.2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        box.label = "mass"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        box.colour = "red"  # type: ignore[attr-defined]


def test_only_key_and_image_of_a_sample_are_required():
    sample = Sample("a.csv:1", np.zeros((2, 2), np.uint8))
    optional = [field.name for field in dataclasses.fields(sample) if field.name not in ("key", "image")]
    assert [name for name in optional if getattr(sample, name)] == []


def test_moving_reaches_every_tensor_also_of_a_nested_field():
    batch = Batch(image=torch.zeros(2, 3, 4, 4), keys=("a", "b"), tokens=tokens(), modality=torch.zeros(2))
    moved = batch.to("meta")
    assert moved.image.device.type == moved.modality.device.type == "meta"  # type: ignore[union-attr]
    assert moved.tokens is not None
    assert {getattr(moved.tokens, field.name).device.type for field in dataclasses.fields(moved.tokens)} == {"meta"}


def test_moving_leaves_the_original_and_what_is_no_tensor():
    batch = Batch(image=torch.zeros(1, 3, 4, 4), keys=("a",), samples=(Sample("a", np.zeros((0, 0), np.uint8)),))
    moved = batch.to("meta", non_blocking=True)
    assert batch.image.device.type == "cpu"
    assert (moved.keys, moved.samples, moved.tokens) == (batch.keys, batch.samples, None)


def test_moving_changes_no_value():
    before = tokens()
    after = before.to("cpu")
    assert all(torch.equal(getattr(before, f.name), getattr(after, f.name)) for f in dataclasses.fields(before))


def test_moving_works_for_every_arrow_of_the_flow():
    pyramid = move(types.Routing(torch.zeros(1, 2), torch.zeros(1, 1).long(), torch.ones(1, 1)), "meta")
    assert pyramid.logits.device.type == "meta"


def test_a_person_is_told_by_the_data_set_and_the_id():
    def person(patient: str | None, source: str | None) -> str | None:
        return Sample("k", np.zeros((1, 1)), patient=patient, source=source).person

    assert (person(None, "a"), person("1", None), person("1", ""), person("1", "a")) == (None, "1", "1", "a/1")
    named = [("b/1", "a"), ("1", "a/b"), ("1", "a%2Fb"), ("1", "a")]
    assert len({person(*one) for one in named}) == len(named)
