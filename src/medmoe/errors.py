"""Errors a user can act on: what was got, what is allowed, where, and the remedy.

Every error raised for a user's mistake is a `UserError`; the command line prints its one line and
exits with 2. Anything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the input, told in one line: `where: what; remedy`.

    Args:
        what: What was got and what is allowed.
        where: The file, `file:row` or configuration key it was found at.
        remedy: What to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        head = f"{where}: {what}" if where else what
        super().__init__(f"{head}; {remedy}" if remedy else head)


class DataError(UserError):
    """A sample or manifest that can't be used as it is."""


class ConfigError(UserError):
    """A configuration key or value that isn't allowed."""


class ModelError(UserError):
    """A model folder, name or weight file that can't be used."""


class MissingDependencyError(UserError):
    """An optional package that the asked-for feature needs."""


def unknown(kind: str, got: str, allowed: Iterable[str]) -> str:
    """Word the message for an unknown name, with the nearest allowed one.

    >>> unknown("router", "imge", ["image", "text"])
    "unknown router 'imge' (did you mean 'image'?); allowed: image, text"
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(got, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {kind} {got!r}{hint}; allowed: {', '.join(names)}"
