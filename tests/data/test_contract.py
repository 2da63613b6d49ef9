"""Two things that were preprocessed differently don't mix, and the step that differs is named."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from medmoe.data import images
from medmoe.data.contract import declare, differences, fingerprint_of, reading_contract, refuse_mixed
from medmoe.data.preprocess import Preprocess
from medmoe.errors import DataError

OURS = declare(Preprocess(16))


def test_a_declaration_survives_json_and_bears_its_own_fingerprint():
    again = json.loads(json.dumps(OURS))
    assert again == OURS
    assert fingerprint_of(again) == OURS["fingerprint"] == Preprocess(16).fingerprint()
    assert differences(OURS, again) == []


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Preprocess(24), ["step 'resize': longest_side 16 and 24", "step 'pad': side 16 and 24"]),
        (Preprocess(16, window="lung"), ["step 'read': window 'header' and 'lung'"]),
        (Preprocess(16, pad_value=1.0), ["step 'pad': value 0.0 and 1.0"]),
        (Preprocess(16, interpolation="bicubic"), ["step 'resize': interpolation 'bilinear' and 'bicubic'"]),
        (Preprocess(16, std=(1.0, 1.0, 1.0)), ["step 'normalise': std [0.229, 0.224, 0.225] and [1.0, 1.0, 1.0]"]),
    ],
)
def test_every_setting_that_differs_is_named_with_its_step(other: Preprocess, told: list[str]):
    assert differences(OURS, declare(other)) == told


def test_a_step_that_only_one_has_is_named():
    short = {**OURS, "steps": OURS["steps"][:-1]}
    assert differences(OURS, short) == ["step 'normalise': only one of them has it"]
    assert differences(short, OURS) == ["step 'normalise': only one of them has it"]


def test_steps_in_another_order_and_contracts_that_share_none_differ():
    turned = {**OURS, "steps": OURS["steps"][::-1]}
    assert differences(OURS, turned) == [
        "the order of the steps: read, resize, pad, normalise and normalise, pad, resize, read"
    ]
    for nothing in ({}, {"window": "header"}, {"steps": []}):
        assert differences(nothing, OURS) == differences(OURS, nothing) == ["they have no step in common"]


def test_the_next_major_release_of_a_library_that_matters_is_named():
    other = {**OURS, "libraries": {**OURS["libraries"], "torch": "3"}}
    assert differences(OURS, other) == [f"library torch: release {OURS['libraries']['torch']} and 3"]


def shifted(levels: int) -> dict[str, Any]:
    probe = np.frombuffer(base64.b64decode(OURS["probe"]), np.uint8)
    moved = np.where(probe > 127, probe - levels, probe + levels).astype(np.uint8)
    return {**OURS, "probe": base64.b64encode(moved.tobytes()).decode()}


def test_rounding_of_another_processor_is_no_difference_but_other_pixels_are():
    assert differences(OURS, shifted(1)) == []
    (told,) = differences(OURS, shifted(2))
    assert told.startswith("the same steps give other pixels")


def test_the_probe_shows_both_the_decoder_and_the_resizer():
    probe = np.frombuffer(base64.b64decode(OURS["probe"]), np.uint8).reshape(2, 3, 8, 8)
    assert probe.std(axis=(1, 2, 3)).min() > 40


def test_both_jpeg_decoders_keep_the_contract(monkeypatch: pytest.MonkeyPatch):
    before = declare(Preprocess(48))
    monkeypatch.setattr(images, "read_jpeg", lambda *_, **__: None)  # Pillow decodes
    after = declare(Preprocess(48, pad_value=0.0, window="full"))  # another one, which isn't remembered
    assert after["probe"] == before["probe"]


def test_pictures_that_were_only_read_go_with_any_size_but_not_with_another_window():
    assert differences(reading_contract("header"), OURS) == []
    assert differences(OURS, reading_contract("header")) == []
    assert differences(reading_contract("lung"), OURS) == ["step 'read': window 'lung' and 'header'"]


def test_mixing_is_refused_in_one_line_that_says_what_to_do():
    with pytest.raises(DataError) as got:
        refuse_mixed(OURS, declare(Preprocess(24)), what="the index and the model", where="index", remedy="embed again")
    assert str(got.value) == (
        "index: the index and the model don't share their preprocessing (step 'resize': longest_side 16 and 24; "
        "step 'pad': side 16 and 24); embed again"
    )
    refuse_mixed(OURS, declare(Preprocess(16)), what="", where="", remedy="")
