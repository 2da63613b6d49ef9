"""Some samples of a source, by their places."""

import pytest

from medmoe.data.sources.phantom import PhantomSource
from medmoe.data.sources.rows import Rows
from medmoe.errors import DataError

SOURCE = PhantomSource(4, size=32, seed=0)


def test_samples_come_in_the_order_of_their_places():
    rows = Rows(SOURCE, [3, 0, 3])
    assert len(rows) == 3
    assert [rows[index].key for index in range(3)] == [SOURCE.facts(place).key for place in (3, 0, 3)]
    assert [rows.facts(index).key for index in range(3)] == [rows[index].key for index in range(3)]


def test_no_sample_at_all_is_refused():
    with pytest.raises(DataError, match="no sample"):
        Rows(SOURCE, [])
