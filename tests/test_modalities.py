from __future__ import annotations

from collections import Counter

import pytest

from medmoe.errors import DataError
from medmoe.modalities import MODALITIES, SIX, in_order, resolve

ROWS = list(MODALITIES.values())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_found_by_its_name_and_each_alias_in_any_case(row):
    for spelling in (row.name, row.name.upper(), f" {row.name} ", *row.aliases):
        assert resolve(spelling) == row.name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_has_words_for_prompts_and_a_sensible_window(row):
    assert row.phrase.strip()
    assert row.window is None or row.window[1] > 0


def test_no_spelling_and_no_dicom_code_means_two_modalities():
    spellings = Counter(spelling for row in ROWS for spelling in {row.name, *row.aliases})
    codes = Counter(code for row in ROWS for code in row.dicom)
    assert {name for name, count in (spellings + codes).items() if count > 1} == set()


def test_aliases_are_written_as_they_are_looked_up():
    assert [alias for row in ROWS for alias in row.aliases if alias != alias.strip().lower()] == []


def test_an_unknown_modality_names_the_row_and_the_nearest_name():
    with pytest.raises(DataError, match=r"^a\.csv:3: unknown modality 'ultrasond' \(did you mean 'ultrasound'\?\)"):
        resolve("ultrasond", where="a.csv:3")


def test_the_order_is_the_tables_without_repeats_or_strangers():
    assert in_order(["ct", "xray", "ct", "no such thing"]) == ("xray", "ct")
    assert in_order([]) == ()


def test_the_papers_six_are_rows_in_order():
    assert in_order(reversed(SIX)) == SIX
