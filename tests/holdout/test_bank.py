"""Measured images: as the model itself would measure them, changed as they would be in training, kept under a name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from medmoe.data.crops import RandomCrop
from medmoe.data.preprocess import Preprocess
from medmoe.data.sources.base import ChangedSource
from medmoe.data.sources.phantom import PhantomSource
from medmoe.data.transforms import Augment
from medmoe.encoders.descriptor import Descriptor
from medmoe.errors import DataError
from medmoe.holdout.bank import Measuring, make_bank

SOURCE = PhantomSource(3, size=64, seed=2)


def measuring(**changes: object) -> Measuring:
    given: dict[str, object] = {
        "descriptor": Descriptor(64).eval(),
        "preprocess": Preprocess(64),
        "crop": RandomCrop(),
        "augment": Augment(strength=1.0),
        **changes,
    }
    return Measuring(**given)  # type: ignore[arg-type]


def test_the_first_view_is_what_the_model_would_measure():
    how = measuring()
    bank = make_bank(SOURCE, how, 2)
    pixels = torch.stack([how.preprocess(SOURCE[row])[0] for row in range(len(SOURCE))])
    torch.testing.assert_close(bank.plain, how.descriptor.describe(pixels))
    assert bank.measures.shape == (2, len(SOURCE), how.descriptor.channels[0])


def test_views_differ_and_come_out_the_same_again():
    one, again = (make_bank(SOURCE, measuring(), 3).measures for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.allclose(one[1], one[2])


def test_kept_views_are_read_and_more_views_are_added_to_them(tmp_path: Path):
    lines: list[str] = []
    first = make_bank(SOURCE, measuring(), 1, tmp_path, tell=lines.append)
    more = make_bank(SOURCE, measuring(), 2, tmp_path, tell=lines.append)
    assert [line.split(",")[0] for line in lines] == ["measured view 1 of 1", "measured view 2 of 2"]
    assert torch.equal(first.plain, more.plain)


@pytest.mark.parametrize(
    "change",
    [
        {"crop": None},
        {"augment": None},
        {"seed": 1},
        {"preprocess": Preprocess(64, pad_value=0.5)},
        {"descriptor": Descriptor(64, measures=("texture",)).eval()},
    ],
)
def test_measures_taken_another_way_are_kept_under_another_name(change: dict[str, object]):
    assert measuring(**change).fingerprint(SOURCE) != measuring().fingerprint(SOURCE)


def test_measures_of_other_images_are_kept_under_another_name():
    assert measuring().fingerprint(PhantomSource(3, size=64, seed=3)) != measuring().fingerprint(SOURCE)


def test_measures_of_images_changed_on_the_way_are_kept_under_another_name():
    turned = ChangedSource(SOURCE, lambda index, sample: dataclasses.replace(sample, image=sample.image[::-1].copy()))
    assert measuring().fingerprint(turned) != measuring().fingerprint(SOURCE)


def test_a_measure_that_is_not_finite_names_its_image(monkeypatch: pytest.MonkeyPatch):
    how = measuring()
    monkeypatch.setattr(how.descriptor, "describe", lambda pixels: torch.full((len(pixels), 2), torch.nan))
    with pytest.raises(DataError, match="aren't finite") as error:
        make_bank(SOURCE, how, 1)
    assert SOURCE.facts(0).key in str(error.value)
