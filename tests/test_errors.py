from __future__ import annotations

import pytest

from medmoe.errors import ConfigError, DataError, MissingDependencyError, ModelError, UserError, unknown


def test_an_error_says_where_what_and_remedy_in_one_line():
    error = UserError("got 3, allowed: 1, 2", where="table.csv:7", remedy="correct the cell")
    assert str(error) == "table.csv:7: got 3, allowed: 1, 2; correct the cell"


@pytest.mark.parametrize(
    ("where", "remedy", "text"),
    [(None, None, "wrong"), ("here", None, "here: wrong"), (None, "mend it", "wrong; mend it")],
)
def test_an_error_leaves_out_what_is_not_known(where: str | None, remedy: str | None, text: str):
    assert str(UserError("wrong", where=where, remedy=remedy)) == text


def test_an_error_keeps_its_parts():
    error = DataError("what", where="where", remedy="remedy")
    assert (error.what, error.where, error.remedy) == ("what", "where", "remedy")


@pytest.mark.parametrize("kind", [DataError, ConfigError, ModelError, MissingDependencyError])
def test_every_error_is_a_users_mistake(kind: type[UserError]):
    assert issubclass(kind, UserError)


def test_an_unknown_name_is_told_with_the_nearest_and_all_allowed():
    assert unknown("router", "imge", ["text", "image"]) == (
        "unknown router 'imge' (did you mean 'image'?); allowed: image, text"
    )


def test_an_unknown_name_near_to_none_gets_no_guess():
    assert unknown("router", "zzz", ["text", "image"]) == "unknown router 'zzz'; allowed: image, text"
